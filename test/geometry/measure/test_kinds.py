"""Each kind of request by hand: value, unit, uncertainty, word, boxes, what was assumed."""

import dataclasses
import math

import numpy as np
import pytest

from ada3d_ros.geometry.measure import KINDS, MeasuredScene, Referent, Resolved, measure
from ada3d_ros.geometry.measure.uncertainty import CENTERS, PLAN, SURFACES, TOP, half_width_m
from ada3d_ros.measures import MeasureKind, MeasureRequest, SceneObject
from test.support.measured import ask, box, named

TABLE = box([0, 0, 0.4], [1.2, 0.8, 0.8], "red table")
BALL = box([0.3, 0, 0.95], [0.3, 0.3, 0.3], "blue ball")
CHAIR = box([2.0, 0, 0.45], [0.5, 0.5, 0.9], "green chair")
LAMP = box([0, 1.5, 0.7], [0.4, 0.4, 1.4], "white lamp")
SOFA = box([-3, -3, 0.4], [1.4, 0.8, 0.8], "black sofa")
ALL = (TABLE, BALL, CHAIR, LAMP, SOFA)
ROBOT = Referent.of_point([0.0, -2.0, 0.0], "robot", heading_rad=math.pi / 2)


def test_distance_between_surfaces_and_between_centres() -> None:
    answer = ask(MeasureKind.DISTANCE, CHAIR, TABLE)
    assert answer.values == pytest.approx([2.0 - 0.25 - 0.6])
    assert answer.uncertainty == pytest.approx([half_width_m(SURFACES, CHAIR, TABLE)])
    assert answer.unit == "m"
    assert answer.boxes == (CHAIR, TABLE)
    assert answer.sentence.startswith("The green chair is 1.15 m (give or take ")
    assert answer.sentence.endswith("from the red table.")
    assert "nearest surfaces" in answer.assumptions[0]

    between = ask(MeasureKind.DISTANCE, CHAIR, TABLE, centers=True, unit="ft")
    assert between.values == pytest.approx([math.hypot(2.0, 0.05)])
    assert between.uncertainty == pytest.approx([half_width_m(CENTERS, CHAIR, TABLE)])
    assert "6.6 ft" in between.sentence
    assert "between centres" in between.assumptions[0]


def test_distance_to_a_point() -> None:
    answer = ask(MeasureKind.DISTANCE, TABLE, Referent.of_point([1.6, 0, 0.4]))
    assert answer.values == pytest.approx([1.0])
    assert answer.uncertainty == pytest.approx([half_width_m(SURFACES, TABLE)])
    assert answer.sentence.endswith("from [1.6, 0, 0.4].")


def test_size_height_and_place() -> None:
    tall = dataclasses.replace(TABLE, size_m=np.array([0.8, 1.2, 0.8]))
    assert ask(MeasureKind.SIZE, tall).values == pytest.approx([1.2, 0.8, 0.8])
    assert len(ask(MeasureKind.SIZE, tall).uncertainty) == 3
    height = ask(MeasureKind.HEIGHT, TABLE, scene=MeasuredScene(floor_z_m=-1.0))
    assert height.values == pytest.approx([1.8])
    assert height.uncertainty == pytest.approx([half_width_m(TOP, TABLE)])
    assert ask(MeasureKind.WHERE, LAMP).values == pytest.approx([0, 1.5, 0.7])


def test_the_nearest_is_by_centres_on_the_floor_plan() -> None:
    answer = ask(MeasureKind.NEAREST, to=TABLE, among=ALL, k=2)
    assert answer.word == "blue ball"
    assert answer.values == pytest.approx([0.3, 1.5])
    assert answer.boxes == (TABLE, BALL, LAMP)
    assert answer.uncertainty[1] == pytest.approx(half_width_m(PLAN, TABLE, LAMP))
    assert "between centres, on the floor plan" in answer.assumptions[0]
    few = ask(MeasureKind.NEAREST, to=TABLE, among=ALL, k=9)
    assert len(few.values) == 4
    assert "Only 4 of 9 are known." in few.assumptions


def test_a_runner_up_that_may_be_as_near_is_named() -> None:
    near = box([0, -1.55, 0.3], label="purple crate")
    answer = ask(MeasureKind.NEAREST, to=TABLE, among=(TABLE, LAMP, near))
    assert answer.word == "white lamp"
    assert "The purple crate may be as near." in answer.assumptions


