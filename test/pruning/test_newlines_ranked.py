"""What is measured and ranked where some spatial tokens have no place: information, rankings,
coverage, budgets.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ada3d_ros.engine.information import measure_information
from ada3d_ros.pruning.baselines.logistic import mutual_information
from ada3d_ros.pruning.information import information_of, layer_masses, query_rows
from ada3d_ros.pruning.ranking import (
    PruneContext,
    cell_coverage,
    position_bias,
    random_scores,
    rank_scores,
)
from ada3d_ros.pruning.scene_ranking import SceneLayer
from ada3d_ros.pruning.scene_rivals import SelfAttentionRanking
from ada3d_ros.token_rows import TokenRows
from test.support.decoders import attention_of, generator, make_decoder, policy_of
from test.support.newlines import Grid, grid_prompt, without_newlines
from test.support.prefixes import SYSTEM, TEXT

SETTINGS = settings(deadline=None, derandomize=True, max_examples=40)
SIZES = st.lists(st.integers(0, 6), min_size=1, max_size=6).filter(any)
GRID = Grid.of((3, 0, 5, 1, 0, 6))


def rows(grid: Grid) -> TokenRows:
    mask = torch.zeros(grid.total, dtype=torch.bool)
    mask[list(grid.newlines)] = True
    return TokenRows.from_mask(mask)


def attention(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """(T, T) float64, mean over heads, causal; q (H, T, d), k (G, T, d)."""
    heads, total, width = q.shape
    keys = k.double().repeat_interleave(heads // k.shape[0], dim=0)
    logits = q.double() @ keys.transpose(1, 2) / math.sqrt(width)
    future = torch.ones(total, total, dtype=torch.bool).triu(1)
    return torch.softmax(logits.masked_fill(future, -math.inf), dim=-1).mean(dim=0)


# -- information


@SETTINGS
@given(SIZES, st.integers(0, 3), st.integers(1, 5), st.integers(0, 10_000))
def test_p1_p2_newlines_count_with_the_system_text_and_do_not_ask(
    sizes: list[int], tail: int, stride: int, seed: int
) -> None:
    """S_self + S_ss = 1 still, and each mass is that of the whole matrix."""
    grid, made = Grid.of(sizes, tail), generator(seed)
    start, total = 2, 2 + grid.total + 3
    q, k = (torch.randn(n, total, 8, generator=made) for n in (4, 2))
    span, among = (start, start + grid.total), rows(grid)
    index = query_rows(total, span, stride, None, among)
    first = min((stride - 1) // 2, len(grid.placed) - 1)
    asking = [start + i for i in grid.placed[first::stride]]
    assert index.tolist() == [*asking, *range(span[1], total)]
    found = layer_masses(q[:, index], k, index, span, among)
    whole, placed = attention(q, k), [start + i for i in grid.placed]
    others = [i for i in range(span[1]) if i not in placed]
    expected = (
        whole[asking][:, placed].sum(dim=1).mean(),
        whole[span[1] :][:, placed].sum(dim=1).mean(),
        whole[asking][:, others].sum(dim=1).mean(),
    )
    masses = (found.S_self, found.S_sp, found.S_ss)
    assert masses == pytest.approx([float(value) for value in expected], abs=1e-6)
    assert found.S_self + found.S_ss == pytest.approx(1.0, abs=1e-5)


def test_information_of_a_prompt_with_newlines() -> None:
    """Layer by layer on a decoder's own attention; without newlines it is another number."""
    decoder, prompt = make_decoder(), grid_prompt(GRID)
    found = measure_information(decoder, prompt, 1)
    first, _ = attention_of(decoder, 0, prompt.embeds.double(), prompt.positions)
    placed = [SYSTEM + i for i in GRID.placed]
    whole = first.mean(dim=0)
    assert found[0].S_self == pytest.approx(
        float(whole[placed][:, placed].sum(dim=1).mean()), abs=1e-5
    )
    assert found[0].S_sp == pytest.approx(
        float(whole[SYSTEM + GRID.total :][:, placed].sum(dim=1).mean()), abs=1e-5
    )
    assert np.isfinite(information_of(found).I).all()
    bare = measure_information(decoder, without_newlines(prompt, GRID), 1)
    assert bare[0].S_self > found[0].S_self


# -- rankings


