"""What a measure cannot tell for sure is decided by a model that was taught such questions."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from ada3d_ros.errors import ModelError
from ada3d_ros.geometry.measure.relations import is_sure_side
from ada3d_ros.measures import MeasureKind, Measurement, MeasureRequest
from ada3d_ros.types import Answer, AskHooks, Question
from ada3d_ros.usage import StageTimings, added

TAUGHT_SIDES = frozenset(("left", "right", "behind"))


class DecidingPipeline(Protocol):
    """What measures, and has a model to ask."""

    def measure(self, request: MeasureRequest, hooks: AskHooks, question: Question) -> Answer: ...

    def ask(self, question: Question, hooks: AskHooks) -> Answer: ...


def settled(
    pipeline: DecidingPipeline, request: MeasureRequest, hooks: AskHooks, question: Question
) -> tuple[Answer | None, StageTimings]:
    """The measured answer to a question of a kind that the model was taught, too. None, and what it
    took, where the measure is not sure and the model says otherwise: then its word counts.

    Raises as `measure`, and what hooks.check raises.
    """
    if request.kind is not MeasureKind.DIRECTION:
        return pipeline.measure(request, hooks, question), StageTimings()
    quietly = AskHooks(check=hooks.check, on_stage=hooks.on_stage)
    answer = pipeline.measure(request, quietly, question)
    result = answer.measurement
    assert result is not None, "measured"
    if not _is_sure(result) and _can_tell(request, result, question):
        asked = replace(question, routed=False)
        with suppress(ModelError):  # it has no word for this
            said = pipeline.ask(asked, AskHooks(check=hooks.check))
            took = added(answer.timings, said.timings)
            if said.text.strip().strip(".").lower() != result.word:
                return None, took
            kept = took.total_s <= question.deadline_s
            answer = replace(answer, timings=took, deadline_kept=kept)
    hooks.on_text(answer.text, 0)
    return answer, StageTimings()


def _is_sure(result: Measurement) -> bool:
    """Whether all angles within a side's uncertainty are on that side."""
    return is_sure_side(result.values[0], result.uncertainty[0])


def _can_tell(request: MeasureRequest, result: Measurement, question: Question) -> bool:
    """Whether a model has a word for it: what is in front was never asked, and is no answer to
    "left, right or behind?"
    """
    if request.category:  # the side of a question of yes or no
        return request.category in TAUGHT_SIDES
    offered = TAUGHT_SIDES & set(re.findall("[a-z]+", question.text.lower()))
    return result.word in TAUGHT_SIDES or bool(offered)
