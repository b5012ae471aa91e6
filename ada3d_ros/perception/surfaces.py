"""Which of the depth readings in a box are of the thing that the box was drawn around.

The readings are split where depth jumps, and at the level that goes on around the box: floor or
table top. Of these surfaces the nearest counts that fills enough of the box's middle and, where
there is such a one, reaches over most of the box; but a box is drawn so that a thing ends at its
sides, and what ends at none of them is what stands before the thing. Numpy float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ada3d_ros.perception.readings import Array, Mask, Window

JUMP_M, JUMP_SHARE = 0.05, 0.03  # between neighbours that are of two surfaces, or of their distance
MIDDLE = 0.6  # standard deviation of the weight of the box's middle, in half sides
MIN_WEIGHT = 0.25  # share of that weight which the thing's surface has
MIN_SPAN = 0.6  # of the box's width and height, which a whole thing's surface reaches over
SIDE_SHARE = 0.1  # of a box: what ends so near to its side ends there
MIN_SIDES = 2  # of the box, where a thing ends that something stands before
MAX_BEFORE = 1  # and where that ends
MIN_BEHIND = 0.04  # share of the middle's weight which a thing still has
MIN_LEFT = 0.3  # share of a surface that no other thing has taken
TRIM = 0.02  # share of a surface's readings beyond where it ends
MIN_READINGS = 8  # in a box, on a thing, and of a level
MIN_TOGETHER = 4  # readings without a jump between them, of the smallest surface
LEVEL_BAND_M = 0.02  # of a histogram of heights
MIN_LEVEL = 0.25  # share of the surroundings' readings that make a level
LEVEL_REACH_M = 0.1  # nearer, or farther, than what is in the box
LEVEL_CLEARANCE_M, LEVEL_CLEARANCE_SHARE = 0.015, 0.008  # above a level, and share of distance

Ints = npt.NDArray[np.int32]


def level_around(window: Window, near_m: float, far_m: float) -> float | None:
    """The height of the level that most readings around a box between two depths are of; None
    where there is none.
    """
    with np.errstate(invalid="ignore"):
        at_depth = (window.depth_m > near_m) & (window.depth_m < far_m)
    heights_m = window.height_m[~window.inside & at_depth]
    if len(heights_m) < MIN_READINGS:
        return None
    start = float(heights_m.min())
    bands = np.bincount(((heights_m - start) / LEVEL_BAND_M).astype(np.int64))
    pairs = bands + np.append(bands[1:], 0)
    fullest = int(pairs.argmax())
    if pairs[fullest] < MIN_LEVEL * len(heights_m):
        return None
    return start + (fullest + 1) * LEVEL_BAND_M


def clearance_m(depth_m: Array) -> Array:
    """How far above a level, at most, a reading at depth_m may still be of it."""
    return LEVEL_CLEARANCE_M + LEVEL_CLEARANCE_SHARE * depth_m


@dataclass(frozen=True, eq=False, slots=True)
class Surfaces:
    """number (R, C): from 1 on of the surface that each reading of a window belongs to, 0 for none;
    count: of surfaces, the first `levels` of which are of the level around the box; sides (count,):
    at how many of the four sides of the box each ends.
    """

    window: Window
    number: Ints
    count: int
    levels: int
    sides: npt.NDArray[np.int64]


def split_surfaces(window: Window, valid: Mask, level_apart: bool = True) -> Surfaces:
    """The surfaces that the valid readings (R, C) of a window are of, the level that goes on around
    the box apart from them where that is asked for.
    """
    depth_m, level = np.where(valid, window.depth_m, np.nan), np.zeros_like(valid)
    if level_apart and (window.inside & valid).any():
        near, far = np.quantile(depth_m[window.inside & valid], (0.02, 0.98))
        level_m = level_around(window, near - LEVEL_REACH_M, far + LEVEL_REACH_M)
        if level_m is not None:
            with np.errstate(invalid="ignore"):
                level = valid & (np.abs(window.height_m - level_m) <= clearance_m(depth_m))

    # At jumps the farther of two neighbours goes: what is near is the edge of a thing.
    jump = np.zeros_like(valid)
    limit = np.maximum(JUMP_M, JUMP_SHARE * depth_m)
    with np.errstate(invalid="ignore"):
        for axis in (0, 1):
            before = (slice(None),) * axis + (slice(None, -1),)
            after = (slice(None),) * axis + (slice(1, None),)
            apart = depth_m[after] - depth_m[before]
            far_one = np.minimum(limit[after], limit[before])
            jump[after] |= apart > far_one
            jump[before] |= -apart > far_one
    on_level, levels = ndimage.label(level & ~jump)
    above, count = ndimage.label(valid & ~jump & ~level)
    number: Ints = np.where(above > 0, above + levels, on_level)
    return Surfaces(window, number, count + levels, levels, _sides(window, number, count + levels))


def foreground(surfaces: Surfaces, free: Mask, middle_counts: bool) -> tuple[int, Mask]:
    """The number of the thing's surface, 0 where none is left, and which readings (R, C) in the
    box are of the thing: those of the surface, and what else lies at its depth. free (R, C): the
    readings that are of no other thing.
    """
    window, count = surfaces.window, surfaces.count
    whole = np.where(window.inside, surfaces.number, 0)
    inside = np.where(free & _left(whole, free, count), whole, 0)
    nearest = _chosen(surfaces, whole, inside, middle_counts)
    if not nearest:
        return 0, np.zeros_like(free)

    # What else lies at its depth, such as the parts behind a pole.
    own = window.depth_m[inside == nearest]
    near, far = np.quantile(own, (0.05, 0.95))
    slack = np.maximum(JUMP_M, JUMP_SHARE * near)
    with np.errstate(invalid="ignore"):
        at_depth = (window.depth_m >= near - slack) & (window.depth_m <= far + slack)
    parts = np.bincount(inside[at_depth], minlength=count + 1)
    sizes = np.bincount(inside.ravel(), minlength=count + 1)
    mostly = parts >= 0.8 * np.maximum(sizes, 1)
    if nearest > surfaces.levels:
        mostly[: surfaces.levels + 1] = False
    mostly[0], mostly[nearest] = False, True
    chosen: Mask = mostly[inside]
    return nearest, chosen


def _left(whole: Ints, free: Mask, count: int) -> Mask:
    """Which readings (R, C) are of surfaces that enough is left of: not of the fringe of what
    another thing has taken.
    """
    sizes = np.bincount(whole.ravel(), minlength=count + 1)
    left: Mask = np.bincount(whole[free], minlength=count + 1) >= MIN_LEFT * sizes
    return left[whole]


def _chosen(surfaces: Surfaces, whole: Ints, inside: Ints, middle_counts: bool) -> int:
    """The number of the thing's surface among the free readings `inside` of all in the box; 0 where
    none is left.
    """
    count, depth_m = surfaces.count, surfaces.window.depth_m
    if not inside.any():
        return 0

    # How much of the middle each fills.
    names = np.arange(1, count + 1)
    weight = np.where(whole > 0, _weight(surfaces.window) if middle_counts else 1.0, 0.0)
    filled = ndimage.sum_labels(weight, inside, names)
    readings = np.bincount(inside.ravel(), minlength=count + 1)[1:]
    least = MIN_TOGETHER if surfaces.window.is_coarse else MIN_READINGS
    enough = (readings >= least) & (filled >= MIN_BEHIND * weight.sum())
    spans, fits = _spans(surfaces.window, inside, count), enough & (surfaces.sides >= MIN_SIDES)
    fits &= not surfaces.window.is_coarse

    def nearest(among: Mask) -> int:
        return int(min(names[among], key=lambda name: np.median(depth_m[inside == name])))

    # Of all but the level, then of all: its share of what these fill counts.
    for among in (names > surfaces.levels, filled > 0):
        fills = enough & among & (filled >= MIN_WEIGHT * filled[among].sum())
        fills = fills & spans if (fills & spans).any() else fills
        behind = fits & among
        if fills.any():
            first = nearest(fills)
            stands_before = surfaces.sides[first - 1] <= MAX_BEFORE and behind.any()
            return nearest(behind) if stands_before else first
        if behind.any():
            return nearest(behind)
    largest = int(filled.argmax())
    is_all_free = bool((inside == whole).all())
    return largest + 1 if is_all_free and readings[largest] >= MIN_TOGETHER else 0


def _weight(window: Window) -> Array:
    """What a reading (R, C) counts: more in the box's middle."""
    sides = []
    for axis, line in enumerate((window.rows, window.columns)):
        own = line[window.inside.any(axis=1 - axis)]
        half = max(float(own[-1] - own[0]) / 2, 0.5)
        sides.append((line - own.mean()) / (half * MIDDLE))
    weight: Array = np.exp(-0.5 * (sides[0][:, None] ** 2 + sides[1] ** 2))
    return weight


