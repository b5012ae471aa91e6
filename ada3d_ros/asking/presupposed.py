"""What a question that a model answers takes to be there, looked for first: a model says something
of things that are not there, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ada3d_ros.asking.words import fits
from ada3d_ros.errors import NotMeasurableError
from ada3d_ros.geometry.boxes import iou_axis_aligned
from ada3d_ros.measures import MeasureKind, MeasureRequest, ObjectsSnapshot, SceneObject
from ada3d_ros.types import Answer, AskHooks, Box3D, Question, Scope
from ada3d_ros.usage import StageTimings, added

if TYPE_CHECKING:
    from ada3d_ros.asking.grammar import ReadQuestion
    from ada3d_ros.asking.route import Abilities
    from ada3d_ros.engine.prefix_cache import PrefixCache
    from ada3d_ros.engine.query_context import QueryContext


# Mean probability of the tokens of a "no" that is sure: of the 10 names without a box, among 313 of
# things that are there, 5 are not surely denied; of 474 names of nothing 19.
DENIED = 0.99
# What of the pointer's weight the peak must hold of a thing that has no box and that is surely
# denied, for the model's answer about it to be believed; and the IoU from which on what it points
# at is a listed object, which has another name then (decision 0154).
DENIED_SHARE = 0.7
SAME_THING_IOU = 0.2
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
    return any(denied for _, denied in _doubted(pipeline, question, hooks, read))


def pointed_answer(
    pipeline: AskedPipeline, question: Question, hooks: AskHooks, read: ReadQuestion
) -> Answer | None:
    """What the model says of a side as seen from one thing towards another (MeasureKind.DIRECTION),
    where a thing that is named has no box: if it points at each as at something that is there.
    None where it does not, or where it denies that the thing is there and does not point, or was
    not taught to tell.
    """
    request = read.request
    if request is None or "existence" not in pipeline.abilities.kinds:
        return None
    asked = replace(question, routed=False, want_boxes=True)  # places as depth bounds them
    answer = pipeline.ask(asked, AskHooks(check=hooks.check, on_stage=hooks.on_stage))
    chain = (request.to, request.third, request.of)  # in the order in which they are pointed at
    places = {
        thing.phrase: place
        for thing, place in zip(chain, answer.places, strict=False)
        if thing is not None
    }
    objects = pipeline.objects().present
    for name, denied in _doubted(pipeline, question, hooks, read):
        if not _is_seen(places.get(name), denied, objects):
            return None
    hooks.on_text(answer.text, answer.tokens.generated)
    return answer


def _is_seen(place: Box3D | None, denied: bool, objects: Sequence[SceneObject]) -> bool:
    """Whether a model that points at this place, None for nowhere, points at what is there."""
    if place is None:
        return not denied
    if any(iou_axis_aligned(place, thing.box) >= SAME_THING_IOU for thing in objects):
        return False
    return not denied or place.score >= DENIED_SHARE


def _doubted(
    pipeline: AskedPipeline, question: Question, hooks: AskHooks, read: ReadQuestion
) -> Iterator[tuple[str, bool]]:
    """The names that no listed object has, and whether the model surely denies that such a thing is
    there.
    """
    known = [thing.label for thing in pipeline.objects().present]
    for name in (thing.phrase for thing in read.things if thing.phrase):
        if any(fits(name, label) for label in known):
            continue
        asked = replace(question, text=f"Is there a {name}?", routed=False, max_new_tokens=0)
        answer = pipeline.ask(asked, AskHooks(check=hooks.check))
        says_yes = answer.text.strip().lower().startswith("yes")
        yield name, not says_yes and answer.confidence >= DENIED


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
) -> StageTimings:
    """What looking for the things took that the question names.

    Raises NotGroundedError where one is not found, AmbiguousError where its name fits several.
    """
    took = StageTimings()
    if read.kind not in PRESUPPOSING:
        return took
    quietly = AskHooks(check=hooks.check)
    for thing in read.things:
        if not thing.phrase:
            continue
        try:
            request = MeasureRequest(MeasureKind.WHERE, of=thing)
            took = added(took, pipeline.measure(request, quietly, question).timings)
        except NotMeasurableError:  # where nothing can be looked for, the model is believed
            return took
    return took
