"""One training process, or several on their own GPUs by Accelerate.

`accelerate launch --multi_gpu -m ada3d_ros train --out RUN`: the rooms of each batch are shared
out, gradients are averaged before the step, so that several workers train what one would. The first
one renders, validates, writes and saves.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Sequence
from datetime import timedelta

import torch
from torch import nn

from ada3d_ros.errors import ConfigError


class Workers:
    """count and rank of the workers; device of this one. patience: how long they wait for each
    other, None as torch has it (half an hour or less).

    With one worker nothing of Accelerate is imported. Raises ConfigError where several were
    launched and Accelerate is not installed.
    """

    def __init__(self, device: str, patience: timedelta | None = None) -> None:
        self.count, self.rank, self.device = 1, 0, torch.device(device)
        self._accelerator = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            try:
                from accelerate import Accelerator
                from accelerate.utils import InitProcessGroupKwargs
            except ImportError:
                raise ConfigError(
                    "several workers need Accelerate: pip install accelerate."
                ) from None
            waiting = [] if patience is None else [InitProcessGroupKwargs(timeout=patience)]
            on_cpu = self.device.type == "cpu"
            self._accelerator = Accelerator(cpu=on_cpu, kwargs_handlers=waiting)
            atexit.register(self._accelerator.end_training)  # gloo aborts at the exit
            self.count, self.rank = self._accelerator.num_processes, self._accelerator.process_index
            self.device = self._accelerator.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share_of(self, batch: int) -> slice:
        """Which rooms of a batch are this worker's. Raises ConfigError where they cannot be shared
        out evenly.
        """
        each, left = divmod(batch, self.count)
        if left:
            allowed = ", ".join(str(n) for n in range(1, batch + 1) if batch % n == 0)
            raise ConfigError(
                f"{self.count} processes cannot share out batches of {batch} rooms evenly; allowed:"
                f" {allowed} processes (--batch of --lora says how many rooms a batch has)."
            )
        return slice(self.rank * each, (self.rank + 1) * each)

    def mean(self, numbers: Sequence[float]) -> Sequence[float]:
        """Of each, over all workers."""
        if self._accelerator is None:
            return numbers
        values = torch.tensor(numbers, dtype=torch.float32, device=self.device)
        return [float(value) for value in self._accelerator.reduce(values, "mean")]

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """The mean over all workers, in place.

        A parameter that a worker's rooms did not use counts as zero there.
        """
        if self._accelerator is None:
            return
        for parameter in parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self._accelerator.reduce(gradient, "mean")

    def all_agree(self, go_on: bool) -> bool:
        """Whether every worker wants to go on; one that stops stops all, at the same step."""
        if self._accelerator is None:
            return go_on
        stops = self._accelerator.reduce(torch.tensor(float(not go_on), device=self.device), "sum")
        return float(stops) == 0.0

    def wait(self) -> None:
        """Until all are here."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()
