"""The HoliTom family's outer merge (arXiv 2505.21334): segments of a redundant axis, then clusters.

From the paper: dynamic programming cuts the frames of a video into the windows in which most
patches stay alike from frame to frame; those become their mean over the window; what is left,
static by window and the rest by frame, is clustered by density peaks (DPC-KNN) to the budget.

A voxel is the mean of all frames that saw it, so there is no time left to be redundant: the longer
horizontal axis of the room stands in for it, a slice of voxels across it for a frame, a voxel's
place in its slice for a patch (in 2D: columns of patches). A voxel's feature holds its place, which
makes all neighbours alike (on drawn rooms cosine .92 across the edges of things, .99 within them):
what a quadratic of the place explains is taken out first (.37 and .96).

Further: tau is raised where merging alone would leave fewer tokens than the budget; a part of a
room too small for a cluster of its own joins the nearest cluster instead of going, so that no token
is dropped; ties go to the lower index and not to noise. The half inside the language model is not
here: `holitom+fastv` is near it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch

from ada3d_ros.config.pruning import HolitomConfig, PruningConfig
from ada3d_ros.geometry.voxel import voxel_coords
from ada3d_ros.pruning.strategy import Candidates, Selection, Traits

NUM_BISECTIONS = 12  # of tau
RIDGE = 1e-9  # for places on a plane or a line


def read_settings(config: PruningConfig) -> HolitomConfig:
    return config.holitom


def traits(settings: HolitomConfig) -> Traits:
    return Traits()


@dataclass(frozen=True, eq=False, slots=True)
class Slices:
    """A room in S slices with C places each.

    table (S, C): the token there, -1 = none; alike (S - 1, C): cosine of the tokens of a place in a
    slice and the next, -2 where one is missing or the slices do not touch; slice_of (N,).
    """

    table: torch.Tensor
    alike: torch.Tensor
    slice_of: torch.Tensor


def select(candidates: Candidates, budget: int, settings: HolitomConfig) -> Selection:
    """Every token in one of `budget` groups; a run of alike ones counts as one token in it."""
    # Runs of tokens that stay alike along the axis, which count as one from here on.
    candidates = replace(candidates, features=without_places(candidates))
    slices = slice_room(candidates)
    run, part = merge_runs(slices, settings.tau, budget)
    sizes = torch.bincount(run)
    features = torch.zeros(len(sizes), candidates.features.shape[1], device=run.device)
    features.index_add_(0, run, candidates.features)
    features = features / sizes[:, None]
    distance = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    distance = distance / features.shape[1] ** 0.5

    # As many centres of clusters in each part as its share of the runs.
    part_of_run = torch.zeros_like(sizes).index_put_((run,), part)
    members = [torch.nonzero(part_of_run == p)[:, 0] for p in part_of_run.unique().tolist()]
    shares = whole_shares([len(m) for m in members], budget)
    chosen, nearest_allowed = [], torch.full_like(distance, torch.inf)
    for mine, share in zip(members, shares, strict=True):
        if share:
            centres = mine[density_peaks(distance[mine][:, mine], share, settings.neighbours)]
            nearest_allowed[mine[:, None], centres] = distance[mine[:, None], centres]
            chosen.append(centres)
    centres = torch.cat(chosen)

    # Every run joins the nearest centre, of its own part where that has one.
    allowed = nearest_allowed[:, centres]
    homeless = torch.isinf(allowed).all(dim=1, keepdim=True)
    group = torch.where(homeless, distance[:, centres], allowed).argmin(dim=1)
    group[centres] = torch.arange(budget, device=run.device)

    # The middle token of a centre's run stands for its cluster.
    by_run = torch.argsort(run * len(slices.table) + slices.slice_of, stable=True)
    first = torch.cumsum(sizes, dim=0) - sizes
    kept = by_run[first[centres] + (sizes[centres] - 1) // 2]
    return Selection(kept, group[run], 1.0 / sizes[run].float())


def without_places(candidates: Candidates) -> torch.Tensor:
    """Features (N, C) float32 less their least-squares fit by a quadratic of the places."""
    xyz, features = candidates.xyz_m.double(), candidates.features.double()
    xyz = xyz - xyz.mean(dim=0)
    x, y, z = (xyz / xyz.square().mean(dim=0).sqrt().clamp(min=1e-6)).unbind(dim=1)
    terms = torch.stack((torch.ones_like(x), x, y, z, x * x, y * y, z * z, x * y, x * z, y * z), 1)
    gram = terms.T @ terms / len(terms)
    gram.diagonal().add_(RIDGE)
    fit = terms @ torch.linalg.solve(gram, terms.T @ features / len(terms))
    return (features - fit).float()


def slice_room(candidates: Candidates) -> Slices:
    """Slices across the longer horizontal axis."""
    coords = voxel_coords(candidates.xyz_m, candidates.voxel_size_m)
    extent = coords.amax(dim=0) - coords.amin(dim=0)
    axis = 0 if int(extent[0]) >= int(extent[1]) else 1
    values, slice_of = coords[:, axis].unique(return_inverse=True)
    places = coords[:, [1 - axis, 2]].unique(dim=0, return_inverse=True)[1]
    total, device = len(coords), coords.device

    # The first token of each cell; more than one only where places are on no grid.
    table = torch.full((len(values), int(places.max()) + 1), total, device=device)
    index = torch.arange(total, device=device)
    width = table.shape[1]
    table = table.view(-1).scatter_reduce(0, slice_of * width + places, index, "amin")
    table = torch.where(table == total, -1, table).view(-1, width)

    # How alike the tokens of a place are from slice to slice.
    here, there = table[:-1], table[1:]
    touching = (values[1:] - values[:-1] == 1)[:, None] & (here >= 0) & (there >= 0)
    unit = torch.nn.functional.normalize(candidates.features.float(), dim=1)
    cosine = (unit[here.clamp(min=0)] * unit[there.clamp(min=0)]).sum(dim=2)
    return Slices(table, torch.where(touching, cosine, -2.0), slice_of)


def merge_runs(slices: Slices, tau: float, budget: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The run (N,) that each token is in, and the part of the room (N,) that it is clustered in: a
    window's runs, or what else is in a slice. At least `budget` runs.
    """
    total, device = len(slices.slice_of), slices.table.device
    windows, merged = best_windows(slices.alike > tau)
    if total - merged < budget:
        low, high = tau, 1.0 + 1e-6  # above every cosine: nothing is merged
        for _ in range(NUM_BISECTIONS):
            middle = (low + high) / 2
            enough = total - best_windows(slices.alike > middle)[1] >= budget
            low, high = (low, middle) if enough else (middle, high)
        tau = high
        windows, _ = best_windows(slices.alike > tau)
    run, part = torch.arange(total, device=device), slices.slice_of.clone()
    for number, (first, last) in enumerate(windows):
        if last > first:
            static = (slices.alike[first:last] > tau).all(dim=0)
            tokens = slices.table[first : last + 1, static]
            run[tokens] = tokens[0].expand_as(tokens)
            part[tokens] = len(slices.table) + number
    return run.unique(return_inverse=True)[1], part


