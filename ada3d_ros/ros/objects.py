"""The objects kept with the scene, on ~/objects, ~/object_markers and ~/detections, and asked for
on ~/get_objects.

All topics are latched and sent when the list changes, not while a scene is being looked through.
None of it waits for the model.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rclpy.callback_groups import ReentrantCallbackGroup
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from ada3d_ros.asking.kinds import KindNames
from ada3d_ros.asking.words import fits
from ada3d_ros.errors import Ada3DError, InvalidRequestError
from ada3d_ros.measures import ObjectsSnapshot, SceneObject
from ada3d_ros.msg import SceneObject as SceneObjectMsg
from ada3d_ros.msg import SceneObjectArray
from ada3d_ros.ros.conversions import (
    box_to_msg,
    checked_radius_m,
    error_of,
    ns_to_time,
    time_to_ns,
)
from ada3d_ros.ros.guard import guarded
from ada3d_ros.ros.markers import objects_to_markers
from ada3d_ros.ros.outputs import LATCHED, create_publisher
from ada3d_ros.ros.vision_messages import vision_type
from ada3d_ros.srv import GetObjects

if TYPE_CHECKING:
    from ada3d_ros.ros.node import AgentNode


class ObjectServer:
    """Publishes what the pipeline keeps, and answers ~/get_objects from it."""

    def __init__(self, node: AgentNode) -> None:
        self._node = node
        self._lock = threading.Lock()  # `update` is called on two threads
        self._seen: ObjectsSnapshot | None = None
        self._published = SceneObjectArray()
        self._objects = create_publisher(node, SceneObjectArray, "~/objects", LATCHED)
        self._markers = create_publisher(node, MarkerArray, "~/object_markers", LATCHED)
        self._detections = None
        detections, self._vision_msgs = vision_type("Detection3DArray")
        if detections is not None:
            self._detections = create_publisher(node, detections, "~/detections", LATCHED)
        else:
            node.get_logger().info(f"no ~/detections: {self._vision_msgs}.")
        node.create_service(
            GetObjects,
            "~/get_objects",
            self._on_get_objects,
            callback_group=ReentrantCallbackGroup(),
        )

    def report_error(self, where: str, error: BaseException, trace: str) -> None:
        self._node.report_error(where, error, trace)

    def update(self) -> None:
        """Publish the list where it has changed. Call it after every background step and reset."""
        # Read under the lock, so that what is published last is the newest.
        with self._lock:
            snapshot = self._snapshot()
            if snapshot is self._seen:
                return
            self._seen = snapshot
            message = objects_to_msg(snapshot, snapshot.objects)
            if is_due(message, self._published):
                self._published = message
                self._publish(message)

    def report(self) -> dict[str, object]:
        """What is kept, in numbers, for diagnostics."""
        snapshot = self._snapshot()
        return {
            "objects.kept": len(snapshot.objects),
            "objects.gone": sum(item.is_gone for item in snapshot.objects),
            "objects.version": snapshot.scene_version,
            "objects.complete": snapshot.complete,
            "objects.why_not": snapshot.why_not,
            "vision_msgs": self._vision_msgs,
        }

    def _snapshot(self) -> ObjectsSnapshot:
        pipeline = self._node.pipeline
        return ObjectsSnapshot() if pipeline is None else pipeline.objects()

    def _publish(self, message: SceneObjectArray) -> None:
        self._objects.publish(message)
        self._markers.publish(objects_to_markers(message))
        if self._detections is not None:
            self._detections.publish(objects_to_detections(message))

    def _failed(self, error: Exception, request: Any, response: Any) -> Any:
        response.error_code, response.error_msg = error_of(error)
        return response

    @guarded(_failed)
    def _on_get_objects(self, request: Any, response: Any) -> Any:
        try:
            snapshot = self._node.kept_objects()
            response.result = objects_to_msg(snapshot, select(snapshot.objects, request))
        except Ada3DError as error:
            return self._failed(error, request, response)
        response.success = True
        return response


def is_due(message: SceneObjectArray, published: SceneObjectArray) -> bool:
    """Whether a list is to be sent after the one that was: complete, of another scene; or with
    other objects, other boxes or others gone. That an object was seen again is no news alone.
    """
    is_same_scene = message.scene_version == published.scene_version
    is_same_scene &= message.scene_epoch == published.scene_epoch
    if message.complete and not (published.complete and is_same_scene):
        return True
    return _content(message) != _content(published)


def _content(message: SceneObjectArray) -> list[tuple[Any, ...]]:
    return [
        (item.id, item.label, item.gone, item.box.center, item.box.size) for item in message.objects
    ]


def select(objects: Iterable[SceneObject], request: Any) -> list[SceneObject]:
    """Those that a GetObjects request asks for. Raises InvalidRequestError for a radius outside its
    range or a place that is none.
    """
    # What is asked for.
    at = request.place
    place = (at.x, at.y, at.z)
    radius_m = checked_radius_m(request.radius_m) if request.near else math.inf
    if request.near and not all(map(math.isfinite, place)):
        raise InvalidRequestError(f"place = {place} is not finite: give x, y and z in metres.")
    since_ns = time_to_ns(request.seen_since)
    objects = tuple(objects)
    names = KindNames((), sorted({item.label for item in objects}))

    def is_asked_for(item: SceneObject) -> bool:
        return (
            (request.include_gone or not item.is_gone)
            and (fits(request.label, item.label) or names.surely_fits(request.label, item.label))
            and item.last_seen_ns >= since_ns
            and math.dist(item.center_m, place) <= radius_m
        )

    return [item for item in objects if is_asked_for(item)]


def objects_to_msg(snapshot: ObjectsSnapshot, objects: Iterable[SceneObject]) -> SceneObjectArray:
    """Some of a snapshot's objects, or all, with what is said of the whole list."""
    return SceneObjectArray(
        header=Header(stamp=ns_to_time(snapshot.stamp_ns), frame_id=snapshot.frame_id),
        scene_epoch=snapshot.scene_epoch,
        scene_version=snapshot.scene_version,
        complete=snapshot.complete,
        objects=[object_to_msg(item) for item in objects],
    )


def object_to_msg(item: SceneObject) -> SceneObjectMsg:
    return SceneObjectMsg(
        id=item.id,
        label=item.label,
        alternatives=list(item.alternatives),
        box=box_to_msg(item.box, item.id),
        first_seen=ns_to_time(item.first_seen_ns),
        last_seen=ns_to_time(item.last_seen_ns),
        gone=item.is_gone,
        gone_at=ns_to_time(item.gone_ns),
    )


def objects_to_detections(objects: SceneObjectArray) -> Any:
    """The objects that are there as a vision_msgs/Detection3DArray."""
    from vision_msgs.msg import Detection3D, Detection3DArray, ObjectHypothesisWithPose

    detections = []
    for item in objects.objects:
        if item.gone:
            continue
        detection = Detection3D(header=objects.header, id=item.id)
        detection.bbox.center, detection.bbox.size = item.box.center, item.box.size
        found = ObjectHypothesisWithPose()
        found.hypothesis.class_id, found.hypothesis.score = item.label, item.box.score
        found.pose.pose = item.box.center
        detection.results = [found]
        detections.append(detection)
    return Detection3DArray(header=objects.header, detections=detections)
