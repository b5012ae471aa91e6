"""Weight-only quantisation of the decoder's linear layers (`model.weights`): fewer bytes, products
still in the model's format.

int8: one scale per output channel, symmetric. int4: groups of inputs with a lowest value and a step
each. Where torchao is installed it does the work (int8 everywhere but in float16, int4 on CUDA in
bfloat16); else `WeightOnlyLinear`, plain torch. Embeddings, lm_head, norms, vision tower and
projector stay as they are.
"""

from __future__ import annotations

import importlib.util
import math
import re
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ada3d_ros.errors import ConfigError

WEIGHTS = ("full", "int8", "int4")
QUANTIZED = re.compile(
    r"(decoder\.)?layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.weight"
)
MAX_LEVEL_INT8 = 127
MAX_LEVEL_INT4 = 15
# inputs that share a step and a lowest value in int4; 32 where 64 does not divide the inputs
GROUP = 64
MIN_GROUP = 32  # of torchao's CUDA kernel
TILE_INPUTS, TILE_OUTPUTS = 1024, 8  # that kernel pads a matrix to multiples of these
MIN_CAPABILITY = (8, 0)  # of a GPU, for that kernel


class WeightOnlyLinear(nn.Module):
    """A linear layer without bias whose weight (out, in) is kept in int8 or int4; rows (..., in) to
    (..., out) in their own format.

    int8: levels (out, in) int8 and step (out, 1) float32, weight = level * step, level -127 to 127.
    int4: levels (out, in / 2) uint8, two a byte (even input in the low half), step and lowest (out,
    in / group, 1) in the weight's format, weight = lowest + level * step, level 0 to 15. Raises
    ConfigError where int4 has no group for this many inputs.
    """

    levels: torch.Tensor
    step: torch.Tensor
    lowest: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, weights: str) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        make = quantize_int8 if weights == "int8" else quantize_int4
        for name, value in zip(("levels", "step", "lowest"), make(weight), strict=True):
            self.register_buffer(name, value)

    def extra_repr(self) -> str:
        bits = 8 if self.lowest is None else 4
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={bits}"

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight (out, in) that the stored numbers stand for."""
        if self.lowest is None:
            return self.levels.to(dtype) * self.step.to(dtype)
        wide = torch.empty(*self.levels.shape, 2, dtype=dtype, device=self.levels.device)
        wide[..., 0] = self.levels & 15
        wide[..., 1] = self.levels >> 4
        groups = wide.view(self.out_features, self.step.shape[1], -1)
        groups.mul_(self.step.to(dtype)).add_(self.lowest.to(dtype))
        return wide.view(self.out_features, self.in_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if (
            self.lowest is not None or x.dtype == torch.float16
        ):  # sums of int8 levels overflow float16
            return F.linear(x, self.dequantized(x.dtype))
        return F.linear(x, self.levels.to(x.dtype)) * self.step[:, 0].to(x.dtype)


def quantize_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
    """Levels (out, in) int8 and step (out, 1) float32 of a weight (out, in); off by half a step at
    most.
    """
    wide = weight.float()
    step = (wide.abs().amax(dim=1, keepdim=True) / MAX_LEVEL_INT8).clamp(
        min=torch.finfo(torch.float32).tiny
    )
    levels = (wide / step).round_().clamp_(-MAX_LEVEL_INT8, MAX_LEVEL_INT8)
    return levels.to(torch.int8), step, None


def quantize_int4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Packed levels (out, in / 2) uint8, step and lowest (out, in / group, 1) in the weight's
    format, of a weight (out, in).

    Off by half a step at most, or by the rounding of `lowest` where that is more. The step is
    rounded up, so that 15 of them span the group.
    """
    dtype, info = weight.dtype, torch.finfo(weight.dtype)
    wide = weight.float().unflatten(1, (-1, group_size(weight.shape[1])))
    low, high = wide.aminmax(dim=2, keepdim=True)
    step = ((high - low) / MAX_LEVEL_INT4 * (1 + info.eps)).clamp(min=info.tiny).to(dtype)
    lowest = low.to(dtype)
    levels = ((wide - lowest.float()) / step.float()).round_().clamp_(0, MAX_LEVEL_INT4)
    return pack_int4(levels.flatten(1).to(torch.uint8)), step, lowest


def pack_int4(levels: torch.Tensor) -> torch.Tensor:
    """Levels (out, in) uint8, 0 to 15, to (out, in / 2): even inputs in the low half of a byte."""
    return levels[:, ::2] | (levels[:, 1::2] << 4)


