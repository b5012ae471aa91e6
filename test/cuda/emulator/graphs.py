"""CUDA graphs: operators recorded on the capturing stream, and run again on the same memory."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from test.cuda.emulator import kernels
from test.cuda.emulator.memory import Allocation, Pool
from test.cuda.emulator.streams import Stream
from test.cuda.emulator.tensors import CudaTensor, mapped, real_of, storage_key, tensors_in

if TYPE_CHECKING:
    from test.cuda.emulator.device import EmulatedCuda


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One recorded kernel: call(*args, **kwargs) on unwrapped tensors, into `outputs`."""

    name: str
    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[torch.Tensor]


class CUDAGraph:
    """Nothing runs in a capture: what it wrote to is put back at its end, and what it made holds
    no values before the first replay.
    """

    emulator: EmulatedCuda

    def __init__(self, keep_graph: bool = False) -> None:
        self.nodes: list[Node] = []
        self.error_mode, self.thread = "global", 0
        self.invalid = ""  # why the capture failed
        self.memory_pool: Pool | None = None
        self._index = 0
        self._stream: Stream | None = None
        self._before: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._read: dict[int, weakref.ref[Allocation]] = {}  # memory of others, by its storage

    @property
    def num_kernels(self) -> int:
        return len(self.nodes)

    def pool(self) -> Pool | None:
        return self.memory_pool

    def reset(self) -> None:
        self.nodes, self._read, self.memory_pool = [], {}, None

    def capture_begin(self, pool: Pool | None = None, capture_error_mode: str = "global") -> None:
        stream = self.emulator.current_stream()
        if stream.graph is not None:
            raise self.emulator.cuda_error("a capture is under way on this stream")
        if stream is self.emulator.default_stream(stream.device.index):
            raise RuntimeError(
                "CUDA graphs must be captured on a non-default stream. (However, after capture,"
                " it's ok to replay them on the default stream.)"
            )
        self.reset()
        self._index, self._stream, self.invalid = stream.device.index, stream, ""
        self.error_mode, self.thread = capture_error_mode, threading.get_ident()
        memory = self.emulator.memories[self._index]
        self.memory_pool = Pool(memory) if pool is None else pool
        stream.graph = self
        self.emulator.captures.append(self)
        self.emulator.counters.capture()

    def capture_end(self) -> None:
        """Raises where something in the capture was refused."""
        self.emulator.captures.remove(self)
        self.emulator.leave_capture(self)
        with torch.inference_mode():
            for node in self.nodes:
                for made in node.outputs:
                    if made.is_floating_point():
                        made.fill_(torch.nan)
            for tensor, value in reversed(self._before):
                tensor.copy_(value)
        self._before.clear()
        if self.invalid:
            why = self.invalid
            self.reset()
            raise self.emulator.cuda_error(
                f"operation failed due to a previous error during capture ({why})"
            )
        if not self.nodes:
            warnings.warn(
                "The CUDA Graph is empty. This usually means that the graph was attempted to be"
                " captured on wrong device or stream.",
                stacklevel=2,
            )

    def record(
        self,
        node: Node,
        given: Sequence[torch.Tensor],
    ) -> None:
        """Take in a kernel that was computed on `given`."""
        for tensor in given:
            if isinstance(tensor, CudaTensor) and tensor.allocation.pool is not self.memory_pool:
                self._read[tensor.allocation.key] = weakref.ref(tensor.allocation)
        self.nodes.append(node)

    def record_download(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Take in a copy to pinned memory."""

        def start() -> None:
            self.emulator.current_stream(self._index).download(target, source)

        self.nodes.append(Node("copy to host", start, (), {}, []))

    def before(self, written: Sequence[torch.Tensor]) -> None:
        """Remember what a capture is about to write to."""
        self._before += [(tensor, tensor.clone()) for tensor in written]

    def replay(self) -> None:
        """Run the kernels again. Raises RuntimeError where memory that they read was freed."""
        self.emulator.forbid_in_capture("a replay")
        if any(held() is None for held in self._read.values()):
            raise RuntimeError("the graph reads memory that was freed after its capture")
        self.emulator.counters.replay()
        with torch.inference_mode():
            for node in self.nodes:
                result = node.call(*node.args, **node.kwargs)
                made = list(tensors_in((result,)))
                outputs = node.outputs
                if outputs:
                    for output, value in zip(outputs, _new(made, node), strict=True):
                        output.copy_(value)
                moved = kernels.moved_bytes(node.name, list(tensors_in(node.args)), outputs)
                self.emulator.counters.kernel(node.name, moved, launched=False)


def _new(made: list[torch.Tensor], node: Node) -> list[torch.Tensor]:
    """Of a kernel's results those that are no argument and no view of one."""
    given = set(map(storage_key, tensors_in((*node.args, *node.kwargs.values()))))
    seen: set[int] = set()
    new = []
    for tensor in made:
        key = storage_key(tensor)
        if key not in given and key not in seen:
            seen.add(key)
            new.append(tensor)
    return new


def frozen(value: Any) -> Any:
    """An argument as a graph keeps it: tensors of the device stay where they are, the values of
    others are those of now.
    """
    return mapped(value, lambda t: real_of(t) if isinstance(t, CudaTensor) else t.clone())


class graph:
    """`torch.cuda.graph`: capture inside, on one stream for all captures unless another is named.

    That stream is of the device that was current at the first capture, as torch's.
    """

    emulator: EmulatedCuda
    default_capture_stream: Stream | None = None

    def __init__(
        self,
        cuda_graph: CUDAGraph,
        pool: Pool | None = None,
        stream: Stream | None = None,
        capture_error_mode: str = "global",
    ) -> None:
        kind = type(self)
        if stream is None and kind.default_capture_stream is None:
            kind.default_capture_stream = Stream()
        self._stream = stream or kind.default_capture_stream
        assert self._stream is not None
        self._graph, self._pool, self._mode = cuda_graph, pool, capture_error_mode
        self._on_stream = self.emulator.on_stream(self._stream)

    def __enter__(self) -> None:
        self.emulator.synchronize()
        self._on_stream.__enter__()
        try:
            self._graph.capture_begin(self._pool, capture_error_mode=self._mode)
        except BaseException:
            self._on_stream.__exit__(None, None, None)
            raise

    def __exit__(self, *error: Any) -> None:
        try:
            self._graph.capture_end()
        finally:
            self._on_stream.__exit__(None, None, None)
