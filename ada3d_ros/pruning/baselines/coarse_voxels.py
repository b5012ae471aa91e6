"""Larger voxels, as fine as the budget allows; tokens of one voxel become their mean."""

from __future__ import annotations

import torch

from ada3d_ros.config.pruning import PruningConfig
from ada3d_ros.geometry.voxel import voxel_coords, voxel_ids
from ada3d_ros.pruning.strategy import Candidates, Selection, Traits

NUM_BISECTIONS = 30


def read_settings(config: PruningConfig) -> None:
    return None


def traits(settings: None) -> Traits:
    return Traits()


def select(candidates: Candidates, budget: int, settings: None) -> Selection:
    """At most `budget` voxels; means are weighted by the tokens' patches."""
    # The voxel size by bisection: from the scene's own to one voxel for all.
    xyz = candidates.xyz_m
    best = voxel_ids(torch.zeros_like(xyz, dtype=torch.int64))
    low = candidates.voxel_size_m
    high = float((xyz.amax(dim=0) - xyz.amin(dim=0)).max()) * 2 + low
    for _ in range(NUM_BISECTIONS):
        size = (low * high) ** 0.5
        found = voxel_ids(voxel_coords(xyz, size))
        if len(found[1]) > budget:
            low = size
            continue
        high = size
        if len(found[1]) >= len(best[1]):  # not monotone in the size: keep the finest found
            best = found

    # The first token of each voxel stands for it.
    groups, occupied = best
    index = torch.arange(len(groups), device=groups.device)
    first = torch.full((len(occupied),), len(groups), dtype=torch.int64, device=groups.device)
    kept = first.scatter_reduce(0, groups, index, "amin")
    return Selection(kept, groups, candidates.num_patches.float())
