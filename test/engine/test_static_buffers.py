"""Buffers of static steps: buckets, a kept cache's own, memory that ends, eight bits."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from typing import Any

import pytest
import torch

from ada3d_ros.engine import static_decode as graphs
from ada3d_ros.engine.decode import DecodeOutput, GenerationRequest, decode
from ada3d_ros.engine.kv_cache import Int8KVCache, KVCache
from ada3d_ros.engine.static_decode import StaticStep, StaticSteps, static_steps
from ada3d_ros.model.decoder import LlamaDecoder
from test.support.small_decoder import make_decoder, pruned


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[StaticStep]:
    """Each step that would be captured, as if there were CUDA; it then runs without its graph."""
    seen: list[StaticStep] = []
    monkeypatch.setattr(graphs, "can_capture", lambda device: True)
    monkeypatch.setattr(StaticStep, "capture", lambda step, decoder: seen.append(step))
    return seen


def lend(
    steps: StaticSteps, decoder: LlamaDecoder, cache: KVCache, tokens: int
) -> StaticStep | None:
    """One question's step, its question being over."""
    with torch.inference_mode(), steps.lent(decoder, cache, cache.lengths, tokens) as step:
        return step


@torch.inference_mode()
def cache_of(*lengths: int, reserve: int = 0) -> KVCache:
    """Random keys and values, in layers of these lengths."""
    torch.manual_seed(sum(lengths))
    both = [torch.randn(2, 1, 2, n, 8) for n in lengths]
    return KVCache.holding([(keys, values) for keys, values in both], reserve)


