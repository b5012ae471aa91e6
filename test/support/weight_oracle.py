"""Weight-only int8 and int4 in plain torch: what torchao stores, and what it stands for.

An oracle for ada3d_ros/model/quantize.py, written from the formulas of torchao 0.18 in
quantization/quant_primitives.py: choose_qparams_affine and quantize_affine for int8, their
tinygemm variants for int4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KINDS = ("normal", "outliers", "offset", "constant", "zero", "tiny")
INT8_LEVELS = (-128, 127)
INT4_LEVELS = (0, 15)
INT4_MIDDLE = 8  # the level that the zero point stands for
MIN_STEP = {"int8": torch.finfo(torch.float32).eps, "int4": 1e-6}


@dataclass(frozen=True, eq=False, slots=True)
class Quantized:
    """A weight (out, in) as levels (out, in), with a step and a zero point (out, groups).

    weight = (level - middle) * step + zero.
    """

    levels: torch.Tensor
    step: torch.Tensor
    zero: torch.Tensor
    middle: int

    def weight(self) -> torch.Tensor:
        """The weight (out, in) float64 that the stored numbers stand for."""
        groups = self.levels.double().unflatten(1, (self.step.shape[1], -1)) - self.middle
        return (groups * self.step.double()[..., None] + self.zero.double()[..., None]).flatten(1)

    def steps(self) -> torch.Tensor:
        """The step (out, in) float64 of every weight."""
        return self.step.double().repeat_interleave(
            self.levels.shape[1] // self.step.shape[1], dim=1
        )


def quantize_int8(weight: torch.Tensor, groups: int) -> Quantized:
    """Symmetric, `groups` steps per output; the step is computed in the weight's format."""
    parts = weight.unflatten(1, (groups, -1))
    step = (parts.abs().amax(dim=2) / 127.5).clamp(min=MIN_STEP["int8"]).float()
    levels = (parts * (1.0 / step[..., None])).round().clamp(*INT8_LEVELS)
    return Quantized(levels.flatten(1).long(), step, torch.zeros_like(step), 0)


def quantize_int4(weight: torch.Tensor, group: int) -> Quantized:
    """Asymmetric, a step and a zero point per `group` inputs, all of it in bfloat16."""
    parts = weight.bfloat16().unflatten(1, (-1, group))
    low, high = parts.amin(dim=2), parts.amax(dim=2)
    step = ((high - low) / 15.0).clamp(min=MIN_STEP["int4"])
    zero = low + step * INT4_MIDDLE
    lowest = zero - step * INT4_MIDDLE
    levels = ((parts - lowest[..., None]) / step[..., None]).round().clamp(*INT4_LEVELS)
    return Quantized(levels.flatten(1).long(), step, zero, INT4_MIDDLE)


def packed(levels: torch.Tensor) -> torch.Tensor:
    """Levels 0 to 15 in the layout of torch's CPU kernel."""
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels.int(), 1)


class OracleLinear(nn.Module):
    """A product with the oracle's numbers.

    In int8 with the weight that they stand for, in int4 by torch's kernel on the numbers
    themselves, which rounds to bfloat16.
    """

    def __init__(self, oracle: Quantized) -> None:
        super().__init__()
        self.oracle = oracle

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.oracle.middle == 0:
            return nn.functional.linear(x, self.oracle.weight().to(x.dtype))
        group = self.oracle.levels.shape[1] // self.oracle.step.shape[1]
        scales = torch.stack((self.oracle.step.T, self.oracle.zero.T), dim=2).contiguous()
        made = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.bfloat16().flatten(0, -2), packed(self.oracle.levels), group, scales
        )
        return made.unflatten(0, x.shape[:-1]).to(x.dtype)


def weight_of(kind: str, dtype: torch.dtype, outputs: int = 32, inputs: int = 192) -> torch.Tensor:
    """A weight (outputs, inputs) to quantise, one of KINDS."""
    generator = torch.Generator().manual_seed(len(kind))
    weight = torch.randn(outputs, inputs, generator=generator) * 0.02
    if kind == "outliers":
        weight[::3, ::50] *= 40
    elif kind == "offset":  # far from zero: the zero point is rounded by more than a step
        weight += 3.0
    elif kind == "constant":
        weight = torch.full_like(weight, 0.7)
    elif kind == "zero":
        weight = torch.zeros_like(weight)
    elif kind == "tiny":
        weight *= 1e-4
    return weight.to(dtype)
