"""KiToke, HoliTom and LEO-VL's grid, each by properties of its own; what all strategies share is in
test_pre_llm.py.
"""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ada3d_ros.config.pruning import PruningConfig
from ada3d_ros.errors import ConfigError
from ada3d_ros.model.image import patch_grid
from ada3d_ros.pruning.baselines import coarse_voxels
from ada3d_ros.pruning.baselines.condensed_grid import TENSORS, columns, read_pooling
from ada3d_ros.pruning.baselines.holitom import (
    best_windows,
    density_peaks,
    merge_runs,
    slice_room,
    whole_shares,
    without_places,
)
from ada3d_ros.pruning.strategy import Candidates, Selection, select
from test.support.decoders import config_of, generator, policy_of, scene_2d, scene_3d, write_pooling

CONFIG = PruningConfig()
NAMES = ("kitoke", "holitom", "condensed_grid")
BUDGETS = (1, 2, 5, 17, 60, 119)


def shuffled(scene: Candidates, seed: int) -> tuple[Candidates, torch.Tensor]:
    order = torch.randperm(len(scene.features), generator=generator(seed))
    fields = {
        field.name: value[order]
        for field in dataclasses.fields(scene)
        if isinstance(value := getattr(scene, field.name), torch.Tensor)
    }
    return dataclasses.replace(scene, **fields), order


def clusters(selection: Selection, order: torch.Tensor | None = None) -> set[frozenset[int]]:
    """The groups as sets of tokens, under the names that `order` gives them."""
    names = torch.arange(len(selection.groups)) if order is None else order
    places = range(len(selection.kept))
    return {frozenset(names[selection.groups == place].tolist()) for place in places}


def on_grid(slices: int, rows: int, levels: int, voxel: float = 0.2) -> torch.Tensor:
    """xyz of all cells of a block, x first."""
    axes = torch.meshgrid(*map(torch.arange, (slices, rows, levels)), indexing="ij")
    return torch.stack([axis.flatten() for axis in axes], dim=1).float() * voxel


# -- both


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scene", [scene_3d(120), scene_2d(11)], ids=["room", "image"])
def test_exact_counts_down_to_one_token(name: str, scene: Candidates) -> None:
    for budget in BUDGETS:
        selection = select(name, scene, budget, CONFIG)
        assert len(selection.kept) == len(selection.kept.unique()) == budget
        assert torch.equal(selection.groups[selection.kept], torch.arange(budget))
        again = select(name, scene, budget, CONFIG)
        assert torch.equal(again.kept, selection.kept)
        assert torch.equal(again.groups, selection.groups)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", BUDGETS)
def test_the_same_whatever_the_order_of_the_tokens(name: str, budget: int) -> None:
    scene = scene_3d(120, channels=40)
    mixed, order = shuffled(scene, 3)
    here, there = select(name, scene, budget, CONFIG), select(name, mixed, budget, CONFIG)
    assert clusters(there, order) == clusters(here)
    token = int(here.kept[0])
    found = there.merge(mixed.features)[there.groups[order == token]]
    assert torch.allclose(found, here.merge(scene.features)[:1], atol=1e-5)
    if (
        name == "kitoke"
    ):  # of a pair alone in its part, or pooled evenly, what stands for it is a tie
        assert order[there.kept].tolist() == here.kept.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_they_join_with_a_strategy_inside(name: str) -> None:
    policy = policy_of(f"{name}+adatoken3d", 0.2)
    assert (policy.pre_llm, policy.in_llm) == (name, "adatoken3d")
    assert policy.num_kept_pre_llm(400) == 178  # the square root of the keep ratio
    assert not policy.is_query_conditioned


# -- KiToke


def copies(distinct: int, each: int) -> Candidates:
    """`distinct` things, `each` tokens alike of every one, mixed."""
    made = generator(5)
    features = torch.randn(distinct, 12, generator=made).repeat(each, 1)
    xyz = 3 * torch.rand(distinct * each, 3, generator=made)
    ones = torch.ones(distinct * each, dtype=torch.int64)
    return Candidates(features, xyz, ones, 0.2)


