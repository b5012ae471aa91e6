"""A node that starts an agent in a process of its own and talks to it, for demo and benchmark."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from ada3d_ros.errors import Ada3DError
from ada3d_ros.msg import AgentStatus
from ada3d_ros.ros.watch import LARGE_IMAGES_PROFILE


class PeerError(Ada3DError):
    """The agent process did not do what was waited for."""


def use_large_image_transport() -> None:
    """Let Fast DDS send whole RGB-D frames through shared memory, unless the environment chooses.

    Call it before rclpy.init.
    """
    # The names of Fast DDS 2 and 3.
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        os.environ.setdefault(name, str(LARGE_IMAGES_PROFILE))


@contextmanager
def start_verb(*args: str) -> Iterator[subprocess.Popen[bytes]]:
    """`ada3d <args>` in a process of its own, with this Python; it ends with the block.

    Ctrl-C in a terminal is for this process alone.
    """
    command = [sys.executable, "-m", "ada3d_ros", *args]
    with subprocess.Popen(command, process_group=0) as process:
        try:
            yield process
        finally:
            process.kill()


def make_random_model(folder: Path) -> Path:
    """A small checkpoint with random weights in `folder`. Raises PeerError."""
    with start_verb("random-model", str(folder)) as process:
        if process.wait(120.0):
            raise PeerError(f"`ada3d random-model {folder}` failed.")
    return folder


class AgentPeer:
    """The agent process and a node beside it; a context manager, which ends the process."""

    def __init__(
        self,
        parameters: Mapping[str, object],
        remaps: Mapping[str, str] | None = None,
        log: IO[bytes] | None = None,
    ) -> None:
        # The agent, configured and activated by itself.
        use_large_image_transport()
        command = [sys.executable, "-m", "ada3d_ros", "agent", "--ros-args"]
        for name, value in {"autostart": "true", **parameters}.items():
            command += ["-p", f"{name}:={value}"]
        for source, target in (remaps or {}).items():
            command += ["-r", f"{source}:={target}"]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, process_group=0)

        # The node beside it, and what the agent reports.
        rclpy.init()
        self.node = Node("ada3d_peer")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self.statuses: list[AgentStatus] = []
        self.diagnostics: list[DiagnosticArray] = []
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        subscribe = self.node.create_subscription
        subscribe(AgentStatus, "/ada3d_agent/status", self.statuses.append, latched)
        subscribe(DiagnosticArray, "/diagnostics", self.diagnostics.append, 10)
        self._clients: dict[str, Any] = {}

    def __enter__(self) -> AgentPeer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # In silence where somebody pressed Ctrl-C.
        self.process.kill() if kind is KeyboardInterrupt else self.process.terminate()
        try:
            self.process.wait(10.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()

    def spin_for(self, seconds: float) -> None:
        self.spin_until(lambda: False, seconds)

    def spin_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Handle messages until the condition holds; False if the time ran out first."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end and not condition():
            self._executor.spin_once(timeout_sec=min(0.02, timeout_s))
        return condition()

    def wait_for_state(self, states: set[int], timeout_s: float) -> None:
        """Raises PeerError with the node's own sentence on ERROR, its end, or a time-out."""

        def reached() -> bool:
            status = self.statuses[-1] if self.statuses else None
            if status is not None and status.state == AgentStatus.ERROR:
                raise PeerError(f"the agent failed: {status.detail}")
            if self.process.poll() is not None:
                raise PeerError(f"the agent failed: exit code {self.process.returncode}")
            return status is not None and status.state in states

        if not self.spin_until(reached, timeout_s):
            last = self.statuses[-1].detail if self.statuses else "no ~/status received"
            raise PeerError(f"the agent was not ready within {timeout_s:.0f} s: {last}")

    def send(self, service: type, name: str, request: Any) -> Any:
        """A future of /ada3d_agent/<name>."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(service, f"/ada3d_agent/{name}")
            self.spin_until(self._clients[name].service_is_ready, 10.0)
        return self._clients[name].call_async(request)

    def call(self, service: type, name: str, request: Any, timeout_s: float = 60.0) -> Any:
        """The response of /ada3d_agent/<name>. Raises PeerError without one."""
        future = self.send(service, name, request)
        self._executor.spin_until_future_complete(future, timeout_sec=timeout_s)
        if not future.done():
            raise PeerError(f"no answer from {name} within {timeout_s:.0f} s.")
        return future.result()

    def next_diagnostics(self) -> dict[str, dict[str, str]]:
        """Fresh diagnostics as task -> key -> value."""
        count = len(self.diagnostics)
        if not self.spin_until(lambda: len(self.diagnostics) > count + 1, 10.0):
            raise PeerError("no diagnostics within 10 s.")
        return {
            s.name.split(": ", 1)[1]: {kv.key: kv.value for kv in s.values}
            for s in self.diagnostics[-1].status
        }
