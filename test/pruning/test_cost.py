"""Costs: the published numbers (P17), formulas by hand, and the shares that an answer reports."""

import math

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ada3d_ros.engine.prefill import prefill
from ada3d_ros.model.config import DecoderConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.cost import (
    LLAMA_7B,
    DecoderShape,
    cost_of,
    decode_macs,
    kv_bytes,
    prefill_macs,
    ranking_macs,
)
from ada3d_ros.pruning.fit import fit_mean
from ada3d_ros.pruning.information import information_of
from ada3d_ros.pruning.schedule import exponential, quadratic, stages
from ada3d_ros.types import PromptSequence
from test.support.decoders import SHAPE, make_decoder, policy_of, study_masses

PDROP = stages(32, (8, 16, 24), (0.5, 0.25, 0.125))


def published(tokens: object) -> float:
    """The papers' convention: MACs called FLOPs, spatial tokens alone, whole squares, no head."""
    counts = list(np.asarray(tokens, dtype=float))
    return prefill_macs(LLAMA_7B, counts, square=True, with_head=False) / 1e12


# -- P17


def test_p17_the_unpruned_model() -> None:
    """P17: 11.465e12 for 1659 tokens, 3.817e12 for 576."""
    assert published([1659] * 32) == pytest.approx(11.465, abs=5e-4)
    assert published([576] * 32) == pytest.approx(3.817, abs=5e-4)


def test_p17_the_papers_default_curve() -> None:
    """P17: alpha .8, beta .1236, M .2 cost 4.57e12 at N = 1659.

    So do the two other convex curves of the study.
    """
    assert published(1659 * exponential(32, 0.8, 0.1236, 0.2)) == pytest.approx(4.57, abs=5e-3)
    i = np.arange(32)
    for last, beta in ((0.1, 0.0668), (0.2, 0.1124)):
        alpha = (1 - last) / (1 - np.exp(-beta * 31))
        curve = alpha * np.exp(-beta * i) + 1 - alpha
        assert published(1659 * curve) == pytest.approx(4.57, abs=1e-2)


def test_p17_pyramid_drop() -> None:
    """P17: 5.273e12 at 1659 tokens, 5.230e12 at 1646, 1.777e12 at 576.

    Mean retention .4685, floors counted.
    """
    for total, expected in ((1659, 5.273), (1646, 5.230), (576, 1.777)):
        assert published(np.floor(total * PDROP)) == pytest.approx(expected, abs=1e-3)
    assert np.floor(1659 * PDROP).mean() / 1659 == pytest.approx(0.4685, abs=1e-4)


def test_p17_the_papers_figure_contradicts_its_flops() -> None:
    """P17: the concave figure costs 7.87e12, not 4.57e12."""
    assert published(1659 * quadratic(32, 0.1)) == pytest.approx(7.87, abs=0.03)


# -- formulas


def test_prefill_macs_against_a_count_of_the_decoders_own_products() -> None:
    """What torch counts while the decoder runs; attention written out is the whole square.

    FLOP = 2 MAC.
    """
    decoder, total = make_decoder(num_kv_heads=4), 24
    hidden = torch.randn(1, total, 32)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        out = decoder.run_layers(0, 8, hidden, torch.arange(total))
        decoder.logits(out[0, -1:])
    shape = DecoderShape(8, 32, 32, 64, 97)
    assert counter.get_total_flops() == 2 * prefill_macs(shape, [total] * 8, square=True)


def test_causal_attention_counts_the_scores_that_are_needed() -> None:
    """n (n + 1) / 2 scores, each d MACs for q k and d for the values."""
    n, d = 7, SHAPE.hidden_size
    needed = sum(range(1, n + 1)) * 2 * d
    assert prefill_macs(SHAPE, [n], with_head=False) == n * SHAPE.linear_macs + needed
    assert SHAPE.linear_macs == 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
    assert prefill_macs(SHAPE, [n]) - prefill_macs(SHAPE, [n], with_head=False) == 32 * 97


def test_decode_and_kv_by_hand() -> None:
    assert decode_macs(SHAPE, [10, 4]) == 2 * SHAPE.linear_macs + 2 * 32 * 14 + 32 * 97
    assert kv_bytes(SHAPE, [10, 4], 2) == 2 * 16 * 2 * 14
    assert kv_bytes(LLAMA_7B, [1] * 32, 2) == 512 * 1024  # per token of the 7B model
    assert kv_bytes(LLAMA_7B, [1720] * 32, 2) / 1e6 == pytest.approx(902, abs=1)


