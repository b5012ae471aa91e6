"""What is known of single operators: which wait for the host, which take CPU scalars, and those
that torch has for CUDA alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from test.cuda.emulator.tensors import tensors_in

# Copies in another format or place: test/cuda/emulator/transfers.py.
MOVES = {"to", "_to_copy", "type_as", "cuda", "cpu"}
# Results whose size or value depends on values, beside those that torch marks itself.
WAITING = {
    "item", "_local_scalar_dense", "is_nonzero", "equal", "allclose", "nonzero", "nonzero_numpy",
    "argwhere", "masked_select", "bincount", "unique_dim", "unique_consecutive", "_unique",
    "_unique2", "multinomial", "inverse", "linalg_inv", "linalg_solve", "linalg_det",
}  # fmt: skip
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
# Answers about sizes and places: no value is read for them.
ABOUT_SHAPES = {
    "sym_size", "sym_stride", "sym_numel", "sym_storage_offset", "is_same_size", "is_pinned",
    "_has_compatible_shallow_copy_type", "size", "stride", "numel", "dim", "is_contiguous",
    "is_floating_point", "is_complex", "is_inference", "_is_zerotensor", "is_conj", "is_neg",
    "is_signed", "result_type", "can_cast", "promote_types",
}  # fmt: skip
# Take a CPU tensor without dimensions as a number, beside those that torch calls pointwise.
TAKE_NUMBERS = {
    "masked_fill", "masked_fill_", "fill_", "where", "index_put_", "index_put", "clamp",
    "lift_fresh", "index_fill_", "index_fill", "full_like",
}  # fmt: skip
EMPTY = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
GATHERING = {"index", "index_select", "gather", "embedding"}

Kernel = Callable[..., Any]


def why_waits(func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> str:
    """What the host waits for in this operator on a device; '' where it does not."""
    if name in INDEXING:
        indices = list(tensors_in(args[1]))
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            filled = name != "index" and len(indices) == 1 and args[2].numel() == 1
            return "" if filled else "mask as index"  # one number is filled in by the mask
        return "host to device" if any(not t.is_cuda for t in indices) else ""
    if name == "repeat_interleave":
        counts = args[1] if len(args) > 1 else args[0]
        known = isinstance(counts, int) or kwargs.get("output_size") is not None
        return "" if known else name
    if name == "one_hot":
        return name if len(args) < 2 or args[1] == -1 else ""
    return name if name in WAITING or _depends_on_values(func) else ""


@functools.cache
def name_of(func: Any) -> str:
    """As add or copy_, without namespace and overload."""
    return str(func.name()).rpartition("::")[2].partition(".")[0]


@functools.cache
def _depends_on_values(func: Any) -> bool:
    dependent = torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output
    return any(tag in func.tags for tag in dependent)


@functools.cache
def writes_into_arguments(name: str) -> bool:
    """Whether an operator works in place: mul_, index_copy_, __iand__, but not __and__."""
    return name.startswith("__i") if name.startswith("__") else name.endswith("_")


def is_waiting(name: str) -> bool:
    """Whether the host waits in every call of the operator, whatever its arguments."""
    return name in WAITING


@functools.cache
def takes_number(func: Any) -> bool:
    """Whether a CPU tensor without dimensions may be among tensors of the device."""
    return name_of(func) in TAKE_NUMBERS or torch.Tag.pointwise in func.tags


def moved_bytes(name: str, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> int:
    """Bytes that a kernel reads and writes, about: of gathers only what they take."""
    written = sum(tensor.nbytes for tensor in outputs)
    if name in GATHERING:
        return 2 * written
    if name in ("index_copy_", "index_put_", "index_add_") and inputs:
        return 3 * inputs[-1].nbytes
    return written + sum(map(_read_bytes, inputs))


def _read_bytes(tensor: torch.Tensor) -> int:
    """Of an expanded tensor only what is there."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    count = 1
    for size, stride in sizes:
        count *= size if stride else min(size, 1)
    return count * tensor.element_size()


def attention_with_lse(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of q (B, H, T, d) to all keys, and the log-sum-exp (B, H, T) of its scores."""
    scores = q.float() @ k.float().mT * q.shape[-1] ** -0.5
    return (torch.softmax(scores, dim=-1) @ v.float()).to(q.dtype), scores.logsumexp(dim=-1)


def flash_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *rest: Any, **named: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """`aten::_scaled_dot_product_flash_attention`: of 16-bit numbers only."""
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
    assert not any(rest), "no dropout, not causal: all that is emulated"
    assert not any(named.values()), "no dropout, not causal: all that is emulated"
    return attention_with_lse(q, k, v)


def efficient_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    with_lse: bool,
    *rest: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`aten::_scaled_dot_product_efficient_attention`, whose log-sum-exp is padded to 32 rows."""
    assert bias is None, "without a bias: all that is emulated"
    assert not any(rest), "no dropout, not causal: all that is emulated"
    out, lse = attention_with_lse(q, k, v)
    return out, torch.nn.functional.pad(lse, (0, -lse.shape[-1] % 32))


# Instead of kernels that a build for CPUs lacks.
OF_CUDA_ALONE: dict[str, Kernel] = {
    "_scaled_dot_product_flash_attention": flash_attention,
    "_scaled_dot_product_efficient_attention": efficient_attention,
}
