"""Rigid transforms, quaternions and a buffer of stamped poses, numpy float64.

`T_a_b` (4, 4) maps b-coordinates to a; quaternions are x, y, z, w as in ROS messages.
Knows no clock: every stamp comes from the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation, Slerp

from ada3d_ros.errors import PoseError
from ada3d_ros.geometry.stamped import PoseReason, PoseStatus, StampedValues
from ada3d_ros.rigid import check_position, rigid_pose

Matrix = npt.NDArray[np.float64]
Vector = Sequence[float] | npt.NDArray[np.float64]

MAX_NORM_ERROR = 0.05  # of a quaternion; beyond it the four numbers are not a rounded rotation


def pose_from_quaternion(translation_m: Vector, quat_xyzw: Vector) -> Matrix:
    """T (4, 4) float64 from a translation (3,) in metres and a quaternion (4,) x, y, z, w.

    The quaternion is normalised. Raises PoseError for a number that is not finite, a position more
    than 1e6 m from the origin, an all-zero quaternion, or a norm off 1 by more than 0.05.
    """
    # Seven finite numbers.
    translation = np.asarray(translation_m, dtype=np.float64)
    quat = np.asarray(quat_xyzw, dtype=np.float64)
    if translation.shape != (3,) or quat.shape != (4,):
        raise PoseError(
            f"a pose needs 3 translation and 4 quaternion numbers, got {translation.shape} and"
            f" {quat.shape}."
        )
    if not np.isfinite(translation).all():
        raise PoseError(
            f"translation {translation.tolist()} m is not finite; the pose source has no fix."
        )
    if not np.isfinite(quat).all():
        raise PoseError(
            f"quaternion (x, y, z, w) = {quat.tolist()} is not finite; the pose source has no fix."
        )

    check_position(translation)

    # A rotation within rounding.
    with np.errstate(over="ignore"):
        norm = float(np.linalg.norm(quat))
    if abs(norm - 1.0) > MAX_NORM_ERROR:
        hint = (
            "all zero: the pose was never set"
            if norm == 0.0
            else "not a rotation; is the order x, y, z, w?"
        )
        raise PoseError(
            f"quaternion (x, y, z, w) = {quat.tolist()} has norm {norm:.4f}, allowed 1 +-"
            f" {MAX_NORM_ERROR} ({hint})."
        )

    # The transform; scipy normalises the quaternion.
    T = np.eye(4)
    T[:3, :3] = Rotation.from_quat(quat).as_matrix()
    T[:3, 3] = translation
    return T


class Transform(NamedTuple):
    """Where a frame is in its parent: metres, and a quaternion x, y, z, w that is a rotation."""

    translation_m: Vector
    quat_xyzw: Vector

    def matrix(self) -> Matrix:
        """T_parent_child (4, 4)."""
        return pose_from_quaternion(*self)


def to_quaternion(T: Matrix) -> tuple[Matrix, Matrix]:
    """Translation (3,) metres and quaternion (4,) x, y, z, w of T (4, 4), with w >= 0."""
    return T[:3, 3].copy(), Rotation.from_matrix(T[:3, :3].copy()).as_quat(canonical=True)


def invert_pose(T_a_b: Matrix) -> Matrix:
    """T_b_a (4, 4) of a rigid T_a_b (4, 4)."""
    T_b_a = np.eye(4)
    T_b_a[:3, :3] = T_a_b[:3, :3].T
    T_b_a[:3, 3] = -T_a_b[:3, :3].T @ T_a_b[:3, 3]
    return T_b_a


def rotation_angle_rad(T_a: Matrix, T_b: Matrix) -> float:
    """Angle in rad, 0 to pi, of the rotation between two poses (4, 4) of the same world."""
    return float(Rotation.from_matrix(T_a[:3, :3].T @ T_b[:3, :3]).magnitude())


def interpolate_pose(T_a: Matrix, T_b: Matrix, fraction: float) -> Matrix:
    """The pose (4, 4) at `fraction` 0..1 of the way from T_a to T_b.

    Straight line and shortest-arc slerp.
    """
    slerp = Slerp([0.0, 1.0], Rotation.from_matrix(np.stack((T_a[:3, :3], T_b[:3, :3]))))
    T = np.eye(4)
    T[:3, :3] = slerp(fraction).as_matrix()
    T[:3, 3] = (1.0 - fraction) * T_a[:3, 3] + fraction * T_b[:3, 3]
    return T


@dataclass(frozen=True, eq=False, slots=True)
class PoseLookup:
    """pose (4, 4) float64 where FOUND, else None, the reason, and a sentence that says why."""

    status: PoseStatus
    pose: Matrix | None = None
    reason: PoseReason | None = None
    why: str = ""


class PoseBuffer:
    """Stamped poses T_world_child of one child frame, interpolated on lookup.

    Which are kept: StampedValues.
    """

    def __init__(self, max_poses: int = 2000) -> None:
        self._poses = StampedValues[Matrix](max_poses)

    def __len__(self) -> int:
        return len(self._poses)

    def add(self, stamp_ns: int, T_world_child: Matrix) -> None:
        """Keeps a pose (4, 4). Raises PoseError if it is not a rigid transform."""
        # A copy that stays as it is.
        T = rigid_pose(T_world_child, f"T_world_child at {stamp_ns} ns").copy()
        T.setflags(write=False)
        self._poses.add(stamp_ns, T)

    def lookup(self, stamp_ns: int, max_gap_s: float) -> PoseLookup:
        """The pose at a stamp, or interpolated between neighbours at most max_gap_s apart.

        NOT_YET where no pose is newer than the stamp (also when the buffer is empty); NEVER where
        none is older, or the gap is too wide.
        """
        found = self._poses.bracket(stamp_ns, max_gap_s)
        if found.neighbours is None:
            why = found.why("pose", "", max_gap_s) if len(self) else "the newest pose is missing."
            return PoseLookup(found.status, reason=found.reason, why=why)
        start, stop = found.neighbours
        T = start if start is stop else interpolate_pose(start, stop, found.fraction)
        return PoseLookup(PoseStatus.FOUND, T)

    def clear(self) -> None:
        """Forgets every pose (clock jumped back, scene reset)."""
        self._poses.clear()
