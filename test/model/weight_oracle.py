"""Weight-only int8 and int4 in plain torch: what torchao stores, and what it stands for.

An oracle for ada3d_ros/model/quantize.py, written from the formulas of torchao 0.18
(quantization/quant_primitives.py: choose_qparams_affine and quantize_affine for int8, their tinygemm
variants for int4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

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
