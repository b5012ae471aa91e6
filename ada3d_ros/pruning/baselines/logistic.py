"""AutoPrune's idea: the mutual information of prompt and scene sets the steepness of the curve."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ada3d_ros.config.pruning import LogisticConfig, PruningConfig
from ada3d_ros.errors import ModelError
from ada3d_ros.pruning import schedule
from ada3d_ros.pruning.ranking import PruneContext
from ada3d_ros.pruning.schedule import RetentionSchedule
from ada3d_ros.pruning.strategy import LayerBudget, LayerPruner, Traits


@dataclass(frozen=True, slots=True)
class LogisticPruner(LayerPruner):
    """A curve per prompt, from the attention of layer 2: one pass, one host synchronisation.

    The mutual information sets the steepness of a logistic curve whose mean is keep_ratio.
    """

    keep_ratio: float = 1.0
    slope_min: float = 2.0
    slope_max: float = 20.0
    midpoint: float = 0.3

    def counts(self, num_tokens: int, probe: PruneContext | None) -> tuple[int, ...]:
        """As LayerPruner.counts. Raises ModelError where the probe is missing or not finite."""
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
        L = len(self.schedule.retention)
        curve = schedule.logistic(L, slope, self.midpoint, self.keep_ratio)
        return RetentionSchedule(tuple(map(float, curve))).counts(num_tokens, self.n_min)


def mutual_information(context: PruneContext) -> torch.Tensor:
    """Normalised mutual information of prompt and spatial tokens, () float32 in 0..1.

    The head-mean attention block of the prompt's queries on the spatial keys is taken as a joint
    distribution; its mutual information is divided by the largest it could have, log min(R, n).
    0: every prompt token attends to the same places (or evenly); 1: each to its own.
    """
    # The joint distribution, and what it would be if prompt and places were independent.
    block = context.of_candidates(torch.softmax(context.logits(), dim=-1)).mean(dim=0)
    if min(block.shape) < 2:
        return torch.zeros((), device=block.device)
    joint = block / block.sum()
    independent = joint.sum(dim=1, keepdim=True) * joint.sum(dim=0, keepdim=True)

    # 0 where joint is 0 (0 / 0 of a token nobody attends to), NaN where it is NaN.
    terms = torch.special.xlogy(joint, joint / independent)
    terms = torch.where(joint == 0, torch.zeros_like(terms), terms)
    largest = torch.tensor(float(min(block.shape)), device=block.device).log()
    return (terms.sum() / largest).clamp(0.0, 1.0)


def read_settings(config: PruningConfig) -> LogisticConfig:
    return config.logistic


def traits(settings: LogisticConfig) -> Traits:
    return Traits(depends_on_prompt=True)


def build(settings: LogisticConfig, budget: LayerBudget) -> LogisticPruner:
    """Ranked as adatoken3d. Raises ConfigError for a mean out of reach, before any prompt comes."""
    slope = (settings.slope_min + settings.slope_max) / 2
    ratio = budget.keep_ratio
    nominal = schedule.logistic(budget.shape.num_layers, slope, settings.midpoint, ratio)
    return LogisticPruner(
        "logistic",
        RetentionSchedule(tuple(map(float, nominal))),
        budget.n_min,
        probe_layer=1,
        keep_ratio=ratio,
        slope_min=settings.slope_min,
        slope_max=settings.slope_max,
        midpoint=settings.midpoint,
    )
