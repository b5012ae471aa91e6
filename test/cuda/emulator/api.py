"""What of torch is replaced while devices are emulated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from test.cuda.emulator.graphs import CUDAGraph, graph
from test.cuda.emulator.memory import Pool
from test.cuda.emulator.streams import Event, Stream
from test.cuda.emulator.tensors import is_cuda
from test.cuda.emulator.transfers import Wanted, parsed_to, transfer

if TYPE_CHECKING:
    from test.cuda.emulator.device import EmulatedCuda

Replacement = tuple[Any, str, Any]  # owner, name, what stands there


@dataclass(frozen=True, slots=True)
class Properties:
    """As of `torch.cuda.get_device_properties`."""

    name: str
    total_memory: int
    major: int
    minor: int
    is_integrated: bool
    multi_processor_count: int = 132


def replacements(emulator: EmulatedCuda) -> Iterator[Replacement]:
    """All of them."""
    cuda = torch.cuda
    for name, value in (*_devices(emulator), *_streams(emulator), *_memory(emulator)):
        yield cuda, name, value
    yield from _constructors(emulator)


def _devices(emulator: EmulatedCuda) -> Iterator[tuple[str, Any]]:
    kind = emulator.kind

    def properties(device: Any = None) -> Properties:
        total = emulator.memories[emulator.device(device).index].total_bytes
        return Properties(kind.name, total, *kind.capability, kind.integrated)

    yield "_lazy_init", lambda: None
    yield "is_available", lambda: True
    yield "device_count", lambda: len(emulator.memories)
    yield "current_device", lambda: emulator.current_device
    yield "set_device", lambda device: emulator.set_device(emulator.device(device).index)
    yield "_exchange_device", emulator.set_device  # of `torch.cuda.device(...)`
    yield "_maybe_exchange_device", emulator.set_device
    yield "get_device_properties", properties
    yield "get_device_name", lambda device=None: kind.name
    yield "get_device_capability", lambda device=None: kind.capability
    yield "is_bf16_supported", lambda *args: True
    yield "synchronize", emulator.synchronize


def _streams(emulator: EmulatedCuda) -> Iterator[tuple[str, Any]]:
    def capturing() -> bool:
        return emulator.current_stream().graph is not None

    yield "Stream", Stream
    yield "Event", Event
    yield "stream", emulator.on_stream
    yield "set_stream", emulator.set_stream
    yield "current_stream", emulator.current_stream
    yield "default_stream", emulator.default_stream
    yield "CUDAGraph", CUDAGraph
    yield "graph", graph
    yield "graph_pool_handle", lambda: Pool(emulator.memories[emulator.current_device])
    yield "is_current_stream_capturing", capturing


def _memory(emulator: EmulatedCuda) -> Iterator[tuple[str, Any]]:
    def of(device: Any) -> Any:
        return emulator.memories[emulator.device(device).index]

    def free_and_total(device: Any = None) -> tuple[int, int]:
        emulator.forbid_in_capture("cudaMemGetInfo")
        return of(device).free_bytes, of(device).total_bytes

    def both_peaks(device: Any = None) -> None:
        of(device).reset_peak()

    yield "mem_get_info", free_and_total
    yield "memory_allocated", lambda device=None: of(device).allocated_bytes
    yield "max_memory_allocated", lambda device=None: of(device).max_allocated_bytes
    yield "memory_reserved", lambda device=None: of(device).reserved_bytes
    yield "max_memory_reserved", lambda device=None: of(device).max_reserved_bytes
    yield "reset_peak_memory_stats", both_peaks
    yield "empty_cache", lambda: emulator.forbid_in_capture("torch.cuda.empty_cache")


def _constructors(emulator: EmulatedCuda) -> Iterator[Replacement]:
    """Functions of torch's that make something on a device without an operator that says so."""
    tensor, as_tensor = torch.tensor, torch.as_tensor

    def place_of(device: Any) -> torch.device | None:
        if device is None:
            return None
        place = emulator.device(device)
        return place if place.type == "cuda" else None

    def made(data: Any, *, device: Any = None, **kwargs: Any) -> torch.Tensor:
        place = place_of(device)
        if place is None:
            return data.detach().clone() if is_cuda(data) else tensor(data, device=device, **kwargs)
        host = tensor(data, **kwargs)
        return transfer(emulator, host, Wanted(place, copy=True))

    def as_made(data: Any, dtype: Any = None, device: Any = None) -> torch.Tensor:
        if isinstance(data, torch.Tensor):
            return data.to(device=device or data.device, dtype=dtype or data.dtype)
        if place_of(device) is None:
            return as_tensor(data, dtype=dtype, device=device)
        return made(data, dtype=dtype, device=device)

    class Generator(torch.Generator):
        """Of a device by name; its numbers are the CPU's."""

        def __new__(cls, device: Any = "cpu") -> Generator:
            return super().__new__(cls, "cpu")  # type: ignore[call-arg]

        def __init__(self, device: Any = "cpu") -> None:
            self._place = emulator.device(device)

        @property
        def device(self) -> torch.device:  # type: ignore[override]
            return self._place

    yield from _methods(emulator)
    yield torch, "tensor", made
    yield torch, "as_tensor", as_made
    # A module that moves gets new parameters: the old ones cannot change their kind.
    yield torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True
    yield torch, "Generator", Generator


def _methods(emulator: EmulatedCuda) -> Iterator[Replacement]:
    """Methods of CPU tensors that C++ answers from where it thinks another tensor is."""
    to = torch.Tensor.to

    def moved(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        wanted = parsed_to(args, kwargs)
        if wanted.device is not None and wanted.device.type == "cuda":
            return transfer(emulator, self.detach(), wanted)
        return to(self, *args, **kwargs)

    def moved_to_cuda(self: torch.Tensor, device: Any = None, **kwargs: Any) -> torch.Tensor:
        return self.to(emulator.device(device), **kwargs)

    yield torch.Tensor, "to", moved
    yield torch.Tensor, "cuda", moved_to_cuda
    yield torch.Tensor, "type_as", lambda self, other: self.to(other.device, other.dtype)
