"""The running node as the demos use it: a bag played into it, settings, questions, objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_srvs.srv import Trigger

from ada3d_ros.lab.demo_questions import DemoQuestion
from ada3d_ros.msg import AgentStatus, SceneObjectArray
from ada3d_ros.ros.peer import AgentPeer, PeerError, start_verb
from ada3d_ros.srv import GroundObject, QueryScene

REPEATS = 3  # of each question
SLOWER = 1, 4, 16  # the replay is, until every view is kept
SETTLE_S = 3.0  # after the last message, until the status counts every keyframe
OBJECTS_S = 60.0  # until the list of objects must be complete


def collect(peer: AgentPeer, bag: Path, rate: float, views: int) -> int:
    """Play the bag into the node, slower where it kept fewer than so many views; returns the
    keyframes kept.
    """
    for slower in SLOWER:
        peer.wait_for_state({AgentStatus.WAITING_FOR_DATA}, 120.0)
        with start_verb("replay", str(bag), "--rate", str(rate / slower)) as player:
            if not peer.spin_until(lambda: player.poll() is not None, 300.0) or player.returncode:
                raise PeerError("the player did not finish.")
        peer.wait_for_state({AgentStatus.READY}, 10.0)
        if peer.spin_until(lambda: peer.statuses[-1].keyframes >= views, SETTLE_S):
            break
        if slower != SLOWER[-1]:
            kept = peer.statuses[-1].keyframes
            print(f"{kept} of {views} views were kept on this busy machine: again, slower")
            peer.call(Trigger, "reset_scene", Trigger.Request())
    return int(peer.statuses[-1].keyframes)


@contextmanager
def web_page(is_wanted: bool) -> Iterator[None]:
    """`ada3d web` beside the block, in a browser where there is one; after it until Ctrl-C.

    Raises PeerError where the page could not be served.
    """
    if not is_wanted:
        yield
        return
    with start_verb("web", "--open") as page:
        yield
        print("the node and its page stay until Ctrl-C", flush=True)
        with suppress(KeyboardInterrupt):
            if page.wait():
                raise PeerError(f"`ada3d web` ended with exit code {page.returncode}.")


class DemoNode:
    """The agent as the demos use it: settings, questions, objects."""

    def __init__(self, peer: AgentPeer) -> None:
        self._peer = peer
        self._objects: list[SceneObjectArray] = []
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._topic = "/ada3d_agent/objects"
        peer.node.create_subscription(SceneObjectArray, self._topic, self._objects.append, latched)

    def apply(self, settings: Mapping[str, str]) -> None:
        """Raises PeerError where the node refuses one."""
        parameters = [Parameter(k, value=v).to_parameter_msg() for k, v in settings.items()]
        if parameters:
            request = SetParameters.Request(parameters=parameters)
            done = self._peer.call(SetParameters, "set_parameters", request)
            refused = [result.reason for result in done.results if not result.successful]
            if refused:
                raise PeerError(f"the agent refused {dict(settings)}: {refused[0]}")

    def objects(self) -> list[Any] | None:
        """The SceneObject messages of what is there, once the list is complete, or after OBJECTS_S
        as far as it is; None where the node keeps none.
        """
        if not self._peer.node.count_publishers(self._topic):
            return None
        self._peer.spin_until(self._has_objects, OBJECTS_S)
        if not self._objects:
            return None
        return [each for each in self._objects[-1].objects if not each.gone]

    def _has_objects(self) -> bool:
        return bool(self._objects) and bool(self._objects[-1].complete)

    def ask(self, question: DemoQuestion) -> Any:
        """The Answer message, of ~/ground where there is a phrase to ground, else of ~/query."""
        if question.phrase:
            request = GroundObject.Request(phrase=question.phrase)
            return self._peer.call(GroundObject, "ground", request).answer
        query = QueryScene.Request(question=question.text)
        return self._peer.call(QueryScene, "query", query).answer

    def ask_often(self, question: DemoQuestion) -> Any:
        """The answer whose time is the median of REPEATS: a busy machine makes single ones slow."""
        answers = [self.ask(question) for _ in range(REPEATS)]
        return sorted(answers, key=lambda answer: answer.latency.total_ms)[REPEATS // 2]
