"""The node's process in every state, told to end: callers are answered first, exit code 0."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
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
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import SetBool

from ada3d_ros.action import AskScene
from ada3d_ros.errors import ErrorCode
from ada3d_ros.msg import AgentStatus
from ada3d_ros.ros.client import ask_main, ground_main
from ada3d_ros.ros.peer import start_verb
from ada3d_ros.srv import GroundObject, QueryScene
from test.support.ros_harness import TOPICS, Spinner, frame_messages, free_domain, wait_until

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60.0  # for what takes a second on a machine that is not busy

# The real program around a pipeline of which one step takes for ever: nothing may wait for it.
PROGRAM = """
import atexit, sys, threading
import ada3d_ros.ros.agent as agent
from ada3d_ros.__main__ import run
from test.support.ros_harness import scripted

class Slow(scripted("word " * 400, step_s=0.05)):
    pass

class StuckAnswering(Slow):
    def ask(self, *args):
        print("STUCK", flush=True)
        threading.Event().wait()

class StuckLoading(Slow):
    def load(self):
        print("STUCK", flush=True)
        threading.Event().wait()

pipeline, build = globals()[sys.argv[1]], agent.build_node
agent.build_node = lambda: build(pipeline)
atexit.register(print, "TEARDOWN", flush=True)
run(["agent", *sys.argv[2:]])
"""


class AgentProcess:
    """The node in a process of its own, and a peer that talks to it."""

    def __init__(self, log: Path, domain: int, pipeline: str, **settings: object) -> None:
        self._log = log
        values = {"autostart": "true", "input.max_age_sec": 0.0, "action.queue_size": 2}
        options = [f"{name}:={value}" for name, value in {**values, **settings}.items()]
        arguments = [word for option in options for word in ("-p", option)]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, pipeline, "--ros-args", *arguments],
                env={**os.environ, "ROS_DOMAIN_ID": str(domain), "PYTHONUNBUFFERED": "1"},
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = Node("peer", context=self._context)
        self._spinner = Spinner(self._context)
        self._spinner.executor.add_node(self.node)
        self._spinner.start()
        self.statuses: list[AgentStatus] = []
        self.node.create_subscription(AgentStatus, "/ada3d_agent/status", self.statuses.append, 10)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait(self, condition: Callable[[], bool]) -> None:
        assert wait_until(condition, LIMIT_S), self.log

    def wait_for_status(self, condition: Callable[[AgentStatus], bool]) -> None:
        self.wait(lambda: bool(self.statuses) and condition(self.statuses[-1]))

    def client(self, service: type, name: str) -> Any:
        client = self.node.create_client(service, f"/ada3d_agent/{name}")
        assert client.wait_for_service(LIMIT_S), self.log
        return client

    def call(self, service: type, name: str, request: Any) -> Any:
        future = self.client(service, name).call_async(request)
        self.wait(future.done)
        return future.result()

    def change(self, transition: int) -> None:
        request = ChangeState.Request(transition=Transition(id=transition))
        assert self.call(ChangeState, "change_state", request).success

    def show_a_frame(self) -> None:
        """Until it is a keyframe: the first may come before the node has found its publisher."""
        frame = frame_messages(10**9)
        publishers = {
            name: self.node.create_publisher(type(frame[name]), topic, 10)
            for name, topic in TOPICS.items()
        }
        self.wait(lambda: all(p.get_subscription_count() for p in publishers.values()))

        def shown() -> bool:
            for name, publisher in publishers.items():
                publisher.publish(frame[name])
            return wait_until(lambda: self.statuses[-1].keyframes == 1, 2.0)

        self.wait_for_status(lambda status: status.state == AgentStatus.WAITING_FOR_DATA)
        self.wait(shown)

    def end(self, kind: signal.Signals = signal.SIGINT) -> None:
        """Ask it to end: it does, with code 0, in silence, without the interpreter's teardown."""
        self.process.send_signal(kind)
        assert self.process.wait(LIMIT_S) == 0, self.log
        assert "Traceback" not in self.log, self.log
        assert "TEARDOWN" not in self.log, self.log

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._spinner.stop()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)


Start = Callable[..., AgentProcess]


@pytest.fixture
def start(tiny_model: Path, tmp_path: Path) -> Iterator[Start]:
    """start(pipeline, ...) -> AgentProcess, in a domain of its own."""
    started: list[AgentProcess] = []
    with free_domain() as domain:

        def begin(pipeline: str = "Slow", **settings: object) -> AgentProcess:
            values = {"model.path": tiny_model, **settings}
            started.append(AgentProcess(tmp_path / "agent.log", domain, pipeline, **values))
            return started[-1]

        yield begin
        for agent in started:
            agent.close()


def test_unconfigured(start: Start) -> None:
    agent = start(autostart="false")
    agent.wait_for_status(lambda status: status.state == AgentStatus.UNCONFIGURED)
    agent.end()


