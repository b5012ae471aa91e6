"""Whether a frame sees that nothing is in a box: what the rays through it end at.

Numpy float64, world frame, gravity along z.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ada3d_ros.geometry.sparse_points import project_to_frame
from ada3d_ros.types import RgbdFrame

Points = npt.NDArray[np.float64]

MAX_A_SIDE = 48  # pixels taken of each side of a box's picture


def is_seen_empty(
    frame: RgbdFrame, low_m: Points, high_m: Points, tolerance_m: float, least: int
) -> bool:
    """Whether the frame looks through the box from low_m to high_m (3,): all of it is in the
    picture, at least `least` of the pixels over it measure what lies behind it, and none measures
    anything in it or within tolerance_m of it. What lies at its foot is what it stands on.
    """
    from ada3d_ros.geometry.depth_support import NEAR_M  # loads torch

    # The pixels over the box.
    corners = np.stack(np.meshgrid(*zip(low_m, high_m, strict=True)), axis=-1).reshape(-1, 3)
    uv_px, z_m = project_to_frame(frame, corners)
    height, width = frame.depth_m.shape
    if (z_m <= NEAR_M).any():
        return False
    first, last = np.floor(uv_px.min(axis=0)), np.ceil(uv_px.max(axis=0))
    if (first < 0).any() or (last > (width - 1, height - 1)).any():
        return False
    columns, rows = (
        np.unique(np.linspace(a, b, min(int(b - a) + 1, MAX_A_SIDE)).round().astype(np.int64))
        for a, b in zip(first, last, strict=True)
    )

    # Where their rays, of length 1 along the optical axis, enter the box and leave it.
    camera, T = frame.intrinsics, frame.T_world_cam
    u, v = (grid.ravel() for grid in np.meshgrid(columns, rows))
    in_camera = ((u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(len(u)))
    ray = np.column_stack(in_camera) @ T[:3, :3].T
    with np.errstate(divide="ignore", invalid="ignore"):
        faces = (np.stack((low_m, high_m)) - T[:3, 3])[:, None] / ray
    enters_m = np.fmin(*faces).max(axis=1)
    leaves_m = np.fmax(*faces).min(axis=1)
    through = leaves_m > enters_m

    # What they end at; no reading compares as false.
    depth_m = frame.depth_m[v, u].astype(np.float64)
    end_z_m = T[2, 3] + ray[:, 2] * depth_m
    with np.errstate(invalid="ignore"):
        behind = through & (depth_m > leaves_m + tolerance_m)
        inside = through & (depth_m >= enters_m - tolerance_m) & ~behind
        inside &= end_z_m >= low_m[2] + tolerance_m
    return bool(behind.sum() >= least and not inside.any())
