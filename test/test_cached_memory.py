"""What a question on the cached scene takes: its memory given back, told as it is, and none of it
for a scene that cannot serve.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ada3d_ros.engine import prefix_cache
from ada3d_ros.engine.decode import GenerationRequest, decode
from ada3d_ros.engine.prefill import prefill_question
from ada3d_ros.engine.static_decode import static_steps
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Answer, AskHooks, Question, StopReason
from ada3d_ros.usage import TokenUsage
from test.support.pipelines import (
    ASK,
    MANY,
    OTHER,
    ROOM,
    cache_of,
    settle,
    show,
    start,
    start_background,
)

ROOM_FOR_ANSWERS = 60
LONG = dataclasses.replace(ASK, max_new_tokens=2 * ROOM_FOR_ANSWERS)


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prefix keeps room for a short question and answer, not for a long one."""
    monkeypatch.setattr(prefix_cache, "RESERVED_TOKENS", ROOM_FOR_ANSWERS)


def held_bytes() -> int:
    """Of all tensors that are alive, those of the layout that ours have."""
    gc.collect()
    alive = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
    tensors = [t for t in alive if t.layout is torch.strided]  # others have no storage
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize("strategy", ["none", "voxel_dpp", "adatoken3d"])
@pytest.mark.parametrize("kv", ["model", "int8"])
def test_a_long_request_gives_its_memory_back(model: Path, strategy: str, kv: str) -> None:
    pipeline = start(model, 2, **{"pruning.strategy": strategy, "cache.kv": kv})
    short = pipeline.ask(ASK)
    before, cached = held_bytes(), pipeline.cache_report().kv_bytes
    answer = pipeline.ask(LONG)
    assert answer.tokens.generated > ROOM_FOR_ANSWERS
    assert answer.text.startswith(short.text[:20])
    assert held_bytes() <= 1.01 * before
    active = cache_of(pipeline).active
    assert active is not None
    assert active.num_bytes == pipeline.cache_report().kv_bytes == cached
    again = pipeline.ask(ASK)
    assert (again.text, again.confidence) == (short.text, short.confidence)


@pytest.mark.usefixtures("little_room")
def test_a_long_request_beside_a_pending_prefix(model: Path) -> None:
    """In the node: one prefix answers while another is built."""
    pipeline = start_background(model, ROOM.frames[:2])
    settle(pipeline)
    pipeline.ask(ASK)
    show(pipeline, ROOM.frames[2:])
    while cache_of(pipeline).pending is None:
        assert pipeline.run_background_step()
    pipeline.ask(ASK)
    before, cached = held_bytes(), pipeline.cache_report()
    assert cached.building
    pipeline.ask(LONG)
    pipeline.ask_together([(LONG, AskHooks()), (OTHER, AskHooks())])
    assert held_bytes() <= 1.01 * before
    assert pipeline.cache_report() == cached


def test_static_buffers_of_a_long_answer_go_with_it(model: Path) -> None:
    """Of a CUDA graph's; here the same buffers without the graph."""
    pipeline = start(model, 2)
    pipeline.ask(ASK)
    prefix, decoder = cache_of(pipeline).active, pipeline.model.model.decoder
    assert prefix is not None
    question = torch.zeros(3, decoder.config.hidden_size)

    def held_after(tokens: int) -> int:
        said = itertools.count()
        request = GenerationRequest(
            tokens, should_stop=lambda: StopReason.CANCELED if next(said) > 2 else None
        )
        decode(decoder, prefill_question(prefix, question), request, static=True)
        return sum(sum(step.capacities) for step in static_steps(decoder).held)

    usual = held_after(200)
    assert held_after(1500) == usual
    assert held_after(200) == usual


