"""What cannot be measured is refused by a typed error with value, range and way out."""

import math
from dataclasses import replace

import numpy as np
import pytest

from ada3d_ros.errors import InvalidRequestError, NotGroundedError
from ada3d_ros.geometry.depth_support import world_points
from ada3d_ros.geometry.measure import MeasuredScene, Referent
from ada3d_ros.lab.world.generated import GeneratedRoom, generate_room
from ada3d_ros.measures import MeasureKind
from ada3d_ros.types import Box3D
from test.support.measured import ask, box

TABLE = box([0, 0, 0.4], [1.2, 0.8, 0.8], "red table")
CHAIR = box([2.0, 0, 0.45], [0.5, 0.5, 0.9], "green chair")


@pytest.fixture(scope="module")
def scene() -> MeasuredScene:
    room: GeneratedRoom = generate_room(2, side_px=64)
    return MeasuredScene(room.frames)


@pytest.mark.parametrize("radius_m", [0.0, 0.049, -1.0, 100.1, 1000.0, math.inf, math.nan])
def test_a_radius_outside_its_range(radius_m: float) -> None:
    with pytest.raises(InvalidRequestError, match=r"a radius is 0\.05 to 100 m"):
        ask(MeasureKind.WITHIN, to=TABLE, among=(CHAIR,), radius_m=radius_m)
    if not math.isnan(radius_m):  # of a count: all
        with pytest.raises(InvalidRequestError, match=f"radius {radius_m:g} m"):
            ask(MeasureKind.COUNT, to=TABLE, among=(CHAIR,), radius_m=radius_m)


@pytest.mark.parametrize("radius_m", [0.05, 100.0])
def test_the_ends_of_the_range_are_allowed(radius_m: float) -> None:
    found = ask(MeasureKind.WITHIN, to=TABLE, among=(CHAIR,), radius_m=radius_m)
    assert found.values == (float(radius_m > 2),)


@pytest.mark.parametrize("k", [0, -1, 101])
def test_k_outside_its_range(k: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"k = {k}: .* 1 to 100"):
        ask(MeasureKind.NEAREST, to=TABLE, among=(CHAIR,), k=k)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (MeasureKind.DISTANCE, {"of": TABLE}),
        (MeasureKind.DISTANCE, {"to": TABLE}),
        (MeasureKind.SIZE, {}),
        (MeasureKind.HEIGHT, {}),
        (MeasureKind.NEAREST, {}),
        (MeasureKind.WITHIN, {"radius_m": 1.0}),
        (MeasureKind.COUNT, {"radius_m": 1.0}),
        (MeasureKind.DIRECTION, {"of": TABLE}),
        (MeasureKind.ON, {"of": TABLE}),
        (MeasureKind.UNDER, {}),
        (MeasureKind.BETWEEN, {"to": TABLE}),
        (MeasureKind.FREE_FLOOR, {}),
        (MeasureKind.WHERE, {}),
    ],
)
def test_a_missing_thing_is_named(kind: MeasureKind, given: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError, match=f"{kind.name} needs `(of|to|third)`"):
        ask(kind, **given)  # type: ignore[arg-type]


def test_the_same_thing_twice() -> None:
    again = box([0.05, 0, 0.4], [1.2, 0.8, 0.8], "big table")
    with pytest.raises(InvalidRequestError, match="the red table and the big table are one thing"):
        ask(MeasureKind.DISTANCE, TABLE, again)
    with pytest.raises(InvalidRequestError, match="name two different ones"):
        ask(MeasureKind.DIRECTION, CHAIR, TABLE, again)
    with pytest.raises(InvalidRequestError, match="one thing"):
        ask(MeasureKind.BETWEEN, to=TABLE, third=again)
    point = Referent.of_point([1, 1, 0])
    with pytest.raises(InvalidRequestError, match="one thing"):
        ask(MeasureKind.DISTANCE, point, Referent.of_point([1, 1, 0.005]))


