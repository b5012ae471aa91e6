"""The largest free rectangle of floor beside a thing, from a grid of what depth shows.

A cell is free where it was seen as floor and nothing stands over it. A cell that no view shows is
not free. Metres, world frame, z up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ada3d_ros.geometry.boxes import points_inside, yaw_rotation
from ada3d_ros.geometry.depth_support import world_points
from ada3d_ros.types import Box3D, RgbdFrame

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Points = npt.NDArray[np.float64]

CELL_M = 0.05
MAX_READINGS = 400_000
REACH_M = 3.0  # around the thing in which floor is looked for
BESIDE_M = 0.3  # the rectangle begins at most this far from the thing
FLOOR_BAND_M = 0.06  # a reading this near the floor's height is floor
CLEARANCE_M = 0.1  # readings from here above the floor stand in the way
HEADROOM_M = 2.0  # and those above this do not
MIN_OBSTACLE_READINGS = 2  # in a cell; one alone may be noise
SAFETY_CELLS = 2  # around all that stands in the way
MIN_SIDE_M = 0.2  # of a rectangle that is worth telling


@dataclass(frozen=True, eq=False, slots=True)
class FloorGrid:
    """Cells of CELL_M along a thing's own axes, its centre in the middle.

    free, beside (R, C) bool: free floor; within BESIDE_M of the thing. Row r, column c has its
    centre at ((r + .5) * CELL_M - extent_m[0], (c + .5) * CELL_M - extent_m[1]) in those axes.
    """

    free: Bools
    beside: Bools
    extent_m: Points


def free_rectangle(
    frames: Sequence[RgbdFrame], thing: Box3D, floor_z_m: float, obstacles: Sequence[Box3D] = ()
) -> Box3D | None:
    """The free rectangle of the largest area that begins within BESIDE_M of the thing: a box of
    height 0 on the floor, with the thing's yaw. None where none has sides of MIN_SIDE_M.

    obstacles: boxes that are not free whatever depth says; the thing is one.
    """
    # What is free, and where the rectangle has to begin.
    grid = floor_grid(frames, thing, floor_z_m, obstacles)
    found = largest_rectangle(grid.free, grid.beside, math.ceil(MIN_SIDE_M / CELL_M))
    if found is None:
        return None

    # From cells to a box.
    low = np.array([found[0], found[2]]) * CELL_M - grid.extent_m
    high = np.array([found[1], found[3]]) * CELL_M - grid.extent_m
    middle = yaw_rotation(thing.yaw_rad) @ np.array([*(low + high) / 2, 0.0])
    center = np.array([*(thing.center_m + middle)[:2], floor_z_m])
    return Box3D(center, np.array([*(high - low), 0.0]), thing.yaw_rad, "free floor")


def floor_grid(
    frames: Sequence[RgbdFrame], thing: Box3D, floor_z_m: float, obstacles: Sequence[Box3D] = ()
) -> FloorGrid:
    """The cells around a thing."""
    # Readings in the thing's axes, those within reach.
    extent_m = np.ceil((thing.size_m[:2] / 2 + REACH_M) / CELL_M) * CELL_M
    shape = np.round(2 * extent_m / CELL_M).astype(np.int64)
    points = world_points(frames, MAX_READINGS)
    local = (points - thing.center_m) @ yaw_rotation(thing.yaw_rad)
    near = (np.abs(local[:, :2]) < extent_m).all(axis=1)
    cell = np.floor((local[near, :2] + extent_m) / CELL_M).astype(np.int64)
    height_m = points[near, 2] - floor_z_m

    # Floor that was seen; gaps of a cell between readings are floor, too.
    seen = _count(cell[np.abs(height_m) <= FLOOR_BAND_M], shape) > 0
    seen = ndimage.binary_closing(seen, np.ones((3, 3), dtype=bool))

    # What stands in the way, with a margin.
    blocking = (height_m > CLEARANCE_M) & (height_m < HEADROOM_M)
    occupied = _count(cell[blocking], shape) >= MIN_OBSTACLE_READINGS
    for box in (thing, *obstacles):
        occupied |= _covered(box, thing, extent_m, shape)
    occupied = ndimage.binary_dilation(
        occupied, np.ones((3, 3), dtype=bool), iterations=SAFETY_CELLS
    )
    return FloorGrid(seen & ~occupied, _beside(thing, extent_m, shape), extent_m)


def _count(cell: Ints, shape: Ints) -> Ints:
    """How many of the cells (N, 2) fall on each of a grid."""
    flat = cell[:, 0] * shape[1] + cell[:, 1]
    return np.bincount(flat, minlength=int(shape.prod())).reshape(tuple(shape))


def _covered(box: Box3D, thing: Box3D, extent_m: Points, shape: Ints) -> Bools:
    """Cells whose centre lies in the box's footprint, half a cell of margin included."""
    flat = Box3D(
        np.array([*box.center_m[:2], 0.0]), np.array([*box.size_m[:2] + CELL_M, 1.0]), box.yaw_rad
    )
    return points_inside(_centers(thing, extent_m, shape), flat).reshape(tuple(shape))


def _centers(thing: Box3D, extent_m: Points, shape: Ints) -> Points:
    """Centres (R * C, 3) of all cells in the world, z = 0."""
    rows, columns = (
        (np.arange(count) + 0.5) * CELL_M - extent
        for count, extent in zip(shape, extent_m, strict=True)
    )
    x, y = np.meshgrid(rows, columns, indexing="ij")
    local = np.column_stack((x.ravel(), y.ravel(), np.zeros(x.size)))
    world = local @ yaw_rotation(thing.yaw_rad).T + thing.center_m
    world[:, 2] = 0.0
    return world


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