def test_within_a_radius() -> None:
    answer = ask(MeasureKind.WITHIN, to=TABLE, among=ALL, radius_m=1.9, attribute="count")
    assert answer.values == (2.0,)
    assert answer.unit == ""
    assert answer.word == ""
    assert answer.boxes == (TABLE, BALL, LAMP)
    assert answer.uncertainty == (2.0,)  # the chair at 2.0 m may be in, one may be missed
    assert any("green chair" in text for text in answer.assumptions)
    assert ask(MeasureKind.WITHIN, to=TABLE, among=ALL, radius_m=1.0).word == "blue ball"
    nothing = ask(MeasureKind.WITHIN, to=SOFA, among=ALL, radius_m=1.0)
    assert (nothing.word, nothing.values, nothing.uncertainty) == ("nothing", (0.0,), (0.0,))
    asked = {"radius_m": 1.0, "attribute": "yes_no"}
    assert ask(MeasureKind.WITHIN, to=SOFA, among=ALL, **asked).word == "no"


def test_whether_one_thing_is_within_a_radius() -> None:
    yes = ask(MeasureKind.WITHIN, LAMP, TABLE, radius_m=2.0, attribute="yes_no")
    assert yes.word == "yes"
    assert yes.values == pytest.approx([1.5])
    assert yes.uncertainty == pytest.approx([half_width_m(PLAN, TABLE, LAMP)])
    assert yes.boxes == (LAMP, TABLE)
    assert yes.sentence.startswith(
        "Yes, the white lamp is within 2.00 m of the red table: their centres are 1.50 m apart"
    )
    no = ask(MeasureKind.WITHIN, LAMP, TABLE, radius_m=1.45, attribute="yes_no", unit="cm")
    assert (no.word, no.values) == ("no", pytest.approx((1.5,)))
    assert "not within 145 cm of the red table: their centres are 150 cm apart" in no.sentence
    assert any("not sure" in text for text in no.assumptions)
    assert not any("not sure" in text for text in yes.assumptions)


def test_how_many_stand_on_a_thing() -> None:
    two = (*ALL, box([-0.3, 0, 0.9], [0.2, 0.2, 0.2], "red ball"))
    answer = ask(MeasureKind.ON, to=TABLE, among=two, attribute="count")
    assert (answer.values, answer.word) == ((2.0,), "")
    assert "are 2: the " in answer.sentence
    assert ask(MeasureKind.ON, to=SOFA, among=two, attribute="count").values == (0.0,)


def test_a_larger_radius_and_a_larger_k_hold_no_fewer() -> None:
    held = [
        ask(MeasureKind.WITHIN, to=TABLE, among=ALL, radius_m=r).values[0]
        for r in (0.1, 0.5, 1.6, 2.5, 9.0)
    ]
    assert held == sorted(held)
    assert held[-1] == 4
    nearest = [ask(MeasureKind.NEAREST, to=TABLE, among=ALL, k=k).values for k in (1, 2, 3)]
    assert nearest[0] == nearest[2][:1]
    assert nearest[1] == nearest[2][:2]


def test_count_in_the_scene_and_within_a_radius() -> None:
    assert ask(MeasureKind.COUNT, among=ALL).values == (5.0,)
    assert ask(MeasureKind.COUNT, among=()).values == (0.0,)
    assert ask(MeasureKind.COUNT, to=TABLE, among=ALL, radius_m=1.0).values == (1.0,)
    xs = [one.center_m[0] for one in ask(MeasureKind.COUNT, among=ALL).boxes]
    assert xs == sorted(xs)


@pytest.mark.parametrize(
    ("of", "at", "facing", "word"),
    [
        (LAMP, TABLE, CHAIR, "left"),  # at the origin, looking along +x
        (SOFA, TABLE, CHAIR, "behind"),
        (CHAIR, TABLE, CHAIR, "in front"),
        (CHAIR, TABLE, LAMP, "right"),
    ],
)
def test_direction_from_a_thing(of: object, at: object, facing: object, word: str) -> None:
    answer = ask(MeasureKind.DIRECTION, of, at, facing)  # type: ignore[arg-type]
    assert answer.word == word
    assert answer.unit == "deg"
    assert answer.boxes == (at, facing, of)
    assert 0 < answer.uncertainty[0] < 60


def test_direction_from_the_robot() -> None:
    left = ask(MeasureKind.DIRECTION, SOFA, ROBOT)
    assert left.word == "left"
    assert left.values == pytest.approx([math.degrees(math.atan2(-1, -3)) - 90 + 360], abs=1e-6)
    assert ask(MeasureKind.DIRECTION, TABLE, ROBOT).word == "in front"
    scene = MeasuredScene(robot=ROBOT)
    lent = ask(MeasureKind.DIRECTION, CHAIR, Referent.of_point([2.0, -1.0, 0.0]), scene=scene)
    assert lent.word == "in front"
    assert lent.assumptions == ("One faces where the robot does.",)


SIDES = ((20, "left"), (-20, "right"), (100, "left"), (160, "left"), (1, "left"), (-179, "right"))


