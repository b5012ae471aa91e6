"""A choice of a cached scene's keys for each question (`cache.prune: question`).

Few layers rank; those below them take the best of the last ranking, as many as the schedule says.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ada3d_ros.engine.layer_walk import LayerWalk, RankAndDrop
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.model.decoder import apply_rope
from ada3d_ros.pruning.ranking import PruneContext, best_first
from ada3d_ros.pruning.strategy import LayerPruner

MAX_RANKINGS = 3


def ranking_layers(counts: Sequence[int]) -> tuple[int, ...]:
    """The 0-based layers before which a ranking is made, at most MAX_RANKINGS.

    Of the layers whose counts fall the first, and those a third and two thirds down their list.
    """
    falls = [i for i in range(1, len(counts)) if counts[i] < counts[i - 1]]
    if len(falls) <= MAX_RANKINGS:
        return tuple(falls)
    return tuple(falls[len(falls) * part // MAX_RANKINGS] for part in range(MAX_RANKINGS))


class RankAndSelect(RankAndDrop):
    """Lets each layer attend to the best of a cached scene's keys, and fills the walk's cache with
    them.

    Nothing is dropped: every ranking is among all `count` spatial tokens of the prefix, so a key
    left out before it may be selected again, and positions stay as they are in the scene. Between
    two rankings the sets are nested; how many newlines each layer has is asked once per ranking.
    Layers before the first fall attend to the whole scene, in the prefix's own buffers where these
    have room for the question. `ranked_layers`: those that ranked.
    """

    def __init__(self, pruner: LayerPruner, prefix: ScenePrefix, count: int, room: int) -> None:
        """room: tokens of the question and its answer."""
        super().__init__(pruner, prefix.chosen.rows.crop(0, count), prefix.embeds.device)
        cache = prefix.cache
        self._prefix, self._stop = prefix, prefix.start + count
        self._lends = cache.plain and count == len(prefix.embeds) and cache.has_room(room)
        self._all = torch.arange(count, device=prefix.embeds.device)
        self._order: torch.Tensor | None = None  # of the last ranking acted on, system text first
        self._lengths: list[int] = []  # how much of it each layer has
        self._index: torch.Tensor | None = None  # what of the prefix a layer attends to; None: all

    def before_layer(self, walk: LayerWalk) -> None:
        super().before_layer(walk)
        assert walk.cache is not None
        layer, cache = walk.layer, self._prefix.cache
        if self._index is not None:
            self.timer.start()
            walk.cache.take(layer, cache, self._index)
            self.timer.stop()
        elif self._lends:
            walk.cache.borrow(layer, cache)
        else:
            keys, values = cache.held(layer)
            walk.cache.append(layer, keys[:, :, : self._stop], values[:, :, : self._stop])

    def _rank(self, walk: LayerWalk, context: PruneContext | None) -> None:
        if walk.layer + self.pruner.rank_lag in ranking_layers(self.counts):
            super()._rank(walk, context)
            self._order = None

    def _context(self, walk: LayerWalk, all_queries: bool) -> PruneContext:
        """The question's queries, which the layer reuses, the scene's keys where they lie, and the
        question's.
        """
        tokens, device, pruner = walk.hidden.shape[1], walk.hidden.device, self.pruner
        first = 0 if all_queries or pruner.query == "all" else tokens - 1
        index = torch.arange(first, tokens, device=device)
        inputs = walk.layer_inputs(all_queries=True)
        self.timer.start()
        q, q_unroped, roped = walk.decoder.ranking_inputs(walk.layer, inputs, walk.rope, index)
        walk.inputs = roped
        assert roped.k is not None
        keys = self._prefix.cache.keys(walk.layer)[:, :, : self._stop]
        unroped = keys
        if not pruner.rope:  # stored keys turned back, exact up to rounding
            cos, sin = walk.decoder.rope(torch.arange(self._stop, device=device))
            unroped = apply_rope(keys, (cos, -sin))
        self.timer.stop()
        xyz_m = self._prefix.xyz_m[: len(self._all)]
        kept, xyz_m_ranked, candidates = self._candidates(self._all, xyz_m)
        return PruneContext(
            layer=walk.layer,
            q=q[0],
            q_unroped=q_unroped[0],
            k=keys[0],
            k_unroped=unroped[0],
            query_rows=self._stop + index,
            positions=torch.arange(self._stop + tokens, device=device),
            spatial=(self._prefix.start, self._stop),
            kept=kept,
            xyz_m=xyz_m_ranked,
            own_k=roped.k[0],
            own_k_unroped=roped.k_unroped[0],
            candidates=candidates,
        )

    def _apply(self, walk: LayerWalk) -> None:
        assert self._scores is not None, "ranked before"
        self.timer.start()
        start = self._prefix.start
        if self._order is None:
            self._order, self._lengths = self._ordered(self._scores)
        self._index = torch.sort(self._order[: self._lengths[walk.layer]]).values
        walk.kept = self._index[start:] - start
        self.timer.stop()

    def _ordered(self, scores: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
        """The prefix's tokens, best first, newlines behind the best of their rows, and how many of
        them each layer has.
        """
        # The system text comes first, so that it is always selected.
        start, rows = self._prefix.start, self._rows
        if rows.plain:
            above = scores.new_full((start,), torch.inf)
            return best_first(torch.cat((above, scores))), [start + n for n in self.counts]
        ordered = rows.order(best_first(scores))
        newlines = ordered.num_newlines(self.counts)
        lengths = [start + n + more for n, more in zip(self.counts, newlines, strict=True)]
        system = torch.arange(start, device=scores.device)
        return torch.cat((system, start + ordered.tokens)), lengths
