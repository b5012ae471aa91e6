"""Poses out of text files: a file of stamped rows, a list of matrices, a file per frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ada3d_ros.errors import FrameError, FrameReason, PoseError, SourceError
from ada3d_ros.geometry.pose import pose_from_quaternion
from ada3d_ros.rigid import rigid_pose
from ada3d_ros.sources.text_files import (
    Matrix,
    Row,
    is_header,
    read_pose_matrix,
    read_rows,
    stamps_to_ns,
)

STAMPED = "timestamp tx ty tz qx qy qz qw"
# Columns of a pose list: what they are, and whether a stamp or frame number goes first.
LIST_COLUMNS = {
    7: ("tx ty tz qx qy qz qw", False),
    8: (STAMPED, True),
    12: ("3x4 matrix", False),
    13: ("stamp and 3x4 matrix", True),
    16: ("4x4 matrix", False),
    17: ("stamp and 4x4 matrix", True),
}

Pose = Matrix | FrameError  # a rigid T_world_cam (4, 4), or why there is none


@dataclass(frozen=True, eq=False, slots=True)
class PoseRows:
    """The rows of one file, T_world_cam (4, 4) or the reason, and its first cells.

    stamps_ns: None where the rows have no stamps.
    """

    path: Path
    rows: tuple[Row, ...]
    poses: tuple[Pose, ...]
    stamps_ns: tuple[int, ...] | None
    notes: tuple[str, ...] = field(default=())

    def stamped(self) -> list[tuple[int, Matrix]]:
        """Stamps and poses that can be used, in the order of the file."""
        pairs = zip(self.stamps_ns or (), self.poses, strict=True)
        return [(stamp_ns, T) for stamp_ns, T in pairs if not isinstance(T, FrameError)]


def read_stamped_poses(path: Path, unit: str) -> PoseRows:
    """A file of `timestamp tx ty tz qx qy qz qw`.

    Rows of NaN or zeros, where a tracker was lost, are noted. Raises SourceError for another format
    and where no row can be used.
    """
    rows = _rows_of(path, "poses")
    for row in rows:
        if len(row.cells) != 8:
            raise row.error(f"{len(row.cells)} columns, expected 8 ({STAMPED}).")
    stamps_ns, note = stamps_to_ns(rows, unit)
    return _checked(path, rows, [_parsed(row, 1) for row in rows], (stamps_ns, note))


def read_pose_list(path: Path, unit: str) -> PoseRows:
    """A file with a pose a line: 7, 12 or 16 numbers, or one more with a stamp or frame number.

    Raises as read_stamped_poses.
    """
    # One known number of columns.
    rows = _rows_of(path, "poses")
    columns = len(rows[0].cells)
    if columns not in LIST_COLUMNS:
        known = ", ".join(f"{number} ({what})" for number, (what, _) in LIST_COLUMNS.items())
        raise rows[0].error(f"{columns} columns, expected one of {known}.")
    for row in rows:
        if len(row.cells) != columns:
            raise row.error(f"{len(row.cells)} columns, the first row has {columns}.")

    # Their poses and stamps.
    has_stamp = LIST_COLUMNS[columns][1]
    stamps = stamps_to_ns(rows, unit) if has_stamp else (None, None)
    return _checked(path, rows, [_parsed(row, int(has_stamp)) for row in rows], stamps)


def read_odometry(path: Path, unit: str) -> PoseRows:
    """StrayScanner's odometry.csv: `timestamp, frame, x, y, z, qx, qy, qz, qw`, more may follow."""
    rows = _rows_of(path, "poses")
    for row in rows:
        if len(row.cells) < 9:
            raise row.error(f"{len(row.cells)} columns, expected 9 (timestamp, frame, x ... qw).")
    poses = [_judged(row, lambda n: pose_from_quaternion(n[2:5], n[5:9])) for row in rows]
    return _checked(path, rows, poses, stamps_to_ns(rows, unit))


def read_pose_file(path: Path) -> Pose:
    """The pose of a file with one matrix. Raises SourceError where it holds something else."""
    if not read_rows(path):
        return FrameError(FrameReason.NO_POSE, f"{path.name} is empty: the pose was lost.")
    T = read_pose_matrix(path)
    if not np.isfinite(T).all():  # ScanNet's mark of a lost camera
        return FrameError(FrameReason.NO_POSE, f"{path.name} is not finite: the camera was lost.")
    try:
        return rigid_pose(T, path.name)
    except PoseError as error:
        return FrameError(FrameReason.BAD_POSE, str(error))


def _rows_of(path: Path, what: str) -> list[Row]:
    rows = read_rows(path)
    rows = rows[1:] if rows and is_header(rows[0]) else rows
    if not rows:
        raise SourceError(f"{path} holds no {what}.")
    return rows


def _parsed(row: Row, start: int) -> Pose:
    def pose_of(numbers: Sequence[float]) -> Matrix:
        values = numbers[start:]
        if len(values) == 7:
            return pose_from_quaternion(values[:3], values[3:])
        last = () if len(values) == 16 else (0.0, 0.0, 0.0, 1.0)
        T = np.array([*values, *last]).reshape(4, 4)
        return rigid_pose(T, f"{row.path.name} line {row.line}")

    return _judged(row, pose_of)


def _judged(row: Row, pose_of: Callable[[Sequence[float]], Matrix]) -> Pose:
    numbers = row.numbers()
    try:
        return pose_of(numbers)
    except PoseError as error:
        lost = not np.isfinite(numbers).all() or not any(numbers[1:])
        reason = FrameReason.NO_POSE if lost else FrameReason.BAD_POSE
        return FrameError(reason, f"{row.path.name} line {row.line}: {error}")


def _checked(
    path: Path,
    rows: Sequence[Row],
    poses: Sequence[Pose],
    stamps: tuple[list[int] | None, str | None],
) -> PoseRows:
    """Raises SourceError where no row can be used."""
    stamps_ns, note = stamps
    notes = [note] if note else []
    bad = [pose for pose in poses if isinstance(pose, FrameError)]
    if len(bad) == len(poses):
        raise SourceError(f"none of the {len(poses)} poses of {path} can be used, first: {bad[0]}")
    if bad:
        notes.append(f"{len(bad)} of {len(poses)} poses not usable, first: {bad[0]}")
    known = None if stamps_ns is None else tuple(stamps_ns)
    return PoseRows(path, tuple(rows), tuple(poses), known, tuple(notes))
