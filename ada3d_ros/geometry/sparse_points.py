"""World points of a sparse grid of a frame's pixels, by numpy alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ada3d_ros.types import RgbdFrame


def sparse_points(frame: RgbdFrame, most_a_side: int) -> npt.NDArray[np.float64]:
    """(H, W, 3) metres, world; NaN where there is no reading. Every so many-th pixel of each side
    is taken, so that about `most_a_side` are left of it; pixel centres lie at integers.
    """
    camera, T = frame.intrinsics, frame.T_world_cam
    rows, columns = (max(size // most_a_side, 1) for size in (camera.height, camera.width))
    depth_m = frame.depth_m[::rows, ::columns].astype(np.float64)
    v, u = np.meshgrid(
        np.arange(depth_m.shape[0]) * rows, np.arange(depth_m.shape[1]) * columns, indexing="ij"
    )
    in_camera = np.stack(
        ((u - camera.cx) * depth_m / camera.fx, (v - camera.cy) * depth_m / camera.fy, depth_m), -1
    )
    points: npt.NDArray[np.float64] = in_camera @ T[:3, :3].T + T[:3, 3]
    return points
