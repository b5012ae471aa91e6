"""Decoding on an emulated GPU: the ids of a CPU, on the model's own device, one wait per token, a
graph per bucket, and memory that ends anywhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Iterator

import pytest
import torch

from ada3d_ros.engine.decode import (
    GenerationRequest,
    decode,
    free_decoding,
    make_sampler,
    prepare_decoding,
)
from ada3d_ros.engine.kv_cache import Int8KVCache
from ada3d_ros.engine.prefill import PrefillOutput
from ada3d_ros.engine.static_decode import static_steps
from test.cuda.emulator import EmulatedCuda
from test.support.small_decoder import CASES, make_decoder, pruned

TOKENS = 12


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def expected(case: str = "pruned", tokens: int = TOKENS) -> tuple[int, ...]:
    """What a CPU says."""
    decoder = make_decoder()
    return decode(decoder, CASES[case](decoder), GenerationRequest(tokens)).token_ids


def in_eight_bits(start: PrefillOutput) -> PrefillOutput:
    held = [start.cache.held(layer) for layer in range(3)]
    return dataclasses.replace(start, cache=Int8KVCache.holding(held, reserve=16))


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
@pytest.mark.parametrize("case", CASES)
def test_ids_are_those_of_a_cpu_on_every_device(cuda: EmulatedCuda, device: str, case: str) -> None:
    decoder, counters = make_decoder().to(device), cuda.counters
    for phase, captures in (("first", 1), ("again", 0)):
        start = CASES[case](decoder)
        with cuda.phase(phase):
            output = decode(decoder, start, GenerationRequest(TOKENS))
        assert output.token_ids == expected(case)
        assert counters.captures[phase] == captures
        assert counters.replays[phase] == TOKENS - 1
    other = cuda.memories[0 if device == "cuda:1" else 1]
    assert other.max_allocated_bytes == 0


def test_a_token_is_waited_for_once(cuda: EmulatedCuda) -> None:
    """Besides, an answer waits at its start for where it begins, and at its end for all of it."""
    decoder = make_decoder().to("cuda")
    prepare_decoding(decoder, (start := pruned(decoder)).cache)
    with cuda.phase("answer"):
        decode(decoder, start, GenerationRequest(TOKENS))
    kinds = [sync.kind for sync in cuda.counters.syncs_in("answer")]
    assert kinds.count("event") == TOKENS
    assert [kind for kind in kinds if kind != "event"] == ["host to device", "device", "item"]
    assert cuda.counters.launches["answer"] <= 10 * TOKENS


@pytest.mark.parametrize("seed", [None, 3])
def test_sampled_or_not_ids_are_those_of_steps_without_a_graph(
    cuda: EmulatedCuda, seed: int | None
) -> None:
    decoder, answers = make_decoder().to("cuda"), set()
    for static in (False, True, True):
        request = GenerationRequest(TOKENS)
        if seed is not None:
            request.sampler = make_sampler(0.9, 0.9, seed, decoder.device)
        answers.add(decode(decoder, pruned(decoder), request, static).token_ids)
    assert len(answers) == 1
    assert cuda.counters.captures[""] == 1


def test_an_answer_of_one_token_captures_and_replays_nothing(cuda: EmulatedCuda) -> None:
    first = expected(tokens=1)[0]
    for eos_id, limit, said in ((first, TOKENS, 0), (96, 1, 1)):
        decoder = make_decoder(eos_ids=(eos_id,)).to("cuda")
        start = pruned(decoder)
        with cuda.phase(f"{limit}"):
            output = decode(decoder, start, GenerationRequest(limit))
        assert len(output.token_ids) == said
        assert cuda.counters.replays[f"{limit}"] == cuda.counters.captures[f"{limit}"] == 0
        assert cuda.counters.launches[f"{limit}"] <= 10


@pytest.mark.parametrize("at", [1, 2, 3])
def test_no_step_is_paid_behind_the_end_of_sequence(cuda: EmulatedCuda, at: int) -> None:
    ids = expected()
    decoder = make_decoder(eos_ids=(ids[at],)).to("cuda")
    start = pruned(decoder)
    with cuda.phase("answer"):
        output = decode(decoder, start, GenerationRequest(TOKENS))
    assert output.token_ids == ids[: ids.index(ids[at])]
    assert cuda.counters.replays["answer"] == len(output.token_ids)


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_a_kept_cache_is_decoded_in_place(cuda: EmulatedCuda, device: str) -> None:
    """One capture when it becomes active, none at its questions, and nothing is copied."""
    decoder, counters = make_decoder().to(device), cuda.counters
    start, memory = pruned(decoder, reserve=40), cuda.memories[decoder.device.index]
    lengths = start.cache.lengths
    with cuda.phase("active"):
        prepare_decoding(decoder, start.cache)
    before = memory.allocated_bytes
    for _ in range(3):
        start.cache.set_lengths(lengths)
        with cuda.phase("questions"):
            output = decode(decoder, start, GenerationRequest(TOKENS))
        assert (output.token_ids, output.own_kv_bytes) == (expected(), 0)
        assert memory.allocated_bytes == before
    assert counters.captures == {"active": 1}
    assert counters.replays["questions"] == 3 * (TOKENS - 1)

    # A longer answer than it has room for is decoded in a copy, beside it.
    start.cache.set_lengths(lengths)
    output = decode(decoder, start, GenerationRequest(60))
    assert output.token_ids[:TOKENS] == expected()
    assert output.own_kv_bytes > 0
    assert start.cache.lengths == lengths


def test_eight_bits_go_through_the_graph(cuda: EmulatedCuda) -> None:
    """Dequantised once: the steps cost what they cost with keys in the model's format."""
    decoder, kernels = make_decoder().to("cuda"), list[int]()
    cpu = make_decoder()
    same = decode(cpu, in_eight_bits(pruned(cpu)), GenerationRequest(TOKENS)).token_ids
    for tokens in (TOKENS, TOKENS, 2 * TOKENS):
        start = in_eight_bits(pruned(decoder))
        with cuda.phase(f"{len(kernels)}"):
            output = decode(decoder, start, GenerationRequest(tokens))
        assert output.token_ids[:TOKENS] == same
        kernels.append(cuda.counters.kernels[f"{len(kernels)}"])
    assert cuda.counters.captures == {"0": 1}
    for tokens in (TOKENS, 2 * TOKENS):
        start = pruned(decoder)
        with cuda.phase(f"{len(kernels)}"):
            decode(decoder, start, GenerationRequest(tokens))
        kernels.append(cuda.counters.kernels[f"{len(kernels)}"])
    assert kernels[2] - kernels[1] == kernels[4] - kernels[3]


