"""A measured answer: what the request names is found in the scene, geometry gives the rest.

What can be measured in is opened by the pipeline: a scene that a grounding head looks through
(asking/measured_by_model.py), or the objects of a detector (asking/measured_by_detector.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from ada3d_ros.asking.frames import LAST_SEEN
from ada3d_ros.asking.last_seen import last_seen
from ada3d_ros.asking.object_source import SceneQuery
from ada3d_ros.asking.resolve import NameResolver
from ada3d_ros.asking.sentence import put_in_words
from ada3d_ros.errors import StoreError, UnknownSceneError
from ada3d_ros.geometry.measure import MeasuredScene, measure
from ada3d_ros.measures import Measurement, MeasureRequest, ObjectsSnapshot, SceneObject
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.types import NAN, Answer, AskHooks, Question, Stage


class OpenedScene(Protocol):
    """A scene as one request is answered from it."""

    @property
    def query(self) -> SceneQuery: ...

    @property
    def scene(self) -> SceneSnapshot:
        """That is measured in; it may be a little older than the query's."""
        ...

    def resolver(self, objects: ObjectsSnapshot) -> NameResolver:
        """Who finds names, among these objects and beyond."""
        ...

    def objects(self) -> ObjectsSnapshot:
        """The objects that it is answered from. Raises as ObjectSource.objects_for."""
        ...

    def answer(self, result: Measurement) -> Answer:
        """The measurement with what is known of its scene, and what it took."""
        ...


class MeasuringPipeline(Protocol):
    """What opens its scene for a request. object_history: objects that the scene ever kept;
    raises StoreError, UnknownSceneError.
    """

    @property
    def object_history(self) -> Callable[[], Sequence[SceneObject]]: ...

    def open_scene(self, question: Question, hooks: AskHooks) -> OpenedScene: ...


def measure_request(
    pipeline: MeasuringPipeline, request: MeasureRequest, hooks: AskHooks, question: Question
) -> Answer:
    """The answer to a request, method MEASURED; see Ada3DPipeline.measure. question: as asked."""
    # 1. The scene. A keep ratio is of answers that a model gives: all of it is looked through.
    opening = replace(question, text=question.text or request.kind.name, keep_ratio=NAN)
    opened = pipeline.open_scene(opening, hooks)
    clock = opened.query.clock

    # 2. Its objects, and what the request names.
    hooks.check()
    hooks.on_stage(Stage.PREFILL)
    begun = clock.now()
    objects = opened.objects()
    clock.record("scene_s", clock.now() - begun)
    if request.attribute == LAST_SEEN:  # whatever is in view now
        try:
            history, unread = pipeline.object_history(), ""
        except (StoreError, UnknownSceneError) as error:  # what is kept now may know it
            history, unread = (), str(error)
        newest_ns = opened.scene.state.newest_ns
        result = last_seen(request, objects.objects, history, newest_ns, unread)
        hooks.on_text(result.sentence, 0)
        return replace(opened.answer(result), question=question.text)
    resolver = opened.resolver(objects)
    things = resolver.resolve(request)

    # 3. Geometry.
    hooks.check()
    hooks.on_stage(Stage.POSTPROCESS)
    with clock.stage("postprocess_s"):
        scene = opened.scene
        measured = MeasuredScene(scene.frames, scene.floor.z_m, resolver.robot())
        result = put_in_words(request, measure(request, things, measured))
    result = resolver.qualified(request, result)
    hooks.on_text(result.sentence, 0)
    return replace(opened.answer(result), question=question.text)
