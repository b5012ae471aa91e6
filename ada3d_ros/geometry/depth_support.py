"""Depth readings as world points, and how many lie inside a box: what a box must have to be
published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ada3d_ros.geometry.boxes import corners, points_inside
from ada3d_ros.geometry.sparse_points import points_at, project_to_frame
from ada3d_ros.types import Box3D, RgbdFrame

Points = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

NEAR_M = 1e-3  # a box corner nearer to the image plane than this: its window is the whole image


@dataclass(frozen=True, eq=False, slots=True)
class DepthSupport:
    """Valid depth readings inside a box: in all, and per_frame (F,) int64 in the frames' order."""

    num_points: int
    per_frame: Counts


def count_support(frames: Sequence[RgbdFrame], box: Box3D, stride_px: int = 2) -> DepthSupport:
    """How many depth readings of the frames lie inside the box, faces included.

    Counts on every stride_px-th row and column, from row and column 0 on: the numbers fall with
    stride_px squared and are the same at every call. A box behind the camera or out of view counts
    0.
    """
    counts = [len(readings_in_box(frame, box, stride_px)) for frame in frames]
    return DepthSupport(sum(counts), np.array(counts, dtype=np.int64))


def readings_in_box(frame: RgbdFrame, box: Box3D, stride_px: int) -> Points:
    """World points (P, 3) float64 of the valid readings on the stride grid inside the box."""
    # The part of the image that the box can be in.
    window = _pixel_window(frame, box, stride_px)
    if window is None:
        return np.empty((0, 3))

    # Its points.
    rows, columns = window
    points = points_at(frame, rows, columns).reshape(-1, 3)
    return points[points_inside(points, box)]  # a NaN reading makes a NaN point, which is outside


def world_points(frames: Sequence[RgbdFrame], max_points: int) -> Points:
    """Valid depth readings of all frames as world points (P, 3) float64.

    Of every n-th row and column, so that about max_points readings are taken.
    """
    parts = frame_points(frames, max_points)
    return np.concatenate(parts) if parts else np.empty((0, 3))


def frame_points(frames: Sequence[RgbdFrame], max_points: int) -> list[Points]:
    """`world_points`, one array (P, 3) a frame."""
    # One stride for all.
    total = sum(frame.depth_m.size for frame in frames)
    stride = max(1, int(np.ceil(np.sqrt(total / max_points))))

    # The points of each frame.
    parts = []
    for frame in frames:
        grid = slice(None, None, stride)
        xyz = points_at(frame, grid, grid).reshape(-1, 3)
        parts.append(xyz[np.isfinite(xyz).all(axis=1)])
    return parts


def _pixel_window(frame: RgbdFrame, box: Box3D, stride_px: int) -> tuple[slice, slice] | None:
    """Rows and columns, starting on the stride grid, that the box's corners span in the image.

    None if out of view.
    """
    uv_px, z_m = project_to_frame(frame, corners(box))
    if (z_m < NEAR_M).all():
        return None

    # The corners' bounds; the whole image where one of them is behind the camera.
    height, width = frame.depth_m.shape
    low, high = np.zeros(2), np.array([width, height]) - 1.0
    if (z_m >= NEAR_M).all():
        low = np.maximum(np.floor(uv_px.min(axis=0)), low)
        high = np.minimum(np.ceil(uv_px.max(axis=0)), high)
    if (low > high).any():
        return None

    # From the stride grid's row and column before them.
    column, row = (int(v) // stride_px * stride_px for v in low)
    return slice(row, int(high[1]) + 1, stride_px), slice(column, int(high[0]) + 1, stride_px)
