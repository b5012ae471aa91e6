"""Voxel ids of scenes near and far: the same order, and nothing overflows."""

import numpy as np
import pytest
import torch

from ada3d_ros.errors import FrameError, PoseError
from ada3d_ros.geometry.pose import pose_from_quaternion
from ada3d_ros.geometry.voxel import voxel_coords, voxel_ids
from ada3d_ros.rigid import MAX_POSITION_M, rigid_pose
from ada3d_ros.scene.voxel_table import VoxelSums, VoxelTable
from ada3d_ros.types import Intrinsics

FAR_M = 2 * MAX_POSITION_M  # of two poses at opposite ends, and what they see
NO_TURN = (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("extent_m", [5.0, 1e4, FAR_M])
def test_ids_are_those_of_numpys_unique(extent_m: float) -> None:
    """Rows in ascending x, then y, then z; numpy sorts them the same way."""
    points = torch.rand(400, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    coords = voxel_coords((2 * points - 1) * extent_m, 0.2).repeat(2, 1)
    ids, occupied = voxel_ids(coords)
    expected, inverse = np.unique(coords.numpy(), axis=0, return_inverse=True)
    np.testing.assert_array_equal(occupied.numpy(), expected)
    np.testing.assert_array_equal(ids.numpy(), inverse.ravel())


def test_views_at_the_ends_of_the_world_come_and_go() -> None:
    table = VoxelTable()
    corners = [(-FAR_M, -FAR_M, -FAR_M), (FAR_M, FAR_M, FAR_M), (0.0, FAR_M, -FAR_M)]
    for name, corner in enumerate(corners):
        points = torch.rand(50, 3) + torch.tensor(corner)
        table.add(name, VoxelSums.from_patches(torch.ones(50, 4), points, 0.2))
    table.remove(1)
    assert int(table.sums.num_patches.sum()) == 100
    table.remove(0)
    assert float(table.sums.features.sum()) == 200.0


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("value_m", [1.001e6, -5e6, 1e30, -1e308])
def test_a_position_far_from_the_origin_is_no_pose(axis: int, value_m: float) -> None:
    """float32 points would be coarser than 6 cm there, and integers overflow later."""
    position = [0.0, 0.0, 0.0]
    position[axis] = value_m
    T = np.eye(4)
    T[:3, 3] = position
    for read in (lambda: pose_from_quaternion(position, NO_TURN), lambda: rigid_pose(T)):
        with pytest.raises(PoseError, match=r"1e\+06 m from the origin.*UTM"):
            read()
    position[axis] = 0.999e6
    pose_from_quaternion(position, NO_TURN)


@pytest.mark.parametrize("fx", [0.0, 5e-324, 0.8, 0.999, -60.0])
def test_a_matrix_that_is_not_in_pixels_is_refused(fx: float) -> None:
    for values in ((fx, 60.0), (60.0, fx)):
        with pytest.raises(FrameError, match="not calibrated in px"):
            Intrinsics(*values, 32.0, 24.0, 64, 48)
    Intrinsics(1.0, 1.0, 32.0, 24.0, 64, 48)
