"""Intervals over rooms, against rooms drawn again one by one."""

import math

import numpy as np
import pytest

from ada3d_ros.lab.evaluation.intervals import (
    Floats,
    difference_interval,
    median_interval,
    per_room,
    room_draws,
    share_interval,
    standard_error,
)
from ada3d_ros.lab.evaluation.tally import Tally, summary


def some_rooms(seed: int, rooms: int = 17) -> list[list[tuple[float, float]]]:
    """Per room its questions: right under one variant, and under another; one room has none."""
    draw = np.random.default_rng(seed)
    found = []
    for room in range(rooms):
        ease, count = draw.uniform(0.2, 1.0), 0 if room == 3 else int(draw.integers(1, 5))
        pairs = draw.random((count, 2)) < ease
        found.append([(float(a), float(b)) for a, b in pairs])
    return found


def sums_of(rooms: list[list[tuple[float, float]]], which: int) -> tuple[Floats, Floats]:
    values = [(pair[which], room) for room, asked in enumerate(rooms) for pair in asked]
    return per_room([v for v, _ in values], [r for _, r in values], len(rooms))


def slowly(rooms: list[list[tuple[float, float]]], draws: Floats) -> list[list[float]]:
    """Per draw the mean right of either variant and of their difference, question by question."""
    found: list[list[float]] = []
    for counts in draws.astype(int).tolist():
        drawn = [pair for asked, n in zip(rooms, counts, strict=True) for pair in asked * n]
        first, second = ([pair[i] for pair in drawn] for i in (0, 1))
        changed = [b - a for a, b in drawn]
        found.append([sum(values) / len(drawn) for values in (first, second, changed)])
    return found


def between(values: list[float], share: float) -> float:
    """The quantile, linear between the two values around it."""
    ordered, at = sorted(values), share * (len(values) - 1)
    low = math.floor(at)
    high = min(low + 1, len(values) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


@pytest.mark.parametrize("seed", range(3))
def test_intervals_are_those_of_rooms_drawn_one_by_one(seed: int) -> None:
    rooms, draws = some_rooms(seed), room_draws(17, draws=300, seed=seed)
    first, asked = sums_of(rooms, 0)
    second, _ = sums_of(rooms, 1)
    columns = list(zip(*slowly(rooms, draws), strict=True))
    for found, column in (
        (share_interval(first, asked, draws), columns[0]),
        (share_interval(second, asked, draws), columns[1]),
        (difference_interval(second, first, asked, draws), columns[2]),
    ):
        expected = between(list(column), 0.025), between(list(column), 0.975)
        assert found == pytest.approx(expected, abs=1e-12)


def test_every_draw_takes_as_many_rooms_and_the_seed_decides_which() -> None:
    draws = room_draws(9, draws=400, seed=5)
    assert draws.shape == (400, 9)
    assert (draws.sum(axis=1) == 9).all()
    assert np.array_equal(draws, room_draws(9, draws=400, seed=5))
    assert not np.array_equal(draws, room_draws(9, draws=400, seed=6))
    assert (draws == 0).mean() == pytest.approx((1 - 1 / 9) ** 9, abs=0.02)  # never drawn


def test_the_same_question_again_makes_no_interval_narrower() -> None:
    rooms = some_rooms(7)
    draws = room_draws(len(rooms))
    once = share_interval(*sums_of(rooms, 0), draws)
    thrice = share_interval(*sums_of([asked * 3 for asked in rooms], 0), draws)
    assert thrice == pytest.approx(once, abs=1e-12)


def test_what_all_rooms_agree_in_is_not_certain() -> None:
    ones, draws = np.ones(20), room_draws(20)
    low, high = share_interval(3 * ones, 3 * ones, draws)
    assert low**20 == pytest.approx(0.025)  # twenty rooms right by luck, at that share
    assert high == 1.0
    assert share_interval(0 * ones, ones, draws) == pytest.approx((0.0, 1 - low))


def test_one_room_tells_nothing_of_others() -> None:
    asked = np.array([4.0, 0.0])
    right, draws = np.array([3.0, 0.0]), room_draws(2)
    assert share_interval(right, asked, draws) == (0.0, 1.0)
    assert share_interval(0 * right, 0 * asked, draws) == (0.0, 1.0)
    assert all(map(math.isnan, difference_interval(right, asked, asked, draws)))
    assert math.isnan(standard_error(right, asked, asked))


def test_standard_error_with_one_question_a_room_is_the_means() -> None:
    first = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    second = np.array([1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    expected = np.std(second - first, ddof=1) / math.sqrt(7)
    assert standard_error(second, first, np.ones(7)) == pytest.approx(expected, abs=1e-15)


def test_standard_error_is_the_spread_of_rooms_drawn_again() -> None:
    rooms = some_rooms(11, rooms=150)
    first, asked = sums_of(rooms, 0)
    second, _ = sums_of(rooms, 1)
    draws = room_draws(150, draws=4000)
    drawn = draws @ (second - first) / (draws @ asked)
    assert standard_error(second, first, asked) == pytest.approx(float(drawn.std()), rel=0.03)


def test_a_tallys_intervals_are_over_its_rooms() -> None:
    rooms, tally = some_rooms(2), Tally()
    for asked in rooms:
        tally.next_room()
        for right, _ in asked:
            tally.add("color", right, 0.125)
    detail = summary(tally)["details"]["color"]
    values = [mean for mean, _, _ in slowly(rooms, room_draws(17))]
    assert detail["interval"] == pytest.approx((between(values, 0.025), between(values, 0.975)))
    assert (detail["n"], detail["rooms"]) == (sum(map(len, rooms)), 16)


def test_the_interval_of_a_median_is_that_of_rooms_drawn_again() -> None:
    random = np.random.default_rng(3)
    room = np.sort(random.integers(0, 12, size=61)).tolist()  # one room may be empty
    values = random.gamma(2.0, size=61).tolist()
    draws = room_draws(12, draws=400)
    low, high = median_interval(values, room, draws)
    medians = []
    for draw in draws.astype(int):
        drawn = [v for v, r in zip(values, room, strict=True) for _ in range(draw[r])]
        medians.append(sorted(drawn)[(len(drawn) - 1) // 2])  # the lower one of an even number
    assert (low, high) == pytest.approx((between(medians, 0.025), between(medians, 0.975)))
    assert low < np.median(values) < high
    assert np.isnan(median_interval([1.0, 2.0], [4, 4], room_draws(5))).all()
