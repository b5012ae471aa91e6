"""P1 to P21, the properties that pruning must have, on Video-3D-LLM: a decoder with biases, five
query heads on one key head, and scenes as the model makes them of views, newlines closing the rows.

| property | of | proven by, with newlines (here, or engine/test_newlines.py: "newlines") |
|---|---|---|
| P1, P2 | masses | `test_p1_p2_...`, and of pruning/test_newlines_ranked.py |
| P3 to P5 | information | `test_p3_...` to `test_p5_...` |
| P6 to P10 | the fit, to this model's curve | `test_p6_to_p9_...`, `test_p10_...` |
| P11, P13, P16 | kept tokens, keys | `test_p15_...`; newlines: `test_a_newline_goes_...` |
| P12 | nothing dropped | `test_p12_...`; newlines: `test_p12_...` |
| P14 | cached scene | newlines: `test_p14_...`; frame by frame: test_video3d_pipeline.py |
| P15 | FastV, PyramidDrop | `test_p15_...`: float64 written out; no recorded run has newlines |
| P17 | cost of the 7B | `test_p17_...` |
| P18, P20 | the same every time | `test_p18_p20_...`: this model has no cap |
| P19 | no prompt behind the scene | `test_p19_...`; newlines: `test_p19_...` |
| P21 | reused keys | `test_p21_...` |
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ada3d_ros.engine.decode import GenerationRequest, decode
from ada3d_ros.engine.information import measure_information
from ada3d_ros.engine.prefill import prefill
from ada3d_ros.errors import InvalidRequestError
from ada3d_ros.model.prompt import IMAGE_ID
from ada3d_ros.model.video3dllm.backbone import Video3DLLM
from ada3d_ros.model.video3dllm.config import QWEN2_7B, Video3DConfig
from ada3d_ros.pruning.cost import DecoderShape, kv_bytes, prefill_macs
from ada3d_ros.pruning.fit import Fit, FitSettings, closed_form, fit_endpoint, fit_mean, solve_slsqp
from ada3d_ros.pruning.information import (
    Information,
    Masses,
    falls_with_depth,
    information_of,
    layer_masses,
    normalise,
    query_rows,
)
from ada3d_ros.pruning.schedule import Curve, RetentionSchedule, exponential
from ada3d_ros.pruning.strategy import LayerPruner
from ada3d_ros.token_rows import TokenRows, rows_of
from ada3d_ros.types import PromptSequence, RgbdFrame, SpatialTokens
from test.support.decoders import attention_of, generator, policy_of
from test.support.slow_engine import layer_output, slow_prefill
from test.support.video3d import CELLS, SMALL_VIDEO3D, flat_frame, small_video3d, with_depth

LAYERS = 8
CONFIG = replace(
    SMALL_VIDEO3D, decoder=replace(SMALL_VIDEO3D.decoder, num_layers=LAYERS, eos_ids=())
)
SHAPE = DecoderShape.from_config(CONFIG.decoder)
SYSTEM = [3, 4, 5]
QUESTION = [6, 7, 8, 9, 10]
BUDGETS = (0.2, 0.3, 0.414, 0.6)
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("adatoken3d", {}),
    ("adatoken3d", {"adatoken3d__positions": "compact"}),
    ("fastv", {}),
    ("pdrop", {}),
    ("logistic", {}),
]
variants = pytest.mark.parametrize(("strategy", "flat"), VARIANTS)


@pytest.fixture(scope="module")
@torch.no_grad()
def model() -> Video3DLLM:
    """Random weights, but for one channel that marks newlines and the system text: the deeper a
    layer, the more its queries' bias asks for it, so that the information falls.
    """
    made, mark, slow = small_video3d(config=CONFIG), CONFIG.decoder.hidden_size - 1, 4
    assert isinstance(made.projector[2], torch.nn.Linear)
    embeds = made.decoder.embed_tokens.weight
    embeds[:, mark], embeds[SYSTEM, mark], made.newline[mark] = 0.0, 4.0, 4.0
    made.projector[2].weight[mark], made.projector[2].bias[mark] = 0.0, 0.0
    made.decoder.norm.weight.fill_(1.0)
    for depth, layer in enumerate(made.decoder.layers):
        layer.input_layernorm.weight.fill_(1.0)
        layer.post_attention_layernorm.weight.fill_(1.0)
        layer.self_attn.o_proj.weight[mark], layer.mlp.down_proj.weight[mark] = 0.0, 0.0
        for linear in (layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp.down_proj):
            linear.weight.mul_(0.3)
        layer.self_attn.k_proj.weight[:, mark] = 0.0
        layer.self_attn.k_proj.weight[slow, mark] = 1.0  # of the pair that rotates least
        layer.self_attn.q_proj.bias.unflatten(0, (5, -1))[:, slow] = 0.8 * depth
    return made


def views() -> list[RgbdFrame]:
    """Walls with holes: some cells of a row have no depth, some rows have none at all."""
    cell = np.minimum(np.arange(120) // 37.5, 2).astype(int)  # of 120 px, a cell has 30 of 96
    frames = []
    for number in range(6):
        holes = np.random.default_rng(number).random((CELLS, CELLS)) < 0.35
        depth_m = np.full((120, 160), 1.5 + 0.3 * number)
        depth_m[:, 20:140][holes[cell][:, cell]] = np.nan
        frames.append(with_depth(flat_frame(seed=number), depth_m))
    return frames


def scene_of(model: Video3DLLM, frames: Sequence[RgbdFrame]) -> SpatialTokens:
    prepared, table = model.prepare_views(frames, (0.0, 0.0, 0.0)), model.new_table()
    for name, part in enumerate(model.view_parts(model.encode_views(prepared.pixels), prepared)):
        table.add(name, part)
    return model.spatial_tokens(table)


def prompt_of(
    model: Video3DLLM, tokens: SpatialTokens, text: Sequence[int] = QUESTION
) -> PromptSequence:
    return model.build_prompt(
        [*SYSTEM, IMAGE_ID, *text], model.project(tokens.features), None, tokens.xyz_m
    )


@pytest.fixture(scope="module")
def prompt(model: Video3DLLM) -> PromptSequence:
    made = prompt_of(model, scene_of(model, views()))
    rows = rows_of(made)
    lengths = torch.bincount(rows.row[rows.placed], minlength=rows.num_rows)
    assert 20 < rows.num_placed < 54
    assert {1, 2, 3} <= set(lengths.tolist())  # rows of all lengths
    assert rows.num_newlines > 10
    return made


@pytest.fixture(scope="module")
def curve(model: Video3DLLM, prompt: PromptSequence) -> Curve:
    """The information of this model's layers."""
    I = information_of(measure_information(model.decoder, prompt, 1)).I
    assert falls_with_depth(I)
    return I


