"""Stage times with the device synchronised, so that a stage pays for its own kernels.

torch is imported where there is a device, so that a process without a model needs none.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from ada3d_ros.types import ModelInfo
from ada3d_ros.usage import StageTimings

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")
R = TypeVar("R")
Now = Callable[[], float]  # seconds of a monotonic clock


def synchronize(device: torch.device | None) -> None:
    """Waits for the device's queued work; nothing to wait for on the CPU, or on none."""
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Inside, this GPU is the thread's current one: streams, events and graphs are made on that,
    wherever the tensors lie. Nothing on a CPU.
    """
    if device.type != "cuda":
        return nullcontext()
    import torch

    return torch.cuda.device(device)


class RunsModel(Protocol):
    """Who has a model; info: known once it was checked or loaded."""

    info: ModelInfo | None


Owner = TypeVar("Owner", bound=RunsModel)


def on_model_device(
    call: Callable[Concatenate[Owner, P], R],
) -> Callable[Concatenate[Owner, P], R]:
    """The method with its model's GPU as the thread's current one, once `info` says which."""

    @functools.wraps(call)
    def placed(owner: Owner, *args: P.args, **kwargs: P.kwargs) -> R:
        device = owner.info.device if owner.info else "cpu"
        if not device.startswith("cuda"):
            return call(owner, *args, **kwargs)
        import torch

        with on_device(torch.device(device)):
            return call(owner, *args, **kwargs)

    return placed


class StageClock:
    """Seconds per stage of one request; names are the fields of StageTimings.

    Time is counted once: `with clock.stage("vision_s"): ...` raises RuntimeError inside another
    stage. A stage entered twice adds up. device: whose queue is waited for, None where nothing is
    queued. now: the clock that is read.
    """

    def __init__(self, device: torch.device | None, now: Now = time.perf_counter) -> None:
        self.device, self.now = device, now
        self.prepared_s = 0.0  # spent on what later questions find ready: views, prefix, choice
        self._start = now()
        self._seconds: dict[str, float] = {}
        self._open = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if self._open:
            raise RuntimeError(
                f"stage {name} inside stage {self._open}: its time would count twice"
            )
        start, self._open = self.now(), name
        try:
            yield
        finally:
            synchronize(self.device)
            self._open = ""
            self.record(name, self.now() - start)

    def record(self, name: str, seconds: float) -> None:
        """Add seconds that were measured elsewhere."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def elapsed_s(self) -> float:
        """Seconds since the clock was made, the device synchronised."""
        synchronize(self.device)
        return self.now() - self._start

    def fork(self) -> StageClock:
        """A clock with the same start and stages so far: what the questions of a batch share."""
        clock = StageClock(self.device, self.now)
        clock._start, clock._seconds = self._start, dict(self._seconds)
        return clock

    def timings(self) -> StageTimings:
        """All stages so far; total_s runs up to now."""
        return StageTimings(**{**self._seconds, "total_s": self.elapsed_s()})


class EventTimer:
    """Adds up the time between start() and stop() without making the host wait: CUDA events on a
    GPU, a clock on the CPU.
    """

    def __init__(self, device: torch.device, now: Now = time.perf_counter) -> None:
        self._device, self._now = device, now
        self._intervals: list[tuple[Any, Any, float]] = []
        self._begun: Any = None

    def start(self) -> None:
        self._begun = self._mark()

    def stop(self, share: float = 1.0) -> None:
        """End the interval; only this share of it counts."""
        self._intervals.append((self._begun, self._mark(), share))

    def total_s(self) -> float:
        """Seconds of all intervals; waits for the device."""
        synchronize(self._device)
        total = 0.0
        for begin, end, share in self._intervals:
            seconds = begin.elapsed_time(end) / 1e3 if self._device.type == "cuda" else end - begin
            total += share * seconds
        return total

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return self._now()
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
