"""A question on its way to the model: the words that it is handed in, and its answer on the way
back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ada3d_ros.asking.chosen_color import chosen
from ada3d_ros.asking.taught import (
    COLOR,
    NAME,
    NUMBER,
    SIDE,
    YES_NO,
    answer_sort,
    is_of_sort,
    taught_question,
)
from ada3d_ros.asking.words import color_of
from ada3d_ros.errors import NotGroundedError
from ada3d_ros.types import Answer, AskHooks, Question, StopReason
from ada3d_ros.usage import StageTimings, added

if TYPE_CHECKING:
    from ada3d_ros.asking.grammar import ReadQuestion
    from ada3d_ros.measures import MeasureRequest

_ADVICE = {
    COLOR: "Ask whether the thing is there, or look at it with the camera.",
    YES_NO: "Ask where the thing is, or look at it with the camera.",
    NUMBER: "Ask whether there is one, or look around with the camera.",
    SIDE: "Ask where each of the things is, or look at them with the camera.",
    NAME: "Ask whether the thing is there, or look at it with the camera.",
}


@dataclass(frozen=True, slots=True)
class ModelTask:
    """A question that the model is to answer.

    question: as it was asked; read: what it asks for, by a model of a list of kinds, which gets it
    in the words that it was taught (`words`: those of its names); None where it goes as it is, and
    anything may be said. took: finding out.
    """

    question: Question
    read: ReadQuestion | None = None
    words: frozenset[str] = frozenset()
    took: StageTimings = field(default_factory=StageTimings)

    @property
    def handed(self) -> Question:
        """The question as the model gets it."""
        if self.read is None:
            return self.question
        return replace(self.question, text=taught_question(self.read, self.words))

    def hooks(self, hooks: AskHooks) -> AskHooks:
        """For the model: text that is put in other words is told when it is there."""
        return without_text(hooks) if self._is_put_otherwise else hooks

    def answer(self, said: Answer, hooks: AskHooks) -> Answer:
        """What the model said as the answer to what was asked. hooks: of who asked.

        Raises NotGroundedError where it is no answer to such a question, as it is of things that
        are not there.
        """
        read = self.read
        timings = added(self.took, said.timings)
        answer = replace(said, question=self.question.text, timings=timings)
        if read is None:
            return answer
        if answer.stop_reason is StopReason.EOS:
            self._require_sort(read, answer.text)
            if self._is_put_otherwise:
                answer = chosen(replace(answer, text=color_of(answer.text.casefold())), read)
        if self._is_put_otherwise:
            hooks.on_text(answer.text, answer.tokens.generated)
        return answer

    @property
    def _is_put_otherwise(self) -> bool:
        """Whether the colour is one of a description, or compared with others."""
        read = self.read
        if read is None:
            return False
        at_place = any(thing.point_m is not None for thing in read.things)
        return bool(read.choices) or (read.kind == "color" and at_place)

    def _require_sort(self, read: ReadQuestion, text: str) -> None:
        sort = answer_sort(read)
        if is_of_sort(text, sort, self.words):
            return
        what = "saw no colour there" if sort == COLOR else f"gave no {sort}"
        raise NotGroundedError(
            f"{self.question.text!r} has no answer: the model {what} (it said {text!r})."
            f" {_ADVICE[sort]}"
        )


def without_text(hooks: AskHooks) -> AskHooks:
    return AskHooks(check=hooks.check, on_stage=hooks.on_stage)


def measured_choice(
    measure: Callable[[MeasureRequest, AskHooks, Question], Answer],
    request: MeasureRequest,
    hooks: AskHooks,
    question: Question,
    read: ReadQuestion,
) -> Answer:
    """What is measured; of a colour that is given to choose from, as the answer to that."""
    if not read.choices:
        return measure(request, hooks, question)
    answer = chosen(measure(request, without_text(hooks), question), read)
    hooks.on_text(answer.text, 0)
    return answer
