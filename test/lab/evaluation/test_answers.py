"""What an answer comes to, and whether it points at what it is about: by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ada3d_ros.lab.evaluation.answers import evidence_of, hits, is_grounded, said
from ada3d_ros.lab.world.room_question import RoomQuestion
from ada3d_ros.measures import MeasureKind, Measurement
from ada3d_ros.types import Answer, AnswerMethod, Box3D, StopReason
from ada3d_ros.usage import StageTimings, TokenUsage


def box(x: float, size: float = 1.0) -> Box3D:
    return Box3D(np.array([x, 0.0, 0.5]), np.full(3, size))


TRUE = {number: box(3.0 * number) for number in range(4)}  # at 0, 3, 6 and 9 m


def question(kind: str, answer: str, *objects: int) -> RoomQuestion:
    places = objects[:1] if kind == "existence" else objects
    return RoomQuestion(kind, "?", answer, objects, places=places)


def answered(
    text: str = "", measurement: Measurement | None = None, places: tuple[Box3D, ...] = ()
) -> Answer:
    method = AnswerMethod.MODEL if measurement is None else AnswerMethod.MEASURED
    head = "?", text, (), 0, "map", (0,), StopReason.EOS, TokenUsage(), StageTimings()
    return Answer(*head, method=method, places=places, measurement=measurement)


@pytest.mark.parametrize(
    ("kind", "word", "values", "truth", "expected"),
    [
        (MeasureKind.EXISTS, "yes", (), "no", "yes"),
        (MeasureKind.COUNT, "", (2.0,), "two", "two"),
        (MeasureKind.COUNT, "", (0.0,), "three", "zero"),
        (MeasureKind.COUNT, "", (9.0,), "three", "9"),
        (MeasureKind.NEAREST, "red chair", (0.8,), "table", "chair"),
        (MeasureKind.NEAREST, "red chair", (0.8,), "blue", "red"),
        (MeasureKind.NEAREST, "chair", (0.8,), "chair", "chair"),
        (MeasureKind.DIRECTION, "in front", (3.0,), "left", "in front"),
        (MeasureKind.ON, "nothing", (), "chair", "nothing"),
        (MeasureKind.ON, "red ball and blue lamp", (), "lamp", "red ball and blue lamp"),
    ],
)
def test_a_measured_answer_says_its_value(
    kind: MeasureKind, word: str, values: tuple[float, ...], truth: str, expected: str
) -> None:
    measurement = Measurement(kind, values, word=word, sentence=f"There it is, the {truth}.")
    assert said(answered(f"There it is, the {truth}.", measurement), truth) == expected


def test_a_models_answer_says_its_text() -> None:
    assert said(answered("a red chair"), "chair") == "a red chair"
    assert said(None, "chair") == ""


def test_evidence_is_what_the_answer_itself_points_at() -> None:
    places, boxes = (box(0.0),), (box(3.0), box(6.0))
    assert evidence_of(answered("two", places=places)) == places
    measurement = Measurement(MeasureKind.COUNT, (2.0,), boxes=boxes)
    assert evidence_of(answered("two", measurement, places)) == boxes


@pytest.mark.parametrize(
    ("shift", "size", "expected"),
    [
        (0.0, 1.0, True),
        (0.49, 3.0, True),  # the centre lies inside, whatever the size
        (0.55, 1.0, True),  # outside, IoU .45 / 1.55
        (0.62, 1.0, False),  # IoU .38 / 1.62
        (1.2, 2.0, False),
    ],
)
def test_a_place_hits_with_its_centre_or_its_overlap(
    shift: float, size: float, expected: bool
) -> None:
    assert hits(box(shift, size), box(0.0)) is expected


@pytest.mark.parametrize(
    ("asked", "at", "expected"),
    [
        (question("color", "red", 1), (3.1,), True),
        (question("color", "red", 1), (0.0,), False),
        (question("color", "red", 1), (), False),  # nothing is shown
        (question("color", "red", 1), (3.0, 6.0), False),  # nor is everything
        (question("nearest", "chair", 1, 2), (6.0, 3.1), True),  # in any order
        (question("nearest", "chair", 1, 2), (3.0, 3.1), False),  # each of them
        (question("relation", "left", 0, 1, 3), (0.0, 3.0, 9.0), True),
        (question("relation", "left", 0, 1, 3), (0.0, 6.0, 9.0), False),
        (question("count", "three", 0, 1, 2), (6.2, 0.0, 3.0), True),
        (question("count", "three", 0, 1, 2), (6.2, 0.0), False),
        (question("existence", "yes", 1, 2), (6.0,), True),  # one of them says that there is one
        (question("existence", "yes", 1, 2), (6.0, 20.0), True),
        (question("existence", "yes", 1, 2), (20.0, 6.0), False),
        (question("existence", "yes", 1, 2), (), False),
    ],
)
def test_an_answer_is_grounded_where_it_points_at_its_objects(
    asked: RoomQuestion, at: tuple[float, ...], expected: bool
) -> None:
    assert is_grounded([box(x) for x in at], asked, TRUE) is expected
