"""World points of a frame's readings on a grid of its pixels, by numpy alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ada3d_ros.types import RgbdFrame

Points = npt.NDArray[np.float64]


def points_at(frame: RgbdFrame, rows: slice, columns: slice) -> Points:
    """(H, W, 3) float64 metres, world, of the pixels in these rows and columns; NaN where there is
    no reading. Pixel centres lie at integers.
    """
    camera, T = frame.intrinsics, frame.T_world_cam
    depth_m = frame.depth_m[rows, columns].astype(np.float64)
    v = np.arange(camera.height, dtype=np.float64)[rows, None]
    u = np.arange(camera.width, dtype=np.float64)[None, columns]
    in_camera = np.stack(
        ((u - camera.cx) * depth_m / camera.fx, (v - camera.cy) * depth_m / camera.fy, depth_m), -1
    )
    points: Points = in_camera @ T[:3, :3].T + T[:3, 3]
    return points


def sparse_points(frame: RgbdFrame, most_a_side: int) -> Points:
    """`points_at` of every so many-th pixel of each side, so that about `most_a_side` are left of
    it.
    """
    camera = frame.intrinsics
    rows, columns = (max(size // most_a_side, 1) for size in (camera.height, camera.width))
    return points_at(frame, slice(None, None, rows), slice(None, None, columns))


def project_to_frame(frame: RgbdFrame, xyz_m: Points) -> tuple[Points, Points]:
    """Pixels (N, 2) and depth (N,) metres of world points (N, 3) in the frame's camera; depth 0 or
    less: behind it, and the pixels mean nothing.
    """
    camera, T = frame.intrinsics, frame.T_world_cam
    in_camera = (xyz_m - T[:3, 3]) @ T[:3, :3]
    z = in_camera[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        u = in_camera[:, 0] / z * camera.fx + camera.cx
        v = in_camera[:, 1] / z * camera.fy + camera.cy
    return np.column_stack((u, v)), z