@pytest.mark.parametrize("budget", [1, 2, 9, 10])
@pytest.mark.parametrize("bandwidth", [0.1, 0.3, 1.0, 10.0])
def test_kitoke_keeps_no_copy_while_something_distinct_is_left(
    budget: int, bandwidth: float
) -> None:
    scene = copies(distinct=10, each=6)
    kept = select("kitoke", scene, budget, config_of({"kitoke.bandwidth": bandwidth})).kept
    assert len((kept % 10).unique()) == budget


def test_kitoke_takes_copies_only_when_nothing_distinct_is_left() -> None:
    kept = select("kitoke", copies(distinct=4, each=5), 13, CONFIG).kept
    assert sorted((kept[:4] % 4).tolist()) == [0, 1, 2, 3]
    assert len(kept.unique()) == 13


def test_kitoke_begins_with_the_least_redundant_token() -> None:
    """Nine tokens alike, four of another kind, one alone: the one alone, then the four's kind."""
    kinds = torch.eye(6)[[0] * 9 + [1] * 4 + [2]]
    scene = Candidates(kinds, torch.zeros(14, 3), torch.ones(14, dtype=torch.int64), 0.2)
    kept = select("kitoke", scene, 3, CONFIG).kept.tolist()
    assert kept == [13, 9, 0]


def test_kitoke_against_a_naive_loop() -> None:
    scene = scene_3d(40)
    unit = scene.features.double().numpy()
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    kernel = np.exp(-(np.linalg.norm(unit[:, None] - unit[None], axis=2) ** 2) / (2 * 0.3**2))
    diversity, chosen = 1 / kernel.sum(axis=1), []
    for _ in range(12):
        novelty = [1 - max((kernel[i, c] for c in chosen), default=0.0) for i in range(40)]
        score = [-1 if i in chosen else diversity[i] * novelty[i] for i in range(40)]
        chosen.append(int(np.argmax(score)))
    selection = select("kitoke", scene, 12, config_of({"kitoke.bandwidth": 0.3}))
    assert selection.kept.tolist() == chosen

    merged, xyz = selection.merge(scene.features).double().numpy(), scene.xyz_m.double().numpy()
    near = [[np.linalg.norm(xyz[i] - xyz[c]) <= 1.0 for c in chosen] for i in range(40)]
    home = {
        i: chosen.index(i)
        if i in chosen
        else max((p for p in range(12) if near[i][p]), key=lambda p: kernel[i, chosen[p]])
        for i in range(40)
        if i in chosen or any(near[i])
    }
    for place in range(12):
        members = [i for i, p in home.items() if p == place]
        mean = np.average(scene.features.double().numpy()[members], 0, diversity[members])
        assert np.abs(merged[place] - mean).max() < 1e-5


# -- HoliTom