def best_windows(linked: torch.Tensor) -> tuple[list[tuple[int, int]], int]:
    """The windows [first, last] of S slices that save most tokens, and how many; linked (S - 1, C):
    whether a place stays alike from a slice to the next.

    A window saves its length less one for each place that stays alike throughout.
    """
    count = len(linked) + 1
    saved = torch.zeros(count, count)
    for first in range(count - 1):
        throughout = linked[first:].cumprod(dim=0).sum(dim=1)
        saved[first, first + 1 :] = throughout * torch.arange(
            1, count - first, device=linked.device
        )
    table = saved.tolist()
    best, start = [0.0], [0]
    for last in range(count):
        worth, first = max(
            ((best[first] + table[first][last], first) for first in range(last + 1)),
            key=lambda pair: (pair[0], pair[1]),
        )
        best.append(worth)
        start.append(first)
    windows, last = [], count - 1
    while last >= 0:
        windows.append((start[last + 1], last))
        last = start[last + 1] - 1
    return windows[::-1], int(best[-1])


def whole_shares(sizes: list[int], budget: int) -> list[int]:
    """`budget` in proportion to the sizes, in whole numbers of at most each; of equal remainders
    the first.
    """
    total = sum(sizes)
    shares = [size * budget // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: -(sizes[i] * budget % total))
    for i in itertools.islice(by_remainder, budget - sum(shares)):
        shares[i] += 1
    return shares


def density_peaks(distance: torch.Tensor, count: int, neighbours: int) -> torch.Tensor:
    """Ascending indices (count,) of DPC-KNN's centres among items with these distances (n, n):
    dense ones, far from all that are denser; of equally dense ones the first counts as denser.
    """
    nearest = distance.topk(min(neighbours, len(distance)), dim=1, largest=False).values
    density = torch.exp(-nearest.square().mean(dim=1))
    index = torch.arange(len(density), device=density.device)
    earlier = (density[None] == density[:, None]) & (index[None] < index[:, None])
    denser = (density[None] > density[:, None]) | earlier
    apart = torch.where(denser, distance, distance.max()).amin(dim=1)
    order = torch.sort(density * apart, descending=True, stable=True).indices
    return order[:count].sort().values