def test_ranking_costs_only_where_tokens_go() -> None:
    d, kv = 32, 16
    assert ranking_macs(SHAPE, [10] * 8, 5) == 0
    query = d * d + 15 * d  # one query, its scores over 15 keys
    assert ranking_macs(SHAPE, [10, 10, 6, 6], 5) == 4 * d * kv + query  # keys of four that go
    assert ranking_macs(SHAPE, [10, 10, 6, 6], 5, rank_lag=1) == query
    two_drops = 7 * d * kv + 3 * (2 * d * d + (15 + 11) * d)
    assert ranking_macs(SHAPE, [10, 6, 3], 5, queries=3) == two_drops


def test_ranking_with_reused_keys_is_cheap_at_every_layer() -> None:
    """The study: +0.5 % of the prefill where every layer prunes, with keys reused."""
    spatial = [int(1659 * share) for share in exponential(32, 0.8, 0.1236, 0.2)]
    share = ranking_macs(LLAMA_7B, spatial, 61) / prefill_macs(LLAMA_7B, [n + 61 for n in spatial])
    assert share == pytest.approx(0.005, abs=1.5e-3)


@pytest.mark.parametrize(
    ("spatial", "flops"),
    [
        (np.full(32, 1659), 23.8),
        (np.floor(1659 * PDROP), 11.4),
        (1659 * fit_mean(information_of(study_masses()).I, 0.414).curve, 10.1),
        (np.r_[np.full(2, 1659), np.full(30, 415)], 7.4),  # FastV, K = 2, R = 75 %
        (np.full(32, 128), 2.5),
    ],
)
def test_true_flops_of_the_studys_prompt(spatial: np.ndarray, flops: float) -> None:
    """37 + N + 24 tokens on the 7B model, in TFLOP; whole squares, as the study counts them."""
    assert 2 * prefill_macs(LLAMA_7B, list(spatial + 61), square=True) / 1e12 == pytest.approx(
        flops, abs=0.06
    )


def test_cost_of_a_pruned_prompt() -> None:
    """Counts in, shares out: against the formulas, beside the same prompt unpruned."""
    spatial = [int(1659 * share) for share in PDROP]
    rank_macs, tokens = ranking_macs(LLAMA_7B, spatial, 61), [n + 61 for n in spatial]
    pdrop = cost_of(LLAMA_7B, spatial, 61, 2, rank_macs=rank_macs)
    assert pdrop.prefill_flops == 2 * prefill_macs(LLAMA_7B, tokens)
    assert pdrop.unpruned_prefill_flops == 2 * prefill_macs(LLAMA_7B, [1720] * 32)
    assert pdrop.rank_flops == 2 * ranking_macs(LLAMA_7B, spatial, 61)
    assert pdrop.decode_flops == 2 * decode_macs(LLAMA_7B, [n + 1 for n in tokens])
    assert (pdrop.kv_bytes, pdrop.unpruned_kv_bytes) == tuple(
        kv_bytes(LLAMA_7B, n, 2) for n in (tokens, [1720] * 32)
    )
    few = cost_of(LLAMA_7B, [128] * 32, 61, 2, num_before_selection=1659)
    assert few.unpruned_prefill_flops == pdrop.unpruned_prefill_flops
    assert few.rank_flops == 0.0


def test_unpruned_costs_equal_pruned_costs_where_nothing_goes() -> None:
    cost = cost_of(SHAPE, [40] * 8, 5, 4)
    assert cost.prefill_flops == cost.unpruned_prefill_flops
    assert cost.decode_flops == cost.unpruned_decode_flops
    assert cost.kv_bytes == cost.unpruned_kv_bytes


@pytest.mark.parametrize("strategy", ["none", "adatoken3d", "pdrop", "fastv"])
def test_the_cost_model_counts_what_torch_counts(strategy: str) -> None:
    """torch.utils.flop_counter on a real prefill: products as they ran, SDPA as the whole square.

    Ranking is the difference: its queries, the scores, and the keys of tokens that go.
    """
    torch.manual_seed(0)
    # No grouped heads: torch counts them as if repeated.
    config = DecoderConfig(97, 64, 176, 8, 4, 4, eos_ids=())
    decoder = LlamaDecoder(config).requires_grad_(False).eval()
    n, text = 60, 12
    prompt = PromptSequence(torch.randn(n + text, 64), torch.arange(n + text), (5, 5 + n))
    shape = DecoderShape.from_config(config)
    pruner = policy_of(strategy, 0.6 if strategy != "none" else math.nan, n_min=1).pruner(
        shape, n, n, text
    )
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        counts = prefill(decoder, prompt, pruner=pruner).counts
    expected = 2 * prefill_macs(shape, [c + text for c in counts], square=True)
    if pruner is not None:
        expected += 2 * ranking_macs(shape, counts, text, pruner.rank_lag)
    assert counter.get_total_flops() == expected
