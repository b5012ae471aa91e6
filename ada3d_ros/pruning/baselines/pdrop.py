"""PyramidDrop: stages, each ranked by the attention of the layer that follows its drop."""

from __future__ import annotations

from ada3d_ros.config.pruning import PdropConfig, PruningConfig
from ada3d_ros.pruning.schedule import Staircase, equal_factors, layer_list, ratio_list, stages
from ada3d_ros.pruning.strategy import LayerBudget, LayerPruner, Traits


def read_settings(config: PruningConfig) -> PdropConfig:
    return config.pdrop


def traits(settings: PdropConfig) -> Traits:
    if settings.ratios == "auto":
        return Traits()
    return Traits(fixed_by=f"pruning.pdrop.ratios = {settings.ratios!r}")


def build(settings: PdropConfig, budget: LayerBudget) -> LayerPruner:
    """Stages behind a quarter, a half and three quarters of the layers, or as listed.

    Raises ConfigError for layers or ratios that the decoder cannot take.
    """
    L = budget.shape.num_layers
    quarters = {max(1, L * part // 4) for part in (1, 2, 3)}
    layers = layer_list(settings.layers) or tuple(sorted(quarters - {L}))
    stairs = Staircase(L, prune_layers=layers)
    if settings.ratios != "auto":
        curve = stages(L, layers, ratio_list(settings.ratios))
        schedule = stairs.schedule(curve, "truncate")  # as PyramidDrop rounds listed ratios
    else:
        curve = equal_factors(L, layers, stairs.held_mean, budget.keep_ratio)
        schedule = stairs.schedule(curve)
    return LayerPruner("pdrop", schedule, budget.n_min, positions=settings.positions)