@pytest.mark.parametrize("settings", [{}, {"cache.kv": "int8"}, {"model.precision": "bf16"}])
@pytest.mark.parametrize("prune", ["none", "question", "build"])
def test_kv_bytes_are_those_that_are_held(
    model: Path, settings: dict[str, str], prune: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the cached scene, and beside it of what was selected from it."""
    pruning = {"pruning.strategy": "adatoken3d", "cache.prune": prune}
    pipeline = start(model, 3, **settings, **pruning)
    pipeline.ask(ASK)
    caches: list[Any] = []
    from ada3d_ros.engine import streaming

    real = streaming.decode
    outputs: list[Any] = []
    monkeypatch.setattr(
        streaming,
        "decode",
        lambda *a: (outputs.append(real(*a)), caches.append(a[1].cache), outputs[-1])[2],
    )
    tokens = pipeline.ask(OTHER).tokens
    prefix = cache_of(pipeline).active
    assert prefix is not None
    held = {id(c): c.num_bytes for c in (prefix.cache, *caches)}
    assert len(held) == (2 if prune == "question" else 1)
    own = outputs[-1].own_kv_bytes  # 8-bit keys and values are decoded on in the model's format
    assert (own > 0) == ("cache.kv" in settings and prune != "question")
    assert tokens.kv_bytes == sum(held.values()) + own
    assert tokens.attended_kv_bytes == attended_bytes(tokens)
    share = tokens.held_kv_bytes / tokens.unpruned_kv_bytes
    kept = tokens.attended_kv_bytes / tokens.full_kv_bytes
    if prune == "question":
        assert share > 1
    else:
        assert share == pytest.approx(kept, abs=1e-3)
        assert (share == 1.0) == (prune == "none")
    if prune == "none" and "cache.kv" in settings:  # against the same room in the model's format
        assert tokens.held_kv_bytes < 0.3 * start_and_ask(model).tokens.held_kv_bytes


def attended_bytes(tokens: TokenUsage) -> int:
    """Of the text and the spatial tokens that each layer kept, by their share of all."""
    layers, text = len(tokens.per_layer), tokens.prompt - tokens.spatial_total
    kept, full = sum(tokens.per_layer) + layers * text, layers * (tokens.spatial_total + text)
    return tokens.full_kv_bytes * kept // full


def start_and_ask(model: Path) -> Answer:
    return start(model, 3).ask(OTHER)


def test_in_paper_mode_kv_bytes_are_those_of_what_was_kept(model: Path) -> None:
    settings = {"cache.mode": "paper", "pruning.strategy": "adatoken3d"}
    tokens = start(model, 3, **settings).ask(ASK).tokens
    assert tokens.held_kv_bytes == tokens.attended_kv_bytes == attended_bytes(tokens)
    assert tokens.held_kv_bytes < 0.7 * tokens.unpruned_kv_bytes
    room = tokens.kv_bytes - tokens.held_kv_bytes  # for the 8 tokens of the answer
    assert room * tokens.prompt == 8 * tokens.full_kv_bytes * tokens.prompt / (
        tokens.spatial_total + tokens.prompt - tokens.per_layer[0]
    )


def flops_of(pipeline: Ada3DPipeline, question: Question) -> int:
    with FlopCounterMode(display=False) as counter:
        pipeline.ask(question)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("strategy", ["uniform", "voxel_dpp", "cond_dpp"])
@pytest.mark.parametrize("background", [False, True])
def test_a_budget_that_the_cache_lacks_costs_as_in_paper_mode(
    model: Path, strategy: str, background: bool
) -> None:
    """The scene was passed through the decoder for the cache, and thrown away."""
    made, flops = {}, {}
    question = dataclasses.replace(ASK, keep_ratio=0.2)
    for mode in ("cached", "paper"):
        settings = {"pruning.strategy": strategy, "cache.mode": mode}
        made[mode] = (
            start_background(model, **settings) if background else start(model, 0, **settings)
        )
        for number, frame in enumerate(MANY[:3]):
            made[mode].observe(frame)
            flops[mode, number] = flops_of(made[mode], question)
    for number in range(3):  # again after every keyframe
        assert flops["cached", number] == pytest.approx(flops["paper", number], rel=0.02)
    answer = made["cached"].ask(dataclasses.replace(ASK, keep_ratio=0.41))
    assert answer.scene_cached == (strategy != "cond_dpp")  # the configured budget has its cache
