"""Many callers at once, and the node stopped, reset or reconfigured in the middle of its work."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

import rclpy
from action_msgs.msg import GoalStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import String
from std_srvs.srv import Trigger

import ada3d_ros.ros.agent
from ada3d_ros.action import AskScene
from ada3d_ros.errors import ErrorCode, NotActiveError
from ada3d_ros.msg import AgentStatus, Answer
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.ros.node import build_node
from ada3d_ros.ros.requests import BURST_QOS
from ada3d_ros.srv import GetModelInfo, GroundObject, QueryScene
from ada3d_ros.types import AskHooks, Question
from ada3d_ros.worker import Job, RequestWorker
from test.support.box_room import build_box_room
from test.support.ros_harness import (
    Harness,
    Spinner,
    scripted,
    wait_until,
)

Start = Callable[..., Harness]
ROOT = Path(__file__).resolve().parents[2]


def gated(text: str = "yes") -> tuple[Callable[..., Ada3DPipeline], threading.Event]:
    """A pipeline whose questions wait for the event, listening to hooks.check, then start."""
    gate = threading.Event()

    class Gated(scripted(text)):  # type: ignore[misc]
        def ask(self, question: Question, hooks: AskHooks = AskHooks()) -> Any:
            while not gate.wait(0.005):
                hooks.check()
            return super().ask(question, hooks)

    return Gated, gate


def slow_load(
    fails: bool = False,
) -> tuple[Callable[..., Ada3DPipeline], threading.Event, threading.Event]:
    """A pipeline whose first load waits for the second event; the first says that it has begun."""
    begun, go_on = threading.Event(), threading.Event()

    class Slow(scripted("yes")):  # type: ignore[misc]
        def load(self) -> None:
            if not begun.is_set():
                begun.set()
                assert go_on.wait(20.0)
                if fails:
                    raise RuntimeError("planted")
            super().load()

    return Slow, begun, go_on


def ask(question: str = "What is there?", **fields: Any) -> Any:
    return QueryScene.Request(question=question, **fields)


def change(agent: Harness, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return bool(agent.call(ChangeState, "change_state", request).success)


class Goals:
    """An action client, and what its goals came to."""

    def __init__(self, agent: Harness) -> None:
        self._agent = agent
        # Twenty cancel responses at once overrun a reader of the default depth 10 while this
        # process waits for a core.
        self._client = ActionClient(
            agent.peer, AskScene, "/ada3d_agent/ask_scene", cancel_service_qos_profile=BURST_QOS
        )
        assert self._client.wait_for_server(10.0)

    def send(self, question: str, feedback: list[Any] | None = None) -> Any:
        follow = None if feedback is None else (lambda message: feedback.append(message.feedback))
        sending = self._client.send_goal_async(
            AskScene.Goal(question=question), feedback_callback=follow
        )
        assert wait_until(sending.done)
        assert sending.result().accepted
        return sending.result()

    @staticmethod
    def result(handle: Any, timeout_s: float = 10.0) -> Any:
        future = handle.get_result_async()
        assert wait_until(future.done, timeout_s), "no result"
        return future.result()


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """main() takes SIGINT and SIGTERM for good: its process ends with it, this one does not."""
    kinds = signal.SIGINT, signal.SIGTERM
    before = [signal.getsignal(kind) for kind in kinds]
    yield
    for kind, handler in zip(kinds, before, strict=True):
        signal.signal(kind, handler)


@pytest.fixture
def callers(ros_context: Any) -> Iterator[Callable[[int], list[Node]]]:
    """callers(n): nodes of their own, on an executor of their own."""
    spinner, nodes = Spinner(ros_context), list[Node]()

    def start(count: int) -> list[Node]:
        for index in range(count):
            nodes.append(Node(f"caller_{index}", context=ros_context))
            spinner.executor.add_node(nodes[-1])
        spinner.start()
        return nodes

    yield start
    spinner.stop()
    for node in nodes:
        node.destroy_node()


def test_thirty_questions_at_once(start_agent: Start, callers: Callable[[int], list[Node]]) -> None:
    """By query, ground and text topic, from three nodes: some BUSY, none lost, each its own id."""
    factory, gate = gated()
    agent = start_agent(factory, **{"action.queue_size": 8})
    answers = agent.collect(Answer, "/ada3d_agent/answer", 100)
    agent.publish_scene(1)
    text = agent.publisher("/ada3d_agent/question", String)
    clients = []
    for node in callers(3):
        clients.append(
            (
                node.create_client(QueryScene, "/ada3d_agent/query"),
                node.create_client(GroundObject, "/ada3d_agent/ground"),
            )
        )
        assert all(client.wait_for_service(10.0) for client in clients[-1])
    futures = []
    for index in range(12):
        query, ground = clients[index % 3]
        futures.append(query.call_async(ask(f"query {index}")))
        futures.append(ground.call_async(GroundObject.Request(phrase=f"ground {index}")))
    for index in range(6):
        text.publish(String(data=f"text {index}"))
    inference = agent.node.inference
    assert wait_until(lambda: inference.requests == 30), inference.requests
    one_runs_eight_wait = 30 - 1 - 8
    assert wait_until(lambda: inference.failed["busy"] == one_runs_eight_wait), inference.failed
    gate.set()
    assert wait_until(lambda: all(future.done() for future in futures))
    assert wait_until(lambda: len(answers) == 30), len(answers)
    assert len({a.request_id for a in answers}) == 30
    assert sorted(a.question for a in answers) == sorted(
        [f"query {i}" for i in range(12)]
        + [f"ground {i}" for i in range(12)]
        + [f"text {i}" for i in range(6)]
    )
    codes = [a.error_code for a in answers]
    assert codes.count(ErrorCode.BUSY) == 21
    assert codes.count(ErrorCode.NONE) + codes.count(ErrorCode.NOT_GROUNDED) == 9
    by_id = {a.request_id: a for a in answers}
    for future in futures:  # what a caller got is what was published
        answer = future.result().answer
        assert (answer.question, answer.error_code) == (
            by_id[answer.request_id].question,
            by_id[answer.request_id].error_code,
        )
    assert agent.call(QueryScene, "query", ask()).answer.success
    assert inference.internal_errors == 0


def test_who_gets_an_answer_may_ask_again_at_once() -> None:
    """Under policy `reject` the next question was BUSY: the worker was still marked as busy."""
    worker, busy = RequestWorker(), list[bool]()
    for _ in range(3):
        done = threading.Event()

        def on_done(result: Any, error: Any, done: threading.Event = done) -> None:
            busy.append(worker.busy)
            done.set()

        worker.submit(Job(lambda job: "yes", on_done, deadline=time.monotonic() + 10), "reject", 0)
        assert done.wait(5.0)
    assert busy == [False] * 3
    assert worker.stop()


def test_the_inference_thread_outlives_an_answer_that_cannot_be_delivered() -> None:
    """As when the executor goes away in the middle: the exception ended the thread's loop."""
    errors, answered = list[BaseException](), threading.Event()
    worker = RequestWorker(on_error=errors.append)

    def broken(result: Any, error: Any) -> None:
        raise RuntimeError("planted")

    worker.submit(Job(lambda job: "yes", broken, deadline=time.monotonic() + 10), "queue", 8)
    worker.submit(
        Job(lambda job: "yes", lambda r, e: answered.set(), deadline=time.monotonic() + 10),
        "queue",
        8,
    )
    assert answered.wait(5.0)
    assert [str(error) for error in errors] == ["planted"]
    assert worker.alive
    assert worker.stop()


