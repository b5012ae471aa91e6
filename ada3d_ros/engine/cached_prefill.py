"""A question on a scene whose keys and values are there already: only the question's own rows pass
through the layers.

Unpruned this is the full prefill exactly, in another order of sums. With a pruner each layer
attends to the best of the scene's keys for this question, as many as the schedule says (mode
`cached`). That is not the paper's computation: there a kept token has seen only kept ones, here it
has seen the whole scene; both are one up to the first pruned layer. A key left out in one layer may
be chosen in a later one, and positions stay as they are in the scene.
"""

from __future__ import annotations

import time

import torch

from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.prefill import (
    FinalStates,
    PrefillOutput,
    require_finite,
    require_finite_scores,
)
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.engine.timing import EventTimer
from ada3d_ros.errors import ConfigError, InvalidRequestError
from ada3d_ros.model.decoder import LayerStart, LlamaDecoder, apply_rope
from ada3d_ros.pruning.in_llm import LayerPruner
from ada3d_ros.pruning.ranking import PruneContext, keep_best
from ada3d_ros.types import NAN


@torch.inference_mode()
def prefill_question(
    decoder: LlamaDecoder,
    prefix: ScenePrefix,
    question: torch.Tensor,
    reserve: int = 256,
    pruner: LayerPruner | None = None,
    count: int | None = None,
    with_states: bool = False,
) -> PrefillOutput:
    """Rows (T, D) of the question behind the first `count` spatial tokens of the scene (None: all).

    Unpruned the output's cache is the prefix's own, lent until its next question; else a copy of
    what is attended to. `kept` are indices into the prefix's spatial tokens. Raises as `prefill`
    does.
    """
    began = time.perf_counter()
    if not len(question):
        raise InvalidRequestError(
            "no prompt token follows the spatial tokens: put the question behind the scene."
        )
    run = _Question(decoder, prefix, question, len(prefix.rows) if count is None else count)
    if pruner is None or not run.count:
        run.through(run.whole_cache(reserve))
    else:
        run.select(pruner, reserve)
    logits = decoder.logits(run.hidden[0, -1])
    require_finite(logits)
    require_finite_scores(run.finite)
    states = None
    if with_states:
        states = FinalStates(decoder.norm(run.hidden[0, -1]), prefix.final_states()[run.kept[-1]])
    return PrefillOutput(
        logits=logits,
        cache=run.cache,
        next_positions=(run.next_position,) * decoder.config.num_layers,
        kept=tuple(run.kept),
        prefill_s=time.perf_counter() - began,
        rank_s=run.ranking.total_s() if pruner is not None else NAN,
        states=states,
    )


