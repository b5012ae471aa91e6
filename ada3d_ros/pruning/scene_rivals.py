"""Rankings of a cached scene that know the scene alone: rivals and controls for `cache.ranking`.

Shapes as in pruning/scene_ranking.py. Attention is made for a block of queries at a time, never
T x T.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from ada3d_ros.pruning.information import BLOCK_ELEMENTS, Span
from ada3d_ros.pruning.scene_ranking import SceneLayer, SceneRanking, grouped_logits


@dataclass(frozen=True, slots=True)
class ValueRanking:
    """By the length of a token's value, mean over key-value heads."""

    name: str = "values"
    rides: str = ""

    def scores(self, at: SceneLayer) -> torch.Tensor:
        start, stop = at.spatial
        lengths = at.values()[:, start:stop].float().norm(dim=-1).mean(dim=0)
        return lengths if at.candidates is None else lengths[at.candidates]


@dataclass(frozen=True, slots=True)
class ReadBackRanking:
    """By the attention that a token gets while the scene is read back behind itself (KVzip, arXiv
    2505.23416): the largest over the reading rows and the heads that share its key, mean over
    key-value heads. A reading row sees the scene and what was read before it.

    The paper evicts (head, token) pairs of all layers by one threshold, and asks for a repetition
    in words first; here heads share their tokens and layers have shares of their own (decision
    167, which also says why a model that was never taught to repeat its scene ranks badly so).
    """

    name: str = "kvzip"
    rides: str = "scene"

    def scores(self, at: SceneLayer) -> torch.Tensor:
        rows = at.rows
        assert rows is not None, "nothing rides along"
        (heads, _, _), groups = rows.q.shape, at.keys.shape[0]
        start, stop = at.spatial
        best = at.keys.new_zeros(groups, stop - start, dtype=torch.float32)
        for first, end in rows.prompts:
            # Each of the rows that are read together sees those of its own before it.
            own, columns = rows.k[:, first:end], torch.arange(end - first, device=at.keys.device)
            width = at.keys.shape[1] + end - first
            for a, b in _blocks((0, end - first), heads * width):
                q = rows.q[:, first + a : first + b]
                later = columns > columns[a:b, None]
                of_rows = grouped_logits(q, own).masked_fill(later, float("-inf"))
                shares = torch.softmax(
                    torch.cat((grouped_logits(q, at.keys), of_rows), dim=-1), dim=-1
                )
                largest = shares[..., start:stop].amax(dim=1)  # (H, n)
                best = torch.maximum(best, largest.reshape(groups, -1, stop - start).amax(dim=1))
        received = best.mean(dim=0)
        return received if at.candidates is None else received[at.candidates]


@dataclass(frozen=True, slots=True)
class SelfAttentionRanking:
    """By the attention that a token gets from the spatial tokens (the paper's S_self, by token),
    corrected for its place: shares are told in even ones, 1 / keys seen, and the mean is over the
    queries that see the token; then mean over heads. Newlines do not ask.
    """

    name: str = "self_attention"
    rides: str = ""

    def scores(self, at: SceneLayer) -> torch.Tensor:
        queries, (start, stop) = at.queries(), at.spatial
        heads, _, _ = queries.shape
        columns, chosen = torch.arange(stop, device=queries.device), at.candidates
        asks = None  # (stop - start,): 1 where a token's attention counts
        if chosen is not None:
            asks = queries.new_zeros(stop - start, dtype=torch.float32).index_fill_(0, chosen, 1.0)
        received = queries.new_zeros(stop - start, dtype=torch.float32)
        for a, b in _blocks((start, stop), heads * stop):
            later = columns > columns[a:b, None]
            logits = grouped_logits(queries[:, a:b], at.keys[:, :stop])
            shares = torch.softmax(logits.masked_fill(later, float("-inf")), dim=-1)
            in_even_shares = shares.mean(dim=0) * (columns[a:b, None] + 1)
            if asks is not None:
                in_even_shares = in_even_shares * asks[a - start : b - start, None]
            received += in_even_shares[:, start:].sum(dim=0)
        if asks is None or chosen is None:
            return received / (stop - columns[start:])
        asking = asks.flip(0).cumsum(dim=0).flip(0)  # of each token, those that see it
        return received[chosen] / asking[chosen]


@dataclass(frozen=True, slots=True)
class RandomRanking:
    """A control: numbers in 0..1 that hang on seed, layer and token alone, the same on every
    device.
    """

    seed: int = 0
    name: str = "random"
    rides: str = ""

    def scores(self, at: SceneLayer) -> torch.Tensor:
        start = _mix(_mix(self.seed + 1) + at.layer)
        mixed = _mix(_mix(at.kept.long()) ^ start)
        return (mixed >> 8).float() / 2**24  # 24 bits: float32 holds them exactly


IntOrTensor = TypeVar("IntOrTensor", int, torch.Tensor)


def _mix(x: IntOrTensor) -> IntOrTensor:
    """The lowest 32 bits of a number, or of int64 ones, as 32 bits that look random.

    The factors are below 2^30, so that no product leaves 62 bits.
    """
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x2C1B3C6D) & 0xFFFFFFFF
    x = ((x ^ (x >> 12)) * 0x297A2D39) & 0xFFFFFFFF
    return x ^ (x >> 15)


def _blocks(span: Span, row_elements: int) -> Iterator[Span]:
    """Spans that cover `span`, of as many rows as may be held at once."""
    step = max(1, BLOCK_ELEMENTS // max(row_elements, 1))
    for first in range(*span, step):
        yield first, min(first + step, span[1])


RIVALS: dict[str, Callable[[int], SceneRanking]] = {
    "values": lambda seed: ValueRanking(),
    "self_attention": lambda seed: SelfAttentionRanking(),
    "kvzip": lambda seed: ReadBackRanking(),
    "random": RandomRanking,
}
