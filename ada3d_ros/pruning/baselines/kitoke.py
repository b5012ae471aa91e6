"""The KiToke family (arXiv 2604.03414): diversity by a kernel over all tokens, the rest merged.

From the paper: without the question, each token's redundancy is its kernel density among all tokens
of the input, its diversity the inverse; the budget goes to the most diverse; what is not chosen is
merged with weights of diversity. Open there, or another here: the kernel is a Gaussian of unit
features with a bandwidth of ours; the choice is greedy and deterministic, each time the diversity
is weighed by how new a token is beside those chosen; tokens here are voxels of one room and have no
time, so a merge stays within a distance in space instead of an interval of frames.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ada3d_ros.config.pruning import KitokeConfig, PruningConfig
from ada3d_ros.pruning.strategy import Candidates, Selection, Traits


def read_settings(config: PruningConfig) -> KitokeConfig:
    return config.kitoke


def traits(settings: KitokeConfig) -> Traits:
    return Traits(is_nested=True)


def select(candidates: Candidates, budget: int, settings: KitokeConfig) -> Selection:
    """Each time the token with the most diversity x novelty, 1 - its kernel with the nearest chosen
    one: a copy of a chosen token has none, so it comes behind everything distinct.

    Every other token joins the chosen one that it is most alike, within the radius; else it goes.
    """
    # Diversity, the inverse of the kernel density.
    kernel = torch.exp((candidates.cosines().clamp(max=1.0) - 1.0) / settings.bandwidth**2)
    diversity = 1.0 / kernel.sum(dim=1)

    # The choice; what is chosen has -1.
    novelty = torch.ones_like(diversity)
    kept = torch.empty(budget, dtype=torch.int64, device=kernel.device)
    for step in range(budget):
        best = (diversity * novelty).argmax().view(1)
        kept[step : step + 1] = best
        novelty = torch.minimum(novelty, 1.0 - kernel.index_select(0, best)[0])
        novelty.index_fill_(0, kept[: step + 1], -1.0)
    chosen = Selection.without_merging(kept, len(kernel))

    # The others, into the nearest by features of those nearby.
    radius_m = settings.merge_radius_voxels * candidates.voxel_size_m
    far = candidates.distances_m()[:, kept] > radius_m
    likeness, nearest = kernel[:, kept].masked_fill(far, -1.0).max(dim=1)
    joined = torch.where(likeness >= 0.0, nearest, -1)
    groups = torch.where(chosen.groups >= 0, chosen.groups, joined)
    return replace(chosen, groups=groups, weights=diversity, merges=True)
