"""Rows of spatial tokens that newlines close: which token is in which row, and what stays of a row.

A newline is a spatial token without a place (its xyz_m is NaN, no patch is pooled into it), with
which Video-3D-LLM and LLaVA-NeXT end every row of a grid. It closes the run of tokens since the
newline before it, is no candidate of any strategy, and goes exactly when nothing else is left of
its row.

Shapes: n tokens, p of them with a place: the candidates, in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ada3d_ros.types import PromptSequence, SpatialTokens

_NOTHING = torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True, eq=False, slots=True)
class RowOrder:
    """Tokens in an order of the candidates, each newline directly behind the first of its row.

    tokens (n,) int64: their indices; better (n,) int64: of a newline, how many candidates come
    before the first of its row (p where it has none), of others p.
    """

    tokens: torch.Tensor
    better: torch.Tensor

    def num_newlines(self, counts: Sequence[int]) -> list[int]:
        """How many newlines stay with the first `count` candidates, for each count; waits."""
        least = torch.tensor(counts, device=self.better.device)
        found: list[int] = (self.better < least[:, None]).sum(dim=1).tolist()
        return found

    def first(self, count: int) -> torch.Tensor:
        """The first `count` candidates and the newlines that stay with them; waits."""
        return self.tokens[: count + self.num_newlines([count])[0]]


@dataclass(frozen=True, eq=False, slots=True)
class TokenRows:
    """The rows of n tokens.

    is_newline (n,) bool; row (n,) int64: a token's row, of a newline the one that it closes; number
    (n,) int64: which candidate of the prompt a token is; placed (p,) int64: the candidates,
    ascending; num_rows: above every row. The tensors are empty where no token is a newline.
    """

    count: int
    num_newlines: int = 0
    is_newline: torch.Tensor = _NOTHING
    row: torch.Tensor = _NOTHING
    number: torch.Tensor = _NOTHING
    placed: torch.Tensor = _NOTHING
    num_rows: int = 0

    @classmethod
    def from_mask(cls, is_newline: torch.Tensor, row: torch.Tensor | None = None) -> TokenRows:
        """Of tokens in their order, or where that is another, with the row (n,) of each; waits."""
        count, num_newlines = len(is_newline), int(is_newline.sum())
        if not num_newlines:
            return cls(count)
        here = is_newline.long()
        closed = here.cumsum(dim=0) - here  # newlines before each token
        number = torch.arange(count, device=here.device) - closed
        num_rows = num_newlines + 1 if row is None else int(row.max()) + 1
        row = closed if row is None else row
        placed = _placed(is_newline, count - num_newlines)
        return cls(count, num_newlines, is_newline, row, number, placed, num_rows)

    @property
    def num_placed(self) -> int:
        return self.count - self.num_newlines

    @property
    def plain(self) -> bool:
        """Whether every token has a place, from the beginning."""
        return not len(self.is_newline)

    def take(self, index: torch.Tensor, num_placed: int) -> TokenRows:
        """Of the tokens index (m,), num_placed of which have a place."""
        if self.plain:
            return TokenRows(len(index))
        is_newline = self.is_newline[index]
        return TokenRows(
            len(index),
            len(index) - num_placed,
            is_newline,
            self.row[index],
            self.number[index],
            _placed(is_newline, num_placed),
            self.num_rows,
        )

    def crop(self, first: int, stop: int) -> TokenRows:
        """Of the tokens from `first` to before `stop`; waits for less than all."""
        if (first, stop) == (0, self.count):
            return self
        if self.plain:
            return TokenRows(stop - first)
        return TokenRows.from_mask(self.is_newline[first:stop], self.row[first:stop])

    def end_of(self, count: int) -> int:
        """How many tokens from the beginning hold the first `count` candidates and the newlines
        directly behind them; waits.
        """
        if self.plain or count >= self.num_placed:
            return count if self.plain else self.count
        return int(self.placed[count])

    def with_place(self, index: torch.Tensor) -> torch.Tensor:
        """Those of the tokens index (m,) that have a place; waits where some have none."""
        return index if self.plain else index[~self.is_newline[index]]

    def count_placed(self, chosen: Sequence[torch.Tensor]) -> list[int]:
        """How many of each of these sets of tokens have a place; waits where some have none."""
        if self.plain:
            return [len(index) for index in chosen]
        found: list[int] = torch.stack([(~self.is_newline[i]).sum() for i in chosen]).tolist()
        return found

    def order(self, best: torch.Tensor) -> RowOrder:
        """All tokens in the order of the candidates best (k,) int64, numbers among the p here."""
        total, device = self.num_placed, best.device
        rank = torch.full((total,), total, dtype=torch.int64, device=device)
        rank[best] = torch.arange(len(best), device=device)
        if self.plain:
            return RowOrder(torch.sort(rank, stable=True).indices, torch.full_like(rank, total))
        ranks = torch.full((self.count,), total, dtype=torch.int64, device=device)
        ranks[self.placed] = rank
        first = torch.full((self.num_rows,), total, dtype=torch.int64, device=device)
        first = first.scatter_reduce(0, self.row[self.placed], rank, "amin")[self.row]
        keys = torch.where(self.is_newline, 2 * first + 1, 2 * ranks)
        better = torch.where(self.is_newline, first, total)
        return RowOrder(torch.sort(keys, stable=True).indices, better)

    def keep(self, best: torch.Tensor) -> torch.Tensor:
        """Ascending indices of the candidates best (k,) and of the newlines of their rows; waits
        where there are newlines.
        """
        if self.plain:
            return torch.sort(best).values
        return torch.sort(self.order(best).first(len(best))).values


def rows_of(tokens: SpatialTokens | PromptSequence) -> TokenRows:
    """The rows of a scene's or prompt's spatial tokens, found once (which waits) and kept with it:
    tokens of NaN places are newlines. Of a prompt whose places are unknown every token has one.
    """
    if tokens.rows is not None:
        return tokens.rows
    if isinstance(tokens, PromptSequence) and tokens.xyz_m is None:
        start, stop = tokens.spatial_span
        rows = TokenRows(stop - start)
    else:
        assert tokens.xyz_m is not None
        rows = TokenRows.from_mask(tokens.xyz_m.isnan().any(dim=1))
    object.__setattr__(tokens, "rows", rows)
    return rows


def _placed(is_newline: torch.Tensor, count: int) -> torch.Tensor:
    """Ascending indices (count,) of what is no newline; waits for no device."""
    return torch.sort(is_newline.to(torch.uint8), stable=True).indices[:count]