def pruner_of(
    prompt: PromptSequence, strategy: str, ratio: float = 0.5, **flat: Any
) -> LayerPruner:
    rows = rows_of(prompt)
    text = len(prompt.embeds) - rows.num_placed
    policy = policy_of(strategy, ratio, n_min=2, **flat)
    pruner = policy.pruner(SHAPE, rows.num_placed, rows.num_placed, text)
    assert pruner is not None
    return pruner


def values(masses: Masses) -> tuple[float, float, float]:
    return masses.S_self, masses.S_sp, masses.S_ss


# -- P1 to P5: information


def test_p1_p2_masses_of_every_layer_are_those_of_the_whole_matrix(
    model: Video3DLLM, prompt: PromptSequence
) -> None:
    """Newlines are read as the system text is, and do not ask."""
    (start, stop), rows = prompt.spatial_span, rows_of(prompt)
    placed = (start + rows.placed).tolist()
    others = [i for i in range(stop) if i not in placed]
    hidden = prompt.embeds.double()
    for layer, found in enumerate(measure_information(model.decoder, prompt, 1)):
        whole = attention_of(model.decoder, layer, hidden, prompt.positions)[0].mean(dim=0)
        expected = (
            whole[placed][:, placed].sum(dim=1).mean(),
            whole[stop:][:, placed].sum(dim=1).mean(),
            whole[placed][:, others].sum(dim=1).mean(),
        )
        assert values(found) == pytest.approx([float(value) for value in expected], abs=1e-5)
        assert found.S_self + found.S_ss == pytest.approx(1.0, abs=1e-5)
        hidden = layer_output(model.decoder, layer, hidden, prompt.positions)


