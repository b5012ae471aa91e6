"""Counters and rolling windows, and the tasks on /diagnostics that show them.

Builds the DiagnosticArray itself (diagnostic_updater has no wheel), with that library's parameter
names and task naming, so that aggregators and rqt_robot_monitor work.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from ada3d_ros.errors import ConfigError, FrameReason
from ada3d_ros.geometry.stamped import PoseReason
from ada3d_ros.msg import AgentStatus
from ada3d_ros.ros.conversions import LATENCY_STAGES
from ada3d_ros.ros.health_state import INPUTS, MODEL, SCENE, SYNCHRONIZATION, Severity
from ada3d_ros.usage import TokenUsage

if TYPE_CHECKING:
    from ada3d_ros.ros.node import AgentNode

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
LEVELS = {Severity.NOTE: OK, Severity.WARN: WARN, Severity.ERROR: ERROR}


class Window:
    """The last values of one quantity, with percentiles. Safe across threads."""

    def __init__(self, size: int = 200) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._lock = threading.Lock()

    def add(self, value: float) -> None:
        if np.isfinite(value):
            with self._lock:
                self._values.append(value)

    def clear(self) -> None:
        with self._lock:
            self._values.clear()

    def percentile(self, q: float) -> float:
        """The q-th percentile (0..100), NaN without values."""
        with self._lock:
            return float(np.percentile(self._values, q)) if self._values else float("nan")


class Drops:
    """How many frames were given up, per reason; every reason is always listed.

    A drop with a sentence is a refusal, which somebody has to mend. Safe across threads.
    """

    def __init__(self) -> None:
        self._counter: Counter[FrameReason] = Counter()
        self._refusals: dict[FrameReason, tuple[int, str]] = {}
        self._lock = threading.Lock()

    def add(self, reason: FrameReason, why: str = "") -> None:
        """Count a message or frame; `why` it was refused, and the cure."""
        with self._lock:
            self._counter[reason] += 1
            if why:
                self._refusals[reason] = self._refusals.get(reason, (0, ""))[0] + 1, why

    @property
    def num_refused(self) -> int:
        """How many frames were refused since the last good one."""
        return sum(count for count, _ in self.refusals().values())

    def clear_refusals(self) -> None:
        """A frame was used, or the inputs begin anew: the refusals before it are over."""
        with self._lock:
            self._refusals.clear()

    def refusals(self) -> dict[FrameReason, tuple[int, str]]:
        """How often frames were refused since the last good one, and why the last was."""
        with self._lock:
            return dict(self._refusals)

    def snapshot(self) -> dict[FrameReason, int]:
        with self._lock:
            return {reason: self._counter[reason] for reason in FrameReason}


@dataclass(slots=True)
class InputMonitor:
    """What one subscription has seen. Times on time.monotonic()."""

    name: str
    topic: str = ""
    interface: str = ""  # the topic before it is remapped
    type_name: str = ""
    reliability: str = ""
    received: int = 0
    last_stamp_ns: int = -1
    non_increasing: int = 0
    unset_stamps: int = 0  # zero or less, in a row
    wrong_frame: int = 0
    qos_incompatible: int = 0
    received_at_set: int = 0  # `received` when the last set was made
    instead: tuple[str, str] | None = None  # published in another form: topic, setting
    elsewhere: list[str] = field(default_factory=list)  # published topics of its type
    started: float = field(default_factory=time.monotonic)
    offered: float = 0.0  # since when somebody publishes it; 0: nobody does
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    losses: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=100))

    def note(self, stamp_ns: int) -> None:
        """Count one arrived message."""
        self.received += 1
        self.non_increasing += stamp_ns <= self.last_stamp_ns
        self.unset_stamps = self.unset_stamps + 1 if stamp_ns <= 0 else 0
        self.last_stamp_ns = stamp_ns
        self.arrivals.append(time.monotonic())

    @property
    def rate_hz(self) -> float:
        recent = [t for t in self.arrivals if t > time.monotonic() - 10.0]
        if len(recent) < 2 or recent[-1] == recent[0]:
            return 0.0
        return (len(recent) - 1) / (recent[-1] - recent[0])

    @property
    def recently_arrived_and_lost(self) -> tuple[int, int]:
        """Messages of the last 10 s, or the last 100 that arrived: those, and those lost by the
        middleware meanwhile.
        """
        start = time.monotonic() - 10.0
        if len(self.arrivals) == self.arrivals.maxlen:
            start = max(start, self.arrivals[0])
        arrived = sum(t >= start for t in self.arrivals)
        return arrived, sum(count for t, count in self.losses if t >= start)

    @property
    def silent_s(self) -> float:
        """Since the last message, or since one could be expected: subscribed, and published."""
        last = self.arrivals[-1] if self.arrivals else self.started
        return time.monotonic() - max(last, self.offered)


@dataclass(slots=True)
class InferenceMonitor:
    """Requests and their times, in milliseconds."""

    requests: int = 0
    succeeded: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    internal_errors: int = 0
    last_error: str = ""
    windows: dict[str, Window] = field(
        default_factory=lambda: {stage: Window() for stage in LATENCY_STAGES}
    )
    tokens_per_s: Window = field(default_factory=Window)
    last_tokens: TokenUsage | None = None  # of the last answer


Report = tuple[bytes, str, Mapping[str, object]]  # level, message, values


class DiagnosticsPublisher:
    """Turns tasks into one DiagnosticArray. A task that raises becomes an ERROR line."""

    def __init__(self, node_name: str, hardware_id: str) -> None:
        self.node_name = node_name
        self.hardware_id = hardware_id
        self._tasks: dict[str, Callable[[], Report]] = {}

    def add(self, name: str, task: Callable[[], Report]) -> None:
        self._tasks[name] = task

    def statuses(self) -> Iterable[DiagnosticStatus]:
        for name, task in self._tasks.items():
            try:
                level, message, values = task()
            except Exception as error:  # a broken task must not hide the others
                level, message, values = ERROR, f"diagnostics task failed: {error!r}", {}
            yield DiagnosticStatus(
                level=level,
                name=f"{self.node_name}: {name}",
                message=message,
                hardware_id=self.hardware_id,
                values=[KeyValue(key=key, value=_text(value)) for key, value in values.items()],
            )

    def build(self) -> DiagnosticArray:
        return DiagnosticArray(status=list(self.statuses()))


def _text(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def add_tasks(updater: DiagnosticsPublisher, node: AgentNode) -> None:
    """Register all tasks; they read the node's monitors when diagnostics are published."""
    updater.add("Inputs", lambda: _inputs(node))
    updater.add("Synchronization", lambda: _synchronization(node))
    updater.add("Scene", lambda: _scene(node))
    updater.add("Inference", lambda: _inference(node))
    updater.add("Pruning", lambda: _pruning(node))
    updater.add("Model and GPU", lambda: _model(node))


