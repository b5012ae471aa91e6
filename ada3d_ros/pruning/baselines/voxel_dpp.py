"""The 3DZip family: a DPP on the cosines of voxel features, the rest merged into its anchors."""

from __future__ import annotations

from dataclasses import replace

import torch

from ada3d_ros.config.pruning import PruningConfig, VoxelDppConfig
from ada3d_ros.pruning.strategy import Candidates, Selection, Traits

JITTER = 1e-3  # relative, on a DPP kernel's diagonal


def read_settings(config: PruningConfig) -> VoxelDppConfig:
    return config.voxel_dpp


def traits(settings: VoxelDppConfig) -> Traits:
    return Traits(is_nested=True)


def select(candidates: Candidates, budget: int, settings: VoxelDppConfig) -> Selection:
    """Anchors by greedy DPP; every other token joins the most similar anchor within the radius."""
    # Anchors.
    cosines = candidates.cosines()
    kept = greedy_dpp(with_jitter(cosines.clone()), budget)
    anchors = Selection.without_merging(kept, len(cosines))
    if not settings.merge:
        return anchors

    # The most similar anchor of every token; -1 where none is near.
    radius_m = settings.merge_radius_voxels * candidates.voxel_size_m
    far = candidates.distances_m()[:, kept] > radius_m
    similarity, nearest = cosines[:, kept].masked_fill(far, float("-inf")).max(dim=1)
    joined = torch.where(torch.isfinite(similarity), nearest, -1)
    groups = torch.where(anchors.groups >= 0, anchors.groups, joined)
    return replace(anchors, groups=groups, merges=True)


def with_jitter(kernel: torch.Tensor) -> torch.Tensor:
    """The kernel (in place), its diagonal larger by JITTER: items may outnumber the features."""
    kernel.diagonal().mul_(1.0 + JITTER)
    return kernel


def greedy_dpp(kernel: torch.Tensor, count: int) -> torch.Tensor:
    """Indices (count,) of greedy MAP inference of the DPP with kernel (N, N).

    Each time the item that adds most to the determinant, by updating the Cholesky factor (Chen et
    al. 2018, algorithm 1). Of equals the lowest index. No host synchronisation.
    """
    total = kernel.shape[0]
    gains = kernel.diagonal().clone()
    factor = kernel.new_zeros(count, total)
    order = torch.empty(count, dtype=torch.int64, device=kernel.device)
    for step in range(count):
        # The item with the largest gain.
        best = gains.argmax().view(1)
        order[step : step + 1] = best

        # Its row of the Cholesky factor, which every other item's gain falls by.
        known = factor[:step]
        row = kernel.index_select(0, best)[0] - known.index_select(1, best)[:, 0] @ known
        row = row / gains.index_select(0, best).clamp(min=1e-12).sqrt()
        factor[step] = row
        gains = gains - row.square()
        gains.index_fill_(0, best, float("-inf"))
    return order
