"""A box in an image lifted into the world: which of the depth readings in it are the thing's own.

A box holds the thing, what is behind it, what stands before it, and what it stands on. The readings
are split where depth jumps; of the surfaces the nearest counts that fills enough of the box's
middle and reaches over most of the box; the level that goes on around the box, floor or table top,
is taken off. Numpy float64, world frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ada3d_ros.perception.colors import color_name, median_lab
from ada3d_ros.perception.detector import Detection2D
from ada3d_ros.scene.object_evidence import spread_points
from ada3d_ros.types import Box3D, GroundingMethod, RgbdFrame

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

GRID = 64  # readings taken along each side of a box at most
EDGE_SHARE = 0.02  # of the picture's side: a box that ends nearer to its edge is cut
MIN_SIDE_PX = 4.0
MIN_READINGS = 12  # in a box, and on the thing
MIN_VALID = 0.05  # share of the grid in a box that has a reading
JUMP_M, JUMP_SHARE = 0.05, 0.03  # between neighbours that are of two surfaces, or of their distance
MIDDLE = 0.6  # standard deviation of the weight of the box's middle, in half sides
MIN_WEIGHT = 0.25  # share of that weight which the thing's surface has
MIN_SPAN = 0.6  # of the box's width and height, which a whole thing's surface reaches over
RING_SHARE, MIN_RING_PX = 0.12, 6.0  # the surroundings of a box, of its sides
LEVEL_BAND_M = 0.02  # of a histogram of heights
MIN_LEVEL = 0.25  # share of the surroundings' readings that make a level
LEVEL_CLEARANCE_M, LEVEL_CLEARANCE_SHARE = 0.015, 0.008  # above a level, and share of distance
MIN_ABOVE = 0.3  # share of the readings left above a level, and
MIN_HEIGHT_M = 0.06  # how high they reach: with less the thing is flat, and lies in the level
TRIM = 0.02  # share of points beyond each face
MIN_EXTENT_M = 0.02
MAX_POINTS = 320  # kept of a candidate


class LiftFailure(StrEnum):
    """Why a box has no place in the world."""

    TOO_SMALL = "a box under 4 px, or outside the picture"
    MASK_SIZE = "a mask of another size than the picture"
    NO_DEPTH = "hardly any depth in its box"
    NO_SURFACE = "no surface that fills its box"


@dataclass(frozen=True, eq=False, slots=True)
class Candidate:
    """A thing seen in one frame.

    box: along the world's axes, with the detector's label and score; xyz_m (P, 3): points of its
    surface that face the camera, at most MAX_POINTS; lab (3,): median colour in CIELAB; is_cut: the
    picture ends where the box does, so the thing may be larger.
    """

    box: Box3D
    xyz_m: Array
    lab: Array
    is_cut: bool
    stamp_ns: int

    @property
    def label(self) -> str:
        return self.box.label

    @property
    def score(self) -> float:
        return self.box.score

    @property
    def color(self) -> str:
        """In a word, '' where it is not sure."""
        return color_name(self.lab)


@dataclass(frozen=True, eq=False, slots=True)
class NotLifted:
    """A detection without a place, and why."""

    detection: Detection2D
    reason: LiftFailure


@dataclass(frozen=True, eq=False, slots=True)
class Lifted:
    """The detections of one frame in the world; refused: how many have no place, by reason."""

    candidates: tuple[Candidate, ...] = ()
    refused: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class _Window:
    """A grid of readings: rows (R,) and columns (C,) in px, and depth_m (R, C)."""

    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    depth_m: Array

    def points(self, frame: RgbdFrame, chosen: Mask) -> Array:
        """World points (P, 3) of the chosen (R, C) readings, row by row."""
        row, column = np.nonzero(chosen)
        camera, z = frame.intrinsics, self.depth_m[chosen]
        x = (self.columns[column] - camera.cx) / camera.fx * z
        y = (self.rows[row] - camera.cy) / camera.fy * z
        T = frame.T_world_cam
        world: Array = np.stack((x, y, z), axis=-1) @ T[:3, :3].T + T[:3, 3]
        return world


def lift_all(frame: RgbdFrame, detections: Sequence[Detection2D]) -> Lifted:
    """Every detection of a frame that has a place in the world."""
    results = [lift(frame, detection) for detection in detections]
    failures = Counter(str(each.reason) for each in results if isinstance(each, NotLifted))
    return Lifted(tuple(each for each in results if isinstance(each, Candidate)), dict(failures))


def lift(frame: RgbdFrame, detection: Detection2D) -> Candidate | NotLifted:
    """The thing that a detection shows, in the frame's world, or why it has no place there."""
    # The readings in its box, and in its mask where there is one.
    if detection.mask is not None and detection.mask.shape != frame.depth_m.shape:
        return NotLifted(detection, LiftFailure.MASK_SIZE)
    window = _window(frame, detection.box_px)
    if window is None:
        return NotLifted(detection, LiftFailure.TOO_SMALL)
    valid = np.isfinite(window.depth_m) & (window.depth_m > 0)
    if detection.mask is not None:
        valid &= detection.mask[np.ix_(window.rows, window.columns)]
    if valid.sum() < max(MIN_READINGS, MIN_VALID * valid.size):
        return NotLifted(detection, LiftFailure.NO_DEPTH)

    # Those on the thing.
    chosen = _foreground(window.depth_m, valid, middle_counts=detection.mask is None)
    if chosen.sum() < MIN_READINGS:
        return NotLifted(detection, LiftFailure.NO_SURFACE)
    points = window.points(frame, chosen)
    above = _above_level(frame, detection.box_px, window.depth_m[chosen], points)
    points = points[above]

    # Its box, colour and points.
    low, high = np.quantile(points, (TRIM, 1 - TRIM), axis=0)
    box = Box3D(
        (low + high) / 2,
        np.maximum(high - low, MIN_EXTENT_M),
        label=detection.label,
        score=detection.score,
        support_points=_on_every_second(window, len(points)),
        method=GroundingMethod.DETECTOR,
        evidence_stamps_ns=(frame.stamp_ns,),
    )
    pixels = frame.rgb[np.ix_(window.rows, window.columns)][chosen][above]
    kept = spread_points(points, MAX_POINTS)
    is_cut = _is_cut(frame, detection.box_px)
    return Candidate(box, kept, median_lab(pixels), is_cut, frame.stamp_ns)


