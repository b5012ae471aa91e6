"""When memory does not suffice: telling it from other errors of torch, and asking again for less."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class MemoryFallback:
    """How much memory a question may take: the share of the keyframes, and whether at the lowest
    keep ratio. Only the full share uses the cached scene.
    """

    view_share: float = 1.0
    lowest_keep_ratio: bool = False


# Tried in turn when memory runs out.
MEMORY_FALLBACKS = (
    MemoryFallback(),
    MemoryFallback(view_share=0.5),
    MemoryFallback(view_share=0.5, lowest_keep_ratio=True),
)


def out_of_memory(error: RuntimeError) -> str:
    """One line on the memory that was lacking; '' where the error is about something else."""
    text = str(error).splitlines()[0] if str(error) else "out of memory"
    lacking = (
        isinstance(error, torch.OutOfMemoryError)
        or "not enough memory" in str(error)
        or "can't allocate memory" in str(error)
    )
    return text if lacking else ""
