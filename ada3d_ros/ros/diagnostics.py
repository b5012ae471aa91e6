"""Counters, rolling windows and the diagnostics tasks on /diagnostics.

Publishes a DiagnosticArray itself (diagnostic_updater has no wheel), with that library's parameter
names and task naming, so that aggregators and rqt_robot_monitor work.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from ada3d_ros.errors import FrameReason
from ada3d_ros.ros.conversions import LATENCY_STAGES
from ada3d_ros.types import TokenUsage

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
SILENT_AFTER_S = 5.0


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
    """How many frames were given up, per reason; every reason is always listed."""

    def __init__(self) -> None:
        self._counter: Counter[FrameReason] = Counter()
        self._lock = threading.Lock()

    def add(self, reason: FrameReason) -> None:
        with self._lock:
            self._counter[reason] += 1

    def snapshot(self) -> dict[FrameReason, int]:
        with self._lock:
            return {reason: self._counter[reason] for reason in FrameReason}


@dataclass(slots=True)
class InputMonitor:
    """What one subscription has seen. Times on time.monotonic()."""

    name: str
    topic: str = ""
    type_name: str = ""
    reliability: str = ""
    received: int = 0
    last_stamp_ns: int = -1
    non_increasing: int = 0
    wrong_frame: int = 0
    qos_incompatible: int = 0
    started: float = field(default_factory=time.monotonic)
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=100))

    def note(self, stamp_ns: int) -> None:
        """Count one arrived message."""
        self.received += 1
        self.non_increasing += stamp_ns <= self.last_stamp_ns
        self.last_stamp_ns = stamp_ns
        self.arrivals.append(time.monotonic())

    @property
    def rate_hz(self) -> float:
        recent = [t for t in self.arrivals if t > time.monotonic() - 10.0]
        return (
            (len(recent) - 1) / (recent[-1] - recent[0])
            if len(recent) > 1 and recent[-1] > recent[0]
            else 0.0
        )

    @property
    def silent_s(self) -> float:
        return time.monotonic() - (self.arrivals[-1] if self.arrivals else self.started)


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


Task = Callable[[], tuple[bytes, str, Mapping[str, object]]]


class DiagnosticsPublisher:
    """Collects tasks and turns them into one DiagnosticArray. A task that raises becomes an ERROR
    line.
    """

    def __init__(self, node_name: str, hardware_id: str) -> None:
        self.node_name = node_name
        self.hardware_id = hardware_id
        self._tasks: dict[str, Task] = {}

    def add(self, name: str, task: Task) -> None:
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


def inputs_task(
    monitors: Iterable[InputMonitor], count_publishers: Callable[[str], int], now_ns: int
) -> tuple[bytes, str, dict[str, object]]:
    """Rates, stamps, QoS and publishers of every input; names the silent ones."""
    values: dict[str, object] = {}
    silent = []
    for m in monitors:
        publishers = count_publishers(m.topic)
        age_ms = (now_ns - m.last_stamp_ns) / 1e6 if m.last_stamp_ns >= 0 else float("nan")
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
        }
        if m.silent_s > SILENT_AFTER_S:
            silent.append(f"{m.topic} ({m.type_name}, {m.reliability}, {publishers} publishers)")
    if not values:
        return WARN, "not active: no inputs are subscribed", values
    if silent:
        return WARN, f"no data for {SILENT_AFTER_S:.0f} s on " + ", ".join(silent), values
    return OK, "all inputs alive", values
