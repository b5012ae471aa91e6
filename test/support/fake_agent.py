"""An agent without a model, in a process of its own: `python -m test.support.fake_agent`.

It publishes a small room, and answers what a test of the page needs to see: words that stream, a
box, a refusal, a text that looks like HTML, an answer that takes long. Parameters as the node's.
It keeps standing questions and two saved scenes, as far as a page sees them.
"""

from __future__ import annotations

import contextlib
import io
import math
import sys
import time
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import Point, Point32, Pose, PoseStamped, Quaternion, Vector3
from PIL import Image
from rcl_interfaces.msg import SetParametersResult
from rclpy.action import ActionServer, CancelResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from ada3d_ros.action import AskScene
from ada3d_ros.errors import ErrorCode
from ada3d_ros.msg import (
    AgentStatus,
    Answer,
    GroundedBox,
    Keyframe,
    KeyframeArray,
    SavedScene,
    SceneEvent,
    StandingQuestion,
)
from ada3d_ros.ros.conversions import empty_answer_msg
from ada3d_ros.srv import GroundObject, ListScenes, LoadScene, QueryScene, SaveScene, Unwatch, Watch

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TOTAL, KEPT_RATIO = 536, 0.2
SLOW, REFUSED, HTML = "Tell me everything.", "Who painted it?", "Show me HTML."
HTML_TEXT = '<img src="/x.png" onerror="document.title=1"><b>bold</b>'
REFUSAL = "No kind of question that is answered: ask for things, places and lengths."
RESET, IN_KITCHEN = "Begin anew.", "the oven"  # a new scene; found in a room of that name
NEWS, NEWS_TEXT = "Tell me news.", "<b>the lamp</b> moved by 1.20 m."  # of what is watched
NO_STORE, NO_STORE_TEXT = "Lose your store.", "this node has no store: set scene.store."
STEP_S = 0.02


def words_of(question: str) -> str:
    """What is answered."""
    return HTML_TEXT if question == HTML else f"You asked: {question} It is the red chair."


