"""Weight-only quantisation of the decoder's linear layers (`model.weights`), done by torchao.

int8: one scale per output channel, symmetric; the products are in the model's format. int4: groups
of 64 or 32 inputs with a scale and a zero point each; the products are in bfloat16, which torchao's
kernels are made for. Embeddings, lm_head, norms, vision tower and projector stay as they are.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from types import ModuleType
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from ada3d_ros.errors import ConfigError

WEIGHTS = ("full", "int8", "int4")
QUANTIZED = re.compile(
    r"(decoder\.)?layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.weight"
)
FLOAT32_MODULES = ("position_embedding.", "click_encoder.")  # geometry (model/spatial.py)
# int4: inputs that share a scale and a zero point; 32 where 64 does not divide the inputs.
GROUP, MIN_GROUP = 64, 32
CPU_OUTPUTS = 16  # torchao's CPU kernel takes multiples of so many outputs
CUDA_INPUTS, CUDA_OUTPUTS = 1024, 8  # its CUDA kernel pads a matrix to multiples of these
MIN_CAPABILITY = (8, 0)  # of a GPU, for that kernel


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """How a model's weights are stored.

    In `dtype`, the decoder's linear layers as `weights` (`model.weights`) says, on `cpu` or `cuda`.
    """

    dtype: torch.dtype
    weights: str = "full"
    device_type: str = "cpu"

    def is_quantized(self, name: str) -> bool:
        """Whether the parameter of this name in Llava3D is stored in int8 or int4."""
        return self.weights != "full" and is_quantized(name)

    def num_bytes(self, name: str, shape: tuple[int, ...]) -> int:
        """Bytes that one parameter takes. Raises ConfigError as `linear_bytes` does."""
        if self.is_quantized(name):
            return linear_bytes(shape, self)
        return math.prod(shape) * target_dtype(name, self.dtype).itemsize

    def scratch_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes that a product with one of the decoder's linear layers takes to dequantise it."""
        if self.weights != "int8":  # full needs nothing of the kind, int4 is read as it is packed
            return 0
        # Levels in the model's format; float16 (int8_groups) takes the weight in float32 besides.
        width = 6 if self.dtype == torch.float16 else self.dtype.itemsize
        return math.prod(shape) * width


def target_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """The format that one of our parameters is loaded in, where the model's is `dtype`."""
    return torch.float32 if name.startswith(FLOAT32_MODULES) else dtype


def is_quantized(name: str) -> bool:
    """Whether `model.weights` concerns the parameter of this name in Llava3D or LlamaDecoder."""
    return QUANTIZED.fullmatch(name) is not None


def linear_bytes(shape: tuple[int, ...], form: WeightFormat) -> int:
    """Bytes that one linear layer's weight (out, in) takes in torchao's layout.

    Raises ConfigError where int4 does not fit the shape.
    """
    outputs, inputs = shape
    if form.weights == "int8":
        groups = int8_groups(form.dtype)
        return outputs * (inputs + groups * 5)  # a float32 scale and an int8 zero point a group

    # int4: 4 bits a weight; a bfloat16 scale and zero point per group of inputs.
    group = group_size(inputs)
    if form.device_type == "cuda":
        inputs, outputs = _padded(inputs, CUDA_INPUTS), _padded(outputs, CUDA_OUTPUTS)
    elif outputs % CPU_OUTPUTS:
        raise ConfigError(
            f"model.weights int4 works on multiples of {CPU_OUTPUTS} outputs on a CPU, a layer of"
            f" this model has {outputs}: use model.weights int8 or full."
        )
    return outputs * inputs // 2 + outputs * (inputs // group) * 4


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def int8_groups(dtype: torch.dtype) -> int:
    """Scales per output channel in int8: 1, or 2 in float16.

    With one scale torchao multiplies the levels themselves, whose sums overflow float16; with more
    it dequantises the weight before the product.
    """
    return 2 if dtype == torch.float16 else 1


def group_size(in_features: int) -> int:
    """Inputs that share a scale in int4: 64 or 32. Raises ConfigError where neither divides."""
    group = math.gcd(in_features, GROUP)
    if group < MIN_GROUP:
        raise ConfigError(
            f"model.weights int4 works on groups of {MIN_GROUP} or {GROUP} inputs, a layer of this"
            f" model has {in_features}: use model.weights int8 or full."
        )
    return group


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
        return F.linear(x.bfloat16(), self.weight).to(x.dtype)  # what torchao's kernels take


def quantize_linear(linear: nn.Linear, weights: str) -> nn.Linear:
    """The layer with its weight in int8 or int4; its old weight is let go.

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
