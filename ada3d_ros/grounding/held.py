"""The top of a thing that holds others: depth shows both as one surface, so that its box reaches to
the top of what stands on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ada3d_ros.geometry.boxes import grow_box, points_inside
from ada3d_ros.geometry.measure.relations import (
    MIN_OVERLAP,
    TOUCH_M,
    bottom_m,
    covered_share,
    top_m,
)
from ada3d_ros.grounding.refine import Points, RefineSettings
from ada3d_ros.types import Box3D

LOWEST = 0.3  # share of a box's height from which on something stands on it, not in it
WIDEST = 0.8  # share of its footprint: what covers more leaves nothing to see of it
AROUND_M = 0.08  # readings this near to what stands there may be of it
MIN_HEIGHT_M = 0.1


def without_held(points: Points, box: Box3D, others: Sequence[Box3D]) -> Box3D:
    """The box with its top where its own surface ends, beside what stands on it of the others; as
    it is where nothing does, or nothing else of it is seen. points (P, 3): the scene's readings.
    """
    held = [other for other in others if other is not box and _stands_on(other, box)]
    if not held:
        return box

    # Its readings that are of nothing on it.
    inside = points[points_inside(points, box)]
    own = np.ones(len(inside), dtype=bool)
    for other in held:
        around = grow_box(other, AROUND_M)
        over = (np.abs(inside[:, :2] - around.center_m[:2]) <= around.size_m[:2] / 2).all(axis=1)
        own &= ~(over & (inside[:, 2] > bottom_m(other) - AROUND_M / 2))
    settings = RefineSettings()
    if own.sum() < settings.min_points:
        return box

    # Their top.
    top = float(np.quantile(inside[own, 2], 1 - settings.trim))
    height = top - bottom_m(box)
    if height < MIN_HEIGHT_M:
        return box
    center_m, size_m = box.center_m.copy(), box.size_m.copy()
    center_m[2], size_m[2] = bottom_m(box) + height / 2, height
    return replace(box, center_m=center_m, size_m=size_m)


def _stands_on(thing: Box3D, support: Box3D) -> bool:
    """Whether it is over a support whose box may reach up around it."""
    lowest_m = bottom_m(support) + LOWEST * float(support.size_m[2])
    smaller = thing.size_m[:2].prod() < WIDEST * support.size_m[:2].prod()
    raised = lowest_m < bottom_m(thing) <= top_m(support) + TOUCH_M
    return bool(smaller) and raised and covered_share(thing, support) >= MIN_OVERLAP