def test_a_storm_of_cancels(start_agent: Start) -> None:
    factory, gate = gated()
    agent = start_agent(factory, **{"action.queue_size": 16})
    agent.publish_scene(1)
    goals = Goals(agent)
    handles = [goals.send(f"goal {index}") for index in range(10)]
    cancels = [handle.cancel_goal_async() for handle in [*handles, *handles[::-1]]]  # each twice
    outcomes = [goals.result(handle) for handle in handles]
    assert {outcome.status for outcome in outcomes} == {GoalStatus.STATUS_CANCELED}
    assert {outcome.result.error_code for outcome in outcomes} == {ErrorCode.CANCELED}
    assert len({outcome.result.answer.request_id for outcome in outcomes}) == 10
    assert wait_until(lambda: all(cancel.done() for cancel in cancels))
    assert wait_until(lambda: not agent.node.worker.busy and agent.node.worker.queued == 0)
    gate.set()
    assert agent.call(QueryScene, "query", ask()).answer.success
    assert goals.result(goals.send("again")).status == GoalStatus.STATUS_SUCCEEDED
    assert agent.node.inference.internal_errors == 0


def test_a_goal_that_waits_is_canceled_at_once(start_agent: Start) -> None:
    """It stayed in the queue, and its caller waited until the questions before it were answered."""
    factory, gate = gated()
    agent = start_agent(factory)
    agent.publish_scene(1)
    goals = Goals(agent)
    first, second, third = (goals.send(name) for name in ("first", "second", "third"))
    assert wait_until(lambda: agent.node.worker.queued == 2)
    second.cancel_goal_async()
    assert goals.result(second, 3.0).status == GoalStatus.STATUS_CANCELED
    assert agent.node.worker.queued == 1
    gate.set()
    assert goals.result(first).status == GoalStatus.STATUS_SUCCEEDED
    assert goals.result(third).status == GoalStatus.STATUS_SUCCEEDED


