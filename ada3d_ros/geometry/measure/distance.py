"""Distances between upright boxes, exact in float64: surfaces, centres, the floor plan.

An upright box is its footprint times its range of heights, so the distance of two of them is that
of the footprints and that of the ranges, at right angles. A point is a box of size 0.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ada3d_ros.geometry.boxes import footprints
from ada3d_ros.types import Box3D

Array = npt.NDArray[np.float64]


def surface_distance_m(a: Box3D, b: Box3D) -> float:
    """Between the nearest points of two boxes; 0 where they touch or overlap."""
    half_heights = (a.size_m[2] + b.size_m[2]) / 2.0
    vertical = max(abs(float(a.center_m[2] - b.center_m[2])) - float(half_heights), 0.0)
    return math.hypot(footprint_distance_m(a, b), vertical)


def center_distance_m(a: Box3D, b: Box3D) -> float:
    """Between the centres, in 3D."""
    return float(np.linalg.norm(a.center_m - b.center_m))


def plan_distance_m(a: Box3D, b: Box3D) -> float:
    """Between the centres, on the floor plan."""
    return float(np.hypot(*(a.center_m - b.center_m)[:2]))


def footprint_distance_m(a: Box3D, b: Box3D) -> float:
    """Between the nearest points of two footprints; 0 where they touch or overlap."""
    first, second = footprints(a, b)
    if overlaps(first, second):
        return 0.0
    return min(_corners_to_edges_m(first, second), _corners_to_edges_m(second, first))


def overlaps(first: Array, second: Array) -> bool:
    """Whether two convex polygons (N, 2), counter-clockwise, share a point (separating axes)."""
    edges = np.concatenate((np.roll(first, -1, 0) - first, np.roll(second, -1, 0) - second))
    axes = np.column_stack((-edges[:, 1], edges[:, 0]))  # an axis of a point is 0: separates not
    along_first, along_second = first @ axes.T, second @ axes.T
    apart = (along_first.max(0) < along_second.min(0)) | (along_second.max(0) < along_first.min(0))
    is_two_points = not axes.any() and bool((first[0] != second[0]).any())
    return not (bool(apart.any()) or is_two_points)


def _corners_to_edges_m(points: Array, polygon: Array) -> float:
    """The smallest distance of points (N, 2) to the edges of a polygon (M, 2)."""
    start, edge = polygon, np.roll(polygon, -1, 0) - polygon
    length2 = np.maximum((edge**2).sum(1), np.finfo(np.float64).tiny)
    offset = points[:, None] - start[None]  # (N, M, 2)
    share = np.clip((offset * edge).sum(2) / length2, 0.0, 1.0)
    gap = offset - share[..., None] * edge
    return float(np.sqrt((gap**2).sum(2)).min())
