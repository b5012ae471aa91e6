"""Figure 3: how far the answer changes when spatial tokens are dropped after one layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ada3d_ros.engine.decode import GenerationRequest, decode
from ada3d_ros.engine.prefill import prefill
from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.analysis.contribution import Array, Progress
from ada3d_ros.lab.benchmarks.spread import spread
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning import schedule
from ada3d_ros.pruning.schedule import RetentionSchedule
from ada3d_ros.pruning.strategy import LayerPruner
from ada3d_ros.token_rows import rows_of
from ada3d_ros.types import PromptSequence

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
RANKINGS = {"adatoken3d": "softmax_mean", "random": "random"}  # name -> score of a LayerPruner
DEPTHS = (1 / 8, 3 / 8, 3 / 4)  # the paper's layers 4, 12 and 24 of 32


@dataclass(frozen=True, eq=False, slots=True)
class GreedyAnswer:
    """token_ids without the end-of-sequence id; log_probs (vocab,) float64 of the first token."""

    token_ids: tuple[int, ...]
    log_probs: Array


def greedy_answer(
    decoder: LlamaDecoder,
    prompt: PromptSequence,
    num_tokens: int,
    pruner: LayerPruner | None = None,
) -> GreedyAnswer:
    """Up to num_tokens greedy tokens. Raises ModelError where the output is not finite."""
    prefilled = prefill(decoder, prompt, num_tokens, pruner)
    log_probs = torch.log_softmax(prefilled.logits.double(), dim=-1).cpu().numpy()
    return GreedyAnswer(
        decode(decoder, prefilled, GenerationRequest(num_tokens)).token_ids, log_probs
    )


def single_drop(
    num_layers: int, layer: int, share: float, ranking: str, seed: int = 0
) -> LayerPruner:
    """Drops `share` of the spatial tokens after the 1-based layer; the next layer ranks them.

    At least one token stays.
    """
    curve = schedule.stages(num_layers, (layer,), (1.0 - share,))
    held = RetentionSchedule(tuple(map(float, curve)))
    return LayerPruner(ranking, held, 1, RANKINGS[ranking], seed=seed)


def prefix_agreement(first: Sequence[int], second: Sequence[int]) -> float:
    """Length of the common beginning over the longer length, 0..1; 1 for two empty answers."""
    longer = max(len(first), len(second))
    same = next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )
    return same / longer if longer else 1.0


def kl_divergence_nats(log_p: Array, log_q: Array) -> float:
    """KL(p || q) of two log-probability vectors (vocab,)."""
    return max(0.0, float(np.sum(np.exp(log_p) * (log_p - log_q))))


def default_layers(num_layers: int) -> tuple[int, ...]:
    """DEPTHS of the decoder's layers, 1-based, each once.

    Raises ConfigError for a decoder of a single layer, which has none to drop after.
    """
    if num_layers < 2:
        raise ConfigError(
            f"this decoder has {num_layers} layer: tokens can only be dropped between layers; leave"
            " figure 3 out (--figures)."
        )
    return tuple(sorted({min(max(int(depth * num_layers), 1), num_layers - 1) for depth in DEPTHS}))


def check_layers(layers: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """The layers, ascending and each once.

    Raises ConfigError for one that nothing can be dropped after.
    """
    wrong = [layer for layer in layers if not 1 <= layer < num_layers]
    if wrong:
        raise ConfigError(
            f"--layers {wrong[0]}: tokens can be dropped behind layers 1 to {num_layers - 1} of"
            " this decoder."
        )
    return tuple(sorted(set(layers)))


@dataclass(frozen=True, slots=True)
class DropSweep:
    """What is measured: shares of the spatial tokens, each dropped after each of the layers.

    layers: 1-based; num_tokens: greedy tokens of an answer. Prompt i ranks at random with seed seed
    + i, so that its spread is over draws too.
    """

    layers: tuple[int, ...]
    num_tokens: int
    seed: int = 0
    shares: tuple[float, ...] = SHARES


def measure_agreement(
    decoder: LlamaDecoder,
    prompts: Sequence[PromptSequence],
    unpruned: Sequence[GreedyAnswer],
    sweep: DropSweep,
    progress: Progress,
) -> dict[str, Any]:
    """Agreement with the unpruned answers, one a prompt, for every layer, ranking and share."""
    num_layers = decoder.config.num_layers
    seeds = [sweep.seed + index for index in range(len(prompts))]
    curves = []
    for layer in sweep.layers:
        for ranking in RANKINGS:
            points = []
            for share in sweep.shares:
                progress(
                    f"answer agreement: {share:.0%} dropped behind layer {layer}, {ranking} ranking"
                )

                # Each prompt draws its own random ranking.
                pruners = [single_drop(num_layers, layer, share, ranking, s) for s in seeds]
                point = _measure_point(decoder, prompts, unpruned, pruners, sweep.num_tokens)
                points.append({"share": share} | point)
            curves.append({"layer": layer, "ranking": ranking, "points": points})
    return {
        "n": len(prompts),
        "seeds": seeds,
        "answer_tokens": sweep.num_tokens,
        "layers": list(sweep.layers),
        "shares": list(sweep.shares),
        "curves": curves,
    }


def _measure_point(
    decoder: LlamaDecoder,
    prompts: Sequence[PromptSequence],
    unpruned: Sequence[GreedyAnswer],
    pruners: Sequence[LayerPruner],
    num_tokens: int,
) -> dict[str, Any]:
    """Every prompt with its own pruner beside its unpruned answer."""
    identical, prefix, divergence, dropped = [], [], [], []
    for prompt, true, pruner in zip(prompts, unpruned, pruners, strict=True):
        found = greedy_answer(decoder, prompt, num_tokens, pruner)
        total = rows_of(prompt).num_placed
        dropped.append(1.0 - pruner.counts(total, None)[-1] / total)
        identical.append(float(found.token_ids == true.token_ids))
        prefix.append(prefix_agreement(found.token_ids, true.token_ids))
        divergence.append(kl_divergence_nats(true.log_probs, found.log_probs))
    return {
        "dropped": spread(dropped),
        "identical": spread(identical),
        "prefix": spread(prefix),
        "kl_nats": spread(divergence),
    }
