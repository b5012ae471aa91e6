"""A control, strategy `random`: tokens by a seeded permutation, the same on every device."""

from __future__ import annotations

import torch

from ada3d_ros.config.pruning import PruningConfig
from ada3d_ros.pruning.strategy import Candidates, Selection, Traits


def read_settings(config: PruningConfig) -> int:
    """The seed."""
    return config.seed


def traits(settings: int) -> Traits:
    return Traits(is_nested=True)


def select(candidates: Candidates, budget: int, settings: int) -> Selection:
    total = candidates.features.shape[0]
    order = torch.randperm(total, generator=torch.Generator().manual_seed(settings))
    return Selection.without_merging(order[:budget].to(candidates.features.device), total)
