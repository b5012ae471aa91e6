"""The fit of eq. 5 to information (P6 to P10): a second solver, a grid, the study's example."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import optimize

from ada3d_ros.errors import ConfigError
from ada3d_ros.pruning import fit
from ada3d_ros.pruning.cost import LLAMA_7B, prefill_macs
from ada3d_ros.pruning.fit import (
    Fit,
    FitSettings,
    closed_form,
    fit_endpoint,
    fit_mean,
    fit_measure,
    loss_of,
    target_curve,
)
from ada3d_ros.pruning.fitted import fit_held_mean
from ada3d_ros.pruning.information import information_of
from ada3d_ros.pruning.schedule import Curve, RetentionSchedule, Staircase, exponential
from test.support.decoders import study_masses

FEW = settings(deadline=None, derandomize=True, max_examples=5)
FEWER = settings(FEW, max_examples=3)
DEFAULT = FitSettings()
STUDY = information_of(study_masses()).I
N = 1659


@st.composite
def falling_curves(draw: st.DrawFn) -> Curve:
    """Normalised curves of any shape that fall on the whole: a smooth fall, waves, noise."""
    L = draw(st.sampled_from([6, 12, 32]))
    u = np.linspace(0, 1, L)
    noise = np.array(draw(st.lists(st.floats(-0.1, 0.1), min_size=L, max_size=L)))
    curve = (
        (1 - u) ** draw(st.floats(0.3, 5.0))
        + draw(st.floats(0.0, 0.15)) * np.sin(u * draw(st.floats(1, 20)))
        + noise
    )
    assume(np.ptp(curve) > 0.2)
    return (curve - curve.min()) / np.ptp(curve)


budgets = st.floats(0.12, 0.9)


def tokens_of(curve: Curve, total: int = N) -> list[int]:
    held = Staircase(len(curve)).hold(curve)
    return list(RetentionSchedule(tuple(map(float, held))).counts(total))


# -- the worked example

WORKED = [  # mode, budget, O(1), O(32), loss, MAC in 1e12 at N = 1659
    ("mean", 0.2, 0.874, 0.050, 0.0235, 2.25),
    ("mean", 0.3, 1.00, 0.050, 0.0010, 3.34),
    ("mean", 0.414, 1.00, 0.123, 0.0097, 4.61),
    ("mean", 0.6, 1.00, 0.304, 0.0865, 6.73),
    ("endpoint", 0.1, 1.00, 0.100, 0.0013, 3.75),
    ("endpoint", 0.2, 1.00, 0.200, 0.0084, 4.12),
]


@pytest.mark.parametrize(("mode", "budget", "first", "last", "loss", "macs"), WORKED)
def test_the_studys_table_of_budgets(
    mode: str, budget: float, first: float, last: float, loss: float, macs: float
) -> None:
    """Section 7: O(1), O(32), loss and cost of each budget, to the digits printed there.

    The masses' shape is ours.
    """
    found = (fit_mean if mode == "mean" else fit_endpoint)(STUDY, budget)
    assert found.curve[0] == pytest.approx(first, abs=1.5e-3)
    assert found.curve[-1] == pytest.approx(last, abs=1.5e-3)
    assert found.loss == pytest.approx(loss, abs=2e-4)
    assert prefill_macs(
        LLAMA_7B, tokens_of(found.curve), square=True, with_head=False
    ) / 1e12 == pytest.approx(macs, abs=0.01)


# -- P6 to P10


@FEW
@given(falling_curves(), budgets)
def test_p6_the_budget_is_met(information: Curve, budget: float) -> None:
    """P6: constraint residual below 1e-6, for a mean and for both ends."""
    found = fit_mean(information, budget)
    raw = exponential(len(information), found.alpha, found.beta, found.M)
    assert abs(raw.mean() - budget) < 1e-6
    ends = fit_endpoint(information, budget)
    assert abs(ends.curve[0] - 1.0) < 1e-6
    assert abs(ends.curve[-1] - budget) < 1e-6


@FEW
@given(falling_curves(), budgets)
def test_p7_curves_never_rise_and_stay_within_r_min_and_1(
    information: Curve, budget: float
) -> None:
    """P7: O non-increasing, in [r_min, 1]; parameters within their bounds."""
    for found in (fit_mean(information, budget), fit_endpoint(information, budget)):
        assert (np.diff(found.curve) <= 1e-12).all()
        assert found.curve.min() >= DEFAULT.r_min - 1e-12
        assert found.curve.max() <= 1.0
        for name in ("alpha", "beta", "M"):
            low, high = getattr(DEFAULT, name)
            assert low - 1e-9 <= getattr(found, name) <= high + 1e-9


@FEW
@given(falling_curves(), budgets, st.floats(0.0, 10.0))
def test_p8_slsqp_is_no_worse_than_the_closed_form(
    information: Curve, budget: float, lam: float
) -> None:
    """P8: SLSQP's loss is at most that of variable projection + 1e-5, and the other way round.

    So the closed form is no better by accident.
    """
    weights = FitSettings(lam=lam)
    slsqp = fit_mean(information, budget, weights)
    oracle = closed_form(information, budget, weights)
    assert slsqp.loss <= oracle.loss + 1e-5
    assert oracle.loss <= slsqp.loss + 1e-5
    assert oracle.curve.mean() == pytest.approx(budget, abs=1e-6)


@pytest.mark.parametrize("budget", [0.2, 0.3, 0.414, 0.6, 0.8])
def test_p8_both_solvers_against_a_brute_grid(budget: float) -> None:
    """P8: nothing feasible on a grid of alpha and beta is better; M follows from the mean."""
    wanted = target_curve(STUDY, DEFAULT.r_min)

    def best_on_grid(beta: float) -> float:
        """The least loss over alpha for this beta, on ever finer grids: it is convex in alpha."""
        low, high, least = 0.5, 1.2, 10.0
        for _ in range(4):
            alphas = np.linspace(low, high, 61)
            bare = alphas[:, None] * np.exp(-beta * np.arange(32))
            M = budget - bare.mean(axis=1)
            curves = bare + M[:, None]
            feasible = (curves[:, 0] <= 1) & (curves[:, -1] >= DEFAULT.r_min) & (M >= -1) & (M <= 1)
            losses = [
                loss_of(c, wanted, DEFAULT) if ok else 10.0
                for c, ok in zip(curves, feasible, strict=True)
            ]
            at, step = int(np.argmin(losses)), alphas[1] - alphas[0]
            least = min(least, losses[at])
            low, high = max(0.5, alphas[at] - step), min(1.2, alphas[at] + step)
        return least

    betas, least = np.linspace(0.001, 2.0, 150), 10.0
    for _ in range(3):
        losses = [best_on_grid(beta) for beta in betas]
        at, step = int(np.argmin(losses)), betas[1] - betas[0]
        least = min(least, losses[at])
        betas = np.linspace(max(0.001, betas[at] - step), betas[at] + step, 40)
    for found in (fit_mean(STUDY, budget), closed_form(STUDY, budget)):
        assert found.loss == pytest.approx(least, abs=2e-6)


STARTS = [(0.5, 0.5, 0.4), (1.2, 2.0, -1.0), (0.8, 0.1236, 0.2), (1.1, 0.3, -0.5)]
# Far outside what is feasible.
NASTY = [(0.5, 0.001, 1.0), (1.2, 0.001, 1.0), (0.5, 2.0, -1.0), (1.2, 0.3, 1.0)]


@pytest.mark.parametrize("budget", [0.2, 0.3, 0.414, 0.6])
def test_p9_the_same_curve_from_four_starts(budget: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """P9: the fit's own problem, solved from each of four far-apart starts alone.

    The same O within 1e-4.
    """
    expected, curves = fit_mean(STUDY, budget).curve, []
    for start in STARTS:
        monkeypatch.setattr(
            fit, "minimize", lambda f, x0, s=start, **k: optimize.minimize(f, np.array(s), **k)
        )
        curves.append(fit_mean(STUDY, budget).curve)
    assert max(np.abs(curve - expected).max() for curve in curves) < 1e-4


@pytest.mark.parametrize("budget", [0.2, 0.414])
def test_p9_a_bad_start_among_the_others_changes_nothing(budget: float) -> None:
    """P9: the fit takes the best of several starts, so none of them decides.

    At mean .2 a slow start (beta up to .02) ends in a local optimum at the bound alpha = .5, loss
    .043 for .024.
    """
    expected = fit_mean(STUDY, budget).curve
    for start in NASTY:
        found = fit.solve_slsqp(
            STUDY, DEFAULT, [lambda O: float(O.mean()) - budget], Fit(*start, 0.0, expected)
        )
        assert np.abs(found.curve - expected).max() < 1e-4


@FEWER
@given(falling_curves(), st.lists(st.floats(0.15, 0.95), min_size=2, max_size=3, unique=True))
def test_p10_a_larger_budget_keeps_more_and_costs_more(
    information: Curve, asked: list[float]
) -> None:
    """P10: the mean of O is the budget, and FLOPs rise with it."""
    found = [fit_mean(information, budget).curve for budget in sorted(asked)]
    assert [curve.mean() for curve in found] == pytest.approx(sorted(asked), abs=1e-6)
    macs = [prefill_macs(LLAMA_7B, list(curve * N)) for curve in found]
    assert all(b >= a for a, b in itertools.pairwise(macs))


# -- degenerate input


def test_a_flat_curve_gives_a_flat_schedule_at_the_budget() -> None:
    """Section 7's degenerate inputs: constant and rising information."""
    for flat in (np.zeros(32), np.linspace(0, 1, 32)):
        found = fit_mean(flat, 0.3)
        assert found.curve[0] == pytest.approx(0.308, abs=1e-3)
        assert found.curve[-1] == pytest.approx(0.292, abs=1e-3)
        assert (found.alpha, found.beta) == pytest.approx((0.5, 0.001), abs=1e-6)