def test_one_that_stands_where_it_looks() -> None:
    over = box([0.01, 0, 2.0], [0.2, 0.2, 0.2], "lamp")
    with pytest.raises(InvalidRequestError, match="are at one place: name something else to face"):
        ask(MeasureKind.DIRECTION, CHAIR, TABLE, over)
    with pytest.raises(InvalidRequestError, match=r"the lamp is within 0\.05 m of where one"):
        ask(MeasureKind.DIRECTION, over, TABLE, CHAIR)
    with pytest.raises(InvalidRequestError, match="say what one faces"):
        ask(MeasureKind.DIRECTION, CHAIR, TABLE)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_no_place(value: float) -> None:
    with pytest.raises(InvalidRequestError, match="all numbers must be finite"):
        ask(MeasureKind.DISTANCE, TABLE, Referent.of_point([value, 0, 0]))
    broken = Box3D(np.array([0.0, 0, 0]), np.array([1.0, value, 1]), label="thing")
    with pytest.raises(InvalidRequestError, match="all numbers must be finite"):
        ask(MeasureKind.SIZE, broken)
    with pytest.raises(InvalidRequestError, match="10000 m and sizes from 0 on"):
        ask(MeasureKind.SIZE, box([2e4, 0, 0]))
    with pytest.raises(InvalidRequestError, match="sizes from 0 on"):
        ask(MeasureKind.SIZE, box([0, 0, 0], [1, -1, 1]))


def test_a_place_outside_the_room(scene: MeasuredScene) -> None:
    inside = Referent.of_point([0.5, 0.5, 0.0])
    outside = Referent.of_point([0.5, 40.0, 0.0])
    assert ask(MeasureKind.DISTANCE, TABLE, inside, scene=scene).values[0] < 1.0
    with pytest.raises(InvalidRequestError, match=r"40\.00, 0\.00\] lies outside the room"):
        ask(MeasureKind.DISTANCE, TABLE, outside, scene=scene)


def test_where_the_camera_was_is_no_place_outside_the_room(scene: MeasuredScene) -> None:
    frame = scene.frames[0]
    far = replace(frame, depth_m=np.where(frame.depth_m > 2.5, frame.depth_m, np.nan))
    robot = Referent.of_point(frame.T_world_cam[:3, 3].tolist(), "robot")
    points = world_points([far], 10_000)
    nearest_m = np.linalg.norm((points - robot.box.center_m)[:, :2], axis=1).min()
    assert nearest_m > 1.5
    told = ask(MeasureKind.DISTANCE, TABLE, robot, scene=MeasuredScene([far]))
    assert told.values[0] > 0


def test_a_thing_without_depth(scene: MeasuredScene) -> None:
    nowhere = box([0, 0, 9.0], label="crate", support=0)
    with pytest.raises(NotGroundedError, match="no depth reading lies in the box of the crate"):
        ask(MeasureKind.DISTANCE, nowhere, TABLE, scene=scene)
    with pytest.raises(NotGroundedError, match="Look at it once more"):
        ask(MeasureKind.SIZE, nowhere)
    floor = box([0, 0, 0.0], [3, 3, 0.2], "rug", support=0)  # counted where nobody has
    assert ask(MeasureKind.WHERE, floor, scene=scene).boxes[0].support_points > 50


def test_an_empty_scene() -> None:
    with pytest.raises(NotGroundedError, match="no other object is known near the red table"):
        ask(MeasureKind.NEAREST, to=TABLE, among=(TABLE,))
    with pytest.raises(NotGroundedError, match="no sofa is known"):
        ask(MeasureKind.LARGEST, category="sofa")
    with pytest.raises(NotGroundedError, match="no free floor"):
        ask(MeasureKind.FREE_FLOOR, to=TABLE)


def test_points_have_no_size() -> None:
    for kind in (MeasureKind.SIZE, MeasureKind.HEIGHT):
        with pytest.raises(InvalidRequestError, match="is of a thing, not of"):
            ask(kind, Referent.of_point([0, 0, 0]))


def test_unknown_kinds_and_units() -> None:
    with pytest.raises(InvalidRequestError, match="UNKNOWN is not measured; one of DISTANCE"):
        ask(MeasureKind.UNKNOWN, TABLE)
    with pytest.raises(InvalidRequestError, match="unit 'miles': one of m, cm, mm, ft, in"):
        ask(MeasureKind.DISTANCE, TABLE, CHAIR, unit="miles")
