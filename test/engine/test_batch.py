"""Questions answered together against each alone: logits, ids, stops, samplers.

The scene is neither changed nor copied. In steps that grow, and in static ones.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ada3d_ros.engine.batch import BatchedQuestion, answer_batch
from ada3d_ros.engine.decode import (
    DecodeOutput,
    GenerationRequest,
    Sampler,
    decode,
    greedy,
    make_sampler,
)
from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.prefill import PrefillOutput, prefill
from ada3d_ros.errors import ModelError
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.types import PromptSequence, StopReason
from test.support import decoders
from test.support.decoders import LAYERS, WIDTH, generator

P, CPU = 70, torch.device("cpu")
PREFIX = torch.randn(P, WIDTH, generator=generator(1))
ASKED = [
    torch.randn(length, WIDTH, generator=generator(10 + n)) for n, length in enumerate((6, 1, 9, 6))
]


@pytest.fixture(params=["growing", "static"], autouse=True)
def tolerance(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """Of logits in float32, in steps that grow, or static ones from the second on.

    Static sums run over 128 columns, those masked adding zeros, in another order: they are up to
    2.4e-6 off those in float64, those of growing steps 1.6e-6.
    """
    if request.param == "growing":
        return 2e-6
    monkeypatch.setattr("ada3d_ros.engine.static_batch.PATIENCE", 1)
    monkeypatch.setattr(f"{__name__}.answer_batch", functools.partial(answer_batch, static=True))
    return 3e-6


def make_decoder(num_kv_heads: int = 2, max_positions: int = 4096) -> LlamaDecoder:
    """Of smaller weights, so that rounding errors do not grow from layer to layer.

    A cached prefix alone would be 4e-6 off.
    """
    decoder = decoders.make_decoder(num_kv_heads=num_kv_heads, max_positions=max_positions)
    for name, parameter in decoder.layers.named_parameters():
        if "layernorm" not in name:
            parameter.mul_(0.6)
    return decoder


def scene_of(decoder: LlamaDecoder, positions: torch.Tensor | None = None) -> KVCache:
    """The prefix, prefilled."""
    cache = KVCache(LAYERS, reserve=5)
    decoder.run_layers(
        0,
        LAYERS,
        PREFIX.to(decoder.dtype)[None],
        torch.arange(P) if positions is None else positions,
        cache,
    )
    return cache


def prefill_alone(
    decoder: LlamaDecoder, embeds: torch.Tensor, positions: torch.Tensor | None = None
) -> PrefillOutput:
    """Scene and question in one prompt; positions (P,) of the scene.

    The question's come after the last.
    """
    scene = torch.arange(P) if positions is None else positions
    positions = torch.cat((scene, int(scene[-1]) + 1 + torch.arange(len(embeds))))
    return prefill(
        decoder, PromptSequence(torch.cat((PREFIX, embeds)).to(decoder.dtype), positions, (3, P))
    )


def waiting(embeds: torch.Tensor, *args: Any, **kwargs: Any) -> BatchedQuestion:
    return BatchedQuestion(embeds, GenerationRequest(*args, **kwargs))


def answers_of(*args: Any) -> list[DecodeOutput]:
    return answer_batch(*args).outputs


class Recorder:
    """A sampler that writes down the logits it chose from."""

    def __init__(self, sampler: Sampler = greedy) -> None:
        self.sampler = sampler
        self.seen: list[torch.Tensor] = []

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        self.seen.append(logits.float())
        return self.sampler(logits)


def relative(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    """Largest difference over the largest value."""
    return float(
        (torch.stack(list(a)) - torch.stack(list(b))).abs().max() / torch.stack(list(b)).abs().max()
    )


def same(together: DecodeOutput, alone: DecodeOutput) -> None:
    assert together.token_ids == alone.token_ids
    assert together.stop_reason is alone.stop_reason
    assert together.mean_probability == pytest.approx(alone.mean_probability, rel=1e-5, nan_ok=True)


def ending_with(decoder: LlamaDecoder, eos_id: int) -> LlamaDecoder:
    decoder.config = dataclasses.replace(decoder.config, eos_ids=(eos_id,))
    return decoder


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_together_as_alone(count: int, num_kv_heads: int, tolerance: float) -> None:
    """Different lengths, different limits; every step's logits."""
    decoder = make_decoder(num_kv_heads=num_kv_heads)
    limits = (12, 5, 1, 8)
    recorders = [Recorder() for _ in range(count)]
    sent: list[list[int]] = [[] for _ in range(count)]
    questions = [
        waiting(embeds, limit, recorder, on_token=words.append)
        for embeds, limit, recorder, words in zip(ASKED, limits, recorders, sent, strict=False)
    ]
    outputs = answers_of(decoder, scene_of(decoder), P, questions)
    for question, recorder, output, words in zip(questions, recorders, outputs, sent, strict=True):
        alone = Recorder()
        same(
            output,
            decode(
                decoder,
                prefill_alone(decoder, question.embeds),
                GenerationRequest(question.request.max_new_tokens, alone),
            ),
        )
        assert relative(recorder.seen, alone.seen) < tolerance
        assert words == list(output.token_ids)
        assert len(words) == question.request.max_new_tokens
        assert output.first_token_s > 0
        assert output.decode_s >= 0
    assert len({output.token_ids for output in outputs}) == count  # the questions matter


