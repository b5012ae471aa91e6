"""One training step's forward pass: packed questions after their rooms, and the losses.

The layers are the decoder's own modules; only the attention is arranged anew: the scene attends to
itself, a question to the scene and to itself. A test holds the result against the engine's prefill
of each question alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ada3d_ros.lab.train.packing import PackedQuestions
from ada3d_ros.lab.train.tokens import RoomTokens
from ada3d_ros.model.backbone import Backbone
from ada3d_ros.model.decoder import DecoderLayer, LlamaDecoder
from ada3d_ros.model.grounding_head import GroundingHead
from ada3d_ros.model.prompt import CLICK_ID
from ada3d_ros.model.rope import Rope, apply_rope, rope_rows, rope_tables
from ada3d_ros.pruning.ranking import keep_best
from ada3d_ros.pruning.strategy import LayerPruner
from ada3d_ros.token_rows import TokenRows, rows_of

POINTER_WEIGHT, PRESENCE_WEIGHT, BOX_WEIGHT = 0.5, 0.3, 1.0
OWNED_SHARE = 0.4  # a token belongs to an object that this share of its patches lie on


@dataclass(frozen=True, eq=False, slots=True)
class Packed:
    """Final normed hidden states: text (B, M, D) of the questions, spatial (B, n, D) of the scenes'
    tokens that the last layer still had.

    mask (B, n) bool: which of the n are tokens with a place, no padding and no newline; kept (B, n)
    int64: their numbers among all of the room, -1 padding; xyz_m (B, n, 3), 0 without a place, and
    owner (B, n, O) of these, as in RoomTokens.
    """

    text: torch.Tensor
    spatial: torch.Tensor
    mask: torch.Tensor
    kept: torch.Tensor
    xyz_m: torch.Tensor
    owner: torch.Tensor


def run_packed(
    model: Backbone,
    prefix_ids: Sequence[int],
    rooms: Sequence[RoomTokens],
    packed: PackedQuestions,
    pruner: LayerPruner | None = None,
    recompute: bool = False,
) -> Packed:
    """Final normed states of all rows. pruner: how many spatial tokens of a room each layer still
    has (AdaToken-3D during training; None = all). What is dropped leaves the computation, forwards
    and backwards. A room's questions share its tokens: ranked by the last prompt tokens of all of
    them, mean over questions; of one question this is the engine's pruned prefill. Newlines are not
    ranked and go when their row is empty; `pruner` counts tokens with a place. recompute: for
    large models, keep of each layer only what enters it and compute the rest anew for the
    gradients; not with a pruner.
    """
    decoder, start = model.decoder, len(prefix_ids)
    counts = [r.tokens.features.shape[0] for r in rooms]
    device = decoder.device
    visual = model.project(torch.cat([r.tokens.features for r in rooms])).split(counts)
    before = decoder.embed(torch.tensor(prefix_ids, device=device))
    pad = torch.nn.utils.rnn.pad_sequence
    scene = pad([torch.cat((before, rows.to(before.dtype))) for rows in visual], batch_first=True)
    text = decoder.embed(packed.ids.clamp(min=0))
    if len(packed.clicks):
        text = text.masked_scatter(
            (packed.ids == CLICK_ID)[..., None], model.encode_points(packed.clicks).to(text.dtype)
        )
    token_rows = [rows_of(r.tokens) for r in rooms]
    run = _PackedRun(decoder, torch.tensor(counts, device=device), start, token_rows, packed)
    hidden = torch.cat((scene, text), dim=1)
    # Tokens with a place of each room alive in each layer.
    layers, placed = len(decoder.layers), [r.num_placed for r in token_rows]
    alive = [pruner.counts(n, None) if pruner else (n,) * layers for n in placed]
    for i, module in enumerate(decoder.layers):
        layer = cast(DecoderLayer, module)
        if i > 0 and any(room[i] < room[i - 1] for room in alive):
            hidden = run.drop(layer, hidden, [room[i] for room in alive])
        step = functools.partial(run.layer, layer)
        hidden = checkpoint(step, hidden, use_reentrant=False) if recompute else step(hidden)
    mask = run.visible[:, start:]
    kept = (run.numbers[:, start:] - start).masked_fill(~mask, -1)
    at = torch.arange(len(rooms), device=device)[:, None], kept.clamp(min=0)
    xyz_m = pad([r.tokens.xyz_m for r in rooms], batch_first=True)[at]
    has_place = torch.isfinite(xyz_m).all(dim=-1)
    return Packed(
        text=decoder.norm(hidden[:, run.size :]),
        spatial=decoder.norm(hidden[:, start : run.size]),
        mask=mask & has_place,
        kept=kept,
        xyz_m=xyz_m.nan_to_num(),
        owner=pad([r.owner for r in rooms], batch_first=True)[at],
    )


class _PackedRun:
    """Who sees whom: scene rows those before them, a question's rows what is left of the scene and
    their own rows before them.

    size: scene rows, with system prompt and padding; numbers (B, size) int64: which of its room's
    rows each is; visible (B, size) bool: False for padding.
    """

    def __init__(
        self,
        decoder: LlamaDecoder,
        counts: torch.Tensor,
        start: int,
        token_rows: Sequence[TokenRows],
        packed: PackedQuestions,
    ) -> None:
        length, size = counts + start, start + max(rows.count for rows in token_rows)
        self.size, self.start, self.packed, self._config = size, start, packed, decoder.config
        self._token_rows = list(token_rows)  # of the spatial tokens that each room has left
        self.numbers = torch.arange(size, device=counts.device).repeat(len(counts), 1)
        self.visible = self.numbers < length[:, None]
        self._text_places = packed.offset + length[:, None]
        self.rope = self._rope()
        self.own = _OwnTokens(packed.rows, packed.block.numel())

    def _rope(self) -> Rope:
        """Of the rows there are: what is kept stays at its place, the questions at theirs."""
        places = torch.cat((self.numbers, self._text_places), dim=1)
        return rope_tables(places, self._config.head_dim, self._config.rope_theta, torch.float32)

    def layer(self, layer: DecoderLayer, hidden: torch.Tensor) -> torch.Tensor:
        """One decoder layer."""
        attention, size = layer.self_attn, self.size
        normed = layer.input_layernorm(hidden)
        q = apply_rope(attention.queries(normed).float(), self.rope)  # float32: faster on CPUs
        k = self._keys(layer, normed)
        v = _for_every_head(attention.split_heads(attention.v_proj(normed)).float(), q.shape[1])
        scene = F.scaled_dot_product_attention(
            q[:, :, :size], k[:, :, :size], v[:, :, :size], is_causal=True
        )
        out = torch.cat((scene, self._attend(q, k, v)), dim=2)
        hidden = hidden + attention.o_proj(out.transpose(1, 2).flatten(2))
        return hidden + cast(torch.Tensor, layer.mlp(layer.post_attention_layernorm(hidden)))

    def _keys(self, layer: DecoderLayer, normed: torch.Tensor) -> torch.Tensor:
        """Roped (B, H, size + M, d) float32, one for every query head."""
        keys = apply_rope(layer.self_attn.keys(normed).float(), self.rope)
        return _for_every_head(keys, self._config.num_heads)

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """The questions' rows (B, H, M, d): one softmax over the scene and over its own question's
        rows, which are gathered question by question.
        """
        size, scale = self.size, q.shape[-1] ** -0.5
        text = [x[:, :, size:] for x in (q, k, v)]
        over_scene = (text[0] @ k[:, :, :size].mT) * scale
        over_scene = over_scene.masked_fill(~self.visible[:, None, None], float("-inf"))
        own_q, own_k, own_v = (self.own.gather(x) for x in text)  # (Q, H, T, d)
        over_own = (own_q @ own_k.mT) * scale
        over_own = over_own.masked_fill(~self.own.causal[:, None], float("-inf"))

        weights = torch.cat((over_scene, self.own.scatter(over_own, q)), dim=-1).softmax(-1)
        from_own = self.own.gather(weights[..., size:]) @ own_v
        return weights[..., :size] @ v[:, :, :size] + self.own.scatter(from_own, q)

    def drop(
        self, layer: DecoderLayer, hidden: torch.Tensor, counts: Sequence[int]
    ) -> torch.Tensor:
        """Hidden states (B, size + M, D) before `layer` without the tokens with a place that rank
        below the best `counts`, one per room, and without the newlines of rows that are empty then;
        gradients flow through what is left.
        """
        scores, start, places = self._scores(layer, hidden), self.start, []
        for b, (here, count) in enumerate(zip(self._token_rows, counts, strict=True)):
            own = scores[b, : here.count]
            stays = here.keep(keep_best(own if here.plain else own[here.placed], count))
            self._token_rows[b] = here.take(stays, count)
            places.append(torch.cat((torch.arange(start, device=hidden.device), start + stays)))
        kept = torch.nn.utils.rnn.pad_sequence(places, batch_first=True, padding_value=-1)
        self.visible, rows = kept >= 0, kept.clamp(min=0)
        scene = hidden.gather(1, rows[..., None].expand(-1, -1, hidden.shape[-1]))
        hidden = torch.cat((scene, hidden[:, self.size :]), dim=1)
        self.numbers, self.size = self.numbers.gather(1, rows), kept.shape[1]
        self.rope = self._rope()
        return hidden

    @torch.no_grad()
    def _scores(self, layer: DecoderLayer, hidden: torch.Tensor) -> torch.Tensor:
        """(B, size - start) float32, -1 for padding: what the last prompt tokens of a room's
        questions attend to, a softmax over the scene and the question's own tokens, mean over
        heads and questions.
        """
        packed, size = self.packed, self.size
        normed = layer.input_layernorm(hidden)
        k = self._keys(layer, normed)
        found = []
        for b in range(len(hidden)):
            query = packed.query[packed.room == b]  # (q,)
            rope = rope_rows((self.rope[0][b : b + 1], self.rope[1][b : b + 1]), size + query)
            q = apply_rope(layer.self_attn.queries(normed[b : b + 1, size + query]).float(), rope)
            logits = (q[0] @ k[b].mT) * q.shape[-1] ** -0.5  # (H, q, size + M)
            block, order = packed.block[b], torch.arange(packed.block.shape[1], device=k.device)
            own = (block == block[query][:, None]) & (order <= query[:, None])
            seen = torch.cat((self.visible[b].expand(len(query), -1), own), dim=-1)
            shares = logits.masked_fill(~seen, float("-inf")).softmax(-1)
            found.append(shares[..., self.start : size].mean(dim=(0, 1)))
        return torch.stack(found).masked_fill(~self.visible[:, self.start :], -1.0)


def _for_every_head(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, G, T, d) to (B, H, T, d): groups of query heads share keys and values."""
    shared = heads // x.shape[1]
    return x.repeat_interleave(shared, dim=1) if shared > 1 else x


