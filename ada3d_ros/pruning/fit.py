"""Fitting the retention curve to measured information (AdaToken-3D eqs. 5 and 7), by SLSQP.

O_pre(i) = alpha exp(-beta (i - L0)) + M is fitted to J = r_min + (1 - r_min) I under a budget.
`closed_form` is a second solver for the mean budget, without an optimiser in alpha and M; they must
agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from ada3d_ros.errors import ConfigError
from ada3d_ros.pruning.schedule import Curve, UnreachableBudgetError, exponential

Bounds = tuple[float, float]
# weights (L,) and a constant: the mean that a budget is about is weights . O + constant
# (`Staircase.linear_mean`)
HeldMean = tuple[Curve, float]


@dataclass(frozen=True, slots=True)
class FitSettings:
    """Bounds and weights; the defaults are those of `pruning.adatoken3d.fit`."""

    lam: float = 1.0
    L0: float = 1.0
    r_min: float = 0.05
    alpha: Bounds = (0.5, 1.2)
    beta: Bounds = (0.001, 2.0)
    M: Bounds = (-1.0, 1.0)
    beta_l2: float = 0.0

    @property
    def onset(self) -> int:
        """0-based index of the layer where the decay begins (L0); those before it get all."""
        return math.ceil(self.L0) - 1


@dataclass(frozen=True, eq=False, slots=True)
class Fit:
    """Parameters of eq. 5 and the curve O(i) = clip(O_pre, r_min, 1).

    Compare curves, never parameters: near beta = 0 only alpha * beta and alpha + M are determined.
    """

    alpha: float
    beta: float
    M: float
    loss: float
    curve: Curve


def target_curve(information: Curve, r_min: float) -> Curve:
    """J = r_min + (1 - r_min) I of normalised information I in 0..1."""
    return r_min + (1.0 - r_min) * np.asarray(information, dtype=np.float64)


def loss_of(curve: Curve, wanted: Curve, settings: FitSettings, beta: float = 0.0) -> float:
    """Eq. 7: mean squared difference + lam times that of the slopes + beta_l2 beta^2."""
    difference = curve - wanted
    slopes = np.gradient(curve) - np.gradient(wanted)
    slope_loss, damping = settings.lam * np.mean(slopes**2), settings.beta_l2 * beta**2
    return float(np.mean(difference**2) + slope_loss + damping)


# -- fits under the three budgets


def fit_mean(
    information: Curve,
    mean: float,
    settings: FitSettings = FitSettings(),
    held: HeldMean | None = None,
) -> Fit:
    """The curve whose mean is `mean`; with `held` the mean as the layers get it.

    Raises ConfigError for a mean below what r_min allows, or above 1.
    """
    weights, constant = _plain_mean(information) if held is None else held
    information = _checked(information, mean, settings, "keep_ratio", held)
    if mean >= 1.0:
        return _everything(information, settings)
    start = closed_form(information, mean, settings, held)

    def residual(O: Curve) -> float:
        return float(weights @ O) + constant - mean

    return solve_slsqp(information, settings, [residual], start)


def fit_endpoint(
    information: Curve, last: float, settings: FitSettings = FitSettings(), last_layer: int = -1
) -> Fit:
    """The curve with O(1) = 1 and O = last in the layer of 0-based index last_layer.

    Raises ConfigError outside r_min..1.
    """
    information = _checked(information, last, settings, "budget.value")
    if last >= 1.0:
        return _everything(information, settings)
    ends: list[Callable[[Curve], float]] = [
        lambda O: float(O[settings.onset]) - 1.0,
        lambda O: float(O[last_layer]) - last,
    ]
    return solve_slsqp(information, settings, ends, None)


def fit_measure(
    information: Curve,
    measure: Callable[[Curve], float],
    target: float,
    settings: FitSettings = FitSettings(),
) -> Fit:
    """The curve whose smooth measure (as its share of FLOPs) is `target`.

    Raises ConfigError for a target out of reach.
    """
    # What can be reached at all.
    information = _checked(information, target, settings, "budget.value")
    if target >= 1.0:
        return _everything(information, settings)
    most = measure(np.ones(len(information)))
    if most < target - 1e-9:
        raise ConfigError(
            f"budget.value = {target:g} is above what the tokens that enter the language model come"
            f" to; allowed: up to {most:g}."
        )

    # Start from the mean of that value, which may be out of reach where the measure is not.
    try:
        start = closed_form(information, target, settings)
    except ConfigError:
        start = None

    def residual(O: Curve) -> float:
        return measure(np.clip(O, 0.0, 1.0)) - target

    return solve_slsqp(information, settings, [residual], start)


def _checked(
    information: Curve,
    value: float,
    settings: FitSettings,
    name: str,
    held: HeldMean | None = None,
) -> Curve:
    """The information (L,) float64. Raises ConfigError for a bad curve or a value out of reach."""
    # A number for each layer.
    information = np.asarray(information, dtype=np.float64)
    if information.ndim != 1 or len(information) < 3 or not np.isfinite(information).all():
        raise ConfigError(
            f"information curve of shape {information.shape}: expected one finite number for each"
            " of at least 3 layers."
        )

    # A value that a curve of at least r_min can have.
    weights, constant = _plain_mean(information) if held is None else held
    least = settings.r_min * float(weights.sum()) + constant
    if held is not None and value < least - 1e-12:
        raise UnreachableBudgetError(name, value, least)
    if not least - 1e-12 <= value <= 1.0:
        raise ConfigError(
            f"{name} = {value:g} cannot be fitted; allowed: {settings.r_min:g}"
            " (pruning.adatoken3d.fit.r_min) to 1."
        )
    return information


def _plain_mean(information: Curve) -> HeldMean:
    count = len(information)
    return np.full(count, 1.0 / max(count, 1)), 0.0


def _everything(information: Curve, settings: FitSettings) -> Fit:
    """Nothing is pruned: the only curve with a mean or an end of 1."""
    ones = np.ones(len(information))
    loss = loss_of(ones, target_curve(information, settings.r_min), settings)
    return Fit(0.0, 0.0, 1.0, loss, ones)


def _finish(information: Curve, settings: FitSettings, alpha: float, beta: float, M: float) -> Fit:
    curve = exponential(len(information), alpha, beta, M, settings.L0)
    loss = loss_of(curve, target_curve(information, settings.r_min), settings, beta)
    curve = np.clip(curve, settings.r_min, 1.0)
    curve[: settings.onset] = 1.0
    return Fit(alpha, beta, M, loss, curve)


# -- the two solvers


def solve_slsqp(
    information: Curve,
    settings: FitSettings,
    equalities: list[Callable[[Curve], float]],
    start: Fit | None,
) -> Fit:
    """The best of several SLSQP runs under equalities on O; `start` is one of their starts.

    Raises ConfigError where none is feasible.
    """
    count, wanted = len(information), target_curve(information, settings.r_min)

    def curve_of(p: Curve) -> Curve:
        return exponential(count, p[0], p[1], p[2], settings.L0)

    # The equalities, O <= 1 at the onset, O >= r_min in the last layer.
    constraints = [{"type": "eq", "fun": lambda p, f=f: f(curve_of(p))} for f in equalities]
    constraints += [
        {"type": "ineq", "fun": lambda p: 1.0 - curve_of(p)[settings.onset]},
        {"type": "ineq", "fun": lambda p: curve_of(p)[-1] - settings.r_min},
    ]
    bounds = [settings.alpha, settings.beta, settings.M]

    # Starts over the whole range of beta: one alone can end in a local optimum.
    middle = float(np.mean(settings.alpha))
    slowest, fastest = (max(beta, 1e-3) for beta in settings.beta)
    starts = [(middle, beta, 0.0) for beta in np.geomspace(slowest, fastest, 5)]
    if start is not None:
        starts.insert(0, (start.alpha, start.beta, start.M))

    # The feasible run with the least loss.
    best = None
    for guess in starts:
        result = minimize(
            lambda p: loss_of(curve_of(p), wanted, settings, p[1]),
            np.clip(guess, *np.transpose(bounds)),
            method="SLSQP",
            bounds=bounds,
            constraints=constraints,
            options={"ftol": 1e-12, "maxiter": 500},
        )
        curve = curve_of(result.x)
        within = curve[settings.onset] <= 1.0 + 1e-7 and curve[-1] >= settings.r_min - 1e-7
        feasible = within and all(abs(f(curve)) < 1e-7 for f in equalities)
        if feasible and (best is None or result.fun < best.fun - 1e-13):
            best = result
    if best is None:
        raise ConfigError(
            "no retention curve meets this budget within the bounds: widen"
            " pruning.adatoken3d.fit.alpha, beta or M, or choose another budget."
        )
    return _finish(information, settings, *map(float, best.x))


def closed_form(
    information: Curve,
    mean: float,
    settings: FitSettings = FitSettings(),
    held: HeldMean | None = None,
) -> Fit:
    """The mean budget of `fit_mean` by variable projection; needs no optimiser.

    For each beta of a fine scan M follows from the mean, the loss is a quadratic in alpha, and its
    minimum is clipped to what bounds and constraints allow. Raises ConfigError where no beta leaves
    a feasible alpha.
    """
    budget = _plain_mean(information) if held is None else held
    information = _checked(information, mean, settings, "keep_ratio", held)

    # Scan beta, each time finer around the best.
    low, high = settings.beta
    best: tuple[float, float, float, float] | None = None
    grid = np.linspace(low, high, 400)
    for _ in range(6):
        for beta in grid:
            found = _best_alpha(information, mean, settings, float(beta), budget)
            if found is not None and (best is None or found[0] < best[0]):
                best = found
        if best is None:
            break
        step = grid[1] - grid[0] if len(grid) > 1 else 0.0
        grid = np.linspace(max(low, best[2] - step), min(high, best[2] + step), 41)
    if best is None:
        raise ConfigError(
            f"no retention curve with mean {mean:g} lies within the bounds: widen"
            " pruning.adatoken3d.fit.alpha, beta or M."
        )
    return _finish(information, settings, *best[1:])


def _best_alpha(
    information: Curve, mean: float, settings: FitSettings, beta: float, held: HeldMean
) -> tuple[float, float, float, float] | None:
    """(loss, alpha, beta, M) for one beta; None where nothing is feasible."""
    # O = mean + alpha c, where c is the decay e less its mean, and M = mean - alpha mean(e).
    weights, constant = held
    mean = (mean - constant) / float(weights.sum())  # of the layers that follow the curve
    wanted = target_curve(information, settings.r_min)
    e = exponential(len(information), 1.0, beta, 0.0, settings.L0)
    e_mean = float(weights @ e / weights.sum())
    c, g = e - e_mean, np.gradient(e)

    # What alpha may be: its bounds, O at the onset <= 1, O(L) >= r_min, M within its bounds.
    low, high = settings.alpha
    constraints = (  # slope * alpha <= room
        (c[settings.onset], 1.0 - mean),
        (-c[-1], mean - settings.r_min),
        (e_mean, mean - settings.M[0]),
        (-e_mean, settings.M[1] - mean),
    )
    for slope, room in constraints:
        if slope > 0:
            high = min(high, room / slope)
        elif slope < 0:
            low = max(low, room / slope)
        elif room < 0:
            return None
    if low > high:
        return None

    # The minimum of the quadratic in alpha, clipped.
    y, dy = wanted - mean, np.gradient(wanted)
    curvature = float(c @ c + settings.lam * (g @ g))
    free = float(c @ y + settings.lam * (g @ dy)) / curvature if curvature > 0 else low
    alpha = float(np.clip(free, low, high))
    M = mean - alpha * e_mean
    curve = exponential(len(information), alpha, beta, M, settings.L0)
    return loss_of(curve, wanted, settings, beta), alpha, beta, M
