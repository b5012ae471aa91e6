"""The page's side of the ROS graph: a node of its own that listens to an agent, and asks it.

It reads no camera. What comes is handed to a listener as plain values; questions go by the action,
phrases by ~/ground. The agent may go and come back: topics and services find it again, and what
was open when it fell silent is told to be lost.
"""

from __future__ import annotations

import secrets
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.action import ActionClient
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidTopicNameException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from rclpy.validate_full_topic_name import validate_full_topic_name
from sensor_msgs.msg import PointCloud2

from ada3d_ros.action import AskScene
from ada3d_ros.errors import ConfigError, SourceError
from ada3d_ros.msg import AgentStatus, Answer, KeyframeArray, SceneEvent
from ada3d_ros.ros.discovery import find_agents, name_others
from ada3d_ros.ros.page_messages import (
    answer_for_page,
    cloud_bytes,
    event_for_page,
    kept_bytes,
    keyframes_for_page,
    no_status,
    pose_for_page,
    response_error,
    status_for_people,
    watches_for_page,
)
from ada3d_ros.ros.page_services import FIND_S, GONE, PageServices
from ada3d_ros.srv import GroundObject

TICK_S = 0.2
SILENT_S = 4.0  # without a ~/status, which comes once a second: the agent has gone
LOOK_S = 5.0  # between two looks at which other agents there are, while it is silent
FORGET_S = 600.0  # without a sign of life of a turn: no late answer is taken
POSE_S = 0.2  # between two poses for the page
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
STOPPED = "Stopped."


class Listener(Protocol):
    """What becomes of what the robot says. Called on the node's thread."""

    def status(self, status: dict[str, Any]) -> None: ...
    def cloud(self, points: bytes) -> None:
        """float32 (N, 3) metres, then uint8 (N, 3) sRGB."""

    def keyframes(self, keyframes: dict[str, Any], pictures: dict[str, bytes]) -> None: ...
    def pose(self, pose: dict[str, Any]) -> None: ...
    def settings(self, settings: dict[str, Any]) -> None: ...
    def watches(self, watches: list[dict[str, Any]]) -> None:
        """The standing questions, each time a status comes."""

    def event(self, event: dict[str, Any]) -> None:
        """News of one of them."""

    def text(self, turn: str, delta: str) -> None:
        """More text of an answer that is on its way."""

    def ended(self, turn: str, fields: dict[str, Any], kept: bytes) -> None:
        """What became of a turn, perhaps once more: an answer may come after it was lost."""

    def elsewhere(self, question: str, fields: dict[str, Any], kept: bytes) -> None:
        """Somebody else was answered."""


@dataclass(slots=True)
class _Open:
    """One turn that waits for its answer.

    send: gives the future of what was sent, None while the agent is not found; can_stop: the agent
    can be told to; last_sign_s: when it began or was told of last, s; request_id: 0 until it is
    known; told: the page knows that it has ended.
    """

    turn: str
    send: Callable[[], Any]
    can_stop: bool
    last_sign_s: float
    sent: bool = False
    handle: Any | None = None
    request_id: int = 0
    stopped: bool = False
    told: bool = False