def test_a_spike_at_the_first_layer_gives_fastv() -> None:
    spike = np.zeros(32)
    spike[0] = 1.0
    found = fit_mean(spike, 0.3)
    assert found.beta == pytest.approx(2.0, abs=1e-6)
    assert found.curve[0] == pytest.approx(1.0, abs=1e-6)
    assert found.curve[-1] == pytest.approx(0.274, abs=1e-3)


def test_an_exponential_cannot_be_concave() -> None:
    u = np.linspace(0, 1, 32)
    found = fit_mean(1 - u**2, 0.3)
    assert found.curve[-1] == pytest.approx(0.05, abs=1e-6)
    assert found.loss > 0.1


@pytest.mark.parametrize("function", [fit_mean, fit_endpoint, closed_form])
def test_bad_curves_and_budgets(function: object) -> None:
    assert callable(function)
    for curve in (np.full(32, np.nan), np.zeros(2), np.zeros((2, 8)), np.array([1.0, np.inf, 0.0])):
        with pytest.raises(
            ConfigError, match="expected one finite number for each of at least 3 layers"
        ):
            function(curve, 0.3)
    for budget in (0.0, 0.04, 1.2):
        with pytest.raises(
            ConfigError,
            match=rf"= {budget:g} cannot be fitted; allowed: 0.05 \(pruning.adatoken3d.fit.r_min\)",
        ):
            function(STUDY, budget)
    with pytest.raises(ConfigError, match="nan cannot be fitted"):
        function(STUDY, float("nan"))


