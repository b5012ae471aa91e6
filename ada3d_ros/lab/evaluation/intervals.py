"""How sure a share is: 95 % intervals that bootstrap over rooms.

The questions about one room are no independent draws: they share its views and its cached scene. So
whole rooms are drawn again, with all that was asked about them. Shapes: R rooms, B draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

DRAWS, SEED = 2000, 0
TAIL = 0.025  # left out on each side
Floats = npt.NDArray[np.float64]


def room_draws(rooms: int, draws: int = DRAWS, seed: int = SEED) -> Floats:
    """(draws, rooms): how often each room is drawn; every draw takes `rooms` of them."""
    chances = np.full(rooms, 1.0 / rooms)
    return np.random.default_rng(seed).multinomial(rooms, chances, size=draws).astype(np.float64)


def per_room(values: Sequence[float], room: Sequence[int], rooms: int) -> tuple[Floats, Floats]:
    """Sum and number (R,) of the values in each room; room: of each value, 0 to rooms - 1."""
    index = np.asarray(room, dtype=np.int64)
    sums = np.bincount(index, np.asarray(values, dtype=np.float64), minlength=rooms)
    numbers = np.bincount(index, minlength=rooms)
    return sums.astype(np.float64), numbers.astype(np.float64)


def share_interval(right: Floats, asked: Floats, draws: Floats) -> tuple[float, float]:
    """The 95 % interval of right / asked, both (R,) summed over rooms; draws (B, R).

    (0, 1) where fewer than two rooms were asked. Where all answers agree, drawing again shows no
    spread; then each room counts as one trial: none of n rooms differing excludes, at this level, a
    share of such rooms above 1 - 0.025^(1/n).
    """
    num_asked = int((asked > 0).sum())
    if num_asked < 2:
        return 0.0, 1.0
    least = TAIL ** (1.0 / num_asked)
    if right.sum() == asked.sum():
        return least, 1.0
    if not right.any():
        return 0.0, 1.0 - least
    low, high = percentiles(_shares(right, asked, draws))
    return low, high


def median_interval(
    values: Sequence[float], room: Sequence[int], draws: Floats
) -> tuple[float, float]:
    """The 95 % interval of the median of all values; room: of each, 0 to R - 1; draws (B, R). NaN
    where fewer than two rooms have one.
    """
    if len(set(room)) < 2:
        return np.nan, np.nan

    # A drawn room counts all its values as often as it is drawn: the first value at which half of
    # all is reached.
    order = np.argsort(values)
    counts = np.cumsum(draws[:, np.asarray(room)[order]], axis=1)  # (B, n)
    drawn = counts[:, -1] > 0
    middle = (counts[drawn] >= counts[drawn, -1:] / 2).argmax(axis=1)
    return percentiles(np.asarray(values, dtype=np.float64)[order][middle])


def difference_interval(
    right: Floats, baseline: Floats, asked: Floats, draws: Floats
) -> tuple[float, float]:
    """The 95 % interval of the difference of two shares of the same questions (R,); NaN where fewer
    than two rooms were asked.
    """
    if int((asked > 0).sum()) < 2:
        return np.nan, np.nan
    return percentiles(_shares(right - baseline, asked, draws))


def standard_error(right: Floats, baseline: Floats, asked: Floats) -> float:
    """Of the difference of two shares of the same questions (R,), over rooms, to first order; NaN
    where fewer than two rooms were asked.
    """
    held = asked > 0
    rooms, total = int(held.sum()), asked.sum()
    if rooms < 2:
        return np.nan
    differences = right - baseline
    rest = (differences - differences.sum() / total * asked)[held]
    return float(np.sqrt(rooms / (rooms - 1) * np.sum(rest**2)) / total)


def percentiles(values: Floats) -> tuple[float, float]:
    """What leaves out TAIL of the values on each side; NaN are no values."""
    low, high = np.nanquantile(values, (TAIL, 1.0 - TAIL))
    return float(low), float(high)


def _shares(sums: Floats, asked: Floats, draws: Floats) -> Floats:
    """sums / asked of every draw (B,); NaN where a draw holds no question."""
    number = draws @ asked
    with np.errstate(invalid="ignore"):
        shares: Floats = np.where(number > 0, draws @ sums / number, np.nan)
    return shares
