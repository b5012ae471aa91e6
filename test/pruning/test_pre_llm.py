"""Strategies before the language model, against determinants, naive loops, pooling by hand."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ada3d_ros.config.pruning import PruningConfig
from ada3d_ros.errors import ConfigError, ModelError
from ada3d_ros.model.image import patch_grid
from ada3d_ros.pruning.baselines.voxel_dpp import JITTER, greedy_dpp
from ada3d_ros.pruning.strategy import Candidates, Selection, select
from test.support.decoders import PRE, config_of, generator, policy_of, scene_2d, scene_3d

SETTINGS = settings(deadline=None, derandomize=True, max_examples=40)
CONFIG = PruningConfig()
NESTED = ("random", "geo_fps", "cond_dpp", "voxel_dpp", "kitoke")


def small(count: int, seed: int, channels: int = 6) -> Candidates:
    made = generator(seed)
    return Candidates(
        torch.randn(count, channels, generator=made),
        2 * torch.rand(count, 3, generator=made),
        torch.randint(1, 6, (count,), generator=made),
        0.2,
        torch.rand(count, generator=made),
    )


def cosines_of(features: torch.Tensor) -> np.ndarray:
    unit = features.double().numpy()
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    return unit @ unit.T


# -- greedy DPP


def greedy_by_determinants(kernel: np.ndarray, count: int) -> list[int]:
    """Each time the item with the largest determinant of what is then chosen.

    Of equals the lowest index.
    """
    chosen: list[int] = []
    for _ in range(count):
        rest = [i for i in range(len(kernel)) if i not in chosen]
        dets = {i: np.linalg.det(kernel[np.ix_([*chosen, i], [*chosen, i])]) for i in rest}
        best = max(dets.values())
        chosen.append(next(i for i in rest if dets[i] >= best * (1 - 1e-9)))
    return chosen


@SETTINGS
@given(st.integers(2, 9), st.integers(1, 9), st.integers(0, 10_000))
def test_greedy_dpp_takes_the_largest_determinant_each_time(
    total: int, count: int, seed: int
) -> None:
    features = torch.randn(total, 12, generator=generator(seed), dtype=torch.float64)
    kernel = features @ features.T / 12 + 0.01 * torch.eye(total, dtype=torch.float64)
    count = min(count, total)
    assert greedy_dpp(kernel, count).tolist() == greedy_by_determinants(kernel.numpy(), count)


def test_greedy_dpp_is_near_the_best_subset() -> None:
    """Greedy is not optimal: at least (1 - 1/e) of the best log-determinant.

    Over all subsets of 3 of 8.
    """
    for seed in range(10):
        features = torch.randn(8, 5, generator=generator(seed), dtype=torch.float64)
        kernel = (features @ features.T + torch.eye(8, dtype=torch.float64)).numpy()
        dets = [np.linalg.det(kernel[np.ix_(s, s)]) for s in itertools.combinations(range(8), 3)]
        chosen = greedy_dpp(torch.tensor(kernel), 3).tolist()
        assert np.linalg.det(kernel[np.ix_(chosen, chosen)]) >= max(dets) ** (1 - 1 / math.e)


def test_greedy_dpp_takes_one_of_each_before_copies() -> None:
    """Three directions, each ten times: the first three chosen are the first of each."""
    directions = torch.eye(3, dtype=torch.float64).repeat(10, 1)
    kernel = directions @ directions.T + JITTER * torch.eye(30, dtype=torch.float64)
    assert greedy_dpp(kernel, 3).tolist() == [0, 1, 2]
    every = greedy_dpp(kernel, 30).tolist()  # more than the rank, still each once
    assert sorted(every) == list(range(30))


def test_greedy_dpp_orders_more_tokens_than_features() -> None:
    """float32, 300 tokens of 8 channels: every choice a new token, numbers stay finite."""
    scene = small(300, 5, channels=8)
    order = select("voxel_dpp", scene, 299, CONFIG).kept
    assert len(order.unique()) == 299


def test_voxel_dpp_against_determinants() -> None:
    scene = small(9, 7)
    expected = greedy_by_determinants(cosines_of(scene.features) + JITTER * np.eye(9), 5)
    assert select("voxel_dpp", scene, 5, CONFIG).kept.tolist() == expected


def test_p18_voxel_dpp_begins_with_the_lowest_index_of_equals() -> None:
    """P18: the first choice is a tie: every token is as like itself as any other.

    Ties go to the lowest index whatever the last bit of a norm is (it differs between machines).
    """
    firsts = [
        int(select("voxel_dpp", small(200, seed, channels=24), 20, CONFIG).kept[0])
        for seed in range(4)
    ]
    assert firsts == [0, 0, 0, 0]


def test_cond_dpp_against_determinants_and_relevance() -> None:
    scene = small(9, 8)
    assert scene.relevance is not None
    weight = scene.relevance.double().clamp(min=1e-3).numpy()
    kernel = weight[:, None] * cosines_of(scene.features) * weight + JITTER * np.eye(9)
    kept = select("cond_dpp", scene, 5, CONFIG).kept.tolist()
    assert kept == greedy_by_determinants(kernel, 5)
    assert kept[0] == int(scene.relevance.argmax())
    other = dataclasses.replace(scene, relevance=1 - scene.relevance)
    assert select("cond_dpp", other, 5, CONFIG).kept.tolist() != kept


# -- farthest points


def naive_fps(scene: Candidates, budget: int, lam: float, salient: int) -> list[int]:
    xyz, total = scene.xyz_m.double().numpy(), len(scene.xyz_m)
    cosine = cosines_of(scene.features)
    extent = np.linalg.norm(xyz.max(axis=0) - xyz.min(axis=0))
    features = scene.features.double().numpy()
    mean = features.mean(axis=0)
    likeness = features @ mean / np.linalg.norm(features, axis=1) / np.linalg.norm(mean)
    chosen = sorted(range(total), key=lambda i: likeness[i])[:salient]
    while len(chosen) < budget:
        best, best_distance = -1, -1.0
        for i in range(total):
            if i in chosen:
                continue
            nearest = min(
                lam * np.linalg.norm(xyz[i] - xyz[j]) / extent + (1 - lam) * (1 - cosine[i, j])
                for j in chosen
            )
            if nearest > best_distance:
                best, best_distance = i, nearest
        chosen.append(best)
    return chosen


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_geo_fps_against_a_naive_loop(lam: float, share: float) -> None:
    for seed in range(3):
        scene = small(25, seed)
        config = config_of({"geo_fps.lam": lam, "geo_fps.salient_share": share})
        expected = naive_fps(scene, 10, lam, max(1, int(share * 10)))
        assert select("geo_fps", scene, 10, config).kept.tolist() == expected


def test_geo_fps_covers_a_line_evenly() -> None:
    """Eleven points on a line: after the start the far ends, then the middle of the largest gap.

    Space alone counts.
    """
    xyz = torch.zeros(11, 3)
    xyz[:, 0] = torch.arange(11.0)
    features = torch.ones(11, 4)
    features[0] = torch.tensor([1.0, -1.0, 1.0, -1.0])  # the most distinct token
    scene = Candidates(features, xyz, torch.ones(11, dtype=torch.int64), 0.2)
    kept = select("geo_fps", scene, 5, config_of({"geo_fps.lam": 1.0})).kept.tolist()
    assert kept[:3] == [0, 10, 5]
    assert set(kept[3:]) <= {2, 3, 7, 8}


# -- orders are nested


@pytest.mark.parametrize("name", NESTED)
@pytest.mark.parametrize("scene", [scene_3d(60), scene_2d(8)])
def test_the_first_k_are_the_choice_for_budget_k(name: str, scene: Candidates) -> None:
    order = select(name, scene, 50, CONFIG).kept.tolist()
    for budget in (1, 2, 7, 20, 49):
        assert select(name, scene, budget, CONFIG).kept.tolist() == order[:budget]


# -- merging


def test_merged_tokens_are_means_of_their_groups() -> None:
    scene = scene_3d(40)
    selection = select("voxel_dpp", scene, 12, CONFIG)
    merged = selection.merge(scene.features)
    for place, anchor in enumerate(selection.kept.tolist()):
        members = [i for i in range(40) if selection.groups[i] == place]
        assert anchor in members
        expected = scene.features.double()[members].mean(dim=0)
        assert (merged[place].double() - expected).abs().max() < 1e-6
    assert len(set(selection.groups.tolist()) - {-1}) == 12


@pytest.mark.parametrize("radius", [0.0, 2.0, 5.0, 1000.0])
def test_voxel_dpp_merges_into_the_most_similar_anchor_within_the_radius(radius: float) -> None:
    scene = scene_3d(60)
    selection = select("voxel_dpp", scene, 15, config_of({"voxel_dpp.merge_radius_voxels": radius}))
    cosine, anchors = cosines_of(scene.features), selection.kept.tolist()
    xyz = scene.xyz_m.double().numpy()
    for token in range(60):
        if token in anchors:
            assert selection.groups[token] == anchors.index(token)
            continue
        near = [a for a in anchors if np.linalg.norm(xyz[token] - xyz[a]) <= radius * 0.2]
        expected = anchors.index(max(near, key=lambda a: cosine[token, a])) if near else -1
        assert selection.groups[token] == expected


@pytest.mark.parametrize("name", PRE)
def test_order_sorted_or_selection_are_the_same_tokens(name: str) -> None:
    """The same groups and means, only the tokens' order differs."""
    scene = scene_3d(80)
    chosen = policy_of(name, 0.4, order="selection").select(scene)
    ordered = policy_of(name, 0.4, order="sorted").select(scene)
    assert ordered.kept.tolist() == sorted(chosen.kept.tolist())
    expected = chosen.merge(scene.features)[torch.argsort(chosen.kept)]
    assert torch.allclose(ordered.merge(scene.features), expected, atol=1e-7)
    for token in range(80):
        a, b = int(chosen.groups[token]), int(ordered.groups[token])
        assert (a < 0) == (b < 0)
        assert a < 0 or chosen.kept[a] == ordered.kept[b]