def test_bfloat16_stays_near_the_same_engine_alone() -> None:
    decoder = make_decoder().bfloat16()
    recorders = [Recorder() for _ in ASKED]
    questions = [waiting(e.bfloat16(), 1, r) for e, r in zip(ASKED, recorders, strict=True)]
    answers_of(decoder, scene_of(decoder), P, questions)
    for embeds, recorder in zip(ASKED, recorders, strict=True):
        assert relative(recorder.seen, [prefill_alone(decoder, embeds).logits.float()]) < 0.03
        in_float32 = prefill_alone(make_decoder(), embeds).logits
        assert relative(recorder.seen, [in_float32]) < 0.03


def test_one_ends_by_eos_the_others_go_on() -> None:
    decoder = make_decoder()
    free = [
        decode(decoder, prefill_alone(decoder, embeds), GenerationRequest(12)).token_ids
        for embeds in ASKED
    ]
    ending_with(
        decoder, next(word for word in free[1][1:] if any(word not in other for other in free))
    )
    outputs = answers_of(decoder, scene_of(decoder), P, [waiting(embeds, 12) for embeds in ASKED])
    for embeds, output in zip(ASKED, outputs, strict=True):
        same(output, decode(decoder, prefill_alone(decoder, embeds), GenerationRequest(12)))
    assert outputs[1].stop_reason is StopReason.EOS
    assert len(outputs[1].token_ids) < 12
    assert any(output.stop_reason is StopReason.MAX_TOKENS for output in outputs)


def stop_after(tokens: int, reason: StopReason) -> Callable[[], StopReason | None]:
    """A word from the caller when so many tokens were asked about."""
    asked = iter(range(1000))
    return lambda: reason if next(asked) == tokens else None


def test_each_is_stopped_by_its_own_caller() -> None:
    decoder = make_decoder()
    stops = [
        (3, StopReason.TIMEOUT),
        (99, StopReason.CANCELED),
        (0, StopReason.CANCELED),
        (1, StopReason.TIMEOUT),
    ]
    questions = [
        waiting(embeds, 7, should_stop=stop_after(*stop))
        for embeds, stop in zip(ASKED, stops, strict=True)
    ]
    outputs = answers_of(decoder, scene_of(decoder), P, questions)
    for embeds, stop, output in zip(ASKED, stops, outputs, strict=True):
        same(
            output,
            decode(
                decoder,
                prefill_alone(decoder, embeds),
                GenerationRequest(7, should_stop=stop_after(*stop)),
            ),
        )
    assert [len(output.token_ids) for output in outputs] == [3, 7, 0, 1]
    assert math.isnan(outputs[2].mean_probability)
    assert math.isnan(outputs[2].first_token_s)


