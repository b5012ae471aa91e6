"""Retention schedules: how many of a scene's spatial tokens each decoder layer gets.

O(i) is the share of the scene's N tokens alive in layer i = 1..L (AdaToken-3D eq. 5). Layer 1 gets
all, counts never grow, and the budget is met by what the layers get after the rules of a
`Staircase` (which layers may drop). Numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from ada3d_ros.errors import ConfigError

Curve = npt.NDArray[np.float64]
Measure = Callable[[Curve], float]  # what a budget is about: a curve's mean, end, share of FLOPs
BETA_MAX = 20.0  # exp(-20): everything gone after one layer
ROUNDING = 1e-9  # of float products that should be whole
ROUNDINGS: dict[str, Callable[[float], int]] = {
    "floor": lambda wanted: math.floor(wanted + ROUNDING),
    "truncate": int,
    "round": round,
}


@dataclass(frozen=True, slots=True)
class RetentionSchedule:
    """A curve ready to use: retention[i] = share of N alive in the layer of 0-based index i, held.

    rounding `floor` (AdaToken-3D: down, products that are whole but for float error being whole),
    `truncate` (PyramidDrop: Python's int of the product as it is) or `round` (FastV: half to even).
    """

    retention: tuple[float, ...]
    rounding: str = "floor"

    @property
    def mean(self) -> float:
        """The keep ratio this schedule aims at."""
        return float(np.mean(self.retention))

    def counts(self, num_tokens: int, n_min: int = 1) -> tuple[int, ...]:
        """Tokens of num_tokens alive in each layer: never growing, at least n_min (or all)."""
        alive, counts = num_tokens, []
        for share in self.retention:
            wanted = share * num_tokens
            alive = min(alive, max(ROUNDINGS[self.rounding](wanted), n_min))
            counts.append(alive)
        return tuple(counts)


@dataclass(frozen=True, slots=True)
class Staircase:
    """Where tokens may be dropped.

    first: 1-based first layer that may get fewer; prune_layers: 1-based layers behind which tokens
    may go (empty = all). Raises ConfigError for a layer that the decoder lacks.
    """

    num_layers: int
    first: int = 2
    prune_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        too_deep = [layer for layer in self.prune_layers if not 1 <= layer < self.num_layers]
        if too_deep:
            raise ConfigError(
                f"prune layer {too_deep[0]} is not one of the decoder's: tokens can be dropped"
                f" behind layers 1 to {self.num_layers - 1}."
            )

    def may_drop_before(self, index: int) -> bool:
        """Whether the layer of 0-based index may get fewer tokens than the one before it."""
        late_enough = index + 1 >= max(self.first, 2)
        return late_enough and (not self.prune_layers or index in self.prune_layers)

    @property
    def last_drop(self) -> int:
        """0-based index of the last layer that may get fewer than the one before it; or 0."""
        return max((i for i in range(1, self.num_layers) if self.may_drop_before(i)), default=0)

    def hold(self, curve: Curve) -> Curve:
        """The curve (L,) as the layers get it.

        1 in layer 1, changed only where tokens may drop, never growing.
        """
        held = np.empty(self.num_layers)
        alive = 1.0
        for index in range(self.num_layers):
            if index and self.may_drop_before(index):
                alive = min(alive, float(curve[index]))
            held[index] = alive
        return held

    def held_mean(self, curve: Curve) -> float:
        """The budget of mode `mean`: the mean over layers as they get the curve."""
        return float(self.hold(np.clip(curve, 0.0, 1.0)).mean())

    def linear_mean(self) -> tuple[Curve, float]:
        """weights (L,) and a constant of a falling curve O: its held mean = weights . O + constant.

        O within 0..1.
        """
        weights, source = np.zeros(self.num_layers), -1
        for index in range(self.num_layers):
            source = index if index and self.may_drop_before(index) else source
            if source >= 0:
                weights[source] += 1.0 / self.num_layers
        return weights, 1.0 - float(weights.sum())

    def schedule(self, curve: Curve, rounding: str = "floor") -> RetentionSchedule:
        """The curve, clipped to 0..1 and held."""
        held = self.hold(np.clip(curve, 0.0, 1.0))
        return RetentionSchedule(tuple(map(float, held)), rounding)


# -- curves


def exponential(num_layers: int, alpha: float, beta: float, M: float, L0: float = 1.0) -> Curve:
    """O_pre(i) = alpha exp(-beta (i - L0)) + M for i = 1..L (eq. 5), not clipped."""
    return alpha * np.exp(-beta * (np.arange(1, num_layers + 1) - L0)) + M


def quadratic(num_layers: int, last: float) -> Curve:
    """The paper's figure 3: O(i) = 1 - (1 - last) x^2, x from 0 in layer 1 to 1 in layer L."""
    return 1.0 - (1.0 - last) * np.linspace(0.0, 1.0, num_layers) ** 2


def stages(num_layers: int, layers: Sequence[int], ratios: Sequence[float]) -> Curve:
    """1 up to layers[0] (1-based), ratios[0] behind it, ratios[1] behind layers[1] (PyramidDrop).

    Raises ConfigError for layers that do not rise, ratios that do not fall, or unequal numbers.
    """
    # Check the two lists.
    if len(layers) != len(ratios):
        raise ConfigError(
            f"{len(layers)} stage layers and {len(ratios)} ratios: give one ratio for each stage"
            " layer."
        )
    if list(layers) != sorted(set(layers)):
        raise ConfigError(f"stage layers {list(layers)} must rise, each named once.")
    if list(ratios) != sorted(ratios, reverse=True):
        raise ConfigError(
            f"stage ratios {list(ratios)} must fall: they are shares of all tokens, and dropped"
            " ones do not return."
        )

    # A later stage overwrites the rest of an earlier one.
    curve = np.ones(num_layers)
    for layer, ratio in zip(layers, ratios, strict=True):
        curve[layer:] = ratio
    return curve


def logistic(
    num_layers: int, slope: float, midpoint: float, target_mean: float, first: int = 2
) -> Curve:
    """AutoPrune's curve: O(i) = min(1, A / (1 + exp(slope (x - midpoint)))), x = relative depth.

    Layers before `first` are 1; A is such that the mean over all layers is target_mean exactly
    (closed form, clipped layers taken out in turn). Raises UnreachableBudgetError.
    """
    # What the layers from `first` on may keep together.
    x = np.linspace(0.0, 1.0, num_layers)
    shape = 1.0 / (1.0 + np.exp(np.clip(slope * (x - midpoint), -500.0, 500.0)))
    budget = target_mean * num_layers - (first - 1)
    if budget < 0.0:
        raise UnreachableBudgetError("keep_ratio", target_mean, (first - 1) / num_layers)

    # The curve falls, so the layers clipped at 1 are the first ones: try none, one, two, ...
    rest = shape[first - 1 :]
    curve = np.ones(num_layers)
    for clipped in range(len(rest)):
        scale = (budget - clipped) / rest[clipped:].sum()
        if scale * rest[clipped] <= 1.0:
            curve[first - 1 + clipped :] = scale * rest[clipped:]
            break
    return curve


# -- curves that meet a budget


def fixed(
    num_layers: int,
    measure: Measure,
    target: float,
    M: float = 0.2,
    name: str = "keep_ratio",
    L0: float = 1.0,
) -> Curve:
    """Eq. 5 without calibration: O(1) = 1, floor min(M, target / 2), beta by the budget.

    alpha = 0.8, M = 0.2, beta = 0.1236 on 32 layers are the paper's default (mean 0.411). Where
    even the steepest decay keeps too much above the floor (few layers), the floor is lowered
    instead. L0 above 1: the decay begins there.
    """
    floor = min(M, target / 2)

    def curve(beta: float, floor: float = floor) -> Curve:
        return np.minimum(1.0, exponential(num_layers, 1.0 - floor, beta, floor, L0))

    if measure(curve(BETA_MAX)) <= target:
        return solve_budget(curve, measure, target, 0.0, BETA_MAX, name)
    return solve_budget(lambda lower: curve(BETA_MAX, lower), measure, target, 0.0, floor, name)


def equal_factors(
    num_layers: int,
    layers: Sequence[int],
    measure: Measure,
    target: float,
    name: str = "keep_ratio",
) -> Curve:
    """Stages that each keep the same share of what the one before kept, by the budget."""

    def curve(factor: float) -> Curve:
        return stages(num_layers, layers, [factor ** (n + 1) for n in range(len(layers))])

    return solve_budget(curve, measure, target, 0.0, 1.0, name)


def solve_budget(
    curve_of: Callable[[float], Curve],
    measure: Measure,
    target: float,
    low: float,
    high: float,
    name: str,
) -> Curve:
    """The curve of the parameter in low..high whose measure meets the target.

    The measure must be monotone between them. Raises ConfigError with the least that can be reached
    where the target lies below it.
    """
    # What the two ends reach.
    ends = measure(curve_of(low)), measure(curve_of(high))
    if target < min(ends) - 1e-9:
        raise UnreachableBudgetError(name, target, min(ends))
    if target > max(ends) + 1e-9:
        raise ConfigError(
            f"{name} = {target:g} is above what the tokens that enter the language model come to;"
            f" allowed: up to {max(ends):g}."
        )

    # At an end, within rounding; else between them.
    gaps = ends[0] - target, ends[1] - target
    if min(map(abs, gaps)) <= 1e-12 or gaps[0] * gaps[1] > 0:
        return curve_of(low if abs(gaps[0]) <= abs(gaps[1]) else high)

    def gap(x: float) -> float:
        return measure(curve_of(x)) - target

    return curve_of(brentq(gap, low, high, xtol=1e-14, rtol=1e-13, maxiter=500))


class UnreachableBudgetError(ConfigError):
    """A budget below what a schedule can reach on a decoder."""

    def __init__(self, name: str, target: float, least: float) -> None:
        super().__init__(
            f"{name} = {target:g} cannot be met on this decoder; allowed: {_up(least):g} to 1 (its"
            " first layers see all tokens; a strategy before the language model, as voxel_dpp, can"
            " go lower)."
        )
        self.name, self.target, self.least = name, target, least

    def scaled(self, share: float, is_root: bool) -> UnreachableBudgetError:
        """The same told in shares of all tokens, where only `share` of them enter the decoder;
        is_root: that share is the square root of the budget, and grows with it.
        """
        least = self.least**2 if is_root else self.least * share
        return UnreachableBudgetError(self.name, round(self.target * share, 6), least)


def _up(value: float) -> float:
    """Rounded up to 3 decimals: a bound that a person can type and that still holds."""
    return math.ceil(value * 1000 - 1e-6) / 1000


# -- lists in settings


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
