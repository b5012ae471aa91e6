"""A scene opened for measuring among the objects of a detector; no language model has a part."""

from __future__ import annotations

from dataclasses import dataclass

from ada3d_ros.asking.kinds import kind_names
from ada3d_ros.asking.object_source import ObjectSource, SceneQuery
from ada3d_ros.asking.phrase_finder import PhraseFinder
from ada3d_ros.asking.resolve_detected import DetectedResolver
from ada3d_ros.measures import Measurement, ObjectsSnapshot
from ada3d_ros.perception.detector import Detector
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.types import Answer, AnswerMethod, Box3D, StopReason
from ada3d_ros.usage import TokenUsage


@dataclass(frozen=True, eq=False, slots=True)
class DetectedScene:
    """An OpenedScene. detector: that makes the inventory's list of objects."""

    query: SceneQuery
    inventory: ObjectSource[SceneQuery]
    detector: Detector

    @property
    def scene(self) -> SceneSnapshot:
        return self.query.scene

    def camera_m(self) -> list[float]:
        """Where the camera was at the newest keyframe, in the world frame."""
        place: list[float] = self.query.scene.keyframes[-1].frame.T_world_cam[:3, 3].tolist()
        return place

    def objects(self) -> ObjectsSnapshot:
        return self.inventory.objects_for(self.query)

    def resolver(self, objects: ObjectsSnapshot) -> DetectedResolver:
        """Names are found among the detector's kinds, others by it where it takes phrases."""
        info = self.detector.info
        finder = PhraseFinder(self.detector, self.query) if info.takes_phrases else None
        seen = tuple(sorted({thing.label for thing in objects.objects}))
        return DetectedResolver(self.query, objects, finder, kinds=kind_names(info.kinds, seen))

    def answer(self, result: Measurement) -> Answer:
        return detected_answer(self.query, result.sentence, result.boxes, result)


def detected_answer(
    query: SceneQuery,
    text: str,
    boxes: tuple[Box3D, ...],
    measurement: Measurement | None = None,
) -> Answer:
    """An answer that rests on a detector's objects: it costs no token, and has no cached scene."""
    scene, timings = query.scene, query.clock.timings()
    return Answer(
        question=query.question.text,
        text=text,
        boxes=boxes,
        stamp_ns=scene.state.newest_ns,
        frame_id=scene.frames[-1].frame_id,
        keyframe_stamps_ns=tuple(frame.stamp_ns for frame in scene.frames),
        stop_reason=StopReason.EOS,
        tokens=TokenUsage(),
        timings=timings,
        scene_epoch=scene.state.epoch,
        scene_version=scene.state.version,
        deadline_kept=timings.total_s <= query.question.deadline_s,
        method=AnswerMethod.MEASURED,
        measurement=measurement,
    )
