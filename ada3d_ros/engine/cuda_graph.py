"""Decode steps as CUDA graphs: recording one, and when a refused one is tried again."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch

MAX_PAUSE = 64  # questions until a refused capture is tried again, at most
WARM_UPS = 3

T = TypeVar("T")

_log = logging.getLogger(__name__)
_recording = threading.Lock()  # one side stream: who warms up there is not in another's graph


def can_capture(device: torch.device) -> bool:
    return device.type == "cuda"


@functools.cache
def _side_stream(device: torch.device) -> Any:
    """On which graphs of this GPU are captured: always the same, for each has workspaces of its
    own.
    """
    return torch.cuda.Stream(device)


def record(step: Callable[[], T], state: torch.Tensor) -> tuple[Any, T]:
    """`step` as a CUDA graph, after warm-up on the same side stream, and where every replay leaves
    its result. state: what a step moves on; it stays as it is.

    Raises RuntimeError where CUDA refuses.
    """
    device, before = state.device, state.clone()
    with _recording:
        side, current = _side_stream(device), torch.cuda.current_stream(device)
        side.wait_stream(current)
        # Left again whatever the capture raises.
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                step()
                state.copy_(before)
            graph = torch.cuda.CUDAGraph()
            # Threads of others may ask for memory meanwhile.
            with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                result = step()
        current.wait_stream(side)
    return graph, result


class Retries:
    """Whether a capture may be tried: after a refusal again after 1, 2, 4 .. MAX_PAUSE questions.

    steps: what is captured, for the log.
    """

    def __init__(self, steps: str) -> None:
        self._steps = steps
        self._asked = self._retry_at = self._refusals = 0  # questions; refusals in a row

    @property
    def due(self) -> bool:
        return self._asked >= self._retry_at

    def count_question(self) -> None:
        self._asked += 1

    def succeeded(self) -> None:
        self._refusals = 0

    def refused(self, error: RuntimeError) -> None:
        """Wait for some questions before the next try; said once."""
        self._retry_at = self._asked + min(2**self._refusals, MAX_PAUSE)
        self._refusals += 1
        if self._refusals == 1:
            _log.warning(
                "%s cannot be captured as a CUDA graph, decoding is slower until it can: %s",
                self._steps,
                str(error),  # its traceback would keep the tensors
            )

    def forget(self) -> None:
        """Try again at once."""
        self._retry_at = self._refusals = 0
