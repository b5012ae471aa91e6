"""Steps of fixed shapes, and steps ahead of the ids, give what ordinary decoding gives."""

from __future__ import annotations

import dataclasses
import gc
import threading
import weakref

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from ada3d_ros.engine import static_decode as graphs
from ada3d_ros.engine.decode import (
    DecodeOutput,
    GenerationRequest,
    decode,
    decode_step,
    greedy,
    make_sampler,
    without_onednn,
)
from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.prefill import PrefillOutput, prefill
from ada3d_ros.engine.static_decode import StaticStep, StaticSteps, static_steps
from ada3d_ros.model.config import DecoderConfig
from ada3d_ros.model.decoder import LlamaDecoder, attend_one
from ada3d_ros.types import PromptSequence, StopReason

CPU = torch.device("cpu")


def make_decoder(num_kv_heads: int = 2, eos_id: int = 96) -> LlamaDecoder:
    torch.manual_seed(0)
    decoder = LlamaDecoder(DecoderConfig(97, 32, 64, 3, 4, num_kv_heads, eos_id=eos_id))
    decoder.requires_grad_(False).eval()
    for name, parameter in decoder.named_parameters():
        parameter.copy_(
            1 + 0.1 * torch.randn_like(parameter)
            if "norm" in name
            else 0.2 * torch.randn_like(parameter)
        )
    return decoder


def make_prompt(decoder: LlamaDecoder) -> PromptSequence:
    embeds = torch.randn(20, 32, generator=torch.Generator().manual_seed(1)).to(
        decoder.device, decoder.dtype
    )
    return PromptSequence(embeds, torch.arange(20, device=decoder.device), (3, 12))


@torch.inference_mode()
def pruned(decoder: LlamaDecoder, compact: bool = False, reserve: int = 16) -> PrefillOutput:
    """Layers that hold 20, 14 and 9 tokens; compact: positions counted anew in each layer."""
    whole, prompt = prefill(decoder, make_prompt(decoder)), make_prompt(decoder)
    cache, hidden, positions = KVCache(3, reserve), prompt.embeds[None], prompt.positions
    lengths = (20, 14, 9)
    for layer, count in enumerate(lengths):
        drop = hidden.shape[1] - count
        hidden = torch.cat((hidden[:, :3], hidden[:, 3 + drop :]), dim=1)
        positions = torch.cat((positions[:3], positions[3 + drop :]))
        if compact:
            positions = torch.arange(count, device=decoder.device)
        hidden = decoder.run_layers(layer, layer + 1, hidden, positions, cache)
    following = lengths if compact else (20, 20, 20)
    return dataclasses.replace(
        whole, cache=cache, logits=decoder.logits(hidden[0, -1]), next_positions=following
    )


CASES = {
    "whole": lambda decoder: prefill(decoder, make_prompt(decoder)),
    "pruned": pruned,
    "compact": lambda decoder: pruned(decoder, compact=True),
}


@pytest.mark.parametrize("case", CASES)
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
    case: str, num_kv_heads: int, dtype: torch.dtype, tolerance: float
) -> None:
    decoder = make_decoder(num_kv_heads).to(dtype)
    ordinary, source = CASES[case](decoder), CASES[case](decoder)
    with (
        torch.inference_mode(),
        StaticSteps().lent(decoder, source.cache, source.next_positions, 8) as step,
    ):
        assert step is not None
        assert step.capacities == (128, 128, 128)
        for n in range(8):
            token = torch.tensor(7 * n)
            positions = [first + n for first in ordinary.next_positions]
            expected = decode_step(decoder, token, positions, ordinary.cache).float()
            found = step(decoder, token).float()
            assert (found - expected).norm() <= tolerance * expected.norm()
        assert step.lengths.tolist() == list(ordinary.cache.lengths)
    assert source.cache.lengths != ordinary.cache.lengths  # its buffers were copied, not filled


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [None, 3])
def test_static_decoding_gives_the_same_ids(case: str, seed: int | None) -> None:
    decoder = make_decoder()

    def answer(static: bool, ahead: int) -> tuple[int, ...]:
        sampler = greedy if seed is None else make_sampler(0.9, 0.9, seed, CPU)
        return decode(
            decoder,
            CASES[case](decoder),
            GenerationRequest(16, sampler),
            static=static,
            steps_ahead=ahead,
        ).token_ids

    answers = [answer(static, ahead) for static in (False, True) for ahead in (0, 1)]
    assert answers == [answers[0]] * 4
    assert len(set(answers[0])) > 1


