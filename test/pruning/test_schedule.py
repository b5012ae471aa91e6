"""Retention schedules: curves, where tokens may drop, budgets that are met, whole tokens."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ada3d_ros.errors import ConfigError
from ada3d_ros.pruning.schedule import (
    RetentionSchedule,
    Staircase,
    equal_factors,
    exponential,
    fixed,
    logistic,
    quadratic,
    solve_budget,
    stages,
)
from test.support.decoders import LAYERS, SHAPE, policy_of

SETTINGS = settings(deadline=None, derandomize=True, max_examples=60)
shares = st.floats(0.0, 1.0, allow_nan=False)
curves = st.lists(shares, min_size=1, max_size=40)


def mean(curve: np.ndarray) -> float:
    return float(np.mean(curve))


# -- P11: whole tokens


@SETTINGS
@given(curves, st.integers(0, 3000), st.integers(1, 50), st.sampled_from(["floor", "round"]))
def test_p11_counts_start_with_all_never_grow_and_keep_n_min(
    curve: list[float], total: int, n_min: int, rounding: str
) -> None:
    """P11: n_1 = N, non-increasing, at least n_min (or all there are).

    floor(O N), or its nearest whole number.
    """
    held = Staircase(len(curve)).hold(np.array(curve))
    counts = RetentionSchedule(tuple(map(float, held)), rounding).counts(total, n_min)
    assert counts[0] == total
    assert list(counts) == sorted(counts, reverse=True)
    assert min(counts) >= min(n_min, total)
    for share, count in zip(held, counts, strict=True):
        if count > n_min and rounding == "floor":
            assert count == math.floor(share * total + 1e-9)
        elif count > n_min:
            assert abs(count - share * total) <= 0.5


@SETTINGS
@given(curves, st.integers(1, 3000))
def test_p11_sum_of_counts_matches_the_mean(curve: list[float], total: int) -> None:
    """P11: the mean over layers of the counts is the schedule's mean.

    Less what rounding down takes (under a token).
    """
    schedule = RetentionSchedule(tuple(map(float, Staircase(len(curve)).hold(np.array(curve)))))
    achieved = sum(schedule.counts(total, 0)) / len(curve) / total
    assert schedule.mean - 1.0 / total < achieved <= schedule.mean + 1e-9


@pytest.mark.parametrize(
    ("share", "total", "down", "nearest"),
    [
        (0.4, 144, 57, 58),
        (0.5, 101, 50, 50),
        (0.5, 103, 51, 52),
        (0.29, 100, 29, 29),
        (0.7, 10, 7, 7),
        (0.1, 9, 0, 1),
    ],
)
def test_rounding_down_or_half_to_even(share: float, total: int, down: int, nearest: int) -> None:
    """FastV rounds half to even (50.5 -> 50, 51.5 -> 52).

    A product that should be whole does not lose a token to floats (0.29 * 100 = 28.999...).
    """
    assert RetentionSchedule((1.0, share)).counts(total, 0) == (total, down)
    assert RetentionSchedule((1.0, share), "round").counts(total, 0) == (total, nearest)


@pytest.mark.parametrize("total", [101, 103, 145, 147])
def test_fastv_as_configured_rounds_half_to_even(total: int) -> None:
    """'Half behind layer 2' must not depend on the last bit of the solved share."""
    pruner = policy_of("fastv", (2 + 6 * 0.5) / 8, n_min=1).pruner(SHAPE, total, total)
    assert pruner is not None
    assert pruner.counts(total, None)[-1] == round(Fraction(total, 2))


@pytest.mark.parametrize("total", [64, 512, 1600])
def test_pdrop_as_configured_loses_no_token_to_the_solver(total: int) -> None:
    """'Half behind each quarter': a solved share of 0.49999999999999 is a half."""
    pruner = policy_of("pdrop", (2 + 2 * 0.5 + 2 * 0.25 + 2 * 0.125) / 8, n_min=1).pruner(
        SHAPE, total, total
    )
    assert pruner is not None
    assert pruner.counts(total, None)[2::2] == (total // 2, total // 4, total // 8)


# -- where tokens may drop


def naive_hold(curve: list[float], first: int, prune_layers: tuple[int, ...]) -> list[float]:
    held = [1.0]
    for layer in range(2, len(curve) + 1):  # 1-based
        allowed = layer >= first and (not prune_layers or layer - 1 in prune_layers)
        held.append(min(held[-1], curve[layer - 1]) if allowed else held[-1])
    return held


@SETTINGS
@given(st.data())
def test_hold_against_a_naive_loop(data: st.DataObject) -> None:
    curve = data.draw(st.lists(shares, min_size=2, max_size=40))
    L = len(curve)
    behind = tuple(data.draw(st.lists(st.integers(1, L - 1), unique=True, max_size=6)))
    first = data.draw(st.integers(2, L + 3))
    held = Staircase(L, first, behind).hold(np.array(curve))
    assert held.tolist() == naive_hold(curve, first, behind)


def test_hold_by_hand() -> None:
    curve = np.array([0.9, 0.8, 0.6, 0.7, 0.4, 0.2])
    assert Staircase(6).hold(curve).tolist() == [1.0, 0.8, 0.6, 0.6, 0.4, 0.2]
    assert Staircase(6, first=4).hold(curve).tolist() == [1.0, 1.0, 1.0, 0.7, 0.4, 0.2]
    assert Staircase(6, prune_layers=(2, 4)).hold(curve).tolist() == [1.0, 1.0, 0.6, 0.6, 0.4, 0.4]


@pytest.mark.parametrize("layer", [0, 6, 7, 40])
def test_prune_layers_that_the_decoder_lacks(layer: int) -> None:
    with pytest.raises(ConfigError, match=rf"prune layer {layer} is not .* behind layers 1 to 5"):
        Staircase(6, prune_layers=(2, layer))


# -- curves


def test_the_papers_default_curve() -> None:
    """alpha .8, M .2, beta .1236 on 32 layers: mean .411, last layer .217.

    Asked for that mean, `fixed` finds that beta.
    """
    curve = exponential(32, 0.8, 0.1236, 0.2)
    assert curve[0] == 1.0
    assert curve.mean() == pytest.approx(0.411, abs=5e-4)
    assert curve[-1] == pytest.approx(0.217, abs=5e-4)
    found = fixed(32, mean, float(curve.mean()))
    assert np.abs(found - curve).max() < 1e-9


def test_quadratic_is_the_figure() -> None:
    curve = quadratic(32, 166 / 1659)
    x = np.arange(32) / 31
    assert np.abs(1659 * curve - (1659 - (1659 - 166) * x**2)).max() < 1e-9
    assert curve.mean() == pytest.approx(0.695, abs=1e-3)


def test_stages_by_hand() -> None:
    assert stages(8, (2, 4, 6), (0.5, 0.25, 0.125)).tolist() == [
        1,
        1,
        0.5,
        0.5,
        0.25,
        0.25,
        0.125,
        0.125,
    ]
    with pytest.raises(ConfigError, match="2 stage layers and 1 ratios"):
        stages(8, (2, 4), (0.5,))
    for layers in ((4, 2), (2, 2)):
        with pytest.raises(ConfigError, match="must rise, each named once"):
            stages(8, layers, (0.5, 0.25))


@SETTINGS
@given(
    st.integers(2, 40),
    st.floats(0.0, 100.0),
    st.floats(0.0, 1.0),
    st.floats(0.05, 1.0),
    st.integers(2, 4),
)
def test_logistic_meets_its_mean_exactly_even_where_it_is_clipped(
    L: int, slope: float, midpoint: float, target: float, first: int
) -> None:
    least = (first - 1) / L
    if first > L:
        return
    if target < least:
        with pytest.raises(ConfigError, match=r"cannot be met on this decoder; allowed: "):
            logistic(L, slope, midpoint, target, first)
        return
    curve = logistic(L, slope, midpoint, target, first)
    assert curve.mean() == pytest.approx(target, abs=1e-9)
    assert curve.min() >= 0.0
    assert curve.max() <= 1.0 + 1e-12
    assert (np.diff(curve) <= 1e-12).all()
    assert (curve[: first - 1] == 1.0).all()


@pytest.mark.parametrize("target", [0.2, 0.5, 0.8])
def test_logistic_against_scaling_by_bisection(target: float) -> None:
    """The scale A solved numerically: the mean over all layers, layer 1 at 1.

    min(1, A / (1 + exp(k (x - x0)))).
    """
    x = np.linspace(0, 1, 24)
    shape = 1 / (1 + np.exp(9.0 * (x - 0.35)))
    low, high = 0.0, 1e6
    for _ in range(200):
        A = (low + high) / 2
        tried = np.minimum(1.0, A * shape)
        tried[0] = 1.0
        low, high = (A, high) if tried.mean() < target else (low, A)
    assert np.abs(logistic(24, 9.0, 0.35, target) - tried).max() < 1e-9
    assert (logistic(24, 9.0, 0.35, 0.8) == 1.0).sum() > 2  # the clip was at work


# -- budgets


@SETTINGS
@given(st.integers(3, 40), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_fixed_meets_every_mean_within_reach(L: int, where: float, M: float) -> None:
    stairs = Staircase(L)
    least = 1.0 / L
    target = least + where * (1.0 - least)
    held = stairs.hold(
        np.clip(fixed(L, lambda c: mean(stairs.hold(np.clip(c, 0, 1))), target, M), 0, 1)
    )
    assert held.mean() == pytest.approx(target, abs=1e-8)


@SETTINGS
@given(
    st.floats(0.0, 1.0), st.lists(st.integers(1, LAYERS - 1), unique=True, min_size=1, max_size=5)
)
def test_equal_factors_meet_the_mean_with_equal_factors(where: float, behind: list[int]) -> None:
    layers = sorted(behind)
    least = layers[0] / LAYERS
    target = least + where * (1 - least)
    curve = equal_factors(LAYERS, layers, mean, target)
    assert curve.mean() == pytest.approx(target, abs=1e-9)
    factor = curve[layers[0]]
    assert [curve[layer] for layer in layers] == pytest.approx(
        [factor ** (n + 1) for n in range(len(layers))]
    )


def test_a_budget_out_of_reach_names_the_least() -> None:
    with pytest.raises(ConfigError) as error:
        equal_factors(8, (2,), mean, 0.1)
    assert str(error.value).startswith(
        "keep_ratio = 0.1 cannot be met on this decoder; allowed: 0.25 to 1"
    )
    assert "voxel_dpp" in str(error.value)
    with pytest.raises(
        ConfigError, match=r"allowed: 0\.334 to 1"
    ):  # rounded up: the bound itself works
        equal_factors(3, (1,), mean, 0.3)
    assert equal_factors(3, (1,), mean, 0.334).mean() == pytest.approx(0.334)


def test_solve_budget_at_its_ends() -> None:
    def line(x: float) -> np.ndarray:
        return np.array([1.0, x])

    assert solve_budget(line, mean, 0.5, 0.0, 1.0, "b")[1] == 0.0
    assert solve_budget(line, mean, 1.0, 0.0, 1.0, "b")[1] == 1.0
    assert solve_budget(line, mean, 0.75, 0.0, 1.0, "b")[1] == pytest.approx(0.5)
