"""The objects kept with a scene: found again and again, numbered, gone by depth evidence alone.

An object is there from the detection that no kept object explains. It is gone once two keyframes
after the last one that shows it looked at its place and through it; what is merely out of view, or
is not found again, stays. Nothing here runs a model: detections come refined, with their points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from ada3d_ros.geometry.boxes import grow_box, points_inside
from ada3d_ros.measures import ObjectsSnapshot, SceneObject
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.scene.object_detections import MAX_IOU, Detection, iou_matrix
from ada3d_ros.scene.object_evidence import Evidence, gather_evidence
from ada3d_ros.types import Box3D, Keyframe

MIN_MATCH_IOU = 0.1  # of an object and a detection with its label
OTHER_LABEL_IOU = 0.3  # the same under another label
MAX_MATCH_M = 0.4  # or so far apart, with its label: small things overlap little
MAX_MISSES = 2  # surveys in a row that do not find what was found at less than
SURE_SCORE = 0.5
ABOUT_BOX_M, PART_SHARE = 0.1, 0.5  # that much of an object's points about another of its name
NEVER = 1e3  # cost of a pair that is not one object
SAME_KEY = -1e3  # of a pair that is, whatever it looks like
NO_KEY = -1


@dataclass(frozen=True, eq=False, slots=True)
class FoundObject:
    """A detection and points (P, 3) of its surface, metres, world frame. key: the same in all
    updates for one thing where the finder follows things itself, NO_KEY where it does not.
    """

    detection: Detection
    xyz_m: npt.NDArray[np.float64]
    key: int = NO_KEY


@dataclass(frozen=True, eq=False, slots=True)
class KeptObject:
    """An object: its number, how it was found last, what keyframes say about it, the key of what
    was found, and how often in a row it was looked for in vain where keyframes show its place.
    """

    number: int
    detection: Detection
    evidence: Evidence
    key: int = NO_KEY
    misses: int = 0

    def described(self) -> SceneObject:
        evidence = self.evidence
        return SceneObject(
            id=str(self.number),
            label=self.detection.label,
            box=self.detection.box,
            alternatives=self.detection.alternatives,
            first_seen_ns=evidence.first_ns,
            last_seen_ns=evidence.last_ns,
            gone_ns=evidence.gone_ns,
        )


@dataclass(frozen=True, eq=False, slots=True)
class KeptObjects:
    """All that an ObjectMemory knows, and the list that was last published of it: what it takes to
    go on with the objects elsewhere, or after a restart.
    """

    kept: tuple[KeptObject, ...]
    next_number: int
    last_index: int  # of the keyframes that were looked through
    snapshot: ObjectsSnapshot

    @property
    def epoch(self) -> int:
        """Of the scene that they belong to."""
        return self.snapshot.scene_epoch

    def without_keys(self) -> KeptObjects:
        """For a finder that follows things itself and begins anew: its keys are others."""
        return replace(self, kept=tuple(replace(each, key=NO_KEY) for each in self.kept))


class ObjectMemory:
    """The objects of one scene epoch. Keyframes are taken in the order of their indices, each once;
    one that leaves the scene takes nothing with it. Used by one thread.

    max_count: objects that are there; those of the lowest score go beyond it. next_number: of the
    object to come; ids are not given twice where the list begins anew within an epoch.
    """

    def __init__(self, max_count: int, next_number: int = 1) -> None:
        self.max_count, self.next_number = max_count, next_number
        self._kept: list[KeptObject] = []
        self._last_index = -1  # of the keyframes that were looked through

    @property
    def objects(self) -> tuple[SceneObject, ...]:
        """By id, those that are gone among them."""
        return tuple(kept.described() for kept in self._kept)

    def told(self, snapshot: ObjectsSnapshot) -> KeptObjects:
        """What it knows, for `ObjectMemory.from_told`; snapshot: what was published of it."""
        return KeptObjects(tuple(self._kept), self.next_number, self._last_index, snapshot)

    @classmethod
    def from_told(cls, max_count: int, known: KeptObjects) -> ObjectMemory:
        """A memory that knows this."""
        memory = cls(max_count)
        memory._kept, memory.next_number = list(known.kept), known.next_number
        memory._last_index = known.last_index
        return memory

    def copied(self) -> ObjectMemory:
        """A memory of its own that knows the same."""
        other = ObjectMemory(self.max_count)
        other._kept, other.next_number = list(self._kept), self.next_number
        other._last_index = self._last_index
        return other

    def observe(self, scene: SceneSnapshot) -> bool:
        """Look for the kept objects in the keyframes that are new; whether there were any."""
        new = [keyframe for keyframe in scene.keyframes if keyframe.index > self._last_index]
        if not new:
            return False
        self._last_index = new[-1].index
        evidence = gather_evidence([kept.evidence for kept in self._kept], new)
        self._kept = [
            replace(kept, evidence=each) for kept, each in zip(self._kept, evidence, strict=True)
        ]
        return True

    def update(self, found: Sequence[FoundObject], scene: SceneSnapshot) -> None:
        """Take in what was found in a scene: kept objects move and are named anew, others come in.

        What two keyframes saw through already is left out: its image is still among the scene's
        keyframes, the object is not. What has a key is forgotten where its finder has none of that
        key any more, unless it is gone; what has none and was found at a low score is forgotten
        where it is not found twice in a row.
        """
        self.observe(scene)
        keys = {each.key for each in found}
        known = [keyframe for keyframe in scene.keyframes if keyframe.index <= self._last_index]
        found, evidence = _still_there(found, known)

        # Which kept object each detection is.
        matched = self._match(found, keys)
        updated = dict(enumerate(self._kept))
        for i, (each, its) in enumerate(zip(found, evidence, strict=True)):
            if i in matched:
                kept = self._kept[matched[i]]
                updated[matched[i]] = KeptObject(
                    kept.number, each.detection, _joined(kept.evidence, its), each.key
                )
            else:
                updated[len(updated)] = KeptObject(self.next_number, each.detection, its, each.key)
                self.next_number += 1

        # Two at one place are one; not too many.
        confirmed = {*matched.values(), *range(len(self._kept), len(updated))}
        oldest = scene.keyframes[0].index if scene.keyframes else self._last_index + 1
        for i in updated.keys() - confirmed:
            shown = updated[i].evidence.last_index >= oldest
            updated[i] = replace(updated[i], misses=updated[i].misses + shown)
        left = [kept for kept in _merged(updated, confirmed) if not _is_disowned(kept, keys)]
        self._kept = self._limited([kept for kept in left if not _was_a_guess(kept)])

    def retain(self, found: Sequence[FoundObject]) -> None:
        """Without what `update` would forget: keyed objects that their finder has no more."""
        keys = {each.key for each in found}
        self._kept = [kept for kept in self._kept if not _is_disowned(kept, keys)]

    def _match(self, found: Sequence[FoundObject], keys: set[int]) -> dict[int, int]:
        """Kept object by detection, of the cheapest assignment; keys: that the finder has."""
        if not found or not self._kept:
            return {}
        own, old = np.array([f.key for f in found]), np.array([k.key for k in self._kept])
        cost = _costs([each.detection for each in found], self._kept)
        cost[:, np.isin(old, list(keys - {NO_KEY}))] = NEVER
        cost[(own[:, None] == old) & (own[:, None] != NO_KEY)] = SAME_KEY
        rows, columns = linear_sum_assignment(cost)
        pairs = zip(rows.tolist(), columns.tolist(), strict=True)
        return {i: j for i, j in pairs if cost[i, j] < NEVER}

    def _limited(self, kept: list[KeptObject]) -> list[KeptObject]:
        """At most max_count that are there and as many that are gone, the oldest of which go."""
        present = [each for each in kept if each.evidence.gone_ns < 0]
        gone = [each for each in kept if each.evidence.gone_ns >= 0]
        present.sort(key=lambda each: (-each.detection.box.score, each.number))
        gone.sort(key=lambda each: (-each.evidence.gone_ns, each.number))
        chosen = present[: self.max_count] + gone[: self.max_count]
        return sorted(chosen, key=lambda each: each.number)


def _still_there(
    found: Sequence[FoundObject], keyframes: Sequence[Keyframe]
) -> tuple[list[FoundObject], list[Evidence]]:
    """The detections that the keyframes do not see through, and what they say about each."""
    evidence = gather_evidence([Evidence(each.xyz_m) for each in found], keyframes)
    pairs = [(a, b) for a, b in zip(found, evidence, strict=True) if b.gone_ns < 0]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _costs(found: Sequence[Detection], kept: Sequence[KeptObject]) -> npt.NDArray[np.float64]:
    """Of taking each detection for each kept object (F, K); NEVER where it is another one. Objects
    that are gone match under their own label alone, and where they were.
    """
    # How the boxes lie to each other.
    boxes, old = [each.box for each in found], [each.detection.box for each in kept]
    ious = iou_matrix(boxes, old)
    centers = np.stack([box.center_m for box in boxes]), np.stack([box.center_m for box in old])
    apart_m = np.linalg.norm(centers[0][:, None] - centers[1], axis=-1)

    # Under its own label an object may lie a little apart, or be all that was seen of a large one;
    # under another label it overlaps.
    labels = np.array([each.label for each in found]), np.array([k.detection.label for k in kept])
    same, gone = labels[0][:, None] == labels[1], np.array([k.evidence.gone_ns >= 0 for k in kept])
    around = np.stack([points_inside(centers[1], box) for box in boxes])
    fits = (ious >= MIN_MATCH_IOU) | (apart_m <= MAX_MATCH_M) | (around & ~gone)
    fits = np.where(same, fits, ~gone & (ious >= OTHER_LABEL_IOU))
    return np.where(fits, np.where(same, 1.0, 2.0) - ious + apart_m, NEVER)


def _joined(old: Evidence, new: Evidence) -> Evidence:
    """What was known of an object, and what the scene's keyframes say where it was found now."""
    if new.last_index < 0:  # no keyframe of the scene shows it
        return replace(new, first_ns=old.first_ns, last_ns=old.last_ns, last_index=old.last_index)
    firsts = [stamp for stamp in (old.first_ns, new.first_ns) if stamp >= 0]
    latest = new if new.last_index >= old.last_index else old
    return replace(latest, xyz_m=new.xyz_m, first_ns=min(firsts))