def compare(
    decoder: LlamaDecoder, tokens: int, seed: int | None, stop_at: int | None = None
) -> DecodeOutput:
    """Decodes with ahead 0 and 1; outputs, the order of calls and the cache are the same."""
    outputs, calls, lengths, drawn = [], [], [], []
    for ahead in (0, 1):
        log: list[str] = []
        sampler = greedy if seed is None else make_sampler(0.9, 0.9, seed, CPU)

        def should_stop(log: list[str] = log) -> StopReason | None:
            log.append("asked")
            return StopReason.CANCELED if log.count("asked") - 1 == stop_at else None

        def on_token(token_id: int, log: list[str] = log) -> None:
            log.append(str(token_id))

        start = prefill(decoder, make_prompt(decoder))
        outputs.append(
            decode(
                decoder,
                start,
                GenerationRequest(tokens, sampler, should_stop, on_token),
                steps_ahead=ahead,
            )
        )
        calls.append(log)
        lengths.append(start.cache.lengths)
        # The generator is where it was.
        drawn.append([int(sampler(torch.linspace(0, 1, 97))) for _ in range(8)])
    assert calls[0] == calls[1]
    assert lengths[0] == lengths[1]
    assert drawn[0] == drawn[1]
    first, second = (dataclasses.replace(o, first_token_s=0.0, decode_s=0.0) for o in outputs)
    assert dataclasses.asdict(first) == dataclasses.asdict(second)
    return first


@pytest.mark.parametrize("seed", [None, 3])
def test_a_step_ahead_changes_nothing(seed: int | None) -> None:
    decoder = make_decoder()
    free = compare(decoder, 12, seed)
    assert free.stop_reason is StopReason.MAX_TOKENS
    assert len(free.token_ids) == 12
    first = next(i for i in range(3, 12) if free.token_ids[i] not in free.token_ids[:i])
    ended = compare(make_decoder(eos_id=free.token_ids[first]), 12, seed)
    assert (ended.stop_reason, ended.token_ids) == (StopReason.EOS, free.token_ids[:first])
    for stop_at in (0, 1, 5):
        stopped = compare(decoder, 12, seed, stop_at)
        assert (stopped.stop_reason, stopped.token_ids) == (
            StopReason.CANCELED,
            free.token_ids[:stop_at],
        )
    assert compare(decoder, 1, seed).token_ids == free.token_ids[:1]


def test_steps_run_ahead_of_the_ids_only_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, steps = make_decoder(), list[int]()
    ordinary = decode_step

    def counting(*args: object) -> torch.Tensor:
        steps.append(1)
        return ordinary(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("ada3d_ros.engine.decode.decode_step", counting)
    free = decode(decoder, prefill(decoder, make_prompt(decoder)), GenerationRequest(6))
    assert len(steps) == 5  # the last token is not fed
    ending = make_decoder(eos_id=free.token_ids[2])
    first = free.token_ids.index(free.token_ids[2])
    for ahead, wasted in ((0, 0), (1, 1)):
        steps.clear()
        decode(
            ending, prefill(ending, make_prompt(ending)), GenerationRequest(6), steps_ahead=ahead
        )
        assert len(steps) == first + wasted


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
            token = greedy(step(decoder, token)) if len(ids) < 6 else token
    assert tuple(ids) == expected
    with torch.inference_mode(), steps.lent(decoder, start.cache, start.next_positions, 99) as step:
        assert step is not None
        assert step.ours  # no room in the cache's own


def test_buffers_are_used_again_and_bounded() -> None:
    decoder, steps = make_decoder(), StaticSteps()
    seen: list[weakref.ref[StaticStep]] = []
    made: set[weakref.ref[StaticStep]] = set()  # hashed while they live
    for reserve in (8, 60, 300, 8, 600, 300):  # capacities 128, 128, 384, 128, 640, 384
        start = prefill(decoder, make_prompt(decoder))
        with (
            torch.inference_mode(),
            steps.lent(decoder, start.cache, start.next_positions, reserve) as step,
        ):
            assert step is not None
            seen.append(weakref.ref(step))
            made.add(seen[-1])
            del step
    assert seen[0] is seen[1] is seen[3]
    assert len(made) == 4  # 384 had to go for 640, and was made anew
    gc.collect()
    assert sum(step() is not None for step in made) == graphs.MAX_HELD


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
            results.append(step(decoder, torch.tensor(5)))
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


def test_a_refused_capture_is_said_once_and_decoding_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: StaticStep, decoder: LlamaDecoder) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs, "can_capture", lambda device: True)
    monkeypatch.setattr(StaticStep, "capture", refuse)
    decoder = make_decoder()
    expected = decode(decoder, pruned(decoder), GenerationRequest(6)).token_ids
    for tokens in (6, 200):
        assert (
            decode(decoder, pruned(decoder), GenerationRequest(tokens), static=True).token_ids[:6]
            == expected
        )
    assert len([r for r in caplog.records if "cannot be captured" in r.message]) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("case", CASES)
def test_the_graph_gives_the_same_ids(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, captured = StaticStep.capture, list[StaticStep]()
    monkeypatch.setattr(
        StaticStep, "capture", lambda step, decoder: (real(step, decoder), captured.append(step))
    )
    decoder = make_decoder().cuda()
    expected = decode(
        decoder, CASES[case](decoder), GenerationRequest(16), static=False, steps_ahead=0
    ).token_ids
    for _ in range(2):  # captured, then used again
        assert decode(decoder, CASES[case](decoder), GenerationRequest(16)).token_ids == expected
    assert len(captured) == 1
