"""When a model is believed about a side, though a thing that the question names is not found."""

import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from ada3d_ros.asking import unlisted
from ada3d_ros.asking.grammar import read_question
from ada3d_ros.asking.presupposed import model_denies
from ada3d_ros.measures import ObjectsSnapshot
from ada3d_ros.types import AskHooks, Question
from test.support.measured import box, objects

SIDE = "I am standing at the green bed and facing the blue lamp. Where is the red barrel?"
NEAREST = "What is nearest to the red barrel?"


@dataclass
class Pipeline:
    """Bed and lamp are listed, no barrel. The model says `said` of whether there is one, so sure;
    its answer about the side is so sure, too.
    """

    said: str
    sure: float
    sure_of_side: float = 0.5
    kinds: tuple[str, ...] = ("existence", "relation")
    asked: list[Question] = field(default_factory=list)

    @property
    def abilities(self) -> Any:
        return SimpleNamespace(kinds=self.kinds)

    def objects(self) -> ObjectsSnapshot:
        return ObjectsSnapshot(
            objects(box([0, 0, 0], label="green bed"), box([3, 0, 0], label="blue lamp"))
        )

    def open_query(self, question: Question, hooks: AskHooks) -> Any:
        scene = SimpleNamespace(frames=("frame",), floor=SimpleNamespace(z_m=0.25))
        return SimpleNamespace(scene=scene), None

    def ask(self, question: Question, hooks: AskHooks) -> Any:
        self.asked.append(question)
        if question.text.startswith("Is there"):
            return SimpleNamespace(text=self.said, confidence=self.sure)
        return SimpleNamespace(text="left", confidence=self.sure_of_side)


def denies(pipeline: Pipeline, text: str) -> bool:
    read = read_question(text)
    assert read is not None
    return model_denies(pipeline, Question(text), AskHooks(), read)


@pytest.mark.parametrize(
    ("said", "sure", "shows", "sure_of_side", "is_denied"),
    [
        ("yes", 0.6, False, 0.5, False),
        ("no", 0.98, False, 0.9999, False),
        ("no", 0.98, False, 0.999, True),
        ("no", 0.98, False, math.nan, True),
        ("no", 0.993, False, 0.9999, True),
        ("no", 0.993, True, 0.9999, False),
        ("no", 0.993, True, 0.999, True),
        ("no", 0.9985, True, 0.9999, True),
    ],
)
def test_a_side_takes_a_sure_answer_where_the_model_doubts_a_name(
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    sure: float,
    shows: bool,
    sure_of_side: float,
    is_denied: bool,
) -> None:
    """And where it denies one, something of that colour that is not listed, besides."""
    looked: list[tuple[Any, ...]] = []

    def shows_unlisted(*given: Any) -> bool:
        looked.append(given[:3])
        return shows

    monkeypatch.setattr(unlisted, "shows_unlisted", shows_unlisted)
    pipeline = Pipeline(said, sure, sure_of_side)
    assert denies(pipeline, SIDE) is is_denied
    assert looked in ([], [("red", ("frame",), 0.25)])
    assert pipeline.asked[0].text == "Is there a red barrel?"
    assert [question.text for question in pipeline.asked[1:]] in ([], [SIDE])
    assert not any(question.routed for question in pipeline.asked)


@pytest.mark.parametrize(("sure", "is_denied"), [(0.98, False), (0.993, True)])
def test_of_other_kinds_a_sure_no_counts_alone(
    monkeypatch: pytest.MonkeyPatch, sure: float, is_denied: bool
) -> None:
    monkeypatch.setattr(unlisted, "shows_unlisted", lambda *given: True)
    pipeline = Pipeline("no", sure)
    assert denies(pipeline, NEAREST) is is_denied
    assert [question.text for question in pipeline.asked] == ["Is there a red barrel?"]


def test_a_model_that_was_not_taught_to_tell_is_not_believed() -> None:
    assert denies(Pipeline("yes", 1.0, kinds=("relation",)), SIDE)
