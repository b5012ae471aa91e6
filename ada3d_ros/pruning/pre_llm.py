"""Strategies before the decoder: select (and merge) spatial tokens by features and places.

All but `cond_dpp` use the scene alone, so their selection serves every question about it. Written
from the papers' descriptions; sources in docs/pruning.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from ada3d_ros.config import PruningConfig
from ada3d_ros.config.pruning import CONTROLS, PRE_LLM
from ada3d_ros.errors import ConfigError, ModelError
from ada3d_ros.pruning.strategy import load_strategy

NAMES = (*CONTROLS[1:], *PRE_LLM)


@dataclass(frozen=True, eq=False, slots=True)
class Candidates:
    """What can be selected.

    features (N, C); xyz_m (N, 3) float32 in metres, or in 2D (column, row, 0) in patches;
    num_patches (N,) that each stands for; the size of a voxel (in 2D 1); relevance (N,) float32 in
    0..1 to the question, None for strategies that are not conditioned on it.
    """

    features: torch.Tensor
    xyz_m: torch.Tensor
    num_patches: torch.Tensor
    voxel_size_m: float
    relevance: torch.Tensor | None = None

    def cosines(self) -> torch.Tensor:
        """Cosine similarity of all pairs of features, (N, N) float32."""
        unit = F.normalize(self.features.float(), dim=1)
        # 1 with itself exactly, so that which token a DPP starts from is no matter of rounding
        return (unit @ unit.T).fill_diagonal_(1.0)

    def distances_m(self) -> torch.Tensor:
        """Distance of all pairs of places, (N, N) float32."""
        # exact far from the map's origin too, where |a|^2 + |b|^2 - 2ab is metres off
        return torch.cdist(self.xyz_m, self.xyz_m, compute_mode="donot_use_mm_for_euclid_dist")


@dataclass(frozen=True, eq=False, slots=True)
class Selection:
    """Which of N candidates stay, and which are averaged into which.

    kept (k,) int64: their indices, in the order of selection; groups (N,) int64: for each candidate
    the place in `kept` of the one it is averaged into, -1 = dropped; weights (N,) float32 of that
    average; merges False: nothing is averaged.
    """

    kept: torch.Tensor
    groups: torch.Tensor
    weights: torch.Tensor
    merges: bool = True

    @classmethod
    def without_merging(cls, kept: torch.Tensor, total: int) -> Selection:
        """Everything but kept (k,) of the `total` candidates is dropped."""
        groups = torch.full((total,), -1, dtype=torch.int64, device=kept.device)
        groups[kept] = torch.arange(len(kept), device=kept.device)
        return cls(kept, groups, torch.ones(total, device=kept.device), merges=False)

    def in_order(self) -> Selection:
        """The same with `kept` ascending."""
        kept, order = torch.sort(self.kept)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        groups = torch.where(self.groups >= 0, place[self.groups.clamp(min=0)], self.groups)
        return replace(self, kept=kept, groups=groups)

    def merge(self, values: torch.Tensor) -> torch.Tensor:
        """Values (N, C) to (k, C): weighted means of the groups, summed in float32, fixed order."""
        if not self.merges:
            return values[self.kept]
        places = torch.arange(len(self.kept), device=self.groups.device)
        share = (self.groups == places[:, None]).float() * self.weights  # (k, N)
        share = share / share.sum(dim=1, keepdim=True)
        return (share @ values.float()).to(values.dtype)


def select(name: str, candidates: Candidates, budget: int, config: PruningConfig) -> Selection:
    """Select `budget` of the candidates (coarse_voxels: at most that many) by the strategy `name`.

    Raises ConfigError for an unknown name or a budget outside 1..N, ModelError for features that
    are not finite.
    """
    # Check what was asked for.
    total = candidates.features.shape[0]
    if name not in NAMES:
        raise ConfigError(
            f"{name!r} is not a strategy before the language model; allowed: {', '.join(NAMES)}."
        )
    if not 1 <= budget <= total:
        raise ConfigError(
            f"a budget of {budget} tokens for {name}; allowed: 1 to {total}, the tokens there are."
        )

    # Check the numbers: NaN has no rank, and would be kept or dropped at random.
    inputs = {"spatial features": candidates.features, "relevance": candidates.relevance}
    for what, values in inputs.items():
        if values is not None and not bool(torch.isfinite(values).all()):
            raise ModelError(
                f"{name}: {what} are not finite (NaN); the weights are damaged or overflowed."
            )

    # Select by the strategy's own file.
    if budget == total:
        every = torch.arange(total, device=candidates.features.device)
        return Selection.without_merging(every, total)
    strategy = load_strategy(name)
    selection: Selection = strategy.select(candidates, budget, strategy.read_settings(config))
    return selection


def patch_grid(num_patches: int, device: torch.device | None = None) -> torch.Tensor:
    """(P, 3) float32: column, row, 0 of an image's patches in row-major order; xyz in 2D."""
    side = round(num_patches**0.5)
    index = torch.arange(num_patches, device=device)
    return torch.stack((index % side, index // side, torch.zeros_like(index)), dim=1).float()
