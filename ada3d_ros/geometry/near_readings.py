"""Readings that a nearer look at the same place makes worthless.

A depth camera's noise grows with the square of the distance: from 5 m a face is a slab of 10 cm and
more. Where a place was also seen from nearer, the far readings only blur it (decision 0139).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from ada3d_ros.geometry.depth_support import frame_points
from ada3d_ros.geometry.voxel import voxel_ids
from ada3d_ros.types import RgbdFrame

Points = npt.NDArray[np.float64]

FARTHER = 1.5  # times as far as the nearest reading of a place: not worth having
GOOD_TO_M = 2.0  # readings this near are good, whatever is nearer
PLACE_M = 0.12  # side of the cubes that are one place
GRIDS = 3  # of such cubes, shifted against each other: no edge is in the same place twice


def surface_points(frames: Sequence[RgbdFrame], max_points: int) -> Points:
    """The depth readings of all frames as world points (P, 3) float64, of every n-th row and
    column, so that about max_points are taken; of each place the near ones.
    """
    return near_readings(frames, frame_points(frames, max_points))


def near_readings(frames: Sequence[RgbdFrame], parts: Sequence[Points]) -> Points:
    """Of world points, one array (P, 3) a frame, those that none of the same place is much nearer
    than, all in one array in the same order.
    """
    points = np.concatenate([np.empty((0, 3)), *parts])
    if not len(points):
        return points
    depth_m = np.concatenate(
        [
            (part - frame.T_world_cam[:3, 3]) @ frame.T_world_cam[:3, 2]
            for frame, part in zip(frames, parts, strict=True)
        ]
    )
    near = depth_m <= GOOD_TO_M
    from_corner = points - points.min(axis=0)  # so that it does not matter where the world begins
    good = np.ones(len(points), dtype=bool)
    for shift in np.arange(GRIDS) / GRIDS:
        cells = np.floor(from_corner / PLACE_M + shift).astype(np.int64)
        ids, places = voxel_ids(torch.from_numpy(cells))
        nearest = torch.full((len(places),), torch.inf, dtype=torch.float64)
        nearest.scatter_reduce_(0, ids, torch.from_numpy(depth_m), "amin")
        good &= depth_m <= FARTHER * nearest[ids].numpy()
    kept: Points = points[near | good]
    return kept