@pytest.mark.parametrize(("angle_deg", "word"), SIDES)
def test_left_or_right_of_a_thing_goes_by_the_sign(angle_deg: float, word: str) -> None:
    """Seen from the robot that looks along y at the table."""
    angle = math.radians(90 + angle_deg)
    thing = box([3 * math.cos(angle), -2.0 + 3 * math.sin(angle), 0.2], label="crate")
    answer = ask(MeasureKind.DIRECTION, thing, ROBOT, TABLE, attribute="left_right")
    assert answer.word == word
    assert answer.values == pytest.approx([angle_deg])
    assert answer.sentence == (
        f"The crate is on the {word}, seen from the robot facing the red table."
    )
    said = f"At {abs(angle_deg)} degrees left or right is not sure."
    assert (said in answer.assumptions) == (abs(angle_deg) in (1, 179))


def test_an_angle_near_a_border_is_told() -> None:
    answer = ask(MeasureKind.DIRECTION, box([-1, 1, 0.4], label="crate"), TABLE, CHAIR)
    assert answer.word == "behind"  # at 135 degrees
    assert answer.assumptions == ("At 135 degrees it is near the border to 'left'.",)


def test_on_under_and_between() -> None:
    assert ask(MeasureKind.ON, BALL, TABLE).word == "yes"
    no = ask(MeasureKind.ON, LAMP, TABLE)
    assert (no.word, no.sentence) == ("no", "No, the white lamp is not on the red table.")
    on = ask(MeasureKind.ON, to=TABLE, among=ALL)
    assert (on.word, on.boxes) == ("blue ball", (TABLE, BALL))
    assert ask(MeasureKind.ON, to=SOFA, among=ALL).word == "nothing"
    assert ask(MeasureKind.UNDER, to=BALL, among=ALL).word == "red table"
    assert ask(MeasureKind.UNDER, TABLE, BALL).word == "yes"
    assert ask(MeasureKind.UNDER, to=SOFA, among=ALL).word == "floor"
    high = MeasuredScene(floor_z_m=-2.0)
    assert ask(MeasureKind.UNDER, to=SOFA, among=ALL, scene=high).word == "nothing"

    crate = box([1.0, 0.2, 0.2], [0.4, 0.4, 0.4], "crate")
    between = ask(MeasureKind.BETWEEN, to=TABLE, third=CHAIR, among=(LAMP, SOFA, crate))
    assert between.word == "crate"
    assert between.boxes == (TABLE, CHAIR, crate)
    assert ask(MeasureKind.BETWEEN, crate, TABLE, CHAIR).word == "yes"
    assert ask(MeasureKind.BETWEEN, SOFA, TABLE, CHAIR).word == "no"
    alone = ask(MeasureKind.BETWEEN, to=TABLE, third=SOFA, among=ALL)
    assert alone.sentence == "Between the red table and the black sofa is nothing."


def test_exists_largest_and_tallest() -> None:
    assert ask(MeasureKind.EXISTS, among=(CHAIR,)).word == "yes"
    assert ask(MeasureKind.EXISTS, CHAIR).boxes == (CHAIR,)
    assert ask(MeasureKind.EXISTS).word == "no"
    largest = ask(MeasureKind.LARGEST, among=ALL)
    assert largest.word == "black sofa"
    assert ask(MeasureKind.TALLEST, among=ALL).word == "white lamp"
    assert "The red table comes close." not in largest.assumptions
    twin = dataclasses.replace(SOFA, label="blue sofa", size_m=SOFA.size_m * 0.99)
    assert "The blue sofa comes close." in ask(MeasureKind.LARGEST, among=(SOFA, twin)).assumptions


def test_gone_objects_and_the_named_thing_itself_are_no_answer() -> None:
    again = dataclasses.replace(TABLE, center_m=TABLE.center_m + np.array([0.05, 0, 0]))
    shifted = dataclasses.replace(TABLE, center_m=TABLE.center_m + np.array([0.45, 0, 0]))
    gone = SceneObject("3", "blue ball", BALL, gone_ns=5)
    kept = (SceneObject("1", "table", again), SceneObject("2", "red table", shifted), gone)
    things = Resolved(to=named(TABLE), candidates=(*kept, SceneObject("4", "white lamp", LAMP)))
    answer = measure(MeasureRequest(MeasureKind.NEAREST, k=5), things, MeasuredScene())
    assert answer.boxes == (TABLE, LAMP)


def test_a_thing_that_the_model_is_not_sure_of_is_told_and_wider() -> None:
    unsure = dataclasses.replace(CHAIR, score=0.3)
    answer = ask(MeasureKind.DISTANCE, unsure, TABLE)
    assert any("may be something else (score 0.30)" in text for text in answer.assumptions)
    sure = ask(MeasureKind.DISTANCE, CHAIR, TABLE)
    assert answer.uncertainty[0] > 2 * sure.uncertainty[0]


def test_every_kind_is_measured() -> None:
    assert set(KINDS) == set(MeasureKind) - {MeasureKind.UNKNOWN}
