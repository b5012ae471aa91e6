"""Where a robot stands to face a thing: on floor that depth shows to be free, on the side that it
comes from. Metres, world frame, z up; numpy alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ada3d_ros.errors import NotGroundedError
from ada3d_ros.geometry.boxes import yaw_rotation
from ada3d_ros.geometry.floor_grid import (
    CELL_M,
    REACH_M,
    SQUARE,
    FloorGrid,
    cell_axes,
    floor_grid,
)
from ada3d_ros.types import Box3D, RgbdFrame

Bools = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]

MAX_REACH_M = 6.0  # of the grid; a robot farther off comes in at its edge
SEEN_SHARE = 0.9  # of the floor under the robot that was seen
NEAR_ENOUGH_M = 0.05  # from the wanted distance: there the shorter way counts
ABOUT_M = 0.5  # around the nearest floor with room, the robot may be anywhere
HIDES_M = 0.3  # what is so much higher than the thing hides it
BESIDE_M = 0.1  # what is so near the thing stands beside it, not before it


@dataclass(frozen=True, slots=True)
class StandingPlace:
    """xyz_m: on the floor; yaw_rad: 0 along x, towards the thing; distance_m: to its side."""

    xyz_m: tuple[float, float, float]
    yaw_rad: float
    distance_m: float


@dataclass(frozen=True, slots=True)
class Reach:
    """How a robot stands before a thing: distance_m from the thing's side to the robot's middle,
    or where no floor is free so near or so far, up to farther_m more; robot_radius_m: free floor
    around the robot's middle.
    """

    distance_m: float = 0.8
    farther_m: float = 1.0
    robot_radius_m: float = 0.3


def standing_place(
    frames: Sequence[RgbdFrame],
    thing: Box3D,
    floor_z_m: float,
    robot_xy_m: tuple[float, float],
    reach: Reach = Reach(),
) -> StandingPlace:
    """Where the robot, which is at robot_xy_m, goes to face the thing. Raises NotGroundedError,
    which says what is in the way.

    A way is assumed over floor that no view shows, not through what stands there.
    """
    # The cells, as far as the robot.
    robot = yaw_rotation(thing.yaw_rad).T @ (np.array([*robot_xy_m, 0.0]) - thing.center_m)
    away_m = float(np.max(np.abs(robot[:2]) - thing.size_m[:2] / 2)) + 1.0
    tall_m = thing.center_m[2] + thing.size_m[2] / 2 - floor_z_m + HIDES_M
    grid = floor_grid(
        frames,
        thing,
        floor_z_m,
        reach_m=float(np.clip(away_m, REACH_M, MAX_REACH_M)),
        tall_m=tall_m,
    )
    if not grid.seen.any():
        raise NotGroundedError(
            f"no floor was seen within {REACH_M:g} m of {_named(thing)}: let the camera see the"
            " floor beside it."
        )

    # Where it has room, and can come to.
    room = _has_room(grid, reach.robot_radius_m)
    enough = _mean_under_robot(grid.seen, reach.robot_radius_m) >= SEEN_SHARE
    start = _cell_of(grid, robot[:2])
    reached = _reached(room, room & grid.seen, start)
    rows_m, columns_m = cell_axes(grid.extent_m, grid.shape)
    x, y = rows_m[:, None], columns_m[None, :]
    distance_m = np.hypot(
        np.maximum(np.abs(x) - thing.size_m[0] / 2, 0.0),
        np.maximum(np.abs(y) - thing.size_m[1] / 2, 0.0),
    )
    places = grid.seen & enough & room
    _require(places, thing, f"wide enough for a robot of radius {reach.robot_radius_m:g} m")
    places &= distance_m <= reach.distance_m + reach.farther_m
    _require(
        places,
        thing,
        f"within {reach.distance_m + reach.farther_m:g} m of its side",
        "goal.farther_m",
    )
    places &= reached
    _require(places, thing, "that the robot can come to past what stands in the way")
    hides = grid.tall & (distance_m > BESIDE_M)

    # The best of them that sees it: at the wanted distance, then with the shortest way.
    off_m = np.maximum(np.abs(distance_m - reach.distance_m) - NEAR_ENOUGH_M, 0.0)
    way_m = np.hypot(x - robot[0], y - robot[1])
    rows, columns = np.nonzero(places)
    order = np.lexsort((way_m[rows, columns], np.round(off_m[rows, columns] / CELL_M)))
    for r, c in zip(rows[order], columns[order], strict=True):
        at = np.array([x[r, 0], y[0, c]])
        if not _is_hidden(hides, grid, at, thing):
            break
    else:
        _require(places & False, thing, "from which nothing higher hides it")

    # Into the world.
    local = np.array([*at, 0.0])
    world = yaw_rotation(thing.yaw_rad) @ local + thing.center_m
    towards = thing.center_m[:2] - world[:2]
    yaw_rad = math.atan2(towards[1], towards[0])
    return StandingPlace(
        (float(world[0]), float(world[1]), floor_z_m), yaw_rad, float(distance_m[r, c])
    )


def _named(thing: Box3D) -> str:
    return f"the {thing.label}" if thing.label else "the box"


def _require(places: Bools, thing: Box3D, what: str, setting: str = "goal.robot_radius_m") -> None:
    if not places.any():
        raise NotGroundedError(
            f"no free floor beside {_named(thing)} {what}: let the camera see more of the floor"
            f" there, or change {setting}."
        )


def _cell_of(grid: FloorGrid, local_m: Points) -> tuple[int, int]:
    """The cell of a place in the thing's axes, at the edge where it lies outside."""
    cell = np.floor((local_m + grid.extent_m) / CELL_M).astype(np.int64)
    row, column = np.clip(cell, 0, grid.shape - 1).tolist()
    return row, column


