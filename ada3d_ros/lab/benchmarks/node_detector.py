"""What a detector in the background costs the questions of a node: their latency while frames come,
with it and without it, in turn.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from typing import Any

from ada3d_ros.lab.benchmarks.node import CAMERA_HZ, Camera
from ada3d_ros.msg import AgentStatus
from ada3d_ros.ros.peer import AgentPeer, PeerError
from ada3d_ros.srv import QueryScene

ROUNDS = 3  # of a node without and one with the detector, in turn
APART_S = 0.4  # between two questions
QUESTION = QueryScene.Request(question="Describe the place.", max_new_tokens=4, timeout_sec=60.0)


def measure_detector(
    parameters: Mapping[str, object], detector: str, questions: int
) -> dict[str, Any]:
    """Latency of so many questions each, ms, and what the detector did meanwhile. Raises PeerError
    for a node that does not come up.
    """
    times: dict[str, list[float]] = {"without": [], "with": []}
    waits: dict[str, list[float]] = {"without": [], "with": []}
    done = {"frames.looked_at": 0, "frames.dropped": 0}
    ms_each: list[float] = []
    for _ in range(ROUNDS):
        for name, path in (("without", ""), ("with", detector)):
            own = {"detector.path": path} if path else {}
            with AgentPeer({**parameters, **own}) as peer:
                peer.wait_for_state({AgentStatus.WAITING_FOR_DATA}, 60.0)
                for total_ms, wait_ms in _ask(peer, math.ceil(questions / ROUNDS)):
                    times[name].append(total_ms)
                    waits[name].append(wait_ms)
                if path:
                    values = peer.next_diagnostics()["Detector"]
                    ms_each.append(float(values["ms_per_frame"]))
                    for key in done:
                        done[key] += int(values[key])
    return {
        "latency": {name: _summary(values) for name, values in times.items()},
        "wait": {name: _summary(values) for name, values in waits.items()},
        "detector": {"ms_per_frame_p50": statistics.median(ms_each), **done},
    }


def _ask(peer: AgentPeer, count: int) -> list[tuple[float, float]]:
    """Total and waiting time of each question, ms, while the camera moves; the first is warm-up."""
    camera, found = Camera(peer), list[tuple[float, float]]()
    start, index, future = time.monotonic(), 0, None
    next_s = math.inf
    while len(found) < count + 1:
        camera.publish(index)
        index += 1
        if math.isinf(next_s) and any(s.state == AgentStatus.READY for s in peer.statuses):
            next_s = time.monotonic()
        if future is None and time.monotonic() >= next_s:
            future = peer.send(QueryScene, "query", QUESTION)
        peer.spin_for(max(0.0, start + index / CAMERA_HZ - time.monotonic()))
        if future is not None and future.done():
            answer, future = future.result().answer, None
            if not answer.success:
                raise PeerError(f"a question was not answered: {answer.error_msg}")
            found.append((answer.latency.total_ms, answer.latency.wait_ms))
            next_s = time.monotonic() + APART_S
        if time.monotonic() > start + 120.0:
            raise PeerError(f"{len(found)} of {count + 1} questions answered within 120 s.")
    return found[1:]


def _summary(times_ms: list[float]) -> dict[str, float]:
    tenths = statistics.quantiles(times_ms, n=10)
    return {
        "n": len(times_ms),
        "p10_ms": tenths[0],
        "p50_ms": statistics.median(times_ms),
        "p90_ms": tenths[8],
        "max_ms": max(times_ms),
    }


def print_detector(results: dict[str, Any]) -> None:
    """The same for people."""
    for name in ("without", "with"):
        parts = (("latency", "a question"), ("wait", "of it waiting"))
        told = [
            f"{words} p50 {s['p50_ms']:.1f} ms (p10 {s['p10_ms']:.1f}, p90 {s['p90_ms']:.1f}, max"
            f" {s['max_ms']:.1f})"
            for key, words in parts
            for s in (results[key][name],)
        ]
        print(f"{name} the detector (n={results['latency'][name]['n']}): {', '.join(told)}")
    done = results["detector"]
    print(
        f"  it looked at {done['frames.looked_at']} frames, {done['ms_per_frame_p50']:.1f} ms"
        f" each, and dropped {done['frames.dropped']}"
    )