@pytest.mark.parametrize("tau", [-1.0, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("scene", [scene_3d(120), scene_2d(11)], ids=["room", "image"])
def test_holitom_loses_nothing(scene: Candidates, tau: float) -> None:
    """Every token is in a group; what the means hold, times their weights, is what there was."""
    for budget in BUDGETS:
        selection = select("holitom", scene, budget, config_of({"holitom.tau": tau}))
        assert (selection.groups >= 0).all()
        weights = torch.zeros(budget).index_add_(0, selection.groups, selection.weights)
        held = (selection.merge(scene.features) * weights[:, None]).sum(dim=0)
        there = (scene.features * selection.weights[:, None]).sum(dim=0)
        assert torch.allclose(held, there, atol=1e-3)


def test_holitom_merges_what_stays_alike_along_the_room() -> None:
    """Six slices of 5 x 4 places: one place is a floor, alike everywhere, the others are not.

    115 tokens are left of 120 when the floor's six have become one.
    """
    features = torch.randn(120, 64, generator=generator(6))
    features[::20] = features[0]
    scene = Candidates(features, on_grid(6, 5, 4), torch.ones(120, dtype=torch.int64), 0.2)
    selection = select("holitom", scene, 115, CONFIG)
    floor = frozenset(range(0, 120, 20))
    assert clusters(selection) == {floor} | {frozenset([i]) for i in range(120) if i % 20}
    assert 40 in selection.kept  # the middle one of the floor's stands for it
    assert torch.allclose(selection.merge(features)[selection.groups[0]], features[0], atol=1e-6)


def test_holitom_does_not_see_what_the_place_explains() -> None:
    """A quadratic of the place, as large as you like, changes no choice."""
    scene = scene_3d(120)
    x, y, z = scene.xyz_m.unbind(dim=1)
    place = torch.stack((x, y * y, x * z, z, y, x * x, z * z, x * y), dim=1).repeat(1, 3)
    moved = dataclasses.replace(scene, features=scene.features + 5 * place)
    for budget in BUDGETS:
        here, there = (select("holitom", s, budget, CONFIG) for s in (scene, moved))
        assert clusters(here) == clusters(there)
    rest = without_places(moved)
    assert float((rest - without_places(scene)).abs().max()) < 1e-4
    image = dataclasses.replace(scene_2d(11), features=patch_grid(121)[:, [0, 1, 0, 1]])
    assert float(without_places(image).abs().max()) < 1e-4  # places on a plane


def test_holitom_cuts_the_room_where_most_is_saved() -> None:
    """Three places: two stay alike over slices 0-2, one over 2-5.

    Windows 0-2 and 3-5 save 2 x 2 and 2; 0-1 and 2-5 would save 2 and 3.
    """
    linked = torch.tensor([[1, 1, 0]] * 2 + [[0, 0, 1]] * 3, dtype=torch.bool)
    assert best_windows(linked) == ([(0, 2), (3, 5)], 6)


def test_holitom_windows_against_every_way_to_cut() -> None:
    for seed in range(20):
        linked = torch.rand(6, 5, generator=generator(seed)) < 0.7

        def saved(first: int, last: int, linked: torch.Tensor = linked) -> int:
            return int(linked[first:last].all(dim=0).sum()) * (last - first)

        best = 0
        for cuts in range(2**6):
            ends = [i for i in range(6) if cuts >> i & 1] + [6]
            starts = [0, *(e + 1 for e in ends[:-1])]
            best = max(best, sum(saved(a, b) for a, b in zip(starts, ends, strict=True)))
        windows, found = best_windows(linked)
        assert found == best == sum(saved(*window) for window in windows)
        assert [a for a, _ in windows] == [0, *(b + 1 for _, b in windows[:-1])]
        assert windows[-1][1] == 6


def test_holitom_slices_lie_across_the_longer_side_and_stop_at_a_gap() -> None:
    xyz = on_grid(2, 5, 1)
    xyz[xyz[:, 1] > 0.5, 1] += 0.2  # a slice without tokens
    features = torch.ones(10, 4)
    slices = slice_room(Candidates(features, xyz, torch.ones(10, dtype=torch.int64), 0.2))
    assert slices.table.shape == (5, 2)
    expected = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-2.0, -2.0], [1.0, 1.0]])
    assert torch.allclose(slices.alike, expected)
    image = slice_room(Candidates(torch.ones(9, 4), patch_grid(9), torch.ones(9).long(), 1.0))
    assert image.table.tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


def test_holitom_raises_tau_where_merging_leaves_too_few() -> None:
    """All tokens nearly alike: at tau .8 one window of all slices leaves 4 of 24."""
    features = torch.ones(24, 32) + 0.05 * torch.randn(24, 32, generator=generator(7))
    scene = Candidates(features, on_grid(6, 2, 2), torch.ones(24, dtype=torch.int64), 0.2)
    slices = slice_room(scene)
    assert int(merge_runs(slices, 0.8, 4)[0].max()) + 1 == 4
    for budget in (5, 12, 23):
        runs = int(merge_runs(slices, 0.8, budget)[0].max()) + 1
        assert budget <= runs < 24
        assert len(select("holitom", scene, budget, CONFIG).kept) == budget


def test_whole_shares() -> None:
    assert whole_shares([10, 10, 10], 10) == [4, 3, 3]
    assert whole_shares([7, 2, 1], 5) == [4, 1, 0]  # 3.5, 1.0, 0.5: of equal remainders the first
    assert whole_shares([3, 1], 4) == [3, 1]
    assert whole_shares([5, 5], 1) == [1, 0]


