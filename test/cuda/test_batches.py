"""Batches of questions on an emulated GPU: the ids of a CPU, a graph per batch size, few launches,
and memory that ends anywhere.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ada3d_ros.engine.batch import BatchedQuestion, answer_batch
from ada3d_ros.engine.decode import GenerationRequest, free_decoding
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.engine.static_batch import (
    PATIENCE,
    StaticBatches,
    StaticBatchStep,
    static_batches,
)
from ada3d_ros.model.decoder import LlamaDecoder
from test.cuda.emulator import EmulatedCuda
from test.cuda.scenes import decoder_on, prompt_on, question_of, ready_prefix

LAYERS, TOKENS = 3, PATIENCE + 5
DEEP, MOST_LAUNCHES, MOST_KERNELS = 12, 15, 36 * 12  # layers, and of one step
Ids = list[tuple[int, ...]]


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def scene_on(device: str, layers: int = LAYERS) -> tuple[LlamaDecoder, ScenePrefix]:
    decoder = decoder_on(device, layers)
    return decoder, ready_prefix(decoder, prompt_on(device))


def ask(
    decoder: LlamaDecoder, prefix: ScenePrefix, count: int = 3, limits: tuple[int, ...] = ()
) -> Ids:
    """Questions of different lengths; limits: of tokens, TOKENS for those behind."""
    text = question_of(prompt_on(str(decoder.device)))
    limits += (TOKENS,) * (count - len(limits))
    questions = [
        BatchedQuestion(text[: 2 + n], GenerationRequest(limit)) for n, limit in enumerate(limits)
    ]
    outputs = answer_batch(decoder, prefix.cache, prefix.next_position, questions).outputs
    return [output.token_ids for output in outputs]


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_one_capture_per_batch_size(cuda: EmulatedCuda, device: str) -> None:
    """In its PATIENCE-th step; none in a second batch, whatever ends when."""
    expected = ask(*scene_on("cpu"))
    decoder, prefix = scene_on(device)
    counters = cuda.counters
    for count in (3, 2):
        for phase, captures in (("first", 1), ("again", 0)):
            with cuda.phase(name := f"{phase}, {count}"):
                assert ask(decoder, prefix, count) == expected[:count]
            assert counters.captures[name] == captures
            assert counters.replays[name] == TOKENS - 1 - (PATIENCE if captures else 0)
    with cuda.phase("ended"):
        ended = ask(decoder, prefix, 3, (1, 4))
    assert ended == [expected[0][:1], expected[1][:4], expected[2]]
    assert counters.captures["ended"] == 0
    assert counters.replays["ended"] == TOKENS - 1
    other = cuda.memories[0 if device == "cuda:1" else 1]
    assert other.max_allocated_bytes == 0


def test_a_scene_of_another_length_is_captured_again(cuda: EmulatedCuda) -> None:
    decoder, prefix = scene_on("cuda")
    ask(decoder, prefix)
    shorter = tuple(length - 3 for length in prefix.cache.lengths)
    prefix.cache.set_lengths(shorter)
    on_cpu = scene_on("cpu")
    on_cpu[1].cache.set_lengths(shorter)
    with cuda.phase("shorter"):
        assert ask(decoder, prefix) == ask(*on_cpu)
    assert cuda.counters.captures["shorter"] == 1


def test_a_step_launches_few_kernels(cuda: EmulatedCuda) -> None:
    """By the host as many with many layers as with few; on the device a bounded number."""
    launches, kernels = list[int](), list[int]()
    for layers in (LAYERS, DEEP):
        decoder, prefix = scene_on("cuda", layers)
        ask(decoder, prefix, 2)  # captures
        for tokens in (TOKENS, TOKENS + 10):
            with cuda.phase(name := f"{layers}, {tokens}"):
                ask(decoder, prefix, 2, (tokens, tokens))
            assert cuda.counters.replays[name] == tokens - 1
            launches.append(cuda.counters.launches[name])
            kernels.append(cuda.counters.kernels[name])
    assert launches[1] - launches[0] == launches[3] - launches[2]
    assert 0 < launches[1] - launches[0] <= 10 * MOST_LAUNCHES
    assert 0 < kernels[3] - kernels[2] <= 10 * MOST_KERNELS


def test_memory_that_ends_in_a_capture_leaves_growing_steps(
    cuda: EmulatedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any allocation of it: the answers are the right ones; then the graph is back."""
    expected = ask(*scene_on("cpu"))
    decoder, prefix = scene_on("cuda")
    memory, spans, find = cuda.memories[0], list[tuple[int, int]](), StaticBatches.find

    def watched(*args: Any) -> StaticBatchStep | None:
        start = memory.allocations
        found = find(*args)
        spans.append((start, memory.allocations))
        return found

    monkeypatch.setattr(StaticBatches, "find", watched)
    before = memory.allocations
    assert ask(decoder, prefix) == expected
    start, stop = (at - before for at in max(spans, key=lambda span: span[1] - span[0]))
    assert stop - start > 5 * LAYERS
    for nth in range(start + 1, stop + 1, (stop - start) // 8):
        free_decoding(decoder)
        memory.refuse(nth)
        assert ask(decoder, prefix) == expected
        assert not memory.refusal_waits
        assert static_batches(decoder).held == []
    assert ask(decoder, prefix) == expected
    assert [step.captured for step in static_batches(decoder).held] == [True]


@pytest.mark.parametrize("held", [False, True])
def test_memory_that_ends_anywhere_ends_in_answers_or_in_its_error(
    cuda: EmulatedCuda, held: bool
) -> None:
    """An allocation of a batch is refused, each time a later one; then the graph is back."""
    expected = ask(*scene_on("cpu"))
    decoder, prefix = scene_on("cuda")
    memory, nth, outcomes = cuda.memories[0], 1, list[bool]()
    while not memory.refusal_waits:
        free_decoding(decoder)
        if held:
            assert ask(decoder, prefix) == expected
        memory.refuse(nth)
        try:
            assert ask(decoder, prefix) == expected
            outcomes.append(True)
        except torch.OutOfMemoryError:
            outcomes.append(False)
        nth += 1 + 2 * nth
    memory.refuse(0)
    for _ in range(2):
        assert ask(decoder, prefix) == expected
    assert [step.captured for step in static_batches(decoder).held] == [True]
    assert outcomes.count(False) > 3


def test_memory_is_back(cuda: EmulatedCuda) -> None:
    decoder, prefix = scene_on("cuda")
    ask(decoder, prefix)
    free_decoding(decoder)
    gc.collect()
    before = cuda.memories[0].allocated_bytes
    for _ in range(2):
        ask(decoder, prefix)
        assert cuda.memories[0].allocated_bytes > before
        free_decoding(decoder)
        gc.collect()
        assert cuda.memories[0].allocated_bytes == before
    ask(decoder, prefix)
    del decoder, prefix
    gc.collect()
    assert cuda.memories[0].allocated_bytes == 0