class _OwnTokens:
    """Rows of B rooms (B, H, M, x) to rows of Q questions (Q, H, T, x), and the other way."""

    def __init__(self, rows: torch.Tensor, total: int) -> None:
        """rows (Q, T): as in PackedQuestions; total: B * M."""
        present, order = rows >= 0, torch.arange(rows.shape[1], device=rows.device)
        self._rows = rows.clamp(min=0)
        # Where each row of the rooms lies among the Q * T; padding belongs to no question.
        places_of = torch.zeros(total, dtype=torch.int64, device=rows.device)
        places = torch.arange(rows.numel(), device=rows.device).view_as(rows)
        places_of[rows[present]] = places[present]
        self._places = places_of
        earlier = order[None, :, None] >= order[None, None]
        self.causal = earlier & (present[:, None] | (order[None, None] == 0))  # (Q, T, T)

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """(B, H, M, x) to (Q, H, T, x); what stands in padding means nothing."""
        flat = values.transpose(1, 2).flatten(0, 1)  # (B * M, H, x)
        return flat[self._rows].transpose(1, 2)

    def scatter(self, values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """(Q, H, T, x) to (B, H, M, x) for the B of `like`; padding gets the first row's."""
        flat = values.transpose(1, 2).flatten(0, 1)[self._places]  # (B * M, H, x)
        return flat.unflatten(0, (like.shape[0], -1)).transpose(1, 2)


def losses(
    decoder: LlamaDecoder,
    head: GroundingHead,
    states: Packed,
    packed: PackedQuestions,
    mean: Callable[[Sequence[int]], Sequence[float]] = tuple,
) -> tuple[torch.Tensor, dict[str, float]]:
    """The sum to minimise, and its parts for the log: answer tokens, pointing, presence, boxes.

    mean: of counts over all workers that share a batch. Each divides by these, so that the mean of
    their gradients is the gradient of the whole batch.
    """
    asked = packed.presence >= 0
    counts = len(packed.room), len(packed.head_room), int(asked.sum())
    questions, queries, presences = mean(counts)

    # Answers: cross-entropy, every question weighing the same.
    predicting = states.text[packed.target_room, packed.target_place]
    logits = decoder.lm_head(predicting).float()
    token_loss = F.cross_entropy(logits, packed.target_id, reduction="none")
    answer = (token_loss * packed.target_weight).sum() / questions

    # The grounding head on the state before each place, and the spatial tokens that are left.
    points = _point(head, states, packed)
    pointed, mask = points.logits, points.mask

    # Pointing: all weight on tokens of the object, of queries whose room kept one.
    owned = (states.owner[packed.head_room] >= OWNED_SHARE) & mask[..., None]  # (H, N, O)
    target = (owned & packed.evidence[:, None]).any(-1).float()
    has_target = target.sum(-1) > 0
    log_weights = F.log_softmax(pointed.masked_fill(~mask, -1e4), dim=-1)
    on_target = torch.logsumexp(log_weights + (target + 1e-9).log(), -1)
    pointing = -on_target[has_target].sum() / queries

    # Presence: whether the room has what is named, where that is the question.
    presence_loss = F.binary_cross_entropy_with_logits(
        points.presence[asked].float(), packed.presence[asked], reduction="sum"
    ) / (presences or 1)

    # Boxes, of questions that ask for one.
    has_box = torch.isfinite(packed.box_m[:, 0]) & has_target
    box = _box_loss(head, states, packed, has_box, log_weights.detach(), target)
    total = (
        answer
        + POINTER_WEIGHT * pointing
        + PRESENCE_WEIGHT * presence_loss
        + BOX_WEIGHT * box * (has_box.sum() / queries)
    )
    # For the log: how often the peak lies on what was to be pointed at.
    peak = target.gather(1, pointed.detach().masked_fill(~mask, -1e4).argmax(-1)[:, None])
    at_peak = peak[has_target].mean()
    parts = {"answer": answer, "pointing": pointing, "presence": presence_loss, "box": box}
    parts["peak"] = at_peak
    return total, {name: float(value.detach()) for name, value in parts.items()}


@dataclass(frozen=True, eq=False, slots=True)
class _Points:
    """What the grounding head says to H queries: logits and mask (H, N), presence (H,)."""

    logits: torch.Tensor
    presence: torch.Tensor
    mask: torch.Tensor


def _point(head: GroundingHead, states: Packed, packed: PackedQuestions) -> _Points:
    """All queries of a room at once: its tokens are projected once."""
    rooms, mask = len(states.spatial), states.mask[packed.head_room]
    order = torch.arange(len(packed.head_room), device=mask.device)
    first = torch.searchsorted(packed.head_room, torch.arange(rooms, device=mask.device))
    column = order - first[packed.head_room]
    where = packed.head_room, column
    queries = states.text.new_zeros(rooms, int(column.max()) + 1, states.text.shape[-1]).float()
    queries = queries.index_put(where, states.text[packed.head_room, packed.head_place].float())
    masks = mask.new_ones(*queries.shape[:2], mask.shape[-1]).index_put(where, mask)
    logits, presence = head.point(queries, states.spatial.float(), masks)
    return _Points(logits[where], presence[where], mask)


def _box_loss(
    head: GroundingHead,
    states: Packed,
    packed: PackedQuestions,
    has_box: torch.Tensor,
    log_weights: torch.Tensor,
    target: torch.Tensor,
) -> torch.Tensor:
    """L1 of centre (metres) and of log size over the queries with has_box (H,).

    log_weights (H, N) of pointing; target (H, N), 1 on the object's own tokens: the weights on
    these alone are taken, as they are at a clean peak.
    """
    room, box_m, target = packed.head_room[has_box], packed.box_m[has_box], target[has_box]
    query = states.text[room, packed.head_place[has_box]].float()[:, None]
    if not len(query):
        return query.new_zeros(())
    weights = log_weights[has_box].exp() * target + 1e-3 * target
    weights = weights / weights.sum(-1, keepdim=True)
    tokens, xyz_m = states.spatial.float()[room], states.xyz_m[room]
    center, size = head.boxes(query, tokens, weights[:, None], xyz_m)
    off_center = (center[:, 0] - box_m[:, :3]).abs().mean()
    return off_center + (size[:, 0].log() - box_m[:, 3:].log()).abs().mean()
