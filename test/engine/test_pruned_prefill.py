"""Pruned prefill and decode against a slow engine: whole attention matrices, nothing reused."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import pytest
import torch

from ada3d_ros.engine.decode import GenerationRequest, decode, greedy
from ada3d_ros.engine.information import measure_information
from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.prefill import PrefillOutput, prefill
from ada3d_ros.errors import Ada3DError, InvalidRequestError, ModelError
from ada3d_ros.model.decoder import LayerInputs
from ada3d_ros.model.spatial import cap_spatial_tokens
from ada3d_ros.pruning.baselines.logistic import LogisticPruner
from ada3d_ros.pruning.schedule import RetentionSchedule
from ada3d_ros.pruning.strategy import LayerPruner
from ada3d_ros.types import PromptSequence, SpatialTokens
from test.support.decoders import (
    INNER,
    LAYERS,
    SHAPE,
    generator,
    make_decoder,
    make_prompt,
    policy_of,
)
from test.support.slow_engine import slow_prefill

N, SYSTEM, TEXT = 40, 3, 5
TOTAL = SYSTEM + N + TEXT
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("adatoken3d", {}),
    ("adatoken3d", {"adatoken3d__positions": "compact"}),
    ("adatoken3d", {"adatoken3d__rank__rope": False, "adatoken3d__prune_layers": "1,4,5"}),
    ("fastv", {}),
    ("fastv", {"fastv__k": 1}),
    ("pdrop", {}),
    ("pdrop", {"pdrop__positions": "original", "pdrop__layers": "1,2,6"}),
    ("logistic", {}),
]


def pruner_of(
    strategy: str, ratio: float = 0.5, spatial: int = N, text: int = SYSTEM + TEXT, **flat: Any
) -> LayerPruner:
    pruner = policy_of(strategy, ratio, n_min=2, **flat).pruner(SHAPE, spatial, spatial, text)
    assert pruner is not None
    return pruner


variants = pytest.mark.parametrize(("strategy", "flat"), VARIANTS)


@variants
@pytest.mark.parametrize("kv_heads", [2, 4])
def test_pruned_prefill_equals_the_slow_engine(
    strategy: str, flat: dict[str, Any], kv_heads: int
) -> None:
    """The same tokens in every layer, the same logits."""
    for seed in range(4):
        decoder = make_decoder(num_kv_heads=kv_heads, seed=seed)
        prompt = make_prompt(N, SYSTEM, TEXT, seed)
        pruner = pruner_of(strategy, **flat)
        fast = prefill(decoder, prompt, pruner=pruner)
        slow = slow_prefill(decoder, prompt.embeds, prompt.spatial_span, pruner)
        assert [stage.tolist() for stage in fast.kept] == slow.kept
        assert (fast.logits.double() - slow.logits[-1]).abs().max() < 1e-4
        assert fast.counts[-1] < N
        assert fast.logits.argmax() == slow.logits[-1].argmax()


@variants
def test_p16_decode_goes_on_with_what_each_layer_kept(strategy: str, flat: dict[str, Any]) -> None:
    """P16: the KV cache of layer i holds text + n_i + t tokens.

    Every step's logits are those of the whole sequence run anew with the same tokens in every
    layer, at the positions the strategy gives them.
    """
    decoder, prompt, steps = make_decoder(), make_prompt(N, SYSTEM, TEXT), list[torch.Tensor]()

    def recording(logits: torch.Tensor) -> torch.Tensor:
        steps.append(logits)
        return greedy(logits)

    pruner = pruner_of(strategy, **flat)
    filled = prefill(decoder, prompt, pruner=pruner)
    assert filled.cache.lengths == tuple(SYSTEM + TEXT + n for n in filled.counts)
    output = decode(decoder, filled, GenerationRequest(6, recording))
    # Of six tokens the last is not fed.
    assert filled.cache.lengths == tuple(SYSTEM + TEXT + n + 5 for n in filled.counts)
    ids = torch.tensor(output.token_ids[:-1])
    longer = torch.cat((prompt.embeds, decoder.embed(ids)))
    kept = [stage.tolist() for stage in filled.kept]
    slow = slow_prefill(decoder, longer, prompt.spatial_span, pruner, given=kept)
    assert (torch.stack(steps).double() - slow.logits[-6:]).abs().max() < 1e-4
    expected = [
        SYSTEM + TEXT + n if pruner.positions == "compact" else TOTAL for n in filled.counts
    ]
    assert list(filled.next_positions) == expected


@pytest.mark.parametrize("strategy", INNER)
@pytest.mark.parametrize("ratio", [0.4, 0.8])
def test_p13_kept_tokens_are_sorted_unique_and_nested_and_text_stays(
    strategy: str, ratio: float
) -> None:
    """P13: each stage a sorted, unique subset of the one before; no text token ever goes."""
    filled = prefill(
        make_decoder(), make_prompt(N, SYSTEM, TEXT), pruner=pruner_of(strategy, ratio)
    )
    previous = set(range(N))
    assert filled.kept[0].tolist() == list(range(N))
    for stage, length in zip(filled.kept, filled.cache.lengths, strict=True):
        assert stage.tolist() == sorted(set(stage.tolist()))
        assert set(stage.tolist()) <= previous
        assert length - len(stage) == SYSTEM + TEXT
        previous = set(stage.tolist())


# -- nothing dropped, cached scenes, repeatability

NOTHING_DROPPED = {
    "adatoken3d endpoint": (
        "adatoken3d",
        {"adatoken3d__budget__mode": "endpoint", "adatoken3d__budget__value": 1.0},
    ),
    "adatoken3d flops": (
        "adatoken3d",
        {"adatoken3d__budget__mode": "flops", "adatoken3d__budget__value": 1.0},
    ),
    "adatoken3d parameters": (
        "adatoken3d",
        {"adatoken3d__budget__mode": "parameters", "adatoken3d__alpha": 0.0, "adatoken3d__M": 1.0},
    ),
    "pdrop": ("pdrop", {"pdrop__ratios": "1,1,1"}),
}


def unpruned_pruners() -> list[LayerPruner]:
    ones = RetentionSchedule((1.0,) * LAYERS)
    direct = [
        LayerPruner("adatoken3d", ones),
        LayerPruner("fastv", ones, rank_lag=1),
        LayerPruner("pdrop", ones, positions="compact"),
        LogisticPruner("logistic", ones, probe_layer=1, keep_ratio=1.0),
    ]
    built = [
        policy_of(name, **flat).pruner(SHAPE, N, N, 8) for name, flat in NOTHING_DROPPED.values()
    ]
    return [*direct, *(pruner for pruner in built if pruner is not None)]


def test_p12_a_budget_of_1_is_the_unpruned_model_bit_for_bit() -> None:
    """P12: no strategy at keep_ratio 1, and every strategy that runs but drops nothing."""
    decoder, prompt = make_decoder(), make_prompt(N)
    plain = prefill(decoder, prompt)
    tokens = decode(decoder, plain, GenerationRequest(8))
    for strategy in (*INNER, "voxel_dpp", "geo_fps+pdrop"):
        policy = policy_of(strategy, 1.0)
        assert not policy.prunes
        assert policy.pruner(SHAPE, N, N) is None
    pruners = unpruned_pruners()
    assert len(pruners) == 8
    for pruner in pruners:
        filled = prefill(decoder, prompt, pruner=pruner)
        assert filled.counts == (N,) * LAYERS
        assert torch.equal(filled.logits, plain.logits)
        again = decode(decoder, filled, GenerationRequest(8))
        assert again.token_ids == tokens.token_ids
        assert again.mean_probability == tokens.mean_probability


def test_p14_a_cached_scene_prefix_answers_like_one_shot_prefill() -> None:
    """P14: system and scene first, then two questions on copies of that cache.

    Each as if asked at once.
    """
    decoder, made = make_decoder(), generator(3)
    prefix = make_prompt(N, SYSTEM, TEXT).embeds[: SYSTEM + N]
    for length in (4, 9):
        question = torch.randn(length, prefix.shape[1], generator=made)
        total, cache = SYSTEM + N + length, KVCache(LAYERS, reserve=32)
        decoder.run_layers(0, LAYERS, prefix[None], torch.arange(SYSTEM + N), cache)
        hidden = decoder.run_layers(
            0, LAYERS, question[None], torch.arange(SYSTEM + N, total), cache
        )
        prompt = PromptSequence(
            torch.cat((prefix, question)), torch.arange(total), (SYSTEM, SYSTEM + N)
        )
        whole = prefill(decoder, prompt)
        logits = decoder.logits(hidden[0, -1])
        assert (
            logits - whole.logits
        ).abs().max() < 1e-5  # SDPA with a mask or without: other kernels, other last bits
        assert cache.lengths == whole.cache.lengths
        cached = dataclasses.replace(whole, logits=logits, cache=cache)
        assert (
            decode(decoder, cached, GenerationRequest(8)).token_ids
            == decode(decoder, prefill(decoder, prompt), GenerationRequest(8)).token_ids
        )


@variants
def test_p18_identical_inputs_give_identical_keeps(strategy: str, flat: dict[str, Any]) -> None:
    """P18: twice the same prompt, and one whose spatial tokens differ in their places alone."""
    decoder, prompt, pruner = make_decoder(), make_prompt(N), pruner_of(strategy, **flat)
    a, b = prefill(decoder, prompt, pruner=pruner), prefill(decoder, prompt, pruner=pruner)
    assert torch.equal(a.logits, b.logits)
    assert all(map(torch.equal, a.kept, b.kept))


def test_p18_ties_go_to_the_lowest_index() -> None:
    """P18: without rotary positions, of spatial tokens that are all the same, the first n stay."""
    decoder, prompt = make_decoder(), make_prompt(N)
    embeds = prompt.embeds.clone()
    embeds[SYSTEM : SYSTEM + N] = embeds[SYSTEM]
    decoder.layers[1].self_attn.k_proj.weight.zero_()
    pruner = LayerPruner("x", RetentionSchedule((1.0, *([0.25] * 7))))
    alike = PromptSequence(embeds, prompt.positions, prompt.spatial_span)
    assert prefill(decoder, alike, pruner=pruner).kept[-1].tolist() == list(range(10))


def test_p20_a_scene_above_the_models_cap_is_pruned_alike_every_time() -> None:
    """P20: N > cap: the same subset, in order, and the same tokens kept from it.

    Whatever the global random state.
    """
    made = generator(4)
    scene = SpatialTokens(
        torch.randn(300, 32, generator=made),
        torch.rand(300, 3, generator=made),
        torch.ones(300).long(),
        0.2,
    )
    decoder, words, found = make_decoder(), make_prompt(0).embeds, []
    for seed in (0, 1):
        torch.manual_seed(seed)
        tokens = cap_spatial_tokens(scene, 120)
        assert (tokens.xyz_m == scene.xyz_m[torch.arange(120) * 300 // 120]).all()
        embeds = torch.cat((words[:3], tokens.features, words[3:]))
        prompt = PromptSequence(embeds, torch.arange(len(embeds)), (3, 123))
        for strategy in INNER:
            found.append(prefill(decoder, prompt, pruner=pruner_of(strategy, spatial=120)))
    for a, b in zip(found[:4], found[4:], strict=True):
        assert torch.equal(a.logits, b.logits)
        assert all(map(torch.equal, a.kept, b.kept))


@variants
def test_p21_reused_keys_give_the_same_keeps_as_recomputed_ones(
    strategy: str, flat: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """P21: the ranked layer computing its norm and keys anew keeps the same tokens.

    The logits agree within 1e-6.
    """
    decoder, prompt, pruner = make_decoder(), make_prompt(N), pruner_of(strategy, **flat)
    reused = prefill(decoder, prompt, pruner=pruner)
    run_layer, handed = decoder.run_layer, list[bool]()

    def forgetful(*args: Any) -> torch.Tensor:
        inputs: LayerInputs | None = args[4]
        handed.append(inputs is not None)
        return run_layer(*args[:4])

    monkeypatch.setattr(decoder, "run_layer", forgetful)
    anew = prefill(decoder, prompt, pruner=pruner)
    assert any(handed)  # keys were there to be reused
    assert all(map(torch.equal, reused.kept, anew.kept))
    assert (reused.logits - anew.logits).abs().max() < 1e-6 * max(
        1.0, float(anew.logits.abs().max())
    )


# -- errors


@variants
def test_p19_no_prompt_token_after_the_scene_is_an_error(
    strategy: str, flat: dict[str, Any]
) -> None:
    """P19: not the row of index -1, which would be a spatial token."""
    embeds = make_prompt(N).embeds[: SYSTEM + N]
    prompt = PromptSequence(embeds, torch.arange(len(embeds)), (SYSTEM, SYSTEM + N))
    with pytest.raises(
        InvalidRequestError,
        match=r"no prompt token follows the spatial tokens.*put the question behind",
    ):
        prefill(make_decoder(), prompt, pruner=pruner_of(strategy, **flat))
    with pytest.raises(InvalidRequestError, match="40 spatial tokens and 0 behind them"):
        measure_information(make_decoder(), prompt)
    assert prefill(make_decoder(), prompt).counts == (N,) * LAYERS  # unpruned it is fine


@pytest.mark.parametrize("strategy", INNER)
@pytest.mark.parametrize("spatial", [0, 1])
def test_none_or_one_spatial_token(strategy: str, spatial: int) -> None:
    """A pruner made for a larger scene leaves them alone."""
    filled = prefill(make_decoder(), make_prompt(spatial), pruner=pruner_of(strategy))
    assert filled.counts == (spatial,) * LAYERS


@variants
def test_scores_that_are_not_finite_are_an_error(strategy: str, flat: dict[str, Any]) -> None:
    """NaN in a layer's queries: found whether the scores or only the logits show it."""
    decoder = make_decoder()
    decoder.layers[2].self_attn.q_proj.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"not finite.*model\.precision"):
        prefill(decoder, make_prompt(N), pruner=pruner_of(strategy, **flat))