def _has_room(grid: FloorGrid, radius_m: float) -> Bools:
    """Cells with nothing that stands within a radius of their centre."""
    if not grid.occupied.any():
        return np.ones_like(grid.seen)
    # From centre to centre; what is occupied reaches half a cell towards it, noise as much.
    nearest_m = ndimage.distance_transform_edt(~grid.occupied) * CELL_M
    return np.asarray(nearest_m >= radius_m + CELL_M)


def _mean_under_robot(seen: Bools, radius_m: float) -> Points:
    """Share of the cells within a radius that were seen."""
    count = math.ceil(radius_m / CELL_M)
    step = np.arange(-count, count + 1) * CELL_M
    disk = (np.hypot(step[:, None], step[None, :]) <= radius_m).astype(np.float64)
    return np.asarray(ndimage.convolve(seen.astype(np.float64), disk / disk.sum(), mode="constant"))


def _reached(room: Bools, known: Bools, start: tuple[int, int]) -> Bools:
    """Cells with room that hang together with the known ones where the robot is; of several such
    parts within ABOUT_M the largest, since a camera may be held over what stands there. Beyond a
    wall nothing is known.
    """
    if not known.any():
        return known
    labels, _ = ndimage.label(room, structure=SQUARE)
    rows, columns = np.nonzero(known)
    away_m = np.hypot(rows - start[0], columns - start[1]) * CELL_M
    about = away_m <= away_m.min() + ABOUT_M
    parts = np.bincount(labels[rows, columns])
    largest = max(np.unique(labels[rows[about], columns[about]]), key=lambda part: parts[part])
    return np.asarray(labels == largest)


def _is_hidden(hides: Bools, grid: FloorGrid, at: Points, thing: Box3D) -> bool:
    """Whether something that hides stands on the line from a place to the nearest of the thing's
    side, in its axes.
    """
    side = np.clip(at, -thing.size_m[:2] / 2, thing.size_m[:2] / 2)
    steps = max(math.ceil(float(np.linalg.norm(side - at)) / (CELL_M / 2)), 1)
    line = at + np.linspace(0.0, 1.0, steps + 1)[:, None] * (side - at)
    cells = np.floor((line + grid.extent_m) / CELL_M).astype(np.int64)
    cells = np.clip(cells, 0, grid.shape - 1)
    return bool(hides[cells[:, 0], cells[:, 1]].any())
