"""What the demo asks of a recording, and how its page lists what nobody knows the truth of."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import pytest

from ada3d_ros.lab.demo_questions import DemoQuestion
from ada3d_ros.lab.recording_questions import absent_kinds, recording_questions
from ada3d_ros.lab.report import DetectedView, ListedObject, Round, RunReport, write_report
from ada3d_ros.lab.report.pictures import draw_detections
from ada3d_ros.lab.report.room_map import draw_map
from ada3d_ros.perception.class_names import COCO_NAMES
from ada3d_ros.perception.detector import Detection2D
from ada3d_ros.sources.messages import header_frame_id
from ada3d_ros.types import Box3D, Intrinsics, RgbdFrame


def cube(x: float, label: str, score: float) -> Box3D:
    return Box3D(np.array([x, 0.0, 0.5]), np.ones(3), label=label, score=score)


FOUND = [
    cube(0.0, "black tv", 0.9),
    cube(3.0, "chair", 0.8),
    cube(6.0, "red chair", 0.7),
    cube(9.0, "gray keyboard", 0.6),
    cube(2.0, "orange", 0.5),  # a fruit
]


def texts(questions: list[DemoQuestion]) -> dict[str, str]:
    return {question.kind: question.asked for question in questions}


def test_questions_are_made_from_what_was_found() -> None:
    asked = texts(recording_questions(FOUND, COCO_NAMES))
    assert asked["existence"] == "Is there a tv?"
    assert asked["count"] == "How many chairs are there?"
    assert asked["place"] == "Where is the tv?"
    assert asked["nearest"] == "What is nearest to the tv?"
    assert asked["grounding"] == "Find the black tv."
    assert asked["distance"] == "How far is the tv from the keyboard?"  # 8 m apart: the farthest
    assert asked["absent"] == "Is there a couch?"
    assert asked["refused"] == "Who bought the tv?"


def test_where_nothing_was_found_there_is_still_something_to_ask() -> None:
    questions = recording_questions([], ())
    assert [question.kind for question in questions] == ["list", "absent", "refused"]
    assert all(question.truth == "" for question in questions)


def test_absent_is_what_the_detector_could_have_named() -> None:
    assert absent_kinds([cube(0.0, "gray couch", 0.9)], ("couch", "bed")) == ["bed"]
    assert absent_kinds([], ("zebra",)) == []


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("black tv", "tv"),
        ("tv", "tv"),
        ("orange", "orange"),
        ("dining table", "dining table"),
        ("white board", "white board"),  # a kind of the detector, no colour in front of one
    ],
)
def test_a_kind_is_asked_for_without_its_colour(label: str, kind: str) -> None:
    questions = recording_questions([cube(0.0, label, 0.9)], ("tv", "white board"))
    asked = {question.kind: question.asked for question in questions}
    assert asked["place"] == f"Where is the {kind}?"


def frame() -> RgbdFrame:
    T = np.eye(4)
    T[:3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
    T[:3, 3] = 0.0, -4.0, 0.5
    depth = np.full((48, 64), 3.5, np.float32)
    camera = Intrinsics(60.0, 60.0, 31.5, 23.5, 64, 48)
    return RgbdFrame(1, np.zeros((48, 64, 3), np.uint8), depth, camera, T, "map", "camera")


def test_the_page_lists_objects_and_judges_nothing(tmp_path: Path) -> None:
    nasty = "<b>tv</b>"
    tv = cube(0.0, nasty, 0.91)
    report = RunReport(
        title="recording",
        lead="lead",
        warning="",
        frames=(frame(),),
        walls_m=None,
        true_boxes=(),
        found=(tv,),
        rounds=(Round(""),),
        questions=(),
        facts={},
        listed=[ListedObject(tv, 2.34, "7", ("laptop",))],
        detected=[DetectedView(frame(), [Detection2D((8.0, 6.0, 24.0, 30.0), nasty, 0.5)])],
        tiles=[("1", "objects")],
        note="CC BY 4.0",
    )
    page = write_report(tmp_path / "report.html", report).read_text(encoding="utf-8")
    seen = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "|", page.split("</style>")[1])))
    for text in ("|1||objects|", nasty, "or laptop", "2.34 m", "|7|", "0.91", "CC BY 4.0"):
        assert text in seen, text
    assert nasty not in page  # escaped
    assert "true boxes" not in seen
    assert " right" not in seen
    assert "<script" not in page

    # The map names what was found, where there is no truth.
    assert [label.text for label in draw_map(report).labels] == [nasty]


def test_a_box_of_the_picture_is_drawn_where_the_detector_says() -> None:
    view = DetectedView(frame(), [Detection2D((8.0, 6.0, 24.0, 30.0), "tv", 0.5)])
    (picture,) = draw_detections([view])
    scale = picture.width / 64
    ends = np.concatenate([edge for edge, kind in picture.edges if kind == "seen"])
    assert len(picture.edges) == 4
    assert ends.min(axis=0).tolist() == pytest.approx([8 * scale, 6 * scale])
    assert ends.max(axis=0).tolist() == pytest.approx([24 * scale, 30 * scale])
    assert [label.text for label in picture.labels] == ["tv 0.50"]


def test_the_frame_of_a_message_is_read_from_its_bytes() -> None:
    for order, name in (("little", 1), ("big", 0)):
        length = (4).to_bytes(4, order)  # type: ignore[arg-type]
        cdr = bytes([0, name, 0, 0]) + bytes(8) + length + b"odo\0" + b"rest"
        assert header_frame_id(cdr) == "odo"
    assert header_frame_id(b"short") == ""
