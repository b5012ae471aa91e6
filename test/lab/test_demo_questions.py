"""What the demo asks is answerable, the same every time, and judged by value."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from scipy.optimize import minimize

from ada3d_ros.errors import ErrorCode
from ada3d_ros.lab.demo_answers import distinct, evidence_of, given_answer, match_objects
from ada3d_ros.lab.demo_questions import (
    NUM_QUESTIONS,
    DemoQuestion,
    Reply,
    choose_questions,
    judge,
)
from ada3d_ros.lab.world.generated import GeneratedRoom, generate_room
from ada3d_ros.types import Box3D

SEEDS = (0, 2, 7, 9)  # 7 has two things alone with a name, 2 no clear nearest one


@pytest.fixture(scope="module")
def rooms() -> dict[int, GeneratedRoom]:
    return {seed: generate_room(seed) for seed in SEEDS}


def named(room: GeneratedRoom, text: str) -> list[Box3D]:
    """The boxes whose name stands in the text, in that order."""
    found = [box for box in room.boxes if box.label in text]
    return sorted(found, key=lambda box: text.index(box.label))


@pytest.mark.parametrize("seed", SEEDS)
def test_twelve_questions_of_all_sorts(seed: int, rooms: dict[int, GeneratedRoom]) -> None:
    questions = choose_questions(rooms[seed], seed)
    kinds = [question.kind for question in questions]
    assert len(questions) == NUM_QUESTIONS == 12
    assert len({question.asked for question in questions}) == 12
    assert kinds.count("distance") == 2
    assert kinds.count("refused") == 1
    assert {"count", "relation", "absent", "grounding", "color", "category"} <= set(kinds)
    assert questions == choose_questions(generate_room(seed), seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_true_answers_are_those_of_the_room(seed: int, rooms: dict[int, GeneratedRoom]) -> None:
    room = rooms[seed]
    for question in choose_questions(room, seed):
        boxes = named(room, question.asked)
        if question.kind == "distance":  # the shortest way between two boxes, as scipy finds it
            a, b = boxes
            limits = [
                (c - e / 2, c + e / 2)
                for box in (a, b)
                for c, e in zip(box.center_m, box.size_m, strict=True)
            ]
            start = np.concatenate((a.center_m, b.center_m))
            found = minimize(lambda p: ((p[:3] - p[3:]) ** 2).sum(), start, bounds=limits)
            assert question.number == pytest.approx(found.fun**0.5, abs=1e-3)
        elif question.kind == "count":
            category = re.fullmatch(r"How many (\w+?)s? are there\?", question.text)
            assert category is not None
            name = category[1].replace("shelve", "shelf")
            assert question.number == sum(box.label.endswith(name) for box in room.boxes)
        elif question.kind == "absent":
            assert boxes == []
        elif question.kind == "relation":
            at = re.search(r"at \[(.+?), (.+?), .+?\]", question.text)
            middle = [] if at is None else [np.array([float(at[1]), float(at[2])])]
            stand, faced, third = middle + [box.center_m[:2] for box in boxes]
            ahead, aside = faced - stand, third - stand
            turn = ahead[0] * aside[1] - ahead[1] * aside[0]
            if question.truth != "behind":
                assert question.truth == ("left" if turn > 0 else "right")
            else:
                assert ahead @ aside < 0
        elif question.kind == "grounding":
            assert question.target is not None
            assert len(boxes) == 1


# -- judged by value


LENGTH = DemoQuestion("distance", "How far?", "2.00 m", (), 2.0, is_length=True)
COUNT = DemoQuestion("count", "How many?", "two", ("two", "2"), 2.0)
WORD = DemoQuestion("nearest", "What is nearest?", "chair", ("chair", "red chair"))


@pytest.mark.parametrize(
    ("question", "reply", "right"),
    [
        (LENGTH, Reply("2.15 m", values=(2.15,), uncertainty=(0.05,), unit="m"), True),  # 7.5 %
        (LENGTH, Reply("2.3 m", values=(2.3,), uncertainty=(0.05,), unit="m"), False),
        (LENGTH, Reply("2.3 m", values=(2.3,), uncertainty=(0.4,), unit="m"), True),
        (LENGTH, Reply("190 cm", values=(190.0,), uncertainty=(5.0,), unit="cm"), True),
        (LENGTH, Reply("2 m"), False),  # said, not measured
        (LENGTH, Reply("two", values=(2.0,), unit="furlong"), False),
        (COUNT, Reply("There are two.", word="", values=(2.0,)), True),
        (COUNT, Reply("There are three.", values=(3.0,)), False),
        (COUNT, Reply("Two."), True),
        (WORD, Reply("the red chair"), True),
        (WORD, Reply("Nearest is the red chair.", word="red chair"), True),
        (WORD, Reply("a table"), False),
        (WORD, Reply("chair", ErrorCode.TIMEOUT), False),
        (DemoQuestion("refused", "Who?", ""), Reply("", ErrorCode.UNKNOWN_KIND), True),
        (DemoQuestion("refused", "Who?", ""), Reply("table"), False),
        (DemoQuestion("refused", "Who?", ""), Reply("", ErrorCode.NOT_GROUNDED), False),
    ],
)
def test_right_or_wrong(
    question: DemoQuestion, reply: Reply, right: bool, rooms: dict[int, GeneratedRoom]
) -> None:
    assert judge(question, reply, rooms[0])[0] is right


def test_a_box_is_right_on_its_object(rooms: dict[int, GeneratedRoom]) -> None:
    room = rooms[0]
    thing, true = room.graph.things[1], room.boxes[1]
    question = DemoQuestion("grounding", "", "", phrase="the thing", target=thing.number)
    half = true.size_m * (0.5, 0, 0)  # moved by half its length: IoU a third
    moved = dataclasses.replace(true, center_m=true.center_m + half)
    assert judge(question, Reply(boxes=(moved,)), room) == (True, "IoU 0.33")
    far = dataclasses.replace(true, center_m=true.center_m + 1.4 * half)
    assert judge(question, Reply(boxes=(far,)), room) == (False, "IoU 0.18")
    assert judge(question, Reply(), room) == (False, "")


# -- the inventory


def cube(x: float, label: str) -> Box3D:
    return Box3D(np.array([x, 0.0, 0.5]), np.ones(3), label=label)


def test_objects_are_matched_once_and_by_name_first() -> None:
    found = [cube(0.0, "red chair"), cube(0.1, "red chair"), cube(3.2, "blue bed"), cube(9, "ball")]
    true = [cube(0.1, "red chair"), cube(3.0, "green bed"), cube(6.0, "lamp")]
    rows = {(r.label, r.true_label, None if np.isnan(r.iou) else round(r.iou, 2)) for r in
            match_objects(found, true)}  # fmt: skip
    assert rows == {
        ("red chair", "red chair", 1.0),
        ("red chair", "", None),
        ("blue bed", "green bed", 0.67),
        ("ball", "", None),
        ("", "lamp", None),
    }
    assert [row.right for row in match_objects(found[:1], true[:1])] == [True]


def test_boxes_on_each_other_are_one() -> None:
    assert [b.center_m[0] for b in distinct([cube(0, "a"), cube(0.2, "b"), cube(2, "c")])] == [0, 2]


# -- messages


def test_an_answer_message_becomes_a_row(rooms: dict[int, GeneratedRoom]) -> None:
    """Measured: its boxes, the line between them with its value, the stages that ran."""
    messages = pytest.importorskip("ada3d_ros.msg")
    conversions = pytest.importorskip("ada3d_ros.ros.conversions")
    measurement = messages.Measurement(
        kind=messages.Measurement.DISTANCE, values=[2.15], uncertainty=[0.05], unit="m"
    )
    measurement.boxes = [conversions.box_to_msg(cube(x, name)) for x, name in ((0, "a"), (3, "b"))]
    answer = messages.Answer(
        text="2.15 m", success=True, method=messages.Answer.METHOD_MEASURED, measurement=measurement
    )
    answer.latency.total_ms, answer.latency.prefill_ms = 12.0, float("nan")
    given = given_answer(answer, LENGTH, rooms[0], "tokens")
    assert (given.method, given.right, given.note) == ("measured", True, "15 cm off")
    assert given.latency_ms["total"] == 12.0
    assert "prefill" not in given.latency_ms
    assert [box.center_m[0] for box in given.evidence.boxes] == [0.0, 3.0]
    assert (given.evidence.joins, given.evidence.join_label) == (((0, 1),), "2.15 m")

    # By the model: where it pointed, in order; a refusal says so.
    said = messages.Answer(text="left", success=True, places=list(reversed(measurement.boxes)))
    evidence = evidence_of(said, DemoQuestion("relation", "", ""))
    assert [place.label for place in evidence.places] == ["b", "a"]
    assert evidence.from_above
    for count, words in ((1, "once"), (2, "2 times")):
        said = messages.Answer(text="left", success=True, places=measurement.boxes[:count])
        given = given_answer(said, DemoQuestion("relation", "", ""), rooms[0], "tokens")
        assert given.method == f"by the model, which pointed {words} first"
    refused = messages.Answer(
        error_code=int(ErrorCode.UNKNOWN_KIND), error_msg="No such kind. Ask otherwise."
    )
    given = given_answer(refused, DemoQuestion("refused", "Who?", ""), rooms[0], "tokens")
    assert (given.method, given.error, given.right) == (
        "refused",
        "UNKNOWN_KIND: No such kind.",
        True,
    )
    assert given.details == ["Ask otherwise."]

    # Of a side: lines from where one stands to what one faces and to the thing.
    measurement.kind = messages.Measurement.DIRECTION
    measurement.boxes.append(conversions.box_to_msg(cube(6, "c")))
    answer.measurement = measurement
    evidence = evidence_of(answer, DemoQuestion("relation", "", ""))
    assert evidence.joins == ((0, 1), (0, 2))
    assert evidence.join_label == ""
