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

    `with clock.stage("vision_s"): ...`; names are the fields of StageTimings. A stage entered twice adds up.
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


class Laps:
    """Adds up the time between start() and stop() without making the host wait: CUDA events on a GPU, a clock on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._pairs: list[tuple[Any, Any]] = []
        self._begun: Any = None

    def start(self) -> None:
        self._begun = self._mark()

    def stop(self) -> None:
        self._pairs.append((self._begun, self._mark()))

    def total_s(self) -> float:
        """Seconds of all laps; waits for the device."""
        if not self._cuda:
            return float(sum(end - begin for begin, end in self._pairs))
        torch.cuda.synchronize()
        return float(sum(begin.elapsed_time(end) for begin, end in self._pairs)) / 1e3

    def _mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
