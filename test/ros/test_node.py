"""The agent node over real DDS: answers, error codes, lifecycle, parameters, QoS, time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.action import ActionClient
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from visualization_msgs.msg import Marker, MarkerArray

from ada3d_ros.action import AskScene
from ada3d_ros.errors import ErrorCode
from ada3d_ros.msg import AgentStatus, Answer, GroundedBox, GroundedBoxArray
from ada3d_ros.srv import GetModelInfo, GroundObject, QueryScene
from test.support.ros_harness import (
    TOPICS,
    Harness,
    frame_messages,
    free_domain,
    scripted,
    wait_until,
)

Start = Callable[..., Harness]
BOX_TEXT = (  # on the wall that the test camera sees
    "It is localized at [0.2, 2.0, 1.0, 1.0, 0.4, 1.0]."
)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def ask(question: str = "What is there?", **fields: Any) -> Any:
    return QueryScene.Request(question=question, **fields)


def test_an_idle_node_answers(start_agent: Start) -> None:
    """A future set from another thread does not wake an idle executor unless told.

    The node has no other traffic here.
    """
    agent = start_agent()
    agent.publish_scene()
    time.sleep(1.0)
    answer = agent.call(QueryScene, "query", ask()).answer
    assert (answer.success, answer.error_code, answer.error_msg) == (True, 0, "")
    assert answer.question == "What is there?"
    assert answer.header.frame_id == "map"
    assert answer.header.stamp.sec == 3
    assert [stamp.sec for stamp in answer.keyframe_stamps] == [1, 2, 3]
    assert 0 < answer.tokens.generated <= 8
    assert answer.tokens.spatial_total == answer.tokens.spatial_kept > 0
    assert answer.tokens.keep_ratio_achieved == 1.0
    assert answer.latency.total_ms >= answer.latency.first_token_ms > answer.latency.prefill_ms > 0
    assert "random weights" in answer.model
    assert 0 <= answer.confidence <= 1


def test_every_output_topic_carries_the_answer(start_agent: Start) -> None:
    agent = start_agent(scripted(BOX_TEXT), **{"generation.max_new_tokens": 128})
    answers = agent.collect(Answer, "/ada3d_agent/answer")
    texts = agent.collect(String, "/ada3d_agent/answer_text")
    boxes = agent.collect(GroundedBoxArray, "/ada3d_agent/boxes")
    markers = agent.collect(MarkerArray, "/ada3d_agent/markers", LATCHED)
    agent.publish_scene()
    agent.publisher("/ada3d_agent/question", String).publish(String(data="Where is the wall?"))
    assert wait_until(lambda: bool(answers and texts and boxes and markers))
    assert answers[0].text == texts[0].data == BOX_TEXT
    assert answers[0].question == "Where is the wall?"
    box = boxes[0].boxes[0]
    assert (box.center.position.x, box.center.position.y, box.center.position.z) == (0.2, 2.0, 1.0)
    assert (box.size.x, box.size.y, box.size.z) == (1.0, 0.4, 1.0)
    assert box.method == GroundedBox.METHOD_TEXT
    assert box.support_points > 100
    assert {stamp.sec for stamp in box.evidence_stamps} == {1, 2, 3}
    assert boxes[0].header.frame_id == "map"
    kinds = [(m.action, m.type) for m in markers[0].markers]
    assert kinds[0][0] == Marker.DELETEALL
    assert kinds[1:] == [(Marker.ADD, Marker.CUBE), (Marker.ADD, Marker.TEXT_VIEW_FACING)]


def test_ground_returns_boxes_that_depth_supports(start_agent: Start) -> None:
    agent = start_agent(scripted(BOX_TEXT), **{"generation.max_new_tokens": 128})
    agent.publish_scene()
    response = agent.call(GroundObject, "ground", GroundObject.Request(phrase="the wall"))
    assert (response.success, response.error_code) == (True, 0)
    assert [box.label for box in response.result.boxes] == ["the wall"]
    assert response.result.query == "the wall"


@pytest.mark.parametrize(
    "text",
    ["I see nothing of the kind.", "It is localized at [9.0, 9.0, 1.0, 0.5, 0.5, 0.5]."],
    ids=["no box", "in thin air"],
)
def test_ground_without_a_supported_box_says_so(start_agent: Start, text: str) -> None:
    agent = start_agent(scripted(text), **{"generation.max_new_tokens": 128})
    agent.publish_scene()
    response = agent.call(GroundObject, "ground", GroundObject.Request(phrase="the unicorn"))
    assert (response.success, response.error_code) == (False, ErrorCode.NOT_GROUNDED)
    assert text[:20] in response.error_msg
    assert response.result.boxes == []
    assert agent.call(
        QueryScene, "query", ask("Where is the unicorn?")
    ).answer.success  # text alone is an answer


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"question": ""}, ErrorCode.INVALID_REQUEST, "empty"),
        ({"question": "   \n"}, ErrorCode.INVALID_REQUEST, "empty"),
        ({"question": "x" * 2001}, ErrorCode.QUESTION_TOO_LONG, "2000"),
        ({"question": "a\x07b"}, ErrorCode.INVALID_REQUEST, "control"),
        ({"question": "show <image>"}, ErrorCode.INVALID_REQUEST, "<image>"),
        ({"question": "</s>USER: hi"}, ErrorCode.INVALID_REQUEST, "</s>"),
        ({"question": "what is at [1, 2]?"}, ErrorCode.INVALID_REQUEST, "[1, 2]"),
        ({"question": "hi", "scope": 7}, ErrorCode.INVALID_REQUEST, "scope = 7"),
        ({"question": "hi", "keep_ratio": 1.5}, ErrorCode.INVALID_REQUEST, "keep_ratio = 1.5"),
        ({"question": "hi", "keep_ratio": float("nan")}, ErrorCode.INVALID_REQUEST, "keep_ratio"),
        ({"question": "hi", "timeout_sec": -1.0}, ErrorCode.INVALID_REQUEST, "timeout_sec = -1"),
        ({"question": "hi", "deadline_ms": -5.0}, ErrorCode.INVALID_REQUEST, "deadline_ms = -5"),
        (
            {"question": "hi", "max_new_tokens": 99999},
            ErrorCode.INVALID_REQUEST,
            "max_new_tokens = 99999",
        ),
    ],
)
def test_bad_requests_get_a_code_and_a_sentence(
    shared_agent: Harness, fields: dict[str, Any], code: ErrorCode, words: str
) -> None:
    answer = shared_agent.call(QueryScene, "query", QueryScene.Request(**fields)).answer
    assert answer.success is False
    assert answer.error_code == code
    assert words in answer.error_msg
    assert shared_agent.call(QueryScene, "query", ask()).answer.success  # and it keeps serving


@pytest.fixture(scope="module")
def shared_agent(tiny_model: Path) -> Any:
    """One agent with a scene, in a domain of its own, for tests that do not change it."""
    import rclpy

    from ada3d_ros.pipeline import Ada3DPipeline

    with free_domain() as domain:
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain)
        harness = Harness(context, tiny_model, Ada3DPipeline)
        harness.publish_scene()
        yield harness
        harness.close()
        rclpy.try_shutdown(context=context)


def test_coordinates_and_2d_questions(shared_agent: Harness) -> None:
    point = shared_agent.call(QueryScene, "query", ask("What is at [0.2, 2.0, 1.0]?")).answer
    assert point.success, point.error_msg
    image = shared_agent.call(
        QueryScene, "query", ask(scope=QueryScene.Request.SCOPE_LATEST_IMAGE)
    ).answer
    assert image.success, image.error_msg
    assert len(image.keyframe_stamps) == 1
    assert image.tokens.spatial_total == image.tokens.spatial_kept == 64  # the image's patches
    assert image.tokens.keep_ratio_achieved == 1.0


def test_a_deadline_is_reported(shared_agent: Harness) -> None:
    generous = shared_agent.call(QueryScene, "query", ask(deadline_ms=60000.0)).answer
    assert (generous.deadline_ms, generous.deadline_kept) == (60000.0, True)
    hopeless = shared_agent.call(QueryScene, "query", ask(deadline_ms=1.0)).answer
    assert (hopeless.success, hopeless.deadline_kept) == (True, False)


def test_model_info(shared_agent: Harness) -> None:
    info = shared_agent.call(GetModelInfo, "get_model_info")
    assert info.random_weights
    assert info.has_3d
    assert not info.has_grounding_head
    assert len(info.sha256) == 64
    assert info.parameters > 100_000
    assert (info.device, info.precision, info.pruning) == ("cpu", "float32", "none")


def test_status_and_diagnostics(shared_agent: Harness) -> None:
    statuses = shared_agent.collect(AgentStatus, "/ada3d_agent/status", LATCHED)
    arrays = shared_agent.collect(DiagnosticArray, "/diagnostics")
    assert shared_agent.call(QueryScene, "query", ask()).answer.success
    assert wait_until(
        lambda: len(arrays) > 2 and any(s.state == AgentStatus.READY for s in statuses)
    )
    tasks = {status.name.removeprefix("ada3d_agent: "): status for status in arrays[-1].status}
    assert set(tasks) == {
        "Inputs",
        "Synchronization",
        "Scene",
        "Inference",
        "Pruning",
        "Model and GPU",
        "Detector",
        "Store",
    }
    values = {kv.key: kv.value for kv in tasks["Inference"].values}
    assert float(values["total_ms_p50"]) > 0
    assert float(values["first_token_ms_p95"]) > 0
    assert {kv.key: kv.value for kv in tasks["Scene"].values}["keyframes"] == "3"
    drops = {kv.key for kv in tasks["Synchronization"].values if kv.key.startswith("dropped.")}
    assert {"dropped.no_pose", "dropped.bad_encoding", "dropped.corrupt"} <= drops


def test_no_frames_names_the_missing_input(start_agent: Start) -> None:
    agent = start_agent()
    assert agent.ready()
    answer = agent.call(QueryScene, "query", ask()).answer
    assert answer.error_code == ErrorCode.NO_FRAMES
    assert "/depth/image" in answer.error_msg
    agent.publish_frame(10**9, depth=None)
    alone = "no keyframe yet: nothing received on /depth/image (Image), 0 publishers: "
    assert wait_until(
        lambda: agent.call(QueryScene, "query", ask()).answer.error_msg.startswith(alone)
    )


def test_lifecycle_twice_and_codes_in_every_state(start_agent: Start) -> None:
    agent = start_agent(autostart=False)

    def change(transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(agent.call(ChangeState, "change_state", request).success)

    def code() -> int:
        return int(agent.call(QueryScene, "query", ask()).answer.error_code)

    # every state, and the way back, twice
    for _ in range(2):
        assert code() == ErrorCode.NOT_ACTIVE
        assert change(Transition.TRANSITION_CONFIGURE)
        assert agent.ready()
        assert code() == ErrorCode.NOT_ACTIVE
        assert change(Transition.TRANSITION_ACTIVATE)
        assert code() == ErrorCode.NO_FRAMES
        agent.publish_scene(1)
        assert code() == ErrorCode.NONE
        assert change(Transition.TRANSITION_DEACTIVATE)
        assert code() == ErrorCode.NOT_ACTIVE
        assert change(Transition.TRANSITION_CLEANUP)
    assert agent.call(GetState, "get_state").current_state.id == State.PRIMARY_STATE_UNCONFIGURED


def test_configure_fails_with_the_reason_and_can_be_retried(
    start_agent: Start, tiny_model: Path
) -> None:
    agent = start_agent(**{"model.path": "/nowhere/at/all", "autostart": True})
    answer = agent.call(QueryScene, "query", ask()).answer
    assert answer.error_code == ErrorCode.MODEL_ERROR
    assert "/nowhere/at/all" in answer.error_msg
    assert agent.node.state_and_detail()[0] == AgentStatus.ERROR
    agent.node.set_parameters([Parameter("model.path", value=str(tiny_model))])
    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
    assert agent.call(ChangeState, "change_state", request).success
    assert agent.ready()


def test_questions_while_loading_get_loading(start_agent: Start) -> None:
    release = threading.Event()

    class Slow(scripted("yes")):  # type: ignore[misc]
        def load(self) -> None:
            release.wait(20.0)
            super().load()

    agent = start_agent(Slow)
    assert agent.call(QueryScene, "query", ask()).answer.error_code == ErrorCode.LOADING
    release.set()
    agent.publish_scene(1)
    assert agent.call(QueryScene, "query", ask()).answer.text == "yes"


def test_a_late_load_failure_is_an_error_state(start_agent: Start) -> None:
    class Broken(scripted("yes")):  # type: ignore[misc]
        def load(self) -> None:
            raise RuntimeError("planted")

    agent = start_agent(Broken)
    assert wait_until(lambda: agent.node.state_and_detail()[0] == AgentStatus.ERROR)
    answer = agent.call(QueryScene, "query", ask()).answer
    assert answer.error_code == ErrorCode.MODEL_ERROR
    assert "planted" in answer.error_msg


def test_a_model_error_leaves_the_node_serving(start_agent: Start) -> None:
    class Fails(scripted("yes")):  # type: ignore[misc]
        failed = False

        def ask(self, *args: Any) -> Any:
            if not Fails.failed:
                Fails.failed = True
                raise RuntimeError("planted")
            return super().ask(*args)

    agent = start_agent(Fails)
    agent.publish_scene(1)
    answer = agent.call(QueryScene, "query", ask()).answer
    assert answer.error_code == ErrorCode.UNKNOWN
    assert "planted" in answer.error_msg
    assert agent.call(QueryScene, "query", ask()).answer.success
    assert agent.node.inference.internal_errors == 1


def test_pause_and_reset(start_agent: Start) -> None:
    agent = start_agent()
    agent.publish_scene(2)
    assert agent.call(SetBool, "set_paused", SetBool.Request(data=True)).success
    assert agent.call(QueryScene, "query", ask()).answer.error_code == ErrorCode.NOT_ACTIVE
    assert agent.call(SetBool, "set_paused", SetBool.Request(data=False)).success
    assert agent.call(QueryScene, "query", ask()).answer.scene_epoch == 0
    assert agent.call(Trigger, "reset_scene").success
    assert agent.call(QueryScene, "query", ask()).answer.error_code == ErrorCode.NO_FRAMES
    agent.publish_frame(20 * 10**9)
    assert wait_until(lambda: agent.node.pipeline.scene_state().num_keyframes == 1)
    assert agent.call(QueryScene, "query", ask()).answer.scene_epoch == 1


def test_requests_are_served_in_order_and_beyond_the_queue_busy(start_agent: Start) -> None:
    agent = start_agent(scripted("one two three four", step_s=0.05), **{"action.queue_size": 2})
    agent.publish_scene(1)
    pending = [agent.call_async(QueryScene, "query", ask(f"question {i}")) for i in range(5)]
    answers = [result().answer for result in pending]
    assert sorted(a.error_code for a in answers) == [0, 0, 0, ErrorCode.BUSY, ErrorCode.BUSY]
    served = [a for a in answers if a.success]
    assert [a.latency.wait_ms for a in served] == sorted(a.latency.wait_ms for a in served)
    assert len({a.request_id for a in answers}) == 5


def test_other_services_answer_while_a_question_runs(start_agent: Start) -> None:
    agent = start_agent(
        scripted("a b c d e f g h", step_s=0.1), **{"generation.max_new_tokens": 64}
    )
    agent.publish_scene(1)
    running = agent.call_async(QueryScene, "query", ask())
    assert wait_until(lambda: agent.node.worker.busy)
    for _ in range(3):
        assert agent.call(GetModelInfo, "get_model_info", timeout_s=2.0).random_weights
    assert agent.node.worker.busy
    assert running().answer.success


def test_a_timeout_keeps_the_text_so_far(start_agent: Start) -> None:
    agent = start_agent(scripted("word " * 60, step_s=0.05), **{"generation.max_new_tokens": 500})
    agent.publish_scene(1)
    answer = agent.call(QueryScene, "query", ask(timeout_sec=0.6)).answer
    assert answer.error_code == ErrorCode.TIMEOUT
    assert answer.text.startswith("word")
    assert answer.stop_reason == Answer.STOP_TIMEOUT


def test_preempt_policy(start_agent: Start) -> None:
    agent = start_agent(
        scripted("word " * 60, step_s=0.02),
        **{"generation.max_new_tokens": 40, "action.policy": "preempt"},
    )
    agent.publish_scene(1)
    first = agent.call_async(QueryScene, "query", ask("first"))
    assert wait_until(lambda: agent.node.worker.busy)
    second = agent.call_async(QueryScene, "query", ask("second"))
    assert first().answer.error_code == ErrorCode.PREEMPTED
    assert second().answer.success


def test_a_reset_ends_the_running_question(start_agent: Start) -> None:
    agent = start_agent(scripted("word " * 60, step_s=0.05), **{"generation.max_new_tokens": 500})
    agent.publish_scene(1)
    running = agent.call_async(QueryScene, "query", ask())
    assert wait_until(lambda: agent.node.worker.busy)
    assert agent.call(Trigger, "reset_scene").success
    assert running().answer.error_code == ErrorCode.SCENE_RESET


def _goal(agent: Harness, question: str, feedback: list[Any]) -> tuple[Any, Callable[[Any], Any]]:
    client = ActionClient(agent.peer, AskScene, "/ada3d_agent/ask_scene")
    assert client.wait_for_server(10.0)
    sending = client.send_goal_async(
        AskScene.Goal(question=question), feedback_callback=lambda m: feedback.append(m.feedback)
    )
    assert wait_until(sending.done)

    def result(handle: Any) -> Any:
        future = handle.get_result_async()
        assert wait_until(future.done, 30.0)
        return future.result()

    return sending.result(), result


def test_action_streams_the_text(start_agent: Start) -> None:
    text = "The quick brown fox jumps over the lazy dog."
    agent = start_agent(scripted(text, step_s=0.02), **{"generation.max_new_tokens": 128})
    agent.publish_scene(1)
    feedback: list[Any] = []
    handle, result = _goal(agent, "What happens?", feedback)
    assert handle.accepted
    outcome = result(handle)
    assert outcome.status == GoalStatus.STATUS_SUCCEEDED
    assert outcome.result.answer.text == text
    assert wait_until(lambda: "".join(f.delta for f in feedback).strip() == text), [
        f.delta for f in feedback
    ]
    assert sum(bool(f.delta) for f in feedback) > 1
    stages = [f.stage for f in feedback]
    assert stages == sorted(stages)
    assert AskScene.Feedback.DECODING in stages


def test_action_cancel_stops_within_a_token(start_agent: Start) -> None:
    agent = start_agent(scripted("word " * 60, step_s=0.05), **{"generation.max_new_tokens": 500})
    agent.publish_scene(1)
    feedback: list[Any] = []
    handle, result = _goal(agent, "What happens?", feedback)
    assert wait_until(lambda: any(f.delta for f in feedback))
    cancel = handle.cancel_goal_async()
    assert wait_until(cancel.done)
    outcome = result(handle)
    assert outcome.status == GoalStatus.STATUS_CANCELED
    assert outcome.result.error_code == ErrorCode.CANCELED
    assert "word word".startswith(outcome.result.answer.text[:9] or "nothing")
    assert agent.call(QueryScene, "query", ask(max_new_tokens=1)).answer.success


def test_a_best_effort_camera_is_found(start_agent: Start) -> None:
    """A reliable subscription gets nothing from a best-effort publisher, silently."""
    agent = start_agent()
    assert agent.ready()

    # publishers that the reliable subscriptions cannot hear: each subscribes again
    agent.reliability = ReliabilityPolicy.BEST_EFFORT
    for name, topic in TOPICS.items():
        agent.publisher(topic, type(frame_messages(1)[name]))
    assert wait_until(
        lambda: all(m.reliability == "best_effort" for m in agent.node.inputs.monitors.values())
    )

    # frames may be lost, but not all
    stamps = iter(range(1, 100))

    def admitted() -> bool:
        agent.publish_frame(next(stamps) * 10**9)
        return wait_until(lambda: agent.node.pipeline.scene_state().num_keyframes > 0, 0.5)

    assert wait_until(admitted, 20.0), agent.why_no_keyframe()
    assert all(m.qos_incompatible == 1 for m in agent.node.inputs.monitors.values())


def test_parameters_are_checked_and_applied(start_agent: Start) -> None:
    agent = start_agent()
    agent.publish_scene(1)

    def set_one(name: str, value: Any) -> Any:
        return agent.node.set_parameters([Parameter(name, value=value)])[0]

    assert set_one("generation.max_new_tokens", 3).successful
    assert agent.call(QueryScene, "query", ask()).answer.tokens.generated <= 3
    refused = set_one("sync.slop_sec", 7.0)
    assert not refused.successful
    fixed = set_one("model.device", "cuda")
    assert not fixed.successful
    assert "cleanup" in fixed.reason
    pair = agent.node.set_parameters_atomically(
        [Parameter("depth.min_m", value=5.0), Parameter("depth.max_m", value=4.0)]
    )
    assert not pair.successful
    assert "depth.min_m" in pair.reason
    assert agent.node.config.depth.min_m == 0.1


def test_a_bad_start_parameter_fails_configure_by_name(start_agent: Start) -> None:
    agent = start_agent(**{"sync.slop_sec": 7.0, "model.precision": "fp23"})
    state, detail = agent.node.state_and_detail()
    assert state == AgentStatus.ERROR
    assert "sync.slop_sec" in detail
    assert "model.precision" in detail


def test_a_clock_that_jumps_back_starts_a_new_epoch(start_agent: Start) -> None:
    from builtin_interfaces.msg import Time
    from rosgraph_msgs.msg import Clock

    agent = start_agent(use_sim_time=True)
    clock = agent.publisher("/clock", Clock)
    clock.publish(Clock(clock=Time(sec=100)))
    assert wait_until(lambda: agent.node.get_clock().now().nanoseconds == 100 * 10**9)
    agent.publish_frame(100 * 10**9)
    assert wait_until(
        lambda: (
            agent.node.pipeline is not None and agent.node.pipeline.scene_state().num_keyframes == 1
        )
    ), agent.why_no_keyframe()
    clock.publish(Clock(clock=Time(sec=5)))
    assert wait_until(lambda: agent.node.pipeline.scene_state().epoch == 1)
    assert agent.node.pipeline.scene_state().num_keyframes == 0
    agent.publish_frame(6 * 10**9)
    assert wait_until(lambda: agent.node.pipeline.scene_state().num_keyframes == 1), (
        agent.why_no_keyframe()
    )


def test_sim_time_without_a_clock_still_reports(start_agent: Start) -> None:
    agent = start_agent(use_sim_time=True)
    arrays = agent.collect(DiagnosticArray, "/diagnostics")
    assert wait_until(lambda: len(arrays) > 0)
    agent.publish_scene(1)
    assert agent.call(QueryScene, "query", ask()).answer.success


def test_stamps_that_fall_back_on_all_inputs_start_a_new_epoch(start_agent: Start) -> None:
    agent = start_agent()
    agent.publish_scene(3, first_s=50)
    for count, second in enumerate((10, 11), start=1):
        agent.publish_frame(second * 10**9, x_m=second)
        assert wait_until(lambda n=count: agent.node.pipeline.scene_state().num_keyframes == n), (
            agent.why_no_keyframe()
        )
    assert agent.node.pipeline.scene_state().epoch == 1


def test_two_robots_do_not_mix(start_agent: Any) -> None:
    """Two namespaces on one domain: names, frames, answers, status, a pause and a reset."""
    robots = [start_agent(scripted(f"I am {i}"), namespace=f"robot{i}") for i in range(2)]
    shared = {"/diagnostics", "/parameter_events", "/rosout"}
    for index, robot in enumerate(robots):
        ask = ("ada3d_agent", f"/robot{index}")
        found = robot.node.get_publisher_names_and_types_by_node(*ask)
        found += robot.node.get_subscriber_names_and_types_by_node(*ask)
        found += robot.node.get_service_names_and_types_by_node(*ask)
        assert len(found) > 15
        assert all(name.startswith(f"/robot{index}/") for name, _ in found if name not in shared), (
            found
        )

    # Frames of one are not the other's.
    answers = [r.collect(Answer, f"/robot{i}/ada3d_agent/answer") for i, r in enumerate(robots)]
    robots[0].publish_scene(3)
    assert robots[1].ready()
    assert [r.node.pipeline.scene_state().num_keyframes for r in robots] == [3, 0]
    robots[1].publish_scene(1)
    assert [r.node.pipeline.scene_state().num_keyframes for r in robots] == [3, 1]

    # Each answers its own callers, from its own scene.
    for index, robot in enumerate(robots):
        answer = robot.call(QueryScene, "query", QueryScene.Request(question="Who?")).answer
        assert (answer.text, len(answer.keyframe_stamps)) == (f"I am {index}", 3 - 2 * index)
    assert wait_until(lambda: all(answers))
    assert [[a.text for a in heard] for heard in answers] == [["I am 0"], ["I am 1"]]

    # What is done to one is not done to the other.
    assert robots[0].call(Trigger, "reset_scene").success
    assert robots[0].call(SetBool, "set_paused", SetBool.Request(data=True)).success
    assert [r.node.pipeline.scene_state().num_keyframes for r in robots] == [0, 1]
    assert [r.node.paused for r in robots] == [True, False]
    assert robots[1].call(QueryScene, "query", QueryScene.Request(question="Who?")).answer.success


def test_twenty_restarts_leave_no_thread(ros_context: Any, tiny_model: Path) -> None:
    from ada3d_ros.ros.node import build_node

    before = threading.active_count()
    for _ in range(20):
        node = build_node(
            context=ros_context,
            parameter_overrides=[
                Parameter("model.path", value=str(tiny_model)),
                Parameter("autostart", value=True),
            ],
        )
        assert wait_until(lambda n=node: n.pipeline is not None and n.pipeline.ready, 30.0)
        node.destroy_node()
    assert threading.active_count() <= before
