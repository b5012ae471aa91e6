"""Products of a matrix with one vector on a CPU: oneDNN's bfloat16 kernels read the weights at half
the speed of torch's own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_inside = 0  # threads between enter and exit: the switch is one for the whole process
_before = True


@contextmanager
def without_onednn(tensor: torch.Tensor) -> Iterator[None]:
    """Torch's own products inside, where `tensor` is bfloat16 on a CPU; sums are in float32 either
    way.

    For one row only: from eight rows on oneDNN is the faster one. A thread that multiplies
    meanwhile is slower, not wrong.
    """
    global _inside, _before
    if tensor.device.type != "cpu" or tensor.dtype != torch.bfloat16:
        yield
        return
    with _lock:
        if _inside == 0:
            _before = torch._C._get_mkldnn_enabled()
            torch._C._set_mkldnn_enabled(False)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                torch._C._set_mkldnn_enabled(_before)
