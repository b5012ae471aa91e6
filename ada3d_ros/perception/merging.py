"""Geometry of one thing seen in several views: whether two boxes are of it, and its box of all.

Numpy float64, world frame, boxes along its axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import ConvexHull, KDTree, QhullError

from ada3d_ros.perception.lifting import MIN_EXTENT_M
from ada3d_ros.perception.surfaces import TRIM

Array = npt.NDArray[np.float64]

MARGIN_M = 0.03  # boxes are grown by it before they are compared: thin things overlap little
MIN_CELL_M, MAX_CELL_M, CELL_SHARE = 0.04, 0.15, 0.1  # of the cells in which views must agree
NEAR_M = 0.06  # of a surface: points that are of it
MIN_AGREED = 0.5  # share of the points that two views agree on; with less all count


def overlaps(low: Array, high: Array, lows: Array, highs: Array) -> tuple[Array, Array]:
    """Of a box with faces low (3,), high (3,) and others (N, 3): the intersection over union (N,),
    and the share (N,) of the smaller box that lies in the other, both grown by MARGIN_M.
    """
    low, high = low - MARGIN_M, high + MARGIN_M
    lows, highs = lows - MARGIN_M, highs + MARGIN_M
    shared = np.clip(np.minimum(high, highs) - np.maximum(low, lows), 0.0, None).prod(axis=-1)
    own, other = (high - low).prod(), (highs - lows).prod(axis=-1)
    return shared / (own + other - shared), shared / np.minimum(own, other)


def share_within(points: Array, of: Array) -> float:
    """The share of points (P, 3) that lie in the upright prism around others (Q, 3), or within
    MARGIN_M of it: in the volume of a thing that stands at any angle.
    """
    low, high = np.quantile(of[:, 2], (TRIM, 1 - TRIM))
    level = (points[:, 2] >= low - MARGIN_M) & (points[:, 2] <= high + MARGIN_M)
    try:
        sides = ConvexHull(of[:, :2]).equations  # (K, 3): a x + b y + c <= 0 inside
    except QhullError:  # all on one line
        return share_near(points, of)
    inside = (points[:, :2] @ sides[:, :2].T + sides[:, 2] <= MARGIN_M).all(axis=1)
    return float((inside & level).mean())


def share_near(points: Array, of: Array) -> float:
    """The share of points (P, 3) that lie within NEAR_M of others (Q, 3)."""
    apart_m, _ = KDTree(of).query(points, distance_upper_bound=NEAR_M)
    return float(np.isfinite(apart_m).mean())


def merge_views(views: Sequence[Array]) -> tuple[Array, Array, Array]:
    """The faces low (3,), high (3,) of a thing, and the points (P, 3) of its surface, of what each
    view shows of it (P_i, 3).

    From three views on a point counts where a second view has one nearby: what one view took for
    the thing is left out, and a part that only some views show, as where the picture ends, stays.
    """
    points = np.concatenate(views)
    if len(views) > 2:
        agreed = points[_seen_twice(points, [len(view) for view in views])]
        points = agreed if len(agreed) >= MIN_AGREED * len(points) else points
    low, high = np.quantile(points, (TRIM, 1 - TRIM), axis=0)
    short = np.maximum(MIN_EXTENT_M - (high - low), 0.0) / 2
    return low - short, high + short, points


def _seen_twice(points: Array, counts: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Which points (P,) lie in a cell, or beside one, that two views have points in."""
    # Cells of a size that fits the thing.
    low, high = points.min(axis=0), points.max(axis=0)
    cell_m = np.clip(CELL_SHARE * (high - low).max(), MIN_CELL_M, MAX_CELL_M)
    cells = ((points - low) / cell_m).astype(np.int64)
    view = np.repeat(np.arange(len(counts)), counts)
    grid = np.zeros((len(counts), *(cells.max(axis=0) + 1)), dtype=np.uint8)
    grid[(view, *cells.T)] = 1

    # In how many views each cell, or one beside it, is seen.
    near = ndimage.maximum_filter(grid, size=(1, 3, 3, 3), mode="constant")
    twice: npt.NDArray[np.bool_] = (near.sum(axis=0, dtype=np.int64) >= 2)[tuple(cells.T)]
    return twice
