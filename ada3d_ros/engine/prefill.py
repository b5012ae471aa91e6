"""Prefill: the prompt through all decoder layers, keys and values kept, logits of the last token
only.

Between layers a pruner may drop spatial tokens; the decoder itself has no pruning branch. Text
tokens never drop, dropped tokens never return, and each layer's KV cache has its own length.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.timing import EventTimer
from ada3d_ros.errors import ConfigError, InvalidRequestError, ModelError
from ada3d_ros.model.decoder import LayerStart, LlamaDecoder, rope_rows
from ada3d_ros.pruning.in_llm import LayerPruner
from ada3d_ros.pruning.ranking import PruneContext, keep_best
from ada3d_ros.types import NAN, PromptSequence


@dataclass(frozen=True, eq=False, slots=True)
class FinalStates:
    """Normed hidden states after the last layer: query (D,) of the last prompt token, spatial (N,
    D) of the tokens kept to the end.
    """

    query: torch.Tensor
    spatial: torch.Tensor


@dataclass(frozen=True, eq=False, slots=True)
class PrefillOutput:
    """What decode starts from.

    logits (vocab,) of the last prompt token; next_positions: of the first generated token, per
    layer; kept: per layer (N_i,) int64, ascending indices into the N spatial tokens of the prompt.
    rank_s: what ranking and dropping add to prefill_s: queries, scores, selection, gathering, and
    the keys of tokens that go (the others' keys the layer reuses).
    """

    logits: torch.Tensor
    cache: KVCache
    next_positions: tuple[int, ...]
    kept: tuple[torch.Tensor, ...]
    prefill_s: float = NAN
    rank_s: float = NAN
    states: FinalStates | None = None  # where asked for

    @property
    def counts(self) -> tuple[int, ...]:
        """Spatial tokens alive in each layer."""
        return tuple(stage.shape[0] for stage in self.kept)


@torch.inference_mode()
def prefill(
    decoder: LlamaDecoder,
    prompt: PromptSequence,
    reserve: int = 256,
    pruner: LayerPruner | None = None,
    with_states: bool = False,
) -> PrefillOutput:
    """Runs `prompt` through all layers, dropping spatial tokens as `pruner` says. reserve: tokens
    that decode may append before a buffer must grow. with_states: hand out the final states that a
    grounding head points with.

    Raises ModelError where scores or logits are not finite (as after an overflow in float16),
    InvalidRequestError where no prompt token follows the spatial tokens that could rank them.
    """
    start = time.perf_counter()
    run = _Run(decoder, prompt, KVCache(decoder.config.num_layers, reserve))
    if pruner is not None and len(run.kept):
        run.through_pruned(pruner)
    else:
        run.through(decoder.config.num_layers)
    logits = decoder.logits(run.hidden[0, -1])
    require_finite(logits)
    require_finite_scores(run.finite)
    return PrefillOutput(
        logits=logits,
        cache=run.cache,
        next_positions=tuple(run.next_positions),
        kept=tuple(run.stages),
        prefill_s=time.perf_counter() - start,
        rank_s=run.ranking.total_s() + run.starting.total_s() if pruner is not None else NAN,
        states=run.final_states() if with_states else None,
    )


class _Run:
    """One prompt on its way through the layers: what is alive, and what each layer saw."""

    def __init__(self, decoder: LlamaDecoder, prompt: PromptSequence, cache: KVCache) -> None:
        self.decoder, self.cache = decoder, cache
        self.hidden, self.positions = prompt.embeds[None], prompt.positions  # (1, T, D), (T,)
        self.rope = decoder.rope(prompt.positions)
        self.start, stop = prompt.spatial_span
        self.kept = torch.arange(stop - self.start, device=prompt.embeds.device)
        self.xyz_m = prompt.xyz_m
        self.next_position = int(prompt.positions[-1]) + 1
        self.layer = 0
        self.first: LayerStart | None = None  # of the layer about to run, if ranking made it
        self.stages: list[torch.Tensor] = []
        self.next_positions: list[int] = []
        self.ranking = EventTimer(self.hidden.device)
        # What a layer starts with anyway: ranking is charged the share of the tokens that go.
        self.starting = EventTimer(self.hidden.device, unweighed=0.0)
        self.finite: list[tuple[int, torch.Tensor]] = []

    @property
    def spatial(self) -> tuple[int, int]:
        return self.start, self.start + len(self.kept)

    def final_states(self) -> FinalStates:
        """Of all layers run."""
        normed = self.decoder.norm(self.hidden[0])
        return FinalStates(normed[-1], normed[slice(*self.spatial)])

    def through(self, stop: int) -> None:
        """Run the layers up to `stop` on what is alive."""
        if stop <= self.layer:
            return
        self.hidden = self.decoder.run_layers(
            self.layer,
            stop,
            self.hidden,
            self.positions,
            self.cache,
            first=self.first,
            rope=self.rope,
        )
        self.stages += [self.kept] * (stop - self.layer)
        self.next_positions += [self.next_position] * (stop - self.layer)
        self.layer, self.first = stop, None

    def through_pruned(self, pruner: LayerPruner) -> None:
        """Run all layers, ranking and dropping where the pruner's counts fall."""
        if self.spatial[1] >= self.hidden.shape[1]:
            raise InvalidRequestError(
                "no prompt token follows the spatial tokens, so nothing can rank them: put the"
                " question behind the scene, or use a strategy before the language model."
            )
        probe = None
        if pruner.probe_layer is not None:
            self.through(pruner.probe_layer)
            probe = self._ranking_inputs(pruner, all_queries=True)
            self.ranking.start()
        counts = pruner.counts(len(self.kept), probe)
        if probe is not None:
            self.ranking.stop()
        if len(counts) != self.decoder.config.num_layers:
            raise ConfigError(
                f"{pruner.name}: the schedule is for {len(counts)} layers, this decoder has"
                f" {self.decoder.config.num_layers}."
            )
        for before in range(max(1, self.layer), len(counts)):
            if counts[before] >= counts[before - 1]:
                continue
            self.through(before - pruner.rank_lag)
            context = (
                probe
                if probe is not None and probe.layer == self.layer
                else self._ranking_inputs(pruner)
            )
            self.ranking.start()
            scores = pruner.rank(context)
            self.finite.append((context.layer, torch.isfinite(scores).all()))
            self.ranking.stop()
            self.through(before)
            self.ranking.start()
            self._drop(keep_best(scores, counts[before]), pruner.positions == "compact")
            self.ranking.stop()
        self.through(len(counts))

    def _ranking_inputs(self, pruner: LayerPruner, all_queries: bool = False) -> PruneContext:
        """Queries and keys of the layer about to run; it will reuse the keys."""
        tokens = self.hidden.shape[1]
        first = self.spatial[1] if all_queries or pruner.query == "all" else tokens - 1
        rows = torch.arange(first, tokens, device=self.hidden.device)
        self.starting.start()
        self.first = self.decoder.start_layer(self.layer, self.hidden)
        self.starting.stop()
        self.ranking.start()
        made = self.decoder.ranking_inputs(self.layer, self.first, self.rope, rows)
        if pruner.positions == "original":
            self.first = made.start  # positions stay, so the roped keys can too
        self.ranking.stop()
        return PruneContext(
            self.layer,
            made.q[0],
            made.q_unroped[0],
            made.k[0],
            made.k_unroped[0],
            rows,
            self.positions,
            self.spatial,
            self.kept,
            self.xyz_m,
        )

    def _drop(self, selected: torch.Tensor, compact: bool) -> None:
        """Keep the spatial tokens of ascending indices `selected` among those alive, and all text."""
        start, stop = self.spatial
        tokens = self.hidden.shape[1]
        device = self.hidden.device
        rows = torch.cat(
            (
                torch.arange(start, device=device),
                start + selected,
                torch.arange(stop, tokens, device=device),
            )
        )
        self.hidden, self.positions = self.hidden[:, rows], self.positions[rows]
        self.kept = self.kept[selected]
        if self.xyz_m is not None:
            self.xyz_m = self.xyz_m[selected]
        if self.first is not None:
            self.first = self.first.rows(rows)
            self.starting.attribute_share((tokens - len(rows)) / tokens)
        if compact:
            self.next_position -= tokens - len(rows)
            self.positions = torch.arange(len(rows), device=device)
            self.rope = self.decoder.rope(self.positions)
        else:
            self.rope = rope_rows(self.rope, rows)


def require_finite(logits: torch.Tensor) -> None:
    """Raise ModelError unless all of the logits are finite; waits for the device."""
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(
            f"the model's output is not finite in {logits.dtype}: the weights are damaged, or"
            " float16 overflowed (use model.precision bf16 or fp32)."
        )


def require_finite_scores(flags: Sequence[tuple[int, torch.Tensor]]) -> None:
    """Raise ModelError for a ranking that was not finite: (0-based layer, () bool). Asked once, at
    the end, so that no layer waits.
    """
    if flags and not bool(torch.stack([flag for _, flag in flags]).all()):
        layer = next(layer for layer, flag in flags if not bool(flag))
        raise ModelError(
            f"the ranking scores of layer {layer + 1} are not finite (NaN): the weights are"
            " damaged, or float16 overflowed (use model.precision bf16 or fp32)."
        )


def pad_batch(
    prompts: Sequence[PromptSequence], side: str = "right"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of several lengths as one batch: embeds (B, T, D), zero-padded, and key_mask (B, T)
    bool for `run_layers`.
    """
    rows = [prompt.embeds for prompt in prompts]
    embeds = pad_sequence(rows, batch_first=True, padding_side=side)
    ones = [torch.ones(row.shape[0], dtype=torch.bool, device=row.device) for row in rows]
    return embeds, pad_sequence(ones, batch_first=True, padding_side=side)
