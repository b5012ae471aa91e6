"""A node whose questions a server answers, over DDS: what it says of the server, also a lost one.

The node is the robot's real process, small and without torch; the server is a model behind HTTP.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node

from ada3d_ros.config import AgentConfig, from_flat
from ada3d_ros.create_pipeline import create_pipeline
from ada3d_ros.errors import ErrorCode
from ada3d_ros.fleet.scene_host import SceneHost
from ada3d_ros.msg import AgentStatus
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.ros.doctor import main as doctor
from ada3d_ros.ros.outputs import LATCHED
from ada3d_ros.srv import GetObjects, QueryScene
from ada3d_ros.types import Question, Scope
from test.support.fleet_server import scripted_server
from test.support.hosted_server import HostedServer
from test.support.ros_harness import (
    TOPICS,
    Harness,
    Spinner,
    frame_messages,
    free_domain,
    wait_until,
)

SECOND = 1_000_000_000
LIMIT_S = 60.0  # for what takes a second on a machine that is not busy
ROBOT_MIB = 250.0
TEXT = "Is there a chair?"
CONFIG: AgentConfig = from_flat(
    {"model.path": "embedded", "objects.enabled": False, "generation.max_new_tokens": 6}
)


@dataclass(frozen=True)
class Robot:
    """The node's process, and what a peer hears of it."""

    process: subprocess.Popen[bytes]
    log_file: Path
    url: str
    server: HostedServer
    peer: Node
    statuses: list[Any]
    diagnostics: list[Any]

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def wait(self, condition: Callable[[], bool]) -> None:
        assert wait_until(condition, LIMIT_S), self.log

    def call(self, service: type, name: str, request: Any) -> Any:
        client = self.peer.create_client(service, f"/ada3d_agent/{name}")
        assert client.wait_for_service(LIMIT_S), self.log
        future = client.call_async(request)
        self.wait(future.done)
        return future.result()

    def ask(self, scope: Scope = Scope.SCENE) -> Any:
        request = QueryScene.Request(question=TEXT, scope=scope.value)
        return self.call(QueryScene, "query", request).answer

    def keyframes(self) -> int:
        return self.statuses[-1].keyframes if self.statuses else 0

    def show(self, count: int) -> None:
        """Frames, until so many are keyframes."""
        publishers = {
            name: self.peer.create_publisher(type(message), TOPICS[name], 10)
            for name, message in frame_messages(0).items()
        }
        self.wait(lambda: all(p.get_subscription_count() for p in publishers.values()))
        self.wait(lambda: bool(self.statuses) and self.statuses[-1].state >= 2)
        for index in range(count):
            messages = frame_messages((index + 1) * SECOND, x_m=0.5 * index)

            def shown(messages: dict[str, Any] = messages, wanted: int = index + 1) -> bool:
                for name, publisher in publishers.items():
                    publisher.publish(messages[name])
                return wait_until(lambda: self.keyframes() >= wanted, 2.0)

            self.wait(shown)

    def model_task(self) -> tuple[bytes, str, dict[str, str]]:
        """Level, sentence and values of a diagnostics message of after this call."""
        count = len(self.diagnostics)
        self.wait(lambda: len(self.diagnostics) > count + 1)
        name = "ada3d_agent: Model and GPU"
        task = next(s for s in self.diagnostics[-1].status if s.name == name)
        return task.level, task.message, {pair.key: pair.value for pair in task.values}


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    folder = tmp_path_factory.mktemp("robot")
    host = SceneHost(CONFIG)
    host.load()
    with free_domain() as domain, scripted_server(server=HostedServer(host)) as (url, server):
        settings = {
            "model.remote": url,
            "remote.robot_id": "r1",
            "remote.retry_sec": 0.0,
            "autostart": "true",
            "input.max_age_sec": 0.0,
            "generation.max_new_tokens": 6,
        }
        options = [word for n, v in settings.items() for word in ("-p", f"{n}:={v}")]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "ada3d_ros", "agent", "--ros-args", *options],
                env={**os.environ, "ROS_DOMAIN_ID": str(domain), "PYTHONUNBUFFERED": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain)
        peer, spinner = Node("peer", context=context), Spinner(context)
        statuses: list[Any] = []
        diagnostics: list[Any] = []
        peer.create_subscription(AgentStatus, "/ada3d_agent/status", statuses.append, LATCHED)
        peer.create_subscription(DiagnosticArray, "/diagnostics", diagnostics.append, 10)
        spinner.executor.add_node(peer)
        spinner.start()
        assert isinstance(server, HostedServer)
        made = Robot(process, folder / "log", url, server, peer, statuses, diagnostics)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ROS_DOMAIN_ID", str(domain))
            made.show(3)
            yield made
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 0, made.log
        spinner.stop()
        peer.destroy_node()
        rclpy.try_shutdown(context=context)
    assert host.close()