def test_all_stopped_before_anything_is_computed() -> None:
    questions = [
        waiting(ASKED[0], 4, should_stop=lambda: StopReason.CANCELED),
        waiting(ASKED[1], 0),
    ]
    decoder = make_decoder()
    prefix = scene_of(decoder)
    decoder.norm.weight[0] = float("inf")  # would raise
    outputs = answers_of(decoder, prefix, P, questions)
    assert [output.stop_reason for output in outputs] == [
        StopReason.CANCELED,
        StopReason.MAX_TOKENS,
    ]
    assert answers_of(decoder, prefix, P, []) == []


def test_samplers_keep_their_own_seeds() -> None:
    decoder = make_decoder()
    temperatures = (0.9, 0.7, 0.0, 1.5)

    def samplers() -> list[Sampler]:
        return [make_sampler(t, 0.95, seed, CPU) for seed, t in enumerate(temperatures)]

    questions = [waiting(e, 9, s) for e, s in zip(ASKED, samplers(), strict=True)]
    outputs = answers_of(decoder, scene_of(decoder), P, questions)
    for embeds, sampler, output in zip(ASKED, samplers(), outputs, strict=True):
        same(output, decode(decoder, prefill_alone(decoder, embeds), GenerationRequest(9, sampler)))
    assert (
        outputs[0].token_ids
        != answers_of(decoder, scene_of(decoder), P, [waiting(ASKED[0], 9)])[0].token_ids
    )


def test_the_models_positions_end_the_longer_question_first() -> None:
    decoder = make_decoder(max_positions=P + 12)
    outputs = answers_of(decoder, scene_of(decoder), P, [waiting(embeds, 30) for embeds in ASKED])
    assert [len(output.token_ids) for output in outputs] == [6, 11, 3, 6]
    for embeds, output in zip(ASKED, outputs, strict=True):
        same(output, decode(decoder, prefill_alone(decoder, embeds), GenerationRequest(30)))


@pytest.mark.parametrize("first", [P + 40, P - 25, 3])
def test_positions_need_not_be_those_of_the_prefix_in_the_cache(first: int) -> None:
    """Kept tokens at their old places, or counted anew.

    Old: the next position lies beyond the cache's length. 3: padding would lie before 0.
    """
    decoder = make_decoder()
    places = torch.linspace(0, first - 1, P).long()
    outputs = answers_of(
        decoder, scene_of(decoder, places), first, [waiting(embeds, 8) for embeds in ASKED]
    )
    for embeds, output in zip(ASKED, outputs, strict=True):
        same(output, decode(decoder, prefill_alone(decoder, embeds, places), GenerationRequest(8)))
    other = answers_of(
        decoder, scene_of(decoder, places), P, [waiting(embeds, 8) for embeds in ASKED]
    )
    assert [output.token_ids for output in other] != [output.token_ids for output in outputs]


def test_layers_may_hold_different_numbers_of_prefix_tokens() -> None:
    decoder, kept = make_decoder(), torch.arange(0, P, 3)
    whole = scene_of(decoder)
    held = [whole.held(layer) for layer in range(LAYERS)]
    tokens = [
        (k, v) if layer < 3 else (k[:, :, kept], v[:, :, kept]) for layer, (k, v) in enumerate(held)
    ]
    outputs = answers_of(
        decoder, KVCache.holding(tokens), P, [waiting(embeds, 6) for embeds in ASKED]
    )
    for embeds, output in zip(ASKED, outputs, strict=True):
        cache, end = KVCache.holding(tokens, reserve=20), P + len(embeds)
        hidden = decoder.run_layers(0, LAYERS, embeds[None], torch.arange(P, end), cache)
        alone = PrefillOutput(decoder.logits(hidden[0, -1]), cache, (end,) * LAYERS, ())
        same(output, decode(decoder, alone, GenerationRequest(6)))


