"""Steps of fixed shapes, and steps ahead of the ids, give what ordinary decoding gives."""

from __future__ import annotations

import dataclasses
import threading

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from ada3d_ros.engine.decode import (
    GenerationRequest,
    Stepped,
    decode,
    decode_step,
    greedy,
    make_sampler,
    without_onednn,
)
from ada3d_ros.engine.prefill import prefill
from ada3d_ros.engine.static_decode import StaticStep, StaticSteps, static_steps
from ada3d_ros.model.decoder import attend_one
from ada3d_ros.types import StopReason
from test.support.small_decoder import CASES, make_decoder, make_prompt, pruned

CPU = torch.device("cpu")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("qkv_bias", [False, True], ids=["llama", "qwen2"])
@pytest.mark.parametrize(
    ("num_kv_heads", "dtype", "tolerance"),
    [
        (4, torch.float32, 2e-6),
        (2, torch.float32, 2e-6),
        (4, torch.bfloat16, 0.03),
        (2, torch.bfloat16, 0.03),
    ],
)
def test_static_step_equals_the_ordinary_one(
    case: str, qkv_bias: bool, num_kv_heads: int, dtype: torch.dtype, tolerance: float
) -> None:
    decoder = make_decoder(num_kv_heads, qkv_bias=qkv_bias).to(dtype)
    ordinary, source = CASES[case](decoder), CASES[case](decoder)
    with (
        torch.inference_mode(),
        StaticSteps().lent(decoder, source.cache, source.next_positions, 8) as step,
    ):
        assert step is not None
        assert step.capacities == (128, 128, 128)
        for n in range(8):
            fed = decoder.embed(torch.tensor(7 * n))
            positions = [first + n for first in ordinary.next_positions]
            pairs = zip(
                step(decoder, fed),
                decode_step(decoder, fed, positions, ordinary.cache),
                strict=True,
            )
            for found, expected in pairs:  # logits, and the states that they are made of
                error = (found.float() - expected.float()).norm()
                assert error <= tolerance * expected.float().norm()
        assert step.lengths.tolist() == list(ordinary.cache.lengths)
    assert source.cache.lengths != ordinary.cache.lengths  # its buffers were copied, not filled


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [None, 3])
def test_static_decoding_gives_the_same_ids(case: str, seed: int | None) -> None:
    decoder = make_decoder()

    def answer(static: bool) -> tuple[int, ...]:
        sampler = greedy if seed is None else make_sampler(0.9, 0.9, seed, CPU)
        request = GenerationRequest(16, sampler)
        return decode(decoder, CASES[case](decoder), request, static).token_ids

    assert answer(True) == answer(False)
    assert len(set(answer(False))) > 1


