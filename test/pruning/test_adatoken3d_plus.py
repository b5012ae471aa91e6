"""adatoken3d_plus: rare things stay, twice the budget enters, and each layer holds its worth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ada3d_ros.engine.token_selection import choose_tokens
from ada3d_ros.pruning.ranking import keep_best
from ada3d_ros.pruning.strategy import Candidates
from ada3d_ros.types import SpatialTokens
from test.support.decoders import generator, policy_of, scene_3d
from test.support.pipelines import ASK, cache_of, start

RATIO = 0.1


def room_of_a_wall_and_things(wall: int = 180, each: int = 2, things: int = 10) -> Candidates:
    """A wall of `wall` like tokens, then `things` things of `each` tokens that look like nothing
    else, at random places of 4 x 3 x 2 m.
    """
    made, kinds = generator(8), torch.eye(things + 1, 32)
    which = torch.cat((torch.zeros(wall), 1 + torch.arange(things).repeat_interleave(each))).long()
    features = kinds[which] + 0.05 * torch.randn(len(which), 32, generator=made)
    xyz = torch.rand(len(which), 3, generator=made) * torch.tensor([4.0, 3.0, 2.0])
    ones = torch.ones(len(which), dtype=torch.int64)
    return Candidates(features, xyz, ones, voxel_size_m=0.2)


def test_what_is_rare_stays_whatever_is_attended_to() -> None:
    """Every thing has a token among what enters; the tokens of the highest scores, here the wall's,
    would be all of one kind.
    """
    scene = room_of_a_wall_and_things()
    total = len(scene.features)
    kept = policy_of("adatoken3d_plus", RATIO).select(scene).kept
    assert len(kept) == 2 * RATIO * total
    things = (kept[kept >= 180] - 180) // 2
    assert set(things.tolist()) == set(range(10))
    attended = torch.zeros(total)
    attended[:180] = 1.0
    assert (keep_best(attended, len(kept)) < 180).all()


def test_what_enters_is_voxel_dpps_choice_of_twice_the_budget() -> None:
    scene = scene_3d(210)
    plus = policy_of("adatoken3d_plus", RATIO).select(scene)
    before = policy_of("voxel_dpp", 2 * RATIO).select(scene)
    assert torch.equal(plus.kept, before.kept)
    assert torch.equal(plus.groups, before.groups)
    features = scene.features
    assert torch.equal(plus.merge(features), before.merge(features))


@pytest.mark.parametrize("strategy", ["voxel_dpp", "coarse_voxels", "adatoken3d_plus"])
def test_a_merged_group_lies_at_its_mean_place(model: Path, strategy: str) -> None:
    """As its feature says, which is a mean with the position embeddings of all of them in it. What
    is merged into nothing stays where it is.
    """
    scene = room_of_a_wall_and_things()
    tokens = SpatialTokens(scene.features, scene.xyz_m, scene.num_patches, scene.voxel_size_m)
    policy = policy_of(strategy, 0.2)
    llava = start(model, 0).model.model
    chosen = choose_tokens(llava, tokens, policy)
    groups = policy.select(scene).groups
    assert (groups >= 0).sum() > len(chosen.kept)  # some are merged
    for i in range(len(chosen.kept)):
        of_group = scene.xyz_m[groups == i].double()
        mean = of_group.mean(dim=0) if len(of_group) else scene.xyz_m[chosen.kept[i]].double()
        assert (chosen.tokens.xyz_m[i].double() - mean).abs().max() < 1e-5
    without = choose_tokens(llava, tokens, policy_of("geo_fps", 0.2))
    assert torch.equal(without.tokens.xyz_m, scene.xyz_m[without.kept])


@pytest.mark.parametrize("ratio", [0.1, 0.2])
def test_the_cached_scene_holds_the_budget_by_worth(model: Path, ratio: float) -> None:
    """A model without a file: a quarter, a quarter, half and all of what entered, which is twice
    the budget. Each layer computes all that entered.
    """
    settings = {"pruning.keep_ratio": ratio, "pruning.n_min": 1}
    pipeline = start(model, **{"pruning.strategy": "adatoken3d_plus", **settings})
    answer = pipeline.ask(ASK)
    assert (answer.cache_mode, answer.tokens.strategy) == ("build", "adatoken3d_plus")
    prefix = cache_of(pipeline).active
    assert prefix is not None
    entered, total = len(prefix.embeds), answer.tokens.spatial_total
    assert entered == int(2 * ratio * total)
    assert prefix.held is not None
    held = [len(layer) for layer in prefix.held]
    assert held == [int(share * entered) for share in (0.25, 0.25, 0.5, 1.0)]
    assert np.mean(held) == pytest.approx(ratio * total, abs=1.0)