def _inputs(node: AgentNode) -> Report:
    """Rates, stamps, QoS and publishers of every input; names the silent ones."""
    values: dict[str, object] = {}
    now_ns = node.get_clock().now().nanoseconds
    # One input after the other.
    for m in node.inputs.monitors.values() if node.inputs else ():
        publishers = node.count_publishers(m.topic)
        age_ms = (now_ns - m.last_stamp_ns) / 1e6 if m.last_stamp_ns >= 0 else math.nan
        values |= {
            f"{m.name}.topic": m.topic,
            f"{m.name}.rate_hz": m.rate_hz,
            f"{m.name}.received": m.received,
            f"{m.name}.last_stamp_age_ms": age_ms,
            f"{m.name}.non_increasing_stamps": m.non_increasing,
            f"{m.name}.wrong_frame": m.wrong_frame,
            f"{m.name}.publishers": publishers,
            f"{m.name}.qos": m.reliability,
            f"{m.name}.qos_incompatible": m.qos_incompatible,
            f"{m.name}.lost": sum(count for _, count in m.losses),
        }

    if not values:
        return WARN, "not active: no inputs are subscribed", values
    fine = "all inputs alive"
    level, text = judged(node, INPUTS, fine)
    if level == OK and text != fine and node.inputs is not None and node.inputs.sets:
        level = WARN  # a pause of what came before
    return level, text, values


def judged(node: AgentNode, task: str, fine: str) -> tuple[bytes, str]:
    """Level and sentence of a task: what is wrong with it, or `fine`."""
    faults = [fault for fault in node.health.faults() if fault.task == task]
    worst = max((fault.severity for fault in faults), default=Severity.NOTE)
    return LEVELS[worst], " ".join(map(str, faults)) or fine


def _synchronization(node: AgentNode) -> Report:
    drops = {f"dropped.{reason.value}": count for reason, count in node.drops.snapshot().items()}
    if node.inputs is None:
        return OK, "not active", drops

    # Pairs of colour and depth, and those still without a pose.
    inputs = node.inputs
    values: dict[str, object] = {
        "sets": inputs.sets,
        "dt_rgb_depth_ms_p50": inputs.gap_ms.percentile(50),
        "dt_rgb_depth_ms_p95": inputs.gap_ms.percentile(95),
        "waiting_for_pose": inputs.waiting_for_pose,
        "camera_info_lag_s": inputs.infos.lag_s,
    }

    # What became of them.
    if node.intake is not None:
        values |= {
            "frames": node.intake.frames,
            "frame_cpu_ms_p50": node.intake.cpu_ms.percentile(50),
            "frame_cpu_ms_p95": node.intake.cpu_ms.percentile(95),
        }
    values |= drops | {f"no_pose.{reason.value}": inputs.no_pose[reason] for reason in PoseReason}
    return *judged(node, SYNCHRONIZATION, f"{inputs.sets} sets"), values


