"""Cells of floor around a thing: where floor was seen, and where something stands, from depth.

A cell that no view shows is neither. Metres, world frame, z up; numpy alone.
"""

from __future__ import annotations

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
FLOOR_BAND_M = 0.06  # a reading this near the floor's height is floor
CLEARANCE_M = 0.1  # readings from here above the floor stand in the way
HEADROOM_M = 2.0  # and those above this do not
MIN_OBSTACLE_READINGS = 2  # in a cell; one alone may be noise
SAFETY_CELLS = 2  # around all that stands in the way
SQUARE = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True, eq=False, slots=True)
class FloorGrid:
    """Cells of CELL_M along a thing's own axes, its centre in the middle.

    seen, occupied, tall (R, C) bool: floor was seen; something stands there; so high that it hides
    the thing. Row r, column c has its centre at ((r + .5) * CELL_M - extent_m[0], (c + .5) * CELL_M
    - extent_m[1]) in those axes.
    """

    seen: Bools
    occupied: Bools
    tall: Bools
    extent_m: Points

    @property
    def shape(self) -> Ints:
        return np.array(self.seen.shape)

    @property
    def free(self) -> Bools:
        """Floor with SAFETY_CELLS to all that stands in the way."""
        wide = ndimage.binary_dilation(self.occupied, SQUARE, iterations=SAFETY_CELLS)
        return np.asarray(self.seen & ~wide)


def floor_grid(
    frames: Sequence[RgbdFrame],
    thing: Box3D,
    floor_z_m: float,
    obstacles: Sequence[Box3D] = (),
    reach_m: float = REACH_M,
    tall_m: float = HEADROOM_M,
) -> FloorGrid:
    """The cells up to reach_m around a thing.

    obstacles: boxes that are occupied whatever depth says; the thing is one. tall_m: height above
    the floor from which on a reading hides the thing.
    """
    # Readings in the thing's axes, those within reach.
    extent_m = np.ceil((thing.size_m[:2] / 2 + reach_m) / CELL_M) * CELL_M
    shape = np.round(2 * extent_m / CELL_M).astype(np.int64)
    points = world_points(frames, MAX_READINGS)
    local = (points - thing.center_m) @ yaw_rotation(thing.yaw_rad)
    near = (np.abs(local[:, :2]) < extent_m).all(axis=1)
    cell = np.floor((local[near, :2] + extent_m) / CELL_M).astype(np.int64)
    height_m = points[near, 2] - floor_z_m

    # Floor that was seen; gaps of a cell between readings are floor, too.
    seen = _count(cell[np.abs(height_m) <= FLOOR_BAND_M], shape) > 0
    seen = ndimage.binary_closing(seen, SQUARE)

    # What stands in the way.
    below_head = height_m < HEADROOM_M
    occupied = _count(cell[(height_m > CLEARANCE_M) & below_head], shape) >= MIN_OBSTACLE_READINGS
    tall = _count(cell[(height_m > tall_m) & below_head], shape) >= MIN_OBSTACLE_READINGS
    for box in (thing, *obstacles):
        occupied |= _covered(box, thing, extent_m, shape)
    return FloorGrid(seen, occupied, tall, extent_m)


def cell_axes(extent_m: Points, shape: Ints) -> tuple[Points, Points]:
    """Where the rows (R,) and columns (C,) of cells lie in the thing's axes, from its centre."""
    rows, columns = (
        (np.arange(count) + 0.5) * CELL_M - extent
        for count, extent in zip(shape, extent_m, strict=True)
    )
    return rows, columns


def cell_centers(thing: Box3D, extent_m: Points, shape: Ints) -> Points:
    """Centres (R * C, 3) of all cells in the world, z = 0."""
    rows, columns = cell_axes(extent_m, shape)
    x, y = np.meshgrid(rows, columns, indexing="ij")
    local = np.column_stack((x.ravel(), y.ravel(), np.zeros(x.size)))
    world = local @ yaw_rotation(thing.yaw_rad).T + thing.center_m
    world[:, 2] = 0.0
    return world


def _count(cell: Ints, shape: Ints) -> Ints:
    """How many of the cells (N, 2) fall on each of a grid."""
    flat = cell[:, 0] * shape[1] + cell[:, 1]
    return np.bincount(flat, minlength=int(shape.prod())).reshape(tuple(shape))


def _covered(box: Box3D, thing: Box3D, extent_m: Points, shape: Ints) -> Bools:
    """Cells whose centre lies in the box's footprint, half a cell of margin included."""
    flat = Box3D(
        np.array([*box.center_m[:2], 0.0]), np.array([*box.size_m[:2] + CELL_M, 1.0]), box.yaw_rad
    )
    return points_inside(cell_centers(thing, extent_m, shape), flat).reshape(tuple(shape))
