"""The choice before the language model among tokens with newlines: that of the tokens with a place,
and the newlines of what is left; then pruned inside, too.
"""

from __future__ import annotations

from typing import cast

import pytest
import torch

from ada3d_ros.engine.prefill import prefill
from ada3d_ros.engine.token_selection import ChosenTokens, choose_tokens, pruner_for
from ada3d_ros.model.backbone import Backbone
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.types import PromptSequence, SpatialTokens
from test.support.decoders import LAYERS, PRE, config_of, policy_of
from test.support.newlines import Grid, Projecting, grid_tokens
from test.support.prefixes import make_decoder

DECODER = make_decoder()
MODEL = cast(Backbone, Projecting(DECODER))
GRIDS = {
    "even": Grid.of((14,) * 10),
    "holes": Grid.of((1, 30, 0, 3, 42, 0, 0, 7, 2, 56)),
    "tail": Grid.of((20, 0, 31, 60), tail=29),
}
NESTED = ("random", "geo_fps", "voxel_dpp", "kitoke")
QUESTION = (5, 17, 33)
grids = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def chosen_of(tokens: SpatialTokens, policy: Policy) -> ChosenTokens:
    return choose_tokens(MODEL, tokens, policy, QUESTION)


def bare(tokens: SpatialTokens, grid: Grid) -> SpatialTokens:
    """Those with a place alone."""
    return tokens.at(torch.tensor(grid.placed))


@pytest.mark.parametrize("order", ["sorted", "selection"])
@pytest.mark.parametrize("strategy", PRE)
@grids
def test_the_choice_is_that_of_the_tokens_with_a_place(
    strategy: str, order: str, grid: Grid
) -> None:
    """Bit for bit: which, their merged features, places and patches; each newline as it was."""
    tokens = grid_tokens(grid)
    policy = policy_of(strategy, 0.3, order=order)
    ours, alone = chosen_of(tokens, policy), chosen_of(bare(tokens, grid), policy)
    kept = ours.kept.tolist()
    index = [i for i, token in enumerate(kept) if token not in grid.newlines]
    assert [kept[i] for i in index] == [grid.placed[i] for i in alone.kept.tolist()]
    assert sorted(kept) == grid.closed(kept)
    for name in ("features", "xyz_m", "num_patches"):
        found, expected = getattr(ours.tokens, name)[index], getattr(alone.tokens, name)
        assert torch.equal(found, expected)
        assert torch.isfinite(found).all()
    others = [i for i in range(len(kept)) if i not in index]
    assert ours.tokens.xyz_m[others].isnan().all()
    assert (ours.tokens.num_patches[others] == 0).all()
    assert (ours.tokens.features[others] == 1.0).all()
    assert (ours.num_before_selection, ours.num_candidates) == (grid.total, len(grid.placed))
    assert ours.rows.num_placed == len(index) == alone.rows.num_placed
    if order == "sorted":
        assert kept == sorted(kept)


@pytest.mark.parametrize("strategy", NESTED)
@grids
def test_a_smaller_budget_begins_a_larger_one(strategy: str, grid: Grid) -> None:
    """The first tokens with a place, with exactly the newlines of their rows."""
    tokens = grid_tokens(grid)
    config = config_of({"strategy": strategy, "order": "selection", "keep_ratio": 0.5})
    large = chosen_of(tokens, Policy.from_config(config))
    for ratio in (0.1, 0.25, 0.4):
        policy = Policy.from_config(config, ratio)
        assert policy.nested
        small = chosen_of(tokens, policy)
        count = policy.num_kept_pre_llm(len(grid.placed))
        assert small.rows.num_placed == count
        first = large.first(count)
        assert torch.equal(small.kept, first.kept)
        assert torch.equal(small.kept, large.kept[: len(small.kept)])
        assert torch.equal(small.tokens.features, large.tokens.features[: len(small.kept)])
        assert sorted(small.kept.tolist()) == grid.closed(small.kept.tolist())
        assert small.num_candidates == large.num_candidates == len(grid.placed)
        alone = chosen_of(bare(tokens, grid), policy)
        placed = grid.with_place(small.kept.tolist())
        assert placed == [grid.placed[i] for i in alone.kept.tolist()]


@pytest.mark.parametrize("order", ["sorted", "selection"])
@pytest.mark.parametrize("strategy", ["voxel_dpp+adatoken3d", "random+pdrop", "kitoke+fastv"])
@grids
def test_pruned_inside_too_newlines_go_with_their_rows_of_the_scene(
    strategy: str, order: str, grid: Grid
) -> None:
    tokens = grid_tokens(grid)
    policy = policy_of(strategy, 0.3, order=order, n_min=2)
    chosen = chosen_of(tokens, policy)
    words = torch.randn(9, DECODER.config.hidden_size, generator=torch.Generator().manual_seed(4))
    embeds = torch.cat((words[:3], MODEL.project(chosen.tokens.features), words[3:]))
    span = (3, 3 + len(chosen.kept))
    prompt = PromptSequence(embeds, torch.arange(len(embeds)), span, chosen.tokens.xyz_m)
    prompt = chosen.in_prompt(prompt)
    pruner = pruner_for(DECODER, policy, prompt, chosen.num_candidates)
    assert pruner is not None
    filled = prefill(DECODER, prompt, pruner=pruner)
    counts = pruner.counts(policy.num_kept_pre_llm(len(grid.placed)), None)
    for stage, count in zip(filled.kept, counts, strict=True):
        kept = chosen.kept[stage].tolist()
        assert sorted(kept) == grid.closed(kept)
        assert len(grid.with_place(kept)) == count
    ratio = chosen.keep_ratio_of(filled.kept)
    assert ratio == pytest.approx(sum(counts) / LAYERS / len(grid.placed))
    assert ratio == pytest.approx(0.3, abs=0.02)


@grids
def test_positions_of_the_scene(grid: Grid) -> None:
    """pruning.pre_positions original: a newline stands where it stood among all."""
    tokens = grid_tokens(grid)
    chosen = chosen_of(tokens, policy_of("uniform", 0.3))
    count = len(chosen.kept)
    prompt = PromptSequence(torch.zeros(count + 8, 4), torch.arange(count + 8), (3, 3 + count))
    positions = chosen.positions(prompt)
    assert positions[3 : 3 + count].tolist() == [3 + i for i in chosen.kept.tolist()]
    assert positions[3 + count :].tolist() == [3 + grid.total + i for i in range(5)]


@grids
def test_everything_kept_is_left_alone(grid: Grid) -> None:
    """Newlines of rows that were never filled, too."""
    tokens = grid_tokens(grid)
    chosen = chosen_of(tokens, policy_of("voxel_dpp", 1.0))
    assert chosen.tokens is tokens
    assert chosen.kept.tolist() == list(range(grid.total))
    assert chosen.num_candidates == len(grid.placed)
