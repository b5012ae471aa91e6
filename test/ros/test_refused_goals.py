"""A goal that cannot be answered is accepted and aborted: its result says why, as a service does.

A goal that is refused carries nothing in ROS 2: no code, no sentence.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("rclpy")

from action_msgs.msg import GoalStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient
from std_srvs.srv import SetBool

from ada3d_ros.action import AskScene
from ada3d_ros.errors import ErrorCode
from ada3d_ros.pipeline import Ada3DPipeline
from test.support.ros_harness import Harness, scripted, wait_until

Start = Callable[..., Harness]


def send(agent: Harness, **fields: Any) -> Callable[[], Any]:
    """Send a goal, which is accepted; the returned function waits for what became of it."""
    client = ActionClient(agent.peer, AskScene, "/ada3d_agent/ask_scene")
    assert client.wait_for_server(30.0)
    goal = AskScene.Goal(**{"question": "What is there?", **fields})
    sending = client.send_goal_async(goal)
    assert wait_until(sending.done, 30.0)
    assert sending.result().accepted
    getting = sending.result().get_result_async()

    def outcome() -> Any:
        assert wait_until(getting.done, 30.0)
        return getting.result()

    return outcome


def check(outcome: Any, code: ErrorCode, words: str) -> None:
    """Aborted, with code and sentence in the result and in its answer."""
    result = outcome.result
    assert outcome.status == GoalStatus.STATUS_ABORTED
    assert (result.success, result.answer.success) == (False, False)
    assert result.error_code == result.answer.error_code == code, result.error_msg
    assert words in result.error_msg
    assert result.error_msg == result.answer.error_msg


@pytest.fixture(scope="module")
def ready(tiny_model: Any) -> Any:
    """One agent with a scene, for goals that are wrong in themselves."""
    import rclpy

    from test.support.ros_harness import free_domain

    with free_domain() as domain:
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain)
        harness = Harness(context, tiny_model, Ada3DPipeline)
        harness.publish_scene(1)
        yield harness
        harness.close()
        rclpy.try_shutdown(context=context)


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"question": ""}, ErrorCode.INVALID_REQUEST, "empty"),
        ({"question": " \n\t"}, ErrorCode.INVALID_REQUEST, "empty"),
        ({"question": "x" * 2001}, ErrorCode.QUESTION_TOO_LONG, "2000"),
        ({"question": "show <image>"}, ErrorCode.INVALID_REQUEST, "<image>"),
        ({"question": "what is at [1, 2]?"}, ErrorCode.INVALID_REQUEST, "[1, 2]"),
        ({"scope": 7}, ErrorCode.INVALID_REQUEST, "scope = 7"),
        ({"keep_ratio": 1.5}, ErrorCode.INVALID_REQUEST, "keep_ratio = 1.5"),
        ({"keep_ratio": float("nan")}, ErrorCode.INVALID_REQUEST, "keep_ratio"),
        ({"timeout_sec": -1.0}, ErrorCode.INVALID_REQUEST, "timeout_sec = -1"),
        ({"timeout_sec": float("inf")}, ErrorCode.INVALID_REQUEST, "timeout_sec"),
        ({"deadline_ms": -5.0}, ErrorCode.INVALID_REQUEST, "deadline_ms = -5"),
        ({"max_new_tokens": 99999}, ErrorCode.INVALID_REQUEST, "max_new_tokens = 99999"),
    ],
)
def test_a_goal_that_is_wrong(
    ready: Harness, fields: dict[str, Any], code: ErrorCode, words: str
) -> None:
    check(send(ready, **fields)(), code, words)


def test_a_node_that_is_not_ready(start_agent: Start) -> None:
    """Unconfigured, loading, without a frame, paused, inactive: each has its code."""
    go_on = threading.Event()

    class Slow(scripted("yes")):  # type: ignore[misc]
        def load(self) -> None:
            assert go_on.wait(60.0)
            super().load()

    agent = start_agent(Slow, autostart=False)

    def change(transition: int) -> None:
        request = ChangeState.Request(transition=Transition(id=transition))
        assert agent.call(ChangeState, "change_state", request).success

    check(send(agent)(), ErrorCode.NOT_ACTIVE, "configure")
    change(Transition.TRANSITION_CONFIGURE)
    change(Transition.TRANSITION_ACTIVATE)
    check(send(agent)(), ErrorCode.LOADING, "loading")
    go_on.set()
    assert agent.ready()
    check(send(agent)(), ErrorCode.NO_FRAMES, "no keyframe yet")
    agent.publish_scene(1)
    assert agent.call(SetBool, "set_paused", SetBool.Request(data=True)).success
    check(send(agent)(), ErrorCode.NOT_ACTIVE, "paused")
    assert agent.call(SetBool, "set_paused", SetBool.Request(data=False)).success
    assert send(agent)().status == GoalStatus.STATUS_SUCCEEDED
    change(Transition.TRANSITION_DEACTIVATE)
    check(send(agent)(), ErrorCode.NOT_ACTIVE, "activate")
    assert agent.node.inference.internal_errors == 0


def test_a_model_that_could_not_be_loaded(start_agent: Start) -> None:
    class Broken(Ada3DPipeline):
        def load(self) -> None:
            raise RuntimeError("planted")

    agent = start_agent(Broken)
    assert wait_until(lambda: bool(agent.node.load_error))
    check(send(agent)(), ErrorCode.MODEL_ERROR, "planted")


@pytest.mark.parametrize("policy", ["reject", "queue"])
def test_a_node_that_is_busy(start_agent: Start, policy: str) -> None:
    gate = threading.Event()

    class Gated(scripted("yes")):  # type: ignore[misc]
        def ask(self, *args: Any) -> Any:
            assert gate.wait(60.0)
            return super().ask(*args)

    agent = start_agent(Gated, **{"action.policy": policy, "action.queue_size": 1})
    agent.publish_scene(1)
    first = send(agent)
    assert wait_until(lambda: agent.node.worker.busy)
    others = [send(agent)] if policy == "queue" else []
    assert wait_until(lambda: agent.node.worker.queued == len(others))
    check(send(agent)(), ErrorCode.BUSY, "ask again later")
    gate.set()
    for outcome in (first, *others):
        assert outcome().status == GoalStatus.STATUS_SUCCEEDED
