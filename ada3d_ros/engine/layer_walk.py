"""One walk through the decoder's layers, with a visitor that acts before each of them.

Prefill, cached questions, the measurement of information, relevance and the analyses all walk here;
they differ in the visitor: `RankAndDrop` (tokens leave for good), `RankAndSelect` (each layer
attends to the best keys of a cached scene; engine/select_keys.py), `InspectAttention` (measure,
attend: nothing changes).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import torch

from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.timing import EventTimer
from ada3d_ros.errors import ConfigError
from ada3d_ros.model.decoder import (
    Attend,
    LayerInputs,
    LlamaDecoder,
    Rope,
    apply_rope,
    causal_attention,
    rope_rows,
)
from ada3d_ros.pruning.ranking import PruneContext, best_first
from ada3d_ros.pruning.strategy import LayerPruner
from ada3d_ros.token_rows import TokenRows
from ada3d_ros.types import PromptSequence

T = TypeVar("T")


class LayerVisitor(Protocol):
    """Acts before each layer of a walk: looks at it, drops tokens, or fills its cache."""

    def before_layer(self, walk: LayerWalk) -> None: ...


class LayerWalk:
    """One prompt on its way through the layers: what enters the next one, what each has seen.

    hidden (1, T, D) and positions (T,) of the tokens alive; spatial: the span [start, stop) of the
    spatial tokens among them; kept (n,): which of the prompt's they are; kept_per_layer and
    next_positions: one entry per layer that has run. cache: keys and values are added to it;
    attend: in the place of causal attention over it.
    """

    def __init__(
        self,
        decoder: LlamaDecoder,
        prompt: PromptSequence,
        cache: KVCache | None = None,
        attend: Attend | None = None,
    ) -> None:
        self.decoder, self.cache = decoder, cache
        self.hidden, self.positions = prompt.embeds[None], prompt.positions
        self.rope = decoder.rope(prompt.positions)
        self.start, stop = prompt.spatial_span
        self.kept = torch.arange(stop - self.start, device=prompt.embeds.device)
        self.xyz_m = prompt.xyz_m
        self.next_position = int(prompt.positions[-1]) + 1
        self.layer = 0
        self.inputs: LayerInputs | None = (
            None  # of the layer about to run, where a visitor made them
        )
        self.kept_per_layer: list[torch.Tensor] = []
        self.next_positions: list[int] = []
        self.attend = causal_attention(cache) if attend is None else attend

    @property
    def spatial(self) -> tuple[int, int]:
        return self.start, self.start + len(self.kept)

    def run(self, visitor: LayerVisitor | None = None) -> None:
        """All layers, each after the visitor's visit."""
        for layer in range(self.decoder.config.num_layers):
            self.layer = layer
            if visitor is not None:
                visitor.before_layer(self)
            self.run_layer()

    def run_layer(self) -> None:
        """The layer about to run, on what is alive."""
        self.hidden = self.decoder.run_layer(
            self.layer, self.hidden, self.rope, self.attend, self.inputs
        )
        self.inputs = None
        self.kept_per_layer.append(self.kept)
        self.next_positions.append(self.next_position)

    def layer_inputs(self, all_queries: bool = False) -> LayerInputs:
        """Norm and keys of the layer about to run, which it will not compute again."""
        if self.inputs is None:
            self.inputs = self.decoder.layer_inputs(self.layer, self.hidden, all_queries)
        return self.inputs

    def drop(self, selected: torch.Tensor, compact: bool = False, behind: bool = True) -> None:
        """Keep the spatial tokens of ascending indices `selected` among those alive, and all text;
        behind: what stands behind the spatial tokens too.

        compact: count the positions anew; else they stay as they are in the prompt.
        """
        start, stop = self.spatial
        tokens, device = self.hidden.shape[1], self.hidden.device
        parts = [torch.arange(start, device=device), start + selected]
        if behind:
            parts.append(torch.arange(stop, tokens, device=device))
        index = torch.cat(parts)

        # What is alive; the inputs made for ranking stay valid for the tokens that stay.
        self.hidden, self.positions = self.hidden[:, index], self.positions[index]
        self.kept = self.kept[selected]
        self.xyz_m = None if self.xyz_m is None else self.xyz_m[selected]
        self.inputs = None if self.inputs is None else self.inputs.take(index)

        # Where it stands.
        if compact:
            self.next_position -= tokens - len(index)
            self.positions = torch.arange(len(index), device=device)
            self.rope = self.decoder.rope(self.positions)
        else:
            self.rope = rope_rows(self.rope, index)