def group_size(in_features: int) -> int:
    """Inputs that share a step in int4: 64 or 32. Raises ConfigError where neither divides."""
    group = math.gcd(in_features, GROUP)
    if group < MIN_GROUP:
        raise ConfigError(
            f"model.weights int4 works on groups of {MIN_GROUP} or {GROUP} inputs, a layer of this"
            f" model has {in_features}: use model.weights int8 or full."
        )
    return group


def is_quantized(name: str) -> bool:
    """Whether `model.weights` concerns the parameter of this name in Llava3D or LlamaDecoder."""
    return QUANTIZED.fullmatch(name) is not None


def kernel_of(weights: str, dtype: torch.dtype, device_type: str) -> str:
    """Who multiplies with quantised weights: 'torchao', or 'torch' for WeightOnlyLinear. Looks for
    torchao without loading it.
    """
    fits = (
        dtype != torch.float16
        if weights == "int8"
        else device_type == "cuda" and dtype == torch.bfloat16
    )
    return "torchao" if fits and importlib.util.find_spec("torchao") is not None else "torch"


def linear_bytes(shape: tuple[int, ...], dtype: torch.dtype, weights: str, device_type: str) -> int:
    """Bytes that one linear layer's weight (out, in) takes under `model.weights`. Raises
    ConfigError as `group_size` does.
    """
    outputs, inputs = shape
    if weights == "full":
        return outputs * inputs * dtype.itemsize
    torchao = kernel_of(weights, dtype, device_type) == "torchao"
    if weights == "int8":
        return outputs * (
            inputs + (5 if torchao else 4)
        )  # a float32 step, and torchao's zero point
    group = group_size(inputs)
    if torchao:
        inputs, outputs = _padded(inputs, TILE_INPUTS), _padded(outputs, TILE_OUTPUTS)
    return outputs * inputs // 2 + outputs * (inputs // group) * 2 * dtype.itemsize


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def quantize_linear(linear: nn.Module, weights: str) -> nn.Module:
    """The layer with its weight in int8 or int4; its old weight is let go. Raises ConfigError as
    `group_size` does.
    """
    weight = linear.get_parameter("weight").detach()
    group = group_size(weight.shape[1]) if weights == "int4" else 0
    kernel = kernel_of(weights, weight.dtype, weight.device.type)
    if kernel == "torch" or (
        group and torch.cuda.get_device_capability(weight.device) < MIN_CAPABILITY
    ):
        return WeightOnlyLinear(weight, weights)
    _quantize_by_torchao(linear, weights, group)
    return linear


def _quantize_by_torchao(linear: nn.Module, weights: str, group: int) -> None:
    try:
        from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise ConfigError(
            f"model.weights {weights}: torchao is installed but cannot be imported ({error}):"
            " install one that fits this torch, or remove it, and plain torch does its work."
        ) from error
    if weights == "int8":
        quantize_(linear, Int8WeightOnlyConfig(set_inductor_config=False))
    else:  # of its packings the one that torch's own CUDA kernel reads
        packing: Any = "tile_packed_to_4d"
        quantize_(
            linear,
            Int4WeightOnlyConfig(group, int4_packing_format=packing, set_inductor_config=False),
        )


def quantize_layers(decoder: nn.Module, weights: str) -> None:
    """Quantise the linear layers of a LlamaDecoder in place, one after the other; nothing for
    `full`.
    """
    if weights == "full":
        return
    for name in [name for name, _ in decoder.named_parameters() if is_quantized(name)]:
        path = name.removesuffix(".weight")
        decoder.set_submodule(path, quantize_linear(decoder.get_submodule(path), weights))


def stored_bytes(module: nn.Module) -> int:
    """Bytes of all weights that a module really holds, quantised ones included; buffers that are no
    weights are left out.
    """
    found: list[torch.Tensor] = list(module.parameters())
    for layer in module.modules():
        if isinstance(layer, WeightOnlyLinear):
            found += layer.buffers(recurse=False)
    return sum(_tensor_bytes(value) for value in found)


def _tensor_bytes(tensor: torch.Tensor) -> int:
    if hasattr(tensor, "__tensor_flatten__"):  # torchao's: several tensors that act as one
        names, _ = tensor.__tensor_flatten__()
        return sum(_tensor_bytes(getattr(tensor, name)) for name in names)
    return tensor.numel() * tensor.element_size()
