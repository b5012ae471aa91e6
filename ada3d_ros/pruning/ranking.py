"""How spatial tokens are ranked inside the decoder: what a ranking gets to see, and scores from it.

Scores come from one layer's queries of chosen prompt tokens and its keys of all tokens that are
alive: one row per query, never T x T.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ada3d_ros.pruning.information import Span


@dataclass(frozen=True, eq=False, slots=True)
class PruneContext:
    """What a ranking sees before a layer runs.

    layer: 0-based index of the layer that q and k belong to. q, q_unroped (H, R, d) of the query
    rows (R,) ascending; k, k_unroped (G, T, d) of all T tokens alive; positions (T,); spatial: the
    span of the n spatial tokens among them; kept (n,): their indices among the original N; xyz_m
    (n, 3) metres in the world frame, in 2D (column, row, 0) in patches, or None where unknown.
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

    def logits(self, roped: bool = True, last_only: bool = False) -> torch.Tensor:
        """q k / sqrt(d), (H, R, T) float32, -inf where a key lies behind its query. last_only: R =
        1, the last query.
        """
        q, k = (self.q, self.k) if roped else (self.q_unroped, self.k_unroped)
        rows = self.query_rows
        if last_only:
            q, rows = q[:, -1:], rows[-1:]
        heads, count, width = q.shape
        groups, tokens, _ = k.shape
        grouped = q.float().reshape(groups, heads // groups * count, width)
        keys = (
            k.float().contiguous()
        )  # float32: rounded to 16 bits, many tokens would score the same
        scores = (grouped @ keys.transpose(1, 2)).reshape(heads, count, tokens) * width**-0.5
        if last_only:  # it sees every key
            return scores
        behind = torch.arange(tokens, device=k.device) > rows[:, None]
        return scores.masked_fill(behind, float("-inf"))


def rank_scores(
    context: PruneContext, score: str = "softmax_mean", query: str = "last", rope: bool = True
) -> torch.Tensor:
    """Scores (n,) float32 of the spatial tokens; higher stays.

    softmax_mean: softmax over all keys, mean over heads (PyramidDrop, the authors' code);
    logit_mean: the paper's V_j = Q K^T; head_max: the largest head. query `all`: the largest over
    all prompt tokens.
    """
    start, stop = context.spatial
    logits = context.logits(rope, last_only=query == "last")
    if score == "logit_mean":
        per_query = logits[..., start:stop].mean(dim=0)
    else:
        shares = torch.softmax(logits, dim=-1)[..., start:stop]
        per_query = shares.mean(dim=0) if score == "softmax_mean" else shares.amax(dim=0)
    return per_query.amax(dim=0)


def random_scores(context: PruneContext, seed: int) -> torch.Tensor:
    """A control: uniform numbers, the same for the same seed and layer on every device."""
    generator = torch.Generator().manual_seed(seed * 1009 + context.layer)
    return torch.rand(context.kept.shape[0], generator=generator).to(context.k.device)


def keep_best(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Ascending indices (count,) of the highest scores (n,); of equals the lowest index. No host
    synchronisation.
    """
    order = torch.sort(scores, descending=True, stable=True).indices
    return torch.sort(order[:count]).values


def mutual_information(context: PruneContext) -> torch.Tensor:
    """Of prompt and spatial tokens, () float32 in 0..1: the head-mean attention block of the
    prompt's queries on the spatial keys as a joint distribution; its mutual information over the
    largest it could have, log min(R, n).

    0: every prompt token attends to the same places (or evenly); 1: each to its own.
    """
    start, stop = context.spatial
    block = torch.softmax(context.logits(), dim=-1)[..., start:stop].mean(dim=0)
    joint = block / block.sum()
    independent = joint.sum(dim=1, keepdim=True) * joint.sum(dim=0, keepdim=True)
    terms = torch.special.xlogy(
        joint, joint / independent
    )  # 0 where joint is 0, NaN where it is NaN
    terms = torch.where(
        joint == 0, torch.zeros_like(terms), terms
    )  # 0 / 0 of a token nobody attends to
    largest = torch.tensor(float(min(block.shape)), device=block.device).log()
    if min(block.shape) < 2:
        return torch.zeros((), device=block.device)
    return (terms.sum() / largest).clamp(0.0, 1.0)


def question_relevance(projected: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
    """Cosine of each spatial token as the decoder gets it, (N, D), and the mean of the question's
    token embeddings (Q, D), min-max normalised to 0..1, (N,) float32. Needs no weights beyond the
    model's.
    """
    mean = torch.nn.functional.normalize(question.float().mean(dim=0), dim=0)
    cosine = torch.nn.functional.normalize(projected.float(), dim=1) @ mean
    extent = (cosine.max() - cosine.min()).clamp(min=1e-12)
    return (cosine - cosine.min()) / extent