class _Question:
    """One question on its way through the layers."""

    def __init__(
        self, decoder: LlamaDecoder, prefix: ScenePrefix, question: torch.Tensor, count: int
    ) -> None:
        self.decoder, self.prefix, self.count = decoder, prefix, count
        device, start = question.device, prefix.start
        self.hidden = question[None]
        first = start + count
        self.positions = torch.arange(first, first + len(question), device=device)
        self.next_position = first + len(question)
        self.rope = decoder.rope(self.positions)
        self.all_kept = torch.arange(count, device=device)
        self.kept: list[torch.Tensor] = []
        self.finite: list[tuple[int, torch.Tensor]] = []
        self.ranking = EventTimer(device)
        self.first: LayerStart | None = None  # of the layer about to run, if ranking made it
        self.cache: KVCache
        prefix.crop()

    def whole_cache(self, reserve: int) -> KVCache:
        """The prefix's cache, lent; of a smaller budget a copy."""
        rows = self.hidden.shape[1] + reserve
        if self.count == len(self.prefix.rows):
            self.prefix.cache.reserve(rows)
            return self.prefix.cache
        stop, layers = self.prefix.start + self.count, range(self.decoder.config.num_layers)
        held = [self.prefix.cache.held(layer) for layer in layers]
        return KVCache.holding([(k[:, :, :stop], v[:, :, :stop]) for k, v in held], rows)

    def through(self, cache: KVCache) -> None:
        """All layers, attending to all that the cache holds."""
        self.cache, layers = cache, self.decoder.config.num_layers
        self.hidden = self.decoder.run_layers(
            0, layers, self.hidden, self.positions, cache, rope=self.rope
        )
        self.kept = [self.all_kept] * layers

    def select(self, pruner: LayerPruner, reserve: int) -> None:
        """All layers, each attending to the spatial keys that ranking and schedule leave it."""
        layers = self.decoder.config.num_layers
        self.cache = KVCache(layers, self.hidden.shape[1] + reserve)
        counts = (
            (self.count,) * layers
            if pruner.probe_layer is not None
            else pruner.counts(self.count, None)
        )
        if len(counts) != layers:
            raise ConfigError(
                f"{pruner.name}: the schedule is for {len(counts)} layers, this decoder has"
                f" {layers}."
            )
        selected = self.all_kept
        for layer in range(layers):
            self.first = None
            if layer == pruner.probe_layer:
                self.ranking.start()
                counts = pruner.counts(
                    self.count, self._ranking_inputs(layer, pruner, all_queries=True)
                )
                self.ranking.stop()
            ranked, best = layer + pruner.rank_lag, selected
            if 0 < ranked < layers and counts[ranked] < counts[ranked - 1]:
                best = self._rank(layer, pruner, counts[ranked])
            if not pruner.rank_lag:
                selected = best
            self._run_layer(layer, selected)
            selected = best

    def _rank(self, layer: int, pruner: LayerPruner, count: int) -> torch.Tensor:
        """Ascending indices (count,) of the scene's best keys by the attention of `layer`."""
        self.ranking.start()
        scores = pruner.rank(self._ranking_inputs(layer, pruner))
        self.finite.append((layer, torch.isfinite(scores).all()))
        best = keep_best(scores, count)
        self.ranking.stop()
        return best

    def _ranking_inputs(
        self, layer: int, pruner: LayerPruner, all_queries: bool = False
    ) -> PruneContext:
        """What a ranking sees of the layer about to run: the question's queries, all keys. The
        layer reuses its part.
        """
        tokens, device = self.hidden.shape[1], self.hidden.device
        rows = torch.arange(
            0 if all_queries or pruner.query == "all" else tokens - 1, tokens, device=device
        )
        made = self.decoder.ranking_inputs(
            layer, self.decoder.start_layer(layer, self.hidden), self.rope, rows
        )
        self.first = made.start
        stop = self.prefix.start + self.count
        keys = self.prefix.cache.held(layer)[0][:, :, :stop]
        k = torch.cat((keys, made.k), dim=2)[0]
        k_unroped = k if pruner.rope else torch.cat((self._unroped(keys), made.k_unroped), dim=2)[0]
        return PruneContext(
            layer,
            made.q[0],
            made.q_unroped[0],
            k,
            k_unroped,
            stop + rows,
            torch.arange(stop + tokens, device=device),
            (self.prefix.start, stop),
            self.all_kept,
            self.prefix.xyz_m[: self.count],
        )

    def _unroped(self, keys: torch.Tensor) -> torch.Tensor:
        """Stored keys turned back, exact up to rounding."""
        cos, sin = self.decoder.rope(torch.arange(keys.shape[2], device=keys.device))
        return apply_rope(keys, (cos, -sin))

    def _run_layer(self, layer: int, selected: torch.Tensor) -> None:
        keys, values = self.prefix.cache.held(layer)
        start, stop = self.prefix.start, self.prefix.start + self.count
        if len(selected) == self.count:
            keys, values = keys[:, :, :stop], values[:, :, :stop]
        else:
            rows = torch.cat((torch.arange(start, device=selected.device), start + selected))
            keys, values = keys[:, :, rows], values[:, :, rows]
        self.cache.append(layer, keys, values)
        self.hidden = self.decoder.run_layers(
            layer,
            layer + 1,
            self.hidden,
            self.positions,
            self.cache,
            first=self.first,
            rope=self.rope,
        )
        self.kept.append(selected)
