"""Stage times with the device synchronised, so that a stage pays for its own kernels."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ada3d_ros.types import StageTimings


def synchronize(device: torch.device) -> None:
    """Waits for the device's queued work; nothing to wait for on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class StageClock:
    """Collects seconds per stage of one request.

    `with clock.stage("vision_s"): ...`; names are the fields of StageTimings. A stage entered twice
    adds up.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            synchronize(self._device)
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def elapsed_s(self) -> float:
        """Seconds since the clock was made, the device synchronised."""
        synchronize(self._device)
        return time.perf_counter() - self._start

    def timings(self) -> StageTimings:
        """All stages so far; total_s runs up to now."""
        return StageTimings(**{**self._seconds, "total_s": self.elapsed_s()})


class EventTimer:
    """Adds up the time between start() and stop() without making the host wait: CUDA events on a
    GPU, a clock on the CPU.

    `attribute_share` counts only a share of the last lap; a lap that is never weighed counts in whole,
    or not at all where `unweighed` is 0.
    """

    def __init__(self, device: torch.device, unweighed: float = 1.0) -> None:
        self._device, self._cuda = device, device.type == "cuda"
        self._unweighed = unweighed
        self._laps: list[tuple[Any, Any]] = []
        self._weights: dict[int, float] = {}
        self._begun: Any = None

    def start(self) -> None:
        self._begun = self._mark()

    def stop(self) -> None:
        self._laps.append((self._begun, self._mark()))

    def attribute_share(self, share: float) -> None:
        self._weights[len(self._laps) - 1] = share

    def total_s(self) -> float:
        """Seconds of all laps; waits for the device."""
        synchronize(self._device)
        seconds = [
            begin.elapsed_time(end) / 1e3 if self._cuda else end - begin
            for begin, end in self._laps
        ]
        return float(sum(s * self._weights.get(i, self._unweighed) for i, s in enumerate(seconds)))

    def _mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