def test_nan_scores_are_an_error_even_where_the_logits_are_finite() -> None:
    """A ranking that is not finite keeps arbitrary tokens; the layer is named."""

    class Broken(LayerPruner):
        def rank(self, context: Any) -> torch.Tensor:
            return torch.full((context.kept.shape[0],), float("nan"))

    pruner = Broken("x", RetentionSchedule((1.0, 1.0, 1.0, *([0.5] * 5))))
    with pytest.raises(
        ModelError, match=r"ranking scores of layer 4 are not finite \(NaN\).*model\.precision"
    ):
        prefill(make_decoder(), make_prompt(N), pruner=pruner)


@pytest.mark.parametrize("length", [5, 11])
def test_a_schedule_for_another_number_of_layers_is_refused(length: int) -> None:
    """Five shares on eight layers must not answer from the middle of the model."""
    pruner = LayerPruner("x", RetentionSchedule((1.0, *([0.5] * (length - 1)))))
    with pytest.raises((Ada3DError, ValueError), match=rf"{length}.*8|8.*{length}"):
        prefill(make_decoder(), make_prompt(N), pruner=pruner)


def test_ranking_time_is_part_of_prefill_time() -> None:
    start = time.perf_counter()
    filled: PrefillOutput = prefill(make_decoder(), make_prompt(N), pruner=pruner_of("adatoken3d"))
    assert 0.0 < filled.rank_s < time.perf_counter() - start
    assert math.isnan(prefill(make_decoder(), make_prompt(N)).rank_s)
