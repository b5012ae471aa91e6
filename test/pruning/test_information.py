"""Attention masses and information contribution (P1 to P5), against whole matrices in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ada3d_ros.engine.information import measure_information
from ada3d_ros.errors import InvalidRequestError, ModelError
from ada3d_ros.pruning import information
from ada3d_ros.pruning.information import (
    InformationSettings,
    Masses,
    attention_masses,
    falls_with_depth,
    information_of,
    layer_masses,
    mean_masses,
    normalise,
    query_rows,
    range_masses,
)
from ada3d_ros.types import PromptSequence
from test.support.decoders import (
    generator,
    make_decoder,
    make_prompt,
    planted_decoder,
    planted_prompt,
    study_masses,
)

SETTINGS = settings(deadline=None, derandomize=True, max_examples=40)
Sizes = tuple[int, int, int, int, int, int]


@st.composite
def prompts(draw: st.DrawFn) -> Sizes:
    """system, spatial and prompt tokens, heads per group, groups, seed."""
    return (
        draw(st.integers(1, 6)),
        draw(st.integers(1, 30)),
        draw(st.integers(1, 6)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 2)),
        draw(st.integers(0, 10_000)),
    )


def queries_and_keys(
    sizes: Sizes, scale: float = 1.5
) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    """q (H, T, d), k (G, T, d) and the spatial span."""
    system, spatial, text, per_group, groups, seed = sizes
    total, made = system + spatial + text, generator(seed)
    q = scale * torch.randn(groups * per_group, total, 8, generator=made)
    return q, torch.randn(groups, total, 8, generator=made), (system, system + spatial)


def full_attention(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """(H, T, T) float64, written out: head by head, row by row."""
    heads, total, width = q.shape
    group = heads // k.shape[0]
    attention = torch.zeros(heads, total, total, dtype=torch.float64)
    for head in range(heads):
        for row in range(total):
            logits = k[head // group, : row + 1].double() @ q[head, row].double() / math.sqrt(width)
            weights = torch.exp(logits - logits.max())
            attention[head, row, : row + 1] = weights / weights.sum()
    return attention


def masses_by_hand(attention: torch.Tensor, span: tuple[int, int]) -> Masses:
    """Eqs. 1 and 3 as sums over pairs of tokens."""
    start, stop = span
    mean = attention.mean(dim=0).tolist()
    total = len(mean)
    S_self = sum(mean[q][k] for q in range(start, stop) for k in range(start, q + 1)) / (
        stop - start
    )
    S_sp = sum(mean[q][k] for q in range(stop, total) for k in range(start, stop)) / (total - stop)
    S_ss = sum(mean[q][k] for q in range(start, stop) for k in range(start)) / (stop - start)
    return Masses(S_self, S_sp, S_ss)


def as_tuple(masses: Masses) -> tuple[float, float, float]:
    return masses.S_self, masses.S_sp, masses.S_ss


# -- P1 to P4: masses


@SETTINGS
@given(prompts())
def test_p1_spatial_queries_see_only_system_and_spatial_tokens(sizes: Sizes) -> None:
    """P1: S_self + S_ss = 1 within 1e-5 for any causal attention; all masses lie in 0..1."""
    q, k, span = queries_and_keys(sizes)
    found = layer_masses(q[:, span[0] :], k, torch.arange(span[0], q.shape[1]), span)
    assert found.S_self + found.S_ss == pytest.approx(1.0, abs=1e-5)
    assert all(-1e-6 <= value <= 1 + 1e-6 for value in as_tuple(found))


@SETTINGS
@given(prompts(), st.integers(1, 64))
def test_p2_blockwise_masses_equal_those_of_the_whole_matrix(sizes: Sizes, block: int) -> None:
    """P2: masses from log-sum-exps, however few queries at a time, equal full attention.

    In float64 within 1e-6.
    """
    q, k, span = queries_and_keys(sizes)
    expected = masses_by_hand(full_attention(q, k), span)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(information, "BLOCK_ELEMENTS", block * q.shape[0] * q.shape[1])
        found = layer_masses(q[:, span[0] :], k, torch.arange(span[0], q.shape[1]), span)
    assert as_tuple(found) == pytest.approx(as_tuple(expected), abs=1e-6)
    assert as_tuple(attention_masses(full_attention(q, k), span)) == pytest.approx(
        as_tuple(expected), abs=1e-12
    )


def test_p2_a_stride_takes_a_subset_of_the_spatial_queries() -> None:
    """P2: with stride s spatial masses are means over every s-th query, the prompt's over all."""
    q, k, span = queries_and_keys((4, 47, 6, 2, 2, 0))
    rows = query_rows(q.shape[1], span, 10)
    # From the middle of the first stride on.
    assert rows.tolist() == [*range(8, 49, 10), *range(51, 57)]
    attention = full_attention(q, k).mean(dim=0)
    found = layer_masses(q[:, rows], k, rows, span)
    assert found.S_self == pytest.approx(
        float(attention[rows[:5], 4:51].sum(dim=1).mean()), abs=1e-6
    )
    assert found.S_sp == pytest.approx(float(attention[51:, 4:51].sum(dim=1).mean()), abs=1e-6)