def test_bounds_that_leave_nothing() -> None:
    with pytest.raises(ConfigError, match=r"widen pruning\.adatoken3d\.fit\.alpha, beta or M"):
        fit_mean(STUDY, 0.3, FitSettings(M=(0.9, 1.0)))
    with pytest.raises(ConfigError, match=r"widen pruning\.adatoken3d\.fit\.alpha, beta or M"):
        fit_endpoint(STUDY, 0.1, FitSettings(alpha=(0.5, 0.6)))


@pytest.mark.parametrize("beta", [(0.0, 0.0), (0.0, 0.5), (0.1, 0.1)])
def test_every_allowed_bound_of_beta_gives_a_curve_or_a_config_error(
    beta: tuple[float, float],
) -> None:
    """The settings allow 0 as a bound of beta; whatever follows is typed."""
    refused = ""
    try:
        found = fit_mean(STUDY, 0.5, FitSettings(beta=beta))
    except ConfigError as error:
        refused = str(error)
    assert "widen" in refused or found.curve.mean() == pytest.approx(0.5, abs=1e-6)


def test_everything_kept() -> None:
    for found in (
        fit_mean(STUDY, 1.0),
        fit_endpoint(STUDY, 1.0),
        fit_measure(STUDY, lambda c: float(c.mean()), 1.0),
    ):
        assert (found.curve == 1.0).all()


