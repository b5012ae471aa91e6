"""`ada3d bench-node`: what the node costs without the model: CPU per frame, drops, latency.

The node runs in a process of its own with a small random-weight model; this process publishes and
asks. CPU time is the node process's own (user + system, all threads), the share of an idle node
subtracted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from ada3d_ros.config import as_options
from ada3d_ros.lab.command_line import add_model_folders, model_folders
from ada3d_ros.lab.results import write_results
from ada3d_ros.msg import AgentStatus
from ada3d_ros.ros.conversions import ns_to_time
from ada3d_ros.ros.peer import AgentPeer, PeerError, make_random_model
from ada3d_ros.srv import GetModelInfo, QueryScene

WIDTH, HEIGHT, CAMERA_HZ = 640, 480, 30.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
ROUNDS = 4  # of idle and busy service calls, in turn


class Camera:
    """A 640x480 camera with a pose, on a peer's node."""

    def __init__(self, peer: AgentPeer) -> None:
        # The messages, made once: noise, and depths of half a metre to four.
        self._peer = peer
        reliable = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        create = peer.node.create_publisher
        rng = np.random.default_rng(0)
        rgb = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
        rgb.data = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8).tobytes()
        depth = Image(height=HEIGHT, width=WIDTH, encoding="16UC1", step=2 * WIDTH)
        depth.data = rng.integers(500, 4000, (HEIGHT, WIDTH), dtype=np.uint16).tobytes()
        info = CameraInfo(height=HEIGHT, width=WIDTH, distortion_model="plumb_bob")
        info.k = [525.0, 0.0, 319.5, 0.0, 525.0, 239.5, 0.0, 0.0, 1.0]
        self._pose = PoseStamped()
        self._pose.pose.position.z = 1.0
        self._pose.pose.orientation.x, self._pose.pose.orientation.w = -(0.5**0.5), 0.5**0.5

        # The topics of a node without remappings.
        self._outputs = [
            (create(PoseStamped, "pose", reliable), self._pose, "map"),
            (create(CameraInfo, "rgb/camera_info", reliable), info, "camera_color_optical_frame"),
            (create(Image, "rgb/image", reliable), rgb, "camera_color_optical_frame"),
            (create(Image, "depth/image", reliable), depth, "camera_color_optical_frame"),
        ]

    def publish(self, index: int) -> None:
        """One frame, the camera 2 cm further on: about every tenth becomes a keyframe."""
        stamp = ns_to_time(time.time_ns())
        self._pose.pose.position.x = 0.02 * index
        for publisher, message, frame_id in self._outputs:
            message.header.stamp, message.header.frame_id = stamp, frame_id
            publisher.publish(message)

    def stream(self, seconds: float) -> int:
        """Publish at CAMERA_HZ; returns how many frames."""
        start, index = time.monotonic(), 0
        while time.monotonic() - start < seconds:
            self.publish(index)
            index += 1
            self._peer.spin_for(max(0.0, start + index / CAMERA_HZ - time.monotonic()))
        return index


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, user and system, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def measure_frames(peer: AgentPeer, seconds: float, repetitions: int) -> dict[str, Any]:
    """CPU of the node per synchronised set, idle share subtracted; one number per repetition."""
    # Warm up, then what the node uses while nothing comes.
    camera, pid = Camera(peer), peer.process.pid
    camera.stream(2.0)
    idle_start, start = cpu_s(pid), time.monotonic()
    peer.spin_for(seconds)
    idle_share = (cpu_s(pid) - idle_start) / (time.monotonic() - start)

    # Each repetition: CPU time over the sets that came of it.
    per_set, shares, published = [], [], 0
    values = peer.next_diagnostics()["Synchronization"]
    for _ in range(repetitions):
        sets, cpu, start = int(values["sets"]), cpu_s(pid), time.monotonic()
        published += camera.stream(seconds)
        used, elapsed = cpu_s(pid) - cpu, time.monotonic() - start
        values = peer.next_diagnostics()["Synchronization"]
        sets = int(values["sets"]) - sets
        if sets == 0:
            raise PeerError("no published frame has reached the node; raise --seconds.")
        per_set.append((used - idle_share * elapsed) / sets * 1e3)
        shares.append(used / elapsed)

    dropped = {k.removeprefix("dropped."): v for k, v in values.items() if k.startswith("dropped.")}
    return {
        "published": published,
        "sets": int(values["sets"]),
        "frames_decoded": int(values["frames"]),
        "drops": {reason: int(count) for reason, count in dropped.items() if count != "0"},
        "idle_cpu_share": idle_share,
        "cpu_share": shares,
        "cpu_ms_per_set": per_set,
        "decode_check_admit_cpu_ms_p50": float(values["frame_cpu_ms_p50"]),
        "decode_check_admit_cpu_ms_p95": float(values["frame_cpu_ms_p95"]),
    }


def service_ms(
    peer: AgentPeer, count: int, is_over: Callable[[], bool] = lambda: False
) -> list[float]:
    """Round trips of get_model_info, one after the other, until `count` or `is_over`."""
    times: list[float] = []
    while len(times) < count and not is_over():
        start = time.perf_counter()
        peer.call(GetModelInfo, "get_model_info", GetModelInfo.Request())
        times.append((time.perf_counter() - start) * 1e3)
        peer.spin_for(0.005)
    return times


