"""Strategies before the decoder: choose (and merge) spatial tokens by their features and places.

All but `cond_dpp` look at the scene alone, so their choice can be kept for every question about it.
The orders of random, geo_fps (without a salient share) and the DPPs are nested: the first k are the
choice for budget k. Written from the papers' descriptions; sources in docs/pruning.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from ada3d_ros.config import PruningConfig
from ada3d_ros.errors import ConfigError, ModelError
from ada3d_ros.geometry.voxel import voxel_coords, voxel_ids

JITTER = 1e-3  # relative, on a DPP kernel's diagonal
QUERY_CONDITIONED = ("cond_dpp",)


@dataclass(frozen=True, eq=False, slots=True)
class Candidates:
    """What can be chosen from: features (N, C); xyz_m (N, 3) float32 in metres, or in 2D (column,
    row, 0) in patches; num_patches (N,) that each stands for; the size of a voxel (in 2D 1);
    relevance (N,) float32 in 0..1 to the question, None for strategies that do not ask.
    """

    features: torch.Tensor
    xyz_m: torch.Tensor
    num_patches: torch.Tensor
    voxel_size_m: float
    relevance: torch.Tensor | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Selection:
    """kept (k,) int64: indices into the N candidates, in the order of choice; groups (N,) int64:
    for each candidate the place in `kept` of the one it is averaged into, -1 = dropped; weights
    (N,) float32 of that average.
    """

    kept: torch.Tensor
    groups: torch.Tensor
    weights: torch.Tensor
    merges: bool = True  # False: nothing is averaged

    def in_order(self) -> Selection:
        """The same with `kept` ascending."""
        kept, order = torch.sort(self.kept)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        groups = torch.where(self.groups >= 0, place[self.groups.clamp(min=0)], self.groups)
        return replace(self, kept=kept, groups=groups)

    def merge(self, values: torch.Tensor) -> torch.Tensor:
        """Values (N, C) to (k, C): weighted means of the groups, summed in float32 in fixed order."""
        if not self.merges:
            return values[self.kept]
        places = torch.arange(len(self.kept), device=self.groups.device)
        share = (self.groups == places[:, None]).float() * self.weights  # (k, N)
        share = share / share.sum(dim=1, keepdim=True)
        return (share @ values.float()).to(values.dtype)


def _only(kept: torch.Tensor, total: int) -> Selection:
    """Nothing is merged: everything not kept is dropped."""
    groups = torch.full((total,), -1, dtype=torch.int64, device=kept.device)
    groups[kept] = torch.arange(len(kept), device=kept.device)
    return Selection(kept, groups, torch.ones(total, device=kept.device), merges=False)


def select(name: str, candidates: Candidates, budget: int, config: PruningConfig) -> Selection:
    """Choose `budget` of the candidates (coarse_voxels: at most that many) by the strategy `name`.

    Raises ConfigError for an unknown name or a budget outside 1..N, ModelError for features that
    are not finite.
    """
    total = candidates.features.shape[0]
    if name not in SELECTORS:
        raise ConfigError(
            f"{name!r} is not a strategy before the language model; allowed:"
            f" {', '.join(SELECTORS)}."
        )
    if not 1 <= budget <= total:
        raise ConfigError(
            f"a budget of {budget} tokens for {name}; allowed: 1 to {total}, the tokens there are."
        )
    for what, values in (
        ("spatial features", candidates.features),
        ("relevance", candidates.relevance),
    ):
        if values is not None and not bool(torch.isfinite(values).all()):
            raise ModelError(
                f"{name}: {what} are not finite (NaN); the weights are damaged or overflowed."
            )
    if budget == total:
        return _only(torch.arange(total, device=candidates.features.device), total)
    return SELECTORS[name](candidates, budget, config)


def _random(candidates: Candidates, budget: int, config: PruningConfig) -> Selection:
    total = candidates.features.shape[0]
    order = torch.randperm(total, generator=torch.Generator().manual_seed(config.seed))
    return _only(order[:budget].to(candidates.features.device), total)


def _uniform(candidates: Candidates, budget: int, config: PruningConfig) -> Selection:
    """Every N/k-th token in the scene's own order (x-major)."""
    total = candidates.features.shape[0]
    return _only(torch.arange(budget, device=candidates.features.device) * total // budget, total)


def _cosines(features: torch.Tensor) -> torch.Tensor:
    """Of all pairs, (N, N) float32; 1 with itself exactly, so that which token a DPP starts from is
    no matter of rounding.
    """
    unit = F.normalize(features.float(), dim=1)
    return (unit @ unit.T).fill_diagonal_(1.0)


def _distances(xyz_m: torch.Tensor) -> torch.Tensor:
    """Of all pairs, (N, N) metres; exact far from the map's origin too, where |a|^2 + |b|^2 - 2ab
    is metres off.
    """
    return torch.cdist(xyz_m, xyz_m, compute_mode="donot_use_mm_for_euclid_dist")


def _with_jitter(kernel: torch.Tensor) -> torch.Tensor:
    """The kernel with a diagonal larger by JITTER, so that more items than features can be ordered."""
    kernel.diagonal().mul_(1.0 + JITTER)
    return kernel


def greedy_dpp(kernel: torch.Tensor, count: int) -> torch.Tensor:
    """Indices (count,) of greedy MAP inference of the DPP with kernel (N, N): each time the item
    that adds most to the determinant, by updating the Cholesky factor (Chen et al. 2018). Of equals
    the lowest index.
    """
    total = kernel.shape[0]
    gains = kernel.diagonal().clone()
    factor = kernel.new_zeros(count, total)
    order = torch.empty(count, dtype=torch.int64, device=kernel.device)
    for step in range(count):
        best = gains.argmax().view(1)
        order[step : step + 1] = best
        known = factor[:step]
        row = kernel.index_select(0, best)[0] - known.index_select(1, best)[:, 0] @ known
        row = row / gains.index_select(0, best).clamp(min=1e-12).sqrt()
        factor[step] = row
        gains = gains - row.square()
        gains.index_fill_(0, best, float("-inf"))
    return order


def _voxel_dpp(candidates: Candidates, budget: int, config: PruningConfig) -> Selection:
    """The 3DZip family: a DPP on the cosines of voxel features, the rest merged into the nearest
    anchor by cosine.
    """
    cosines = _cosines(candidates.features)
    kept = greedy_dpp(_with_jitter(cosines.clone()), budget)
    chosen = _only(kept, len(cosines))
    if not config.voxel_dpp.merge:
        return chosen
    radius_m = config.voxel_dpp.merge_radius_voxels * candidates.voxel_size_m
    far = _distances(candidates.xyz_m)[:, kept] > radius_m
    likeness, nearest = cosines[:, kept].masked_fill(far, float("-inf")).max(dim=1)
    merged = torch.where(torch.isfinite(likeness), nearest, -1)
    return replace(
        chosen, groups=torch.where(chosen.groups >= 0, chosen.groups, merged), merges=True
    )


def _cond_dpp(candidates: Candidates, budget: int, config: PruningConfig) -> Selection:
    """The CDPruner family: a DPP on relevance x cosine x relevance; asks the question, so it cannot
    be kept for the next.
    """
    if candidates.relevance is None:
        raise ConfigError(
            "cond_dpp needs the question: it cannot choose for a scene alone. Use voxel_dpp for"
            " that."
        )
    weight = candidates.relevance.clamp(min=1e-3)  # the least relevant can still be chosen
    kernel = weight[:, None] * _cosines(candidates.features) * weight
    kept = greedy_dpp(_with_jitter(kernel), budget)
    return _only(kept, len(kernel))


def _geo_fps(candidates: Candidates, budget: int, config: PruningConfig) -> Selection:
    """The SeGPruner family: farthest-point sampling on lam d_xyz / d_max + (1 - lam)(1 - cosine).

    Starts from the most distinct token, the one least like the scene's mean feature; salient_share
    of the budget goes to the next most distinct ones first.
    """
    lam, features, xyz = config.geo_fps.lam, candidates.features.float(), candidates.xyz_m
    extent = (xyz.amax(dim=0) - xyz.amin(dim=0)).norm().clamp(min=1e-6)
    distance = lam * _distances(xyz) / extent + (1.0 - lam) * (1.0 - _cosines(features))
    likeness = F.normalize(features, dim=1) @ F.normalize(features.mean(dim=0), dim=0)
    salient = torch.sort(likeness, stable=True).indices[
        : max(1, int(config.geo_fps.salient_share * budget))
    ]
    order = torch.empty(budget, dtype=torch.int64, device=xyz.device)
    order[: len(salient)] = salient
    nearest = distance[salient].amin(dim=0).index_fill(0, salient, float("-inf"))
    for step in range(len(salient), budget):
        best = nearest.argmax().view(1)
        order[step : step + 1] = best
        nearest = torch.minimum(nearest, distance.index_select(0, best)[0]).index_fill(
            0, best, float("-inf")
        )
    return _only(order, len(xyz))


def _coarse_voxels(candidates: Candidates, budget: int, config: PruningConfig) -> Selection:
    """Larger voxels, as fine as the budget allows: tokens of one voxel become their mean, weighted
    by their patches.
    """
    best = voxel_ids(torch.zeros_like(candidates.xyz_m, dtype=torch.int64))
    low = candidates.voxel_size_m
    high = float((candidates.xyz_m.amax(dim=0) - candidates.xyz_m.amin(dim=0)).max()) * 2 + low
    for _ in range(30):
        size = (low * high) ** 0.5
        found = voxel_ids(voxel_coords(candidates.xyz_m, size))
        if len(found[1]) <= budget:
            high = size
            if len(found[1]) >= len(best[1]):
                best = found
        else:
            low = size
    groups, occupied = best
    total = len(groups)
    first = torch.full((len(occupied),), total, dtype=torch.int64, device=groups.device)
    kept = first.scatter_reduce(0, groups, torch.arange(total, device=groups.device), "amin")
    return Selection(kept, groups, candidates.num_patches.float())


Selector = Callable[[Candidates, int, PruningConfig], Selection]
SELECTORS: dict[str, Selector] = {
    "random": _random,
    "uniform": _uniform,
    "coarse_voxels": _coarse_voxels,
    "geo_fps": _geo_fps,
    "cond_dpp": _cond_dpp,
    "voxel_dpp": _voxel_dpp,
}


def patch_grid(num_patches: int, device: torch.device | None = None) -> torch.Tensor:
    """(P, 3) float32: column, row, 0 of an image's patches in row-major order; they stand in for
    xyz in 2D.
    """
    side = round(num_patches**0.5)
    index = torch.arange(num_patches, device=device)
    return torch.stack((index % side, index // side, torch.zeros_like(index)), dim=1).float()
