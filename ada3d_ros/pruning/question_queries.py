"""What is known of the queries of questions about scenes: moments, and the newest ones.

They stand in for a question that nobody asked yet (pruning/scene_ranking.py). A question's queries
are those of its last token, unroped: at its other tokens a question is not known yet, and ranking
by all of them was measured to be worse (docs/decisions/0064). Recording them makes no question
wait: they stay on the device, and are counted in when next somebody asks. Shapes as in
pruning/scene_ranking.py.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch

MAX_WEIGHT = 512  # questions; more old ones than that weigh as so many
LAST = 8  # questions whose queries are kept
PENDING = 64  # questions recorded before they are counted in at the latest


class QueryStatistics:
    """Count, mean (L, H, d) and covariance (L, H, d, d, divided by the count) of questions'
    queries, updated as they come.

    In float64 on a CPU, else float32. Old questions beyond MAX_WEIGHT weigh less, so that the
    statistics follow what is asked.
    """

    def __init__(self, count: float, mean: torch.Tensor, covariance: torch.Tensor) -> None:
        exact = torch.float64 if mean.device.type == "cpu" else torch.float32
        self.count, self.mean, self.covariance = count, mean.to(exact), covariance.to(exact)

    @classmethod
    def from_queries(cls, queries: torch.Tensor) -> QueryStatistics:
        """Of queries (L, H, P, d) of P questions, at least one."""
        exact = torch.float64 if queries.device.type == "cpu" else torch.float32
        wide = queries.to(exact)
        mean = wide.mean(dim=2)
        centred = wide - mean[:, :, None]
        return cls(float(wide.shape[2]), mean, centred.transpose(2, 3) @ centred / wide.shape[2])

    def update(self, queries: torch.Tensor) -> None:
        """Count in one question's queries (L, H, d), or (L, H, P, d) of P; does not wait for the
        device.
        """
        new = QueryStatistics.from_queries(queries[:, :, None] if queries.ndim == 3 else queries)
        old = min(self.count, float(MAX_WEIGHT))
        share = new.count / (old + new.count)
        step = new.mean - self.mean
        between = step[..., :, None] * step[..., None, :] * (share * (1.0 - share))
        self.mean = self.mean + step * share
        self.covariance = self.covariance + (new.covariance - self.covariance) * share + between
        self.count = old + new.count


@dataclass(frozen=True, eq=False, slots=True)
class QueriesFile:
    """What a file of queries holds (pruning/queries_file.py).

    statistics: of the questions, None where they were not asked for; held (L,): what each layer's
    share of the cached scene is worth to questions, mean 1, or None where nobody measured it;
    model, sha256: name of the checkpoint and hash of its weights; sources: what was asked about;
    random_weights: the model was not trained.
    """

    statistics: QueryStatistics | None
    held: tuple[float, ...] | None = None
    model: str = ""
    sha256: str = ""
    sources: tuple[str, ...] = ()
    random_weights: bool = False


class RecordedQueries:
    """One model's questions: those of a file, and those asked since. For the thread that asks."""

    def __init__(self, file: QueriesFile | None = None, device: torch.device | str = "cpu") -> None:
        """device: the model's."""
        known = None if file is None else file.statistics
        if known is not None:  # the file's own stay as they are
            known = QueryStatistics(known.count, known.mean.to(device), known.covariance.to(device))
        self._statistics = known
        self._last: deque[torch.Tensor] = deque(maxlen=LAST)
        self._pending: list[torch.Tensor] = []

    def record(self, queries: torch.Tensor) -> None:
        """Note a question's queries (L, H, T, d), unroped, of its T tokens: the last one counts."""
        queries = queries[:, :, -1].detach().clone()  # not a view that keeps the larger tensor
        self._last.append(queries)
        self._pending.append(queries)
        if len(self._pending) >= PENDING:
            self.statistics()

    def statistics(self) -> QueryStatistics | None:
        """Of all questions; None where none is known."""
        if self._pending:
            queries, self._pending = torch.stack(self._pending, dim=2), []
            if self._statistics is None:
                self._statistics = QueryStatistics.from_queries(queries)
            else:
                self._statistics.update(queries)
        return self._statistics

    def last(self) -> torch.Tensor | None:
        """(L, H, P, d) of the P questions asked last, the newest behind; None before the first."""
        return torch.stack(tuple(self._last), dim=2) if self._last else None
