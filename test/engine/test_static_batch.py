"""Static steps of batches: when there are some, what they serve, and how long they are held."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch

from ada3d_ros.engine import static_batch
from ada3d_ros.engine.batch import BatchedQuestion, answer_batch
from ada3d_ros.engine.decode import GenerationRequest, decode
from ada3d_ros.engine.kv_cache import Int8KVCache, KVCache
from ada3d_ros.engine.prefill import PrefillOutput
from ada3d_ros.engine.static_batch import PATIENCE, StaticBatchStep, static_batches
from ada3d_ros.model.decoder import LlamaDecoder
from test.support.decoders import LAYERS, WIDTH, generator, make_decoder

P, TOKENS = 30, PATIENCE + 6
PREFIX = torch.randn(P, WIDTH, generator=generator(1))
ASKED = [torch.randn(n, WIDTH, generator=generator(20 + n)) for n in (6, 1, 9, 4)]


@torch.inference_mode()
def scene_of(decoder: LlamaDecoder) -> KVCache:
    cache, device = KVCache(LAYERS, reserve=5), decoder.device
    positions = torch.arange(P, device=device)
    decoder.run_layers(0, LAYERS, PREFIX[None].to(device), positions, cache)
    return cache


@torch.inference_mode()
def alone(decoder: LlamaDecoder, prefix: KVCache, embeds: torch.Tensor) -> tuple[int, ...]:
    """The answer to one question behind a copy of the prefix."""
    cache, end = prefix.copied(40), P + len(embeds)
    hidden = decoder.run_layers(0, LAYERS, embeds[None], torch.arange(P, end), cache)
    start = PrefillOutput(decoder.logits(hidden[0, -1]), cache, (end,) * LAYERS, ())
    return decode(decoder, start, GenerationRequest(TOKENS)).token_ids


def ask(
    decoder: LlamaDecoder,
    prefix: KVCache,
    count: int = 3,
    tokens: int = TOKENS,
    static: bool = True,
) -> list[tuple[int, ...]]:
    questions = [
        BatchedQuestion(embeds.to(decoder.device), GenerationRequest(tokens))
        for embeds in ASKED[:count]
    ]
    outputs = answer_batch(decoder, prefix, P, questions, static).outputs
    return [output.token_ids for output in outputs]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[StaticBatchStep]:
    """Each step that would be captured, as if there were CUDA; it then runs without its graph."""
    seen: list[StaticBatchStep] = []
    monkeypatch.setattr(static_batch, "can_capture", lambda device: True)
    monkeypatch.setattr(StaticBatchStep, "capture", lambda step, decoder, prefix: seen.append(step))
    return seen


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[StaticBatchStep]:
    """The static step that is run, at each run."""
    runs, run = list[StaticBatchStep](), StaticBatchStep.__call__

    def counting(step: StaticBatchStep, *args: object) -> torch.Tensor:
        runs.append(step)
        return run(step, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(StaticBatchStep, "__call__", counting)
    return runs


def test_a_long_batch_captures_and_the_next_one_finds_it(
    made: list[StaticBatchStep], steps: list[StaticBatchStep]
) -> None:
    """After some steps, with one capture for both; whatever the first left in the buffers."""
    decoder = make_decoder()
    prefix = scene_of(decoder)
    expected = [alone(decoder, prefix, embeds) for embeds in ASKED[:3]]
    for _ in range(3):
        assert ask(decoder, prefix, tokens=PATIENCE + 1) == [
            ids[: PATIENCE + 1] for ids in expected
        ]
    assert made == steps == []
    assert ask(decoder, prefix) == expected
    assert (len(made), len(steps)) == (1, TOKENS - 1 - PATIENCE)
    steps.clear()
    ask_with_nan(decoder, prefix)
    assert len(steps) == TOKENS - 1
    steps.clear()
    assert ask(decoder, prefix) == expected
    assert steps == made * (TOKENS - 1)


def ask_with_nan(decoder: LlamaDecoder, prefix: KVCache) -> None:
    """Three questions, one of them spoilt: the others are right, and it has an error."""
    spoilt = [torch.full_like(ASKED[0], torch.nan), *ASKED[1:3]]
    questions = [BatchedQuestion(embeds, GenerationRequest(TOKENS)) for embeds in spoilt]
    outputs = answer_batch(decoder, prefix, P, questions, static=True).outputs
    assert outputs[0].error is not None
    for embeds, output in zip(spoilt[1:], outputs[1:], strict=True):
        assert output.token_ids == alone(decoder, prefix, embeds)


def test_a_question_that_ended_may_pass_the_models_positions(
    steps: list[StaticBatchStep],
) -> None:
    """While it stays in, before steps are static as behind."""
    decoder = make_decoder(max_positions=P + 14)
    prefix = scene_of(decoder)
    expected = [alone(decoder, prefix, embeds) for embeds in ASKED[:3]]
    assert [len(ids) for ids in expected] == [8, 13, 5]
    for _ in range(2):
        assert ask(decoder, prefix) == expected
    assert len(steps) == 12 - PATIENCE + 12


def test_a_cpu_has_none_unless_asked(steps: list[StaticBatchStep]) -> None:
    decoder = make_decoder()
    prefix = scene_of(decoder)
    questions = [BatchedQuestion(embeds, GenerationRequest(TOKENS)) for embeds in ASKED]
    outputs = answer_batch(decoder, prefix, P, questions).outputs
    assert steps == []
    assert [output.token_ids for output in outputs] == ask(decoder, prefix, 4)
    assert steps != []


def test_a_prefix_in_eight_bits_has_none(steps: list[StaticBatchStep]) -> None:
    decoder = make_decoder()
    whole = scene_of(decoder)
    prefix = Int8KVCache.holding([whole.held(layer) for layer in range(LAYERS)])
    assert all(len(ids) == TOKENS for ids in ask(decoder, prefix))
    assert steps == []


def test_another_size_or_prefix_is_another_one_of_two(made: list[StaticBatchStep]) -> None:
    """The one unused for longest goes; so does one whose prefix is gone."""
    decoder, prefix = make_decoder(), scene_of(make_decoder())
    held = static_batches(decoder)
    ask(decoder, prefix, 3)
    ask(decoder, prefix, 2)
    ask(decoder, prefix, 3)
    assert [step.batch for step in made] == [3, 2]
    assert [step.batch for step in held.held] == [2, 3]
    ask(decoder, prefix, 3, tokens=150)
    assert [(step.batch, step.capacity) for step in held.held] == [(3, 128), (3, 256)]
    prefix.set_lengths((P - 1,) * LAYERS)  # a scene that is put in order
    expected = [alone(decoder, prefix, embeds) for embeds in ASKED[:3]]
    assert ask(decoder, prefix) == expected
    assert len(made) == 4
    gone = weakref.ref(made[-1])
    made.clear()
    prefix = scene_of(decoder)
    ask(decoder, prefix, 4)
    gc.collect()
    assert gone() is None
    assert [step.batch for step in held.held] == [4]


def test_weights_that_moved_are_noticed(made: list[StaticBatchStep]) -> None:
    decoder = make_decoder()
    prefix = scene_of(decoder)
    for count in (1, 2):
        ask(decoder, prefix)
        assert len(made) == count
        decoder.lm_head.weight = torch.nn.Parameter(
            decoder.lm_head.weight.clone(), requires_grad=False
        )


def test_a_refused_capture_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Batches are answered meanwhile, with growing steps; said once."""
    decoder, tries, answered = make_decoder(), list[int](), list[int]()
    prefix = scene_of(decoder)
    expected = [alone(decoder, prefix, embeds) for embeds in ASKED[:3]]

    def refuse(*args: object) -> None:
        tries.append(len(answered))
        raise torch.OutOfMemoryError

    monkeypatch.setattr(static_batch, "can_capture", lambda device: True)
    monkeypatch.setattr(StaticBatchStep, "capture", refuse)
    for number in range(8):
        assert ask(decoder, prefix) == expected
        answered.append(number)
    assert tries == [0, 1, 3, 7]
    assert len([r for r in caplog.records if "cannot be captured" in r.message]) == 1
    assert static_batches(decoder).held == []


def test_one_thread_at_a_time_and_others_still_answer(steps: list[StaticBatchStep]) -> None:
    decoder = make_decoder()
    prefix = scene_of(decoder)
    expected = [alone(decoder, prefix, embeds) for embeds in ASKED[:3]]
    found: list[list[tuple[int, ...]]] = []
    with static_batches(decoder).lent():
        other = threading.Thread(target=lambda: found.append(ask(decoder, prefix)))
        other.start()
        other.join()
    assert found == [expected]
    assert steps == []
    assert ask(decoder, prefix) == expected
    assert steps != []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("count", [1, 3])
def test_the_graph_gives_the_same_ids(count: int) -> None:
    decoder = make_decoder().cuda()
    prefix = scene_of(decoder)
    expected = ask(decoder, prefix, count, static=False)
    for _ in range(2):  # captured, then used again
        assert ask(decoder, prefix, count) == expected
    assert [step.captured for step in static_batches(decoder).held] == [True]
