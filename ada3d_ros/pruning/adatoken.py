"""AdaToken-3D: the configured reading of the paper's retention curve, its budget, its information.

Each ambiguity of the paper is a key of `pruning.adatoken3d`; docs/pruning.md says which reading is
the default and why. Offers the three functions of a strategy (`pruning/baselines/__init__.py`).
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from ada3d_ros.config.pruning import AdaTokenConfig, PruningConfig
from ada3d_ros.errors import ConfigError
from ada3d_ros.pruning import schedule
from ada3d_ros.pruning.cost import DecoderShape, PromptSizes, prefill_macs
from ada3d_ros.pruning.schedule import Curve, Measure, Staircase, layer_list, ratio_list
from ada3d_ros.pruning.strategy import LayerBudget, LayerPruner, Traits

# -- the strategy


def read_settings(config: PruningConfig) -> tuple[AdaTokenConfig, int]:
    """The settings and the seed (of rank.score random)."""
    return config.adatoken3d, config.seed


def traits(settings: tuple[AdaTokenConfig, int]) -> Traits:
    mode = settings[0].budget.mode
    fixed_by = "" if mode == "mean" else f"pruning.adatoken3d.budget.mode = {mode!r}"
    return Traits(fixed_by, depends_on_sizes=mode == "flops")


def build(settings: tuple[AdaTokenConfig, int], budget: LayerBudget) -> LayerPruner:
    """Raises ConfigError for a budget out of reach, or layers that the decoder lacks."""
    ada, seed = settings
    stairs = Staircase(budget.shape.num_layers, ada.first_prune_layer, layer_list(ada.prune_layers))
    if ada.schedule == "stages":
        stairs = dataclasses.replace(stairs, prune_layers=layer_list(ada.stage_layers))
    return LayerPruner(
        "adatoken3d",
        stairs.schedule(adatoken_curve(ada, stairs, budget)),
        budget.n_min,
        ada.rank.score,
        ada.rank.query,
        ada.rank.rope,
        seed,
        positions=ada.positions,
    )


# -- the curve


def adatoken_curve(ada: AdaTokenConfig, stairs: Staircase, budget: LayerBudget) -> Curve:
    """O(i) (L,) under the configured schedule and budget, before counts.

    Raises ConfigError for settings that contradict each other, and budgets out of reach.
    """
    # A budget of everything.
    mode, target = budget_of(ada, budget.keep_ratio, budget.pre_llm_share)
    L, sizes = budget.shape.num_layers, budget.sizes
    all_enter = sizes.num_spatial == sizes.num_before_selection
    if target >= 1.0 and (mode in ("mean", "endpoint") or (mode == "flops" and all_enter)):
        return np.ones(L)

    # A curve as written.
    if mode == "parameters":
        return _written_curve(ada, L)
    if ada.schedule == "stages" and ada.stage_ratios != "auto":
        raise ConfigError(
            f"pruning.adatoken3d.stage_ratios = {ada.stage_ratios!r} fix what is kept: set"
            " budget.mode to 'parameters', or stage_ratios to 'auto' to meet the budget."
        )

    # A curve that meets the budget.
    measure = budget_measure(mode, stairs, budget.shape, sizes)
    name = "keep_ratio" if ada.budget.mode == "mean" else f"budget.value ({mode})"
    if ada.schedule == "fitted":
        from ada3d_ros.pruning import fitted  # what fits is loaded where something is fitted

        if fitted.information_is_usable(ada, budget):
            return fitted.fit_information(ada, stairs, budget).curve
    if ada.schedule == "stages":
        return schedule.equal_factors(L, layer_list(ada.stage_layers), measure, target, name)
    if ada.schedule == "quadratic":
        curve_of = functools.partial(schedule.quadratic, L)
        return schedule.solve_budget(curve_of, measure, target, 0.0, 1.0, name)
    return schedule.fixed(L, measure, target, ada.M, name, ada.fit.L0)


def _written_curve(ada: AdaTokenConfig, num_layers: int) -> Curve:
    """Budget mode `parameters`: alpha, beta, M (for `stages` their ratios) as they stand."""
    if ada.schedule == "quadratic":
        return schedule.quadratic(num_layers, ada.budget.value)
    if ada.schedule == "stages":
        if ada.stage_ratios == "auto":
            raise ConfigError(
                "budget.mode 'parameters' with schedule 'stages' needs stage_ratios, for example"
                " 0.8,0.5,0.25."
            )
        layers, ratios = layer_list(ada.stage_layers), ratio_list(ada.stage_ratios)
        return schedule.stages(num_layers, layers, ratios)
    curve = schedule.exponential(num_layers, ada.alpha, ada.beta, ada.M, ada.fit.L0)
    return np.clip(curve, 0.0, 1.0)


# -- the budget


def budget_of(ada: AdaTokenConfig, ratio: float, share: float = 1.0) -> tuple[str, float]:
    """The budget's mode, and its target in shares of what enters the decoder.

    ratio: the keep ratio, of what enters; share: of all tokens, what enters (budgets of modes
    endpoint and flops are of all). The paper's 'ratio' is read as configured. Raises ConfigError
    for a budget above what enters.
    """
    # The mean that was asked for, or a number that is one already.
    mode, value = ada.budget.mode, ada.budget.value
    if mode == "mean":
        return "mean", ratio
    if mode != "endpoint":
        return mode, value

    # The paper's 'ratio': three readings.
    if ada.budget.semantics == "mean_dropped":
        value = 1.0 - value
    if value > share + 1e-9:
        raise ConfigError(
            f"pruning.adatoken3d.budget keeps {value:g} of all spatial tokens, but only {share:g}"
            f" of them enter the language model (pruning.pre_keep_ratio); allowed: up to {share:g}."
        )
    mode = "endpoint" if ada.budget.semantics == "last_layer_retained" else "mean"
    return mode, min(1.0, value / share)


def budget_measure(
    mode: str, stairs: Staircase, shape: DecoderShape, sizes: PromptSizes
) -> Measure:
    """What the budget of a mode measures of a curve, as the layers get it."""
    if mode == "mean":
        return stairs.held_mean

    # The last layer's share, or that of the unpruned prompt's FLOPs.
    def held(curve: Curve) -> Curve:
        return stairs.hold(np.clip(curve, 0.0, 1.0))

    if mode == "endpoint":
        return lambda curve: float(held(curve)[-1])
    full = [sizes.num_before_selection + sizes.num_text] * shape.num_layers
    unpruned = prefill_macs(shape, full)

    def share_of_flops(curve: Curve) -> float:
        tokens = held(curve) * sizes.num_spatial + sizes.num_text
        return prefill_macs(shape, list(tokens)) / unpruned

    return share_of_flops
