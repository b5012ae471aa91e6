"""A box in an image lifted into the world: which of the depth readings in it are the thing's own.

A box holds the thing, what is behind it, what stands before it, and what it stands on. Of its
surfaces one is chosen (surfaces.py); the level that goes on around the box, floor or table top, is
taken off. Numpy float64, world frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ada3d_ros.perception.colors import color_name, median_lab
from ada3d_ros.perception.detector import Detection2D
from ada3d_ros.perception.readings import Array, Mask, Window
from ada3d_ros.perception.surfaces import TRIM, clearance_m, level_around
from ada3d_ros.perception.taken import NotLifted, TakenReadings, settle, take_readings
from ada3d_ros.scene.object_evidence import spread_points
from ada3d_ros.types import Box3D, GroundingMethod, RgbdFrame

EDGE_SHARE = 0.02  # of the picture's side: a box that ends nearer to its edge is cut
MIN_ABOVE, LEAST_ABOVE = 0.3, 12  # share and number of the readings left above a level, and
MIN_HEIGHT_M = 0.06  # how high they reach: with less the thing is flat, and lies in the level
MIN_EXTENT_M = 0.02
MAX_POINTS = 320  # kept of a candidate


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
class Lifted:
    """The detections of one frame in the world; refused: how many have no place, by reason."""

    candidates: tuple[Candidate, ...] = ()
    refused: Mapping[str, int] = field(default_factory=dict)


def lift_all(frame: RgbdFrame, detections: Sequence[Detection2D]) -> Lifted:
    """Every detection of a frame that has a place in the world. What two boxes have taken is of the
    one that it fits; the other is looked for in what is left.
    """
    taken = [take_readings(frame, detection) for detection in detections]
    results = [
        each if isinstance(each, NotLifted) else _candidate(frame, each) for each in settle(taken)
    ]
    failures = Counter(str(each.reason) for each in results if isinstance(each, NotLifted))
    return Lifted(tuple(each for each in results if isinstance(each, Candidate)), dict(failures))


def lift(frame: RgbdFrame, detection: Detection2D) -> Candidate | NotLifted:
    """The thing that one detection shows, in the frame's world, or why it has no place there."""
    taken = take_readings(frame, detection)
    return taken if isinstance(taken, NotLifted) else _candidate(frame, taken)


def _candidate(frame: RgbdFrame, taken: TakenReadings) -> Candidate:
    """What was taken, in the world, without the level that it stands on."""
    detection, window, chosen = taken.detection, taken.window, taken.chosen
    points = window.points(frame, chosen)
    above = _above_level(window, chosen)
    points = points[above]

    # Its box, colour and points.
    low, high = np.quantile(points, (TRIM, 1 - TRIM), axis=0)
    box = Box3D(
        (low + high) / 2,
        np.maximum(high - low, MIN_EXTENT_M),
        label=detection.label,
        score=detection.score,
        support_points=window.on_every_second(len(points)),
        method=GroundingMethod.DETECTOR,
        evidence_stamps_ns=(frame.stamp_ns,),
    )
    pixels = frame.rgb[np.ix_(window.rows, window.columns)][chosen][above]
    kept = spread_points(points, MAX_POINTS)
    is_cut = _is_cut(frame, detection.box_px)
    return Candidate(box, kept, median_lab(pixels), is_cut, frame.stamp_ns)


def _is_cut(frame: RgbdFrame, box_px: tuple[float, ...]) -> bool:
    height, width = frame.depth_m.shape
    x, y = EDGE_SHARE * width, EDGE_SHARE * height
    x0, y0, x1, y1 = box_px
    return x0 < x or y0 < y or x1 > width - x or y1 > height - y


def _above_level(window: Window, chosen: Mask) -> Mask:
    """Which readings (P,) of a thing are not of the level that it stands on: one that goes on
    around the box. All, where there is no such level or the thing is as flat.
    """
    depth_m, everything = window.depth_m[chosen], np.ones(chosen.sum(), dtype=bool)
    near, far = np.quantile(depth_m, (0.02, 0.98))
    reach_m = 0.5 * (far - near) + 0.1
    level_m = level_around(window, near - reach_m, far + reach_m)
    if level_m is None:
        return everything
    height_m = window.height_m[chosen] - level_m
    above: Mask = height_m > clearance_m(depth_m)
    is_flat = above.sum() < max(MIN_ABOVE * len(above), LEAST_ABOVE)
    return everything if is_flat or np.quantile(height_m, 1 - TRIM) < MIN_HEIGHT_M else above
