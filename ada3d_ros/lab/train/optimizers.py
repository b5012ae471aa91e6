"""Muon for the matrices of the layers, AdamW for the rest, and the learning rate over a stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ada3d_ros.lab.train.stages import Stage

WARMUP_STEPS = 150


class Optimizers:
    """Muon for the matrices of the layers, AdamW for the rest, one learning rate."""

    def __init__(self, named: Sequence[tuple[str, nn.Parameter]]) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in named:
            inside = "layers." in name and parameter.ndim == 2
            (matrices if inside else others).append(parameter)
        self.all: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
        ]
        if matrices:
            muon = torch.optim.Muon(
                matrices, lr=1e-3, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
            )
            self.all.append(muon)
        self.parameters = matrices + others

    def step(self, lr: float) -> None:
        """One step at this rate; gradients are clipped to norm 1 and cleared."""
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.all:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self.all]

    def load(self, states: list[dict[str, Any]]) -> None:
        for optimizer, state in zip(self.all, states, strict=True):
            optimizer.load_state_dict(state)


def learning_rate(stage: Stage, step: int, progress: float) -> float:
    """Warm-up, constant, and at the end a linear fall to a tenth where the stage has one.

    progress: 0..1 of the stage's rooms or of its time.
    """
    warm, fall, fall_from = min(1.0, (step + 1) / WARMUP_STEPS), 1.0, 1 - stage.decay
    if progress >= fall_from:
        fall = max(0.1, 1 - 0.9 * (progress - fall_from) / max(1 - fall_from, 1e-6))
    return stage.lr * warm * fall