@pytest.mark.parametrize("name", ["random", "uniform", "geo_fps", "cond_dpp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_merging_features_pass_unchanged(name: str, dtype: torch.dtype) -> None:
    scene = scene_3d(50)
    scene = dataclasses.replace(scene, features=scene.features.to(dtype))
    selection = select(name, scene, 20, CONFIG)
    assert torch.equal(selection.merge(scene.features), scene.features[selection.kept])


def test_weights_count_in_the_mean() -> None:
    selection = Selection(
        torch.tensor([1, 2]), torch.tensor([0, 0, 1, -1]), torch.tensor([3.0, 1.0, 2.0, 9.0])
    )
    values = torch.tensor([[1.0], [5.0], [7.0], [100.0]])
    assert selection.merge(values).flatten().tolist() == [2.0, 7.0]
    swapped = dataclasses.replace(
        selection, kept=torch.tensor([2, 1]), groups=torch.tensor([1, 1, 0, -1])
    )
    assert swapped.in_order().kept.tolist() == [1, 2]
    assert swapped.in_order().merge(values).flatten().tolist() == [2.0, 7.0]


# -- coarse voxels


def test_coarse_voxels_pool_by_hand() -> None:
    """A 4 x 4 grid of 0.2 m from -0.1 m on: means of 2 x 2, weighted by patches.

    2 x 2 of them fall into one voxel of 0.34 to 0.6 m.
    """
    x, y = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    xyz = torch.stack((x.flatten(), y.flatten(), torch.zeros(16)), dim=1) * 0.2 - 0.1
    features, patches = torch.arange(32.0).view(16, 2), torch.arange(1, 17)
    selection = select("coarse_voxels", Candidates(features, xyz, patches, 0.2), 4, CONFIG)
    assert len(selection.kept) == 4
    merged = selection.merge(features)
    cells = {
        int(group): [i for i in range(16) if selection.groups[i] == group] for group in range(4)
    }
    assert sorted(map(len, cells.values())) == [4, 4, 4, 4]
    for place, members in cells.items():
        assert selection.kept[place] == min(members)
        weights = patches[members].double() / patches[members].sum()
        assert torch.allclose(
            merged[place].double(), weights @ features[members].double(), atol=1e-5
        )


@pytest.mark.parametrize("scene", [scene_3d(150), scene_2d(10)])
@pytest.mark.parametrize("budget", [1, 3, 10, 40, 80])
def test_coarse_voxels_are_as_fine_as_the_budget_allows(scene: Candidates, budget: int) -> None:
    """Every token in the group of its voxel; no size of a fine scan gives more groups.

    Within the budget, less one tenth (the count is not monotone in the size, and the search is a
    bisection).
    """
    selection = select("coarse_voxels", scene, budget, CONFIG)
    assert 1 <= len(selection.kept) <= budget
    assert (selection.groups >= 0).all()
    scan = []
    for size in np.geomspace(scene.voxel_size_m, 20.0, 400):
        cells = len({tuple(row) for row in torch.round(scene.xyz_m / size).long().tolist()})
        scan += [cells] if cells <= budget else []
    assert len(selection.kept) >= 0.9 * max(scan)


# -- controls, budgets, bad input


def test_uniform_is_evenly_spread() -> None:
    kept = select("uniform", small(10, 0), 4, CONFIG).kept.tolist()
    assert kept == [0, 2, 5, 7]


def test_random_depends_on_the_seed_alone() -> None:
    a, b = (select("random", small(30, s), 12, CONFIG).kept.tolist() for s in (1, 2))
    assert a == b
    assert a != select("random", small(30, 1), 12, config_of({"seed": 1})).kept.tolist()


@pytest.mark.parametrize("name", PRE)
def test_a_budget_of_all_changes_nothing(name: str) -> None:
    scene = small(12, 3)
    selection = select(name, scene, 12, CONFIG)
    assert selection.kept.tolist() == list(range(12))
    assert torch.equal(selection.merge(scene.features), scene.features)


@pytest.mark.parametrize("name", PRE)
@pytest.mark.parametrize("budget", [0, -1, 13])
def test_budgets_out_of_range(name: str, budget: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"a budget of {budget} tokens for {name}; allowed: 1 to 12"
    ):
        select(name, small(12, 3), budget, CONFIG)


def test_unknown_strategy_names_the_known_ones() -> None:
    with pytest.raises(
        ConfigError,
        match="'fps' is not a strategy before the language model; allowed: random, uniform",
    ):
        select("fps", small(12, 3), 4, CONFIG)


@pytest.mark.parametrize("name", PRE)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite(name: str, bad: float) -> None:
    scene = small(12, 3)
    scene.features[5, 2] = bad
    with pytest.raises(ModelError, match=rf"{name}: spatial features are not finite"):
        select(name, scene, 4, CONFIG)


def test_relevance_that_is_not_finite_is_an_error_and_no_token_is_taken_twice() -> None:
    """As after an overflow in the projector, whose output relevance is made of."""
    scene = dataclasses.replace(small(12, 3), relevance=torch.full((12,), float("nan")))
    with pytest.raises(ModelError, match="not finite"):
        select("cond_dpp", scene, 4, CONFIG)


def test_cond_dpp_without_a_question() -> None:
    with pytest.raises(ConfigError, match=r"cond_dpp needs the question.*Use voxel_dpp"):
        select("cond_dpp", dataclasses.replace(small(12, 3), relevance=None), 4, CONFIG)


@pytest.mark.parametrize("name", PRE)
def test_tokens_all_alike_and_in_one_place(name: str) -> None:
    scene = Candidates(
        torch.ones(9, 4), torch.zeros(9, 3), torch.ones(9, dtype=torch.int64), 0.2, torch.zeros(9)
    )
    selection = select(name, scene, 4, CONFIG)
    expected = 1 if name == "coarse_voxels" else 4
    assert len(selection.kept.unique()) == len(selection.kept) == expected
    assert torch.isfinite(selection.merge(scene.features)).all()


def test_patch_grid() -> None:
    assert patch_grid(4).tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]
    assert patch_grid(576)[[23, 24, 575]].tolist() == [[23, 0, 0], [0, 1, 0], [23, 23, 0]]


@pytest.mark.parametrize("name", ["geo_fps", "voxel_dpp", "kitoke", "coarse_voxels"])
def test_a_room_far_from_the_maps_origin_is_chosen_alike(name: str) -> None:
    """cdist's default computes |a|^2 + |b|^2 - 2ab: at 1 km its distances were metres off.

    Another 40 of 200 were chosen. The shift is a power of two, so that float32 holds the same room.
    """
    here = scene_3d(300)
    xyz = torch.round(here.xyz_m * 64) / 64
    here = dataclasses.replace(here, xyz_m=xyz)
    far = dataclasses.replace(here, xyz_m=xyz + torch.tensor([1024.0, -2048.0, 0.0]))
    config = config_of({"strategy": name})
    a, b = select(name, here, 120, config), select(name, far, 120, config)
    if name == "coarse_voxels":  # its grid starts at the origin: the same room may be cut elsewhere
        assert abs(len(a.kept) - len(b.kept)) < 40
        return
    assert a.kept.tolist() == b.kept.tolist()
    assert a.groups.tolist() == b.groups.tolist()
