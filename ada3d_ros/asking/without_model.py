"""Who answers where there is no language model: geometry, among the objects of a detector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ada3d_ros.errors import UnknownKindError
from ada3d_ros.measures import MeasureRequest
from ada3d_ros.model.prompt import MAX_PROMPT_CHARS, check_question
from ada3d_ros.types import Answer, AskHooks, Question, Scope

if TYPE_CHECKING:
    from ada3d_ros.config import AgentConfig

NO_MODEL = "no language model is loaded (model.path: none)"


class ObjectsPipeline(Protocol):
    """What has settings, and measures."""

    config: AgentConfig

    def measure(self, request: MeasureRequest, hooks: AskHooks, question: Question) -> Answer: ...


def answer_measured(pipeline: ObjectsPipeline, question: Question, hooks: AskHooks) -> Answer:
    """The measured answer to a question that the grammar reads.

    Raises UnknownKindError for any other, and as `measure`.
    """
    from ada3d_ros.asking.detected_request import detected_request, request_at_place
    from ada3d_ros.asking.grammar import read_question  # with the first question
    from ada3d_ros.asking.model_task import measured_choice

    read = read_question(check_question(question.text, MAX_PROMPT_CHARS))
    request = None if read is None else detected_request(read) or request_at_place(read)
    if not pipeline.config.question.measure:
        raise _refused(question, "question.measure is false: set it to true.")
    if question.scope is not Scope.SCENE:
        raise _refused(question, "the newest image alone is not looked at: ask about the scene.")
    if read is None or request is None:
        from ada3d_ros.asking.route import EXAMPLES, examples_of

        examples = examples_of((), can_measure=True, detects=True)
        raise _refused(
            question,
            "it cannot be read off the objects that a detector found. What can be asked, in words"
            f" of your own: {examples} / {EXAMPLES['category']}",
        )
    return measured_choice(pipeline.measure, request, hooks, question, read)


def _refused(question: Question, why: str) -> UnknownKindError:
    return UnknownKindError(f"{question.text!r} is not answered: {NO_MODEL}, and {why}")
