"""Faults from the field that no other file injects; docs/reliability.md lists them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("rclpy")

from std_msgs.msg import String

from ada3d_ros.engine.memory_fallback import memory_problem, model_error
from ada3d_ros.errors import DeviceLostError, ErrorCode
from ada3d_ros.msg import AgentStatus, GroundedBoxArray
from ada3d_ros.msg import Answer as AnswerMsg
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.srv import QueryScene
from test.support.ros_harness import TOPICS, Harness, frame_messages, scripted, wait_until

Start = Callable[..., Harness]
SECOND = 1_000_000_000


def ask(agent: Harness, question: str = "What is there?") -> QueryScene.Response:
    return agent.call(QueryScene, "query", QueryScene.Request(question=question)).answer


def test_depth_that_comes_seconds_late_finds_its_colour(start_agent: Start) -> None:
    """Six colour images wait for the depth of the first."""
    agent = start_agent(**{"sync.queue_size": 30})
    assert agent.ready()
    frames = [frame_messages(n * SECOND, x_m=0.5 * n) for n in range(1, 7)]
    for name in ("rgb", "info", "pose", "depth"):  # depth last, all of it
        for messages in frames:
            agent.publisher(TOPICS[name], type(messages[name])).publish(messages[name])
    assert wait_until(lambda: agent.node.inputs.sets >= 5), agent.why_no_keyframe()
    keyframes = agent.node.pipeline.scene.keyframes
    assert wait_until(lambda: len(agent.node.pipeline.scene.keyframes) > 0)
    for keyframe in keyframes:  # each with its own pose
        assert keyframe.frame.T_world_cam[0, 3] == 0.5 * (keyframe.frame.stamp_ns // SECOND)


def test_an_answer_that_a_reset_overtakes_is_none(start_agent: Start) -> None:
    """Complete before the reset, delivered after it: it is of a scene that there is no more."""

    class Overtaken(scripted("yes")):  # type: ignore[misc]
        def ask(self, question: Any, hooks: Any = None) -> Any:
            answer = super().ask(question, hooks)
            if question.text == "overtaken":
                self.reset_scene()
            return answer

    agent = start_agent(Overtaken)
    answers = agent.collect(AnswerMsg, "/ada3d_agent/answer")
    boxes = agent.collect(GroundedBoxArray, "/ada3d_agent/boxes")
    texts = agent.collect(String, "/ada3d_agent/answer_text")
    agent.publish_scene(1)
    late = ask(agent, "overtaken")
    assert (late.success, late.error_code) == (False, ErrorCode.SCENE_RESET)
    assert "the scene was reset while answering" in late.error_msg
    assert (late.text, len(late.boxes)) == ("", 0)

    # The next scene is answered about, and this alone was published as an answer.
    agent.publish_scene(1, first_s=20)
    assert ask(agent, "in time").text == "yes"
    assert wait_until(lambda: len(answers) == len(texts) == 2 and len(boxes) == 1)
    assert [answer.success for answer in answers] == [False, True]
    assert texts[0].data.startswith(f"[{int(ErrorCode.SCENE_RESET)}] ")
    assert boxes[0].query == "in time"


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("CUDA error: device-side assert triggered\nCUDA kernel errors might be ...", True),
        ("CUDA error: unspecified launch failure", True),
        ("HIP error: the device is gone", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
        ("", False),
    ],
)
def test_errors_that_last_are_told_from_others(text: str, lost: bool) -> None:
    error = model_error(RuntimeError(text))
    assert isinstance(error, DeviceLostError) is lost
    assert error.code is ErrorCode.MODEL_ERROR
    assert ("restart the node" in str(error)) is lost


def test_memory_that_cuda_itself_lacks_is_no_lost_gpu() -> None:
    assert memory_problem(RuntimeError("CUDA error: out of memory")) == "CUDA error: out of memory"


def test_a_lost_gpu_is_an_error_state(start_agent: Start) -> None:
    """No work is tried again on it; every client reads what to do."""
    calls = 0

    class LostGpu(Ada3DPipeline):
        def load(self) -> None:
            super().load()

            def logits(hidden: torch.Tensor) -> torch.Tensor:
                nonlocal calls
                calls += 1
                raise RuntimeError("CUDA error: an illegal memory access was encountered")

            self.model.model.decoder.lm_head.forward = logits  # type: ignore[method-assign]

    agent = start_agent(LostGpu)
    agent.publish_scene(2)
    statuses = agent.collect(AgentStatus, "/ada3d_agent/status")
    for _ in range(2):
        answer = ask(agent)
        assert answer.error_code == ErrorCode.MODEL_ERROR
        assert "an illegal memory access" in answer.error_msg
        assert "restart the node" in answer.error_msg
    assert calls == 1
    assert wait_until(lambda: bool(statuses) and statuses[-1].state == AgentStatus.ERROR)
    assert "restart the node" in statuses[-1].detail
