"""The SeGPruner family: farthest-point sampling in space and features together."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ada3d_ros.config.pruning import GeoFpsConfig, PruningConfig
from ada3d_ros.pruning.strategy import Candidates, Selection, Traits


def read_settings(config: PruningConfig) -> GeoFpsConfig:
    return config.geo_fps


def traits(settings: GeoFpsConfig) -> Traits:
    return Traits(is_nested=settings.salient_share == 0.0)


def select(candidates: Candidates, budget: int, settings: GeoFpsConfig) -> Selection:
    """By lam d_xyz / d_max + (1 - lam)(1 - cosine), each time the token farthest from all chosen.

    Starts from the most distinct token, the one least like the scene's mean feature; salient_share
    of the budget goes to the next most distinct ones first.
    """
    # The distance of all pairs, in 0..1 for each of its two parts.
    lam, features, xyz = settings.lam, candidates.features.float(), candidates.xyz_m
    extent = (xyz.amax(dim=0) - xyz.amin(dim=0)).norm().clamp(min=1e-6)
    distance = lam * candidates.distances_m() / extent + (1.0 - lam) * (1.0 - candidates.cosines())

    # The most distinct tokens.
    similarity = F.normalize(features, dim=1) @ F.normalize(features.mean(dim=0), dim=0)
    num_salient = max(1, int(settings.salient_share * budget))
    salient = torch.sort(similarity, stable=True).indices[:num_salient]
    order = torch.empty(budget, dtype=torch.int64, device=xyz.device)
    order[:num_salient] = salient

    # Farthest points; what is chosen has distance -inf.
    nearest = distance[salient].amin(dim=0).index_fill(0, salient, float("-inf"))
    for step in range(num_salient, budget):
        best = nearest.argmax().view(1)
        order[step : step + 1] = best
        nearest = torch.minimum(nearest, distance.index_select(0, best)[0])
        nearest = nearest.index_fill(0, best, float("-inf"))
    return Selection.without_merging(order, len(xyz))
