"""How a cached scene's tokens are ranked while it is built, when no question is there yet.

Stand-ins for the question: general prompts that ride along, or queries of questions asked before
(pruning/question_queries.py); rivals that know the scene alone are in pruning/scene_rivals.py.
Shapes: L layers, H heads, G key-value heads, d head dimension, n spatial tokens alive that have a
place (newlines are keys as the text is, and are not ranked), T system and spatial tokens. Scores
are sums in float32, and nothing here waits for the device.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from ada3d_ros.pruning.information import Span
from ada3d_ros.pruning.ranking import of_candidates

if TYPE_CHECKING:
    from ada3d_ros.config.cache import CacheConfig
    from ada3d_ros.pruning.question_queries import RecordedQueries

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, slots=True)
class RidingRows:
    """Tokens after the scene tokens that pass the layers with them only to rank them: prompts, each
    seeing the scene and itself.

    q (H, R, d), q_unroped, and k (G, R, d) of this layer; prompts: the spans [start, stop) of the
    prompts, one behind the other, which make up the R rows.
    """

    q: torch.Tensor
    q_unroped: torch.Tensor
    k: torch.Tensor
    prompts: tuple[Span, ...]


@dataclass(frozen=True, eq=False, slots=True)
class SceneLayer:
    """What a ranking gets before a layer runs on what is alive of a scene.

    layer: 0-based. keys (G, T, d) roped; spatial: the span of the spatial tokens among the T;
    candidates: which of these, ascending, are the n that are ranked, None for all; kept (n,): which
    of all N that have a place they are; xyz_m (n, 3) world, or None; rows: what rides along, or
    None. rotate: unroped vectors (..., d) as a question's after the scene tokens; queries, values:
    makes this layer's (H, T, d) roped, and (G, T, d), when asked for.
    """

    layer: int
    keys: torch.Tensor
    spatial: Span
    kept: torch.Tensor
    xyz_m: torch.Tensor | None
    rows: RidingRows | None
    rotate: Callable[[torch.Tensor], torch.Tensor]
    queries: Callable[[], torch.Tensor]
    values: Callable[[], torch.Tensor]
    candidates: torch.Tensor | None = None

    def of_candidates(self, values: torch.Tensor) -> torch.Tensor:
        """Of values (..., T) of all tokens those of the candidates, (..., n)."""
        return of_candidates(values, self.spatial, self.candidates)


class SceneRanking(Protocol):
    """Ranks a scene's tokens without a question.

    name: as in `cache.ranking`. rides: what passes the layers with the scene to rank it: "prompts",
    "scene" (the scene once more, read back), or "" for nothing.
    """

    @property
    def name(self) -> str: ...

    @property
    def rides(self) -> str: ...

    def scores(self, at: SceneLayer) -> torch.Tensor:
        """(n,) float32; higher stays."""
        ...


def grouped_logits(q: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """q k / sqrt(d), (H, P, T) float32, of q (H, P, d) and keys (G, T, d), G heads' shared by all
    H.
    """
    heads, count, width = q.shape
    groups, tokens, _ = keys.shape
    grouped = q.float().reshape(groups, heads // groups * count, width) * width**-0.5
    return (grouped @ keys.float().transpose(1, 2)).reshape(heads, count, tokens)


def reduce_scores(shares: torch.Tensor, reduce: str) -> torch.Tensor:
    """Scores (n,) from attention shares (H, P, n): mean over heads, then the mean over the P
    queries, or the largest.
    """
    per_query = shares.mean(dim=0)
    return per_query.mean(dim=0) if reduce == "mean" else per_query.amax(dim=0)


@dataclass(frozen=True, slots=True)
class PromptRanking:
    """By the last token of every prompt that rides along, exactly as in a prompt of its own: a
    softmax over the scene and its own prompt, mean over heads, then mean or max over the prompts.
    """

    reduce: str = "mean"
    name: str = "prompts"
    rides: str = "prompts"

    def scores(self, at: SceneLayer) -> torch.Tensor:
        rows = at.rows
        assert rows is not None, "nothing rides along"
        last = torch.cat([rows.q[:, stop - 1 : stop] for _, stop in rows.prompts], dim=1)
        own = torch.block_diag(
            *(
                torch.ones(1, stop - start, dtype=torch.bool, device=last.device)
                for start, stop in rows.prompts
            )
        )
        of_prompts = grouped_logits(last, rows.k).masked_fill(~own, float("-inf"))
        logits = torch.cat((grouped_logits(last, at.keys), of_prompts), dim=-1)
        return reduce_scores(at.of_candidates(torch.softmax(logits, dim=-1)), self.reduce)


@dataclass(frozen=True, eq=False, slots=True)
class QueryRanking:
    """By queries (L, H, P, d), unroped, of questions or prompts that passed before: a softmax over
    the scene, mean over heads, then mean or max over the P. Of layers that never ranked they may be
    zero.
    """

    queries: torch.Tensor
    reduce: str = "mean"
    name: str = "last_questions"
    rides: str = ""

    def scores(self, at: SceneLayer) -> torch.Tensor:
        logits = grouped_logits(at.rotate(self.queries[at.layer]), at.keys)
        return reduce_scores(at.of_candidates(torch.softmax(logits, dim=-1)), self.reduce)


@dataclass(frozen=True, eq=False, slots=True)
class ExpectedRanking:
    """By what questions' queries are expected to attend to: mean (L, H, d) and covariance (L, H, d,
    d) of them, unroped, taken as normal.

    E exp(q k / sqrt(d)) = exp(mean k / sqrt(d) + k' covariance k / 2 d), normalised over the scene,
    mean over heads (Expected Attention, arXiv 2510.00636).
    """

    mean: torch.Tensor
    covariance: torch.Tensor
    name: str = "expected"
    rides: str = ""

    def scores(self, at: SceneLayer) -> torch.Tensor:
        # Mean and covariance as they stand after the scene tokens: R m, and R S R'.
        mean = at.rotate(self.mean[at.layer]).float()
        half = at.rotate(self.covariance[at.layer])
        spread = at.rotate(half.transpose(1, 2)).float()

        # k' S k of every key, for the H / G heads that share it.
        (groups, _, width), heads = at.keys.shape, mean.shape[0]
        keys = at.keys.float()[:, None]  # (G, 1, T, d)
        spread = spread.reshape(groups, heads // groups, width, width)
        squares = ((keys @ spread) * keys).sum(dim=-1).reshape(heads, -1)
        logits = grouped_logits(mean[:, None], at.keys)[:, 0] + squares / (2 * width)
        shares = at.of_candidates(torch.softmax(logits, dim=-1))
        return reduce_scores(shares[:, None], "mean")


# -- which one


def scene_ranking(
    config: CacheConfig, seed: int, queries: RecordedQueries | None = None
) -> SceneRanking:
    """The ranking in force under `cache.ranking`; seed: of `random`; queries: what is known of past
    questions.

    Where `expected` has no statistics, and `last_questions` no question yet, the next best one that
    can rank stands in: `expected`, then `prompts`. `auto` is `expected`, too, of a file's questions
    alone: none that is asked is recorded under it (`queries_file.BY_QUERIES`).
    """
    name, reduce = config.ranking, config.prompts_score
    if name == "last_questions" and queries is not None:
        last = queries.last()
        if last is not None:
            return QueryRanking(last, reduce)
    if name in ("auto", "expected", "last_questions"):
        known = None if queries is None else queries.statistics()
        if known is not None:
            return ExpectedRanking(known.mean.float(), known.covariance.float())
        if name == "expected":
            warn_no_statistics()
    if name in ("auto", "prompts", "expected", "last_questions"):
        return PromptRanking(reduce)
    from ada3d_ros.pruning.scene_rivals import RIVALS  # loaded where one is asked for

    return RIVALS[name](seed)


@functools.cache  # once, though every build asks
def warn_no_statistics() -> None:
    logger.warning(
        "cache.ranking is 'expected', but nothing is known of this model's questions yet: general"
        " prompts (cache.prompts) rank until some were asked. Write a file with `ada3d calibrate"
        " --queries` (cache.queries_file)."
    )
