"""What torch's errors mean; when memory does not suffice, asking again for less."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from ada3d_ros.errors import DeviceLostError, ModelError, OutOfMemoryError
from ada3d_ros.types import Answer, AskHooks, Question

logger = logging.getLogger(__name__)


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
        or "out of memory" in str(error)  # also of CUDA's own calls, a plain RuntimeError
    )
    return text if lacking else ""


def model_error(error: RuntimeError, what: str = "the model failed") -> ModelError:
    """What to raise for an error of torch's that is not about memory."""
    text = str(error).splitlines()[0] if str(error) else repr(error)
    # torch.AcceleratorError, and torch's texts of before there was one: each further call fails too
    if text.startswith(("CUDA error", "HIP error")):
        return DeviceLostError(f"the GPU no longer works ({text}): restart the node.")
    return ModelError(f"{what}: {error}")


def memory_problem(error: RuntimeError, what: str = "the model failed") -> str:
    """As `out_of_memory`; raises `model_error` where the error is about something else."""
    problem = out_of_memory(error)
    if not problem:
        raise model_error(error, what) from error
    return problem


Ask = Callable[..., Answer]


class AskingPipeline(Protocol):
    """What asks: `fallback` is that of the question being asked."""

    fallback: MemoryFallback

    def free_memory(self) -> None: ...


def with_memory_fallbacks(ask: Ask) -> Ask:
    """`ask`, tried again with less where memory runs out before any text was emitted; a deadline
    counts from the first try on.

    Raises OutOfMemoryError where nothing is left to try, `model_error` for torch's other errors.
    """

    @functools.wraps(ask)
    def tried(pipeline: AskingPipeline, question: Question, hooks: AskHooks = AskHooks()) -> Answer:
        emitted, begun, deadline_s = False, time.perf_counter(), question.deadline_s

        def on_text(delta: str, num_tokens: int) -> None:
            nonlocal emitted
            emitted = emitted or bool(delta)
            hooks.on_text(delta, num_tokens)

        watched = replace(hooks, on_text=on_text)
        for fallback in MEMORY_FALLBACKS:
            try:
                pipeline.fallback = fallback
                return ask(pipeline, question, watched)
            except RuntimeError as error:
                problem = memory_problem(error)
            finally:
                pipeline.fallback = MEMORY_FALLBACKS[0]
            # Outside the except block: the traceback would keep the tensors alive.
            pipeline.free_memory()
            if emitted or fallback is MEMORY_FALLBACKS[-1]:
                break
            logger.warning("%s: %s; tried again with less.", question.text[:80], problem)
            left_s = deadline_s - (time.perf_counter() - begun)
            question = replace(question, deadline_s=left_s)
        raise OutOfMemoryError(
            f"the memory does not suffice ({problem}); keep fewer views (keyframe.max_views)."
        )

    return tried
