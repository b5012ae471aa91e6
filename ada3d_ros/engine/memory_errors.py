"""Telling a lack of memory from other errors of torch."""

from __future__ import annotations

import torch


def out_of_memory(error: RuntimeError) -> str:
    """One line on the memory that was lacking; '' where the error is about something else."""
    text = str(error).splitlines()[0] if str(error) else "out of memory"
    lacking = (
        isinstance(error, torch.OutOfMemoryError)
        or "not enough memory" in str(error)
        or "can't allocate memory" in str(error)
    )
    return text if lacking else ""
