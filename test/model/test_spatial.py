"""Spatial tokens: which pixel, which patches, which order, which cap."""

import numpy as np
import torch

from ada3d_ros.model.spatial import (
    PointEncoder,
    cap_spatial_tokens,
    pool_spatial_tokens,
    sample_patch_points,
)
from ada3d_ros.types import MultiViewInput, SpatialTokens

NAN = float("nan")


class NoEmbedding(torch.nn.Module):
    def forward(self, xyz: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(xyz), 1)


def make_views(depth: torch.Tensor) -> MultiViewInput:
    count, side = depth.shape[:2]
    K = torch.tensor([[10.0, 0.0, 0.0], [0.0, 10.0, 0.0], [0.0, 0.0, 1.0]]).repeat(count, 1, 1)
    return MultiViewInput(
        torch.zeros(count, 3, side, side),
        depth,
        K,
        torch.eye(4).repeat(count, 1, 1),
        np.zeros(count, np.int64),
    )


def test_patch_point_is_that_of_its_top_left_pixel() -> None:
    depth = torch.arange(1.0, 1.0 + 28 * 28).reshape(1, 28, 28)
    points = sample_patch_points(make_views(depth), 2)
    assert points.shape == (1, 2, 2, 3)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        z = float(depth[0, 14 * row, 14 * column])
        assert torch.allclose(
            points[0, row, column], torch.tensor([1.4 * column * z, 1.4 * row * z, z])
        )


def test_same_voxel_is_averaged_over_views_and_order_is_x_y_z() -> None:
    first, second = [[1.0, 0, 0], [0.0, 0, 0.4]], [[0.99, 0.01, 0.0], [0.0, 0.0, 0.0]]
    xyz = torch.tensor([[first], [second]])  # (2, 1, 2, 3)
    features = torch.tensor([[[1.0], [5.0]], [[2.0], [7.0]]])
    tokens = pool_spatial_tokens(features, xyz, NoEmbedding(), 0.2)
    assert tokens.features[:, 0].tolist() == [7.0, 5.0, 1.5]
    assert tokens.num_patches.tolist() == [1, 1, 2]
    assert torch.allclose(tokens.xyz_m[2], torch.tensor([0.995, 0.005, 0.0]))


def test_invalid_patches_are_dropped_by_default_only() -> None:
    """The reference keeps a patch without depth as a token at the camera centre."""
    xyz = torch.tensor([[[[NAN, NAN, NAN], [1.0, 1.0, 1.0]]]])
    features = torch.tensor([[[100.0], [3.0]]])
    assert pool_spatial_tokens(features, xyz, NoEmbedding(), 0.2).features.tolist() == [[3.0]]
    kept = pool_spatial_tokens(features, xyz.nan_to_num(0.0), NoEmbedding(), 0.2, keep_invalid=True)
    assert kept.features.tolist() == [[100.0], [3.0]]


def test_no_valid_patch_gives_no_token() -> None:
    tokens = pool_spatial_tokens(
        torch.ones(1, 1, 1), torch.full((1, 1, 1, 3), NAN), NoEmbedding(), 0.2
    )
    assert tokens.features.shape == (0, 1)


def test_embedding_is_added_per_patch_and_pooled_in_float32() -> None:
    """Mean of (feature + embedding), not embedding of the mean; geometry stays in 32 bits."""
    torch.manual_seed(0)
    encoder = PointEncoder(8).requires_grad_(False)
    xyz = torch.rand(1, 3, 3, 3) * 0.05 + 4.0
    features = torch.randn(1, 9, 8)
    tokens = pool_spatial_tokens(features.bfloat16(), xyz, encoder, 1.0)
    expected = (features[0].bfloat16() + encoder(xyz.reshape(-1, 3)).bfloat16()).float().mean(dim=0)
    assert tokens.features.dtype == torch.bfloat16
    assert torch.allclose(tokens.features[0].float(), expected, atol=0.02)
    assert torch.allclose(tokens.xyz_m[0], xyz.reshape(-1, 3).mean(dim=0), atol=1e-5)


def test_cap_is_spread_sorted_and_the_same_every_time() -> None:
    tokens = SpatialTokens(
        torch.arange(10.0)[:, None], torch.zeros(10, 3), torch.ones(10, dtype=torch.int64), 0.2
    )
    assert cap_spatial_tokens(tokens, 10) is tokens
    assert cap_spatial_tokens(tokens, 4).features[:, 0].tolist() == [0.0, 2.0, 5.0, 7.0]
    torch.manual_seed(3)
    scrambled = cap_spatial_tokens(tokens, 4, scramble=True).features[:, 0]
    torch.manual_seed(3)
    assert scrambled.tolist() == torch.randperm(10)[:4].tolist()
