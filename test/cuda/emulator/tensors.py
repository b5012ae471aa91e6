"""Tensors that say they are on a CUDA device; their values are a tensor of the CPU's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import torch

if TYPE_CHECKING:
    from test.cuda.emulator.device import EmulatedCuda
    from test.cuda.emulator.memory import Allocation


class CudaTensor(torch.Tensor):
    """host: the values; allocation: the memory they stand for, shared with views.

    To torch's C++ it is a CPU tensor on the same memory, since a build without CUDA has no guards
    for CUDA devices; to Python it is on `device`.
    """

    host: torch.Tensor
    allocation: Allocation
    emulator: EmulatedCuda
    place: torch.device

    @staticmethod
    def __new__(
        cls,
        host: torch.Tensor,
        on: torch.device,
        allocation: Allocation,
        emulator: EmulatedCuda,
    ) -> CudaTensor:
        made = host.as_subclass(cls)
        made.host, made.place, made.allocation, made.emulator = host, on, allocation, emulator
        return made

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """As a plain tensor: what comes back is what the operators made."""
        return torch.Tensor.__torch_function__(func, (), args, kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Of a thread in which the emulator was not entered."""
        from test.cuda.emulator.dispatch import run_operator

        first = next(t for t in tensors_in((*args, *(kwargs or {}).values())) if is_cuda(t))
        return run_operator(first.emulator, func, args, kwargs or {})

    # -- what C++ would answer for a CPU tensor

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.place

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    @property
    def data(self) -> torch.Tensor:  # type: ignore[override]
        return self.detach()

    def get_device(self) -> int:
        return self.place.index

    def data_ptr(self) -> int:
        return self.host.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.host.untyped_storage()

    def is_pinned(self, *args: Any) -> bool:
        return False

    # -- ways to the host and back

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        from test.cuda.emulator.transfers import parsed_to, transfer

        return transfer(self.emulator, self, parsed_to(args, kwargs))

    def cpu(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.to("cpu", *args, **kwargs)

    def cuda(  # type: ignore[override]
        self, device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> torch.Tensor:
        return self.to(self.emulator.device(device), non_blocking=non_blocking)

    def tolist(self) -> Any:
        self.emulator.wait_for(self.place.index, "tolist")
        return self.host.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"can't convert {self.place} device type tensor to numpy. Use Tensor.cpu() to copy the"
            " tensor to host memory first."
        )

    __array__ = numpy

    def new_tensor(self, data: Any, *, dtype: Any = None, device: Any = None) -> torch.Tensor:  # type: ignore[override]
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or self.place)

    def __setitem__(self, index: Any, value: Any) -> None:
        # C++ would make a CPU tensor of a number; CUDA fills one of its own.
        given = value if isinstance(value, torch.Tensor) else self.new_full((), value)
        super().__setitem__(index, given)

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        return memo.setdefault(id(self), self.clone())

    def __repr__(self, *args: Any) -> str:  # type: ignore[override]
        return f"{self.host!r} on {self.place}"


def is_cuda(value: object) -> bool:
    return isinstance(value, CudaTensor)


def tensors_in(values: Iterable[Any]) -> Iterator[Any]:
    """The tensors among an operator's arguments or results."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)


def mapped(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """An argument or a result with its tensors changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        made = [mapped(one, change) for one in value]
        if isinstance(value, list):
            return made
        return type(value)(made) if type(value) is tuple else tuple(made)
    return value


def storage_key(tensor: torch.Tensor) -> int:
    """The same for all views of one storage, as long as it lives."""
    return tensor.untyped_storage().data_ptr()


def real_of(tensor: torch.Tensor) -> torch.Tensor:
    """The values of a tensor, where they are on the host already."""
    return tensor.host if isinstance(tensor, CudaTensor) else tensor
