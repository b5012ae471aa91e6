"""From patch features and depth to spatial tokens: position embedding, voxel pooling, token cap.

Geometry is float32 always, whatever the dtype of the weights. Reference:
llava/model/multimodal_encoder (unproject.py, video_encoder.py, spatial_aware_module.py); what
preset `default` does otherwise is said per function.
"""

from __future__ import annotations

import torch
from torch import nn

from ada3d_ros.geometry.unproject import unproject_grid
from ada3d_ros.geometry.voxel import to_device
from ada3d_ros.scene.voxel_table import VoxelSums, VoxelTable
from ada3d_ros.types import MultiViewInput, SpatialTokens


class PointEncoder(nn.Sequential):
    """An MLP on points in metres: the 3D position embedding, and the click encoder.

    Linear(3, C), LayerNorm, ReLU, Linear(C, C). Its weights stay float32 under every model dtype:
    16-bit metres have steps of 3 cm at 4 m.
    """

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Linear(3, width), nn.LayerNorm(width, eps=1e-5), nn.ReLU(), nn.Linear(width, width)
        )


def sample_patch_points(views: MultiViewInput, patches_per_side: int) -> torch.Tensor:
    """World point of every patch, (V, p, p, 3) float32 metres: that of the patch's top-left pixel.

    The reference resizes the point map with nearest interpolation, which takes pixel floor(i * S /
    p); the published weights were trained with it.
    """
    side, device = views.depth_m.shape[-1], views.depth_m.device
    corner = torch.arange(patches_per_side, device=device) * side // patches_per_side
    depth_m, pixels = views.depth_m[:, corner][:, :, corner].float(), corner.float()
    return unproject_grid(pixels, pixels, depth_m, views.K.float(), views.T_world_cam.float())


def sum_view(
    features: torch.Tensor,
    xyz_m: torch.Tensor,
    position_embedding: nn.Module,
    voxel_size_m: float,
    keep_invalid: bool = False,
) -> VoxelSums:
    """What one view adds to a scene: patch features with their 3D position embedding, per voxel.

    Summed in float32, in patch order. features (P, C) in the model's dtype; xyz_m (P, 3) float32
    metres, world, best on the CPU, where voxels are told apart. Patches without a finite point are
    dropped; with keep_invalid (preset `reference`, whose depth is never NaN) nothing is.
    """
    xyz_m = xyz_m.cpu()
    if not keep_invalid:
        valid = torch.nonzero(torch.isfinite(xyz_m).all(dim=-1))[:, 0]
        features, xyz_m = features[to_device(valid, features.device)], xyz_m[valid]
    places = position_embedding(to_device(xyz_m, features.device))
    return VoxelSums.from_patches(features + places.to(features.dtype), xyz_m, voxel_size_m)


def mean_tokens(sums: VoxelSums, dtype: torch.dtype, voxel_size_m: float) -> SpatialTokens:
    """One token per voxel, ascending x, y, z of the world: the means, features in `dtype`."""
    counts, device = sums.num_patches[:, None], sums.features.device
    features = (sums.features / to_device(counts, device)).to(dtype)
    places, patches = to_device(sums.xyz_m / counts, device), to_device(sums.num_patches, device)
    return SpatialTokens(features, places, patches, voxel_size_m)


def pool_spatial_tokens(
    patch_features: torch.Tensor,
    patch_xyz: torch.Tensor,
    position_embedding: nn.Module,
    voxel_size_m: float,
    keep_invalid: bool = False,
) -> SpatialTokens:
    """One token per occupied voxel: the mean over all patches of all views in it.

    patch_features (V, P, C) in the model's dtype, the 3D position embedding is added; patch_xyz
    (V, p, p, 3) float32 metres, world, P = p * p.
    """
    table = VoxelTable()
    for view, (features, xyz) in enumerate(zip(patch_features, patch_xyz, strict=True)):
        points = xyz.reshape(-1, 3)
        table.add(view, sum_view(features, points, position_embedding, voxel_size_m, keep_invalid))
    return mean_tokens(table.sums, patch_features.dtype, voxel_size_m)


def cap_spatial_tokens(tokens: SpatialTokens, cap: int, scramble: bool = False) -> SpatialTokens:
    """At most `cap` tokens. An evenly spread subset in sorted order, the same one every time.

    With scramble (preset `reference`): torch.randperm(N)[:cap] on the global CPU generator, which
    picks a random subset and loses the order, as the reference does (llava_arch.py,
    prepare_inputs_labels_for_multimodal).
    """
    count = tokens.features.shape[0]
    if count <= cap:
        return tokens
    keep = torch.randperm(count)[:cap] if scramble else torch.arange(cap) * count // cap
    keep = to_device(keep, tokens.features.device)
    return SpatialTokens(
        tokens.features[keep], tokens.xyz_m[keep], tokens.num_patches[keep], tokens.voxel_size_m
    )