class RankAndDrop:
    """Ranks and drops spatial tokens where the pruner's counts fall (as AdaToken-3D and FastV).

    The counts are of tokens with a place; newlines go with their rows, for which a drop waits.
    ranked_layers, finite: the 0-based layers whose attention ranked, and whether all scores were
    finite, () bool each.
    """

    def __init__(self, pruner: LayerPruner, rows: TokenRows, device: torch.device) -> None:
        """rows: of the spatial tokens of the prompt, or of the cached scene."""
        self.pruner, self.timer, self._rows = pruner, EventTimer(device), rows
        self._total = rows.num_placed
        self.counts: tuple[int, ...] = ()
        self.ranked_layers: list[int] = []
        self.finite: list[torch.Tensor] = []
        self._scores: torch.Tensor | None = None  # of the tokens alive, not acted on yet

    def before_layer(self, walk: LayerWalk) -> None:
        layer, lag = walk.layer, self.pruner.rank_lag
        context = self._plan(walk)
        if lag and self._falls(layer):
            self._apply(walk)
        if self._falls(layer + lag):
            self._rank(walk, context)
        if not lag and self._falls(layer):
            self._apply(walk)

    def _plan(self, walk: LayerWalk) -> PruneContext | None:
        """The counts of all layers, once they can be known; the attention they were made from."""
        layers, probe, context = walk.decoder.config.num_layers, self.pruner.probe_layer, None
        if walk.layer == 0:
            self.counts = (self._total,) * layers
        if walk.layer != (probe or 0):
            return None
        if probe is not None:  # the schedule follows from this layer's attention
            context = self._context(walk, all_queries=True)
        self.timer.start()
        self.counts = self.pruner.counts(self._total, context)
        self.timer.stop(1.0 if probe is not None else 0.0)
        if len(self.counts) != layers:
            raise ConfigError(
                f"{self.pruner.name}: the schedule is for {len(self.counts)} layers, this decoder"
                f" has {layers}."
            )
        return context

    def _falls(self, layer: int) -> bool:
        """Whether `layer` gets fewer tokens than the one before it."""
        return 0 < layer < len(self.counts) and self.counts[layer] < self.counts[layer - 1]

    def _rank(self, walk: LayerWalk, context: PruneContext | None) -> None:
        if context is None:
            context = self._context(walk, all_queries=False)
        self.timer.start()
        self._scores = self.pruner.rank(context)
        self.ranked_layers.append(context.layer)
        self.finite.append(torch.isfinite(self._scores).all())
        self.timer.stop()

    # What differs where keys of a cached scene are selected (engine/select_keys.py).

    def _context(self, walk: LayerWalk, all_queries: bool) -> PruneContext:
        """Queries and keys of the layer about to run, which reuses keys where positions stay."""
        tokens, pruner = walk.hidden.shape[1], self.pruner
        first = walk.spatial[1] if all_queries or pruner.query == "all" else tokens - 1
        index = torch.arange(first, tokens, device=walk.hidden.device)

        # The layer needs norm and keys anyway: ranking is charged the share of the tokens that go.
        self.timer.start()
        inputs = walk.layer_inputs()
        self.timer.stop(self._share_dropped(walk))

        self.timer.start()
        q, q_unroped, roped = walk.decoder.ranking_inputs(walk.layer, inputs, walk.rope, index)
        if pruner.positions == "original":
            walk.inputs = roped
        self.timer.stop()
        assert roped.k is not None
        kept, xyz_m, candidates = self._candidates(walk.kept, walk.xyz_m)
        return PruneContext(
            layer=walk.layer,
            q=q[0],
            q_unroped=q_unroped[0],
            k=roped.k[0],
            k_unroped=roped.k_unroped[0],
            query_rows=index,
            positions=walk.positions,
            spatial=walk.spatial,
            kept=kept,
            xyz_m=xyz_m,
            candidates=candidates,
        )

    def _candidates(
        self, kept: torch.Tensor, xyz_m: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """`kept` and `xyz_m` of the spatial tokens alive as a ranking gets them, and which of these
        tokens it ranks.
        """
        rows = self._rows
        if rows.plain:
            return kept, xyz_m, None
        return kept[rows.placed], None if xyz_m is None else xyz_m[rows.placed], rows.placed

    def _share_dropped(self, walk: LayerWalk) -> float:
        """Share of the tokens alive that are dropped before this layer runs."""
        if self.pruner.rank_lag or not self._falls(walk.layer):
            return 0.0
        gone = self.counts[walk.layer - 1] - self.counts[walk.layer]
        return gone / walk.hidden.shape[1]

    def _apply(self, walk: LayerWalk) -> None:
        assert self._scores is not None, "ranked before"
        self.timer.start()
        count, rows = self.counts[walk.layer], self._rows
        selected = rows.keep(best_first(self._scores)[:count])
        walk.drop(selected, self.pruner.positions == "compact")
        self._rows = rows.take(selected, count)
        self.timer.stop()


class RecordQueries:
    """An `Attend` that keeps the roped queries (1, H, T, d) of each layer on the way."""

    def __init__(self, attend: Attend) -> None:
        self._attend = attend
        self.roped: list[torch.Tensor] = []

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        self.roped.append(q)
        return self._attend(layer, q, k, v)

    def unroped(self, rope: Rope) -> torch.Tensor:
        """(L, H, T, d), turned back from where rope has them."""
        cos, sin = rope
        return apply_rope(torch.cat(self.roped), (cos, -sin))


class InspectAttention(Generic[T]):
    """Calls inspect(q (H, R, d), k (G, T, d)) with each layer's roped queries of the tokens `index`
    (R,) of the walk and keys of all tokens, those before it that its cache holds included, and
    keeps what it returns in `found`, one entry per layer.

    many: most tokens are queries, so that the layer's own are computed once for both.
    """

    def __init__(
        self,
        index: torch.Tensor,
        inspect: Callable[[torch.Tensor, torch.Tensor], T],
        many: bool = False,
    ) -> None:
        self._index, self._inspect, self._many = index, inspect, many
        self.found: list[T] = []

    def before_layer(self, walk: LayerWalk) -> None:
        inputs = walk.layer_inputs(self._many)
        q, _, walk.inputs = walk.decoder.ranking_inputs(walk.layer, inputs, walk.rope, self._index)
        assert walk.inputs.k is not None
        k = walk.inputs.k
        if walk.cache is not None and walk.cache.length(walk.layer):
            k = torch.cat((walk.cache.held(walk.layer)[0], k), dim=2)
        self.found.append(self._inspect(q[0], k[0]))


def inspect_layers(
    decoder: LlamaDecoder,
    prompt: PromptSequence,
    index: torch.Tensor,
    inspect: Callable[[torch.Tensor, torch.Tensor], T],
    many: bool = False,
    cache: KVCache | None = None,
) -> list[T]:
    """What `inspect` finds in every layer of one unpruned pass, behind what `cache` holds; see
    InspectAttention.
    """
    visitor = InspectAttention(index, inspect, many)
    with torch.inference_mode():
        LayerWalk(decoder, prompt, cache).run(visitor)
    return visitor.found
