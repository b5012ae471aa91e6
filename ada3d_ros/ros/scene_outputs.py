"""What the scene looks like, for whoever listens: ~/keyframes, ~/keyframe_markers, ~/cloud,
~/annotated/compressed and ~/camera_pose; and ~/goal, where to stand to face what was found.

Nothing is fused, drawn or encoded for a topic without a subscriber. What is made, is made on a
thread of its own, which starts with the first subscriber; the executor only counts subscribers,
when the scene has changed and once a second, and passes poses on.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import CompressedImage, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from ada3d_ros.errors import NotGroundedError
from ada3d_ros.geometry.colour_cloud import CloudFuser
from ada3d_ros.measures import SceneObject
from ada3d_ros.msg import Answer, KeyframeArray
from ada3d_ros.ros.conversions import ns_to_time
from ada3d_ros.ros.guard import guarded
from ada3d_ros.ros.outputs import LATCHED, create_publisher
from ada3d_ros.ros.scene_messages import (
    ShownScene,
    cloud_to_msg,
    drawn_answer,
    drawn_object,
    goal_for,
    keyframes_to_markers,
    keyframes_to_msg,
    picture_to_msg,
    pose_to_msg,
    scene_header,
    thumbnail,
)
from ada3d_ros.sources.messages import PosedSet
from ada3d_ros.types import RgbdFrame
from ada3d_ros.worker import LatestWorker

if TYPE_CHECKING:
    from ada3d_ros.ros.node import AgentNode

KEYFRAMES, MARKERS, CLOUD, POSE = "~/keyframes", "~/keyframe_markers", "~/cloud", "~/camera_pose"
PICTURE, GOAL = "~/annotated/compressed", "~/goal"


class _View(NamedTuple):
    """How a topic shows a scene.

    key: of the message that shows it; where it is the key of the last one, or None, nothing is
    news.
    make: the message, on the worker's thread. period_s: between two messages at least.
    """

    key: Callable[[ShownScene], Hashable]
    make: Callable[[ShownScene], Any]
    period_s: Callable[[], float] = lambda: 0.0


class SceneOutputs:
    """Publishes the scene where somebody listens."""

    def __init__(self, node: AgentNode) -> None:
        self._node = node
        self._views = {
            KEYFRAMES: _View(self._keyframes_key, self._make_keyframes),
            MARKERS: _View(self._markers_key, self._make_markers),
            CLOUD: _View(
                self._cloud_key, self._make_cloud, lambda: node.config.cloud.min_period_sec
            ),
            PICTURE: _View(
                self._picture_key, self._make_picture, lambda: node.config.pictures.min_period_sec
            ),
        }
        self._publishers = {
            KEYFRAMES: create_publisher(node, KeyframeArray, KEYFRAMES, LATCHED),
            MARKERS: create_publisher(node, MarkerArray, MARKERS, LATCHED),
            CLOUD: create_publisher(node, PointCloud2, CLOUD, LATCHED),
            PICTURE: create_publisher(node, CompressedImage, PICTURE, 1),
            POSE: create_publisher(node, PoseStamped, POSE, 10),
            GOAL: create_publisher(node, PoseStamped, GOAL, 10),
        }
        self.wanted: frozenset[str] = frozenset()  # topics that somebody listens to
        self._lock = threading.Lock()  # what is published, and what of it is still so
        self._shown: dict[str, Hashable] = {}  # by topic, the key of what it shows
        self._sent: dict[str, float] = {}  # by topic, when; time.monotonic()
        self._pose_sent = -1.0
        self._viewers = 0  # of the picture
        self._answer = Answer()  # the last one that succeeded
        self._goal_of: Answer | None = None  # that no goal was looked for yet
        self.goal_text = ""  # what became of the last goal, for people
        self.worker: LatestWorker[bool] | None = None  # from the first listener on

        # of the worker's thread alone
        self.fuser: CloudFuser | None = None
        self._thumbnails: dict[int, tuple[RgbdFrame, int, bytes]] = {}  # by index: with quality
        self.made: Counter[str] = Counter()  # frames fused, pictures encoded: tests count them

    def report_error(self, where: str, error: BaseException, trace: str) -> None:
        self._node.report_error(where, error, trace)

    def close(self, join_s: float) -> None:
        if self.worker is not None:
            self.worker.stop(join_s)

    # -- what the node tells, on any of its threads

    @guarded()
    def update(self) -> None:
        """See who listens, and show them what is news. Call it when the scene has changed, and
        now and then.
        """
        counts = {name: self._listeners(name) for name in self._publishers}
        self.wanted = frozenset(name for name, count in counts.items() if count)
        if counts[PICTURE] > self._viewers:  # not latched: shown again to who comes
            self._shown.pop(PICTURE, None)
        self._viewers = counts[PICTURE]
        scene = self._scene()
        if (
            self._goal_of is not None
            or self._news(scene)
            or (self.fuser is not None and CLOUD not in self.wanted)
        ):
            self._wake()

    @guarded()
    def note_answer(self, answer: Answer) -> None:
        """Draw an answer's boxes, and look for a place to stand before the first of them."""
        if not answer.success:
            return
        self._answer = answer
        if answer.boxes and self._listeners(GOAL):
            self._goal_of = answer
        self.update()

    def report(self) -> dict[str, object]:
        """Who listens, and what became of the last goal, for diagnostics."""
        listened = " ".join(sorted(name.removeprefix("~/") for name in self.wanted))
        return {"outputs.listened_to": listened, "outputs.goal": self.goal_text}

    @guarded()
    def note_set(self, messages: PosedSet) -> None:
        """A set of messages has its pose: show where the camera is."""
        now = time.monotonic()
        period_s = 1.0 / self._node.config.camera_pose.max_rate_hz
        if POSE not in self.wanted or now - self._pose_sent < period_s:
            return
        self._pose_sent = now
        header = Header(stamp=ns_to_time(messages.stamp_ns), frame_id=self._node.config.world_frame)
        pose = PoseStamped(header=header, pose=pose_to_msg(messages.T_world_cam))
        self._publishers[POSE].publish(pose)

    @guarded()
    def clear(self) -> None:
        """The scene is gone: take back what latched topics show of it."""
        empty = Header(frame_id=self._node.config.world_frame)
        nothing = {
            KEYFRAMES: KeyframeArray(header=empty),
            MARKERS: MarkerArray(markers=[Marker(header=empty, action=Marker.DELETEALL)]),
            CLOUD: PointCloud2(header=empty, is_dense=True),
        }
        with self._lock:
            self._answer, self._goal_of, self.goal_text = Answer(), None, ""
            for name in self._shown.keys() & nothing.keys():
                self._publishers[name].publish(nothing[name])
            self._shown.clear()

    def _listeners(self, name: str) -> int:
        try:
            return int(self._publishers[name].get_subscription_count())
        except Exception:
            if self._node.context.ok():
                raise
            return 0  # the process ends: nobody can be counted any more

    # -- on the worker's thread

    def _wake(self) -> None:
        with self._lock:
            if self.worker is None:
                self.worker = LatestWorker(
                    "ada3d-outputs", lambda _: self._work(), lambda _: None, self._failed
                )
        self.worker.put(True)

    def _failed(self, error: BaseException) -> None:
        trace = "".join(traceback.format_exception(error))
        self.report_error("what the scene looks like", error, trace)

    def _work(self) -> None:
        """Make and publish what is news now."""
        pipeline, scene = self._node.pipeline, self._scene()
        if CLOUD not in self.wanted:
            self.fuser = None  # nobody looks: its memory goes
        self._show_goal(scene)
        for name in self._news(scene):
            key, message = self._views[name].key(scene), self._views[name].make(scene)
            # Of a scene that was reset meanwhile nothing is shown.
            with self._lock:
                epoch = self._scene().state.epoch
                if self._node.pipeline is not pipeline or epoch != scene.state.epoch:
                    return
                self._publishers[name].publish(message)
                self._shown[name], self._sent[name] = key, time.monotonic()

    def _show_goal(self, scene: ShownScene) -> None:
        """Where to stand for the answer that waits for it; why nowhere, in the log."""
        answer, self._goal_of = self._goal_of, None
        if answer is None:
            return
        box = answer.boxes[0]
        self.made["goals looked for"] += 1
        try:
            goal = goal_for(box, scene, self._node.config.goal, answer.header.frame_id)
        except NotGroundedError as error:
            self.goal_text = f"none for request {answer.request_id}: {error}"
            self._node.get_logger().warning(f"no ~/goal: {error}")
            return
        with self._lock:
            if answer is self._answer:  # else: reset, or answered anew, meanwhile
                self._publishers[GOAL].publish(goal)
                self.goal_text = f"before {box.label!r}, request {answer.request_id}"

    def _scene(self) -> ShownScene:
        pipeline = self._node.pipeline
        if pipeline is None:
            return ShownScene()
        scene = pipeline.scene
        return ShownScene(scene.keyframes, scene.state, scene.floor.z_m)

    def _news(self, scene: ShownScene) -> list[str]:
        """Topics that somebody listens to, that do not show the scene as it is, and may."""
        now = time.monotonic()
        return [
            name
            for name, view in self._views.items()
            if name in self.wanted
            and now - self._sent.get(name, -1e9) >= view.period_s()
            and view.key(scene) not in (None, self._shown.get(name))
        ]

    # -- the views

    def _keyframes_key(self, scene: ShownScene) -> Hashable:
        return scene.version, self._node.config.pictures.jpeg_quality

    def _make_keyframes(self, scene: ShownScene) -> KeyframeArray:
        # A picture for each that is new.
        quality = self._node.config.pictures.jpeg_quality
        pictures = {}
        for keyframe in scene.keyframes:
            index, frame = keyframe.index, keyframe.frame
            picture = self._thumbnails.get(index)
            if picture is None or picture[0] is not frame or picture[1] != quality:
                picture = frame, quality, thumbnail(frame.rgb, quality)
                self.made["thumbnails"] += 1
            pictures[index] = picture
        self._thumbnails = pictures
        jpegs = {index: jpeg for index, (_, _, jpeg) in pictures.items()}
        message = keyframes_to_msg(scene, jpegs, self._node.config.world_frame)
        message.scene = self._node.scenes.name
        return message

    def _markers_key(self, scene: ShownScene) -> Hashable:
        return scene.version, self._node.config.markers.frustum_m

    def _make_markers(self, scene: ShownScene) -> MarkerArray:
        config = self._node.config
        return keyframes_to_markers(scene, config.markers.frustum_m, config.world_frame)

    def _cloud_key(self, scene: ShownScene) -> Hashable:
        config = self._node.config.cloud
        return scene.version, config.voxel_m, config.stride_px

    def _make_cloud(self, scene: ShownScene) -> PointCloud2:
        config, fuser = self._node.config.cloud, self.fuser
        wanted = config.voxel_m, config.stride_px
        if fuser is None or (fuser.voxel_m, fuser.stride_px) != wanted:
            fuser = self.fuser = CloudFuser(*wanted)
        before = fuser.fused_frames
        cloud = fuser.update([keyframe.frame for keyframe in scene.keyframes])
        self.made["frames fused"] += fuser.fused_frames - before
        return cloud_to_msg(cloud, scene_header(scene, self._node.config.world_frame))

    def _objects(self) -> tuple[SceneObject, ...]:
        """Those that are there."""
        pipeline = self._node.pipeline
        objects = () if pipeline is None else pipeline.objects().objects
        return tuple(item for item in objects if not item.is_gone)

    def _picture_key(self, scene: ShownScene) -> Hashable:
        if not scene.keyframes:
            return None
        objects = tuple((each.id, each.label, *each.center_m.tolist()) for each in self._objects())
        quality = self._node.config.pictures.jpeg_quality
        return scene.version, self._answer.request_id, objects, quality

    def _make_picture(self, scene: ShownScene) -> CompressedImage:
        """The newest keyframe, the objects that are kept, and the last answer's boxes over them."""
        boxes = [drawn_object(item) for item in self._objects()]
        boxes += [drawn_answer(box) for box in self._answer.boxes]
        self.made["pictures"] += 1
        quality = self._node.config.pictures.jpeg_quality
        return picture_to_msg(scene.keyframes[-1].frame, boxes, quality)
