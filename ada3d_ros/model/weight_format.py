"""How a model's weights are stored (`model.weights`), and the bytes that they take.

int8: one scale per output channel, symmetric; int4: groups of 64 or 32 inputs with a scale and a
zero point each, as torchao packs them (model/quantize.py does it).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch

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
