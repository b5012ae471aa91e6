"""Where to stand to face a thing, in rooms whose things and walls are known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from ada3d_ros.errors import NotGroundedError
from ada3d_ros.geometry.boxes import yaw_rotation
from ada3d_ros.geometry.standing_place import Reach, StandingPlace, standing_place
from ada3d_ros.types import Box3D, RgbdFrame
from test.support.box_room import ROOM_SIZE_M, BoxRoom, build_box_room
from test.support.measured import box


@pytest.fixture(scope="module")
def room() -> BoxRoom:
    return build_box_room(seed=1, num_views=12)


def away_m(place: StandingPlace, thing: Box3D) -> float:
    """From a place to the side of a thing, seen from above."""
    local = yaw_rotation(thing.yaw_rad).T @ (np.array(place.xyz_m) - thing.center_m)
    return float(np.hypot(*np.maximum(np.abs(local[:2]) - thing.size_m[:2] / 2, 0.0)))


def robot_of(room: BoxRoom) -> tuple[float, float]:
    x, y = room.frames[-1].T_world_cam[:2, 3].tolist()
    return x, y


@pytest.mark.parametrize("seed", range(6))
def test_it_is_free_at_the_wanted_distance_and_faces_the_thing(seed: int) -> None:
    room = build_box_room(seed=seed, num_views=12)
    for thing in room.boxes:
        place = standing_place(room.frames, thing, 0.0, robot_of(room))
        assert place.xyz_m[2] == 0.0
        assert place.distance_m == pytest.approx(away_m(place, thing), abs=1e-9)
        assert place.distance_m == pytest.approx(0.8, abs=0.15)
        for other in room.boxes:
            assert away_m(place, other) >= 0.3, (thing.label, other.label)
        assert abs(place.xyz_m[0]) <= ROOM_SIZE_M[0] / 2 - 0.3
        assert abs(place.xyz_m[1]) <= ROOM_SIZE_M[1] / 2 - 0.3

        # One step ahead is nearer to the thing's middle, by the whole step.
        x, y, _ = place.xyz_m
        to_m = math.hypot(*(thing.center_m[:2] - (x, y)))
        ahead = (x + 0.1 * math.cos(place.yaw_rad), y + 0.1 * math.sin(place.yaw_rad))
        assert math.hypot(*(thing.center_m[:2] - ahead)) == pytest.approx(to_m - 0.1, abs=1e-9)


def test_it_is_on_the_side_that_the_robot_comes_from(room: BoxRoom) -> None:
    thing = room.boxes[0]
    for robot in ((2.4, 0.0), (-2.4, 0.0), (0.0, 1.7), (0.0, -1.7)):
        place = standing_place(room.frames, thing, 0.0, robot)
        way = math.dist(place.xyz_m[:2], robot)
        others = [
            standing_place(room.frames, thing, 0.0, other)
            for other in ((2.4, 0.0), (-2.4, 0.0), (0.0, 1.7), (0.0, -1.7))
        ]
        assert way <= min(math.dist(other.xyz_m[:2], robot) for other in others) + 1e-9


def test_settings_hold(room: BoxRoom) -> None:
    thing, robot = room.boxes[0], robot_of(room)
    near = standing_place(room.frames, thing, 0.0, robot, Reach(0.5, 1.0, 0.2))
    far = standing_place(room.frames, thing, 0.0, robot, Reach(1.2, 1.0, 0.2))
    assert near.distance_m == pytest.approx(0.5, abs=0.15)
    assert far.distance_m == pytest.approx(1.2, abs=0.15)
    with pytest.raises(NotGroundedError, match=r"wide enough for a robot of radius 2 m"):
        standing_place(room.frames, thing, 0.0, robot, Reach(0.8, 1.0, 2.0))


def test_a_turned_world_and_another_floor_turn_it_along(room: BoxRoom) -> None:
    turn, shift = yaw_rotation(0.7), np.array([30.0, -12.0, 2.5])
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = turn, shift

    def moved(frame: RgbdFrame) -> RgbdFrame:
        return dataclasses.replace(frame, T_world_cam=T @ frame.T_world_cam)

    thing, robot = room.boxes[1], robot_of(room)
    here = standing_place(room.frames, thing, 0.0, robot)
    there_thing = dataclasses.replace(
        thing, center_m=turn @ thing.center_m + shift, yaw_rad=thing.yaw_rad + 0.7
    )
    x, y, _ = turn @ np.array([*robot, 0.0]) + shift
    there = standing_place(
        [moved(frame) for frame in room.frames], there_thing, 2.5, (float(x), float(y))
    )
    assert there.xyz_m == pytest.approx(turn @ np.array(here.xyz_m) + shift, abs=0.06)
    assert math.remainder(there.yaw_rad - here.yaw_rad - 0.7, 2 * math.pi) == pytest.approx(
        0.0, abs=0.08
    )


def test_where_no_floor_was_seen_it_says_so(room: BoxRoom) -> None:
    far = box([40.0, 40.0, 0.3], label="crate")
    with pytest.raises(NotGroundedError, match=r"no floor was seen within 3 m of the crate"):
        standing_place(room.frames, far, 0.0, robot_of(room))
    with pytest.raises(NotGroundedError, match="no floor was seen"):
        standing_place((), far, 0.0, (0.0, 0.0))


def test_not_through_a_wall(room: BoxRoom) -> None:
    """A thing behind the wall, half a metre off: the floor on this side is free and near, and does
    not face it.
    """
    thing = box([ROOM_SIZE_M[0] / 2 + 0.5, 0.0, 0.3], [0.4, 0.4, 0.6], label="crate")
    with pytest.raises(NotGroundedError, match=r"from which nothing higher hides it|within 1.8 m"):
        standing_place(room.frames, thing, 0.0, robot_of(room))
