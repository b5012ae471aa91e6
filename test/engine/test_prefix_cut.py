"""Frames that are gone are cut out of a cached scene: what stays is as it was, positions too."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ada3d_ros.engine.decode import GenerationRequest, decode
from ada3d_ros.engine.prefill import prefill, prefill_question
from ada3d_ros.engine.scene_build import ScenePruner
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.allocation import Allocation
from ada3d_ros.pruning.scene_ranking import PromptRanking
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.types import PromptSequence, SpatialTokens
from test.support.decoders import LAYERS, make_prompt
from test.support.prefixes import (
    SYSTEM,
    TEXT,
    N,
    make_decoder,
    prefix_of,
    question_of,
    relative,
    tokens_of,
)

KEPT = torch.cat((torch.arange(5), torch.arange(12, 40)))  # of 40: a middle is gone


def masked_logits(
    decoder: LlamaDecoder, prompt: PromptSequence, rows: int, gone: torch.Tensor
) -> torch.Tensor:
    """Of the last token, where the tokens from `rows` on do not see the spatial tokens `gone`, and
    those before them do: in one pass, by a mask.
    """
    start, _ = prompt.spatial_span
    total = len(prompt.embeds)
    mask = torch.ones(total, total, dtype=torch.bool).tril()
    mask[rows:, start + gone] = False

    def attend(_: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)

    hidden, rope = prompt.embeds[None], decoder.rope(prompt.positions)
    with torch.inference_mode():
        for layer in range(LAYERS):
            hidden = decoder.run_layer(layer, hidden, rope, attend)
        return decoder.lm_head(decoder.norm(hidden[0, -1]))


@pytest.mark.parametrize("int8", [False, True])
def test_a_question_after_a_cut_does_not_see_what_is_gone(int8: bool) -> None:
    decoder, prompt = make_decoder(seed=3), make_prompt(N, SYSTEM, TEXT, seed=3)
    gone = torch.tensor([i for i in range(N) if i not in KEPT.tolist()])
    prefix = prefix_of(decoder, prompt, int8=int8, with_states=True)
    states = prefix.final_states()
    before = prefix.xyz_m
    prefix.evict(KEPT)
    after = prefill_question(prefix, question_of(prompt), 8)
    expected = masked_logits(decoder, prompt, SYSTEM + N, gone)
    assert relative(after.logits, expected) <= (0.05 if int8 else 2e-6)
    assert torch.equal(prefix.final_states(), states[KEPT])
    assert torch.equal(prefix.xyz_m, before[KEPT])
    assert prefix.next_position == SYSTEM + N  # what is gone leaves its positions
    assert prefix.lengths == (SYSTEM + len(KEPT),) * LAYERS


def test_a_cut_for_which_there_is_no_memory_has_not_happened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder, prompt = make_decoder(seed=3), make_prompt(N, SYSTEM, TEXT, seed=3)
    prefix = prefix_of(decoder, prompt, with_states=True)
    expected = prefill_question(prefix, question_of(prompt), 8).logits.clone()

    def refused(rows: list[torch.Tensor]) -> torch.Tensor:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(prefix.cache, "_spare", refused)
        with pytest.raises(RuntimeError, match="out of memory"):
            prefix.evict(KEPT)
    assert len(prefix.embeds) == len(prefix.xyz_m) == len(prefix.final_states()) == N
    assert torch.equal(prefill_question(prefix, question_of(prompt), 8).logits, expected)
    prefix.evict(KEPT)
    assert len(prefix.embeds) == len(KEPT)


def test_a_cut_at_the_end_is_the_shorter_scene() -> None:
    decoder, prompt = make_decoder(seed=4), make_prompt(N, SYSTEM, TEXT, seed=4)
    prefix = prefix_of(decoder, prompt)
    prefix.evict(torch.arange(25))
    start = SYSTEM
    embeds = torch.cat((prompt.embeds[: start + 25], question_of(prompt)))
    fresh = PromptSequence(embeds, torch.arange(len(embeds)), (start, start + 25))
    assert (prefix.next_position, prefix.num_evicted) == (start + 25, 0)
    expected = prefill(decoder, fresh, 8)
    warm = prefill_question(prefix, question_of(prompt), 8)
    assert relative(warm.logits, expected.logits) <= 2e-6
    ours, theirs = (decode(decoder, p, GenerationRequest(6)) for p in (warm, expected))
    assert ours.token_ids == theirs.token_ids


def test_what_is_appended_after_a_cut_stands_behind_all_positions() -> None:
    decoder, prompt = make_decoder(seed=5), make_prompt(N, SYSTEM, TEXT, seed=5)
    start, early = SYSTEM, 30
    first = PromptSequence(prompt.embeds[: start + early], torch.arange(start + early), (start, 33))
    prefix = prefix_of(decoder, first)
    prefix.evict(torch.arange(10, early))
    tokens = tokens_of(prompt)
    later = SpatialTokens(tokens.features[early:], tokens.xyz_m[early:], torch.ones(10).long(), 0.2)
    prefix.append_tokens(prompt.embeds[start + early : start + N], later, SceneSnapshot())
    while prefix.step():
        pass
    assert prefix.positions.tolist() == [*range(start), *range(start + 10, start + N)]

    # What came before the cut has seen what is gone, nothing else does.
    expected = masked_logits(decoder, prompt, start + early, torch.arange(10))
    warm = prefill_question(prefix, question_of(prompt), 8)
    assert relative(warm.logits, expected) <= 2e-6


@pytest.mark.parametrize("int8", [False, True])
def test_each_layer_of_a_pruned_scene_loses_what_it_held_of_what_is_gone(int8: bool) -> None:
    decoder, prompt = make_decoder(seed=6), make_prompt(N, SYSTEM, TEXT, seed=6)
    shares = tuple(1.0 - 0.1 * layer for layer in range(LAYERS))
    generator = torch.Generator().manual_seed(0)
    rides = torch.randn(4, decoder.config.hidden_size, generator=generator)
    pruner = ScenePruner(Allocation(shares, shares), PromptRanking(), (rides,), 2)
    prefix = prefix_of(decoder, prompt, pruner=pruner, int8=int8, with_states=True)
    assert prefix.held is not None
    held, states = prefix.held, prefix.final_states()
    keys = [prefix.cache.held(layer)[0].clone() for layer in range(LAYERS)]
    prefix.evict(KEPT)
    kept = KEPT.tolist()
    for layer in range(LAYERS):
        stays = [i for i, token in enumerate(held[layer].tolist()) if token in kept]
        assert prefix.held[layer].tolist() == [kept.index(held[layer][i]) for i in stays]
        rows = [*range(SYSTEM), *(SYSTEM + i for i in stays)]
        assert torch.equal(prefix.cache.held(layer)[0], keys[layer][:, :, rows])
    assert torch.equal(prefix.final_states(), states[stays])
    assert prefix.lengths == tuple(SYSTEM + len(index) for index in prefix.held)
    assert torch.isfinite(prefill_question(prefix, question_of(prompt), 8).logits).all()
