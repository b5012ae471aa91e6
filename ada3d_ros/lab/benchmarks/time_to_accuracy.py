"""Learning curves over CPU time, and when two of them reach the same accuracy or loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

UNPRUNED, PRUNED = "unpruned", "pruned"


@dataclass(frozen=True, slots=True)
class Point:
    """One validation: after so many room passes and seconds of CPU, questions right of all, and the
    loss of the answers' tokens.
    """

    rooms: int
    seconds: float
    right: int
    asked: int
    by_kind: dict[str, tuple[int, int]]
    loss: float = math.nan

    @property
    def accuracy(self) -> float:
        return self.right / self.asked


Value = Callable[[Point], float]


def first_reached(
    points: Sequence[Point], level: float, value: Value = lambda point: point.accuracy
) -> tuple[float, float] | None:
    """Room passes and seconds at which `value` first reaches `level` from below, linear between two
    validations; None where it never does. Validations without the value are passed over.
    """
    before: Point | None = None
    for point in points:
        if math.isnan(value(point)):
            continue
        if value(point) >= level:
            if before is None:
                return float(point.rooms), point.seconds
            share = (level - value(before)) / (value(point) - value(before))
            rooms = before.rooms + share * (point.rooms - before.rooms)
            return rooms, before.seconds + share * (point.seconds - before.seconds)
        before = point
    return None


def compared(
    unpruned: Sequence[Point],
    pruned: Sequence[Point],
    level: float,
    value: Value = lambda point: point.accuracy,
) -> dict[str, Any]:
    """Both at one level; saved: 1 - seconds pruned / seconds unpruned."""
    found = [first_reached(points, level, value) for points in (unpruned, pruned)]
    row: dict[str, Any] = {"level": level}
    for name, at in zip((UNPRUNED, PRUNED), found, strict=True):
        row[name] = None if at is None else {"rooms": at[0], "seconds": at[1]}
    whole, less = found
    row["saved"] = 1 - less[1] / whole[1] if whole and less and whole[1] > 0 else None
    return row


def compared_by_loss(unpruned: Sequence[Point], pruned: Sequence[Point]) -> list[dict[str, Any]]:
    """Both at the losses that the unpruned one had where it was validated, from its third on."""
    rows = []
    for point in unpruned[2:]:
        if not math.isnan(point.loss):
            row = compared(unpruned, pruned, -point.loss, lambda each: -each.loss)
            rows.append(row | {"level": point.loss})
    return rows
