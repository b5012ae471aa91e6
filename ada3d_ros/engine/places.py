"""Point, then speak: a token that points is a place in the scene, and the place is what is fed.

The final state that chose the token is the query of the grounding head over the spatial tokens that
the last layer holds; the head's strongest peak gives a box, its centre goes through the click
encoder, in the place of the token's embedding. All of it stays on the device: nothing waits.

N spatial tokens of hidden size D; places are in the model's world (the world moved down by
`QueryContext.origin_m`), in metres.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ada3d_ros.engine.prefill import PrefillOutput
from ada3d_ros.engine.query_context import QueryContext
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.engine.token_selection import SceneContext
from ada3d_ros.errors import ModelError
from ada3d_ros.model.grounding_head import HEAD_FILE, GroundingHead, strongest_peak

MAX_PLACES = 8  # of one answer; then the tokens that point are no longer chosen
MAX_EVIDENCE = 8  # spatial tokens named per place
EGOCENTRIC_AFTER = 2  # places that an egocentric one is told by

Point = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Place:
    """What one token pointed at, in the model's world.

    fed_m: what the model was told: the centre, or (forward, left, z) where egocentric; center_m,
    size_m: the head's box; share: of the pointer's weight, what lies in the peak, 0..1;
    evidence_xyz_m, evidence_weights: the strongest tokens of the peak, and their parts of it.
    """

    fed_m: Point
    egocentric: bool
    center_m: Point
    size_m: Point
    share: float
    evidence_xyz_m: tuple[Point, ...]
    evidence_weights: tuple[float, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Pointable:
    """What a question can point at, and with what.

    states (N, D): normed, of the spatial tokens that the last layer holds; xyz_m (N, 3) float32:
    theirs; encode: points (1, 3) to the embeddings (1, D) of clicks; keys: asked for at the first
    place, (N, C) float32 of the head for these states.
    """

    head: GroundingHead
    states: torch.Tensor
    xyz_m: torch.Tensor
    encode: Callable[[torch.Tensor], torch.Tensor]
    keys: Callable[[], torch.Tensor]


class Pointer:
    """The places of one answer, as its tokens come."""

    def __init__(
        self, point_id: int, egocentric_id: int, pointable: Pointable | None = None
    ) -> None:
        """The ids of the tokens that point, -1 where there is none. pointable: None where there is
        nothing to point at, or with: then no such token is chosen.
        """
        self._ids = point_id, egocentric_id
        self._pointable = pointable if pointable is not None and len(pointable.xyz_m) else None
        self._tokens = self._keys = torch.empty(0)  # (1, N, D), (1, N, C) float32, from the first
        self._centers: list[torch.Tensor] = []
        self._found: list[torch.Tensor] = []  # of each place, all that is read at the end
        self._egocentric: list[bool] = []

    @property
    def closed_ids(self) -> tuple[int, ...]:
        """The tokens that may not be chosen now."""
        count, opened = len(self._found), list[int]()
        if self._pointable is not None and count < MAX_PLACES:
            opened += self._ids if count >= EGOCENTRIC_AFTER else self._ids[:1]
        return tuple(i for i in self._ids if i >= 0 and i not in opened)

    def offered(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (vocab,) to choose the next token from."""
        closed = self.closed_ids
        if closed:
            logits = logits.clone()
            for token_id in closed:
                logits[token_id] = -torch.inf
        return logits

    @torch.inference_mode()
    def embedding(self, token_id: int, state: torch.Tensor | None) -> torch.Tensor | None:
        """What to feed (D,) where this token points, of which a place is made; None where it does
        not. state (D,): final and normed, by which the token was chosen.
        """
        if token_id < 0 or token_id not in self._ids or self._pointable is None:
            return None
        assert state is not None, "prefilled with states"
        egocentric = token_id == self._ids[1]
        center = self._find(state, egocentric)
        return self._pointable.encode(center[None])[0]

    def _find(self, state: torch.Tensor, egocentric: bool) -> torch.Tensor:
        """Note the place that the state points at; what is told of it, (3,) float32."""
        at = self._pointable
        assert at is not None
        if not self._found:
            self._tokens = at.states.float()[None]
            self._keys = at.keys()[None]
        query, tokens, xyz_m = state.float()[None, None], self._tokens, at.xyz_m

        # The strongest peak, and the box of its tokens.
        weights = at.head.logits(query, self._keys)[0, 0].softmax(-1)
        inside = torch.where(strongest_peak(weights, xyz_m), weights, 0.0)
        mass = inside.sum()
        share = inside / mass
        box = at.head.boxes(query, tokens, share[None, None], xyz_m[None])
        center, size = box[0][0, 0], box[1][0, 0]

        # What is told of it, and the tokens that show it.
        fed = seen_from(center, *self._centers[-EGOCENTRIC_AFTER:]) if egocentric else center
        strongest, index = share.topk(min(MAX_EVIDENCE, len(share)))
        seen = xyz_m[index].flatten()
        self._centers.append(center)
        self._found.append(torch.cat((fed, center, size, mass[None], strongest, seen)))
        self._egocentric.append(egocentric)
        return fed

    def places(self) -> tuple[Place, ...]:
        """All places so far, in order; waits for the device.

        Raises ModelError where the head's output is not finite.
        """
        if not self._found:
            return ()
        rows = torch.stack(self._found).tolist()
        if not all(math.isfinite(number) for row in rows for number in row):
            raise ModelError(
                f"the grounding head's output is not finite: {HEAD_FILE} is damaged; copy it"
                " again, or delete it: the model then points at nothing."
            )
        return tuple(map(_place, rows, self._egocentric))