# -- weights of the loss, onset, other measures


def test_loss_by_hand() -> None:
    curve, wanted = np.array([1.0, 0.5, 0.2]), np.array([1.0, 0.4, 0.4])
    slopes = np.array([-0.5, -0.4, -0.3]) - np.array([-0.6, -0.3, 0.0])
    expected = (0.01 + 0.04) / 3 + 2.0 * np.mean(slopes**2) + 3.0 * 0.5**2
    assert loss_of(curve, wanted, FitSettings(lam=2.0, beta_l2=3.0), beta=0.5) == pytest.approx(
        expected
    )


def test_beta_l2_slows_the_decay() -> None:
    free, damped = fit_mean(STUDY, 0.414), fit_mean(STUDY, 0.414, FitSettings(beta_l2=50.0))
    assert damped.beta < free.beta - 0.01


def test_an_onset_gives_a_plateau() -> None:
    """L0 = 6 with the clip at 1 as the configured curve uses it: layers 1 to 6 keep everything."""
    curve = np.clip(exponential(32, 0.8, 0.2, 0.2, L0=6.0), 0, 1)
    assert (curve[:6] == 1.0).all()
    assert curve[6] < 1.0


def test_fit_measure_meets_a_share_of_flops() -> None:
    def share(curve: Curve) -> float:
        return prefill_macs(LLAMA_7B, list(curve * N)) / prefill_macs(LLAMA_7B, [N] * 32)

    found = fit_measure(STUDY, share, 0.4)
    assert share(found.curve) == pytest.approx(0.4, abs=1e-6)
    assert found.loss < fit_mean(STUDY, 0.45).loss


@pytest.mark.parametrize("behind", [(), (4, 12, 24)])
@pytest.mark.parametrize("budget", [0.25, 0.414])
def test_the_held_mean_is_the_budget(budget: float, behind: tuple[int, ...]) -> None:
    """As the layers get it: layer 1 sees everything, whatever O(1) is.

    Between prune layers counts are held.
    """
    stairs = Staircase(32, prune_layers=behind)
    found = fit_held_mean(STUDY, budget, stairs, DEFAULT)
    assert stairs.hold(found.curve).mean() == pytest.approx(budget, abs=1.1e-6)


def test_fits_compare_by_curve() -> None:
    """Near beta = 0 only alpha beta and alpha + M are determined.

    Two far-apart parameter pairs, one curve.
    """
    a, b = exponential(32, 0.5, 0.0012, -0.2), exponential(32, 0.6, 0.001, -0.3)
    assert np.abs(a - b).max() < 8e-5
    assert isinstance(closed_form(STUDY, 0.3), Fit)