class PageNode:
    """A node on an executor of its own; `ask`, `find`, `stop`, `services` from any thread.

    agent: its full name; raises ConfigError where it is none.
    """

    def __init__(
        self,
        agent: str,
        listener: Listener,
        ros_args: Sequence[str] = (),
        domain_id: int | None = None,
    ) -> None:
        self._agent, self._listener = f"/{agent.strip('/')}", listener
        try:
            validate_full_topic_name(f"{self._agent}/status")
        except InvalidTopicNameException:
            example = "/robot1/ada3d_agent"
            raise ConfigError(f"{agent!r} is no name of a node, as {example} is.") from None
        self._context = rclpy.Context()
        rclpy.init(
            args=list(ros_args),
            context=self._context,
            domain_id=domain_id,
            signal_handler_options=SignalHandlerOptions.NO,
        )
        name = f"ada3d_page_{secrets.token_hex(4)}"  # several pages are several nodes
        self._node = Node(name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._open: dict[str, _Open] = {}
        self._own: deque[int] = deque(maxlen=100)  # request ids of our answers
        self._parked: list[Any] = []  # answers that may be to one of ours
        self._status_at, self._was_there, self._is_silent = 0.0, False, True
        self._run = 0  # how often the agent came: a scene without a name is of one run
        self._ticked = self._looked_at = time.monotonic()
        self._pose_at = 0.0

        subscribe, name = self._node.create_subscription, f"{self._agent}/"
        self._scene: list[Any] = []  # subscriptions to what the 3D view shows
        subscribe(AgentStatus, f"{name}status", self._on_status, LATCHED)
        subscribe(PoseStamped, f"{name}camera_pose", self._on_pose, 1)
        subscribe(Answer, f"{name}answer", self._on_answer, 10)
        subscribe(SceneEvent, f"{name}events", self._on_event, 20)
        self._asking = ActionClient(self._node, AskScene, f"{name}ask_scene")
        self._grounding = self._node.create_client(GroundObject, f"{name}ground")
        self.services = PageServices(self._node, self._agent, self._later, listener.settings)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._node.create_timer(TICK_S, self._tick, clock=steady)
        self._executor.add_node(self._node)
        self._thread = Thread(target=self._spin, name="ada3d-page", daemon=True)
        listener.status(no_status(self._agent, was_there=False))

    def start(self) -> None:
        self._thread.start()

    def _spin(self) -> None:
        """Until it is closed: what goes wrong with one message is logged, and the next is taken."""
        while self._context.ok():
            try:
                self._executor.spin()
                return
            except ExternalShutdownException:
                return
            except Exception:
                self._node.get_logger().error(traceback.format_exc())

    def close(self) -> None:
        self._executor.shutdown(timeout_sec=1.0)
        self._thread.join(2.0)
        self._asking.destroy()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    # -- what the page wants; each runs between the node's own callbacks

    def watch(self, is_watched: bool) -> None:
        """Whether anybody looks: the agent makes clouds and pictures only while someone listens."""
        self._later(partial(self._watch, is_watched))

    def _watch(self, is_watched: bool) -> None:
        if is_watched and not self._scene:
            subscribe, name = self._node.create_subscription, f"{self._agent}/"
            self._scene = [
                subscribe(PointCloud2, f"{name}cloud", self._on_cloud, LATCHED),
                subscribe(KeyframeArray, f"{name}keyframes", self._on_keyframes, LATCHED),
            ]
        elif not is_watched:
            for subscription in self._scene:
                self._node.destroy_subscription(subscription)
            self._scene = []

    def ask(self, turn: str, question: str, keep_ratio: float) -> None:
        """keep_ratio 0: the node's."""
        goal = AskScene.Goal(question=question, keep_ratio=keep_ratio, want_boxes=True)

        def send() -> Any:
            if not self._asking.server_is_ready():
                return None
            future = self._asking.send_goal_async(goal, partial(self._on_feedback, turn))
            future.add_done_callback(partial(self._on_accepted, turn))
            return future

        self._later(partial(self._begin, turn, send, True))

    def find(self, turn: str, phrase: str, keep_ratio: float) -> None:
        """The boxes of a phrase."""
        request = GroundObject.Request(phrase=phrase, keep_ratio=keep_ratio)

        def send() -> Any:
            if not self._grounding.service_is_ready():
                return None
            future = self._grounding.call_async(request)
            future.add_done_callback(partial(self._on_result, turn))
            return future

        self._later(partial(self._begin, turn, send, False))

    def stop(self, turn: str) -> None:
        self._later(partial(self._stop, turn))

    def _later(self, work: Callable[[], None]) -> None:
        """In the order of calls, which the executor's own tasks do not keep."""
        self._work.put(work)
        self._executor.create_task(self._work_off)

    def _work_off(self) -> None:
        while not self._work.empty():
            self._work.get()()

    # -- turns

    def _begin(self, turn: str, send: Callable[[], Any], can_stop: bool) -> None:
        opened = self._open[turn] = _Open(turn, send, can_stop, time.monotonic())
        self._try_to_send(opened)

    def _try_to_send(self, opened: _Open) -> None:
        """Send it, wait for the agent to be found, or give it up."""
        gone = self._is_silent and self._was_there
        try:
            opened.sent = not gone and opened.send() is not None
        except Exception as error:  # it would be so at every try, and block those behind it
            self._end(opened, {"state": "failed", "error": f"It cannot be sent: {error}"})
            return
        if not opened.sent and (gone or time.monotonic() > opened.last_sign_s + FIND_S):
            self._lose(opened)
            del self._open[opened.turn]

    def _stop(self, turn: str) -> None:
        opened = self._open.get(turn)
        if opened is None:
            return
        opened.stopped = True
        if opened.handle is not None:
            opened.handle.cancel_goal_async()
        elif not opened.can_stop:  # the robot goes on; nobody waits for it any more
            opened.told = True
            self._listener.ended(turn, {"state": "stopped", "error": STOPPED}, b"")

    def _on_feedback(self, turn: str, message: Any) -> None:
        opened, feedback = self._open.get(turn), message.feedback
        if opened is None:
            return
        opened.last_sign_s = time.monotonic()
        opened.request_id = opened.request_id or int(feedback.request_id)
        if feedback.delta:
            self._listener.text(turn, feedback.delta)

    def _on_accepted(self, turn: str, future: Any) -> None:
        opened, handle = self._open.get(turn), future.result()
        if opened is None or handle is None:
            return
        if not handle.accepted:
            self._end(opened, {"state": "failed", "error": "The robot took no question now."})
            return
        opened.handle = handle
        handle.get_result_async().add_done_callback(partial(self._on_result, turn))
        if opened.stopped:
            handle.cancel_goal_async()

    def _on_result(self, turn: str, future: Any) -> None:
        """The response of ~/ground, or of an action's get_result."""
        opened, response = self._open.get(turn), future.result()
        if opened is None or response is None:
            return
        result = getattr(response, "result", response)
        answer = result.answer if hasattr(result, "answer") else response.answer
        opened.request_id = int(answer.request_id)
        fields = answer_for_page(answer)
        if not answer.success:  # also of the middleware's own empty result
            fields["error"] = fields["error"] or response_error(response) or GONE
        self._end(opened, fields, kept_bytes(answer))

    def _end(self, opened: _Open, fields: dict[str, Any], kept: bytes = b"") -> None:
        del self._open[opened.turn]
        self._own.append(opened.request_id)
        if not (opened.told and opened.stopped):
            self._listener.ended(opened.turn, {**fields, "run": self._run}, kept)
        self._tell_parked()

    def _lose(self, opened: _Open) -> None:
        if not opened.told:
            opened.told = True
            self._listener.ended(opened.turn, {"state": "lost", "error": GONE}, b"")

    # -- answers to others

    def _on_answer(self, answer: Any) -> None:
        known = {opened.request_id for opened in self._open.values()} | set(self._own)
        if answer.request_id in known:
            return
        self._parked.append(answer)
        self._tell_parked()

    def _tell_parked(self) -> None:
        """Those that are of none of ours, once each of ours is known by its number."""
        if any(opened.sent and not opened.request_id for opened in self._open.values()):
            return
        parked, self._parked = self._parked, []
        known = {opened.request_id for opened in self._open.values()} | set(self._own)
        for answer in parked:
            if answer.request_id not in known:
                fields = {**answer_for_page(answer), "run": self._run}
                self._listener.elsewhere(answer.question, fields, kept_bytes(answer))

    # -- topics

    def _on_status(self, status: Any) -> None:
        self._status_at = time.monotonic()
        came, self._is_silent, self._was_there = self._is_silent, False, True
        self._run += came
        self._listener.status({**status_for_people(status), "run": self._run})
        self._listener.watches(watches_for_page(status))
        if came:
            self.services.agent_came()

    def _on_cloud(self, message: Any) -> None:
        try:
            self._listener.cloud(cloud_bytes(message))
        except SourceError as error:
            self._node.get_logger().warning(f"{message.header.frame_id}: {error}")

    def _on_keyframes(self, message: Any) -> None:
        self._listener.keyframes(*keyframes_for_page(message))

    def _on_event(self, event: Any) -> None:
        self._listener.event(event_for_page(event))

    def _on_pose(self, message: Any) -> None:
        if time.monotonic() > self._pose_at + POSE_S:
            self._pose_at = time.monotonic()
            self._listener.pose(pose_for_page(message.pose))

    def _tick(self) -> None:
        """Whether the agent is still there; what waited for it is sent."""
        now = time.monotonic()
        if now > self._ticked + 1.0:  # this process itself stood still
            self._status_at += now - self._ticked
        self._ticked = now
        if self._was_there and not self._is_silent and now > self._status_at + SILENT_S:
            self._is_silent = True
            self._listener.status(no_status(self._agent, was_there=True))
            self.services.agent_went()
            self._own.clear()  # another agent counts from 1 again
            for opened in list(self._open.values()):
                self._lose(opened)
                opened.request_id = -1
        for opened in list(self._open.values()):
            if not opened.sent:
                self._try_to_send(opened)
            elif now > opened.last_sign_s + FORGET_S:  # it came back sooner than SILENT_S
                self._lose(opened)
                del self._open[opened.turn]
        self.services.tick()
        self._tell_parked()
        if self._is_silent and now > self._looked_at + LOOK_S:
            self._looked_at = now
            others = name_others(self._agent, find_agents(self._node))
            self._listener.status(no_status(self._agent, self._was_there, others))
