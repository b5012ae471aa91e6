"""The main job, as a robot does it: player and node in processes of their own, and questions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from ada3d_ros.msg import AgentStatus, Answer
from test.support.ros_harness import free_domain

PROGRAM = "import sys; from ada3d_ros.cli import main; sys.exit(main())"
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Processes:
    """Child processes in one ROS domain; SIGINT must stop them cleanly at the end."""

    def __init__(self, domain: int, folder: Path) -> None:
        self._env = {
            **os.environ,
            "ROS_DOMAIN_ID": str(domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "PYTHONUNBUFFERED": "1",
        }
        self._folder = folder
        self._children: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, name: str, *args: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", PROGRAM, *args]
        with (self._folder / f"{name}.log").open("wb") as log:
            child = subprocess.Popen(command, env=self._env, stdout=log, stderr=subprocess.STDOUT)
        self._children.append((name, child))
        return child

    def run(self, *args: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", PROGRAM, *args]
        return subprocess.run(
            command, env=self._env, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def stop(self) -> dict[str, int]:
        codes = {}
        for name, child in reversed(self._children):
            if child.poll() is None:
                child.send_signal(signal.SIGINT)
            try:
                codes[name] = child.wait(15.0)
            except subprocess.TimeoutExpired:
                child.kill()
                codes[name] = child.wait()
        return codes


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[tuple[Processes, int]]:
    with free_domain() as domain:
        children = Processes(domain, tmp_path)
        yield children, domain
        children.stop()


@pytest.fixture
def bag(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The recorded cabinet sequence; where it is absent, a generated room in the same topics."""
    root = Path(os.environ.get("ADA3D_SHARED") or Path(__file__).resolve().parents[3] / "shared")
    recorded = root / "data" / "tum_fr3_cabinet_ros2bag"
    if recorded.is_dir():
        return recorded
    from ada3d_ros.sources.make_bag import main

    assert main(["--synthetic", "-o", str(tmp_path / "room")]) == 0
    return tmp_path / "room"


AGENT_REMAPS = [
    "-r",
    "rgb/image/compressed:=/camera/color/image_raw/compressed",
    "-r",
    "rgb/camera_info:=/camera/color/camera_info",
    "-r",
    "depth/image:=/camera/aligned_depth_to_color/image_raw",
    "-r",
    "pose:=/camera/pose",
]


class Listener:
    """A peer in the test's own process."""

    def __init__(self, domain: int) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node("listener", context=self.context)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def collect(self, cls: type, topic: str, qos: Any = 10) -> list[Any]:
        received: list[Any] = []
        self.node.create_subscription(cls, topic, received.append, qos)
        return received

    def spin_until(self, condition: Any, timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end and not condition():
            self.executor.spin_once(timeout_sec=0.05)
        return bool(condition())

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


def test_bag_to_answer(processes: tuple[Processes, int], bag: Path, tiny_model: Path) -> None:
    """Keyframes from the bag, then a question by service to an idle node: answer and latency."""
    children, domain = processes
    children.start(
        "agent",
        "agent",
        "--ros-args",
        "-p",
        f"model.path:={tiny_model}",
        "-p",
        "autostart:=true",
        "-p",
        "use_sim_time:=true",
        "-p",
        "rgb_transport:=compressed",
        "-p",
        "generation.max_new_tokens:=8",
        *AGENT_REMAPS,
    )
    listener = Listener(domain)
    try:
        statuses = listener.collect(AgentStatus, "/ada3d_agent/status", LATCHED)
        diagnostics = listener.collect(DiagnosticArray, "/diagnostics")
        answers = listener.collect(Answer, "/ada3d_agent/answer")
        waiting = AgentStatus.WAITING_FOR_DATA
        assert listener.spin_until(lambda: statuses and statuses[-1].state == waiting, 60.0), (
            children.log("agent")
        )
        player = children.start("replay", "replay", str(bag), "--rate", "5", "--wait-sec", "30")
        assert listener.spin_until(lambda: player.poll() is not None, 90.0), children.log("replay")
        assert player.returncode == 0, children.log("replay")
        assert listener.spin_until(
            lambda: statuses[-1].state == AgentStatus.READY and statuses[-1].keyframes >= 8, 5.0
        ), children.log("agent")
        listener.spin_until(lambda: False, 1.0)
        asked = children.run("ask", "What is in front of the robot?", "--json")
        assert asked.returncode == 0, asked.stderr + children.log("agent")
        answer = json.loads(asked.stdout)
        assert answer["success"]
        assert answer["header"]["frame_id"] == "map"
        assert len(answer["keyframe_stamps"]) >= 8
        assert answer["tokens"]["spatial_total"] > 50
        latency = answer["latency"]
        stages = [latency[f"{stage}_ms"] for stage in ("spatial", "prefill", "decode")]
        assert all(ms > 0 for ms in stages)
        assert answer["scene_cached"]
        # Every keyframe was encoded before the question came, and cached while nothing was asked.
        assert latency["vision_ms"] is None
        assert answer["scene_staleness"] == 0.0
        assert sum(stages) <= latency["total_ms"]
        assert listener.spin_until(lambda: bool(answers), 5.0)
        assert listener.spin_until(
            lambda: _value(diagnostics[-1], "Inference", "succeeded") == "1", 5.0
        )
        assert float(_value(diagnostics[-1], "Inference", "total_ms_p95")) > 0
        assert _value(diagnostics[-1], "Inference", "internal_errors") == "0"
        images = [
            _value(diagnostics[-1], "Inputs", f"{name}.received") for name in ("rgb", "depth")
        ]
        assert int(images[0]) == int(images[1]) > 0
        assert float(_value(diagnostics[-1], "Synchronization", "frame_cpu_ms_p50")) > 0
        # Random weights may attend to some place enough for a box, but never to one place alone,
        # and no box fits into eight tokens of text.
        grounded = children.run("ground", "the cabinet", "--min-score", "1.0")
        assert grounded.returncode == 1
        assert "NOT_GROUNDED" in grounded.stdout
    finally:
        listener.close()
    codes = children.stop()
    assert codes["agent"] == 0, children.log("agent")
    assert "Traceback" not in children.log("agent")


def _value(array: Any, task: str, key: str) -> str:
    status = next(s for s in array.status if s.name.endswith(task))
    return next(kv.value for kv in status.values if kv.key == key)


def test_ask_without_a_node_says_what_to_do(processes: tuple[Processes, int]) -> None:
    children, _ = processes
    asked = children.run("ask", "hello?")
    assert asked.returncode == 2
    assert "ada3d agent" in asked.stderr


def test_replay_refuses_what_is_not_a_bag(processes: tuple[Processes, int], tmp_path: Path) -> None:
    children, _ = processes
    result = children.run("replay", str(tmp_path / "nothing"))
    assert result.returncode == 2
    assert "no bag at" in result.stderr
    assert "Traceback" not in result.stderr
