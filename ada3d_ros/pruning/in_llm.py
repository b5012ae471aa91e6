"""A strategy inside the decoder: a schedule of counts and a ranking, called between its layers.

adatoken3d, fastv, pdrop and logistic differ in the schedule, in whose attention ranks and in the
positions of what stays; the engine knows only `LayerPruner`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ada3d_ros.pruning.cost import DecoderShape, ranking_macs
from ada3d_ros.pruning.ranking import PruneContext, random_scores, rank_scores
from ada3d_ros.pruning.schedule import RetentionSchedule


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
        """Scores (n,) float32 of the spatial tokens alive; higher stays."""
        if self.score == "random":
            return random_scores(context, self.seed)
        return rank_scores(context, self.score, self.query, self.rope)

    def ranking_macs(
        self, shape: DecoderShape, counts: Sequence[int], num_text: int, num_text_after: int
    ) -> float:
        """Extra MACs of a prefill that ranked for these counts of spatial tokens per layer.

        num_text: other tokens of the prompt; num_text_after: those of them after the scene tokens.
        """
        queries = num_text_after if self.query == "all" else 1
        macs = ranking_macs(shape, counts, num_text, self.rank_lag, queries)
        if self.probe_layer is not None:  # the attention that the schedule was made from
            tokens = counts[0] + num_text
            macs += num_text_after * shape.hidden_size * (shape.hidden_size + tokens)
        return macs
