"""What ~/measure takes and refuses; what messages and markers say of places and measures."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from ada3d_ros.errors import InvalidRequestError
from ada3d_ros.measures import MeasureKind, Measurement, MeasureRequest, Reference
from ada3d_ros.msg import Answer as AnswerMsg
from ada3d_ros.msg import Measurement as MeasurementMsg
from ada3d_ros.ros.client import describe_answer, describe_measurement
from ada3d_ros.ros.conversions import empty_answer_msg, fill_answer_msg
from ada3d_ros.ros.markers import answer_to_markers, measured_line
from ada3d_ros.ros.measuring import FIELDS, describe, request_from_measure
from ada3d_ros.ros.object_client import ORDERS, describe_list
from ada3d_ros.srv import GetObjects, Measure
from ada3d_ros.types import Answer, AnswerMethod, Box3D, StopReason
from ada3d_ros.usage import StageTimings, TokenUsage

CHAIR, TABLE = "the red chair", "the table"


def read(**fields: Any) -> MeasureRequest:
    request = request_from_measure(Measure.Request(**fields))
    assert request.measure is not None
    return request.measure


def box(at: tuple[float, float, float], size: tuple[float, float, float], **more: Any) -> Box3D:
    return Box3D(np.array(at), np.array(size), **more)


# -- requests


def test_a_request_is_read_field_by_field() -> None:
    request = read(
        kind=MeasureKind.DIRECTION, a=" the  red chair ", b="[1, 2.5, 0]", c="the largest table"
    )
    assert request == MeasureRequest(
        MeasureKind.DIRECTION,
        of=Reference("red chair", label=CHAIR),
        to=Reference(point_m=(1.0, 2.5, 0.0), label="[1, 2.5, 0]"),
        third=Reference("table", label="the largest table", largest=True),
        radius_m=request.radius_m,
    )
    assert math.isnan(request.radius_m)
    nearest = read(kind=MeasureKind.NEAREST, b="Robot", name="chairs", k=3)
    assert (nearest.to, nearest.category, nearest.k) == (
        Reference(robot=True, label="Robot"),
        "chairs",
        3,
    )
    assert read(kind=MeasureKind.WITHIN, b=TABLE, radius_m=0.05).radius_m == pytest.approx(0.05)
    assert read(kind=MeasureKind.DISTANCE, a=CHAIR, b=TABLE, centers=True).centers


def test_every_kind_can_be_asked_for() -> None:
    assert set(FIELDS) == set(ORDERS) == set(MeasureKind) - {MeasureKind.UNKNOWN}
    for kind, (needed, optional) in FIELDS.items():
        given = {"a": CHAIR, "b": TABLE, "c": "robot", "name": "lamps", "radius_m": 2.0}
        assert read(kind=kind, **{name: given[name] for name in needed}).kind is kind
        for order in ORDERS[kind]:  # what the command line sends is taken
            assert set(order) <= {*needed, *optional}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": 0}, "kind = 0; allowed: 1 (DISTANCE), 2 (SIZE)"),
        ({"kind": 99, "a": CHAIR}, "kind = 99"),
        ({"kind": 1, "a": CHAIR}, "DISTANCE: b is missing; it needs a, b, may have centers"),
        ({"kind": 1, "a": " ", "b": TABLE}, "a is missing"),
        ({"kind": 2, "a": CHAIR, "b": TABLE}, "SIZE: b has no meaning for it; it needs a"),
        ({"kind": 3, "a": CHAIR, "k": 2}, "k has no meaning"),
        ({"kind": 4, "b": TABLE, "k": 0}, "k = 0; allowed: 1 to 100"),
        ({"kind": 4, "b": TABLE, "k": 101}, "k = 101"),
        ({"kind": 5, "b": TABLE}, "radius_m is missing"),
        ({"kind": 5, "b": TABLE, "radius_m": 0.04}, "allowed: 0.05 to 100 metres"),
        ({"kind": 5, "b": TABLE, "radius_m": 1000.0}, "radius_m = 1000 is out of range"),
        ({"kind": 6, "name": "chairs", "radius_m": math.nan}, "radius_m = nan is out of range"),
        ({"kind": 15, "a": "[1, 2]"}, "[1, 2]"),
        ({"kind": 15, "a": "[1, 2, nan]"}, "nan"),
        ({"kind": 15, "a": "near [1, 2, 3]"}, "a place with other words beside it"),
        ({"kind": 15, "a": CHAIR, "timeout_sec": -1.0}, "timeout_sec = -1"),
    ],
)
def test_what_cannot_be_measured_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        read(**fields)
    assert said in str(raised.value)


def test_a_request_in_words() -> None:
    asked = Measure.Request(kind=5, b=TABLE, name="chairs", radius_m=1.5)
    assert describe(asked) == "WITHIN b: the table, name: chairs, radius_m: 1.5"
    assert describe(Measure.Request(kind=99)) == "99"


# -- answers

MEASURED = Measurement(
    MeasureKind.DISTANCE,
    values=(0.85,),
    unit="m",
    uncertainty=(0.04,),
    sentence="The red chair is 0.85 m from the table.",
    boxes=(
        box((0.0, 0.0, 0.5), (1.0, 1.0, 1.0), label="red chair", score=0.75),
        box((1.85, 0.0, 0.5), (1.0, 1.0, 1.0), label="table", score=0.5),
    ),
    assumptions=("The nearest surfaces were taken.",),
)
PLACES = (
    box((1.0, 0.0, 0.5), (0.5, 0.5, 1.0), label="chair"),
    box((1.0, 2.0, 0.5), (0.5, 0.5, 1.0)),
    box((3.0, 2.0, 0.5), (0.5, 0.5, 1.0)),
)


def message_of(**changes: Any) -> AnswerMsg:
    answer = Answer(
        question="How far is the red chair from the table?",
        text=MEASURED.sentence,
        boxes=(),
        stamp_ns=1,
        frame_id="map",
        keyframe_stamps_ns=(1,),
        stop_reason=StopReason.EOS,
        tokens=TokenUsage(),
        timings=StageTimings(),
    )
    message = empty_answer_msg(answer.question, 1, "map", "tiny")
    fill_answer_msg(message, replace(answer, **changes), 0.0, 0.1, 0, 0)
    message.success = True
    return message


def test_a_measured_answer_has_method_numbers_and_evidence() -> None:
    message = message_of(method=AnswerMethod.MEASURED, measurement=MEASURED, boxes=MEASURED.boxes)
    got = message.measurement
    assert (message.method, got.kind, got.unit, got.word) == (
        AnswerMsg.METHOD_MEASURED,
        MeasurementMsg.DISTANCE,
        "m",
        "",
    )
    assert (got.values.tolist(), got.uncertainty.tolist()) == ([0.85], [0.04])
    assert (got.sentence, list(got.assumptions)) == (MEASURED.sentence, list(MEASURED.assumptions))
    assert (
        [b.label for b in got.boxes] == [b.label for b in message.boxes] == ["red chair", "table"]
    )
    assert describe_answer(message).splitlines()[:5] == [
        "The red chair is 0.85 m from the table.",
        "measured: 0.850 m +- 0.040 m (in 90 % of cases)",
        "box 0 'red chair': centre (0.000, 0.000, 0.500) m, size (1.000, 1.000, 1.000) m, yaw 0.0"
        " deg in 'map', 0 depth points, score 0.75",
        "box 1 'table': centre (1.850, 0.000, 0.500) m, size (1.000, 1.000, 1.000) m, yaw 0.0 deg"
        " in 'map', 0 depth points, score 0.50",
        "assumed: The nearest surfaces were taken.",
    ]


def test_the_line_of_a_count_has_whole_numbers() -> None:
    line, *_ = describe_measurement(MeasurementMsg(values=[2.0], uncertainty=[1.0]), "map")
    assert line == "measured: 2 +- 1 (in 90 % of cases)"


def test_an_answer_of_the_model_has_its_places_in_order() -> None:
    message = message_of(places=PLACES, text="left")
    assert (message.method, message.measurement.kind) == (AnswerMsg.METHOD_MODEL, 0)
    centers = [place.center.position for place in message.places]
    assert [(c.x, c.y, c.z) for c in centers] == [tuple(p.center_m) for p in PLACES]
    assert describe_answer(message).splitlines()[:2] == [
        "left",
        "pointed at: 1. [1.000, 0.000, 0.500] size (0.50, 0.50, 1.00); 2. [1.000, 2.000, 0.500]"
        " size (0.50, 0.50, 1.00); 3. [3.000, 2.000, 0.500] size (0.50, 0.50, 1.00) m",
    ]


def test_counts_and_words_are_printed_without_a_unit() -> None:
    counted = Measurement(MeasureKind.COUNT, (3.0,), "", (0.0,), sentence="Three chairs.")
    told = Measurement(MeasureKind.EXISTS, word="no", sentence="No.")
    for measurement, said in ((counted, "measured: 3"), (told, "measured: no")):
        message = message_of(method=AnswerMethod.MEASURED, measurement=measurement)
        assert describe_answer(message).splitlines()[1] == said


# -- markers


def drawn(message: AnswerMsg, namespace: str) -> list[Any]:
    markers = answer_to_markers(message, 0.0).markers
    assert markers[0].action == markers[0].DELETEALL
    found = [marker for marker in markers if marker.ns == namespace]
    assert [marker.id for marker in found] == list(range(len(found)))
    return found


def test_places_are_numbered_spheres_on_a_line() -> None:
    message = message_of(places=PLACES)
    spheres, numbers = drawn(message, "places"), drawn(message, "place_numbers")
    assert [m.pose.position for m in spheres] == [p.center.position for p in message.places]
    assert [m.text for m in numbers] == ["1", "2", "3"]
    (chain,) = drawn(message, "chain")
    assert [(p.x, p.y) for p in chain.points] == [(1.0, 0.0), (1.0, 2.0), (3.0, 2.0)]
    assert (chain.type, chain.scale.x) == (chain.LINE_STRIP, pytest.approx(0.02))
    assert drawn(message_of(places=PLACES[:1]), "chain") == []


def test_a_distance_is_a_line_between_the_surfaces() -> None:
    message = message_of(method=AnswerMethod.MEASURED, measurement=MEASURED)
    (line,), (label,) = drawn(message, "measured"), drawn(message, "measured_labels")
    assert [p.x for p in line.points] == pytest.approx([0.5, 1.35])
    assert line.points[0].y == line.points[1].y
    assert (label.text, label.pose.position.x) == ("0.85 m", pytest.approx(0.925))


@pytest.mark.parametrize("seed", range(5))
def test_the_line_is_as_long_as_the_boxes_are_apart(seed: int) -> None:
    """Turned boxes: scipy finds the same distance over both boxes' points."""
    from scipy.optimize import minimize

    from ada3d_ros.geometry.boxes import yaw_rotation

    random = np.random.default_rng(seed)
    a = box((0.0, 0.0, 0.5), (1.0, 0.4, 1.0), yaw_rad=random.uniform(-3, 3))
    b = box((3.0, *random.uniform(-1, 2, 2)), (0.6, 1.2, 0.5), yaw_rad=random.uniform(-3, 3))

    def points(x: Any) -> Any:
        turned = [yaw_rotation(c.yaw_rad) @ (c.size_m * h) for c, h in ((a, x[:3]), (b, x[3:]))]
        return turned[0] + a.center_m, turned[1] + b.center_m

    def apart(x: Any) -> float:
        p, q = points(x)
        return float(((p - q) ** 2).sum())

    best = minimize(apart, np.zeros(6), bounds=[(-0.5, 0.5)] * 6, tol=1e-12)
    measured = replace(MEASURED, boxes=(a, b), values=(math.sqrt(best.fun),))
    ends = measured_line(message_of(measurement=measured).measurement)
    assert ends is not None
    start, end = ([p.x, p.y, p.z] for p in ends)
    assert math.dist(start, end) == pytest.approx(math.sqrt(best.fun), abs=1e-4)


def test_between_centres_where_those_were_measured_and_none_where_boxes_touch() -> None:
    centres = replace(MEASURED, values=(1.85,))
    ends = measured_line(message_of(measurement=centres).measurement)
    assert ends is not None
    assert [end.x for end in ends] == [0.0, 1.85]
    touching = replace(MEASURED, values=(0.0,), boxes=(MEASURED.boxes[0],) * 2)
    assert measured_line(message_of(measurement=touching).measurement) is None
    size = replace(MEASURED, kind=MeasureKind.SIZE)
    assert measured_line(message_of(measurement=size).measurement) is None


def test_a_list_of_before_the_first_keyframe_says_so() -> None:
    listed = describe_list(GetObjects.Response(success=True))
    assert listed == "no objects: no keyframe yet (`ada3d doctor` says why)"