def _scene(node: AgentNode) -> Report:
    if node.pipeline is None:
        return OK, "no scene yet", {}
    # The keyframes.
    scene = node.pipeline.scene_state()
    now_ns = node.get_clock().now().nanoseconds if scene.num_keyframes else math.nan
    values: dict[str, object] = {
        "keyframes": scene.num_keyframes,
        "epoch": scene.epoch,
        "version": scene.version,
        "oldest_age_s": (now_ns - scene.oldest_ns) / 1e9,
        "newest_age_s": (now_ns - scene.newest_ns) / 1e9,
    }

    # Where they stand: `unknown` is taken for 0.
    floor = node.pipeline.scene.floor
    values |= {"floor.z_m": floor.z_m, "floor.source": floor.source}

    # The prefix cache made of them.
    cache = node.pipeline.cache_report()
    values |= {
        "cache.mode": node.config.cache.mode,
        "cache.version": cache.version,
        "cache.keyframes": cache.keyframes,
        "cache.spatial_tokens": cache.spatial,
        "cache.staleness": cache.staleness,
        "cache.kv_mib": cache.kv_bytes / 2**20,
        "cache.rows_to_build": cache.building,
        "cache.builds": cache.builds,
        "cache.appends": cache.appends,
    }
    values |= node.objects.report() | node.scene_outputs.report()

    # The frames that they came from.
    if node.intake is not None:
        values |= {
            "valid_depth_fraction_p50": node.intake.valid_fraction.percentile(50),
            "camera_info_changes": node.intake.camera_info_changes,
            "camera_axes": node.intake.watch.axes,
        }
    return *judged(node, SCENE, f"{scene.num_keyframes} keyframes"), values


def _inference(node: AgentNode) -> Report:
    # Counts.
    monitor = node.inference
    values: dict[str, object] = {
        "requests": monitor.requests,
        "succeeded": monitor.succeeded,
        "canceled": monitor.failed["canceled"],
        "queue": node.worker.queued,
        "internal_errors": monitor.internal_errors,
        "last_error": monitor.last_error,
        "tokens_per_s": monitor.tokens_per_s.percentile(50),
    }
    values |= {f"failed.{name}": count for name, count in sorted(monitor.failed.items())}

    # Times of the last answers.
    for stage, window in monitor.windows.items():
        values[f"{stage}_ms_p50"] = window.percentile(50)
        values[f"{stage}_ms_p95"] = window.percentile(95)

    if monitor.internal_errors:
        text = f"{monitor.internal_errors} internal errors, the last: {monitor.last_error}"
        return WARN, text, values
    return OK, f"{monitor.succeeded} of {monitor.requests} requests answered", values


def _pruning(node: AgentNode) -> Report:
    """The schedule in force, and what the last answer kept and cost."""
    # The schedule. Where its calibration file is gone, what was measured is shown all the same.
    config = node.config.pruning
    values: dict[str, object] = {"strategy": config.strategy, "keep_ratio": config.keep_ratio}
    level, text = OK, config.strategy
    if node.pipeline is not None:
        try:
            text, retention = node.pipeline.pruning_in_force()
            unplanned = "all" if text == "none" else "decided by scene or question"
            planned = " ".join(f"{share:.3f}" for share in retention)
            values["retention_per_layer"] = planned or unplanned
        except ConfigError as error:
            level, text = WARN, str(error)

    # The last answer.
    tokens = node.inference.last_tokens
    if tokens is not None:
        values |= {
            "last.strategy": tokens.strategy,
            "last.spatial_total": tokens.spatial_total,
            "last.kept_per_layer": " ".join(map(str, tokens.per_layer)),
            "last.keep_ratio": tokens.keep_ratio_achieved,
            "last.coverage_0.5m": tokens.coverage,
            "last.prefill_gflop": tokens.prefill_flops / 1e9,
            "last.unpruned_prefill_gflop": tokens.unpruned_prefill_flops / 1e9,
            "last.uncached_prefill_gflop": tokens.full_prefill_flops / 1e9,
            "last.build_gflop": tokens.build_flops / 1e9,
            "last.unpruned_build_gflop": tokens.unpruned_build_flops / 1e9,
            "last.rank_gflop": tokens.rank_flops / 1e9,
            "last.decode_gflop_per_token": tokens.decode_flops / 1e9,
            "last.unpruned_decode_gflop_per_token": tokens.full_decode_flops / 1e9,
            "last.kv_mib": tokens.kv_bytes / 2**20,
            "last.held_kv_mib": tokens.held_kv_bytes / 2**20,
            "last.unpruned_kv_mib": tokens.unpruned_kv_bytes / 2**20,
            "last.attended_kv_mib": tokens.attended_kv_bytes / 2**20,
        }
    return level, text, values


def _model(node: AgentNode) -> Report:
    state, detail = node.state_and_detail()
    values: dict[str, object] = {}
    if node.pipeline is not None:
        used, total = node.pipeline.device_memory_mib()
        memory = {"gpu_memory_used_mib": used, "gpu_memory_free_mib": total - used}
        values |= memory | node.pipeline.remote_report()
        if (info := node.pipeline.info) is not None:
            values |= {
                "model": info.name,
                "sha256": info.sha256,
                "device": info.device,
                "precision": info.precision,
                "random_weights": info.random_weights,
            }
    return *((ERROR, detail) if state == AgentStatus.ERROR else judged(node, MODEL, detail)), values
