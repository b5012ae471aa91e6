"""A scene pruned while it is built: its tokens pass one layer at a time, and before a layer those
that the proxies of a question rank lowest go.

As the paper drops tokens (`RankAndDrop`), with a ranking in the place of a question
(pruning/scene_ranking.py). Each layer may keep fewer for questions than it computes. What stays has
its position of the scene, so a question stands behind all of it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import cast

import torch
from torch.nn import functional as F

from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.layer_walk import LayerWalk
from ada3d_ros.errors import ConfigError, ModelError
from ada3d_ros.model.decoder import DecoderLayer, LlamaDecoder, apply_rope
from ada3d_ros.pruning.allocation import Allocation
from ada3d_ros.pruning.cost import LayerWork
from ada3d_ros.pruning.information import Span
from ada3d_ros.pruning.ranking import best_first
from ada3d_ros.pruning.scene_ranking import QueryRanking, RidingRows, SceneLayer, SceneRanking
from ada3d_ros.token_rows import TokenRows
from ada3d_ros.types import PromptSequence

PROXY_OFFSET = 15  # where after the scene a question's last token stands, where no prompt says it


@dataclass(frozen=True, eq=False, slots=True)
class ScenePruner:
    """How a scene is pruned while it is built.

    prompts: embeddings (R_i, D) of the prompts that ride along, for a ranking that asks for them;
    n_min: spatial tokens with a place kept in each layer at least.
    """

    allocation: Allocation
    ranking: SceneRanking
    prompts: tuple[torch.Tensor, ...] = ()
    n_min: int = 1

    @property
    def offset(self) -> int:
        """Where after the scene the last token of a proxy stands."""
        return len(self.prompts[0]) - 1 if self.prompts else PROXY_OFFSET

    def rows(self, scene: torch.Tensor, room: int) -> tuple[torch.Tensor, ...]:
        """Embeddings of what rides along behind the spatial tokens `scene` (N, D), where the model
        has `room` more positions: a scene is read back in pieces that fit.

        Raises ConfigError for a prompt that does not fit.
        """
        ranking = self.ranking
        if ranking.rides == "scene":
            rows = scene.split(max(room, 1))
        else:
            rows = self.prompts if ranking.rides else ()
        longest = max(map(len, rows), default=0)
        if longest > room:
            raise ConfigError(
                f"cache.ranking = {ranking.name!r}: {longest} tokens ride along behind the scene to"
                f" rank it, and the model has {max(room, 0)} positions left there: shorten"
                " cache.prompts, use another ranking, or keep fewer views (keyframe.max_views)."
            )
        return rows


@dataclass(eq=False)
class SceneTokens:
    """Tokens that pass together: embeds (T, D) at positions (T,), the spatial ones from `start` on;
    following: the position after all spatial tokens of the scene; xyz_m (N, 3) of those here; rows:
    theirs, None where every one has a place.
    """

    embeds: torch.Tensor
    positions: torch.Tensor
    start: int
    following: int
    xyz_m: torch.Tensor | None = None
    rows: TokenRows | None = None


@dataclass(eq=False)
class PassedLayers:
    """What is known of the layers that have run, an entry each but for those not ranked.

    held: ascending indices (n_i,) among the pass's spatial tokens; work: what was computed;
    queries: of a ranked layer, (H, P, d) unroped, of the prompts that rode along; finite: whether
    its scores were, () bool.
    """

    held: list[torch.Tensor] = field(default_factory=list)
    work: list[LayerWork] = field(default_factory=list)
    queries: dict[int, torch.Tensor] = field(default_factory=dict)
    finite: list[torch.Tensor] = field(default_factory=list)


class PrunedPass:
    """One pass of a scene's tokens, or of those appended to it, through the layers into `cache`.

    Attention is to what the cache holds of each layer and to what is alive. `step` runs one layer;
    after a failed one the pass is of no use. A layer that drops, or holds less, waits once for its
    newlines where there are any. hidden (n, D): of what is held after the last layer.
    """

    def __init__(
        self, decoder: LlamaDecoder, tokens: SceneTokens, pruner: ScenePruner, cache: KVCache
    ) -> None:
        self.passed = PassedLayers()
        self._decoder, self._pruner, self._cache, self._tokens = decoder, pruner, cache, tokens
        total = len(tokens.embeds)
        self._rows = tokens.rows or TokenRows(total - tokens.start)  # of what is alive
        placed = self._rows.num_placed
        self._alive, self._held = pruner.allocation.counts(placed, pruner.n_min)
        self._last_ranked = max(filter(self._ranks, range(len(self._alive))), default=-1)

        # The tokens, then what rides along, each prompt as if it alone stood after the scene.
        after, most = tokens.following, decoder.config.max_positions
        scene, ranks = tokens.embeds[tokens.start :], self._last_ranked >= 0
        rows = pruner.rows(scene, most - after) if ranks else ()
        ends = itertools.accumulate(map(len, rows), initial=0)
        self._prompts: tuple[Span, ...] = tuple(itertools.pairwise(ends))
        self._riding = tuple(map(len, rows))
        self._num_queries = num_queries(
            pruner.ranking, len(tokens.embeds), self._riding, decoder.head_dim
        )
        device = tokens.embeds.device
        own = [torch.arange(after, after + len(r), device=device) for r in rows]
        positions = torch.cat((tokens.positions, *own))
        stops = [stop - 1 for _, stop in self._prompts]
        self._ends = torch.tensor(stops, dtype=torch.int64, device=device)
        last = min(after + pruner.offset, most - 1)  # where a question's last token would stand
        self._question_rope = decoder.rope(torch.arange(last, last + 1, device=device))
        embeds = torch.cat((tokens.embeds, *rows)) if rows else tokens.embeds
        span = (tokens.start, total)
        prompt = PromptSequence(embeds, positions, span, tokens.xyz_m)
        self.walk = LayerWalk(decoder, prompt, cache, self._attend)
        self._keep = torch.empty(0)  # indices of what the layer that runs keeps
        self._masks: dict[tuple[int, int, int], torch.Tensor] = {}

    @property
    def num_tokens(self) -> int:
        """Tokens of the scene that pass, what rides along not counted."""
        return len(self._tokens.embeds)

    @property
    def done(self) -> bool:
        return len(self.walk.kept_per_layer) == self._decoder.config.num_layers

    @property
    def hidden(self) -> torch.Tensor:
        return self.walk.hidden[0, self._keep[self._tokens.start :]]

    @torch.inference_mode()
    def step(self) -> bool:
        """One layer; whether more are to come."""
        walk, layer = self.walk, len(self.walk.kept_per_layer)
        walk.layer, entered = layer, walk.spatial[1]
        rode = walk.hidden.shape[1] > entered
        scores = self._rank(layer) if self._ranks(layer) else None
        if scores is not None and (self._falls(layer) or layer == self._last_ranked):
            best = best_first(scores)[: self._alive[layer]]
            kept = self._rows.keep(best)
            walk.drop(kept, behind=layer != self._last_ranked)
            scores = scores[kept if self._rows.plain else torch.sort(best).values]
            self._rows = self._rows.take(kept, self._alive[layer])

        # What questions will read of it.
        start, stop = walk.spatial
        held = torch.arange(len(walk.kept), device=walk.kept.device)
        if scores is not None and self._held[layer] < self._rows.num_placed:
            held = self._rows.keep(best_first(scores)[: self._held[layer]])
        self._keep = torch.cat((torch.arange(start, device=held.device), start + held))
        self.passed.held.append(walk.kept[held])
        rides = walk.hidden.shape[1] > stop
        queries = 0 if scores is None else self._num_queries
        work = LayerWork(
            past=self._cache.length(layer),
            alive=stop,
            rows=self._riding if rides else (),
            entered=entered,
            ranking_rows=self._riding if rode else (),
            queries=queries,
        )
        self.passed.work.append(work)
        walk.run_layer()
        if self.done:
            self._require_finite()
        return not self.done

    def frozen(self) -> SceneRanking:
        """The ranking for tokens that come later: by the queries of this pass, where prompts rode
        along through every layer that ranks more tokens than these.
        """
        ranking = self._pruner.ranking
        known = self.passed.queries
        if ranking.rides != "prompts" or not self._pruner.allocation.ranked <= known.keys():
            return ranking
        some = next(iter(known.values()), None)
        if some is None:
            return ranking
        layers = range(self._decoder.config.num_layers)
        queries = [known.get(i, torch.zeros_like(some)) for i in layers]
        reduce = getattr(ranking, "reduce", "mean")
        return QueryRanking(torch.stack(queries), reduce, name=ranking.name)

    def _falls(self, layer: int) -> bool:
        return layer > 0 and self._alive[layer] < self._alive[layer - 1]

    def _ranks(self, layer: int) -> bool:
        return self._falls(layer) or self._held[layer] < self._alive[layer]

    def _rank(self, layer: int) -> torch.Tensor:
        """Scores (n,) of the spatial tokens alive that have a place, before the layer runs."""
        at = self._layer(layer)
        scores = self._pruner.ranking.scores(at)
        self.passed.finite.append(torch.isfinite(scores).all())
        if at.rows is not None and self._pruner.ranking.rides == "prompts":
            self.passed.queries[layer] = at.rows.q_unroped[:, self._ends]
        return scores

    def _layer(self, layer: int) -> SceneLayer:
        walk, decoder = self.walk, self._decoder
        start, stop = walk.spatial
        total, device = walk.hidden.shape[1], walk.hidden.device
        index = torch.arange(stop, total, device=device)
        inputs = walk.layer_inputs()
        q, q_unroped, roped = decoder.ranking_inputs(layer, inputs, walk.rope, index)
        walk.inputs = roped
        assert roped.k is not None
        past = self._cache.length(layer)
        keys = roped.k[0, :, :stop]
        if past:
            keys = torch.cat((self._cache.held(layer)[0][0], keys), dim=1)
        rows = None
        if total > stop:
            rows = RidingRows(q[0], q_unroped[0], roped.k[0, :, stop:], self._prompts)

        def rotate(vectors: torch.Tensor) -> torch.Tensor:
            cos, sin = self._question_rope
            return apply_rope(vectors, (cos[0, 0], sin[0, 0]))

        def queries() -> torch.Tensor:
            scene = torch.arange(stop, device=device)
            q = decoder.ranking_inputs(layer, inputs, walk.rope, scene)[0][0]
            return F.pad(q, (0, 0, past, 0))

        def values() -> torch.Tensor:
            attention = cast(DecoderLayer, decoder.layers[layer]).self_attn
            v = attention.split_heads(attention.v_proj(inputs.normed[:, :stop]))[0]
            return torch.cat((self._cache.held(layer)[1][0], v), dim=1) if past else v

        alive, kept, xyz_m, candidates = self._rows, walk.kept, walk.xyz_m, None
        if not alive.plain:
            candidates = alive.placed
            kept, xyz_m = alive.number[candidates], None if xyz_m is None else xyz_m[candidates]
        return SceneLayer(
            layer=layer,
            keys=keys,
            spatial=(past + start, past + stop),
            kept=kept,
            xyz_m=xyz_m,
            rows=rows,
            rotate=rotate,
            queries=queries,
            values=values,
            candidates=candidates,
        )

    def _attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        """Causal over the scene, what rides along over scene and itself; keeps what is held."""
        stop, past = self.walk.spatial[1], self._cache.length(layer)
        own = k, v
        if past:
            held = self._cache.held(layer)
            k, v = (torch.cat(parts, dim=2) for parts in zip(held, own, strict=True))
        riding = q.shape[2] > stop
        if past or not riding or len(self._prompts) == 1:
            mask = self._mask(past, 0, q.shape[2]) if past else None
            out = _sdpa(q, k, v, mask)
        else:  # what rides along has a mask of its own, so that the scene needs none
            scene = _sdpa(q[:, :, :stop], k[:, :, :stop], v[:, :, :stop])
            rows = _sdpa(q[:, :, stop:], k, v, self._mask(0, stop, q.shape[2]))
            out = torch.cat((scene, rows), dim=2)
        self._cache.append(layer, own[0][:, :, self._keep], own[1][:, :, self._keep])
        return out

    def _mask(self, past: int, first: int, total: int) -> torch.Tensor:
        """(total - first, past + total) bool: what the tokens alive from `first` on see."""
        key = past, first, total
        if key not in self._masks:
            stop, device = self.walk.spatial[1], self.walk.hidden.device
            mask = torch.ones(total - first, past + total, dtype=torch.bool, device=device)
            mask = mask.tril(past + first)
            for begin, end in self._prompts if total > stop else ():
                rows = slice(stop - first + begin, stop - first + end)
                mask[rows, past + stop : past + stop + begin] = False
            self._masks = {key: mask}
        return self._masks[key]

    def _require_finite(self) -> None:
        """Asked once, at the end, so that no layer waits."""
        finite = self.passed.finite
        if finite and not bool(torch.stack(finite).all()):
            raise ModelError(
                "the ranking scores of the scene are not finite (NaN): the weights are damaged, or"
                " float16 overflowed (use model.precision bf16 or fp32)."
            )


def _sdpa(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Causal without a mask."""
    grouped = k.shape[1] != q.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
    )


def num_queries(ranking: SceneRanking, total: int, riding: tuple[int, ...], head_dim: int) -> int:
    """Queries whose scores are computed in a pass of `total` tokens with these prompts; products of
    as much work counted as such.
    """
    if ranking.rides:
        return sum(riding) if ranking.rides == "scene" else len(riding)
    if isinstance(ranking, QueryRanking):
        return ranking.queries.shape[2]
    # Of `expected`, each key's form in the covariance; of `values`, their lengths.
    return {"self_attention": total, "expected": 1 + head_dim, "random": 0}.get(ranking.name, 1)