@pytest.mark.parametrize("frames", [1, 20, 476])
def test_p3_information_is_finite_for_any_scene(frames: int) -> None:
    """Of frames with 14 rows of 14 and a newline each: up to 1e5 tokens."""
    made, spatial = generator(1), frames * 14 * 15
    total, span = spatial + 40, (20, 20 + spatial)
    rows = TokenRows.from_mask(torch.arange(spatial) % 15 == 14)
    q, k = torch.randn(5, total, 8, generator=made), torch.randn(1, total, 8, generator=made)
    index = query_rows(total, span, max(1, spatial // 40), None, rows)
    found = information_of([layer_masses(q[:, index], k, index, span, rows)] * 3)
    assert np.isfinite(found.INF).all()
    assert 0.0 < found.INF.max() < 10.0


def test_p4_neither_the_order_of_queries_nor_copied_heads_count(prompt: PromptSequence) -> None:
    made, span, rows = generator(2), prompt.spatial_span, rows_of(prompt)
    total = len(prompt.embeds)
    q, k = torch.randn(5, total, 10, generator=made), torch.randn(1, total, 10, generator=made)
    index = query_rows(total, span, 1, None, rows)
    once = values(layer_masses(q[:, index], k, index, span, rows))
    for seed in range(5):
        mixed = index[torch.randperm(len(index), generator=generator(seed))]
        assert values(layer_masses(q[:, mixed], k, mixed, span, rows)) == pytest.approx(
            once, abs=1e-6
        )
    twice = layer_masses(torch.cat((q, q))[:, index], torch.cat((k, k)), index, span, rows)
    assert values(twice) == pytest.approx(once, abs=1e-6)


def test_p5_information_spans_0_to_1_whatever_the_scale(
    model: Video3DLLM, prompt: PromptSequence
) -> None:
    found: Information = information_of(measure_information(model.decoder, prompt, 1))
    assert (found.I.min(), found.I.max()) == (0.0, 1.0)
    for factor, offset in ((0.1, -20.0), (7.0, 3.0)):
        assert np.abs(normalise(factor * found.INF + offset) - found.I).max() < 1e-6
    assert (normalise(np.full(LAYERS, found.INF[0])) == 0.0).all()


# -- P6 to P10: the fit, to this model's information


@pytest.mark.parametrize("budget", BUDGETS)
def test_p6_to_p9_the_fit_meets_its_budget_from_any_start(curve: Curve, budget: float) -> None:
    weights, found = FitSettings(), fit_mean(curve, budget)
    raw = exponential(LAYERS, found.alpha, found.beta, found.M)
    assert abs(raw.mean() - budget) < 1e-6  # P6
    ends = fit_endpoint(curve, budget)
    assert abs(ends.curve[0] - 1.0) < 1e-6
    assert abs(ends.curve[-1] - budget) < 1e-6
    for each in (found, ends):  # P7
        assert (np.diff(each.curve) <= 1e-12).all()
        assert weights.r_min - 1e-12 <= each.curve.min() <= each.curve.max() <= 1.0
    oracle = closed_form(curve, budget, weights)  # P8
    assert found.loss <= oracle.loss + 1e-5
    for start in ((0.5, 0.5, 0.4), (1.2, 2.0, -1.0), (0.8, 0.1236, 0.2), (1.1, 0.3, -0.5)):
        # P9: beside the solver's own starts, the best of which counts: eight layers have optima at
        # the bound alpha = .5 in which one start alone may end.
        limits = [lambda O: float(O.mean()) - budget]
        again = solve_slsqp(curve, weights, limits, Fit(*start, 0.0, found.curve))
        assert np.abs(again.curve - found.curve).max() < 1e-4


def test_p10_a_larger_budget_keeps_more_and_costs_more(curve: Curve) -> None:
    found = [fit_mean(curve, budget).curve for budget in BUDGETS]
    assert [each.mean() for each in found] == pytest.approx(BUDGETS, abs=1e-6)
    macs = [prefill_macs(SHAPE, list(1000 * each)) for each in found]
    assert all(b > a for a, b in itertools.pairwise(macs))


# -- P11 to P16: what is kept


def test_p12_a_budget_of_1_is_the_unpruned_model_bit_for_bit(
    model: Video3DLLM, prompt: PromptSequence
) -> None:
    ones, decoder = RetentionSchedule((1.0,) * LAYERS), model.decoder
    plain = prefill(decoder, prompt)
    tokens = decode(decoder, plain, GenerationRequest(6)).token_ids
    for pruner in (
        LayerPruner("adatoken3d", ones),
        LayerPruner("fastv", ones, rank_lag=1),
        LayerPruner("pdrop", ones, positions="compact"),
    ):
        filled = prefill(decoder, prompt, pruner=pruner)
        assert torch.equal(filled.logits, plain.logits)
        assert filled.counts == plain.counts
        assert decode(decoder, filled, GenerationRequest(6)).token_ids == tokens


@variants
def test_p15_the_published_methods_as_written_out(
    strategy: str, flat: dict[str, Any], model: Video3DLLM, prompt: PromptSequence
) -> None:
    """FastV's one drop by the layer before, PyramidDrop's stages by the next layer's own queries
    and keys, AdaToken-3D's curve; newlines go with their rows. P11, P13, P16.
    """
    pruner, rows = pruner_of(prompt, strategy, **flat), rows_of(prompt)
    fast = prefill(model.decoder, prompt, pruner=pruner)
    newlines = torch.nonzero(rows.is_newline)[:, 0].tolist()
    slow = slow_prefill(
        model.decoder, prompt.embeds, prompt.spatial_span, pruner, newlines=newlines
    )
    assert [stage.tolist() for stage in fast.kept] == slow.kept
    assert (fast.logits.double() - slow.logits[-1]).abs().max() < 1e-4
    placed = [int((~rows.is_newline[stage]).sum()) for stage in fast.kept]
    assert placed[0] == rows.num_placed
    assert sorted(placed, reverse=True) == placed
    assert placed[-1] < rows.num_placed
    text = len(prompt.embeds) - rows.count
    generated = decode(model.decoder, fast, GenerationRequest(4)).token_ids
    lengths = fast.cache.lengths
    assert lengths == tuple(text + len(stage) + len(generated) - 1 for stage in fast.kept)


def test_p15_adatoken3d_with_stages_is_pyramid_drop(
    model: Video3DLLM, prompt: PromptSequence
) -> None:
    layers, ratios = "2,4,6", "0.7,0.4,0.2"
    theirs = policy_of("pdrop", n_min=1, pdrop__layers=layers, pdrop__ratios=ratios)
    ours = policy_of(
        "adatoken3d",
        n_min=1,
        adatoken3d__schedule="stages",
        adatoken3d__stage_layers=layers,
        adatoken3d__stage_ratios=ratios,
        adatoken3d__budget__mode="parameters",
        adatoken3d__positions="compact",
    )
    total = rows_of(prompt).num_placed
    a, b = (
        prefill(model.decoder, prompt, pruner=policy.pruner(SHAPE, total, total))
        for policy in (theirs, ours)
    )
    assert torch.equal(a.logits, b.logits)
    assert all(map(torch.equal, a.kept, b.kept))
    assert len(a.kept[-1]) < len(a.kept[2]) < len(a.kept[0])


# -- P17: cost


def test_p17_cost_of_the_7b() -> None:
    """28 layers of 3584, keys of 512, three matrices of 18944: by hand; 56 KiB of keys a token."""
    shape, n = DecoderShape.from_config(QWEN2_7B), 20 * 14 * 15
    d, kv, m = 3584, 512, 18944
    layer = n * (2 * d * d + 2 * d * kv + 3 * d * m) + 2 * n * n * d
    macs = prefill_macs(shape, [n] * 28, square=True, with_head=False)
    assert macs == 28 * layer
    assert kv_bytes(shape, [1] * 28, 2) == 56 * 1024
    assert Video3DConfig().max_spatial_tokens(20) == n
    pruned = n * exponential(28, 0.8, 0.1236, 0.2)
    by_hand = sum(float(c * (2 * d * d + 2 * d * kv + 3 * d * m) + 2 * c * c * d) for c in pruned)
    assert prefill_macs(shape, list(pruned), square=True, with_head=False) == pytest.approx(by_hand)


def test_p17_macs_are_those_of_the_decoders_own_products(model: Video3DLLM) -> None:
    total, decoder = 24, model.decoder
    hidden = torch.randn(1, total, CONFIG.decoder.hidden_size)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        out = decoder.run_layers(0, LAYERS, hidden, torch.arange(total))
        decoder.logits(out[0, -1:])
    assert counter.get_total_flops() == 2 * prefill_macs(SHAPE, [total] * LAYERS, square=True)


# -- P18 to P21


@variants
def test_p19_no_prompt_token_after_the_scene_is_an_error(
    strategy: str, flat: dict[str, Any], model: Video3DLLM, prompt: PromptSequence
) -> None:
    """Not the row of index -1, which is a newline."""
    bare = prompt_of(model, scene_of(model, views()), text=())
    with pytest.raises(InvalidRequestError, match="no prompt token follows the spatial tokens"):
        prefill(model.decoder, bare, pruner=pruner_of(prompt, strategy, **flat))


@variants
def test_p18_p20_any_number_of_views_is_pruned_alike_every_time(
    strategy: str, flat: dict[str, Any], model: Video3DLLM
) -> None:
    """No cap: 20 views have all their tokens, whatever the global random state."""
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        tokens = scene_of(model, [flat_frame(seed=number) for number in range(20)])
        assert len(tokens.features) == CONFIG.max_spatial_tokens(20)
        long = prompt_of(model, tokens)
        found.append(prefill(model.decoder, long, pruner=pruner_of(long, strategy, **flat)))
    assert torch.equal(found[0].logits, found[1].logits)
    assert all(map(torch.equal, found[0].kept, found[1].kept))
    assert len(found[0].kept[-1]) < len(found[0].kept[0])


@variants
def test_p21_reused_keys_give_the_same_keeps_as_recomputed_ones(
    strategy: str,
    flat: dict[str, Any],
    model: Video3DLLM,
    prompt: PromptSequence,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder, pruner = model.decoder, pruner_of(prompt, strategy, **flat)
    reused = prefill(decoder, prompt, pruner=pruner)
    run_layer, handed = decoder.run_layer, list[bool]()

    def forgetful(*args: Any) -> torch.Tensor:
        handed.append(args[4] is not None)
        return run_layer(*args[:4])

    monkeypatch.setattr(decoder, "run_layer", forgetful)
    anew = prefill(decoder, prompt, pruner=pruner)
    assert any(handed)  # keys were there to be reused
    assert all(map(torch.equal, reused.kept, anew.kept))
    bound = 1e-6 * max(1.0, float(anew.logits.abs().max()))
    assert (reused.logits - anew.logits).abs().max() < bound
