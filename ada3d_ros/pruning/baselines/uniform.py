"""A control: every N/k-th token in the scene's own order (x-major)."""

from __future__ import annotations

import torch

from ada3d_ros.config.pruning import PruningConfig
from ada3d_ros.pruning.strategy import Candidates, Selection, Traits


def read_settings(config: PruningConfig) -> None:
    return None


def traits(settings: None) -> Traits:
    return Traits()


def select(candidates: Candidates, budget: int, settings: None) -> Selection:
    total = candidates.features.shape[0]
    kept = torch.arange(budget, device=candidates.features.device) * total // budget
    return Selection.without_merging(kept, total)
