"""Points around a thing without the walls that it hangs together with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ada3d_ros.geometry.boxes import grow_box, points_inside
from ada3d_ros.types import Box3D

Points = npt.NDArray[np.float64]

BAND_M = 0.04  # half the width of a band of points on the floor plan that make a wall
MAX_WALLS = 3  # that meet at a thing
MIN_POINTS = 15  # that a wall is looked for in
MIN_SHARE = 0.2  # of the points that a wall is looked for in, which it holds
CLEARANCE_M = 0.08  # points this near to a wall are of it
OVER_M = 0.15  # points this far over a thing are of what is behind it
_ANGLES_RAD = np.deg2rad(np.arange(0.0, 180.0, 6.0))
NORMALS = np.stack((np.cos(_ANGLES_RAD), np.sin(_ANGLES_RAD)), axis=1)  # (D, 2)


def without_walls(points: Points, guess: Box3D) -> Points:
    """The points (P, 3) around a guess without the upright planes that hold most of those outside
    of it: walls, and what else stands there.
    """
    outside = points[~points_inside(points, grow_box(guess, BAND_M))]
    return _without_planes(points, outside, guess)


def without_walls_over(points: Points, guess: Box3D, over: Points) -> Points:
    """The points (P, 3) around a guess without the upright planes that hold most of those above it,
    which `over` (O, 3) has too. A wall goes on there, while a side of the thing itself, were the
    guess beside it, does not.
    """
    top_m = guess.center_m[2] + guess.size_m[2] / 2
    return _without_planes(points, over[over[:, 2] > top_m + OVER_M], guess)


def _without_planes(points: Points, seen: Points, guess: Box3D) -> Points:
    """The points without the upright planes, MAX_WALLS at most, that hold most of those seen."""
    for _ in range(MAX_WALLS):
        if len(seen) < MIN_POINTS:
            break
        # The fullest band of all directions on the floor plan, bands overlapping by half.
        offsets = (seen[:, :2] - guess.center_m[:2]) @ NORMALS.T  # (O, D)
        cells = np.floor(offsets / BAND_M).astype(np.int64)
        low = cells.min()
        flat = (cells - low) + np.arange(len(NORMALS)) * (cells.max() - low + 1)
        counts = np.bincount(flat.ravel())
        pairs = counts[:-1] + counts[1:]
        if pairs.max() < MIN_SHARE * len(seen):
            break
        direction, cell = divmod(int(pairs.argmax()), int(cells.max() - low + 1))
        in_band = (cells[:, direction] - low - cell) // 2 == 0
        wall_m = float(np.median(offsets[in_band, direction]))

        points = points[_apart(points, guess, NORMALS[direction], wall_m)]
        seen = seen[_apart(seen, guess, NORMALS[direction], wall_m)]
    return points


def _apart(points: Points, guess: Box3D, normal: Points, wall_m: float) -> npt.NDArray[np.bool_]:
    """Which points (P,) are not of the plane at wall_m along a normal (2,), from the guess on."""
    away_m: Points = (points[:, :2] - guess.center_m[:2]) @ normal - wall_m
    return np.abs(away_m) > CLEARANCE_M
