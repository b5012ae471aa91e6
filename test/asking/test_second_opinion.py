"""A side that the measure is not sure of is decided by the model; all else stays measured."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from ada3d_ros.asking.grammar import read_question
from ada3d_ros.asking.second_opinion import settled
from ada3d_ros.errors import CanceledError, ModelError
from ada3d_ros.measures import MeasureKind, Measurement, MeasureRequest
from ada3d_ros.types import Answer, AnswerMethod, AskHooks, Question, Stage, StopReason
from ada3d_ros.usage import StageTimings, TokenUsage

WHICH = "I am standing at the bed and facing the lamp. Is the table left, right or behind me?"
WHERE = "I am standing at the bed and facing the lamp. Where is the table?"
LEFT = "I am standing at the bed and facing the lamp. Is the table on my left?"
FRONT = "I am standing at the bed and facing the lamp. Is the table in front of me?"


def answer(text: str, measurement: Measurement | None = None, total_s: float = 1.0) -> Answer:
    return Answer(
        question="",
        text=text,
        boxes=(),
        stamp_ns=0,
        frame_id="map",
        keyframe_stamps_ns=(),
        stop_reason=StopReason.EOS,
        tokens=TokenUsage(),
        timings=StageTimings(total_s=total_s),
        scene_epoch=0,
        scene_version=0,
        deadline_kept=True,
        method=AnswerMethod.MODEL if measurement is None else AnswerMethod.MEASURED,
        measurement=measurement,
    )


@dataclass
class Pipeline:
    """Measures this angle with this half width, both in degrees, as this word; the model says
    `said`.
    """

    angle_deg: float
    half_deg: float
    word: str
    said: str | ModelError = ""
    asked: list[Question] = field(default_factory=list)

    def measure(self, request: MeasureRequest, hooks: AskHooks, question: Question) -> Answer:
        hooks.check()
        hooks.on_stage(Stage.POSTPROCESS)
        hooks.on_text("measured", 0)
        values = (self.angle_deg,), "deg", (self.half_deg,)
        return answer("measured", Measurement(request.kind, *values, word=self.word))

    def ask(self, question: Question, hooks: AskHooks) -> Answer:
        hooks.check()
        hooks.on_text("said", 1)
        self.asked.append(question)
        if isinstance(self.said, ModelError):
            raise self.said
        return answer(self.said)


def settle(
    pipeline: Pipeline, text: str, check: Callable[[], None] = lambda: None, deadline_s: float = 9.0
) -> tuple[Answer | None, StageTimings, list[str]]:
    """What `settled` gives, and the text that the caller got."""
    read = read_question(text)
    assert read is not None
    assert read.request is not None
    assert read.request.kind is MeasureKind.DIRECTION
    told: list[str] = []
    hooks = AskHooks(check=check, on_text=lambda piece, _: told.append(piece))
    question = Question(text, deadline_s=deadline_s)
    return *settled(pipeline, read.request, hooks, question), told


def test_a_sure_side_needs_no_model() -> None:
    pipeline = Pipeline(80.0, 30.0, "left", said="behind")
    kept, took, told = settle(pipeline, WHICH)
    assert kept is not None
    assert kept.timings.total_s == 1.0
    assert told == ["measured"]
    assert pipeline.asked == []
    assert math.isnan(took.total_s)


@pytest.mark.parametrize(
    ("text", "angle_deg", "word", "said"),
    [
        (WHICH, 40.0, "left", "behind"),
        (WHICH, -20.0, "in front", "right"),
        (WHERE, 120.0, "left", "behind"),
        (LEFT, 40.0, "yes", "no"),
    ],
)
def test_an_unsure_side_is_the_models_to_decide(
    text: str, angle_deg: float, word: str, said: str
) -> None:
    """The caller gets nothing of the measure, and the time that it took counts."""
    pipeline = Pipeline(angle_deg, 16.0, word, said)
    nothing, took, told = settle(pipeline, text)
    assert nothing is None
    assert took.total_s == 2.0
    assert told == []
    assert [question.routed for question in pipeline.asked] == [False]


@pytest.mark.parametrize(("word", "said"), [("left", "Left."), ("left", "left")])
def test_what_both_say_stays_measured(word: str, said: str) -> None:
    """With the time of both, and the deadline held against that."""
    kept, _, told = settle(Pipeline(40.0, 16.0, word, said), WHICH)
    late, _, _ = settle(Pipeline(40.0, 16.0, word, said), WHICH, deadline_s=1.5)
    assert kept is not None
    assert late is not None
    assert kept.method is AnswerMethod.MEASURED
    assert (kept.timings.total_s, kept.deadline_kept, late.deadline_kept) == (2.0, True, False)
    assert told == ["measured"]


@pytest.mark.parametrize(("text", "word"), [(FRONT, "yes"), (WHERE, "in front")])
def test_a_model_that_never_heard_of_in_front_is_not_asked_about_it(text: str, word: str) -> None:
    pipeline = Pipeline(20.0, 16.0, word, said="left")
    kept, _, told = settle(pipeline, text)
    assert kept is not None
    assert told == ["measured"]
    assert pipeline.asked == []


def test_a_model_without_a_word_decides_nothing() -> None:
    kept, _, told = settle(Pipeline(40.0, 16.0, "left", ModelError("no text")), WHICH)
    assert kept is not None
    assert told == ["measured"]


def test_a_caller_may_stop_while_the_model_is_asked() -> None:
    checks = iter((None, CanceledError("stopped")))

    def check() -> None:
        stopped = next(checks)
        if stopped is not None:
            raise stopped

    with pytest.raises(CanceledError):
        settle(Pipeline(40.0, 16.0, "left", "left"), WHICH, check)