class FakeAgent(Node):
    def __init__(self) -> None:
        super().__init__("ada3d_agent")
        self._count, self._epoch = 0, 1
        self.declare_parameter("pruning.strategy", "adatoken3d")
        self.declare_parameter("pruning.keep_ratio", KEPT_RATIO)
        self.add_on_set_parameters_callback(self._check)
        self._statuses = self.create_publisher(AgentStatus, "~/status", LATCHED)
        self._clouds = self.create_publisher(PointCloud2, "~/cloud", LATCHED)
        self._keyframes = self.create_publisher(KeyframeArray, "~/keyframes", LATCHED)
        self._poses = self.create_publisher(PoseStamped, "~/camera_pose", 1)
        self._answers = self.create_publisher(Answer, "~/answer", 10)
        group = ReentrantCallbackGroup()
        self.create_service(QueryScene, "~/query", self._on_query, callback_group=group)
        self.create_service(GroundObject, "~/ground", self._on_ground, callback_group=group)
        self._action = ActionServer(
            self,
            AskScene,
            "~/ask_scene",
            self._on_goal,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
            callback_group=group,
        )
        self._watches: dict[str, StandingQuestion] = {}
        self._events = self.create_publisher(SceneEvent, "~/events", 20)
        self._scene, self._store = "", {"hall": 12, "kitchen": 20}  # name -> keyframes
        for type_, name, work in (
            (Watch, "watch", self._on_watch),
            (Unwatch, "unwatch", self._on_unwatch),
            (ListScenes, "list_scenes", self._on_list),
            (SaveScene, "save_scene", self._on_save),
            (LoadScene, "load_scene", self._on_load),
        ):
            self.create_service(type_, f"~/{name}", work, callback_group=group)
        self.create_timer(0.5, self._publish_status)
        self.header = Header(frame_id="map")
        self._clouds.publish(make_cloud(self.header))
        self._keyframes.publish(
            KeyframeArray(header=self.header, scene_epoch=1, keyframes=make_keyframes())
        )
        self._publish_status()

    def _check(self, parameters: list[Any]) -> SetParametersResult:
        if any(each.value == "random" for each in parameters):
            return SetParametersResult(successful=False, reason="random is refused here.")
        return SetParametersResult(successful=True)

    def _publish_status(self) -> None:
        self._statuses.publish(
            AgentStatus(
                header=Header(stamp=self.get_clock().now().to_msg(), frame_id="map"),
                state=AgentStatus.READY,
                keyframes=4,
                scene_epoch=self._epoch,
                scene=self._scene,
                watches=list(self._watches.values()),
            )
        )
        self._poses.publish(PoseStamped(header=self.header, pose=pose_at(0.6, 0.2, 100.0)))

    def _answer(self, question: str, ratio: float, boxes: list[GroundedBox]) -> Answer:
        """With a number of its own; what is not known is told as the node tells it."""
        self._count += 1
        answer = empty_answer_msg(question, self._count, "map", "fake@1")
        kept = TOTAL if ratio == 1.0 else round(TOTAL * (ratio or KEPT_RATIO))
        answer.tokens.spatial_total, answer.tokens.spatial_kept = TOTAL, kept
        answer.tokens.strategy = self.get_parameter("pruning.strategy").value
        self._epoch += question == RESET
        answer.scene_epoch, answer.boxes, answer.success = self._epoch, boxes, True
        answer.scene = "kitchen" if question == IN_KITCHEN else self._scene
        if question == NEWS:
            self._events.publish(SceneEvent(watch_id="w1", sentence=NEWS_TEXT))
        if question == NO_STORE:
            self._store = None
        rng = np.random.default_rng(kept)
        answer.kept_positions = [
            Point32(x=float(x), y=float(y), z=float(z))
            for x, y, z in rng.uniform((-2, -1.5, 0), (2, 1.5, 1.0), (kept, 3))
        ]
        latency = answer.latency
        latency.wait_ms, latency.rank_ms, latency.prefill_ms = 0.01, 1.5, kept / 50
        latency.decode_ms, latency.total_ms = 4.0, 5.0 + kept / 50
        if question == REFUSED:
            answer.success, answer.error_code = False, int(ErrorCode.UNKNOWN_KIND)
            answer.error_msg = REFUSAL
        else:
            answer.text = words_of(question)
        return answer

    def _on_query(self, request: Any, response: Any) -> Any:
        response.answer = self._answer(request.question, request.keep_ratio, [])
        self._answers.publish(response.answer)
        return response

    def _on_ground(self, request: Any, response: Any) -> Any:
        response.answer = self._answer(request.phrase, request.keep_ratio, [make_box(request)])
        response.success = response.answer.success
        self._answers.publish(response.answer)
        return response

    def _on_watch(self, request: Any, response: Any) -> Any:
        if request.question == REFUSED:
            response.error_code, response.error_msg = int(ErrorCode.UNKNOWN_KIND), REFUSAL
            return response
        response.success, response.watch_id = True, f"w{len(self._watches) + 1}"
        self._watches[response.watch_id] = StandingQuestion(
            watch_id=response.watch_id,
            kind=request.kind,
            question=request.question,
            last_text=words_of(request.question),
            last_changed=self.get_clock().now().to_msg(),
        )
        self._publish_status()
        return response

    def _on_unwatch(self, request: Any, response: Any) -> Any:
        del self._watches[request.watch_id]
        response.success, response.ended = True, 1
        self._publish_status()
        return response

    def _on_list(self, request: Any, response: Any) -> Any:
        if self._store is None:
            response.error_msg = NO_STORE_TEXT
            return response
        response.success, response.scene_in_use = True, self._scene
        response.scenes = [
            SavedScene(name=name, keyframes=count, objects=5, bytes=2_800_000)
            for name, count in sorted(self._store.items())
        ]
        response.scenes[0].newest.sec = 1_750_000_000  # June 2025
        return response

    def _on_save(self, request: Any, response: Any) -> Any:
        if request.scene in self._store:
            response.error_msg = f"the store has a scene {request.scene!r} already."
            return response
        self._scene = request.scene
        self._store[request.scene] = response.keyframes = 4
        response.success, response.scene = True, request.scene
        self._publish_status()
        return response

    def _on_load(self, request: Any, response: Any) -> Any:
        self._scene, self._epoch = request.scene, self._epoch + 1
        response.success, response.keyframes = True, self._store[request.scene]
        self._publish_status()
        return response

    def _on_goal(self, handle: Any) -> Any:
        asked = handle.request
        answer = self._answer(asked.question, asked.keep_ratio, [])
        words = answer.text.split(" ") * (100 if asked.question == SLOW else 1)
        for number, word in enumerate(words):
            if handle.is_cancel_requested:
                answer.success, answer.error_code = False, int(ErrorCode.CANCELED)
                answer.text, answer.error_msg = " ".join(words[:number]), "canceled"
                handle.canceled()
                break
            delta = word if number == 0 else f" {word}"
            handle.publish_feedback(
                AskScene.Feedback(request_id=answer.request_id, delta=delta, stage=3)
            )
            time.sleep(STEP_S)
        else:
            handle.succeed() if answer.success else handle.abort()
        self._answers.publish(answer)
        return AskScene.Result(
            success=answer.success,
            error_code=answer.error_code,
            error_msg=answer.error_msg,
            answer=answer,
        )