def test_budgets_in_turn_are_captured_once_each(captures: list[StaticStep]) -> None:
    """In any order, with questions and scenes of varying lengths; one set of buffers suffices."""
    decoder, steps = make_decoder(), StaticSteps()
    budgets = [tuple(round(n * share) for n in (2000, 1100, 700)) for share in (1, 0.6, 0.35, 0.2)]
    for turn in range(5):
        for budget in budgets[turn % 4 :] + budgets[: turn % 4]:
            cache = cache_of(*[n + 9 * turn for n in budget])
            step = lend(steps, decoder, cache, 127)
            assert step is not None
            needed = [n + 9 * turn + 127 for n in budget]
            assert all(have >= n for have, n in zip(step.capacities, needed, strict=True))
            rounded = sum(-(-(n + 64) // 128) * 128 for n in needed)
            assert sum(step.capacities) <= 1.25 * rounded
    assert len(captures) == len(budgets)
    assert len({step.storage for step in captures}) == 1


def test_as_many_graphs_are_held_as_may_be(captures: list[StaticStep]) -> None:
    """Of budgets that share one set of buffers; each is captured once."""
    decoder, steps = make_decoder(), StaticSteps()
    budgets = [round(6000 * 0.7**n) for n in range(graphs.MAX_HELD)]
    for _ in range(2):
        for total in budgets:
            assert lend(steps, decoder, cache_of(total, total, total), 60) is not None
    assert len(captures) == len(steps.held) == graphs.MAX_HELD


def test_growing_budgets_are_captured_once_each_too(captures: list[StaticStep]) -> None:
    decoder, steps = make_decoder(), StaticSteps()
    for turn in range(3):
        for total in (300, 700, 1300):
            assert lend(steps, decoder, cache_of(*[total + turn] * 3), 60) is not None
    assert len(captures) == 3
    assert len({step.storage for step in captures}) == 3


def test_graphs_and_their_memory_are_bounded(captures: list[StaticStep]) -> None:
    decoder, steps = make_decoder(), StaticSteps()
    for total in range(200, 6200, 300):
        cache = cache_of(total, total, total)
        step = lend(steps, decoder, cache, 60)
        assert step is not None
        assert step.own_bytes <= (1 + 256 / total) * cache.copied(60).num_bytes
        memory = {id(s.storage): s.own_bytes for s in steps.held}
        assert sum(memory.values()) <= graphs.MAX_COPIES * max(memory.values())
        assert len(steps.held) <= graphs.MAX_HELD
    seen = weakref.ref(captures[0])
    captures.clear()
    del step
    gc.collect()
    assert seen() is None


@pytest.mark.parametrize("order", [(60, 2000, 60), (2000, 60)])
def test_buffers_of_a_long_answer_go_with_it(
    captures: list[StaticStep], order: tuple[int, ...]
) -> None:
    decoder, steps, alone = make_decoder(), StaticSteps(), StaticSteps()
    lend(alone, decoder, cache_of(300, 200, 100), 60)
    for tokens in order:
        assert lend(steps, decoder, cache_of(300, 200, 100), tokens) is not None
    assert [s.own_bytes for s in steps.held] == [s.own_bytes for s in alone.held]


def test_a_cache_that_moved_is_captured_again_and_its_old_buffers_are_free(
    captures: list[StaticStep],
) -> None:
    decoder, steps, cache = make_decoder(), StaticSteps(), cache_of(300, 200, 100, reserve=40)
    steps.adopt(decoder, cache)
    steps.adopt(decoder, cache)
    assert len(captures) == 1  # it was there
    for _ in range(3):
        step = lend(steps, decoder, cache, 40)
        assert step is captures[0]
        assert step.own_bytes == 0
    old = weakref.ref(cache.buffers[1])
    with torch.inference_mode():  # a keyframe's tokens
        for layer in range(3):
            cache.append(layer, *torch.randn(2, 1, 2, 90, 8))
    assert old() is None
    step = lend(steps, decoder, cache, 40)
    assert step is captures[1]
    assert step.is_on(cache)
    assert len(steps.held) == 1
    buffers = [weakref.ref(buffer) for buffer in cache.buffers]
    del cache
    assert [ref() for ref in buffers] == [None] * 3
    lend(steps, decoder, cache_of(10, 10, 10), 4)
    assert [s.ours for s in steps.held] == [True]


def test_a_refused_capture_is_tried_again_after_more_and_more_questions(
    captures: list[StaticStep], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    decoder, tried = make_decoder(), list[int]()
    steps, asked = static_steps(decoder), 0

    def refuse(*_: object) -> None:
        tried.append(asked)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(StaticStep, "capture", refuse)
    expected = decode(decoder, pruned(decoder), GenerationRequest(6)).token_ids
    for asked in range(1, 150):
        if asked in (1, 2, 3):  # answered by steps that grow
            request = GenerationRequest(6)
            assert decode(decoder, pruned(decoder), request, static=True).token_ids == expected
        else:
            assert lend(steps, decoder, cache_of(20, 14, 9), 5) is None
        assert not steps.held
    assert tried == [1, 2, 4, 8, 16, 32, 64, 128]
    assert len([r for r in caplog.records if "cannot be captured" in r.message]) == 1
    steps.clear()  # memory was freed
    monkeypatch.setattr(StaticStep, "capture", lambda step, decoder: captures.append(step))
    assert lend(steps, decoder, cache_of(20, 14, 9), 5) is captures[0]


def test_a_cut_cache_is_worked_in_by_the_graph_that_was(captures: list[StaticStep]) -> None:
    """A frame goes, another comes into the room that it left: nothing is captured or copied."""
    decoder, steps, cache = make_decoder(), StaticSteps(), cache_of(300, 200, 100, reserve=40)
    steps.adopt(decoder, cache)
    for _ in range(3):
        with torch.inference_mode():
            cache.keep_tokens([torch.arange(30, n) for n in cache.lengths])
            step = lend(steps, decoder, cache, 40)
            assert step is captures[0]
            assert (step.own_bytes, step.is_on(cache)) == (0, True)
            for layer in range(3):
                cache.append(layer, *torch.randn(2, 1, 2, 30, 8))
        assert lend(steps, decoder, cache, 40) is captures[0]
    assert len(captures) == 1


@pytest.mark.parametrize("adopted", [False, True])
def test_without_memory_for_a_graph_the_cache_itself_is_used(
    captures: list[StaticStep], monkeypatch: pytest.MonkeyPatch, adopted: bool
) -> None:
    decoder = make_decoder()
    expected = decode(decoder, pruned(decoder), GenerationRequest(6)).token_ids

    def lacking(*_: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    start = pruned(decoder)
    with monkeypatch.context() as patch:
        patch.setattr(StaticStep, "capture", lacking)
        if adopted:
            static_steps(decoder).adopt(decoder, start.cache)
        output = decode(decoder, start, GenerationRequest(6), static=True)
    assert (output.token_ids, output.own_kv_bytes) == (expected, 0)
    assert start.cache.lengths == (25, 19, 14)
    for _ in range(2):
        again = decode(decoder, pruned(decoder), GenerationRequest(6), static=True)
        assert again.token_ids == expected
    assert len(captures) == 1


def test_memory_that_ends_in_a_step_ends_that_answer_alone(
    captures: list[StaticStep], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = make_decoder()
    expected = decode(decoder, pruned(decoder), GenerationRequest(6)).token_ids
    for _ in range(200):
        with monkeypatch.context() as patch:
            patch.setattr(StaticStep, "__call__", lambda *_: torch.empty(10**15))
            with pytest.raises(RuntimeError, match="allocate"):
                decode(decoder, pruned(decoder), GenerationRequest(6), static=True)
    output = decode(decoder, pruned(decoder), GenerationRequest(6), static=True)
    assert output.token_ids == expected
    assert len(captures) == len(static_steps(decoder).held) == 1


def test_a_graph_is_made_when_the_first_token_is_out_and_its_time_is_decodings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder, now, heard = make_decoder(), 0.0, list[int]()

    def capture(*_: object) -> None:
        nonlocal now
        assert heard
        now += 16.0

    monkeypatch.setattr(graphs, "can_capture", lambda device: True)
    monkeypatch.setattr(StaticStep, "capture", capture)
    for tokens, seconds in ((1, 0.0), (6, 16.0), (6, 0.0)):
        heard.clear()
        request = GenerationRequest(tokens, on_token=heard.append, now=lambda: now)
        output = decode(decoder, pruned(decoder), request, static=True)
        assert (output.first_token_s, output.decode_s) == (0.0, seconds)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eight_bits_are_read_once_an_answer(
    monkeypatch: pytest.MonkeyPatch, static: bool, dtype: torch.dtype
) -> None:
    """And both kinds of steps give what the same keys and values give in the model's format."""
    decoder = make_decoder().to(dtype)
    held = [pruned(decoder).cache.held(layer) for layer in range(3)]
    with torch.inference_mode():
        small = Int8KVCache.holding(held, reserve=16)
        plain = KVCache.holding([small.held(layer) for layer in range(3)])
    start, read = pruned(decoder), list[int]()

    def answer(cache: KVCache, static: bool) -> DecodeOutput:
        changed = dataclasses.replace(start, cache=cache)
        return decode(decoder, changed, GenerationRequest(9), static=static)

    expected = answer(plain, False)
    for name in ("held", "copy_to"):
        real = getattr(Int8KVCache, name)

        def counting(cache: KVCache, layer: int, *args: object, real: Any = real) -> Any:
            read.append(layer)
            return real(cache, layer, *args)

        monkeypatch.setattr(Int8KVCache, name, counting)
    output = answer(small, static)
    assert output.token_ids == expected.token_ids
    assert read == [0, 1, 2]
    assert small.lengths == (20, 14, 9)
    widths = [128] * 3 if static else [20 + 8, 14 + 8, 9 + 8]
    assert output.own_kv_bytes == sum(widths) * 2 * 2 * 8 * dtype.itemsize
