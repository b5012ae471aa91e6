"""Streams, events, and copies to the host that arrive late."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from test.cuda.emulator.device import EmulatedCuda
    from test.cuda.emulator.graphs import CUDAGraph


class Stream:
    """Kernels run when they are launched; copies to pinned memory when something waits for them.

    graph: being captured from this stream.
    """

    emulator: EmulatedCuda

    def __init__(self, device: Any = None, priority: int = 0, **kwargs: Any) -> None:
        self.device = self.emulator.device(device)
        self.graph: CUDAGraph | None = None
        self._downloads: deque[tuple[int, torch.Tensor, torch.Tensor]] = deque()
        self._queued = 0  # downloads ever

    def download(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Queue a copy of what `source` holds now into pinned memory."""
        if self.graph is not None:
            self.graph.record_download(target, source)
            return
        self._queued += 1
        self._downloads.append((self._queued, target, source.clone()))

    @property
    def mark(self) -> int:
        """What has been queued up to now."""
        return self._queued

    def arrive(self, mark: int | None = None) -> None:
        """The downloads up to `mark` (None: all) reach the host."""
        while self._downloads and (mark is None or self._downloads[0][0] <= mark):
            _, target, value = self._downloads.popleft()
            with torch.inference_mode():
                target.copy_(value)

    def synchronize(self) -> None:
        self.emulator.forbid_in_capture("stream.synchronize")
        self.emulator.counters.sync("stream")
        self.arrive()

    def wait_stream(self, other: Stream) -> None:
        """What follows waits for the other; a capture there takes this stream in."""
        self.graph = other.graph or self.graph

    def wait_event(self, event: Event) -> None:
        event.wait(self)

    def record_event(self, event: Event | None = None) -> Event:
        event = Event() if event is None else event
        event.record(self)
        return event

    def query(self) -> bool:
        self.emulator.forbid_in_capture("stream.query")
        return True

    def __enter__(self) -> Stream:
        self._inside = self.emulator.on_stream(self)
        self._inside.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._inside.__exit__(*error)


class Event:
    """Of the device of the stream that recorded it first."""

    emulator: EmulatedCuda

    def __init__(self, enable_timing: bool = False, **kwargs: Any) -> None:
        self.timed, self.at_s = enable_timing, 0.0
        self._stream: Stream | None = None
        self._mark = 0
        self.device: torch.device | None = None

    def record(self, stream: Stream | None = None) -> None:
        stream = self.emulator.current_stream() if stream is None else stream
        if self.device is not None and self.device != stream.device:
            raise RuntimeError(
                f"Event device {self.device.index} does not match recording stream's device"
                f" {stream.device.index}."
            )
        self.device, self._stream, self._mark = stream.device, stream, stream.mark
        self.at_s = time.perf_counter()

    def wait(self, stream: Stream | None = None) -> None:
        stream = self.emulator.current_stream() if stream is None else stream
        if self._stream is not None:
            stream.wait_stream(self._stream)

    def query(self) -> bool:
        self.emulator.forbid_in_capture("event.query")
        return True

    def synchronize(self) -> None:
        self.emulator.forbid_in_capture("event.synchronize")
        self.emulator.counters.sync("event")
        if self._stream is not None:
            self._stream.arrive(self._mark)

    def elapsed_time(self, end: Event) -> float:
        if not (self.timed and end.timed):
            raise RuntimeError("Both events must be created with argument 'enable_timing=True'.")
        if self.device != end.device:
            raise RuntimeError("Events must be of one device.")
        return (end.at_s - self.at_s) * 1e3
