"""How much of the room the kept tokens still cover: attention can empty one side of it unseen."""

from __future__ import annotations

import torch

from ada3d_ros.geometry.voxel import voxel_coords, voxel_ids

CELL_M = 0.5


def cell_coverage(xyz_m: torch.Tensor, kept: torch.Tensor, cell_m: float = CELL_M) -> float:
    """Share of the cells occupied by xyz_m (N, 3) that hold one of the kept (k,) indices."""
    ids, occupied = voxel_ids(voxel_coords(xyz_m, cell_m))
    return float(ids[kept].unique().numel()) / max(len(occupied), 1)


def position_bias(xyz_m: torch.Tensor, kept: torch.Tensor) -> float:
    """Mean rank in 0..1 of the kept indices among all N.

    0.5 without bias, above it where late tokens are preferred (LLaVA-3D's tokens are sorted by x
    first, so this is the room's far side in x).
    """
    total = xyz_m.shape[0]
    return float(kept.double().mean()) / max(total - 1, 1)
