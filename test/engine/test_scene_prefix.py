"""Questions on a cached scene against the full prompt: equal within the order of sums."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from ada3d_ros.engine.decode import GenerationRequest, decode
from ada3d_ros.engine.prefill import prefill, prefill_question
from ada3d_ros.errors import InvalidRequestError, ModelError
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.types import PromptSequence, SpatialTokens
from test.support.decoders import LAYERS, make_prompt
from test.support.prefixes import (
    SYSTEM,
    TEXT,
    N,
    make_decoder,
    prefix_of,
    pruner_of,
    question_of,
    relative,
    tokens_of,
)

TOLERANCE = {
    torch.float32: 2e-6,
    torch.bfloat16: 0.03,
}  # relative to the largest value; the same sums in another order


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("chunk", [7, 16, 1000])
def test_a_question_on_the_cached_scene_is_the_full_prefill(
    dtype: torch.dtype, kv_heads: int, chunk: int
) -> None:
    decoder = make_decoder(num_kv_heads=kv_heads, seed=kv_heads).to(dtype)
    prompt = make_prompt(N, SYSTEM, TEXT, seed=chunk)
    prompt = dataclasses.replace(prompt, embeds=prompt.embeds.to(dtype))
    full = prefill(decoder, prompt, 8, with_states=True)
    prefix = prefix_of(decoder, prompt, chunk, with_states=True)
    warm = prefill_question(prefix, question_of(prompt), 8, with_states=True)
    assert relative(warm.logits, full.logits) <= TOLERANCE[dtype]
    assert warm.counts == full.counts
    assert warm.next_positions == full.next_positions
    assert full.states is not None
    assert warm.states is not None
    assert relative(warm.states.spatial, full.states.spatial) <= TOLERANCE[dtype]
    assert relative(warm.states.query, full.states.query) <= TOLERANCE[dtype]
    for layer in range(LAYERS):
        for ours, theirs in zip(warm.cache.held(layer), full.cache.held(layer), strict=True):
            assert relative(ours, theirs) <= TOLERANCE[dtype]
    if dtype is torch.float32:
        assert (
            decode(decoder, warm, GenerationRequest(8)).token_ids
            == decode(decoder, full, GenerationRequest(8)).token_ids
        )


def test_questions_leave_no_trace() -> None:
    """Hundreds of questions with answers: the first one's logits come again bit for bit.

    And memory stays.
    """
    decoder, prompt = make_decoder(seed=0), make_prompt(N, SYSTEM, TEXT, seed=0)
    prefix = prefix_of(decoder, prompt)
    first = prefill_question(prefix, question_of(prompt), 8).logits
    size = prefix.num_bytes
    for seed in range(200):
        other = make_prompt(N, SYSTEM, 2 + seed % 7, seed=seed)
        pruner = pruner_of("adatoken3d") if seed % 3 == 0 else None
        decode(
            decoder, prefill_question(prefix, question_of(other), 8, pruner), GenerationRequest(4)
        )
    assert torch.equal(prefill_question(prefix, question_of(prompt), 8).logits, first)
    assert prefix.num_bytes == size


@pytest.mark.parametrize("count", [1, 13, 39, 40])
def test_a_smaller_budget_is_a_prefix_of_the_scene(count: int) -> None:
    decoder, prompt = make_decoder(seed=1), make_prompt(N, SYSTEM, TEXT, seed=1)
    start, stop = prompt.spatial_span
    embeds = torch.cat((prompt.embeds[: start + count], prompt.embeds[stop:]))
    fresh = PromptSequence(embeds, torch.arange(len(embeds)), (start, start + count))
    expected = prefill(decoder, fresh, 8)
    prefix = prefix_of(decoder, prompt)
    warm = prefill_question(prefix, question_of(prompt), 8, count=count)
    assert relative(warm.logits, expected.logits) <= 2e-6
    assert warm.counts == (count,) * LAYERS
    assert (
        decode(decoder, warm, GenerationRequest(6)).token_ids
        == decode(decoder, expected, GenerationRequest(6)).token_ids
    )
    whole = prefill(decoder, prompt, 8)
    assert relative(prefill_question(prefix, question_of(prompt), 8).logits, whole.logits) <= 2e-6


def test_what_is_appended_equals_a_scene_in_that_order() -> None:
    decoder, prompt = make_decoder(seed=2), make_prompt(N, SYSTEM, TEXT, seed=2)
    start = prompt.spatial_span[0]
    early = PromptSequence(
        torch.cat((prompt.embeds[: start + 25], question_of(prompt))),
        torch.arange(start + 25 + TEXT),
        (start, start + 25),
    )
    prefix = prefix_of(decoder, early, with_states=True)
    prefill_question(prefix, question_of(early), 8)  # a question in between
    tokens = tokens_of(prompt)
    later = SpatialTokens(tokens.features[25:], tokens.xyz_m[25:], tokens.num_patches[25:], 0.2)
    prefix.append_tokens(prompt.embeds[start + 25 : start + N], later, SceneSnapshot())
    assert not prefix.ready
    while prefix.step():
        pass
    full = prefill(decoder, prompt, 8, with_states=True)
    warm = prefill_question(prefix, question_of(prompt), 8, with_states=True)
    assert relative(warm.logits, full.logits) <= 2e-6
    assert full.states is not None
    assert warm.states is not None
    assert relative(warm.states.spatial, full.states.spatial) <= 2e-6
    assert len(prefix.xyz_m) == N


def test_eight_bit_keys_are_near_and_half_the_size() -> None:
    decoder, prompt = make_decoder(seed=5), make_prompt(N, SYSTEM, TEXT, seed=5)
    plain = prefix_of(decoder, prompt, with_states=True)
    small = prefix_of(decoder, prompt, with_states=True, int8=True)
    width = decoder.config.head_dim
    assert small.num_bytes / plain.num_bytes == pytest.approx((width + 4) / (4 * width))
    for layer in range(LAYERS):
        for ours, exact in zip(small.cache.held(layer), plain.cache.held(layer), strict=True):
            step = exact.abs().amax(dim=-1, keepdim=True) / 127
            if layer == 0:  # deeper layers' inputs differ too
                assert bool(((ours - exact).abs() <= 0.51 * step).all())
    expected = prefill_question(plain, question_of(prompt), 8).logits
    assert relative(prefill_question(small, question_of(prompt), 8).logits, expected) < 0.05


def test_a_question_without_rows_is_refused() -> None:
    decoder, prompt = make_decoder(seed=6), make_prompt(N, SYSTEM, TEXT, seed=6)
    with pytest.raises(InvalidRequestError, match="behind the scene"):
        prefill_question(prefix_of(decoder, prompt), prompt.embeds[:0], 8)


def test_damaged_weights_are_named() -> None:
    decoder, prompt = make_decoder(seed=7), make_prompt(N, SYSTEM, TEXT, seed=7)
    prefix = prefix_of(decoder, prompt)
    with torch.no_grad():
        decoder.layers[2].self_attn.q_proj.weight.fill_(math.nan)
    with pytest.raises(ModelError, match="not finite"):
        prefill_question(prefix, question_of(prompt), 8, pruner_of("adatoken3d"))
