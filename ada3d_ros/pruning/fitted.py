"""AdaToken-3D's schedule fitted to measured information: the calibration file, and the fit.

Loaded where a schedule is fitted; the fixed curve (pruning/adatoken.py) needs none of it.
"""

from __future__ import annotations

import dataclasses
import logging
import math

import numpy as np

from ada3d_ros.config.pruning import AdaTokenConfig
from ada3d_ros.errors import ConfigError
from ada3d_ros.pruning import fit, schedule
from ada3d_ros.pruning.adatoken import budget_measure, budget_of
from ada3d_ros.pruning.calibration import Calibration, read_calibration
from ada3d_ros.pruning.fit import Fit, FitSettings
from ada3d_ros.pruning.information import InformationSettings, falls_with_depth, information_of
from ada3d_ros.pruning.schedule import Curve, Staircase
from ada3d_ros.pruning.strategy import LayerBudget

logger = logging.getLogger(__name__)


def fit_settings(config: AdaTokenConfig) -> FitSettings:
    """The fit's settings as the fit takes them."""
    f = config.fit
    bounds = {name: (getattr(f, name)[0], getattr(f, name)[1]) for name in ("alpha", "beta", "M")}
    return FitSettings(f.lam, f.L0, f.r_min, **bounds, beta_l2=f.beta_l2)


def information_settings(config: AdaTokenConfig) -> InformationSettings:
    """The weights of eqs. 2-4 as information.py takes them."""
    names = [f.name for f in dataclasses.fields(InformationSettings)]
    return InformationSettings(**{name: getattr(config.inf, name) for name in names})


def filed_calibration(ada: AdaTokenConfig, num_layers: int) -> Calibration:
    """The configured calibration file.

    Raises ConfigError where there is none, or it is of another depth.
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


def filed_information(ada: AdaTokenConfig, num_layers: int) -> tuple[float, ...]:
    """I per layer of the configured calibration file. Raises ConfigError as filed_calibration."""
    masses = filed_calibration(ada, num_layers).masses
    return tuple(map(float, information_of(masses, information_settings(ada)).I))


def information_is_usable(ada: AdaTokenConfig, budget: LayerBudget) -> bool:
    """Whether a curve is to be fitted to the information; False: the fixed curve, with a warning.

    Raises ConfigError for information of another depth, or where on_degenerate refuses it.
    """
    # Of this decoder, and falling.
    I, L = budget.information, budget.shape.num_layers
    if len(I) != L:
        raise ConfigError(f"the information curve is of {len(I)} layers, this decoder has {L}.")
    if falls_with_depth(np.array(I)) or ada.on_degenerate == "flat":
        return True

    # What to do with information that says nothing.
    problem = (
        "the measured information is flat or rises with depth, so it says nothing about where to"
        " prune"
    )
    if ada.on_degenerate == "error":
        raise ConfigError(
            f"{problem} (pruning.adatoken3d.on_degenerate is 'error'; 'fallback' takes the fixed"
            " curve)."
        )
    logger.warning("%s: the fixed curve is used (pruning.adatoken3d.on_degenerate).", problem)
    return False


def fit_information(ada: AdaTokenConfig, stairs: Staircase, budget: LayerBudget) -> Fit:
    """Eq. 5 fitted to the budget's information. Raises ConfigError for a budget out of reach."""
    I, settings = np.array(budget.information), fit_settings(ada)
    mode, target = budget_of(ada, budget.keep_ratio, budget.pre_llm_share)
    if mode == "endpoint":
        return fit.fit_endpoint(I, target, settings, stairs.last_drop)
    if mode == "flops":
        measure = budget_measure(mode, stairs, budget.shape, budget.sizes)
        return fit.fit_measure(I, measure, target, settings)
    return fit_held_mean(I, target, stairs, settings)


def fit_held_mean(I: Curve, mean: float, stairs: Staircase, settings: FitSettings) -> Fit:
    """The fitted curve whose mean AS THE LAYERS GET IT is `mean`.

    Layer 1 always gets all tokens, which the study's own constraint does not know. Raises
    ConfigError where the bounds allow no such curve.
    """
    first = max(stairs.first, math.ceil(settings.L0))  # layers before the onset L0 get all
    weights, constant = dataclasses.replace(stairs, first=first).linear_mean()
    if constant >= 1.0:  # nothing may be dropped anywhere
        raise schedule.UnreachableBudgetError("keep_ratio", mean, 1.0)
    return fit.fit_mean(I, mean, settings, (weights, constant))