def test_the_prefix_stays_as_it_is() -> None:
    decoder = make_decoder()
    prefix = scene_of(decoder)
    before = [buffer.clone() for buffer in prefix.buffers]
    places = [buffer.data_ptr() for buffer in prefix.buffers]
    answers_of(decoder, prefix, P, [waiting(embeds, 5) for embeds in ASKED])
    assert prefix.lengths == (P,) * LAYERS
    assert [buffer.data_ptr() for buffer in prefix.buffers] == places
    for buffer, was in zip(prefix.buffers, before, strict=True):
        assert torch.equal(buffer[:, :, :, :P], was[:, :, :, :P])


class NewTensors(TorchDispatchMode):
    """Elements of the largest tensor made that is no view of `known` storages."""

    def __init__(self, known: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.known:
                self.largest = max(self.largest, storage.nbytes() // tensor.element_size())
        return out


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_no_copy_of_the_prefix_is_made(num_kv_heads: int) -> None:
    """Everything made is smaller than one layer's keys of the prefix.

    Let alone one per question; a mutation that repeats them is seen.
    """
    decoder = make_decoder(num_kv_heads=num_kv_heads)
    decoder.prepare()  # so that the rope table is there
    long = torch.randn(1, num_kv_heads, 4000, 8, generator=generator(4))
    prefix = KVCache.holding([(long, long)] * LAYERS)
    with NewTensors(prefix.buffers) as seen:
        answers_of(decoder, prefix, 90, [waiting(embeds, 3) for embeds in ASKED])
    assert 0 < seen.largest < long.numel() / 2
    with NewTensors(prefix.buffers) as seen:
        prefix.held(0)[0].expand(4, -1, -1, -1).contiguous()
    assert seen.largest == 4 * long.numel()


def test_output_that_is_not_finite_is_an_error_of_its_question() -> None:
    """At the first token of one, later in another: the third goes on as if alone."""
    decoder = make_decoder()
    spoilt, good = torch.full_like(ASKED[3], math.nan), waiting(ASKED[2], 5)
    expected = answers_of(decoder, scene_of(decoder), P, [good])[0]
    later = answers_of(decoder, scene_of(decoder), P, [waiting(ASKED[0], 5)])[0].token_ids
    assert later[1] not in (*expected.token_ids, later[0])
    decoder.embed_tokens.weight[later[1]] = math.nan
    questions = [waiting(spoilt, 5), good, waiting(ASKED[0], 5)]
    outputs = answers_of(decoder, scene_of(decoder), P, questions)
    for number, generated in ((0, 0), (2, 2)):
        assert isinstance(outputs[number].error, ModelError)
        assert "not finite in torch.float32" in str(outputs[number].error)
        assert outputs[number].token_ids == later[:generated]
    same(outputs[1], expected)
    assert outputs[1].error is None


def test_a_question_without_tokens_is_refused() -> None:
    decoder = make_decoder()
    with pytest.raises(ValueError, match="no tokens"):
        answers_of(decoder, scene_of(decoder), P, [waiting(ASKED[0][:0], 3)])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 2e-6), (torch.bfloat16, 0.03)])
def test_the_kernels_of_cuda_say_the_same(dtype: torch.dtype, within: float) -> None:
    on_gpu, recorders = make_decoder().to("cuda", dtype), [Recorder() for _ in ASKED]
    cache = KVCache(LAYERS)
    on_gpu.run_layers(
        0, LAYERS, PREFIX.to("cuda", dtype)[None], torch.arange(P, device="cuda"), cache
    )
    questions = [waiting(e.to("cuda", dtype), 1, r) for e, r in zip(ASKED, recorders, strict=True)]
    answers_of(on_gpu, cache, P, questions)
    for embeds, recorder in zip(ASKED, recorders, strict=True):
        assert (
            relative([recorder.seen[0].cpu()], [prefill_alone(make_decoder(), embeds).logits])
            < within
        )
