"""Weight-only quantisation of the decoder's linear layers (`model.weights`), done by torchao.

int8: one scale per output channel, symmetric; the products are in the model's format. int4: groups
of 64 or 32 inputs with a scale and a zero point each; the products are in bfloat16, which torchao's
kernels are made for. Embeddings, lm_head, norms, vision tower and projector stay as they are.
"""

from __future__ import annotations

from types import ModuleType
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from ada3d_ros.errors import ConfigError
from ada3d_ros.model.weight_format import (
    WeightFormat,
    group_size,
    int8_groups,
    is_quantized,
    linear_bytes,
)

MIN_CAPABILITY = (8, 0)  # of a GPU, for that kernel


def require_kernel(weights: str, device: torch.device) -> None:
    """Raises ConfigError where torchao is missing, or has no kernel for `model.weights` there."""
    if weights == "full":
        return
    _torchao(weights)
    if weights == "int4" and device.type == "cuda":
        found = torch.cuda.get_device_capability(device)
        if found < MIN_CAPABILITY:
            raise ConfigError(
                f"model.weights int4 needs a GPU of compute capability"
                f" {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]} or more, {device} has"
                f" {found[0]}.{found[1]}: use model.weights int8 or full."
            )


def slower_than_full(weights: str, device: torch.device) -> str:
    """Why answers take longer on this device than with `model.weights` full; '' where they do not,
    or nobody knows of it.
    """
    if weights != "int8" or device.type != "cuda":
        return ""
    return (
        "model.weights int8 saves memory on a GPU and no time: torchao widens every matrix at each"
        " product there, which moves about 5 bytes a weight, bf16 moves 2. Use full where it fits,"
        " or int4, whose kernel reads weights as they are packed."
    )


def _torchao(weights: str) -> tuple[ModuleType, ModuleType]:
    """torchao's quantisation API and its int4 for CPUs. Raises ConfigError."""
    try:
        from torchao import quantization
        from torchao.prototype.quantization import int4
    except Exception as error:  # a wheel that does not fit this torch fails in many ways
        raise ConfigError(
            f"model.weights {weights} needs torchao, which cannot be imported ({error}): install it"
            " with `pip install .[quantisation]` (tested versions: constraints/python.txt), or use"
            " model.weights full."
        ) from error
    return quantization, int4


class Int4Linear(nn.Linear):
    """A linear layer with an int4 weight: (..., in) to (..., out) in the format of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        product = F.linear(x.bfloat16(), self.weight).to(x.dtype)  # what torchao's kernels take
        return product if self.bias is None else product.add_(self.bias)


def quantize_linear(linear: nn.Linear, weights: str) -> nn.Linear:
    """The layer with its weight in int8 or int4; its old weight is let go, a bias stays.

    Raises ConfigError where torchao is missing, or int4 does not fit the shape.
    """
    api, int4 = _torchao(weights)
    inputs, outputs = linear.in_features, linear.out_features
    weight = linear.weight.detach()
    form = WeightFormat(weight.dtype, weights, weight.device.type)
    linear_bytes((outputs, inputs), form)  # refuses a shape that does not fit

    if weights == "int8":
        groups = int8_groups(weight.dtype)
        granularity = api.PerRow() if groups == 1 else api.PerGroup(inputs // groups)
        config = api.Int8WeightOnlyConfig(granularity=granularity, set_inductor_config=False)
        made = linear
    else:
        made = Int4Linear(inputs, outputs, bias=False, device="meta")
        made.weight = nn.Parameter(weight.bfloat16(), requires_grad=False)
        made.bias = linear.bias
        if form.device_type == "cuda":  # of torchao's packings the one of torch's own kernel
            config = api.Int4WeightOnlyConfig(
                group_size(inputs),
                int4_packing_format="tile_packed_to_4d",
                set_inductor_config=False,
            )
        else:
            config = int4.PrototypeInt4WeightOnlyConfig(
                group_size(inputs), set_inductor_config=False
            )
    api.quantize_(made, config)
    return made


def quantize_layers(decoder: nn.Module, weights: str) -> None:
    """Quantises the linear layers of a LlamaDecoder in place, one by one; nothing for `full`."""
    if weights == "full":
        return
    for name in [name for name, _ in decoder.named_parameters() if is_quantized(name)]:
        path = name.removesuffix(".weight")
        linear = cast(nn.Linear, decoder.get_submodule(path))
        decoder.set_submodule(path, quantize_linear(linear, weights))


def stored_bytes(module: nn.Module) -> int:
    """Bytes of all weights that a module really holds, quantised ones included."""
    return sum(_tensor_bytes(value) for value in module.parameters())


def _tensor_bytes(tensor: torch.Tensor) -> int:
    if hasattr(tensor, "__tensor_flatten__"):  # torchao's: several tensors that act as one
        names, _ = tensor.__tensor_flatten__()
        return sum(_tensor_bytes(getattr(tensor, name)) for name in names)
    return tensor.numel() * tensor.element_size()
