"""The CDPruner family: a DPP on relevance x cosine x relevance, conditioned on the question."""

from __future__ import annotations

from ada3d_ros.config.pruning import PruningConfig
from ada3d_ros.errors import ConfigError
from ada3d_ros.pruning.baselines.voxel_dpp import greedy_dpp, with_jitter
from ada3d_ros.pruning.strategy import Candidates, Selection, Traits


def read_settings(config: PruningConfig) -> None:
    return None


def traits(settings: None) -> Traits:
    return Traits(is_query_conditioned=True)


def select(candidates: Candidates, budget: int, settings: None) -> Selection:
    """Raises ConfigError where the question's relevance is missing."""
    if candidates.relevance is None:
        raise ConfigError(
            "cond_dpp needs the question: it cannot choose for a scene alone. Use voxel_dpp for"
            " that."
        )
    weight = candidates.relevance.clamp(min=1e-3)  # the least relevant can still be chosen
    kernel = weight[:, None] * candidates.cosines() * weight
    kept = greedy_dpp(with_jitter(kernel), budget)
    return Selection.without_merging(kept, len(kernel))