def seen_from(place: torch.Tensor, origin: torch.Tensor, faced: torch.Tensor) -> torch.Tensor:
    """(forward, left, z) of `place` for someone who stands at `origin` and faces `faced`, all (3,)
    float32 in one frame; z stays. Faces along x where the two lie above each other.
    """
    towards = (faced - origin)[:2]
    length = towards.norm()
    ahead = torch.where(length > 0, towards / length, torch.eye(3, device=place.device)[0, :2])
    x, y = (place - origin)[:2].unbind()
    forward, left = ahead[0] * x + ahead[1] * y, ahead[0] * y - ahead[1] * x
    return torch.stack((forward, left, place[2]))


def _place(row: list[float], egocentric: bool) -> Place:
    """Of what `Pointer._find` has put into a row."""
    count = (len(row) - 10) // 4
    weights, seen = row[10 : 10 + count], row[10 + count :]
    points = [(seen[3 * i], seen[3 * i + 1], seen[3 * i + 2]) for i in range(count)]
    shown = [i for i in range(count) if weights[i] > 0]
    return Place(
        fed_m=(row[0], row[1], row[2]),
        egocentric=egocentric,
        center_m=(row[3], row[4], row[5]),
        size_m=(row[6], row[7], row[8]),
        share=row[9],
        evidence_xyz_m=tuple(points[i] for i in shown),
        evidence_weights=tuple(weights[i] for i in shown),
    )


def pointer_of(
    query: QueryContext, context: SceneContext, prefilled: PrefillOutput
) -> Pointer | None:
    """The pointer of a question that was prefilled; None for a model that does not point."""
    states = None if prefilled.states is None else prefilled.states.spatial
    return pointer_at(query, context, states, prefilled.kept[-1])


def pointer_at(
    query: QueryContext,
    context: SceneContext,
    states: torch.Tensor | None,
    kept: torch.Tensor,
) -> Pointer | None:
    """The same where what the last layer holds is known otherwise: kept (n,), which of the chosen
    spatial tokens it holds, and states (N, D) of those of them that have a place.
    """
    model, head = query.loaded.model, query.loaded.head
    ids = model.config.point_id, model.config.egocentric_point_id
    if max(ids) < 0:
        return None
    may_point = query.in_scene and query.config.question.point
    if head is None or states is None or not may_point:
        return Pointer(*ids)
    rows = context.chosen.rows
    kept = rows.with_place(kept)
    xyz_m = context.chosen.tokens.xyz_m[kept]
    number = kept if rows.plain else rows.number[kept]
    keys = functools.partial(_keys, head.head, states, context.prefix, number)
    return Pointer(*ids, Pointable(head.head, states, xyz_m, model.encode_points, keys))


def _keys(
    head: GroundingHead, states: torch.Tensor, prefix: ScenePrefix | None, number: torch.Tensor
) -> torch.Tensor:
    """Keys (N, C) of states (N, D); those of a cached scene are made once and stay with it. number
    (N,): which of its tokens with a place they are.
    """
    if prefix is None:
        return head.key_proj(states.float())
    if prefix.head_keys is None:
        prefix.head_keys = head.key_proj(prefix.final_states().float())
    keys = prefix.head_keys
    return keys if len(keys) == len(states) else keys[number]
