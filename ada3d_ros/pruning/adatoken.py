"""AdaToken-3D's retention curve: the configured reading of the paper, its budget, and where its
information comes from.

Each ambiguity of the paper is a key of `pruning.adatoken3d`; docs/pruning.md says which reading is
the default and why.
"""

from __future__ import annotations

import dataclasses
import logging
import math

import numpy as np

from ada3d_ros.config.pruning import AdaTokenConfig
from ada3d_ros.errors import ConfigError
from ada3d_ros.pruning import fit, schedule
from ada3d_ros.pruning.calibration import Calibration, read_calibration
from ada3d_ros.pruning.cost import DecoderShape, prefill_macs
from ada3d_ros.pruning.fit import Fit, FitSettings
from ada3d_ros.pruning.information import InformationSettings, falls_with_depth, information_of
from ada3d_ros.pruning.schedule import Curve, Measure, Staircase

logger = logging.getLogger(__name__)


def fit_settings(config: AdaTokenConfig) -> FitSettings:
    """The fit's settings as the fit takes them."""
    f = config.fit
    bounds = {name: (getattr(f, name)[0], getattr(f, name)[1]) for name in ("alpha", "beta", "M")}
    return FitSettings(
        f.lam, f.L0, f.r_min, bounds["alpha"], bounds["beta"], bounds["M"], f.beta_l2
    )


def information_settings(config: AdaTokenConfig) -> InformationSettings:
    """The weights of eqs. 2-4 as information.py takes them."""
    names = [f.name for f in dataclasses.fields(InformationSettings)]
    return InformationSettings(**{name: getattr(config.inf, name) for name in names})


def layer_list(text: str) -> tuple[int, ...]:
    """'4,8,12' as numbers; 'all' and 'auto' as none."""
    return () if text in ("all", "auto") else tuple(int(part) for part in text.split(","))


def ratio_list(text: str) -> list[float]:
    """'0.5,0.25' as numbers. Raises ConfigError for one that is no share."""
    try:
        ratios = [float(part) for part in text.split(",")]
    except ValueError:
        ratios = [-1.0]
    if not all(0.0 <= ratio <= 1.0 for ratio in ratios):
        raise ConfigError(
            f"ratios {text!r}: each must be a share of all spatial tokens, a number from 0 to 1."
        )
    return ratios


def mean_as_held(stairs: Staircase) -> Measure:
    """The budget of mode `mean`: the mean over layers as they get the curve."""
    return lambda curve: float(stairs.hold(np.clip(curve, 0.0, 1.0)).mean())


def adatoken_curve(
    ada: AdaTokenConfig,
    stairs: Staircase,
    ratio: float,
    shape: DecoderShape,
    spatial: int,
    text: int,
    information: tuple[float, ...] | None = None,
    num_before_selection: int | None = None,
    share: float = 1.0,
) -> Curve:
    """O(i) under the configured schedule and budget, before counts; see docs/pruning.md for the
    readings of the paper.

    ratio: the mean to keep of what enters the decoder; share: of all tokens, what enters (budgets
    of modes endpoint and flops are of all).
    """
    mode, target = budget_of(ada, ratio, share)
    if target >= 1.0 and (
        mode in ("mean", "endpoint")
        or (mode == "flops" and spatial == (num_before_selection or spatial))
    ):
        return np.ones(shape.num_layers)
    measures = budget_measures(stairs, shape, spatial, text, num_before_selection)
    name = "keep_ratio" if ada.budget.mode == "mean" else f"budget.value ({mode})"
    L = shape.num_layers
    if ada.schedule == "fitted" and mode != "parameters":
        I = np.array(information) if information is not None else _filed_information(ada, L)
        if len(I) != L:
            raise ConfigError(f"the information curve is of {len(I)} layers, this decoder has {L}.")
        if falls_with_depth(I) or ada.on_degenerate == "flat":
            return fit_information(ada, stairs, I, mode, measures, target).curve
        problem = (
            "the measured information is flat or rises with depth, so it says nothing about where"
            " to prune"
        )
        if ada.on_degenerate == "error":
            raise ConfigError(
                f"{problem} (pruning.adatoken3d.on_degenerate is 'error'; 'fallback' takes the"
                " fixed curve)."
            )
        logger.warning("%s: the fixed curve is used (pruning.adatoken3d.on_degenerate).", problem)
        return schedule.fixed(L, measures[mode], target, ada.M, name, ada.fit.L0)
    if ada.schedule == "stages":
        layers = layer_list(ada.stage_layers)
        if ada.stage_ratios != "auto":
            if mode != "parameters":
                raise ConfigError(
                    f"pruning.adatoken3d.stage_ratios = {ada.stage_ratios!r} fix what is kept: set"
                    " budget.mode to 'parameters', or stage_ratios to 'auto' to meet the budget."
                )
            return schedule.stages(L, layers, ratio_list(ada.stage_ratios))
        if mode == "parameters":
            raise ConfigError(
                "budget.mode 'parameters' with schedule 'stages' needs stage_ratios, for example"
                " 0.8,0.5,0.25."
            )
        return schedule.equal_factors(L, layers, measures[mode], target, name)
    if ada.schedule == "quadratic":
        if mode == "parameters":
            return schedule.quadratic(L, ada.budget.value)
        return schedule.solve_budget(
            lambda last: schedule.quadratic(L, last), measures[mode], target, 0.0, 1.0, name
        )
    if mode == "parameters":
        return np.clip(schedule.exponential(L, ada.alpha, ada.beta, ada.M, ada.fit.L0), 0.0, 1.0)
    return schedule.fixed(L, measures[mode], target, ada.M, name, ada.fit.L0)


