"""The voxel table: means as of a loop over all points, and views taken out without a trace."""

import numpy as np
import pytest
import torch

from ada3d_ros.scene.voxel_table import VoxelSums, VoxelTable, find_voxels

VOXEL_M = 0.25


def make_view(generator: torch.Generator, points: int = 200) -> VoxelSums:
    corner, size = torch.tensor([-700.0, 31.0, 0.0]), torch.tensor([2.0, 2.0, 1.0])
    xyz = torch.rand(points, 3, generator=generator) * size + corner
    return VoxelSums.from_patches(torch.randn(points, 6, generator=generator), xyz, VOXEL_M)


def same_bits(a: VoxelTable, b: VoxelTable) -> bool:
    pairs = [
        (a.sums.features.view(torch.int32), b.sums.features.view(torch.int32)),
        (a.sums.xyz_m.view(torch.int32), b.sums.xyz_m.view(torch.int32)),
        (a.sums.coords, b.sums.coords),
        (a.sums.num_patches, b.sums.num_patches),
    ]
    return all(torch.equal(mine, other) for mine, other in pairs)


def test_sums_are_those_of_a_loop_over_all_points() -> None:
    generator = torch.Generator().manual_seed(1)
    xyz = torch.rand(300, 3, generator=generator) - 0.5
    features = torch.randn(300, 2, generator=generator)
    table = VoxelTable()
    for view in range(3):
        rows = slice(100 * view, 100 * view + 100)
        table.add(view, VoxelSums.from_patches(features[rows], xyz[rows], VOXEL_M))
    expected: dict[tuple[int, ...], list[np.ndarray]] = {}
    for point, feature in zip(xyz.numpy(), features.double().numpy(), strict=True):
        voxel = tuple(int(v) for v in np.rint(point / np.float32(VOXEL_M)))
        expected.setdefault(voxel, []).append(feature)
    assert [tuple(c) for c in table.sums.coords.tolist()] == sorted(expected)
    assert table.sums.num_patches.tolist() == [len(expected[key]) for key in sorted(expected)]
    sums = np.array([np.sum(expected[key], axis=0) for key in sorted(expected)])
    assert np.allclose(table.sums.features.numpy(), sums, atol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_a_view_taken_out_leaves_no_trace_in_any_bit(seed: int) -> None:
    """Any order of coming and going equals a table of those that are left, bit for bit."""
    generator, random = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    views = {name: make_view(generator) for name in range(12)}
    table = VoxelTable()
    for name, view in views.items():
        table.add(name, view)
        while len(table.views) > 4 or (len(table.views) > 1 and random.random() < 0.3):
            table.remove(int(random.choice(table.views)))
        assert same_bits(table, table.of_views(list(table.views)))
        rebuilt = VoxelTable()
        for left in table.views:
            rebuilt.add(left, views[left])
        assert same_bits(table, rebuilt)


def test_the_last_view_taken_out_leaves_nothing() -> None:
    table = VoxelTable()
    table.add(7, make_view(torch.Generator().manual_seed(0)))
    table.remove(7)
    assert len(table.sums) == 0
    assert table.views == ()


def test_changes_are_dated_per_voxel() -> None:
    def view(*xs: float) -> VoxelSums:
        return VoxelSums.from_patches(
            torch.ones(len(xs), 1), torch.tensor([[x, 0.0, 0.0] for x in xs]), 1.0
        )

    table = VoxelTable()
    table.add(0, view(0.0, 1.0))
    table.add(1, view(1.0, 2.0, 5.0))
    assert table.changed.tolist() == [1, 2, 2, 2]
    table.remove(0)
    assert table.sums.coords[:, 0].tolist() == [1, 2, 5]
    assert table.changed.tolist() == [3, 2, 2]


def test_finding_voxels_names_the_absent_ones() -> None:
    coords = torch.tensor([[0, 0, 0], [0, 2, 0], [3, 0, 0]])
    wanted = torch.tensor([[3, 0, 0], [1, 0, 0], [0, 0, 0], [-9, 0, 0]])
    assert find_voxels(coords, wanted).tolist() == [2, -1, 0, -1]
    assert find_voxels(coords[:0], wanted).tolist() == [-1] * 4


def test_training_gradients_pass_through() -> None:
    features = torch.randn(10, 3, requires_grad=True)
    table = VoxelTable()
    table.add(0, VoxelSums.from_patches(features, torch.zeros(10, 3), 1.0))
    table.sums.features.sum().backward()
    assert torch.equal(features.grad, torch.ones(10, 3))
