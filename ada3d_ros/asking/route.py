"""Who answers a question: geometry where the grammar reads it and what it names is found, else the
model where it was taught such questions, else nobody.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from ada3d_ros.asking.detected_request import INVENTORY, detected_request
from ada3d_ros.asking.frames import LAST_SEEN
from ada3d_ros.asking.model_task import ModelTask, measured_choice
from ada3d_ros.asking.presupposed import (
    TAUGHT,
    answer_from_list,
    model_denies,
    require_found,
    require_places,
)
from ada3d_ros.asking.taught import taught_question
from ada3d_ros.engine.timing import Now
from ada3d_ros.errors import (
    InvalidRequestError,
    NotGroundedError,
    NotMeasurableError,
    UnknownKindError,
)
from ada3d_ros.measures import MeasureKind, MeasureRequest, ObjectsSnapshot
from ada3d_ros.model.prompt import MAX_PROMPT_CHARS, check_question
from ada3d_ros.types import Answer, AskHooks, Question, Scope
from ada3d_ros.usage import StageTimings, added

if TYPE_CHECKING:
    from ada3d_ros.asking.grammar import ReadQuestion
    from ada3d_ros.asking.object_source import ObjectSource
    from ada3d_ros.config import AgentConfig
    from ada3d_ros.engine.memory_fallback import Ask
    from ada3d_ros.engine.prefix_cache import PrefixCache
    from ada3d_ros.engine.query_context import QueryContext

# What models say better than boxes do, where they were taught it; but what the list surely holds
# is there (0262). Superlatives are measured: level with the model on small rooms, far better on
# large ones (docs/log.md).
MODEL_FIRST = frozenset(("existence",))
# An example of every kind, in the order in which a refusal lists them.
EXAMPLES = {
    INVENTORY: "What do you see?",
    "existence": "Is there a red chair?",
    "color": "What color is the table?",
    "category": "What is at [1.0, 2.0, 0.5]?",
    "count": "How many chairs are there?",
    "grounding": "Where is the red chair?",
    "nearest": "What is nearest to the red chair?",
    "relation": "I am standing at the red chair and facing the table. Is the lamp on my left?",
    "superlative": "What is the largest object?",
    "multihop": "What color is the object nearest to the table?",
    "caption": "Describe the object at [1.0, 2.0, 0.5].",
    "on": "What is on the table?",
    "under": "What is under the lamp?",
    "between": "What is between the sofa and the table?",
    "within": "How many chairs are within 2 m of the table?",
    "distance": "How far is the red chair from the table?",
    "size": "How big is the table?",
    "height": "How tall is the lamp?",
    "free_floor": "How much free floor is beside the sofa?",
    LAST_SEEN: "Where did I last see the red chair?",
}
_ONLY_MODELS = ("category", "caption")
_BY_OBJECTS = ("color", INVENTORY)  # models that were taught them apart


@dataclass(frozen=True, slots=True)
class Abilities:
    """kinds: of questions that the language model was taught, () = any; finds: what a question
    names can be found in the scene; detects: namely among the objects of a detector.
    """

    kinds: tuple[str, ...] = ()
    finds: bool = False
    detects: bool = False


class RoutingPipeline(Protocol):
    """What has settings, and measures."""

    config: AgentConfig
    now: Now

    @property
    def abilities(self) -> Abilities: ...

    @property
    def inventory(self) -> ObjectSource[QueryContext] | None: ...

    def measure(self, request: MeasureRequest, hooks: AskHooks, question: Question) -> Answer: ...

    def ask(self, question: Question, hooks: AskHooks) -> Answer: ...

    def objects(self) -> ObjectsSnapshot: ...

    def open_query(
        self, question: Question, hooks: AskHooks
    ) -> tuple[QueryContext, PrefixCache]: ...


def routed(ask: Ask) -> Ask:
    """`ask` of a pipeline, where a model answers; questions that are measured never reach it. A
    deadline counts from the try to measure on.

    Raises UnknownKindError for a question of no kind that is answered here.
    """

    @functools.wraps(ask)
    def answered(
        pipeline: RoutingPipeline, question: Question, hooks: AskHooks = AskHooks()
    ) -> Answer:
        begun = pipeline.now()
        task = measured_answer(pipeline, question, hooks)
        if isinstance(task, Answer):
            return task
        left_s = question.deadline_s - (pipeline.now() - begun)
        handed = replace(task.handed, deadline_s=left_s)
        return task.answer(ask(pipeline, handed, task.hooks(hooks)), hooks)

    return answered


def measured_answer(
    pipeline: RoutingPipeline, question: Question, hooks: AskHooks
) -> Answer | ModelTask:
    """The measured answer, the model's to what the list of objects holds, or what the model is to
    answer.

    Raises UnknownKindError, InvalidRequestError, QuestionTooLongError, AmbiguousError;
    NotGroundedError where something that is named is not found, unless an open model is to answer.
    """
    as_it_is = ModelTask(question)
    if question.phrase or not question.routed:
        return as_it_is
    kinds = pipeline.abilities.kinds
    can_measure = _can_measure(pipeline, question)
    if not kinds and not can_measure:
        return as_it_is

    # Read it; an open model answers what is not read, or read as more than one question.
    detects = can_measure and pipeline.abilities.detects
    read = _read(question, kinds)
    request = None if read is None else read.request
    if read is not None and detects:
        request = detected_request(read)
    if read is None or (read.kind == INVENTORY and not detects):
        if not kinds:
            return as_it_is
        raise _unknown(question.text, kinds, can_measure, detects)
    words = frozenset[str]()
    if kinds:
        words = _require_known(pipeline, read)

    # Measured, or by the model that was taught it; with a detector whatever its objects tell.
    is_taught = not kinds or (read.kind in kinds and bool(taught_question(read, words)))
    by_model = is_taught and read.kind in MODEL_FIRST and not detects
    begun = pipeline.now()
    if by_model and can_measure and request is not None:
        listed = answer_from_list(pipeline, question, hooks, request.category)
        if listed is not None:
            return listed
    if request is not None and can_measure and not by_model:
        try:
            return measured_choice(pipeline.measure, request, hooks, question, read)
        except NotGroundedError as error:
            if request.attribute == LAST_SEEN or (kinds and (not is_taught or detects)):
                raise  # a model would make up what it does not see
            is_missing = not isinstance(error, NotMeasurableError)
            if kinds and is_missing and not _is_believed(pipeline, question, hooks, read):
                raise
    if not is_taught:
        raise _unknown(question.text, kinds, can_measure, detects)
    tried_s = pipeline.now() - begun
    took = StageTimings(prefill_s=tried_s, total_s=tried_s)
    if not kinds:
        return ModelTask(question, took=took)

    # What it takes to be there is looked for first.
    require_places(pipeline, question, hooks, read)
    if can_measure:
        read, looking = require_found(pipeline, question, hooks, read)
        took = added(took, looking)
    if read.kind == "caption" and any(thing.phrase for thing in read.things):
        raise NotMeasurableError(
            f"{question.text!r} needs the place of what it names, which cannot be looked for here:"
            " give it as [x, y, z] ('Describe the object at [1.0, 2.0, 0.5].')."
        )
    return ModelTask(question, read, words, took)


def _is_believed(
    pipeline: RoutingPipeline, question: Question, hooks: AskHooks, read: ReadQuestion
) -> bool:
    """Whether the model may answer although nothing is found for a name. Not about sides, where a
    closer look was at it: what that does not show has none.
    """
    is_side = read.request is not None and read.request.kind is MeasureKind.DIRECTION
    if is_side and TAUGHT.issubset(pipeline.abilities.kinds):
        return False
    return not model_denies(pipeline, question, hooks, read)


def _read(question: Question, kinds: tuple[str, ...]) -> ReadQuestion | None:
    """What the grammar reads; None where it reads nothing, or an open model has to understand it.

    Raises InvalidRequestError, QuestionTooLongError.
    """
    from ada3d_ros.asking.grammar import read_question  # with the first question

    text = check_question(question.text, MAX_PROMPT_CHARS)
    try:
        return read_question(text)
    except InvalidRequestError:
        if kinds:
            raise
        return None


def _can_measure(pipeline: RoutingPipeline, question: Question) -> bool:
    in_scene = question.scope is Scope.SCENE
    return pipeline.config.question.measure and in_scene and pipeline.abilities.finds


def _require_known(pipeline: RoutingPipeline, read: ReadQuestion) -> frozenset[str]:
    """The words of the names that the model was taught, () where it may be asked for anything.
    Raises NotGroundedError where the question names something else.
    """
    from ada3d_ros.asking.resolve import require_known

    request = read.request
    names = [thing.phrase for thing in read.things]
    if request is not None and request.kind is not MeasureKind.DIRECTION:
        names.append(request.category)
    words = frozenset[str]() if pipeline.inventory is None else pipeline.inventory.taught_words
    for name in names:
        require_known(name, words)
    return words


def _unknown(
    text: str, kinds: tuple[str, ...], can_measure: bool, detects: bool
) -> UnknownKindError:
    """With what can be asked instead."""
    return UnknownKindError(
        f"{text!r} is of no kind that is answered here. What can be asked, in words of your own: "
        + examples_of(kinds, can_measure, detects)
    )


def examples_of(kinds: tuple[str, ...], can_measure: bool, detects: bool) -> str:
    """A question of each kind that the model was taught, that can be measured, or that a detector's
    objects answer.
    """
    answered = set(kinds)
    if can_measure:
        answered |= set(EXAMPLES) - {*_ONLY_MODELS, *_BY_OBJECTS}
    if detects:
        answered |= set(_BY_OBJECTS)
    return " / ".join(example for kind, example in EXAMPLES.items() if kind in answered)
