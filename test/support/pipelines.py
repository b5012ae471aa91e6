"""Loaded pipelines on the generated room, and what tests of several files ask of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ada3d_ros.config import AgentConfig, from_flat
from ada3d_ros.engine.prefix_cache import PrefixCache
from ada3d_ros.errors import CanceledError
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Answer, AskHooks, Question, RgbdFrame, StopReason
from ada3d_ros.usage import StageTimings, TokenUsage
from test.support.box_room import build_box_room

ROOM = build_box_room(num_views=5, width=160, height=120)
MANY = build_box_room(num_views=10, width=160, height=120).frames
ASK = Question("What is there?")
OTHER = Question("How many chairs?")


def configured(model: Path, **settings: Any) -> AgentConfig:
    flat = {"model.path": str(model), "generation.max_new_tokens": 8, "pruning.strategy": "none"}
    return from_flat(flat | settings)


def start(
    model: Path,
    num_frames: int = len(ROOM.frames),
    now: Callable[[], float] = time.perf_counter,
    **settings: Any,
) -> Ada3DPipeline:
    """A loaded pipeline that has seen the first frames of the room; now: its clock."""
    pipeline = Ada3DPipeline(configured(model, **settings), now=now)
    pipeline.check()
    pipeline.load()
    for frame in ROOM.frames[:num_frames]:
        pipeline.observe(frame)
    return pipeline


def timed_answer(
    tokens: float, first_token_s: float, step_s: float, rest_s: float, generated: int, mode: str
) -> Answer:
    """An answer whose layers held so many spatial tokens, and that took so long. mode: of
    Answer.cache_mode.
    """
    decode_s = step_s * (generated - 1) if generated > 1 else 0.0
    return Answer(
        question="",
        text="",
        boxes=(),
        stamp_ns=0,
        frame_id="map",
        keyframe_stamps_ns=(),
        stop_reason=StopReason.EOS,
        tokens=TokenUsage(per_layer=(tokens,), generated=generated),  # type: ignore[arg-type]
        timings=StageTimings(
            first_token_s=first_token_s,
            decode_s=decode_s,
            total_s=first_token_s + decode_s + rest_s,
        ),
        scene_cached=mode != "paper",
        cache_mode=mode,
    )


def cache_of(pipeline: Ada3DPipeline) -> PrefixCache:
    """The prefix cache of a loaded pipeline."""
    assert pipeline.prefix_cache is not None
    return pipeline.prefix_cache


def start_background(
    model: Path, frames: tuple[RgbdFrame, ...] = (), **settings: Any
) -> Ada3DPipeline:
    """Someone takes background steps; they are small, and a scene settles at once."""
    small = {"cache.settle_sec": 0.0, "cache.chunk_tokens": 16}
    pipeline = Ada3DPipeline(configured(model, **{**small, **settings}), background=True)
    pipeline.check()
    pipeline.load()
    show(pipeline, frames)
    return pipeline


def show(pipeline: Ada3DPipeline, frames: tuple[RgbdFrame, ...]) -> None:
    for frame in frames:
        assert pipeline.observe(frame) is not None


def settle(pipeline: Ada3DPipeline, limit: int = 200) -> int:
    """Background steps until nothing is left to do; how many."""
    for pieces in range(limit):
        if not pipeline.run_background_step():
            return pieces
    raise AssertionError("background steps do not end")


def library(model: Path, frames: tuple[RgbdFrame, ...], **settings: Any) -> Ada3DPipeline:
    pipeline = start(model, 0, **{"cache.chunk_tokens": 16, **settings})
    show(pipeline, frames)
    return pipeline


def exact(pipeline: Ada3DPipeline, other: Ada3DPipeline) -> None:
    """Both answer alike, bit for bit, from the whole scene."""
    for question in (ASK, OTHER):
        answer, expected = pipeline.ask(question), other.ask(question)
        assert (answer.text, answer.confidence) == (expected.text, expected.confidence)
        assert answer.keyframe_stamps_ns == expected.keyframe_stamps_ns
        assert (answer.scene_version, answer.scene_staleness) == (expected.scene_version, 0.0)
        assert answer.tokens.per_layer == expected.tokens.per_layer


def stop_at(token: int, error: Callable[[str], Exception] = CanceledError) -> AskHooks:
    """Hooks that stop a question once so many tokens are there."""
    count = 0

    def count_tokens(delta: str, num_tokens: int) -> None:
        nonlocal count
        count = num_tokens

    def check() -> None:
        if count >= token:
            raise error("enough")

    return AskHooks(check=check, on_text=count_tokens)
