"""Where a thing was last seen: wordings, the answer from what was kept, and honestly nothing."""

from __future__ import annotations

import numpy as np
import pytest

from ada3d_ros.asking.frames import LAST_SEEN
from ada3d_ros.asking.grammar import read_question
from ada3d_ros.asking.last_seen import duration, last_seen
from ada3d_ros.errors import NotGroundedError
from ada3d_ros.measures import MeasureKind, MeasureRequest, Reference, SceneObject
from ada3d_ros.types import Box3D

SECOND = 1_000_000_000
DAY_NS = 1_790_000_000 * SECOND  # 2026-09-21 14:13:20 UTC


def thing(number: str, label: str, x_m: float, last_s: int, gone_s: int = -1) -> SceneObject:
    box = Box3D(np.array([x_m, 2.0, 0.5]), np.array([0.5, 0.5, 1.0]), label=label, score=0.9)
    gone_ns = DAY_NS + gone_s * SECOND if gone_s >= 0 else -1
    return SceneObject(number, label, box, (), DAY_NS, DAY_NS + last_s * SECOND, gone_ns)


def asked(name: str) -> MeasureRequest:
    return MeasureRequest(MeasureKind.WHERE, of=Reference(phrase=name), attribute=LAST_SEEN)


@pytest.mark.parametrize(
    "text",
    [
        "Where did I last see the red chair?",
        "where did you last see the red chair",
        "When did we last see the red chair?",
        "Where was the red chair last seen?",
        "When was the red chair seen last?",
        "Where did I see the red chair last?",
        "Where and when did the robot last see the red chair?",
        "Where have you last seen the red chair?",
    ],
)
def test_wordings(text: str) -> None:
    read = read_question(text)
    assert read is not None
    assert read.kind == LAST_SEEN
    assert read.request is not None
    assert (read.request.kind, read.request.attribute) == (MeasureKind.WHERE, LAST_SEEN)
    assert [each.phrase for each in read.things] == ["red chair"]


@pytest.mark.parametrize(
    "text",
    ["Where did I last see the largest chair?", "Where was the chair?", "When is the chair here?"],
)
def test_what_is_something_else_stays_unread(text: str) -> None:
    read = read_question(text)
    assert read is None or read.kind != LAST_SEEN


def test_the_newest_of_all_that_were_ever_kept() -> None:
    kept = [thing("1", "red chair", 1.0, 40), thing("2", "lamp", 2.0, 60)]
    history = [thing("1", "red chair", 5.0, 10), thing("7", "cup", 3.0, 20, gone_s=30)]
    found = last_seen(asked("the chair"), kept, history, DAY_NS + 100 * SECOND)
    assert found.values == (1.0, 2.0, 0.5)
    assert found.unit == "m"
    assert found.sentence.startswith("The red chair was last seen at [1.00, 2.00, 0.50]")
    assert found.sentence.endswith("at 2026-09-21 14:14:00 UTC, 60 s before the newest image.")
    assert found.boxes[0].label == "red chair"

    gone = last_seen(asked("cup"), kept, history, DAY_NS + 100 * SECOND)
    assert gone.values[0] == 3.0
    assert "It was gone from there at 2026-09-21 14:13:50 UTC, 70 s before" in gone.sentence


def test_what_was_never_seen_is_said_to_be_so() -> None:
    kept = [thing("1", "red chair", 1.0, 40)]
    with pytest.raises(NotGroundedError, match=r"no piano was ever seen .* there is red chair"):
        last_seen(asked("piano"), kept, (), DAY_NS)
    with pytest.raises(NotGroundedError, match="there is nothing"):
        last_seen(asked("piano"), (), (), DAY_NS)


def test_a_store_that_cannot_be_read_is_an_assumption() -> None:
    """What is kept now still answers; else the sentence says what was not looked at."""
    kept = [thing("1", "red chair", 1.0, 40)]
    found = last_seen(asked("chair"), kept, (), DAY_NS, "the disk is away.")
    assert found.values == (1.0, 2.0, 0.5)
    why = "Objects of before could not be looked through: the disk is away."
    assert found.assumptions[-1] == why
    with pytest.raises(NotGroundedError, match=f"no piano was ever seen .* {why}"):
        last_seen(asked("piano"), kept, (), DAY_NS, "the disk is away.")


def test_stamps_of_a_clock_without_a_date_are_seconds() -> None:
    box = Box3D(np.zeros(3), np.ones(3), label="cup")
    item = SceneObject("1", "cup", box, (), SECOND, 3 * SECOND)
    found = last_seen(asked("cup"), [item], (), 3 * SECOND)
    assert found.sentence.endswith("at 3.0 s, in the newest image.")


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (150, "2 min"), (7300, "2 h"), (200000, "2 days")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