def measure_services(peer: AgentPeer, count: int, max_new_tokens: int) -> dict[str, Any]:
    """get_model_info on an idle node, and while it writes an answer of so many tokens, in turn."""
    idle: list[float] = []
    busy: list[float] = []
    tokens = 0
    question = QueryScene.Request(
        question="What is in front of the robot?",
        max_new_tokens=max_new_tokens,
        timeout_sec=120.0,
    )
    for _ in range(ROUNDS):
        # Idle.
        idle += service_ms(peer, count // ROUNDS)

        # While it answers: until enough calls are made, or the answer is there.
        future = peer.send(QueryScene, "query", question)
        peer.spin_for(0.1)
        busy += service_ms(peer, count // ROUNDS, future.done)
        if not peer.spin_until(future.done, 120.0):
            raise PeerError("no answer to a question within 120 s.")
        tokens += future.result().answer.tokens.generated
    return {
        "idle": _summary(idle),
        "while_answering": _summary(busy),
        "tokens_generated_meanwhile": tokens,
    }


def _summary(times_ms: list[float]) -> dict[str, float]:
    if len(times_ms) < 2:
        raise PeerError(f"{len(times_ms)} service calls could be timed; raise --calls.")
    return {
        "n": len(times_ms),
        "p50_ms": statistics.median(times_ms),
        "p95_ms": statistics.quantiles(times_ms, n=20)[18],
        "max_ms": max(times_ms),
    }


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The whole measurement. Raises PeerError if the node does not come up."""
    own = {} if options.model else {"model.path": str(make_random_model(folder / "random"))}
    parameters = {
        **own,
        **model_folders(options),
        "input.max_rate_hz": options.max_rate_hz,
        "generation.timeout_sec": 120.0,
    }
    if options.detector:
        from ada3d_ros.lab.benchmarks.node_detector import measure_detector  # it has our camera

        measured = measure_detector(parameters, options.detector, options.questions)
        return {"suite": "node_detector", "n": options.questions, **measured}
    with AgentPeer(parameters) as peer:
        peer.wait_for_state({AgentStatus.WAITING_FOR_DATA}, 60.0)
        return {
            "suite": "node",
            "n": options.repetitions,
            "max_rate_hz": options.max_rate_hz,
            "frames": measure_frames(peer, options.seconds, options.repetitions),
            "services": measure_services(peer, options.calls, options.max_new_tokens),
        }


def main(args: Sequence[str]) -> int:
    """Returns 0; 1 if the node does not come up."""
    parser = argparse.ArgumentParser(
        prog="ada3d bench-node",
        description="Measure the node without the model's own work: CPU per 640x480 frame at 30 Hz,"
        " drops, service latency.",
    )
    add = parser.add_argument
    add_model_folders(add, "a small one with random weights")
    add(
        "--max-rate-hz",
        type=float,
        default=60.0,
        help="input.max_rate_hz of the node (default 60: every frame is decoded)",
    )
    add("--seconds", type=float, default=10.0, help="per repetition (default 10)")
    add("--repetitions", type=int, default=5, help="(default 5)")
    add("--calls", type=int, default=400, help="service calls, idle and busy each (default 400)")
    add(
        "--max-new-tokens",
        type=int,
        default=2048,
        help="length of the answers that keep the node busy (default 2048)",
    )
    add(
        "--detector",
        default="",
        metavar="FILE",
        help="instead: latency of questions while frames come, with this detector and without it",
    )
    add("--questions", type=int, default=60, help="of --detector, each way (default 60)")
    add("--json", type=Path, help="write the results here")
    options = parser.parse_args(list(args))

    # A node that cannot be reached is an error of the command, not a figure.
    with tempfile.TemporaryDirectory() as folder:
        try:
            results = run(options, Path(folder))
        except PeerError as error:
            print(f"ada3d bench-node: {as_options(str(error))}", file=sys.stderr)
            return 1

    if options.detector:
        from ada3d_ros.lab.benchmarks.node_detector import print_detector

        print_detector(results)
    else:
        _print(results["frames"], results["services"])
    if options.json:
        print(f"wrote {write_results(options.json, results, device='cpu', seed=0)}")
    return 0


def _print(frames: dict[str, Any], services: dict[str, Any]) -> None:
    # Frames: how many came through, and what they cost.
    per_set = frames["cpu_ms_per_set"]
    print(
        f"frames: {frames['published']} published at {CAMERA_HZ:g} Hz, {frames['sets']}"
        f" synchronised, {frames['frames_decoded']} decoded (warm-up included); drops"
        f" {frames['drops']}"
    )
    print(
        f"  CPU per set, all threads, idle share {frames['idle_cpu_share']:.3f} subtracted:"
        f" median {statistics.median(per_set):.2f} ms ({min(per_set):.2f} to {max(per_set):.2f},"
        f" n={len(per_set)}); share of one core {statistics.median(frames['cpu_share']):.3f}"
    )
    print(
        f"  of it decode + check + admit: p50 {frames['decode_check_admit_cpu_ms_p50']:.2f} ms, p95"
        f" {frames['decode_check_admit_cpu_ms_p95']:.2f} ms"
    )

    # Services: how long they take.
    for name in ("idle", "while_answering"):
        s = services[name]
        print(
            f"get_model_info, {name}: p50 {s['p50_ms']:.2f} ms, p95 {s['p95_ms']:.2f} ms, max"
            f" {s['max_ms']:.2f} ms (n={s['n']})"
        )