def make_box(request: Any) -> GroundedBox:
    return GroundedBox(
        label=request.phrase,
        score=0.9,
        center=Pose(position=Point(x=1.0, y=0.5, z=0.45), orientation=Quaternion(w=1.0)),
        size=Vector3(x=0.6, y=0.6, z=0.9),
    )


def make_cloud(header: Header) -> PointCloud2:
    """A room of 4 by 3 by 2.5 m with floor, walls, ceiling and a red block, 8 cm apart."""
    x, y = np.meshgrid(np.arange(-2, 2, 0.08), np.arange(-1.5, 1.5, 0.08))
    floor = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], 1)
    along, up = np.meshgrid(np.arange(-2, 2, 0.08), np.arange(0, 2.5, 0.08))
    wall = np.stack([along.ravel(), 0 * along.ravel() + 1.5, up.ravel()], 1)
    side = np.stack([0 * along.ravel() - 2, along.ravel() * 0.75, up.ravel()], 1)
    block = np.random.default_rng(0).uniform((0.7, 0.2, 0), (1.3, 0.8, 0.9), (600, 3))
    parts = [
        (floor, (150, 120, 90)),
        (floor + np.array([0, 0, 2.5]), (240, 240, 240)),
        (wall, (200, 205, 215)),
        (wall * (1, -1, 1), (200, 205, 215)),
        (side, (190, 198, 210)),
        (side * (-1, 1, 1), (190, 198, 210)),
        (block, (200, 40, 40)),
    ]
    layout = np.dtype([("xyz", "<f4", 3), ("rgb", "<u4")])
    points = np.zeros(sum(len(part) for part, _ in parts), layout)
    points["xyz"] = np.concatenate([part for part, _ in parts])
    points["rgb"] = np.concatenate(
        [np.full(len(part), r << 16 | g << 8 | b) for part, (r, g, b) in parts]
    )
    names = [("x", 0, 7), ("y", 4, 7), ("z", 8, 7), ("rgb", 12, 7)]
    return PointCloud2(
        header=header,
        height=1,
        width=len(points),
        fields=[PointField(name=n, offset=o, datatype=d, count=1) for n, o, d in names],
        point_step=16,
        row_step=16 * len(points),
        data=points.tobytes(),
        is_dense=True,
    )


def pose_at(x: float, y: float, turn_deg: float) -> Pose:
    """A camera at 1.3 m that looks along a direction of the floor, a little down."""
    turned = Rotation.from_euler("z", turn_deg, degrees=True) * Rotation.from_euler(
        "x", -100, degrees=True
    )
    qx, qy, qz, qw = turned.as_quat()
    return Pose(position=Point(x=x, y=y, z=1.3), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))


def make_keyframes() -> list[Keyframe]:
    """Four cameras at the corners, with pictures of one colour each."""
    made = []
    for number in range(4):
        angle = math.tau * (number + 0.5) / 4
        data = io.BytesIO()
        Image.new("RGB", (160, 120), (40 + 50 * number, 90, 160)).save(data, "JPEG")
        x, y = 1.4 * math.cos(angle), 1.1 * math.sin(angle)
        made.append(
            Keyframe(
                id=number,
                pose=pose_at(x, y, math.degrees(angle) + 90),
                width=160,
                height=120,
                intrinsics=[140.0, 140.0, 79.5, 59.5],
                jpeg=data.getvalue(),
            )
        )
    return made


def main() -> int:
    rclpy.init()
    executor = MultiThreadedExecutor(num_threads=4)
    executor.add_node(FakeAgent())
    with contextlib.suppress(KeyboardInterrupt):
        executor.spin()
    return 0


if __name__ == "__main__":
    sys.exit(main())
