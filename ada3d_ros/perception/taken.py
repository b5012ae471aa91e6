"""Which readings each box of a picture takes, and whose they are where two boxes take the same.

A table behind a sofa and a chair behind a table have boxes that hold the nearer thing, too. Where
two boxes have taken one surface it is of the one that it fits, and the other thing is looked for in
what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from ada3d_ros.perception.detector import Detection2D
from ada3d_ros.perception.readings import Mask, Window, read_window
from ada3d_ros.perception.surfaces import MIN_READINGS, Surfaces, foreground, split_surfaces
from ada3d_ros.types import RgbdFrame

MIN_VALID = 0.05  # share of the grid in a box that has a reading
SAME_BOX_IOU = 0.6  # of two boxes in the picture that are drawn around one thing
POOR_FIT = 0.5  # intersection over union of a box and what it has taken: perhaps another thing
MOSTLY = 0.5  # share of what a box had taken that is of another thing
STICKS_OUT = 0.3  # of a box's area, beyond the boxes of what stands before it

Box = tuple[float, float, float, float]


class LiftFailure(StrEnum):
    """Why a box has no place in the world."""

    TOO_SMALL = "a box under 4 px, or outside the picture"
    MASK_SIZE = "a mask of another size than the picture"
    NO_DEPTH = "hardly any depth in its box"
    NO_SURFACE = "no surface that fills its box"
    HIDDEN = "hidden behind another thing"


@dataclass(frozen=True, eq=False, slots=True)
class NotLifted:
    """A detection without a place, and why."""

    detection: Detection2D
    reason: LiftFailure


@dataclass(frozen=True, eq=False, slots=True)
class TakenReadings:
    """What a box takes: one of the surfaces in its window, and chosen (R, C), the readings of the
    thing.
    """

    detection: Detection2D
    surfaces: Surfaces
    surface: int
    chosen: Mask

    @property
    def window(self) -> Window:
        return self.surfaces.window

    @property
    def fit(self) -> float:
        """How well its surface fits the box: intersection over union in the picture."""
        window, on = self.window, self.surfaces.number == self.surface
        rows, columns = (np.flatnonzero(on.any(axis=axis)) for axis in (1, 0))
        y, x = window.rows[rows[[0, -1]]], window.columns[columns[[0, -1]]]
        around = float(x[0]), float(y[0]), float(x[1]) + 1, float(y[1]) + 1
        return _iou(around, self.detection.box_px)


def take_readings(frame: RgbdFrame, detection: Detection2D) -> TakenReadings | NotLifted:
    """What one box takes by itself, or why it takes nothing."""
    # The readings in its box and around it; where it has a mask those of the mask count.
    mask = detection.mask
    if mask is not None and mask.shape != frame.depth_m.shape:
        return NotLifted(detection, LiftFailure.MASK_SIZE)
    window = read_window(frame, detection.box_px)
    if window is None:
        return NotLifted(detection, LiftFailure.TOO_SMALL)
    valid = np.isfinite(window.depth_m)
    if mask is not None:
        valid &= mask[np.ix_(window.rows, window.columns)]
    if (valid & window.inside).sum() < max(MIN_READINGS, MIN_VALID * window.inside.sum()):
        return NotLifted(detection, LiftFailure.NO_DEPTH)

    # Those on the thing.
    if window.is_coarse:  # where surfaces end, and what the level is, is not seen
        valid &= window.inside
    for level_apart in (not window.is_coarse, False):  # not apart where too little is left without
        surfaces = split_surfaces(window, valid, level_apart)
        surface, chosen = foreground(surfaces, np.ones_like(valid), middle_counts=mask is None)
        if chosen.sum() >= MIN_READINGS:
            return TakenReadings(detection, surfaces, surface, chosen)
    return NotLifted(detection, LiftFailure.NO_SURFACE)


def settle(taken: Sequence[TakenReadings | NotLifted]) -> list[TakenReadings | NotLifted]:
    """The same with every surface of one thing: boxes that fit theirs best choose first, the others
    from what is left, where that is better than what they had.
    """
    settled = list(taken)
    found = [(i, each) for i, each in enumerate(taken) if isinstance(each, TakenReadings)]
    done: list[TakenReadings] = []
    for i, each in sorted(found, key=lambda pair: (-pair[1].fit, pair[0])):
        others = [
            other for other in done if _may_hide(other.detection.box_px, each.detection.box_px)
        ]
        settled[i] = rest = _rest(each, others)
        if isinstance(rest, TakenReadings):
            done.append(rest)
    return settled


def _rest(each: TakenReadings, others: Sequence[TakenReadings]) -> TakenReadings | NotLifted:
    """What a box takes of the readings that are of no other thing."""
    of_others = np.zeros_like(each.chosen)
    for other in others:
        of_others |= each.window.at(other.window, other.surfaces.number == other.surface)
    if each.window.is_coarse or not (of_others & each.window.inside).any():
        return each
    surfaces, box = each.surfaces, each.detection.box_px
    surface, chosen = foreground(surfaces, ~of_others, each.detection.mask is None)
    is_poor = each.fit < POOR_FIT
    if chosen.sum() < MIN_READINGS:
        sticks_out = min(_sticks_out(box, other.detection.box_px) for other in others)
        lost = (each.chosen & of_others).sum() / each.chosen.sum()
        is_hidden = is_poor and lost >= MOSTLY and sticks_out > STICKS_OUT
        return NotLifted(each.detection, LiftFailure.HIDDEN) if is_hidden else each
    ends_better = surfaces.sides[surface - 1] > surfaces.sides[each.surface - 1]
    if surface == each.surface or ends_better or is_poor:
        return replace(each, surface=surface, chosen=chosen)
    return each


def _may_hide(box: Box, behind: Box) -> bool:
    """Whether two boxes of a picture overlap and are not of one thing."""
    return _shared(box, behind) > 0 and _iou(box, behind) < SAME_BOX_IOU


def _shared(a: Box, b: Box) -> float:
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(across, 0.0) * max(down, 0.0)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _iou(a: Box, b: Box) -> float:
    shared = _shared(a, b)
    return shared / max(_area(a) + _area(b) - shared, 1e-9)


def _sticks_out(box: Box, of: Box) -> float:
    return 1.0 - _shared(box, of) / max(_area(box), 1e-9)