def contexts(seed: int, grid: Grid = GRID) -> tuple[PruneContext, PruneContext]:
    """One that ranks the tokens with a place, and the same that ranks all."""
    made, total = generator(seed), SYSTEM + grid.total + TEXT
    q = 2.0 * torch.randn(4, TEXT, 8, generator=made)
    k = torch.randn(2, total, 8, generator=made)
    index, places = torch.arange(total - TEXT, total), grid.places()
    span = SYSTEM, SYSTEM + grid.total
    every = PruneContext(
        1, q, q, k, k, index, torch.arange(total), span, torch.arange(grid.total), places
    )
    placed = torch.tensor(grid.placed)
    return (
        dataclasses.replace(every, kept=placed, xyz_m=places[placed], candidates=placed),
        every,
    )


@pytest.mark.parametrize("score", ["softmax_mean", "logit_mean", "head_max"])
@pytest.mark.parametrize("query", ["last", "all"])
def test_candidates_score_as_the_layer_attends_to_them(score: str, query: str) -> None:
    """Newlines are keys, as the text is: the softmax is the layer's own."""
    few, every = contexts(4)
    found = rank_scores(few, score, query)
    assert torch.equal(found, rank_scores(every, score, query)[GRID.placed])


def test_random_numbers_are_those_of_as_many_candidates() -> None:
    few, _ = contexts(1)
    bare, _ = contexts(1, Grid.of((), tail=len(GRID.placed)))
    assert torch.equal(random_scores(few, 5), random_scores(bare, 5))


def test_mutual_information_is_of_the_candidates() -> None:
    few, _ = contexts(2)
    block = torch.softmax(few.logits().double(), dim=-1)[..., SYSTEM : SYSTEM + GRID.total]
    joint = block.mean(dim=0)[:, GRID.placed]
    joint = joint / joint.sum()
    apart = joint.sum(dim=1, keepdim=True) * joint.sum(dim=0, keepdim=True)
    expected = float((joint * (joint / apart).log()).sum()) / math.log(min(joint.shape))
    assert float(mutual_information(few)) == pytest.approx(expected, abs=1e-5)


@SETTINGS
@given(SIZES, st.integers(0, 3), st.integers(0, 10_000))
def test_attention_among_tokens_is_of_those_with_a_place(
    sizes: list[int], tail: int, seed: int
) -> None:
    """`self_attention`: what newlines attend to does not count, nor do they as those who see."""
    grid, made, start = Grid.of(sizes, tail), generator(seed), 3
    total = start + grid.total
    queries = torch.randn(4, total, 8, generator=made)
    keys = torch.randn(2, total, 8, generator=made)
    placed = torch.tensor(grid.placed)
    layer = SceneLayer(
        1,
        keys,
        (start, total),
        torch.arange(len(placed)),
        None,
        None,
        lambda vectors: vectors,
        lambda: queries,
        lambda: keys,
        placed,
    )
    whole, expected = attention(queries, keys), []
    for token in grid.placed:
        asking = [i for i in grid.placed if i >= token]
        shares = [float(whole[start + i, start + token]) * (start + i + 1) for i in asking]
        expected.append(sum(shares) / len(asking))
    found = SelfAttentionRanking().scores(layer)
    assert found.tolist() == pytest.approx(expected, rel=1e-4)


# -- what is left, and budgets


def test_coverage_and_bias_are_of_tokens_with_a_place() -> None:
    grid = Grid.of((4, 4))
    places = grid.places()
    placed = places[grid.placed]
    every = torch.arange(grid.total)
    assert cell_coverage(places, every) == 1.0
    assert position_bias(places, every) == 0.5
    for kept in ([0, 4], [1, 2, 4, 7, 9], [4]):
        numbers = torch.tensor([grid.placed.index(i) for i in grid.with_place(kept)]).long()
        index = torch.tensor(kept)
        assert cell_coverage(places, index) == cell_coverage(placed, numbers)
        if len(numbers):
            assert position_bias(places, index) == position_bias(placed, numbers)


def test_a_budget_of_flops_counts_newlines_as_text() -> None:
    """They may stay as long as one token of their row does, so the budget is met at most."""
    from ada3d_ros.engine.token_selection import sizes_of

    sizes = sizes_of(grid_prompt(GRID), 99)
    assert sizes.num_spatial == len(GRID.placed)
    assert sizes.num_text == SYSTEM + TEXT + len(GRID.newlines)
    assert sizes.num_before_selection == 99
    assert policy_of("voxel_dpp", 0.4).num_kept_pre_llm(sizes.num_spatial) == 8  # n_min