@pytest.mark.parametrize("way", ["copied", "kept", "eight bits"])
def test_memory_that_ends_anywhere_ends_in_an_answer_or_in_its_error(
    cuda: EmulatedCuda, way: str
) -> None:
    """An allocation of an answer is refused, each time a later one; then the graph is back."""
    decoder, memory = make_decoder().to("cuda"), cuda.memories[0]
    wrapped = in_eight_bits if way == "eight bits" else (lambda start: start)
    cpu = make_decoder()
    ids = decode(cpu, wrapped(pruned(cpu)), GenerationRequest(4)).token_ids

    def ask(refused: int = 0) -> tuple[int, ...]:
        start = wrapped(pruned(decoder, reserve=40))
        if refused:
            memory.refuse(refused)
        if way == "kept":
            prepare_decoding(decoder, start.cache)
        return decode(decoder, start, GenerationRequest(4)).token_ids

    nth, outcomes = 1, list[bool]()
    while not memory.refusal_waits:
        free_decoding(decoder)
        try:
            assert ask(nth) == ids
            outcomes.append(True)
        except torch.OutOfMemoryError:
            outcomes.append(False)
        nth += 1 + nth // 2
    memory.refuse(0)
    for _ in range(2):
        assert ask() == ids
    assert any(step.captured for step in static_steps(decoder).held)
    assert outcomes.count(True) > 6  # of the allocations of copy and capture


def test_memory_is_back_after_many_answers(cuda: EmulatedCuda) -> None:
    decoder, memory = make_decoder().to("cuda"), cuda.memories[0]

    def ask(number: int) -> None:
        start = pruned(decoder, reserve=number % 30)
        if number % 3 == 1:
            memory.refuse(50 * number)
        with contextlib.suppress(torch.OutOfMemoryError):
            decode(decoder, start, GenerationRequest((3, 5, 30)[number % 3]))
        free_decoding(decoder)

    ask(0)
    gc.collect()
    before = memory.allocated_bytes
    for number in range(1, 8):
        ask(number)
    gc.collect()
    assert memory.allocated_bytes == before


def test_graphs_go_with_their_decoder(cuda: EmulatedCuda) -> None:
    decoder = make_decoder().to("cuda")
    decode(decoder, pruned(decoder), GenerationRequest(TOKENS))
    del decoder
    gc.collect()
    assert cuda.memories[0].allocated_bytes == 0
