"""FastV: all tokens up to layer k, then a fixed share, ranked by layer k's own attention row."""

from __future__ import annotations

from ada3d_ros.config.pruning import FastvConfig, PruningConfig
from ada3d_ros.errors import ConfigError
from ada3d_ros.pruning.schedule import Staircase, equal_factors
from ada3d_ros.pruning.strategy import LayerBudget, LayerPruner, Traits


def read_settings(config: PruningConfig) -> FastvConfig:
    return config.fastv


def traits(settings: FastvConfig) -> Traits:
    return Traits()


def build(settings: FastvConfig, budget: LayerBudget) -> LayerPruner:
    """The share behind layer k meets the mean. Raises ConfigError for a k that leaves no layer."""
    L, k = budget.shape.num_layers, settings.k
    if k >= L:
        raise ConfigError(
            f"pruning.fastv.k = {k}: this decoder has {L} layers; allowed: 1 to {L - 1}."
        )
    stairs = Staircase(L, prune_layers=(k,))
    curve = equal_factors(L, (k,), stairs.held_mean, budget.keep_ratio)
    return LayerPruner("fastv", stairs.schedule(curve, settings.round), budget.n_min, rank_lag=1)