def test_density_peaks_are_the_middles_of_clusters() -> None:
    """On a line: five near 0, three near 10, one at 30. Of equally dense ones the first counts."""
    line = torch.tensor([0.0, 0.1, -0.1, 0.2, -0.2, 10.0, 10.1, 9.9, 30.0])
    distance = (line[:, None] - line).abs()
    assert density_peaks(distance, 2, 3).tolist() == [0, 5]


# -- LEO-VL's grid


@pytest.fixture
def trained(tmp_path: Path) -> PruningConfig:
    """Settings with a file of random weights for 24 channels."""
    return config_of({"condensed_grid.file": str(write_pooling(tmp_path / "p.safetensors", 24))})


@pytest.mark.parametrize("budget", BUDGETS)
def test_condensed_grid_groups_lie_above_each_other(budget: int) -> None:
    """No two groups of one column overlap in height, and the columns are cells of one square grid:
    as few as the budget allows at a voxel's size.
    """
    scene = scene_3d(120)
    groups = columns(scene, budget)
    assert groups.unique().tolist() == list(range(budget))
    flat = dataclasses.replace(scene, xyz_m=scene.xyz_m * torch.tensor([1.0, 1.0, 0.0]))
    column_of = coarse_voxels.select(flat, budget, None).groups
    for column in column_of.unique():
        inside = [groups[column_of == column] == g for g in groups[column_of == column].unique()]
        heights = [scene.xyz_m[column_of == column][mask][:, 2] for mask in inside]
        ranges = sorted((float(h.min()), float(h.max())) for h in heights)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ranges))
    for group in range(budget):  # none reaches over two columns
        assert len(column_of[groups == group].unique()) == 1


def test_condensed_grid_of_two_columns_by_hand() -> None:
    """Two towers of three voxels 4 m apart: one group each, then the first is cut in height."""
    xyz = torch.tensor([[x, 0.0, z] for x in (0.0, 4.0) for z in (0.0, 0.2, 0.4)])
    scene = Candidates(torch.eye(6), xyz, torch.ones(6, dtype=torch.int64), 0.2)
    assert columns(scene, 1).tolist() == [0] * 6
    assert columns(scene, 2).tolist() == [0, 0, 0, 1, 1, 1]
    assert columns(scene, 3).tolist() == [0, 2, 2, 1, 1, 1]  # numbered upwards
    assert columns(scene, 6).tolist() == [0, 2, 4, 1, 3, 5]


def test_condensed_grid_pools_by_the_shares_of_the_file(trained: PruningConfig) -> None:
    """Against the network written out in float64; the largest share's voxel stands for the rest."""
    scene = scene_3d(60)
    with safe_open(trained.condensed_grid.file, "pt") as file:
        w, b, v = (file.get_tensor(name).double() for name in TENSORS)
    f = scene.features.double()
    normed = f / f.square().mean(dim=1, keepdim=True).sqrt()
    scores = (torch.nn.functional.gelu(normed @ w.T + b) @ v.T)[:, 0]
    selection = select("condensed_grid", scene, 9, trained)
    merged = selection.merge(scene.features).double()
    for group in range(9):
        members = torch.nonzero(selection.groups == group)[:, 0]
        shares = torch.softmax(scores[members], dim=0)
        assert torch.allclose(merged[group], shares @ f[members], atol=1e-5)
        assert selection.kept[group] == members[shares.argmax()]
    even = select("condensed_grid", scene, 9, CONFIG)
    assert torch.equal(even.groups, selection.groups)
    assert torch.allclose(
        even.merge(scene.features)[0], scene.features[even.groups == 0].mean(dim=0), atol=1e-6
    )


def test_condensed_grid_refuses_files_of_others(trained: PruningConfig, tmp_path: Path) -> None:
    scene = scene_3d(30, channels=20)
    with pytest.raises(
        ConfigError, match=r"trained on features of 24 numbers, this model's have 20"
    ):
        select("condensed_grid", scene, 5, trained)
    none = {"condensed_grid__file": str(tmp_path / "none.safetensors")}
    with pytest.raises(ConfigError, match="cannot be read as a pooling"):
        policy_of("condensed_grid", 0.5, **none)
    save_file({"in.weight": torch.ones(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=r"holds in.weight; expected in.weight, in.bias"):
        read_pooling(str(tmp_path / "other.safetensors"))
