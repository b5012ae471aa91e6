"""The emulator: put in the place of torch.cuda inside a `with`, and taken out again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

from test.cuda.emulator import api, graphs, kernels, streams
from test.cuda.emulator.counters import Counters, calling_place
from test.cuda.emulator.dispatch import DispatchMode, wrapped_results
from test.cuda.emulator.memory import Allocation, DeviceMemory
from test.cuda.emulator.tensors import is_cuda, mapped, real_of, storage_key, tensors_in


@dataclass(frozen=True, slots=True)
class Kind:
    """What kind of device is emulated; integrated: its memory is the host's, as on a Jetson."""

    name: str = "emulated CUDA device"
    total_bytes: int = 80 * 2**30
    context_bytes: int = 0
    capability: tuple[int, int] = (9, 0)
    integrated: bool = False


class EmulatedCuda:
    """Devices cuda:0, cuda:1, ... for the thread that enters it; `in_thread` for others.

    counters: what was launched and waited for; memories: of each device. One at a time.
    """

    _lock = threading.Lock()

    def __init__(self, num_devices: int = 2, kind: Kind = Kind()) -> None:
        self.kind, self.counters = kind, Counters()
        self.memories = [
            DeviceMemory(index, kind.total_bytes, kind.context_bytes)
            for index in range(num_devices)
        ]
        self.captures: list[graphs.CUDAGraph] = []
        self._pinned: dict[int, torch.UntypedStorage] = {}  # kept, so that no other takes its place
        self._current = threading.local()  # device, and streams by device

        self._places = [torch.device("cuda", index) for index in range(num_devices)]
        self._defaults: list[streams.Stream] = []
        self._entered = ExitStack()

    def __enter__(self) -> EmulatedCuda:
        assert torch.version.cuda is None, "the emulator is for builds of torch without CUDA"
        assert self._lock.acquire(blocking=False), "one emulator at a time"
        with ExitStack() as stack:
            stack.callback(self._lock.release)
            # A stream that someone kept from an earlier emulator is one of this one's.
            for kind in (streams.Stream, streams.Event, graphs.CUDAGraph, graphs.graph):
                stack.enter_context(patch.object(kind, "emulator", self, create=True))
            stack.enter_context(patch.object(graphs.graph, "default_capture_stream", None))
            self._defaults = [streams.Stream(index) for index in range(len(self.memories))]
            for owner, name, value in api.replacements(self):
                stack.enter_context(patch.object(owner, name, value, create=True))
            stack.enter_context(DispatchMode(self))
            self._entered = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._entered.close()

    def in_thread(self) -> AbstractContextManager[Any]:
        """To be entered by another thread that uses the devices."""
        return DispatchMode(self)

    def phase(self, name: str) -> AbstractContextManager[None]:
        """What runs inside counts under this name."""
        return self.counters.phase(name)

    # -- devices and streams

    @property
    def current_device(self) -> int:
        return getattr(self._current, "device", 0)

    def set_device(self, index: int) -> int:
        """Make a device the current one; returns the one before. Negative: no change."""
        before = self.current_device
        if index >= 0:
            self._current.device = self.device(f"cuda:{index}").index
        return before

    def device(self, asked: Any = None) -> torch.device:
        """The device that is meant: None and `cuda` are the current one. Raises for one that is
        not there.
        """
        if isinstance(asked, int):
            asked = torch.device("cuda", asked)
        device = asked
        if not isinstance(device, torch.device):
            device = torch.device("cuda" if asked is None else asked)
        if device.type != "cuda" or (device.index is not None and device in self._places):
            return device
        index = self.current_device if device.index is None else device.index
        if index >= len(self.memories):
            raise self.cuda_error("invalid device ordinal")
        return self._places[index]

    def default_stream(self, device: Any = None) -> streams.Stream:
        return self._defaults[self.device(device).index]

    def current_stream(self, device: Any = None) -> streams.Stream:
        return self._stream_of(self.device(device).index)

    def _stream_of(self, index: int) -> streams.Stream:
        held: dict[int, streams.Stream] | None = getattr(self._current, "streams", None)
        return self._defaults[index] if held is None else held.get(index, self._defaults[index])

    def set_stream(self, stream: streams.Stream) -> None:
        self.set_device(stream.device.index)
        self._current.__dict__.setdefault("streams", {})[stream.device.index] = stream

    def on_stream(self, stream: streams.Stream | None) -> AbstractContextManager[None]:
        """Inside, the stream is that of its device, and its device is the current one."""
        return nullcontext() if stream is None else self._on_stream(stream)

    @contextmanager
    def _on_stream(self, stream: streams.Stream) -> Iterator[None]:
        device, before = self.current_device, self.current_stream(stream.device)
        self.set_stream(stream)
        try:
            yield
        finally:
            self.set_stream(before)
            self.set_device(device)

    def leave_capture(self, graph: graphs.CUDAGraph) -> None:
        """Streams that took part in a capture record no more."""
        held: dict[int, streams.Stream] = self._current.__dict__.get("streams", {})
        for stream in (*self._defaults, *held.values()):
            if stream.graph is graph:
                stream.graph = None

    # -- waiting

    def synchronize(self, device: Any = None) -> None:
        """`torch.cuda.synchronize`."""
        index = self.device(device).index
        self.forbid_in_capture("torch.cuda.synchronize")
        self.counters.sync("device")
        for stream in (self._defaults[index], self.current_stream(index)):
            stream.arrive()

    def wait_for(self, index: int, kind: str) -> None:
        """The host waits for the current stream of a device. Raises in a capture."""
        self.forbid_in_capture(kind)
        self.counters.sync(kind)
        self.current_stream(index).arrive()

    def forbid_in_capture(self, what: str) -> None:
        """Raise where this thread captures, or another one in the mode that forbids it to all; that
        capture is then invalid.
        """
        for graph in self.captures:
            if graph.thread == threading.get_ident() or graph.error_mode == "global":
                graph.invalid = graph.invalid or f"{what}, {calling_place()}"
                raise self.cuda_error(f"operation not permitted when stream is capturing: {what}")

    def cuda_error(self, what: str) -> RuntimeError:
        return torch.AcceleratorError(f"CUDA error: {what}")

    # -- memory

    def allocate(self, index: int, num_bytes: int, key: int) -> Allocation:
        """Memory for a new storage, of the pool of the graph that is being captured if any."""
        graph = self._stream_of(index).graph
        pool = None if graph is None else graph.memory_pool
        return self.memories[index].allocate(num_bytes, pool, key)

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        self._pinned[storage_key(tensor)] = tensor.untyped_storage()
        return tensor

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        return not is_cuda(tensor) and storage_key(tensor) in self._pinned

    # -- computing

    def compute(
        self,
        target: torch.device,
        name: str,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        mutates: bool = False,
    ) -> Any:
        """One kernel on a device: `call` on the unwrapped arguments, counted, and recorded where
        the device's stream is being captured. Raises torch.OutOfMemoryError.
        """
        named = kwargs or {}
        given = list(tensors_in((*args, *named.values())))
        graph = self._stream_of(target.index).graph
        real_args = mapped(args, real_of)
        real_named = {key: mapped(value, real_of) for key, value in named.items()}
        if graph is not None and mutates:
            graph.before(list(tensors_in((real_args[:1], real_named.get("out")))))
        result = call(*real_args, **real_named)
        if isinstance(result, (bool, int, float)) and name not in kernels.ABOUT_SHAPES:
            if not kernels.is_waiting(name):  # then it was noted before
                self.wait_for(target.index, name)
            return result
        wrapped, new = wrapped_results(self, target, result, given)
        if (new or mutates) and name not in kernels.EMPTY:
            if graph is not None:
                kept = {key: mapped(value, graphs.frozen) for key, value in named.items()}
                node = graphs.Node(name, call, mapped(args, graphs.frozen), kept, new)
                graph.record(node, given)
            moved = kernels.moved_bytes(name, list(tensors_in(real_args)), new)
            self.counters.kernel(name, moved)
        return wrapped