def test_p2_large_scores_do_not_overflow() -> None:
    """P2: logits of some thousands, as an untrained or overflowing layer has them.

    float32 holds those to about 5e-4.
    """
    q, k, span = queries_and_keys((2, 20, 3, 1, 1, 5), scale=3000.0)
    found = layer_masses(q[:, span[0] :], k, torch.arange(span[0], q.shape[1]), span)
    assert as_tuple(found) == pytest.approx(
        as_tuple(masses_by_hand(full_attention(q, k), span)), abs=5e-4
    )


@pytest.mark.parametrize("spatial", [10, 1000, 100_000])
def test_p3_information_is_finite_for_any_scene(spatial: int) -> None:
    """P3: means, not sums: with N up to 1e5 INF stays of order 1.

    The sum would be exp of hundreds.
    """
    made = generator(1)
    total = spatial + 40
    q, k = torch.randn(2, total, 8, generator=made), torch.randn(1, total, 8, generator=made)
    rows = query_rows(total, (20, 20 + spatial), max(1, spatial // 50))
    found = information_of([layer_masses(q[:, rows], k, rows, (20, 20 + spatial))] * 3)
    assert np.isfinite(found.INF).all()
    assert 0.0 < found.INF.max() < 10.0


@SETTINGS
@given(prompts(), st.randoms(use_true_random=False))
def test_p4_the_order_of_queries_does_not_matter(sizes: Sizes, random: object) -> None:
    """P4: permuting queries (with their rows) inside a block leaves the masses unchanged."""
    q, k, span = queries_and_keys(sizes)
    rows = torch.arange(span[0], q.shape[1])
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    expected = layer_masses(q[:, rows], k, rows, span)
    found = layer_masses(q[:, rows[order]], k, rows[order], span)
    assert as_tuple(found) == pytest.approx(as_tuple(expected), abs=1e-6)


@SETTINGS
@given(prompts())
def test_p4_heads_that_copy_others_change_nothing(sizes: Sizes) -> None:
    """P4: the head mean of doubled heads is the head mean."""
    q, k, span = queries_and_keys(sizes)
    rows = torch.arange(span[0], q.shape[1])
    once = layer_masses(q[:, rows], k, rows, span)
    twice = layer_masses(torch.cat((q, q))[:, rows], torch.cat((k, k)), rows, span)
    assert as_tuple(twice) == pytest.approx(as_tuple(once), abs=1e-6)


def test_ranges_cover_every_key_or_none() -> None:
    q, k, (start, stop) = queries_and_keys((3, 9, 4, 2, 1, 7))
    rows = torch.arange(start, stop)
    found = range_masses(q[:, rows], k, rows, {"a": (0, 5), "b": (5, stop), "none": (4, 4)})
    assert torch.allclose(found["a"] + found["b"], torch.ones(9), atol=1e-6)
    assert (found["none"] == 0).all()


# -- P5, eqs. 2 to 4 and 6

values = st.lists(st.floats(-50.0, 50.0), min_size=2, max_size=40)


@SETTINGS
@given(values, st.floats(0.1, 10.0), st.floats(-20.0, 20.0))
def test_p5_normalised_information_spans_0_to_1_whatever_the_scale(
    INF: list[float], factor: float, offset: float
) -> None:
    """P5: I in [0, 1], both ends attained unless INF is constant.

    Affine changes of INF leave I unchanged.
    """
    I = normalise(np.array(INF))
    assert I.min() >= 0.0
    assert I.max() <= 1.0
    if np.ptp(INF) > 1e-6:
        assert (I.min(), I.max()) == (0.0, 1.0)
        assert np.abs(normalise(factor * np.array(INF) + offset) - I).max() < 1e-6
    elif np.ptp(INF) == 0.0:
        assert (I == 0.0).all()


def test_p5_a_constant_curve_has_no_information_anywhere() -> None:
    """P5: 0 / 0 is 0, also where rounding moves the last bit."""
    for curve in (np.full(8, 2.5), 2.5 + 1e-14 * np.arange(8), np.zeros(8)):
        assert (normalise(curve) == 0.0).all()
        assert not falls_with_depth(normalise(curve))


def test_equations_by_hand() -> None:
    """Eqs. 2, 3, 4 on two layers, every weight another number; F(1) = S_self(1)."""
    weights = InformationSettings(a1=0.2, a2=0.5, sigma=0.6, gamma=0.3, eps=2.0, alpha_f=1.5)
    found = information_of([Masses(0.7, 0.4, 0.3), Masses(0.5, 0.1, 0.5)], weights)
    F = (0.7, 0.6 * 0.5 + 0.3 * 0.7)
    cross = (0.2 * 0.4 + 0.5 * 0.3, 0.2 * 0.1 + 0.5 * 0.5)
    INF = [
        math.exp(c / 2.0) + 1.5 * f + math.log(1 + s)
        for c, f, s in zip(cross, F, (0.7, 0.5), strict=True)
    ]
    assert found.F.tolist() == pytest.approx(F)
    assert found.S_cross.tolist() == pytest.approx(cross)
    assert found.INF.tolist() == pytest.approx(INF)
    assert found.I.tolist() == [1.0, 0.0]


def test_the_studys_worked_example() -> None:
    """Section 7: INF and I of masses that fall as in the paper's figure 2B."""
    masses = study_masses()
    assert as_tuple(masses[0]) == pytest.approx((0.70, 0.38, 0.30), abs=0.006)
    assert as_tuple(masses[-1]) == pytest.approx((0.17, 0.085, 0.83), abs=0.009)
    found = information_of(masses)
    assert found.INF[[0, 7, 15, 31]].tolist() == pytest.approx(
        [2.613, 2.381, 2.241, 2.156], abs=5e-4
    )
    I = found.I[[0, 3, 7, 11, 15, 19, 23, 27, 31]].tolist()
    assert pytest.approx([1, 0.758, 0.492, 0.311, 0.185, 0.101, 0.047, 0.016, 0], abs=5e-4) == I
    assert falls_with_depth(found.I)


def test_a_running_sum_rises_on_the_same_masses() -> None:
    """The authors' gamma = 1 makes INF rise all the way on masses that fall.

    To over three times as much.
    """
    found = information_of(study_masses(), InformationSettings(gamma=1.0))
    assert (np.diff(found.INF) > 0).all()
    assert found.INF[-1] > 3 * found.INF[0]
    assert not falls_with_depth(found.I)


def test_mean_masses() -> None:
    found = mean_masses([[Masses(0.2, 0.4, 0.8)], [Masses(0.4, 0.0, 0.6)]])
    assert as_tuple(found[0]) == pytest.approx((0.3, 0.2, 0.7))


# -- measured on a decoder


@pytest.mark.parametrize("stride", [1, 7])
def test_measured_masses_are_those_of_the_layers_own_attention(stride: int) -> None:
    """Every layer's attention written out from its own inputs."""
    decoder, prompt = make_decoder(num_layers=4), make_prompt(30)
    total, hidden = prompt.embeds.shape[0], prompt.embeds[None]
    rows = query_rows(total, prompt.spatial_span, stride)
    spatial, text = rows[rows < 33], rows[rows >= 33]
    for layer, found in enumerate(measure_information(decoder, prompt, stride)):
        start = decoder.layer_inputs(layer, hidden)
        q, _, made = decoder.ranking_inputs(
            layer, start, decoder.rope(prompt.positions), torch.arange(total)
        )
        attention = full_attention(q[0], made.k[0]).mean(dim=0)
        assert found.S_self == pytest.approx(
            float(attention[spatial, 3:33].sum(dim=1).mean()), abs=1e-6
        )
        assert found.S_ss == pytest.approx(
            float(attention[spatial, :3].sum(dim=1).mean()), abs=1e-6
        )
        assert found.S_sp == pytest.approx(float(attention[text, 3:33].sum(dim=1).mean()), abs=1e-6)
        hidden = decoder.run_layers(layer, layer + 1, hidden, prompt.positions)


def test_even_attention_has_masses_known_in_closed_form() -> None:
    """No query means anything: each of the T tokens a row sees gets 1 / T."""
    decoder, prompt = planted_decoder(3, plant=0.0), planted_prompt(20, [], system=4, text=2)
    for found in measure_information(decoder, prompt):
        assert found.S_ss == pytest.approx(
            np.mean([4 / (row + 1) for row in range(4, 24)]), abs=1e-6
        )
        assert found.S_sp == pytest.approx(np.mean([20 / 25, 20 / 26]), abs=1e-6)


def test_no_scene_or_no_text_behind_it_is_an_error() -> None:
    decoder, embeds = make_decoder(2), torch.randn(10, 32)
    for span, text in (
        ((3, 3), "0 spatial tokens and 7 behind"),
        ((3, 10), "7 spatial tokens and 0 behind"),
    ):
        with pytest.raises(InvalidRequestError, match=text):
            measure_information(decoder, PromptSequence(embeds, torch.arange(10), span))


@pytest.mark.parametrize("layer", [0, 2])
def test_weights_that_are_not_finite(layer: int) -> None:
    decoder = make_decoder(4)
    decoder.layers[layer].self_attn.q_proj.weight[3, 3] = float("nan")
    with pytest.raises(
        ModelError, match=rf"attention of layer {layer + 1} is not finite.*model\.precision"
    ):
        measure_information(decoder, make_prompt())