def budget_measures(
    stairs: Staircase,
    shape: DecoderShape,
    spatial: int,
    text: int,
    num_before_selection: int | None = None,
) -> dict[str, Measure]:
    """What each budget mode measures of a curve: of `spatial` tokens that enter the decoder, of
    `num_before_selection` before any choice.
    """

    def held(curve: Curve) -> Curve:
        return stairs.hold(np.clip(curve, 0.0, 1.0))

    unpruned = prefill_macs(shape, [(num_before_selection or spatial) + text] * shape.num_layers)
    return {
        "mean": mean_as_held(stairs),
        "endpoint": lambda curve: float(held(curve)[-1]),
        "flops": lambda curve: prefill_macs(shape, list(held(curve) * spatial + text)) / unpruned,
    }


def budget_of(ada: AdaTokenConfig, ratio: float, share: float = 1.0) -> tuple[str, float]:
    """The mode and its target in shares of what enters the decoder; the paper's 'ratio' read as
    configured.

    Raises ConfigError for a budget above what enters.
    """
    mode, value = ada.budget.mode, ada.budget.value
    if mode == "mean":
        return "mean", ratio
    if mode != "endpoint":
        return mode, value
    if ada.budget.semantics == "mean_dropped":
        value = 1.0 - value
    if value > share + 1e-9:
        raise ConfigError(
            f"pruning.adatoken3d.budget keeps {value:g} of all spatial tokens, but only {share:g}"
            f" of them enter the language model (pruning.pre_keep_ratio); allowed: up to {share:g}."
        )
    return ("endpoint" if ada.budget.semantics == "last_layer_retained" else "mean"), min(
        1.0, value / share
    )


def _filed_information(ada: AdaTokenConfig, num_layers: int) -> Curve:
    return information_of(filed_calibration(ada, num_layers).masses, information_settings(ada)).I


def filed_calibration(ada: AdaTokenConfig, num_layers: int) -> Calibration:
    """The configured calibration file. Raises ConfigError where there is none, or it is of another
    depth.
    """
    if not ada.calibration_file:
        raise ConfigError(
            "pruning.adatoken3d.schedule is 'fitted' and calibration_file is empty: write one with"
            " `ada3d calibrate`, or set pruning.adatoken3d.calibration to 'per_scene'."
        )
    calibration = read_calibration(ada.calibration_file)
    if calibration.num_layers != num_layers:
        raise ConfigError(
            f"{ada.calibration_file} was measured on {calibration.model or 'a model'} with"
            f" {calibration.num_layers} layers, this decoder has {num_layers}: write one for this"
            " model with `ada3d calibrate`."
        )
    return calibration


def fit_information(
    ada: AdaTokenConfig,
    stairs: Staircase,
    I: Curve,
    mode: str,
    measures: dict[str, Measure],
    target: float,
) -> Fit:
    """Eq. 5 fitted to information I (L,) under the budget."""
    settings = fit_settings(ada)
    if mode == "endpoint":
        return fit.fit_endpoint(I, target, settings, stairs.last_drop)
    if mode == "flops":
        return fit.fit_measure(I, measures["flops"], target, settings)
    return fit_held_mean(I, target, stairs, settings)


def fit_held_mean(I: Curve, mean: float, stairs: Staircase, settings: FitSettings) -> Fit:
    """The fitted curve whose mean AS THE LAYERS GET IT is `mean`: layer 1 always sees all tokens,
    which the study's own constraint does not know. Raises ConfigError where the bounds allow no
    such curve.
    """
    onset = dataclasses.replace(
        stairs, first=max(stairs.first, math.ceil(settings.L0))
    )  # layers before L0 see all
    weights, constant = onset.linear_mean()
    if constant >= 1.0:  # nothing may be dropped anywhere
        raise schedule.UnreachableBudgetError("keep_ratio", mean, 1.0)
    return fit.fit_mean(I, mean, settings, (weights, constant))
