"""The largest free rectangle of floor beside a thing. Metres, world frame, z up."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ada3d_ros.geometry.boxes import yaw_rotation
from ada3d_ros.geometry.floor_grid import CELL_M, floor_grid
from ada3d_ros.types import Box3D, RgbdFrame

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Points = npt.NDArray[np.float64]

BESIDE_M = 0.3  # the rectangle begins at most this far from the thing
MIN_SIDE_M = 0.2  # of a rectangle that is worth telling


def free_rectangle(
    frames: Sequence[RgbdFrame], thing: Box3D, floor_z_m: float, obstacles: Sequence[Box3D] = ()
) -> Box3D | None:
    """The free rectangle of the largest area that begins within BESIDE_M of the thing: a box of
    height 0 on the floor, with the thing's yaw. None where none has sides of MIN_SIDE_M.

    obstacles: boxes that are not free whatever depth says; the thing is one.
    """
    # What is free, and where the rectangle has to begin.
    grid = floor_grid(frames, thing, floor_z_m, obstacles)
    beside = _beside(thing, grid.extent_m, grid.shape)
    found = largest_rectangle(grid.free, beside, math.ceil(MIN_SIDE_M / CELL_M))
    if found is None:
        return None

    # From cells to a box.
    low = np.array([found[0], found[2]]) * CELL_M - grid.extent_m
    high = np.array([found[1], found[3]]) * CELL_M - grid.extent_m
    middle = yaw_rotation(thing.yaw_rad) @ np.array([*(low + high) / 2, 0.0])
    center = np.array([*(thing.center_m + middle)[:2], floor_z_m])
    return Box3D(center, np.array([*(high - low), 0.0]), thing.yaw_rad, "free floor")


def _beside(thing: Box3D, extent_m: Points, shape: Ints) -> Bools:
    """Cells that begin within BESIDE_M of the thing, measured along its axes."""
    near = []
    for axis in (0, 1):
        middle = np.abs((np.arange(shape[axis]) + 0.5) * CELL_M - extent_m[axis])
        near.append(middle - CELL_M / 2 <= thing.size_m[axis] / 2 + BESIDE_M)
    return near[0][:, None] & near[1][None, :]


def largest_rectangle(
    free: Bools, beside: Bools, min_side: int = 1
) -> tuple[int, int, int, int] | None:
    """First row, row after the last, first column, column after the last of the largest rectangle
    of free cells (R, C) that holds at least one of `beside`; both sides min_side cells or more.

    The first one in ascending rows and columns among equally large ones; None where there is none.
    Runs over all bands of rows: R * R * C steps, in numpy.
    """
    rows, columns = free.shape
    best, found = 0, None
    number = np.arange(columns)
    for first in range(rows):
        # Columns that are free through the rows `first` to each later one, and near in any of them.
        through = np.logical_and.accumulate(free[first:], axis=0)
        touched = np.logical_or.accumulate(beside[first:] & free[first:], axis=0) & through
        if not touched.any():
            continue

        # The run of free columns that each column is in.
        start = np.maximum.accumulate(np.where(through, 0, number + 1), axis=1)
        stop = np.where(through, columns, number)[:, ::-1]
        stop = np.minimum.accumulate(stop, axis=1)[:, ::-1]
        width = np.where(touched, stop - start, 0)
        height = np.arange(1, len(through) + 1)[:, None]
        area = np.where((width >= min_side) & (height >= min_side), width * height, 0)

        # The best of this first row.
        at = int(area.argmax())
        if area.flat[at] > best:
            best = int(area.flat[at])
            row, column = divmod(at, columns)
            found = first, first + row + 1, int(start[row, column]), int(stop[row, column])
    return found
