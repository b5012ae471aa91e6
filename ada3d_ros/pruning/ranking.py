"""How spatial tokens are ranked inside the decoder: what a ranking gets, and scores from it.

Scores come from one layer's queries of chosen prompt tokens and its keys of all tokens that are
alive: one row per query, never T x T.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ada3d_ros.geometry.voxel import voxel_coords, voxel_ids
from ada3d_ros.pruning.information import Span


@dataclass(frozen=True, eq=False, slots=True)
class PruneContext:
    """What a ranking gets before a layer runs.

    layer: 0-based index of the layer that q and k belong to. q, q_unroped (H, R, d) of the query
    rows (R,) ascending; k, k_unroped (G, T, d) of all T tokens alive; positions (T,); spatial: the
    span of the spatial tokens among them; candidates: which of these, ascending, are the n that are
    ranked, None for all: newlines are not. kept (n,): the candidates' indices among all N; xyz_m
    (n, 3) metres in the world frame, in 2D (column, row, 0) in patches, or None where unknown.
    own_k, own_k_unroped (G, Q, d): where a scene is cached, the keys of the question's Q tokens,
    the last of the T; k and k_unroped are then those of the T - Q before them.
    """

    layer: int
    q: torch.Tensor
    q_unroped: torch.Tensor
    k: torch.Tensor
    k_unroped: torch.Tensor
    query_rows: torch.Tensor
    positions: torch.Tensor
    spatial: Span
    kept: torch.Tensor
    xyz_m: torch.Tensor | None = None
    own_k: torch.Tensor | None = None
    own_k_unroped: torch.Tensor | None = None
    candidates: torch.Tensor | None = None

    def of_candidates(self, values: torch.Tensor) -> torch.Tensor:
        """Of values (..., T) of all tokens those of the candidates, (..., n)."""
        return of_candidates(values, self.spatial, self.candidates)

    def logits(self, roped: bool = True, last_only: bool = False) -> torch.Tensor:
        """q k / sqrt(d), (H, R, T) float32, -inf where a key comes after its query.

        last_only: R = 1, the last query.
        """
        if roped:
            q, parts = self.q, (self.k, self.own_k)
        else:
            q, parts = self.q_unroped, (self.k_unroped, self.own_k_unroped)
        rows = self.query_rows
        if last_only:
            q, rows = q[:, -1:], rows[-1:]
        found = [scaled_products(q, keys) for keys in parts if keys is not None]
        scores = found[0] if len(found) == 1 else torch.cat(found, dim=2)
        if last_only:  # it attends to every key
            return scores
        later = torch.arange(scores.shape[2], device=q.device) > rows[:, None]
        return scores.masked_fill(later, float("-inf"))


def of_candidates(
    values: torch.Tensor, spatial: Span, candidates: torch.Tensor | None
) -> torch.Tensor:
    """Of values (..., T) those of the candidates (n,) within the span; None: of all of it."""
    within = values[..., spatial[0] : spatial[1]]
    return within if candidates is None else within[..., candidates]


CPU_CHUNK = 2**17  # float32 values of keys at a time on a CPU: what malloc keeps between chunks


def scaled_products(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """q (H, R, d) with k (G, T, d) / sqrt(d), (H, R, T) float32.

    In float32: rounded to 16 bits, many tokens would score alike. On a CPU a chunk of keys at a
    time is widened for that, so that no second copy of all of them is made.
    """
    heads, count, width = q.shape
    groups, tokens, _ = k.shape
    # Grouped heads share keys.
    grouped = q.float().reshape(groups, heads // groups * count, width)
    if k.dtype == torch.float32 or k.device.type != "cpu":
        scores = grouped @ k.float().mT
    else:
        chunk = max(1, CPU_CHUNK // (groups * width))
        parts = [grouped @ part.float().mT for part in k.split(chunk, dim=1)]
        scores = torch.cat(parts, dim=2)
    return scores.reshape(heads, count, tokens) * width**-0.5


def rank_scores(
    context: PruneContext, score: str = "softmax_mean", query: str = "last", rope: bool = True
) -> torch.Tensor:
    """Scores (n,) float32 of the candidates; higher stays.

    softmax_mean: softmax over all keys, newlines and text among them, mean over heads (PyramidDrop,
    the authors' code); logit_mean: the paper's V_j = Q K^T; head_max: the largest head. query
    `all`: the largest over all prompt tokens.
    """
    logits = context.logits(rope, last_only=query == "last")
    if score == "logit_mean":
        per_query = context.of_candidates(logits).mean(dim=0)
    else:
        shares = context.of_candidates(torch.softmax(logits, dim=-1))
        per_query = shares.mean(dim=0) if score == "softmax_mean" else shares.amax(dim=0)
    return per_query.amax(dim=0)


def random_scores(context: PruneContext, seed: int) -> torch.Tensor:
    """A control: uniform numbers, the same for the same seed and layer on every device."""
    generator = torch.Generator().manual_seed(seed * 1009 + context.layer)
    return torch.rand(context.kept.shape[0], generator=generator).to(context.k.device)


def keep_best(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Ascending indices (count,) of the highest scores (n,); of equals the lowest index.

    No host synchronisation.
    """
    return torch.sort(best_first(scores)[:count]).values


def best_first(scores: torch.Tensor) -> torch.Tensor:
    """Indices (n,) of the scores (n,), the highest first; of equals the lowest index first."""
    return torch.sort(scores, descending=True, stable=True).indices


def question_relevance(projected: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
    """Relevance (N,) float32 in 0..1 of each spatial token to the question.

    Cosine of the token as the decoder gets it, (N, D), and the mean of the question's token
    embeddings (Q, D), min-max normalised. Needs no weights beyond the model's.
    """
    mean = F.normalize(question.float().mean(dim=0), dim=0)
    cosine = F.normalize(projected.float(), dim=1) @ mean
    extent = (cosine.max() - cosine.min()).clamp(min=1e-12)
    return (cosine - cosine.min()) / extent


# -- what is left of the scene: attention can empty one side of it unseen

CELL_M = 0.5


def cell_coverage(xyz_m: torch.Tensor, kept: torch.Tensor, cell_m: float = CELL_M) -> float:
    """Share of the cells occupied by xyz_m (N, 3) that hold one of the kept (k,) indices; tokens
    without a place (NaN) are in none.
    """
    xyz_m, kept = _with_place(xyz_m, kept)
    ids, occupied = voxel_ids(voxel_coords(xyz_m, cell_m))
    return float(ids[kept].unique().numel()) / max(len(occupied), 1)


def position_bias(xyz_m: torch.Tensor, kept: torch.Tensor) -> float:
    """Mean rank in 0..1 of the kept indices among all N.

    0.5 without bias, above it where late tokens are preferred (LLaVA-3D's tokens are sorted by x
    first, so this is the room's far side in x). Tokens without a place (NaN) do not count.
    """
    xyz_m, kept = _with_place(xyz_m, kept)
    total = xyz_m.shape[0]
    return float(kept.double().mean()) / max(total - 1, 1)


def _with_place(xyz_m: torch.Tensor, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Places (p, 3) without NaN, and of the kept indices into all those that are of them."""
    has_place = ~xyz_m.isnan().any(dim=1)
    number = has_place.cumsum(dim=0) - 1
    return xyz_m[has_place], number[kept[has_place[kept]]]