def test_the_server_answers_as_a_model_here_and_diagnostics_say_so(robot: Robot) -> None:
    answers = [robot.ask(), robot.ask(Scope.LATEST_IMAGE)]
    _, scene = robot.server.host.store.whole(robot.server.keys[-1])
    local = Ada3DPipeline(CONFIG)
    local.load()
    local.restore(scene)
    for answer, scope in zip(answers, (Scope.SCENE, Scope.LATEST_IMAGE), strict=True):
        assert answer.success, answer.error_msg
        assert answer.text == local.ask(Question(TEXT, scope=scope)).text
    assert [len(answer.keyframe_stamps) for answer in answers] == [3, 1]
    assert {key[0] for key in robot.server.keys} == {"r1"}

    level, sentence, values = robot.model_task()
    assert level == DiagnosticStatus.OK
    assert sentence.startswith("ask on ")
    assert values["remote.url"] == robot.url
    assert values["remote.answers_from"] == "server"
    assert values["device"] == f"cpu of {robot.url}"
    assert int(values["remote.answers"]) == 2
    assert float(values["remote.network_ms"]) > 0.0
    assert 0.0 < float(values["remote.sent_mib"]) < 1.0


def test_objects_say_why_there_are_none(robot: Robot) -> None:
    found = robot.call(GetObjects, "get_objects", GetObjects.Request())
    assert not found.success
    assert "the server of model.remote finds them when it is asked" in found.error_msg


def test_the_robots_process_is_small_and_has_no_torch(robot: Robot) -> None:
    folder = Path("/proc") / str(robot.process.pid)
    loaded = {line.rsplit("/", 1)[-1] for line in (folder / "maps").read_text().splitlines()}
    assert [name for name in loaded if "torch" in name] == []
    status = (folder / "status").read_text().splitlines()
    peak_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    assert peak_kib / 1024 < ROBOT_MIB


def test_a_lost_server_is_told_in_one_sentence_until_it_is_back(
    robot: Robot, capfd: pytest.CaptureFixture[str]
) -> None:
    robot.server.lost = True
    answer = robot.ask()
    assert answer.error_code == ErrorCode.REMOTE_LOST
    assert f"the server {robot.url} cannot be reached" in answer.error_msg
    assert "is `ada3d serve` running there" in answer.error_msg
    fault = f"nobody answers: {answer.error_msg}."

    # Status, diagnostics, log, doctor.
    robot.wait(lambda: fault in robot.statuses[-1].faults)
    assert robot.statuses[-1].detail.startswith(fault)
    level, sentence, values = robot.model_task()
    assert (level, sentence) == (DiagnosticStatus.WARN, fault)
    assert values["remote.answers_from"] == "nobody"
    robot.wait(lambda: fault in robot.log)
    capfd.readouterr()
    assert doctor([]) == 1
    assert f"WRONG     health: {fault}" in capfd.readouterr().out.splitlines()

    # It is back: noticed without a question, and asked.
    robot.server.lost = False
    robot.wait(lambda: fault not in robot.statuses[-1].faults)
    assert robot.ask().success
    assert robot.model_task()[0] == DiagnosticStatus.OK


def test_a_fall_back_answers_meanwhile(start_agent: Callable[..., Harness]) -> None:
    with scripted_server() as (url, server):
        settings = {"model.remote": url, "remote.retry_sec": 0.0, "remote.fallback": "embedded"}
        agent = start_agent(create_pipeline, **settings)
        statuses = agent.collect(AgentStatus, "/ada3d_agent/status", LATCHED)
        agent.publish_scene(3)

        def ask() -> Any:
            return agent.call(QueryScene, "query", QueryScene.Request(question=TEXT)).answer

        assert ask().text == "two chairs"
        server.lost = True
        answer = ask()
        assert answer.success, answer.error_msg
        assert answer.text not in ("", "two chairs")
        assert len(answer.keyframe_stamps) == 3
        says = "fall-back embedded answers: the server"
        assert wait_until(lambda: any(says in fault for fault in statuses[-1].faults))
        server.lost = False
        assert wait_until(lambda: not statuses[-1].faults, LIMIT_S)
        assert ask().text == "two chairs"
