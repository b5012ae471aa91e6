"""Strategies inside the decoder: a schedule of counts and a ranking, called by the engine between
layer ranges.

adatoken3d, fastv, pdrop and logistic differ in the schedule, in whose attention ranks and in the
positions of what stays; the engine knows only `LayerPruner`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ada3d_ros.errors import ModelError
from ada3d_ros.pruning.ranking import PruneContext, mutual_information, random_scores, rank_scores
from ada3d_ros.pruning.schedule import RetentionSchedule, logistic


@dataclass(frozen=True, slots=True)
class LayerPruner:
    """One in-LLM strategy, ready for one prompt.

    rank_lag 0: the layer about to run ranks, and keeps the keys made for that (AdaToken-3D,
    PyramidDrop); 1: the layer before it (FastV). positions `compact`: those of the kept tokens are
    counted anew after every drop. probe_layer: the 0-based layer whose attention of all prompt
    tokens the schedule needs before it can say anything (None: it needs none).
    """

    name: str
    schedule: RetentionSchedule
    n_min: int = 1
    score: str = "softmax_mean"
    query: str = "last"
    rope: bool = True
    seed: int = 0
    rank_lag: int = 0
    positions: str = "original"
    probe_layer: int | None = None

    def counts(self, num_tokens: int, probe: PruneContext | None) -> tuple[int, ...]:
        """Spatial tokens alive in each layer."""
        return self.schedule.counts(num_tokens, self.n_min)

    def rank(self, context: PruneContext) -> torch.Tensor:
        """Scores (n,) of the spatial tokens alive; higher stays."""
        if self.score == "random":
            return random_scores(context, self.seed)
        return rank_scores(context, self.score, self.query, self.rope)


@dataclass(frozen=True, slots=True)
class LogisticPruner(LayerPruner):
    """A curve per prompt: the mutual information of prompt and scene in layer 2 sets the steepness
    of a logistic curve whose mean is keep_ratio (AutoPrune's idea). One pass; one host
    synchronisation.
    """

    keep_ratio: float = 1.0
    slope_min: float = 2.0
    slope_max: float = 20.0
    midpoint: float = 0.3

    def counts(self, num_tokens: int, probe: PruneContext | None) -> tuple[int, ...]:
        if probe is None:
            raise ModelError(
                "logistic: the schedule needs the attention of layer 2, which was not measured."
            )
        information = float(mutual_information(probe))
        if information != information:
            raise ModelError(
                "logistic: the attention of layer 2 is not finite (NaN); the weights are damaged or"
                " overflowed."
            )
        slope = self.slope_min + (self.slope_max - self.slope_min) * information
        curve = logistic(len(self.schedule.retention), slope, self.midpoint, self.keep_ratio)
        return RetentionSchedule(tuple(map(float, curve))).counts(num_tokens, self.n_min)
