"""A photographed desk asked about, with a small detector and no language model."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import yaml

from ada3d_ros.config import from_flat
from ada3d_ros.create_pipeline import create_pipeline
from ada3d_ros.errors import (
    Ada3DError,
    AmbiguousError,
    InvalidRequestError,
    NotGroundedError,
    UnknownKindError,
)
from ada3d_ros.object_pipeline import ObjectPipeline
from ada3d_ros.types import Answer, AnswerMethod, GroundingMethod, Question
from test.support.desk import (
    DETECTOR,
    KEYBOARD_TO_FOOT_M,
    KEYBOARD_TO_PANEL_M,
    NOT_THERE,
    THERE,
    desk_frames,
)
from test.support.sources import ROOT

LISTS = yaml.safe_load((ROOT / "test/data/asking/desk.yaml").read_text())
ASKED: dict[str, str | int] = LISTS["asked"]
OUTSIDE: list[str] = LISTS["outside"]
REFUSALS = (NotGroundedError, UnknownKindError, AmbiguousError, InvalidRequestError)


@pytest.fixture(scope="module")
def desk(shared_dir: Path) -> ObjectPipeline:
    """A pipeline without a language model that has seen the desk, with the settings as shipped."""
    pytest.importorskip("onnxruntime")
    frames = desk_frames(shared_dir)
    flat = {"model.path": "none", "detector.path": str(shared_dir / DETECTOR)}
    pipeline = create_pipeline(from_flat(flat))
    assert isinstance(pipeline, ObjectPipeline)
    pipeline.load()
    for frame in frames:
        pipeline.observe(frame)
    return pipeline


@pytest.fixture(scope="module")
def stamps(shared_dir: Path) -> set[int]:
    return {frame.stamp_ns for frame in desk_frames(shared_dir)}


def ask(pipeline: ObjectPipeline, text: str) -> Answer:
    answer = pipeline.ask(Question(text))
    assert answer.method is AnswerMethod.MEASURED
    assert answer.text
    return answer


def word(pipeline: ObjectPipeline, text: str) -> str:
    """Yes, no, a number, a name; the code where it is refused."""
    try:
        measured = ask(pipeline, text).measurement
    except REFUSALS as refused:
        return refused.code.name
    assert measured is not None
    return measured.word


def test_kinds_that_are_there_and_that_are_not(desk: ObjectPipeline) -> None:
    assert len(THERE) + len(NOT_THERE) == 19
    said = {kind: word(desk, f"Is there a {kind}?") for kind in (*THERE, *NOT_THERE)}
    right = [kind for kind in THERE if said[kind] == "yes"]
    right += [kind for kind in NOT_THERE if said[kind] == "no"]
    assert len(right) >= 17, said
    assert sum(said[kind] == "yes" for kind in NOT_THERE) <= 1
    # The same of lists and counts.
    kinds = {thing.label.split()[-1] for thing in desk.objects().present}
    assert {"tv", "keyboard", "cup", "chair", "person"} <= kinds
    for one in ("monitor", "keyboard", "cup"):
        assert word(desk, f"How many {one}s are there?") == "one"


def test_distances_and_places(desk: ObjectPipeline) -> None:
    far = ask(desk, "How far is the keyboard from the monitor?").measurement
    assert far is not None
    for by_hand_m in (KEYBOARD_TO_FOOT_M, KEYBOARD_TO_PANEL_M):
        assert far.values[0] == pytest.approx(by_hand_m, abs=0.10)
        assert abs(far.values[0] - by_hand_m) <= far.uncertainty[0] <= 0.25
    # Medians of the depth inside the outlines, of the first frame.
    for name, median_m in (
        ("keyboard", (0.73, 0.91, 0.80)),
        ("monitor", (0.50, 0.83, 1.04)),
        ("cup", (0.53, 0.69, 0.84)),
    ):
        found = ask(desk, f"Where is the {name}?").measurement
        assert found is not None
        assert np.linalg.norm(np.subtract(found.values, median_m)) <= 0.15
        assert len(found.boxes[0].evidence_stamps_ns) >= 3
    assert word(desk, "What is nearest to the cup?") == "tv"
    assert word(desk, "Is the cup on the keyboard?") == "no"


@pytest.mark.parametrize("text", ASKED)
def test_free_wordings(desk: ObjectPipeline, text: str) -> None:
    """Answered rightly or refused, and refused only where a detector cannot know."""
    assert len(ASKED) >= 60
    right = str(ASKED[text])
    answer = None
    with contextlib.suppress(*REFUSALS):
        answer = ask(desk, text)
    if answer is None or right == "refused" or answer.measurement is None:
        assert answer is None
        assert right == "refused" or "desk" in text
        return
    measured = answer.measurement
    if right.isdecimal():
        assert measured.values == (float(right),)
    elif right.startswith("list "):
        assert all(name in answer.text for name in right.removeprefix("list ").split(", "))
    else:
        assert measured.word in right.split(", ")


@pytest.mark.parametrize("text", OUTSIDE)
def test_questions_that_no_object_answers(desk: ObjectPipeline, text: str) -> None:
    assert len(OUTSIDE) >= 30
    with pytest.raises(Ada3DError) as refused:
        desk.ask(Question(text))
    assert isinstance(refused.value, REFUSALS)
    if isinstance(refused.value, UnknownKindError):
        assert "no language model is loaded" in str(refused.value)


@pytest.mark.parametrize(
    ("phrase", "labels"),
    [
        ("the monitor", ["tv"]),
        ("black screen", ["tv"]),
        ("the keyboard", ["keyboard"]),
        ("people", ["person"]),
        ("the largest chair", ["chair"]),
        ("the biggest object", ["chair"]),
        ("the nearest cup", ["cup"]),
        ("the smallest book", ["book"]),
    ],
)
def test_phrases_have_boxes(
    desk: ObjectPipeline, stamps: set[int], phrase: str, labels: list[str]
) -> None:
    answer = desk.ground(Question(phrase))
    kept = {thing.box.center_m.tobytes(): thing.label for thing in desk.objects().present}
    found = [kept[box.center_m.tobytes()].split()[-1] for box in answer.boxes]
    assert found == labels
    for box in answer.boxes:
        assert box.label == phrase
        assert box.method is GroundingMethod.DETECTOR
        assert set(box.evidence_stamps_ns) <= stamps
        assert box.support_points > 50


@pytest.mark.parametrize("phrase", ["the lamp", "the red chair", "sofa", "a woman's hat", "red"])
def test_what_is_not_found_has_none(desk: ObjectPipeline, phrase: str) -> None:
    with pytest.raises(NotGroundedError):
        desk.ground(Question(phrase))
    with pytest.raises(InvalidRequestError, match="is a place"):
        desk.ground(Question("[1, 2, 3]"))