def _is_disowned(kept: KeptObject, keys: set[int]) -> bool:
    """Whether what an object was is nothing any more to who found it, or part of another thing."""
    return kept.key != NO_KEY and kept.key not in keys and kept.evidence.gone_ns < 0


def _was_a_guess(kept: KeptObject) -> bool:
    """Whether it was found at a low score and then, in better known scenes, not any more."""
    doubtful = kept.key == NO_KEY and kept.evidence.gone_ns < 0
    return doubtful and kept.misses >= MAX_MISSES and kept.detection.box.score < SURE_SCORE


def _merged(kept: dict[int, KeptObject], confirmed: set[int]) -> list[KeptObject]:
    """Without the objects that were not found again and lie where one is that was: in it, or of its
    name and partly in it, as a box that too few views had drawn.
    """
    names = sorted(kept)
    sure = [kept[i].detection.box for i in names if i in confirmed]
    result = []
    for i in names:
        each = kept[i]
        if i in confirmed or each.evidence.gone_ns >= 0 or not sure:
            result.append(each)
            continue
        ious = iou_matrix([each.detection.box], sure)[0]
        alike = np.array([box.label == each.detection.label for box in sure])
        is_drawn_anew = each.misses > 0 and bool((ious[alike] > 0.0).any())
        if not (ious.max() > MAX_IOU or is_drawn_anew or _is_part(each, sure)):
            result.append(each)
    return result


def _is_part(kept: KeptObject, others: Sequence[Box3D]) -> bool:
    """Whether most of what was seen of an object is of another one of its name, as of a thing whose
    box was drawn about the part that the first views show.
    """
    points = kept.evidence.xyz_m
    alike = [grow_box(box, ABOUT_BOX_M) for box in others if box.label == kept.detection.label]
    shares = [points_inside(points, box).mean() for box in alike] if len(points) else []
    return max(shares, default=0.0) >= PART_SHARE
