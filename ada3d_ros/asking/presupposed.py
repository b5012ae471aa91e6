"""What a question that a model answers takes to be there, looked for first: a model says something
of things that are not there, too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ada3d_ros.asking.taught import CAPTION_PROMPT, existence_question, place_text
from ada3d_ros.asking.words import fits
from ada3d_ros.errors import NotMeasurableError
from ada3d_ros.measures import MeasureKind, MeasureRequest, ObjectsSnapshot, Reference
from ada3d_ros.types import Answer, AskHooks, Question, Scope
from ada3d_ros.usage import StageTimings, added

if TYPE_CHECKING:
    from ada3d_ros.asking.grammar import ReadQuestion
    from ada3d_ros.asking.route import Abilities
    from ada3d_ros.engine.prefix_cache import PrefixCache
    from ada3d_ros.engine.query_context import QueryContext


# Mean probability of the tokens of a "no" that is sure: of the 10 names without a box, among 313 of
# things that are there, 5 are not surely denied; of 474 names of nothing 19.
DENIED = 0.99
# Kinds that a model must have been taught to tell names in a closer look.
# Mean probability of the tokens of a description from which what it names is there: of names that
# a list had and the model denied 15 of 23 that were there, none of 11 of nothing (0262).
DESCRIBED = 0.94
TAUGHT = frozenset(("category", "caption"))
# Kinds whose things must be there.
PRESUPPOSING = frozenset(("color", "category", "caption"))


class AskedPipeline(Protocol):
    """A model that can be asked."""

    @property
    def abilities(self) -> Abilities: ...

    def ask(self, question: Question, hooks: AskHooks) -> Answer: ...

    def objects(self) -> ObjectsSnapshot: ...


class LookingPipeline(Protocol):
    """What looks for things."""

    def measure(self, request: MeasureRequest, hooks: AskHooks, question: Question) -> Answer: ...

    def objects(self) -> ObjectsSnapshot: ...

    def open_query(
        self, question: Question, hooks: AskHooks
    ) -> tuple[QueryContext, PrefixCache]: ...


def model_denies(
    pipeline: AskedPipeline, question: Question, hooks: AskHooks, read: ReadQuestion
) -> bool:
    """Whether the model, too, is sure that something is not there which a question names and no box
    is found for. True for one that was not taught to tell.
    """
    if "existence" not in pipeline.abilities.kinds:
        return True
    for name in _unlisted(pipeline.objects(), read):
        text = existence_question(name)
        asked = replace(question, text=text, routed=False, max_new_tokens=0)
        answer = pipeline.ask(asked, AskHooks(check=hooks.check))
        if not answer.text.strip().lower().startswith("yes") and answer.confidence >= DENIED:
            return True
    return False


def _unlisted(objects: ObjectsSnapshot, read: ReadQuestion) -> list[str]:
    """The names that no listed object has."""
    names = [thing.phrase for thing in read.things if thing.phrase]
    return [n for n in names if not any(fits(n, thing.label) for thing in objects.present)]


def require_places(
    pipeline: LookingPipeline, question: Question, hooks: AskHooks, read: ReadQuestion
) -> None:
    """Raise InvalidRequestError for a place that lies outside of all that was seen, and
    NotGroundedError for one where nothing is, if the question is about what is there.
    """
    places = [np.array(thing.point_m) for thing in read.things if thing.point_m is not None]
    if not places or question.scope is not Scope.SCENE:
        return
    from ada3d_ros.geometry.measure import require_in_room, require_something_at

    query, _ = pipeline.open_query(question, hooks)
    for place in places:
        require_in_room(place, query.scene.frames)
        if read.kind in PRESUPPOSING:
            objects = pipeline.objects().present
            require_something_at(place, query.scene.frames, query.scene.floor.z_m, objects)


def require_found(
    pipeline: LookingPipeline, question: Question, hooks: AskHooks, read: ReadQuestion
) -> tuple[ReadQuestion, StageTimings]:
    """The question, of a description with the place of what it names; and what looking for the
    things took that it names.

    Raises NotGroundedError where one is not found, AmbiguousError where its name fits several.
    """
    took = StageTimings()
    if read.kind not in PRESUPPOSING:
        return read, took
    quietly = AskHooks(check=hooks.check)
    things = list(read.things)
    for i, thing in enumerate(read.things):
        if not thing.phrase:
            continue
        try:
            request = MeasureRequest(MeasureKind.WHERE, of=thing)
            found = pipeline.measure(request, quietly, question)
        except NotMeasurableError:  # where nothing can be looked for, the model is believed
            return read, took
        took = added(took, found.timings)
        if read.kind == "caption":
            x, y, z = found.boxes[0].center_m.tolist()
            things[i] = Reference(point_m=(x, y, z), label=thing.label)
    return replace(read, things=tuple(things)), took


def answer_from_list(
    pipeline: AskedPipeline, question: Question, hooks: AskHooks, name: str
) -> Answer | None:
    """The yes to whether there is such a thing, where the list of the scene as it is now holds one,
    and the model, asked what is at its place, is sure to describe one: with that place, in the form
    of a model's own yes. None where that does not tell, and of a model that was not taught to.
    """
    objects = pipeline.objects()
    listed = [thing for thing in objects.present if fits(name, thing.label)]
    if not name or not listed or not objects.complete:
        return None
    if "caption" not in pipeline.abilities.kinds:
        return None
    box = max(listed, key=lambda thing: thing.box.score).box
    text = CAPTION_PROMPT.format(place=place_text(box.center_m.tolist()))
    asked = replace(question, text=text, routed=False, max_new_tokens=0, want_boxes=False)
    said = pipeline.ask(asked, AskHooks(check=hooks.check, on_stage=hooks.on_stage))
    if not fits(name, said.text) or said.confidence < DESCRIBED:
        return None
    hooks.on_text("yes", said.tokens.generated)
    return replace(said, question=question.text, text="yes", places=(box,))
