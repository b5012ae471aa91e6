"""The boxes of a phrase: a detector's objects, the model's choice of them, or where it points.

Ground heads of the model's own choose among all objects that were detected, and their "no object"
is an answer. Where there is none, or none that the model can place, it goes on as without such
heads: the objects that the phrase names, else where the model points.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from ada3d_ros.config import AgentConfig
from ada3d_ros.errors import NotGroundedError, OutOfReachError
from ada3d_ros.grounding.from_text import GROUNDING_PROMPT
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.types import Answer, AskHooks, Box3D, Question

if TYPE_CHECKING:
    from ada3d_ros.asking.measured_by_detector import DetectedScene


class GroundingPipeline(Protocol):
    """A model and a scene, with the objects of a detector or without."""

    config: AgentConfig

    @property
    def has_detector(self) -> bool: ...

    @property
    def model(self) -> LoadedModel: ...

    def open_detected(self, question: Question, hooks: AskHooks) -> DetectedScene: ...

    def ask(self, question: Question, hooks: AskHooks) -> Answer: ...

    def choose_proposals(self, question: Question, hooks: AskHooks) -> Answer: ...


def ground_phrase(
    pipeline: GroundingPipeline, question: Question, phrase: str, hooks: AskHooks
) -> Answer:
    """See Ada3DPipeline.ground. phrase: checked; the template around it may be longer."""
    if not pipeline.has_detector:
        return _point(pipeline, question, phrase, hooks)
    from ada3d_ros.asking.ground_objects import answer_with_boxes, objects_named

    with suppress(NotGroundedError):
        opened, chooses = (
            pipeline.open_detected(question, hooks),
            pipeline.config.detector.proposals,
        )
        if chooses and pipeline.model.model.scores_proposals:
            every = tuple(each.box for each in opened.objects().objects if each.gone_ns < 0)
            asked = replace(question, phrase=phrase, proposals=every)
            if every:
                with suppress(OutOfReachError):
                    return pipeline.choose_proposals(asked, hooks)
        named = objects_named(opened)
        if chooses and pipeline.model.head is not None and len(named) > 1:
            chosen = _point(pipeline, question, phrase, hooks, tuple(named))
            if chosen.boxes:
                return chosen
        return answer_with_boxes(opened, named)
    return _point(pipeline, question, phrase, hooks)


def _point(
    pipeline: GroundingPipeline,
    question: Question,
    phrase: str,
    hooks: AskHooks,
    among: tuple[Box3D, ...] = (),
) -> Answer:
    """The model's boxes of a phrase, where given among a detector's."""
    text = GROUNDING_PROMPT.format(phrase=phrase)
    asked = replace(question, text=text, phrase=phrase, want_boxes=True, proposals=among)
    answer = pipeline.ask(asked, hooks)
    boxes = tuple(replace(box, label=phrase) for box in answer.boxes)
    return replace(answer, question=question.text, boxes=boxes)
