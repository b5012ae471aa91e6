"""The LEO-VL family (arXiv 2506.09935): a grid on the floor, each cell's column pooled into one.

From the paper: voxels with an embedding of their height are condensed along the vertical into the
cells of a 2D grid, and the grid is what the language model is trained on. Here the language model
stays as it is, so only the pooling can learn: the share that each voxel has in its column's mean,
by a small network on its feature, which holds its place and so its height (`lab/train/pooling.py`).
A column lies where its voxels do, weighed by the same shares. Further: the cells' size follows from
the budget, and what the finest grid within it leaves over goes to the fullest columns, cut in
height. Without a trained file every voxel of a column has the same share.
"""

from __future__ import annotations

import functools
import heapq
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional as F

from ada3d_ros.config.pruning import CondensedGridConfig, PruningConfig
from ada3d_ros.errors import ConfigError
from ada3d_ros.pruning.baselines import coarse_voxels
from ada3d_ros.pruning.strategy import Candidates, Selection, Traits

EMBEDDED = Path(__file__).parents[2] / "models" / "embedded" / "pooling.safetensors"
TENSORS = ("in.weight", "in.bias", "out.weight")


def read_settings(config: PruningConfig) -> CondensedGridConfig:
    return config.condensed_grid


def traits(settings: CondensedGridConfig) -> Traits:
    """Raises ConfigError for a file that is none: when it is set, not at the first question."""
    if settings.file:
        read_pooling(settings.file)
    return Traits()


def select(candidates: Candidates, budget: int, settings: CondensedGridConfig) -> Selection:
    """Exactly `budget` groups of voxels above each other, as pooled by the file.

    Raises ConfigError for a file that is none, or of features of another width.
    """
    groups = columns(candidates, budget)
    scores = torch.zeros(len(groups), device=groups.device)
    if settings.file:
        pooling, width = read_pooling(settings.file), candidates.features.shape[1]
        if pooling["in.weight"].shape[1] != width:
            raise ConfigError(
                f"pruning.condensed_grid.file = {settings.file!r} was trained on features of"
                f" {pooling['in.weight'].shape[1]} numbers, this model's have {width}: train one"
                " for it (tools/train_pooling.py), or leave it empty to pool evenly."
            )
        scores = score(candidates.features, {k: v.to(groups.device) for k, v in pooling.items()})
    return condense(groups, scores, budget)


def condense(groups: torch.Tensor, scores: torch.Tensor, budget: int) -> Selection:
    """Each group's mean by shares that go as exp(scores); gradients reach the scores (N,)."""
    fixed = scores.detach()
    largest = fixed.new_full((budget,), -torch.inf).scatter_reduce(0, groups, fixed, "amax")
    weights = torch.exp(scores - largest[groups])

    # The voxel with the largest share stands for it; of equals the lowest index.
    order = torch.argsort(fixed, descending=True, stable=True)
    order = order[torch.argsort(groups[order], stable=True)]
    sizes = torch.bincount(groups, minlength=budget)
    return Selection(order[torch.cumsum(sizes, dim=0) - sizes], groups, weights)


def columns(candidates: Candidates, budget: int) -> torch.Tensor:
    """The group (N,) of each voxel: the columns of the finest grid with at most `budget` of them,
    the fullest cut in two by height until there are as many.
    """
    # Columns: larger voxels of places without a height.
    total = len(candidates.xyz_m)
    flat = candidates.xyz_m * candidates.xyz_m.new_tensor([1.0, 1.0, 0.0])
    groups = coarse_voxels.select(replace(candidates, xyz_m=flat), budget, None).groups

    # Each with its voxels from the lowest to the highest, named by their rank in that order.
    upwards = torch.arange(total, device=groups.device)
    for axis in (0, 1, 2):
        upwards = upwards[torch.argsort(candidates.xyz_m[upwards, axis], stable=True)]
    members: dict[int, list[int]] = {}
    for rank, group in enumerate(groups[upwards].tolist()):
        members.setdefault(group, []).append(rank)

    # The fullest first; of equals the one that begins lowest.
    heap = [(-len(column), column[0], column) for column in members.values()]
    heapq.heapify(heap)
    while len(heap) < budget:
        _, _, column = heapq.heappop(heap)
        half = len(column) // 2
        for part in (column[:half], column[half:]):
            heapq.heappush(heap, (-len(part), part[0], part))
    by_rank = torch.empty(total, dtype=torch.int64)
    for number, (_, _, column) in enumerate(sorted(heap, key=lambda entry: entry[1])):
        by_rank[column] = number
    return torch.empty_like(upwards).index_put_((upwards,), by_rank.to(groups.device))


def score(features: torch.Tensor, pooling: dict[str, torch.Tensor]) -> torch.Tensor:
    """(N,) float32 of features (N, C): the logarithm of each voxel's share, up to its column's sum.

    Two layers on features of unit RMS.
    """
    normed = F.rms_norm(features.float(), features.shape[1:])
    hidden = F.gelu(F.linear(normed, pooling["in.weight"], pooling["in.bias"]))
    return F.linear(hidden, pooling["out.weight"])[:, 0]


@functools.lru_cache(maxsize=4)
def read_pooling(file: str) -> dict[str, torch.Tensor]:
    """The tensors of a file, or of the embedded model's own for 'embedded'.

    Raises ConfigError for a file that is none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file  # loaded where it is needed

    path = EMBEDDED if file == "embedded" else Path(file).expanduser()
    again = "write one with `python tools/train_pooling.py`, or leave it empty to pool evenly"
    try:
        tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"pruning.condensed_grid.file: {path} cannot be read as a pooling ({error}): {again}."
        ) from None
    if tensors.keys() != set(TENSORS):
        raise ConfigError(
            f"pruning.condensed_grid.file: {path} holds {', '.join(sorted(tensors))}; expected"
            f" {', '.join(TENSORS)}: {again}."
        )
    return tensors