def test_deactivate_while_questions_run_and_wait(start_agent: Start) -> None:
    factory, gate = gated()
    agent = start_agent(factory)
    agent.publish_scene(1)
    pending = [agent.call_async(QueryScene, "query", ask(f"question {i}")) for i in range(3)]
    goals = Goals(agent)
    handle = goals.send("by action")
    assert wait_until(lambda: agent.node.worker.queued == 3)
    started = time.monotonic()
    assert change(agent, Transition.TRANSITION_DEACTIVATE)
    assert [result().answer.error_code for result in pending] == [ErrorCode.NOT_ACTIVE] * 3
    outcome = goals.result(handle)
    assert (outcome.status, outcome.result.error_code) == (
        GoalStatus.STATUS_ABORTED,
        ErrorCode.NOT_ACTIVE,
    )
    assert time.monotonic() - started < 2.0
    assert agent.node.state_and_detail()[0] == AgentStatus.INACTIVE
    assert change(agent, Transition.TRANSITION_ACTIVATE)
    gate.set()
    assert agent.call(QueryScene, "query", ask()).answer.success  # the scene was kept


def test_lifecycle_shutdown_while_a_question_runs(start_agent: Start) -> None:
    factory, _ = gated()
    agent = start_agent(factory)
    agent.publish_scene(1)
    running = agent.call_async(QueryScene, "query", ask())
    assert wait_until(lambda: agent.node.worker.busy)
    assert change(agent, Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert running().answer.error_code == ErrorCode.NOT_ACTIVE
    assert agent.call(QueryScene, "query", ask()).answer.error_code == ErrorCode.NOT_ACTIVE


@pytest.mark.parametrize("fails", [False, True])
def test_cleanup_while_loading(start_agent: Start, fails: bool) -> None:
    """The old load ends later, well or badly; the node must not take it for the new one's."""
    factory, begun, go_on = slow_load(fails)
    agent = start_agent(factory)
    assert begun.wait(10.0)
    assert agent.call(QueryScene, "query", ask()).answer.error_code == ErrorCode.LOADING
    assert change(agent, Transition.TRANSITION_DEACTIVATE)
    assert change(agent, Transition.TRANSITION_CLEANUP)
    assert agent.node.state_and_detail()[0] == AgentStatus.UNCONFIGURED
    assert agent.call(QueryScene, "query", ask()).answer.error_code == ErrorCode.NOT_ACTIVE
    assert change(agent, Transition.TRANSITION_CONFIGURE)  # while the old load is still running
    assert change(agent, Transition.TRANSITION_ACTIVATE)
    go_on.set()
    agent.publish_scene(1)
    assert agent.node.state_and_detail()[0] == AgentStatus.READY, agent.node.state_and_detail()
    assert agent.call(QueryScene, "query", ask()).answer.text == "yes"


def test_reset_while_loading(start_agent: Start) -> None:
    factory, begun, go_on = slow_load()
    agent = start_agent(factory)
    assert begun.wait(10.0)
    agent.publish_frame(10**9)
    scene = agent.node.pipeline.scene_state
    assert wait_until(lambda: scene().num_keyframes == 1)  # frames come in meanwhile
    assert agent.call(Trigger, "reset_scene").success
    assert agent.call(QueryScene, "query", ask()).answer.error_code == ErrorCode.LOADING
    go_on.set()
    assert agent.ready()
    assert agent.call(QueryScene, "query", ask()).answer.error_code == ErrorCode.NO_FRAMES
    agent.publish_frame(2 * 10**9)
    assert wait_until(lambda: agent.node.pipeline.scene_state().num_keyframes == 1)
    answer = agent.call(QueryScene, "query", ask()).answer
    assert (answer.success, answer.scene_epoch) == (True, 1)


def test_parameters_that_change_while_a_question_runs(start_agent: Start) -> None:
    agent = start_agent(scripted("word " * 40, step_s=0.02), **{"generation.max_new_tokens": 30})
    agent.publish_scene(3)
    feedback: list[Any] = []
    goals = Goals(agent)
    running = goals.send("What is there?", feedback)
    assert wait_until(lambda: any(f.delta for f in feedback))
    changes = {
        "generation.max_new_tokens": 2,
        "generation.temperature": 0.7,
        "generation.timeout_sec": 5.0,
        "keyframe.max_views": 1,
        "boxes.min_support_points": 5,
        "action.policy": "reject",
        "sync.slop_sec": 0.0,
        "question.max_chars": 30,
        "depth.min_m": 0.2,
    }
    results = agent.node.set_parameters(
        [Parameter(name, value=value) for name, value in changes.items()]
    )
    assert all(result.successful for result in results)
    assert agent.node.worker.busy  # still the same question
    refused = agent.call(QueryScene, "query", ask()).answer
    assert refused.error_code == ErrorCode.BUSY  # the new policy, at once
    first = goals.result(running).result.answer
    assert first.success, first.error_msg
    as_it_began = first.tokens.generated, len(first.keyframe_stamps)
    assert as_it_began == (30, 3)
    second = agent.call(QueryScene, "query", ask()).answer
    assert (second.tokens.generated, len(second.keyframe_stamps)) == (2, 1)
    too_long = agent.call(QueryScene, "query", ask("x" * 31)).answer
    assert too_long.error_code == ErrorCode.QUESTION_TOO_LONG
    assert agent.node.inference.internal_errors == 0


def test_frames_and_resets_while_questions_run(start_agent: Start) -> None:
    """Keyframes come, go, are all forgotten under a question: it fails by name, or is right."""
    agent = start_agent(
        **{"keyframe.max_views": 3, "action.queue_size": 64, "generation.max_new_tokens": 4}
    )
    agent.publish_scene(2)
    pending = []
    for index in range(12):
        pending.append(agent.call_async(QueryScene, "query", ask()))
        agent.publish_frame((10 + index) * 10**9, x_m=2.0 + 0.5 * index)
        if index % 4 == 3:
            assert agent.call(Trigger, "reset_scene").success
    codes = {result().answer.error_code for result in pending}
    assert codes <= {ErrorCode.NONE, ErrorCode.SCENE_RESET, ErrorCode.NO_FRAMES}
    assert agent.node.inference.internal_errors == 0, agent.node.inference.last_error
    agent.publish_frame(60 * 10**9)
    assert wait_until(lambda: agent.node.pipeline.scene_state().num_keyframes > 0)
    assert agent.call(QueryScene, "query", ask()).answer.success


def test_a_caller_that_dies_takes_nobody_along(start_agent: Start, domain_id: int) -> None:
    factory, gate = gated()
    agent = start_agent(factory)
    agent.publish_scene(1)
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain_id)
    node = Node("mortal", context=context)
    client = node.create_client(QueryScene, "/ada3d_agent/query")
    assert client.wait_for_service(10.0)
    client.call_async(ask("from the dead"))
    action = ActionClient(node, AskScene, "/ada3d_agent/ask_scene")
    assert action.wait_for_server(10.0)
    action.send_goal_async(AskScene.Goal(question="the same"))
    assert wait_until(lambda: agent.node.inference.requests == 2)
    action.destroy()
    node.destroy_node()
    rclpy.try_shutdown(context=context)
    gate.set()
    assert wait_until(lambda: agent.node.inference.succeeded == 2)
    assert agent.call(QueryScene, "query", ask()).answer.success
    assert agent.call(GetModelInfo, "get_model_info").random_weights


