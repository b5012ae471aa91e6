"""Copies between host and devices, and which of them the host waits for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from test.cuda.emulator.tensors import CudaTensor, is_cuda, real_of

if TYPE_CHECKING:
    from test.cuda.emulator.device import EmulatedCuda


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a tensor is to become; None: as it is."""

    device: torch.device | None = None
    dtype: torch.dtype | None = None
    non_blocking: bool = False
    copy: bool = False
    memory_format: torch.memory_format | None = None


def parsed_to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Wanted:
    """The arguments of `Tensor.to` and its operators, which come in several orders."""
    found = dict(kwargs)
    other = found.pop("other", None)
    flags = []
    for arg in args:
        if isinstance(arg, torch.Tensor):
            other = arg
        elif isinstance(arg, bool):
            flags.append(arg)
        elif isinstance(arg, torch.dtype):
            found["dtype"] = arg
        elif isinstance(arg, torch.memory_format):
            found["memory_format"] = arg
        elif arg is not None:
            found["device"] = arg
    found |= dict(zip(("non_blocking", "copy"), flags, strict=False))
    if other is not None:
        found["device"], found["dtype"] = other.device, other.dtype
    device = found.get("device")
    return Wanted(
        None if device is None else torch.device(device),
        found.get("dtype"),
        bool(found.get("non_blocking")),
        bool(found.get("copy")),
        found.get("memory_format"),
    )


def transfer(emulator: EmulatedCuda, source: torch.Tensor, wanted: Wanted) -> torch.Tensor:
    """`source` on another device, in another format, or both; itself where nothing changes."""
    target = source.device if wanted.device is None else emulator.device(wanted.device)
    dtype = source.dtype if wanted.dtype is None else wanted.dtype
    layout = wanted.memory_format or torch.preserve_format
    as_it_is = layout is torch.preserve_format or source.is_contiguous(memory_format=layout)
    if target == source.device and dtype == source.dtype and as_it_is and not wanted.copy:
        return source

    if not is_cuda(source) and target.type == "cpu":
        return source.to(dtype=dtype, copy=True, memory_format=layout)
    if target.type == "cpu":
        return _to_host(emulator, source, dtype, wanted, layout)
    make = _Converted(dtype, layout)
    if not is_cuda(source):
        note_upload(emulator, source, wanted.non_blocking, target.index)
    return emulator.compute(target, "copy", make, (source,))


class _Converted:
    """A copy of its argument in another format."""

    def __init__(self, dtype: torch.dtype, layout: torch.memory_format) -> None:
        self._dtype, self._layout = dtype, layout

    def __call__(self, real: torch.Tensor) -> torch.Tensor:
        return real.to(dtype=self._dtype, copy=True, memory_format=self._layout)


def _to_host(
    emulator: EmulatedCuda,
    source: torch.Tensor,
    dtype: torch.dtype,
    wanted: Wanted,
    layout: torch.memory_format,
) -> torch.Tensor:
    if dtype != source.dtype:
        source = emulator.compute(source.device, "copy", _Converted(dtype, layout), (source,))
    host = torch.empty_like(real_of(source), memory_format=layout)
    if wanted.non_blocking:  # torch pins the result then
        emulator.pin(host)
    download(emulator, host, source, wanted.non_blocking)
    return host


def copy_into(
    emulator: EmulatedCuda, target: torch.Tensor, source: torch.Tensor, non_blocking: bool
) -> torch.Tensor:
    """`target.copy_(source)` where one of them is on a device."""
    if not is_cuda(target):
        download(emulator, target, source, non_blocking)
        return target
    assert isinstance(target, CudaTensor)
    if not is_cuda(source):
        note_upload(emulator, source, non_blocking, target.device.index)
    emulator.compute(target.device, "copy_", torch.Tensor.copy_, (target, source), mutates=True)
    return target


def note_upload(
    emulator: EmulatedCuda, source: torch.Tensor, non_blocking: bool, index: int
) -> None:
    """Log a copy from the host. Raises in a capture, unless it is asynchronous from pinned
    memory.
    """
    asynchronous = non_blocking and emulator.is_pinned(source)
    if not asynchronous:
        emulator.forbid_in_capture(f"copy of pageable memory to cuda:{index}")
    emulator.counters.uploads += 1
    if not non_blocking:
        emulator.wait_for(index, "host to device")


def download(
    emulator: EmulatedCuda, target: torch.Tensor, source: torch.Tensor, non_blocking: bool
) -> None:
    """Copy to the host. Into pinned memory without waiting, the values arrive when something
    waits for the stream or for an event behind the copy, not before.
    """
    index = source.device.index
    emulator.counters.downloads += 1
    stream = emulator.current_stream(index)
    if non_blocking and emulator.is_pinned(target):
        stream.download(target, real_of(source))
        return
    emulator.wait_for(index, "device to host")
    with torch.inference_mode():
        target.copy_(real_of(source))
