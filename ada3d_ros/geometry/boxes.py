"""Box maths in the world frame, numpy float64: corners, inside tests, IoU.

Boxes are full extents, turned by a yaw about world z; roll and pitch do not exist here.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from ada3d_ros.types import Box3D

Array = npt.NDArray[np.float64]

# Bottom face counter-clockwise seen from above, then the top face alike.
CORNER_SIGNS = np.array(
    [
        [-1, -1, -1],
        [1, -1, -1],
        [1, 1, -1],
        [-1, 1, -1],
        [-1, -1, 1],
        [1, -1, 1],
        [1, 1, 1],
        [-1, 1, 1],
    ],
    dtype=np.float64,
)


def yaw_rotation(yaw_rad: float) -> Array:
    """R_world_box (3, 3): rotation by yaw about world z."""
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def corners(box: Box3D) -> Array:
    """The 8 corners (8, 3) in metres, world frame.

    Order in box axes: 0-3 the bottom face (-x-y, +x-y, +x+y, -x+y: counter-clockwise seen from
    above), 4-7 the top face over 0-3.
    """
    return (CORNER_SIGNS * box.size_m / 2.0) @ yaw_rotation(box.yaw_rad).T + box.center_m


def grow_box(box: Box3D, margin_m: float) -> Box3D:
    """The box with every face moved outwards by margin_m (negative: inwards, down to size 0)."""
    size_m = np.maximum(box.size_m + 2.0 * margin_m, 0.0)
    return dataclasses.replace(box, center_m=box.center_m.copy(), size_m=size_m)


def points_inside(xyz_m: Array, box: Box3D) -> npt.NDArray[np.bool_]:
    """Which world points (N, 3) lie in the box, faces included; (N,) bool. NaN points do not."""
    if box.yaw_rad == 0.0:  # column by column: 25 times faster
        x, y, z = (np.abs(xyz_m[:, i] - box.center_m[i]) <= box.size_m[i] / 2.0 for i in range(3))
        inside: npt.NDArray[np.bool_] = x & y & z
        return inside
    local = (xyz_m - box.center_m) @ yaw_rotation(box.yaw_rad)
    return np.logical_and.reduce(np.abs(local) <= box.size_m / 2.0, axis=-1)


def iou_axis_aligned(a: Box3D, b: Box3D) -> float:
    """Intersection over union, 0..1, of the world-axis-aligned boxes that enclose a and b.

    For boxes without yaw this is their IoU; use iou_oriented for the others. 0 where the union has
    no volume.
    """
    corners_a, corners_b = corners(a), corners(b)
    low_a, high_a = corners_a.min(axis=0), corners_a.max(axis=0)
    low_b, high_b = corners_b.min(axis=0), corners_b.max(axis=0)
    shared = np.clip(np.minimum(high_a, high_b) - np.maximum(low_a, low_b), 0.0, None).prod()
    return _ratio(shared, (high_a - low_a).prod() + (high_b - low_b).prod() - shared)


def iou_oriented(a: Box3D, b: Box3D) -> float:
    """Intersection over union, 0..1, of two yawed boxes, exact in float64.

    0 where the union has no volume.
    """
    # Shared height.
    half_a, half_b = a.size_m[2] / 2.0, b.size_m[2] / 2.0
    top = min(a.center_m[2] + half_a, b.center_m[2] + half_b)
    bottom = max(a.center_m[2] - half_a, b.center_m[2] - half_b)
    height = top - bottom
    if height <= 0.0:
        return 0.0

    # Shared footprint.
    shared = footprint_overlap_m2(a, b) * height
    return _ratio(shared, a.size_m.prod() + b.size_m.prod() - shared)


def footprints(a: Box3D, b: Box3D) -> tuple[Array, Array]:
    """The corners (4, 2) of both footprints, counter-clockwise, from a's centre: small numbers stay
    exact far from the world's origin.
    """
    origin = a.center_m[:2]
    return corners(a)[:4, :2] - origin, corners(b)[:4, :2] - origin


def footprint_overlap_m2(a: Box3D, b: Box3D) -> float:
    """The area that two footprints share, exact in float64."""
    return _polygon_area(_clip_convex(*footprints(a, b)))


def _ratio(shared: float, union: float) -> float:
    return min(float(shared / union), 1.0) if union > 0.0 else 0.0


def _clip_convex(subject: Array, clip: Array) -> Array:
    """The part (M, 2) of a convex polygon (N, 2) inside another, both counter-clockwise.

    Sutherland and Hodgman.
    """
    for start, stop in zip(clip, np.roll(clip, -1, axis=0), strict=True):
        if len(subject) == 0:
            break

        # On which side of this edge every corner lies; >= 0: inside.
        edge, offset = stop - start, subject - start
        side = edge[0] * offset[:, 1] - edge[1] * offset[:, 0]

        # Corners inside stay; where an edge crosses, the crossing is a new corner.
        kept: list[Array] = []
        for i in range(len(subject)):
            j = (i + 1) % len(subject)
            if side[i] >= 0.0:
                kept.append(subject[i])
            if (side[i] >= 0.0) != (side[j] >= 0.0):
                kept.append(subject[i] + side[i] / (side[i] - side[j]) * (subject[j] - subject[i]))
        subject = np.array(kept).reshape(-1, 2)
    return subject


def _polygon_area(polygon: Array) -> float:
    if len(polygon) < 3:
        return 0.0
    x, y = polygon[:, 0], polygon[:, 1]
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2.0
