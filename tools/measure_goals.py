#!/usr/bin/env python3
"""Whether ~/goal lies on free floor and faces the thing, in rooms whose things are known.

    python tools/measure_goals.py [--scenes 60] [--split val] [--model FOLDER] [--json FILE]

Every object that colour and category name alone is looked for as `ground` does; the robot stands
where the last view was taken. A goal is free where no true thing and no wall lies within the
robot's radius of it (`clear`: none under its middle); it faces the thing where the way it looks
meets the true thing's footprint. `possible`: true free floor in reach was there, on a grid of 5 cm.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import both_levels
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ada3d_ros.errors import NotGroundedError
from ada3d_ros.geometry.boxes import corners, yaw_rotation
from ada3d_ros.geometry.standing_place import Reach, StandingPlace, standing_place
from ada3d_ros.lab.evaluation.pipelines import load_room
from ada3d_ros.lab.evaluation.selection import Room, rooms_of
from ada3d_ros.lab.evaluation.uncertainty import locate, named_alone
from ada3d_ros.lab.world.rooms import make_rooms
from ada3d_ros.types import Box3D

Array = npt.NDArray[np.float64]
REACH = Reach()
STEP_M = 0.05
TOLERANCE_M = 0.02  # of the robot's radius: cells and depth noise


def to_side_m(thing: Box3D, x: Array, y: Array) -> Array:
    """Distance of places to the thing's footprint, 0 inside."""
    local = np.stack((x, y, np.zeros_like(x)), -1) - thing.center_m * (1, 1, 0)
    local = local @ yaw_rotation(thing.yaw_rad)
    outside = np.maximum(np.abs(local[..., :2]) - thing.size_m[:2] / 2, 0.0)
    return np.asarray(np.hypot(outside[..., 0], outside[..., 1]))


def clearance_m(room: Room, walls_m: tuple[float, float], x: Array, y: Array) -> Array:
    """Distance of places to the nearest true thing or wall, negative behind one."""
    nearest = np.minimum(walls_m[0] / 2 - np.abs(x), walls_m[1] / 2 - np.abs(y))
    for thing in room.solids.values():
        nearest = np.minimum(nearest, to_side_m(thing, x, y))
    return nearest


def is_possible(
    room: Room, walls_m: tuple[float, float], thing: Box3D, robot_xy_m: tuple[float, float]
) -> bool:
    """Whether there is true floor to stand on, connected with the robot's."""
    axes = [np.arange(-side / 2, side / 2, STEP_M) for side in walls_m]
    x, y = np.meshgrid(*axes, indexing="ij")
    wide = clearance_m(room, walls_m, x, y) >= REACH.robot_radius_m
    if not wide.any():
        return False
    labels, _ = ndimage.label(wide, np.ones((3, 3)))
    away = np.where(wide, np.hypot(x - robot_xy_m[0], y - robot_xy_m[1]), np.inf)
    home = labels == labels.flat[int(away.argmin())]
    near = to_side_m(thing, x, y) <= REACH.distance_m + REACH.farther_m
    return bool((home & near).any())


def faces(place: StandingPlace, thing: Box3D) -> tuple[bool, float]:
    """Whether the way it looks meets the footprint; degrees off the middle."""
    ends = corners(thing)[:4, :2] - place.xyz_m[:2]
    middle = thing.center_m[:2] - place.xyz_m[:2]
    off = [
        math.remainder(math.atan2(y, x) - place.yaw_rad, 2 * math.pi) for x, y in (*ends, middle)
    ]
    return min(off[:4]) <= 0.0 <= max(off[:4]), abs(math.degrees(off[4]))


def measure_room(
    room: Room,
    walls_m: tuple[float, float],
    found: dict[int, Box3D | None],
    floor_z_m: float,
) -> list[dict[str, Any]]:
    """A row for each thing that was found."""
    rows: list[dict[str, Any]] = []
    x, y = room.frames[-1].T_world_cam[:2, 3].tolist()
    for number, box in found.items():
        true = room.solids[number]
        if box is None:
            continue
        row: dict[str, Any] = {"why": ""}
        rows.append(row)
        try:
            place = standing_place(room.frames, box, floor_z_m, (x, y), REACH)
        except NotGroundedError as error:
            row["why"] = str(error).split(":")[0].split(box.label)[-1].strip()
            row["possible"] = is_possible(room, walls_m, true, (x, y))
            continue
        at = np.array(place.xyz_m[0]), np.array(place.xyz_m[1])
        clear = float(clearance_m(room, walls_m, *at))
        row["clearance_m"] = clear
        row["clear"] = clear > 0.0
        row["free"] = clear >= REACH.robot_radius_m - TOLERANCE_M
        row["faces"], row["off_deg"] = faces(place, true)
        row["distance_m"] = float(to_side_m(true, *at))
    return rows


def summary(rows_of_rooms: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Shares over goals and over rooms."""
    rows = [row for rows in rows_of_rooms for row in rows]
    stated = [row for row in rows if not row["why"]]
    good = [[r["free"] and r["faces"] for r in rows if not r["why"]] for rows in rows_of_rooms]
    rooms = [room for room in good if room]
    none = [row for row in rows if row["why"]]
    distance = np.array([row["distance_m"] for row in stated])
    return {
        "things_found": len(rows),
        "goals": len(stated),
        "goals_clear": float(np.mean([row["clear"] for row in stated])),
        "goals_free": float(np.mean([row["free"] for row in stated])),
        "goals_face": float(np.mean([row["faces"] for row in stated])),
        "goals_free_and_face": float(np.mean([row["free"] and row["faces"] for row in stated])),
        "rooms_with_goals": len(rooms),
        "rooms_first_goal_free_and_faces": float(np.mean([room[0] for room in rooms])),
        "rooms_all_goals_free_and_face": float(np.mean([all(room) for room in rooms])),
        "off_middle_deg_p50": float(np.median([row["off_deg"] for row in stated])),
        "distance_m_p05_p50_p95": np.quantile(distance, (0.05, 0.5, 0.95)).tolist(),
        "no_goal": len(none),
        "no_goal_although_possible": sum(row["possible"] for row in none),
        "no_goal_why": dict(Counter(row["why"] for row in none).most_common()),
    }


def main() -> None:
    options = both_levels.parsed(__doc__)
    pipeline = both_levels.measuring_pipeline(options)
    levels: dict[str, Any] = {}
    for level in both_levels.LEVELS:
        rows = []
        selection = both_levels.selection_of(options, level)
        walls = make_rooms(options.split, selection.room_seeds(), level).room_m.tolist()
        for room, walls_m in zip(rooms_of(selection, pipeline.view_side), walls, strict=True):
            load_room(pipeline, room.frames)
            found = {n: locate(pipeline, name) for n, name in named_alone(room).items()}
            rows.append(measure_room(room, tuple(walls_m), found, pipeline.scene.floor.z_m))
        levels[str(level)] = summary(rows)
        print(f"level {level}:", levels[str(level)])
    count = sum(level["goals"] for level in levels.values())
    both_levels.write(options, count, {"levels": levels})


if __name__ == "__main__":
    main()
