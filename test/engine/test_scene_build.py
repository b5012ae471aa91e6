"""A scene pruned while it is built against the same written out (test/support/slow_build.py)."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from ada3d_ros.engine.decode import GenerationRequest, decode
from ada3d_ros.engine.prefill import prefill, prefill_question
from ada3d_ros.engine.scene_build import ScenePruner
from ada3d_ros.engine.scene_prefix import PrefixOptions, ScenePrefix
from ada3d_ros.engine.token_selection import ChosenTokens, SceneContext
from ada3d_ros.errors import ModelError
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.allocation import Allocation
from ada3d_ros.pruning.cost import DecoderShape, question_macs
from ada3d_ros.pruning.question_queries import RecordedQueries
from ada3d_ros.pruning.scene_ranking import PromptRanking
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.types import PromptSequence, SpatialTokens
from test.support.decoders import LAYERS, WIDTH, make_prompt
from test.support.prefixes import (
    SYSTEM,
    TEXT,
    make_decoder,
    prefix_of,
    pruner_of,
    question_of,
    relative,
)
from test.support.slow_build import SlowDecoder

N = 40
TOLERANCE = 2e-6  # float32, relative to the largest value; the same sums in another order
FALLING = (1.0, 0.8, 0.6, 0.6, 0.5, 0.4, 0.3, 0.3)
SAME = Allocation(FALLING, FALLING)
EVEN = Allocation((1.0, *[0.4] * 7), (0.4,) * 8)
LATE = Allocation((1.0, *[0.6] * 7), (0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.6, 0.6))


def prompts_of(*lengths: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(5)
    return tuple(torch.randn(n, WIDTH, generator=generator) for n in lengths)


# -- against it


def built(
    decoder: LlamaDecoder, prompt: PromptSequence, pruner: ScenePruner, **options
) -> ScenePrefix:
    return prefix_of(decoder, prompt, pruner=pruner, **options)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("allocation", [SAME, EVEN, LATE], ids=["same", "even", "late"])
@pytest.mark.parametrize("lengths", [(6,), (6, 4, 9)])
def test_a_pruned_build_is_the_slow_one(
    kv_heads: int, allocation: Allocation, lengths: tuple[int, ...]
) -> None:
    decoder, prompt = make_decoder(kv_heads, seed=kv_heads), make_prompt(N, SYSTEM, TEXT, seed=3)
    pruner = ScenePruner(allocation, PromptRanking(), prompts_of(*lengths), n_min=2)
    prefix = built(decoder, prompt, pruner, with_states=True)
    slow = SlowDecoder(decoder)
    with torch.inference_mode():
        scene = slow.build(prompt.embeds[: SYSTEM + N], SYSTEM, pruner)
        expected = slow.ask(scene, question_of(prompt))
    assert prefix.held is not None
    assert [kept.tolist() for kept in prefix.held] == scene.held
    answered = prefill_question(prefix, question_of(prompt), 8, with_states=True)
    assert relative(answered.logits, expected) <= TOLERANCE
    assert answered.counts == allocation.counts(N, 2)[1]
    assert answered.states is not None
    assert scene.last is not None
    last = slow.decoder.norm(scene.last)
    assert relative(answered.states.spatial, last) <= TOLERANCE
    assert answered.next_positions == (SYSTEM + N + TEXT,) * LAYERS


@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("allocation", [SAME, EVEN, LATE], ids=["same", "even", "late"])
def test_appended_tokens_are_ranked_by_the_frozen_queries(
    kv_heads: int, allocation: Allocation
) -> None:
    decoder, prompt = make_decoder(kv_heads, seed=7), make_prompt(N, SYSTEM, TEXT, seed=11)
    pruner = ScenePruner(allocation, PromptRanking(), prompts_of(6, 6), n_min=2)
    prefix = built(decoder, prompt, pruner, with_states=True)
    new = torch.randn(20, prompt.embeds.shape[1], generator=torch.Generator().manual_seed(1))
    tokens = SpatialTokens(new, torch.randn(20, 3), torch.ones(20, dtype=torch.int64), 0.2)
    slow = SlowDecoder(decoder)
    with torch.inference_mode():
        scene = slow.build(prompt.embeds[: SYSTEM + N], SYSTEM, pruner)
        for part in (slice(0, 12), slice(12, 20)):  # two keyframes
            piece = SpatialTokens(
                tokens.features[part], tokens.xyz_m[part], tokens.num_patches[part], 0.2
            )
            prefix.append_tokens(new[part], piece, SceneSnapshot())
            while prefix.step():
                pass
            queries = scene.queries
            scene = slow.build(new[part], 0, pruner, scene)
            scene.queries = queries
        expected = slow.ask(scene, question_of(prompt))
    assert prefix.held is not None
    assert [kept.tolist() for kept in prefix.held] == scene.held
    answered = prefill_question(prefix, question_of(prompt), 8, with_states=True)
    assert relative(answered.logits, expected) <= TOLERANCE
    assert answered.states is not None
    assert len(answered.states.spatial) == len(prefix.held[-1])


@pytest.mark.parametrize("strategy", ["adatoken3d", "pdrop"])
def test_with_the_question_itself_as_the_proxy_it_is_the_papers_prefill(strategy: str) -> None:
    flat = {"pdrop.positions": "original"} if strategy == "pdrop" else {}
    decoder, prompt = make_decoder(2), make_prompt(N, SYSTEM, TEXT, seed=2)
    pruner = pruner_of(strategy, 0.6, **flat)
    counts = pruner.counts(N, None)
    shares = tuple(count / N for count in counts)
    proxy = ScenePruner(Allocation(shares, shares), PromptRanking(), (question_of(prompt),), 2)
    paper = prefill(decoder, prompt, 8, pruner)
    answered = prefill_question(built(decoder, prompt, proxy), question_of(prompt), 8)
    assert answered.counts == counts == paper.counts
    for ours, theirs in zip(answered.kept, paper.kept, strict=True):
        assert torch.equal(ours, theirs)
    assert relative(answered.logits, paper.logits) <= TOLERANCE
    ids = [decode(decoder, output, GenerationRequest(8)).token_ids for output in (answered, paper)]
    assert ids[0] == ids[1]


def test_everything_kept_is_the_unpruned_scene() -> None:
    decoder, prompt = make_decoder(2), make_prompt(N, SYSTEM, TEXT)
    everything = Allocation((1.0,) * LAYERS, (1.0,) * LAYERS)
    pruned = built(decoder, prompt, ScenePruner(everything, PromptRanking(), prompts_of(4)))
    whole = prefix_of(decoder, prompt)
    ours, theirs = (prefill_question(p, question_of(prompt), 4) for p in (pruned, whole))
    assert relative(ours.logits, theirs.logits) <= TOLERANCE
    assert pruned.lengths == whole.lengths == (SYSTEM + N,) * LAYERS
    assert pruned.macs == question_macs(
        DecoderShape.from_config(decoder.config), SYSTEM + N, [0] * LAYERS, with_head=False
    )


def test_what_a_build_computes_is_counted_token_by_token() -> None:
    decoder, prompt = make_decoder(2), make_prompt(N, SYSTEM, TEXT)
    shape = DecoderShape.from_config(decoder.config)
    prefix = built(decoder, prompt, ScenePruner(LATE, PromptRanking(), prompts_of(5, 3), 2))
    alive, held = LATE.counts(N, 2)
    d, linear, total, before = shape.hidden_size, shape.linear_macs, 0, N
    for layer in range(LAYERS):  # held is fewer than alive in all but the last two
        ranks, rides = layer <= 5, layer < 5
        rows = [j + 1 for length in (5, 3) for j in range(length)]
        if ranks:  # every token's key, every row's query, one row of scores per prompt
            total += (before - alive[layer]) * d * shape.kv_width + 8 * d * d
            total += sum((SYSTEM + before + length) * d for length in (5, 3))
            total += 0 if rides else 8 * d * shape.kv_width
        total += sum(linear + 2 * (i + 1) * d for i in range(SYSTEM + alive[layer]))
        if rides:
            total += sum(linear + 2 * (SYSTEM + alive[layer] + own) * d for own in rows)
        before = alive[layer]
    assert held[5] < alive[5]
    assert held[6] == alive[6]
    assert prefix.macs == total


def test_a_build_takes_one_layer_a_step_and_questions_leave_no_trace() -> None:
    decoder, prompt = make_decoder(2), make_prompt(N, SYSTEM, TEXT)
    pruner = ScenePruner(SAME, PromptRanking(), prompts_of(5), 2)
    tokens = SpatialTokens(
        prompt.embeds[SYSTEM : SYSTEM + N], torch.randn(N, 3), torch.ones(N, dtype=torch.int64), 0.2
    )
    chosen = ChosenTokens(tokens, torch.arange(N), N)
    context = SceneContext(SceneSnapshot(), tokens, chosen, prompt.embeds[SYSTEM : SYSTEM + N])
    part = PromptSequence(
        prompt.embeds[: SYSTEM + N], prompt.positions[: SYSTEM + N], (SYSTEM, SYSTEM + N)
    )
    prefix = ScenePrefix(decoder, part, context, PrefixOptions(pruner=pruner))
    assert [prefix.step() for _ in range(LAYERS)] == [True] * (LAYERS - 1) + [False]
    lengths = prefix.lengths
    first = prefill_question(prefix, question_of(prompt), 4).logits
    decode(decoder, prefill_question(prefix, question_of(prompt), 8), GenerationRequest(8))
    assert torch.equal(prefill_question(prefix, question_of(prompt), 4).logits, first)
    prefix.crop()
    assert (
        prefix.cache.lengths == lengths == tuple(SYSTEM + count for count in SAME.counts(N, 2)[1])
    )


def test_a_failed_layer_begins_the_build_again(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, prompt = make_decoder(2), make_prompt(N, SYSTEM, TEXT)
    pruner = ScenePruner(SAME, PromptRanking(), prompts_of(5), 2)
    expected = built(decoder, prompt, pruner)
    run, calls = LlamaDecoder.run_layer, iter(range(100))

    def fails_once(self: LlamaDecoder, layer: int, *args, **kwargs) -> torch.Tensor:
        if next(calls) == 2:
            raise torch.OutOfMemoryError("out of memory")
        return run(self, layer, *args, **kwargs)

    monkeypatch.setattr(LlamaDecoder, "run_layer", fails_once)
    with pytest.raises(torch.OutOfMemoryError):
        built(decoder, prompt, pruner)
    calls = iter(range(100))
    part_prompt = make_prompt(N, SYSTEM, TEXT)
    prefix = None
    tokens = SpatialTokens(
        prompt.embeds[SYSTEM : SYSTEM + N], torch.randn(N, 3), torch.ones(N, dtype=torch.int64), 0.2
    )
    chosen = ChosenTokens(tokens, torch.arange(N), N)
    context = SceneContext(SceneSnapshot(), tokens, chosen, prompt.embeds[SYSTEM : SYSTEM + N])
    part = PromptSequence(
        part_prompt.embeds[: SYSTEM + N], part_prompt.positions[: SYSTEM + N], (SYSTEM, SYSTEM + N)
    )
    prefix = ScenePrefix(decoder, part, context, PrefixOptions(pruner=pruner))
    failures = 0
    while not prefix.ready:
        try:
            prefix.step()
        except torch.OutOfMemoryError:
            failures += 1
    assert failures == 1
    assert prefix.lengths == expected.lengths
    for layer in range(LAYERS):
        for ours, theirs in zip(prefix.cache.held(layer), expected.cache.held(layer), strict=True):
            assert torch.equal(ours, theirs)


def test_int8_keys_hold_the_same_tokens() -> None:
    decoder, prompt = make_decoder(2), make_prompt(N, SYSTEM, TEXT)
    pruner = ScenePruner(SAME, PromptRanking(), prompts_of(5), 2)
    full, small = (built(decoder, prompt, pruner, int8=int8) for int8 in (False, True))
    assert full.held is not None
    assert small.held is not None
    assert all(map(torch.equal, full.held, small.held))
    ours, theirs = (prefill_question(p, question_of(prompt), 4).logits for p in (small, full))
    assert 0 < relative(ours, theirs) < 0.02


def test_scores_that_are_not_finite_are_an_error() -> None:
    decoder, prompt = make_decoder(2), make_prompt(N, SYSTEM, TEXT)
    embeds = prompt.embeds.clone()
    embeds[SYSTEM + 3] = math.nan
    broken = dataclasses.replace(prompt, embeds=embeds)
    pruner = ScenePruner(SAME, PromptRanking(), prompts_of(5), 2)
    with pytest.raises(ModelError, match="ranking scores of the scene are not finite"):
        built(decoder, broken, pruner)


def test_queries_of_questions_are_recorded_as_they_stand_before_rotation() -> None:
    decoder, prompt = make_decoder(2), make_prompt(N, SYSTEM, TEXT)
    seen = RecordedQueries()
    prefix = prefix_of(decoder, prompt, queries=seen)
    prefill_question(prefix, question_of(prompt), 4)
    slow = SlowDecoder(decoder)
    hidden, at = prompt.embeds.double(), torch.arange(len(prompt.embeds), dtype=torch.float64)
    causal = torch.ones(len(hidden), len(hidden), dtype=torch.bool).tril()
    expected = []
    with torch.inference_mode():
        for layer in range(LAYERS):
            expected.append(slow.parts(layer, hidden)[0][:, -1:])
            hidden = slow.run(layer, hidden, at, None, causal)[0]
    last = seen.last()
    assert last is not None
    assert relative(last, torch.stack(expected)) <= 1e-5