def test_an_answer_pays_no_step_behind_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it ends with its last token, with the end of sequence, or because it is stopped."""
    decoder, steps = make_decoder(), list[int]()
    ordinary = decode_step

    def counting(*args: object) -> Stepped:
        steps.append(1)
        return ordinary(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("ada3d_ros.engine.decode.decode_step", counting)
    free = decode(decoder, prefill(decoder, make_prompt(decoder)), GenerationRequest(6))
    assert len(steps) == 5  # the last token is not fed
    for at in range(3):
        ending = make_decoder(eos_ids=(free.token_ids[at],))
        steps.clear()
        ended = decode(ending, prefill(ending, make_prompt(ending)), GenerationRequest(6))
        assert ended.token_ids == free.token_ids[: free.token_ids.index(free.token_ids[at])]
        assert len(steps) == len(ended.token_ids)
    steps.clear()
    words: list[int] = []
    stopped = decode(
        decoder,
        prefill(decoder, make_prompt(decoder)),
        GenerationRequest(
            6, greedy, lambda: StopReason.CANCELED if len(words) == 2 else None, words.append
        ),
    )
    assert (stopped.token_ids, len(steps)) == (free.token_ids[:2], 2)


def test_buffers_with_room_stay_where_they_are() -> None:
    decoder = make_decoder()
    start = prefill(decoder, make_prompt(decoder), reserve=0)
    start = dataclasses.replace(start, cache=start.cache.copied(5))
    places = [buffer.data_ptr() for buffer in start.cache.buffers]
    decode(decoder, start, GenerationRequest(6))
    assert [buffer.data_ptr() for buffer in start.cache.buffers] == places
    assert start.cache.lengths == (25, 25, 25)


def test_adopted_buffers_are_used_in_place() -> None:
    decoder, start = make_decoder(), pruned(make_decoder())
    expected = decode(decoder, pruned(decoder), GenerationRequest(6)).token_ids
    steps = StaticSteps()
    steps.adopt(decoder, start.cache)
    with torch.inference_mode(), steps.lent(decoder, start.cache, start.next_positions, 5) as step:
        assert step is not None
        assert all(a is b for a, b in zip(step.buffers, start.cache.buffers, strict=True))
        token, ids = greedy(start.logits), list[int]()
        for _ in range(6):
            ids.append(int(token))
            token = greedy(step(decoder, decoder.embed(token)).logits) if len(ids) < 6 else token
    assert tuple(ids) == expected
    with torch.inference_mode(), steps.lent(decoder, start.cache, start.next_positions, 99) as step:
        assert step is not None
        assert step.ours  # no room in the cache's own


def test_what_lies_behind_the_length_does_not_matter() -> None:
    """NaN times a masked weight of zero is NaN: the room behind must be cleared."""
    decoder, steps = make_decoder(), StaticSteps()
    results = []
    for _ in range(2):
        start = pruned(decoder)
        with (
            torch.inference_mode(),
            steps.lent(decoder, start.cache, start.next_positions, 4) as step,
        ):
            assert step is not None
            results.append(step(decoder, decoder.embed(torch.tensor(5))).logits)
            for buffer in step.buffers:
                buffer.fill_(torch.nan)
    assert torch.equal(*results)


def test_one_thread_at_a_time_and_others_still_decode() -> None:
    decoder = make_decoder()
    expected = decode(decoder, pruned(decoder), GenerationRequest(6)).token_ids
    found: list[tuple[int, ...]] = []
    start = pruned(decoder)
    with static_steps(decoder).lent(decoder, start.cache, start.next_positions, 4):
        other = threading.Thread(
            target=lambda: found.append(
                decode(decoder, pruned(decoder), GenerationRequest(6), static=True).token_ids
            )
        )
        other.start()
        other.join()
    assert found == [expected]


def test_weights_that_moved_are_noticed() -> None:
    decoder, steps, seen = make_decoder(), StaticSteps(), list[StaticStep | None]()
    for _ in range(2):
        start = pruned(decoder)
        with (
            torch.inference_mode(),
            steps.lent(decoder, start.cache, start.next_positions, 4) as step,
        ):
            seen.append(step)
        decoder.lm_head.weight = torch.nn.Parameter(
            decoder.lm_head.weight.clone(), requires_grad=False
        )
    assert seen[0] is not seen[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [8, 2])
def test_attention_of_one_query_over_more_than_a_chunk(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, groups: int
) -> None:
    # Ten tokens at a time.
    monkeypatch.setattr("ada3d_ros.model.decoder.CPU_CHUNK", groups * 16 * 10)
    generator = torch.Generator().manual_seed(0)
    shapes = (8, 1), (groups, 37), (groups, 37)
    q, k, v = (torch.randn(1, n, t, 16, generator=generator).to(dtype) for n, t in shapes)
    hidden = torch.rand(1, 1, 1, 37, generator=generator) < 0.5
    added = torch.zeros(1, 1, 1, 37, dtype=dtype).masked_fill(hidden, -torch.inf)
    for mask in (None, ~hidden, added):
        visible = None if mask is None else ~hidden
        expected = scaled_dot_product_attention(
            q.double(), k.double(), v.double(), visible, enable_gqa=True
        )
        for gradients in (False, True):
            with torch.set_grad_enabled(gradients):
                found = attend_one(q, k, v, mask)
            assert found.dtype == dtype
            assert torch.allclose(
                found.double(), expected, atol=1e-6 if dtype == torch.float32 else 0.02
            )


def test_one_draw_is_that_of_multinomial() -> None:
    """The way without a check on the host gives the tokens that seeds always gave."""
    logits = torch.randn(500, generator=torch.Generator().manual_seed(0))
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        expected = torch.multinomial(torch.softmax(logits / 0.7, dim=-1), 1, generator=generator)[0]
        assert int(make_sampler(0.7, 1.0, seed, CPU)(logits)) == int(expected)


def test_onednn_comes_back_when_the_last_thread_leaves() -> None:
    def enabled() -> bool:
        return bool(torch.backends.mkldnn.enabled)

    before, tensor = enabled(), torch.zeros(1, dtype=torch.bfloat16)
    with without_onednn(tensor.float()):
        assert enabled() == before
    first, second = without_onednn(tensor), without_onednn(tensor)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not enabled()
    second.__exit__(None, None, None)
    assert enabled() == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("case", CASES)
def test_the_graph_gives_the_same_ids(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, captured = StaticStep.capture, list[StaticStep]()
    monkeypatch.setattr(
        StaticStep, "capture", lambda step, decoder: (real(step, decoder), captured.append(step))
    )
    decoder = make_decoder().cuda()
    expected = decode(decoder, CASES[case](decoder), GenerationRequest(16), static=False).token_ids
    for _ in range(2):  # captured, then used again
        assert decode(decoder, CASES[case](decoder), GenerationRequest(16)).token_ids == expected
    assert len(captured) == 1
