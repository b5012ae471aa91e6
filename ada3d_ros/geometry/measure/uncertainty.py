"""How far off a measured value may be: half widths of intervals that hold the true one in 90 %.

A box's scale grows with the spacing of the readings on it (fewer readings, wider) and as the model
is less sure that it is the thing; a detector's box is as sure as its outline. A value's half width
is a factor, per kind of value, times the scales of its boxes, added as squares. Factors are 93 %
quantiles over validation rooms, things taken for others included (decision 0082);
`tools/calibrate_uncertainty.py` prints them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ada3d_ros.types import Box3D, GroundingMethod

# A box's scale in metres: the root of the sum of the squares of these.
LEAST_M = 0.02  # with any number of readings: noise of depth, poses
PER_SPACING = 0.5  # times the spacing of readings
PER_DOUBT_M = 1.0  # times 1 - score of a model's box
DETECTED_M = 0.04  # of a detector's box, whatever its score: that is of the kind, not of the place
MAX_SPACING_M = 0.5


class Factor(NamedTuple):
    """Of one kind of value, by whose boxes it rests on: a model's, calibrated; a detector's, which
    nothing was calibrated on: those of the first calibration, with boxes of before decision 0139.
    """

    model: float
    detector: float


SURFACES = Factor(2.18, 2.59)  # distance between the surfaces of two fitted boxes
CENTERS = Factor(2.52, 3.59)  # between centres, in 3D
PLAN = Factor(2.38, 2.71)  # between centres, on the floor plan
EXTENT = Factor(5.30, 5.66)  # length or width
TOP = Factor(0.67, 6.21)  # height, of the top above the floor
PLACE = Factor(3.45, 5.85)  # a coordinate of the centre


def box_scale_m(box: Box3D) -> float:
    """Of a box with counted depth support; 0 for a point, which is where it is said to be."""
    if not box.size_m.any():
        return 0.0
    return math.hypot(LEAST_M, PER_SPACING * spacing_m(box), _doubt_m(box))


def _doubt_m(box: Box3D) -> float:
    if _is_detected(box):
        return DETECTED_M
    return 0.0 if math.isnan(box.score) else PER_DOUBT_M * (1.0 - min(max(box.score, 0.0), 1.0))


def spacing_m(box: Box3D) -> float:
    """The side of the square of surface, top and half of the walls, that one reading stands for."""
    length, width, height = box.size_m
    seen_m2 = float(length * width + (length + width) * height)
    return min(math.sqrt(seen_m2 / max(box.support_points, 1)), MAX_SPACING_M)


def half_width_m(factor: Factor, *boxes: Box3D) -> float:
    """Of a value that rests on these boxes."""
    widths = [
        box_scale_m(box) * (factor.detector if _is_detected(box) else factor.model) for box in boxes
    ]
    return float(np.hypot.reduce(widths))


def _is_detected(box: Box3D) -> bool:
    return box.method is GroundingMethod.DETECTOR


def count_half_width(num_unsure: int, num_found: int) -> float:
    """Of a count: objects that may or may not belong to it, and one that was missed or seen twice
    among those that were found.
    """
    return float(num_unsure + (1 if num_found else 0))