def _sides(window: Window, surfaces: Ints, count: int) -> npt.NDArray[np.int64]:
    """At how many of the four sides of the box each surface (count,) ends, as what it was drawn
    around does at most of them. Where the picture ends with the box what reaches there ends.
    """
    sides = np.zeros(count, dtype=np.int64)
    for axis, line in enumerate((window.rows, window.columns)):
        # How much of each surface lies up to each row, or column.
        length = len(line)
        where = np.broadcast_to(
            np.arange(length)[:, None] if axis == 0 else np.arange(length), surfaces.shape
        )
        counts = np.bincount((surfaces * length + where).ravel(), minlength=(count + 1) * length)
        summed = counts.reshape(count + 1, length)[1:].cumsum(axis=1)
        first, last = np.flatnonzero(window.inside.any(axis=1 - axis))[[0, -1]]
        slack = max(SIDE_SHARE * (last - first + 1), 1.0)
        begins = (summed <= TRIM * summed[:, -1:]).sum(axis=1)
        ends = (summed < (1 - TRIM) * summed[:, -1:]).sum(axis=1)
        sides += np.abs(begins - first) <= slack
        sides += np.abs(ends - last) <= slack
    return sides


def _spans(window: Window, inside: Ints, count: int) -> Mask:
    """Which surfaces (count,) reach over most of the box's width and height, as the thing does that
    it was drawn around; what lies on it, or stands before a part of it, does not.
    """
    found = ndimage.find_objects(inside, max_label=count)
    reach = np.array([[0, 0] if s is None else [a.stop - a.start for a in s] for s in found])
    rows, columns = (window.inside.any(axis=axis).sum() for axis in (1, 0))
    spans: Mask = (reach[:, 0] >= MIN_SPAN * rows) & (reach[:, 1] >= MIN_SPAN * columns)
    return spans
