"""The two curves of a scene pruned while it is built: budgets met, lists checked, errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ada3d_ros.config import from_flat
from ada3d_ros.config.cache import CacheConfig
from ada3d_ros.errors import ConfigError
from ada3d_ros.pruning.allocation import LATE, Allocation, allocate, uses_curve

CURVE = (1.0, 0.44, 0.12, 0.08)  # falls, mean 0.41
SHORT = (1.0, 0.238, 0.202, 0.2)  # the paper's of 4 layers: below its mean from layer 2 on
WORTH = (0.07, 0.03, 2.2, 1.7)
UNUSED = (1.0,) * 4  # in the place of a curve that is not needed


def cache(**values: str) -> CacheConfig:
    """Checked as the settings are."""
    return from_flat({f"cache.{name}": value for name, value in values.items()}).cache


@pytest.mark.parametrize(
    ("keep", "measured", "alive", "held"),
    [
        (0.41, None, CURVE, CURVE),
        (0.41, WORTH, CURVE, CURVE),
        (0.2, None, (1, 0.2, 0.2, 0.2), (0.2,) * 4),
        (0.2, WORTH, (1, 0.2, 0.2, 0.2), (0.2,) * 4),
        # The study's G: half, half, once and twice the budget.
        (0.1, None, (1, 0.2, 0.2, 0.2), (0.05, 0.05, 0.1, 0.2)),
        # 0.22 for the third layer is more than it computes: the rest goes to the others.
        (
            0.1,
            WORTH,
            (1, 0.2, 0.2, 0.2),
            (0.2 * 0.07 / 1.8, 0.2 * 0.03 / 1.8, 0.2, 0.2 * 1.7 / 1.8),
        ),
    ],
)
def test_auto(
    keep: float,
    measured: tuple[float, ...] | None,
    alive: tuple[float, ...],
    held: tuple[float, ...],
) -> None:
    assert uses_curve(cache(), keep) == (keep == 0.41)
    found = allocate(cache(), keep, CURVE if keep == 0.41 else UNUSED, measured)
    np.testing.assert_allclose(found.alive, alive, rtol=1e-12)
    np.testing.assert_allclose(found.held, held, rtol=1e-12)
    assert found.same == (keep == 0.41)


def test_few_layers_share_evenly_what_the_first_would_take() -> None:
    found = allocate(cache(), 0.41, SHORT)
    assert found.alive == (1.0, 0.41, 0.41, 0.41)
    assert found.held == pytest.approx((0.41,) * 4)
    asked_for = allocate(cache(alive="curve", held="alive"), 0.41, SHORT)
    assert asked_for.alive == asked_for.held == SHORT


@pytest.mark.parametrize(
    ("alive", "keep", "held"),
    [
        ("curve", 0.41, SHORT),  # its mean leaves no other choice
        ("curve", 0.2, SHORT),
        ("even", 0.41, (1.0, 0.64 / 3, 0.64 / 3, 0.64 / 3)),
        ("even", 0.2, (0.2,) * 4),
        ("double", 0.41, (0.41,) * 4),  # twice the budget cannot be held
        ("1,0.5,0.3,0.1", 0.41, (1.0, 0.5, 0.3, 0.1)),
        ("1,0.5,0.3,0.3", 0.2, (0.2,) * 4),
    ],
)
def test_held_by_itself_beside_alive_written_out(
    alive: str, keep: float, held: tuple[float, ...]
) -> None:
    found = allocate(cache(alive=alive), keep, SHORT if alive == "curve" else UNUSED)
    np.testing.assert_allclose(found.held, held, rtol=1e-12)


@pytest.mark.parametrize("entered", [0.2, 0.9])
def test_auto_goes_by_what_is_kept_of_all(entered: float) -> None:
    """Half of what a strategy chose before: even shares, since it has spread them; not the curve,
    which is for budgets that large of all.
    """
    keep = 0.1 / entered
    found = allocate(cache(), keep, UNUSED, WORTH, entered)
    np.testing.assert_allclose(found.alive, (1.0, keep, keep, keep), rtol=1e-12)
    np.testing.assert_allclose(found.held, (keep,) * 4, rtol=1e-12)
    assert not uses_curve(cache(), keep * entered)
    high = 0.3 / entered  # as 0.3 is told in shares of what enters, and back
    if high <= 1.0:
        assert allocate(cache(), high, CURVE, None, entered).alive == CURVE


@pytest.mark.parametrize(("keep", "entered"), [(0.5, 0.2), (0.5, 0.82), (0.6, 1.0)])
def test_by_worth_computes_what_enters_and_holds_what_is_worth_it(
    keep: float, entered: float
) -> None:
    """At every ratio; settings that say otherwise decide."""
    found = allocate(cache(), keep, UNUSED, WORTH, entered, by_worth=True)
    assert found.alive == (1.0,) * 4
    assert np.mean(found.held) == pytest.approx(keep)
    assert found.held[2:] == (1.0, 1.0) if keep == 0.6 else found.held[2] == 1.0
    assert found.held[0] / found.held[1] == pytest.approx(WORTH[0] / WORTH[1])
    without = allocate(cache(), 0.5, UNUSED, None, entered, by_worth=True)
    assert without.held == pytest.approx((0.25, 0.25, 0.5, 1.0))  # late
    even = allocate(cache(held="even", alive="even"), keep, UNUSED, WORTH, entered, by_worth=True)
    assert even == allocate(cache(held="even", alive="even"), keep, UNUSED)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    layers=st.integers(1, 40),
    keep=st.floats(0.001, 1.0),
    alive=st.sampled_from(["even", "double"]),
    held=st.sampled_from(["even", "late", "measured", "alive"]),
    seed=st.integers(0, 10),
)
def test_the_budget_is_met_wherever_it_is_accepted(
    layers: int, keep: float, alive: str, held: str, seed: int
) -> None:
    """Mean of what is held = keep ratio; alive falls from 1; held is within it; worth orders."""
    worth = np.random.default_rng(seed).uniform(0.05, 4.0, layers)
    arguments = cache(alive=alive, held=held), keep, (1.0,) * layers, tuple(worth)
    if held == "alive" and (alive == "double" or keep * layers < 1.0 - 1e-9):
        with pytest.raises(ConfigError):
            allocate(*arguments)
        return
    found = allocate(*arguments)
    assert np.mean(found.held) == pytest.approx(keep, rel=1e-6)
    assert found.alive[0] == 1.0
    assert (np.diff(found.alive) <= 0).all()
    assert (np.array(found.held) <= np.array(found.alive)).all()
    if held in ("late", "measured"):
        weights = np.array(LATE)[np.arange(layers) * 4 // layers] if held == "late" else worth
        shares = np.array(found.held) / weights
        free = np.array(found.held) < np.array(found.alive) - 1e-9
        np.testing.assert_allclose(shares[free], shares.max(), rtol=1e-6)


def test_shares_written_out_decide() -> None:
    found = allocate(cache(alive="1,0.5,0.5,0.25", held="0.1,0.1,0.5,0.25"), 0.9, UNUSED)
    assert found.alive == (1.0, 0.5, 0.5, 0.25)
    assert found.held == (0.1, 0.1, 0.5, 0.25)
    assert allocate(cache(alive="1,0.5,0.5,0.25", held="alive"), 0.9, UNUSED).same


@pytest.mark.parametrize(
    ("values", "keep", "sentence"),
    [
        ({"alive": "1,0.5"}, 0.41, "cache.alive = '1,0.5': one share above 0 and at most 1 for"),
        ({"alive": "0.5,0.5,0.5,0.5"}, 0.41, "allowed: 1 first, then shares that never grow"),
        ({"alive": "1,0.5,0.6,0.5"}, 0.41, "allowed: 1 first, then shares that never grow"),
        ({"alive": "even", "held": "0.1,0.5,0.1,0.1"}, 0.2, "keeps 0.5 in layer 2, which computes"),
        ({"held": "measured"}, 0.2, "`ada3d calibrate --held`, or use late"),
        ({"alive": "double", "held": "alive"}, 0.1, "cache.alive to even"),
        ({"alive": "even", "held": "alive"}, 0.2, "keep_ratio = 0.2 cannot be met"),
        ({"alive": "even", "held": "alive"}, 0.2, "allowed: 0.25 to 1"),
        ({"alive": "1,0.2,0.2,0.2", "held": "late"}, 0.5, "allowed: up to 0.4"),
    ],
)
def test_out_of_reach(values: dict[str, str], keep: float, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        allocate(cache(**values), keep, UNUSED)
    assert sentence in str(caught.value)


def test_a_curve_down_to_whole_tokens_is_not_below_its_budget() -> None:
    """The schedule's counts are rounded down: of 333 tokens its mean is a little under 0.41."""
    curve = tuple(int(share * 333) / 333 for share in CURVE)
    assert np.mean(curve) < 0.41 - 1e-4
    found = allocate(cache(alive="curve", held="even"), 0.41, curve)
    np.testing.assert_allclose(found.held, curve, rtol=1e-12)


def test_auto_never_keeps_twice_the_budget() -> None:
    found = allocate(cache(alive="double"), 0.4, UNUSED)
    np.testing.assert_allclose(found.alive, (1.0, 0.8, 0.8, 0.8), rtol=1e-12)
    np.testing.assert_allclose(found.held, (0.4,) * 4, rtol=1e-12)


def test_a_file_of_another_depth() -> None:
    with pytest.raises(ConfigError, match="says what 3 layers are worth, this decoder has 4"):
        allocate(cache(held="measured"), 0.1, UNUSED, (1.0, 1.0, 1.0))


def test_counts() -> None:
    """Rounded down, at least n_min, never more than are alive."""
    allocation = Allocation((1.0, 0.5, 0.29, 0.29), (0.29, 0.005, 0.29, 0.1))
    assert allocation.counts(100, 8) == ((100, 50, 29, 29), (29, 8, 29, 10))
    assert allocation.counts(100) == ((100, 50, 29, 29), (29, 1, 29, 10))
    assert allocation.counts(6, 8) == ((6,) * 4, (6,) * 4)