@pytest.mark.parametrize(
    "steps",
    [
        (Transition.TRANSITION_DEACTIVATE,),
        (Transition.TRANSITION_ACTIVE_SHUTDOWN,),
    ],
    ids=["inactive", "finalized"],
)
def test_inactive_and_finalized(start: Start, steps: tuple[int, ...]) -> None:
    agent = start()
    agent.wait_for_status(lambda status: status.state == AgentStatus.WAITING_FOR_DATA)
    for step in steps:
        agent.change(step)
    agent.end()


def test_idle_and_paused(start: Start) -> None:
    agent = start()
    agent.show_a_frame()
    assert agent.call(SetBool, "set_paused", SetBool.Request(data=True)).success
    agent.end()


def test_loading_weights(start: Start) -> None:
    """Reading a file cannot be interrupted: the process does not wait for it."""
    agent = start("StuckLoading")
    agent.wait(lambda: "STUCK" in agent.log)
    agent.end()


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("pipeline", ["Slow", "StuckAnswering"])
def test_ctrl_c_while_answering(start: Start, pipeline: str, kind: signal.Signals) -> None:
    """One goal runs, two questions wait, the queue is full: all have their answer first."""
    agent = start(pipeline, **{"generation.max_new_tokens": 400})
    agent.show_a_frame()
    query = agent.client(QueryScene, "query")
    ground = agent.client(GroundObject, "ground")
    action = ActionClient(agent.node, AskScene, "/ada3d_agent/ask_scene")
    assert action.wait_for_server(LIMIT_S)

    # a goal that runs, and a question and a phrase behind it
    feedback: list[Any] = []
    sending = action.send_goal_async(
        AskScene.Goal(question="hello?"), feedback_callback=feedback.append
    )
    agent.wait(sending.done)
    result = sending.result().get_result_async()
    if pipeline == "Slow":
        agent.wait(lambda: any(f.feedback.delta for f in feedback))
    else:
        agent.wait(lambda: "STUCK" in agent.log)
    waiting = [
        query.call_async(QueryScene.Request(question="What is there?")),
        ground.call_async(GroundObject.Request(phrase="the box")),
    ]
    agent.wait_for_status(lambda status: status.queued == 2)
    refused = query.call_async(QueryScene.Request(question="One too many?"))
    agent.wait(refused.done)
    assert refused.result().answer.error_code == ErrorCode.BUSY

    agent.end(kind)
    for future in (result, *waiting):
        agent.wait(future.done)
    assert result.result().status == GoalStatus.STATUS_ABORTED
    for answer in (result.result().result.answer, *(future.result().answer for future in waiting)):
        assert answer.error_code == ErrorCode.NOT_ACTIVE
        assert "the node went away while it worked" in answer.error_msg


class Deaf:
    """A node of the agent's name that takes questions and goals, and answers none."""

    def __init__(self, domain: int) -> None:
        self.asked = threading.Event()
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self._node = Node("ada3d_agent", context=self._context)
        group, create = ReentrantCallbackGroup(), self._node.create_service
        create(QueryScene, "~/query", self._on_request, callback_group=group)
        create(GroundObject, "~/ground", self._on_request, callback_group=group)
        self._node.create_publisher(AgentStatus, "~/status", 1)
        self._spinner = Spinner(self._context)
        self._spinner.executor.add_node(self._node)
        self._spinner.start()

    async def _on_request(self, request: Any, response: Any) -> Any:
        self.asked.set()
        await Future(executor=self._node.executor)

    def close(self) -> None:
        self._spinner.stop()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)


@pytest.mark.parametrize("verb", [ask_main, ground_main], ids=["ask", "ground"])
@pytest.mark.parametrize("restarts", [False, True], ids=["gone", "restarted"])
def test_clients_say_that_the_node_went_away(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verb: Callable[[list[str]], int],
    restarts: bool,
) -> None:
    """`ada3d ask` waited to the end of its time, and then said nothing of the node.

    Another node that takes the name knows nothing of the question.
    """
    with free_domain() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        nodes = [Deaf(domain)]

        def die() -> None:
            assert nodes[0].asked.wait(LIMIT_S)
            if restarts:
                nodes.append(Deaf(domain))
            nodes.pop(0).close()

        dying = threading.Thread(target=die)
        dying.start()
        try:
            assert verb(["the box", "--timeout", "30"]) == 2
        finally:
            dying.join()
            for node in nodes:
                node.close()
    assert "/ada3d_agent: the node went away while it worked" in capsys.readouterr().err


def test_processes_that_a_verb_started_end_with_it() -> None:
    """Ctrl-C in a terminal reaches the verb alone: its children say nothing, and do not stay."""
    started: list[subprocess.Popen[bytes]] = []

    def interrupted() -> None:
        with start_verb("replay", "nowhere") as process:
            started.append(process)
            assert os.getpgid(process.pid) != os.getpgid(0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert started[0].returncode is not None
