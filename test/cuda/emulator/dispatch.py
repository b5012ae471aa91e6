"""One operator on emulated devices: checked as CUDA would, computed on the CPU, counted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from test.cuda.emulator import kernels
from test.cuda.emulator.tensors import CudaTensor, is_cuda, mapped, real_of, storage_key, tensors_in
from test.cuda.emulator.transfers import copy_into, parsed_to, transfer

if TYPE_CHECKING:
    from test.cuda.emulator.device import EmulatedCuda

PLAIN = (torch.Tensor, torch.nn.Parameter, CudaTensor)


class DispatchMode(TorchDispatchMode):
    """Every operator of the thread that enters it, those that make tensors included."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch's compiler would be loaded, for seconds

    def __init__(self, emulator: EmulatedCuda) -> None:
        super().__init__()
        self._emulator = emulator

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if any(kind not in PLAIN for kind in types):
            return NotImplemented  # of a quantised weight: its own operators come here again
        return run_operator(self._emulator, func, args, kwargs or {})


def run_operator(
    emulator: EmulatedCuda, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The result of `func`, on the device of its tensors or on the one asked for."""
    name = kernels.name_of(func)
    asked = kwargs.get("device")
    to_cuda = asked is not None and torch.device(asked).type == "cuda"
    concerned = to_cuda or any(map(is_cuda, tensors_in((*args, *kwargs.values()))))
    if name in kernels.MOVES:
        if concerned or _names_cuda(args):
            wanted = parsed_to(args[1:], kwargs)
            copy = wanted.copy or name == "_to_copy"
            return transfer(emulator, args[0], replace(wanted, copy=copy))
    elif not concerned:
        return _on_host(emulator, func, name, args, kwargs)
    elif name == "copy_":
        late = bool(kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
        return copy_into(emulator, args[0], args[1], late)
    elif name == "_has_compatible_shallow_copy_type":
        return False  # a module that moves takes new parameters
    else:
        return _on_device(emulator, func, name, args, kwargs)
    return func(*args, **kwargs)


def _names_cuda(args: tuple[Any, ...]) -> bool:
    return any(isinstance(arg, torch.device) and arg.type == "cuda" for arg in args)


def _on_host(
    emulator: EmulatedCuda, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """An operator of CPU tensors, pinned memory included, which torch lacks without CUDA."""
    if name in ("pin_memory", "_pin_memory"):
        return emulator.pin(args[0].clone())
    if name == "is_pinned":
        return emulator.is_pinned(args[0])
    if kwargs.get("pin_memory"):
        return emulator.pin(func(*args, **{**kwargs, "pin_memory": False}))
    return func(*args, **kwargs)


def _on_device(
    emulator: EmulatedCuda, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    named = {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory")}
    where = require_one_device(func, name, list(tensors_in((*args, *named.values()))))
    asked = kwargs.get("device")
    target = emulator.device(asked) if asked is not None else where
    assert target is not None
    if target.type == "cpu":  # like a tensor of the device, on the host: of its sizes alone
        return func(
            *mapped(args, real_of), **{key: mapped(v, real_of) for key, v in kwargs.items()}
        )
    if where is not None:
        reason = kernels.why_waits(func, name, args, kwargs)
        if reason:
            emulator.wait_for(where.index, reason)
    if "device" in kwargs:
        named["device"] = torch.device("cpu")
    compute = kernels.OF_CUDA_ALONE.get(name, func)
    writes = kernels.writes_into_arguments(name) or "out" in named
    return emulator.compute(target, name, compute, args, named, mutates=writes)


def require_one_device(func: Any, name: str, given: list[torch.Tensor]) -> torch.device | None:
    """The device of all tensors, None without any. Raises RuntimeError as CUDA does where tensors
    are on several.
    """
    where, on_host = None, []
    for tensor in given:
        if not isinstance(tensor, CudaTensor):
            on_host.append(tensor)
        elif where is None:
            where = tensor.place
        elif where != tensor.place:
            raise _mixed(where, tensor.place, name)
    if not on_host or where is None:
        return where
    if name in kernels.INDEXING:
        # Indices may be on the host, what is indexed may not, nor values with dimensions.
        ends = (given[0], *given[-1:] * (name != "index"))
        on_host = [t for t in ends if not is_cuda(t) and (t is given[0] or t.dim())]
    elif kernels.takes_number(func):
        on_host = [t for t in on_host if t.dim()]
    if on_host:
        raise _mixed("cpu", where, name)
    return where


def _mixed(one: object, other: object, name: str) -> RuntimeError:
    return RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices,"
        f" {one} and {other}! (in {name})"
    )


def wrapped_results(
    emulator: EmulatedCuda,
    target: torch.device,
    result: Any,
    given: list[torch.Tensor],
) -> tuple[Any, list[torch.Tensor]]:
    """Results as tensors of the device, and those of them that are new memory, unwrapped.

    One that is an argument comes back as that argument, a view shares its memory's count.
    """
    same = {id(real_of(t)): t for t in given}
    owners = {t.allocation.key: t.allocation for t in given if isinstance(t, CudaTensor)}
    new: list[torch.Tensor] = []

    def wrap(real: torch.Tensor) -> torch.Tensor:
        if id(real) in same:
            return same[id(real)]
        key = storage_key(real)
        allocation = owners.get(key)
        if allocation is None:
            num_bytes = real.untyped_storage().nbytes()
            allocation = owners[key] = emulator.allocate(target.index, num_bytes, key)
            new.append(real)
        return CudaTensor(real, target, allocation, emulator)

    return mapped(result, wrap), new