def _window(frame: RgbdFrame, box_px: tuple[float, ...]) -> _Window | None:
    """The grid of readings in a box; None where it is too small."""
    height, width = frame.depth_m.shape
    x0, y0, x1, y1 = (float(v) for v in box_px)
    x0, x1 = max(x0, 0.0), min(x1, float(width))
    y0, y1 = max(y0, 0.0), min(y1, float(height))
    if not (x1 - x0 >= MIN_SIDE_PX and y1 - y0 >= MIN_SIDE_PX):  # NaN too
        return None
    rows, columns = _steps(y0, y1), _steps(x0, x1)
    return _Window(rows, columns, frame.depth_m[np.ix_(rows, columns)].astype(np.float64))


def _on_every_second(window: _Window, count: int) -> int:
    """How many of `count` readings of the grid there are on every second row and column."""
    steps = [int(a[1] - a[0]) if len(a) > 1 else 1 for a in (window.rows, window.columns)]
    return max(1, round(count * steps[0] * steps[1] / 4))


def _steps(start: float, stop: float) -> npt.NDArray[np.int64]:
    first, last = int(np.ceil(start)), int(np.floor(stop - 1e-9))
    return np.arange(first, last + 1, max(1, -(-(last - first + 1) // GRID)))


def _is_cut(frame: RgbdFrame, box_px: tuple[float, ...]) -> bool:
    height, width = frame.depth_m.shape
    x, y = EDGE_SHARE * width, EDGE_SHARE * height
    x0, y0, x1, y1 = box_px
    return x0 < x or y0 < y or x1 > width - x or y1 > height - y


def _foreground(depth_m: Array, valid: Mask, middle_counts: bool) -> Mask:
    """Which readings (R, C) are on the thing: the nearest surface that fills enough of the middle,
    of those that reach from side to side where there are any, and what else lies at its depth.
    """
    # Surfaces: readings that hang together without a jump.
    surfaces, count = _surfaces(depth_m, valid)
    if not count:
        return np.zeros_like(valid)

    # How much of the middle each fills, and how near it is.
    rows, columns = (np.linspace(-1, 1, n) / MIDDLE for n in depth_m.shape)
    weight = np.exp(-0.5 * (rows[:, None] ** 2 + columns**2))
    weight = np.where(surfaces > 0, weight if middle_counts else 1.0, 0.0)
    names = np.arange(1, count + 1)
    share = ndimage.sum_labels(weight, surfaces, names) / weight.sum()
    distance_m = ndimage.median(depth_m, surfaces, names)
    fills = share >= min(MIN_WEIGHT, share.max())
    spans = fills & _spans(surfaces, count)
    among = spans if spans.any() else fills
    nearest = names[among][distance_m[among].argmin()]

    # What else lies at its depth, such as the parts behind a pole.
    own = depth_m[surfaces == nearest]
    near, far = np.quantile(own, (0.05, 0.95))
    slack = np.maximum(JUMP_M, JUMP_SHARE * near)
    at_depth = (surfaces > 0) & (depth_m >= near - slack) & (depth_m <= far + slack)
    parts = np.bincount(surfaces[at_depth], minlength=count + 1)
    sizes = np.bincount(surfaces.ravel(), minlength=count + 1)
    mostly = parts >= 0.8 * np.maximum(sizes, 1)
    mostly[0], mostly[nearest] = False, True
    chosen: Mask = mostly[surfaces]
    return chosen


def _spans(surfaces: npt.NDArray[np.int32], count: int) -> Mask:
    """Which surfaces (count,) reach over most of the box's width and height, as the thing does that
    it was drawn around; what lies on it, or stands before a part of it, does not.
    """
    found = ndimage.find_objects(surfaces, max_label=count)
    reach = np.array([[s.stop - s.start for s in each] for each in found])
    rows, columns = surfaces.shape
    spans: Mask = (reach[:, 0] >= MIN_SPAN * rows) & (reach[:, 1] >= MIN_SPAN * columns)
    return spans


def _surfaces(depth_m: Array, valid: Mask) -> tuple[npt.NDArray[np.int32], int]:
    """Numbers from 1 on of the surface that each reading (R, C) belongs to, and how many there are;
    0 at jumps and without a reading.
    """
    jump = np.zeros_like(valid)
    limit = np.maximum(JUMP_M, JUMP_SHARE * depth_m)
    with np.errstate(invalid="ignore"):
        for axis in (0, 1):
            before = (slice(None),) * axis + (slice(None, -1),)
            after = (slice(None),) * axis + (slice(1, None),)
            apart = depth_m[after] - depth_m[before]
            far_one = np.minimum(limit[after], limit[before])
            # The farther of the two goes: what is near is the edge of a thing.
            jump[after] |= apart > far_one
            jump[before] |= -apart > far_one
    labels, count = ndimage.label(valid & ~jump)
    return labels, int(count)


def _above_level(
    frame: RgbdFrame, box_px: tuple[float, ...], depth_m: Array, points: Array
) -> Mask:
    """Which points (P, 3) of a thing, at depth_m (P,), are not of the level that it stands on: one
    that goes on around the box. All, where there is no such level or the thing is as flat.
    """
    # Readings around the box that are about as far away.
    everything = np.ones(len(points), dtype=bool)
    x0, y0, x1, y1 = box_px
    out_x, out_y = (max(RING_SHARE * side, MIN_RING_PX) for side in (x1 - x0, y1 - y0))
    around = _window(frame, (x0 - out_x, y0 - out_y, x1 + out_x, y1 + out_y))
    if around is None:
        return everything
    rows, columns = around.rows[:, None], around.columns
    inside = (rows >= y0) & (rows <= y1) & (columns >= x0) & (columns <= x1)
    near, far = np.quantile(depth_m, (0.02, 0.98))
    reach_m = 0.5 * (far - near) + 0.1
    with np.errstate(invalid="ignore"):
        ring = ~inside & (around.depth_m > near - reach_m) & (around.depth_m < far + reach_m)
    heights_m = around.points(frame, ring)[:, 2]
    if len(heights_m) < MIN_READINGS:
        return everything

    # The fullest band of heights among them.
    start = heights_m.min()
    bands = np.bincount(((heights_m - start) / LEVEL_BAND_M).astype(np.int64))
    pairs = bands + np.append(bands[1:], 0)
    fullest = int(pairs.argmax())
    if pairs[fullest] < MIN_LEVEL * len(heights_m):
        return everything
    level_m = start + (fullest + 1) * LEVEL_BAND_M
    height_m = points[:, 2] - level_m
    above: Mask = height_m > LEVEL_CLEARANCE_M + LEVEL_CLEARANCE_SHARE * depth_m
    is_flat = above.sum() < max(MIN_ABOVE * len(points), MIN_READINGS)
    return everything if is_flat or np.quantile(height_m, 1 - TRIM) < MIN_HEIGHT_M else above
