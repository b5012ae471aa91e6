"""Candidates of many frames made into objects: one thing, one object, whatever it was called.

Candidates of one kind are one thing where their boxes overlap, or one lies mostly in the other. Of
two kinds they are one thing where the boxes are nearly the same: a cup on a table is two things. A
part of a thing under a name that it is easily taken for, as the seat of a sofa that is called a
chair, is of that thing. An object is what `min_views` frames call by one name; surer boxes weigh
more, so that two may do, and fainter ones less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from ada3d_ros.perception.colors import color_name
from ada3d_ros.perception.lifting import Candidate
from ada3d_ros.perception.merging import merge_views, overlaps, share_near, share_within
from ada3d_ros.perception.related_kinds import are_furniture, look_alike
from ada3d_ros.scene.object_detections import MAX_ALTERNATIVES, Detection
from ada3d_ros.scene.object_evidence import (
    GONE_VIEWS,
    Sight,
    sights_of,
    spread_points,
)
from ada3d_ros.scene.objects import FoundObject
from ada3d_ros.types import Box3D, GroundingMethod, RgbdFrame

Array = npt.NDArray[np.float64]

SAME_KIND_IOU = 0.15  # of boxes of one thing
PART_SHARE = 0.5  # or of the smaller of them inside the other: a view shows a side, or is cut
REPEAT_SHARE = 0.8  # the same in one picture: a part of a thing that has a box of its own
OTHER_KIND_IOU = 0.5  # of boxes of one thing under two names
INSIDE_SHARE = 0.75  # of the points of a part, or of a lookalike, in the volume of a thing
SURFACE_SHARE = 0.7  # of the points of furniture that is the surface of other furniture
MORE_EVIDENCE = 1.5  # times its scores: what a thing has that takes in another one
MAX_VIEWS = 16  # of a thing that are kept with their points
MAX_SCORES = 200  # frames whose scores are kept of a thing
MAX_THINGS = 500
LEAST_VIEWS = 2  # of an object, however sure they are
MIN_ALTERNATIVE = 0.25  # share of all scores that another kind has
MAX_EVIDENCE = 8  # frame stamps named per box
NO_COLOR = ("person",)  # kinds that nobody calls by a colour
NEVER = 1e3


@dataclass(frozen=True, eq=False, slots=True)
class _View:
    """A candidate and the stamp of its frame."""

    stamp_ns: int
    candidate: Candidate


@dataclass(eq=False, slots=True)
class _Thing:
    """Something at one place. views: some of all, in the order of their frames; scores: of each
    kind in each of the last MAX_SCORES frames that show it, by stamp; support_points: of all views;
    low, high (3,) and points (P, 3): of the views together; through: how many keyframes since the
    last view see through it.
    """

    key: int
    views: list[_View] = field(default_factory=list)
    scores: dict[str, dict[int, float]] = field(default_factory=dict)
    support_points: int = 0
    low: Array = field(default_factory=lambda: np.zeros(3))
    high: Array = field(default_factory=lambda: np.zeros(3))
    points: Array = field(default_factory=lambda: np.empty((0, 3)))
    through: int = 0

    @property
    def kinds(self) -> list[str]:
        """What it was called, by the sum of the scores."""
        return sorted(self.scores, key=lambda kind: (-sum(self.scores[kind].values()), kind))

    @property
    def kind(self) -> str:
        return self.kinds[0]

    @property
    def evidence(self) -> float:
        """The sum of its scores under its name."""
        return sum(self.scores[self.kind].values())

    @property
    def last_ns(self) -> int:
        return max(view.stamp_ns for view in self.views)

    def take(self, views: Sequence[_View]) -> None:
        """More views of it, in any order."""
        for view in views:
            scores = self.scores.setdefault(view.candidate.label, {})
            scores[view.stamp_ns] = max(view.candidate.score, scores.get(view.stamp_ns, 0.0))
            self.support_points += view.candidate.box.support_points
        self.views = _spread_views(sorted([*self.views, *views], key=lambda view: view.stamp_ns))
        self._forget_scores()
        self.low, self.high, self.points = merge_views([v.candidate.xyz_m for v in self.views])

    def absorb(self, other: _Thing) -> None:
        """Another thing that turned out to be this one."""
        support = self.support_points + other.support_points
        self.take(other.views)
        for kind, scores in other.scores.items():
            mine = self.scores.setdefault(kind, {})
            mine.update({i: max(s, mine.get(i, 0.0)) for i, s in scores.items()})
        self.support_points, self.through = support, 0
        self._forget_scores()

    def _forget_scores(self) -> None:
        """Those of the oldest frames, where there are many."""
        stamps = sorted({stamp for scores in self.scores.values() for stamp in scores})
        for stamp in stamps[:-MAX_SCORES]:
            for kind in [kind for kind, scores in self.scores.items() if stamp in scores]:
                del self.scores[kind][stamp]
                if not self.scores[kind]:
                    del self.scores[kind]


class ObjectMap:
    """What a detector saw, as objects. Frames are taken in once each, oldest first; what they
    showed stays until two later keyframes see through its place. Used by one thread.

    min_views: frames that must call a thing by one name where each is just sure enough: the sum
    of its scores is at least min_views * min_score, two frames show it, and the mean of its best
    min_views scores, the score of the object, is at least min_score.
    """

    def __init__(self, min_views: int, min_score: float) -> None:
        self.min_views, self.min_score = min_views, min_score
        self._things: list[_Thing] = []
        self._next_key = 0

    def reset(self) -> None:
        """Forget everything; keys are never given again."""
        self._things = []

    def add(
        self, frame: RgbdFrame, candidates: Sequence[Candidate], is_keyframe: bool = True
    ) -> None:
        """What a frame shows; of a keyframe also what it sees through."""
        # Each kind by itself: two chairs of one picture are two things.
        seen: set[int] = set()
        for kind in sorted({candidate.label for candidate in candidates}):
            own = _without_repeats([c for c in candidates if c.label == kind])
            views = [_View(frame.stamp_ns, candidate) for candidate in own]
            for view, thing in zip(views, self._match(views), strict=True):
                if thing is None:
                    thing = _Thing(self._next_key)
                    self._next_key += 1
                    self._things.append(thing)
                thing.take([view])
                thing.through = 0
                seen.add(thing.key)

        # Things that turn out to be one, and those that are gone.
        self._join(seen)
        if is_keyframe:
            self._drop_gone(frame, seen)
        if len(self._things) > MAX_THINGS:
            self._things.sort(key=lambda thing: (len(thing.views), thing.last_ns, thing.key))
            del self._things[: len(self._things) - MAX_THINGS]

    def found(self) -> list[FoundObject]:
        """The objects, best first. Label: colour and kind, `black tv`; the colour left out where it
        is not sure. Box: score as above, support points and stamps of the frames that show it.
        """
        found = [self._described(thing) for thing in self._things if self._is_object(thing)]
        return sorted(found, key=lambda each: (-each.detection.box.score, each.key))

    # -- which thing a candidate is

    def _match(self, views: Sequence[_View]) -> list[_Thing | None]:
        """The thing that each view of one kind and one frame shows; None: none so far."""
        if not self._things:
            return [None] * len(views)
        fits = np.stack([self._fit(view.candidate) for view in views])
        rows, columns = linear_sum_assignment(np.where(fits > 0, 1 - fits, NEVER))
        matched: list[_Thing | None] = [None] * len(views)
        for i, j in zip(rows.tolist(), columns.tolist(), strict=True):
            matched[i] = self._things[j] if fits[i, j] > 0 else None
        return matched

    def _fit(self, candidate: Candidate) -> Array:
        """How well a candidate fits each thing (T,), 0..2; 0: another one."""
        low, high = _faces(candidate)
        same = np.array([candidate.label == thing.kind for thing in self._things])
        fits = _fits(low, high, self._things, same)
        for i in np.flatnonzero(~same & (fits == 0)):
            thing = self._things[i]
            alike = candidate.label in thing.scores or look_alike(candidate.label, thing.kind)
            if alike and _touch(low, high, thing):
                inside = share_within(spread_points(candidate.xyz_m), thing.points)
                fits[i] = 1e-3 if inside >= INSIDE_SHARE else 0.0
        return fits

    def _join(self, changed: set[int]) -> None:
        """Make one of things that overlap as views of one thing do, the older staying."""
        queue = sorted(changed)
        while queue:
            key = queue.pop(0)
            thing = next((each for each in self._things if each.key == key), None)
            others = [each for each in self._things if each is not thing]
            if thing is None or not others:
                continue
            same = np.array([other.kind == thing.kind for other in others])
            fits = _fits(thing.low, thing.high, others, same)
            fits *= [not _seen_apart(thing, other) for other in others]
            fits = np.maximum(fits, [1e-3 * _is_part(thing, other) for other in others])
            if fits.any():
                pair = sorted((thing, others[int(fits.argmax())]), key=lambda each: each.key)
                pair[0].absorb(pair[1])
                self._things.remove(pair[1])
                queue.append(pair[0].key)

    def _drop_gone(self, frame: RgbdFrame, seen: set[int]) -> None:
        """Without the things that frames see through."""
        unseen = [thing for thing in self._things if thing.key not in seen]
        sights = sights_of(frame, [spread_points(thing.points) for thing in unseen])
        for thing, sight in zip(unseen, sights, strict=True):
            if sight is Sight.SUPPORTS:
                thing.through = 0
            thing.through += sight is Sight.SEES_THROUGH
        self._things = [thing for thing in self._things if thing.through < GONE_VIEWS]

    # -- what is told of a thing

    def _is_object(self, thing: _Thing) -> bool:
        """Whether its views together weigh as much as min_views that are just sure enough."""
        scores, sure = thing.scores[thing.kind].values(), self._score(thing) >= self.min_score
        enough = len(scores) >= min(LEAST_VIEWS, self.min_views)
        return sure and enough and sum(scores) >= self.min_views * self.min_score

    def _score(self, thing: _Thing) -> float:
        best = sorted(thing.scores[thing.kind].values(), reverse=True)
        return float(np.mean(best[: self.min_views]))

    def _described(self, thing: _Thing) -> FoundObject:
        # Its name, and what else it may be.
        kind, *others = thing.kinds
        color = (
            ""
            if kind in NO_COLOR
            else color_name(np.median([view.candidate.lab for view in thing.views], axis=0))
        )
        totals = {name: sum(scores.values()) for name, scores in thing.scores.items()}
        least = MIN_ALTERNATIVE * sum(totals.values())
        alternatives = tuple(name for name in others if totals[name] >= least)

        # Its box.
        shown = sorted(thing.views, key=lambda v: (-v.candidate.box.support_points, v.stamp_ns))
        box = Box3D(
            (thing.low + thing.high) / 2,
            thing.high - thing.low,
            label=f"{color} {kind}".strip(),
            score=self._score(thing),
            support_points=thing.support_points,
            method=GroundingMethod.DETECTOR,
            evidence_stamps_ns=tuple(
                dict.fromkeys(view.candidate.stamp_ns for view in shown[:MAX_EVIDENCE])
            ),
        )
        detection = Detection(box, alternatives[:MAX_ALTERNATIVES])
        return FoundObject(detection, spread_points(thing.points), key=thing.key)


def _fits(low: Array, high: Array, things: Sequence[_Thing], same: npt.NDArray[np.bool_]) -> Array:
    """How well a box with faces low, high (3,) fits each thing (T,): its overlap, 1 more where they
    are of the same kind; 0 where they are not one thing.
    """
    lows, highs = (np.stack([getattr(t, n) for t in things]) for n in ("low", "high"))
    ious, shares = overlaps(low, high, lows, highs)
    one = same & ((ious >= SAME_KIND_IOU) | (shares >= PART_SHARE)) | (ious >= OTHER_KIND_IOU)
    return np.where(one, np.maximum(ious, 1e-3) + same, 0.0)


def _touch(low: Array, high: Array, thing: _Thing) -> bool:
    """Whether half of the smaller of two boxes lies in the other."""
    return bool(overlaps(low, high, thing.low[None], thing.high[None])[1][0] >= PART_SHARE)


def _is_part(a: _Thing, b: _Thing) -> bool:
    """Whether one of two things is only a part of the other under its name or one that it is
    easily taken for, or furniture that is the surface of other furniture.
    """
    less, more = sorted((a, b), key=lambda thing: thing.evidence)
    alike, large = look_alike(less.kind, more.kind), are_furniture(less.kind, more.kind)
    if not (alike or large) or more.evidence < MORE_EVIDENCE * less.evidence:
        return False
    if not _touch(less.low, less.high, more):
        return False
    points = spread_points(less.points)
    if alike and share_within(points, more.points) >= INSIDE_SHARE:
        return True
    return large and share_near(points, more.points) >= SURFACE_SHARE


def _without_repeats(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those of one kind in one picture, best first, without what is part of a better one, or the
    better one with more around it.
    """
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=_order):
        low, high = _faces(candidate)
        faces = [_faces(other) for other in kept]
        lows, highs = (np.array([f[i] for f in faces]).reshape(-1, 3) for i in (0, 1))
        if not (overlaps(low, high, lows, highs)[1] >= REPEAT_SHARE).any():
            kept.append(candidate)
    return kept


def _faces(candidate: Candidate) -> tuple[Array, Array]:
    half = candidate.box.size_m / 2
    return candidate.box.center_m - half, candidate.box.center_m + half


def _seen_apart(a: _Thing, b: _Thing) -> bool:
    """Whether half of the frames that show one of them show both, as two things of one kind."""
    shared = [a.scores[kind].keys() & b.scores[kind].keys() for kind in a.scores.keys() & b.scores]
    fewest = min(sum(map(len, thing.scores.values())) for thing in (a, b))
    return 2 * sum(map(len, shared)) >= fewest


def _spread_views(views: list[_View]) -> list[_View]:
    """At most MAX_VIEWS of views in the order of their frames: of those that follow each other
    closely some go, never the first or the newest.
    """
    kept = list(views)
    while len(kept) > MAX_VIEWS:
        gaps = [b.stamp_ns - a.stamp_ns for a, b in zip(kept, kept[2:], strict=False)]
        del kept[1 + int(np.argmin(gaps))]
    return kept


def _order(candidate: Candidate) -> tuple[float, tuple[float, ...]]:
    """Best first, whatever order a detector gives."""
    return (-candidate.score, tuple(candidate.box.center_m.tolist()))