def test_sigterm_while_answering(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    domain_id: int,
    tiny_model: Path,
) -> None:
    """As a service manager stops it: main() returns 0, no thread is left."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain_id))
    real, nodes = ada3d_ros.ros.agent.build_node, []
    values = {"model.path": str(tiny_model), "autostart": True, "generation.max_new_tokens": 400}
    overrides = [Parameter(name, value=value) for name, value in values.items()]

    def build() -> Any:
        nodes.append(real(scripted("word " * 400, step_s=0.05), parameter_overrides=overrides))
        return nodes[-1]

    def ask_and_terminate() -> None:
        assert wait_until(
            lambda: bool(nodes) and nodes[0].pipeline is not None and nodes[0].pipeline.ready
        )
        node = nodes[0]
        node.pipeline.observe(build_box_room(num_views=1, width=64, height=48).frames[0])
        (question,) = (s for s in node.subscriptions if s.topic_name.endswith("/question"))
        for _ in range(2):
            node.executor.create_task(question.callback, String(data="hello?"))
        wait_until(lambda: node.worker.queued == 1)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ada3d_ros.ros.agent, "build_node", build)
    before = threading.active_count()
    caller = threading.Thread(target=ask_and_terminate)
    caller.start()
    try:
        assert ada3d_ros.ros.agent.main([]) == 0
    finally:
        caller.join(10.0)
    assert not rclpy.ok()
    assert threading.active_count() <= before
    assert "Traceback" not in capfd.readouterr().err
    assert nodes[0].inference.internal_errors == 0, nodes[0].inference.last_error


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_signal_while_the_node_is_being_built(
    monkeypatch: pytest.MonkeyPatch, domain_id: int, kind: signal.Signals, moment: str
) -> None:
    """Ctrl-C during start-up ended in a traceback."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain_id))
    real = ada3d_ros.ros.agent.build_node
    built = []

    def build() -> Any:
        if moment == "before":
            os.kill(os.getpid(), kind)
            time.sleep(0.2)
        built.append(real())
        os.kill(os.getpid(), kind)
        return built[-1]

    monkeypatch.setattr(ada3d_ros.ros.agent, "build_node", build)
    try:
        assert ada3d_ros.ros.agent.main([]) == 0
    finally:
        for node in built:
            node.worker.stop()
    assert not rclpy.ok()


@pytest.mark.parametrize(
    "args",
    [
        ["--params-file", "/nowhere.yaml"],
        ["-p", "no_value"],
        ["-r", "no_target"],
        ["--no-such-option"],
    ],
)
def test_bad_ros_arguments_end_with_a_sentence(
    capsys: pytest.CaptureFixture[str], args: list[str]
) -> None:
    assert ada3d_ros.ros.agent.main(["--ros-args", *args]) == 2
    assert args[-1] in capsys.readouterr().err
    assert not rclpy.ok()


def test_a_destroyed_node_is_gone(ros_context: Any) -> None:
    """Its lifecycle services stayed in the graph until Python's collector ran.

    A second node of the name, in the same process, was now and then never found.
    """
    observer = Node("observer", context=ros_context)
    for index in range(3):
        node = build_node(context=ros_context, namespace=f"robot{index}")
        service = f"/robot{index}/ada3d_agent/change_state"
        assert wait_until(lambda s=service: observer.count_services(s) == 1)
        node.destroy_node()
        assert wait_until(lambda s=service: observer.count_services(s) == 0, 2.0)
        assert ("ada3d_agent", f"/robot{index}") not in observer.get_node_names_and_namespaces()
    observer.destroy_node()


def test_cancel_all_reaches_what_waits_and_what_runs() -> None:
    worker, outcomes, started = RequestWorker(), list[Any](), threading.Event()

    def work(job: Job) -> str:
        started.set()
        while True:
            job.check()
            time.sleep(0.001)

    for _ in range(3):
        job = Job(
            work, lambda result, error: outcomes.append(error), deadline=time.monotonic() + 10
        )
        worker.submit(job, "queue", 8)
    assert started.wait(5.0)
    worker.cancel_all(NotActiveError)
    assert wait_until(lambda: len(outcomes) == 3)
    assert {type(error) for error in outcomes} == {NotActiveError}
    assert worker.stop()
