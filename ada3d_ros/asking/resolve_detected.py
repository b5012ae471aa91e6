"""Names among the objects of a detector: by its kinds and their synonyms, with what follows where
nothing fits.

A kind that it knows and none was seen of is not there, as far as was seen. A name that it has no
kind for is never denied: somebody else has to look for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ada3d_ros.asking.kinds import KindNames, Meaning
from ada3d_ros.asking.resolve import NameResolver, place_of
from ada3d_ros.asking.words import with_article
from ada3d_ros.errors import NotGroundedError, NotMeasurableError
from ada3d_ros.geometry.boxes import grow_box, points_inside
from ada3d_ros.geometry.measure.checks import place_text, require_in_room
from ada3d_ros.geometry.measure.empty_place import ABOUT_BOX_M, require_something_at
from ada3d_ros.geometry.measure.request import Referent, Resolved
from ada3d_ros.geometry.measure.search import NOTHING
from ada3d_ros.measures import (
    MeasureKind,
    Measurement,
    MeasureRequest,
    Reference,
    SceneObject,
)
from ada3d_ros.types import Box3D

MAX_LISTED = 4  # names in a sentence
# Kinds that tell of all that is somewhere, where the request names no category.
_TELLING_ALL = (
    *(MeasureKind.NEAREST, MeasureKind.WITHIN, MeasureKind.COUNT, MeasureKind.LARGEST),
    *(MeasureKind.TALLEST, MeasureKind.ON, MeasureKind.UNDER, MeasureKind.BETWEEN),
)
# Kinds that say whether there is one, or how many: no member may be taken for granted.
_ASSERTING = (MeasureKind.EXISTS, MeasureKind.COUNT)
AT_A_PLACE = ("category", "color")  # attributes of the object that is at a place


@dataclass(eq=False, slots=True)
class DetectedResolver(NameResolver):
    """Finds what one request names. kinds: the names of the detector's kinds; finder: the detector
    itself where it takes phrases.
    """

    kinds: KindNames = field(kw_only=True)

    def resolve(self, request: MeasureRequest) -> Resolved:
        """As NameResolver; of a place whose name or colour is asked, the object that is there."""
        at = request.of
        if at is None or at.point_m is None or request.attribute not in AT_A_PLACE:
            return super(DetectedResolver, self).resolve(request)
        return Resolved(of=self._thing_at(at.point_m))

    def boxes_of(self, ref: Reference) -> list[Box3D]:
        """Of all that has the name, best first. Raises NotGroundedError where nothing has."""
        self._require_known(ref.phrase)
        (found,) = self._look_for([ref])
        known = sorted((thing.box for thing in self._known(ref)), key=lambda box: -box.score)
        if not known and not found:
            raise self._not_found(ref)
        return known or list(found)

    def qualified(self, request: MeasureRequest, result: Measurement) -> Measurement:
        """Things of no kind that the detector knows may be there, too."""
        if request.of is None and not request.category and request.kind in _TELLING_ALL:
            if request.kind is MeasureKind.UNDER and result.word == NOTHING:
                raise NotGroundedError(
                    "what it stands on is of no kind that the detector has seen there: look at it"
                    " with the camera."
                )
            self._assume(
                f"Of the {_kinds(len(self.kinds.kinds))} that the detector knows."
                if self.kinds.is_closed
                else "Of what the detector has a kind for; which these are is not known."
            )
            told = result.sentence.replace(f"is {NOTHING}.", f"is {NOTHING} that is known.")
            result = replace(result, sentence=told)
        return super(DetectedResolver, self).qualified(request, result)

    def _thing_at(self, xyz_m: Sequence[float]) -> Referent:
        """The smallest object whose box holds a place, or nearly does. Raises InvalidRequestError
        for a place outside the room, NotGroundedError where nothing is, or nothing with a name.
        """
        if self.objects.why_not:
            raise NotMeasurableError(f"what is there cannot be told: {self.objects.why_not}")
        place, present, scene = np.array(xyz_m), self.objects.present, self.query.scene
        require_in_room(place, scene.frames)
        require_something_at(place, scene.frames, scene.floor.z_m, present)
        there = [t for t in present if points_inside(place[None], grow_box(t.box, ABOUT_BOX_M))[0]]
        if not there:
            raise NotMeasurableError(
                f"what is at {place_text(place)} cannot be told: depth shows a surface there, of no"
                " thing that the detector has found."
            )
        thing = min(there, key=lambda each: float(each.box.size_m.prod()))
        return Referent(thing.label, thing.box)

    def _require_known(self, phrase: str) -> None:
        if self.kinds.meaning(phrase) is None and self.finder is None:
            raise unknown_name(phrase, self.kinds)

    def _look_for(self, refs: Sequence[Reference]) -> list[tuple[Box3D, ...]]:
        """Only names that are of no kind: looking through images takes long."""
        missing = [self.kinds.meaning(ref.phrase) is None for ref in refs]
        phrases = [ref.phrase for ref, is_missing in zip(refs, missing, strict=True) if is_missing]
        found = iter(self._find(phrases, self.query.config.question.named_score))
        return [next(found) if is_missing else () for is_missing in missing]

    def _known(self, ref: Reference) -> list[SceneObject]:
        meaning = self.kinds.meaning(ref.phrase)
        return [] if meaning is None else self._fitting(meaning)

    def _fitting(self, meaning: Meaning) -> list[SceneObject]:
        """The objects that a name means, named as it was said."""
        fitting = [t for t in self.objects.present if self.kinds.is_one(meaning, t.label)]
        if fitting and not meaning.own_words:
            called = _listed(frozenset(self.kinds.split(t.label)[1] for t in fitting))
            self._assume(
                f"The detector's word for {meaning.name} is {called}."
                if meaning.is_sure
                else f"The detector does not tell {meaning.name} from any other {called}."
            )
        return [replace(t, label=self.kinds.shown(meaning, t.label)) for t in fitting]

    def _not_found(self, ref: Reference) -> NotGroundedError:
        if self.objects.why_not:
            return NotMeasurableError(f"what is there cannot be told: {self.objects.why_not}")
        meaning = self.kinds.meaning(ref.phrase)
        if meaning is not None:
            self._require_told(meaning)
        return NotGroundedError(
            f"no {ref.phrase} has been seen so far: look at it with the camera, or ask what has"
            " been seen."
        )

    def _candidates(self, request: MeasureRequest) -> tuple[SceneObject, ...]:
        """The objects that a category means. Raises NotGroundedError where it cannot be told."""
        name, snapshot = request.category, self.objects
        if snapshot.why_not:
            raise NotMeasurableError(f"what is there cannot be told: {snapshot.why_not}")
        if not snapshot.complete:
            self._assume("The list of objects is still being made, or the scene has changed.")
        meaning = self.kinds.meaning(name)
        if meaning is None:
            return self._looked_for(name)

        # Those that fit; none is an answer where the detector would know one.
        fitting = self._fitting(meaning)
        if not fitting:
            self._require_told(meaning)
            if not meaning.own_words:
                kinds = _listed(meaning.kinds)
                self._assume(f"The detector's word for {meaning.name} is {kinds}.")
        elif not meaning.is_sure and request.kind in _ASSERTING:
            places = "; ".join(f"{t.box.label} at {place_of(t.box)}" for t in fitting[:MAX_LISTED])
            kind = _listed(meaning.kinds)
            raise NotMeasurableError(
                f"whether there is {with_article(meaning.name)} cannot be told: the detector knows"
                f" {kind}, and does not tell its sorts apart. It may be: {places}. Ask for {kind}."
            )
        if meaning.color and request.kind in _ASSERTING:
            self._assume_colors(meaning)
        return tuple(fitting)

    def _looked_for(self, name: str) -> tuple[SceneObject, ...]:
        """What a detector that takes phrases finds under a name that none of its objects has."""
        assert self.finder is not None, "_require_known"
        (found,) = self._find([name], self.finder.listed_score)
        number = len(self.query.scene.keyframes)
        views = f"{number} keyframe{'s' if number != 1 else ''}"
        self._assume(f"Looked for in {views}: no kind of the list of objects.")
        return tuple(SceneObject(f"{name} {i}", name, box) for i, box in enumerate(found))

    def _apart(self, known: list[SceneObject]) -> list[SceneObject]:
        """All of them, best first: what is one thing was made one object."""
        return sorted(known, key=lambda t: -t.box.score)

    def _require_told(self, meaning: Meaning) -> None:
        """Raise NotGroundedError where that none is seen does not mean that there is none."""
        if not meaning.covers:
            raise NotMeasurableError(
                f"whether there is {with_article(meaning.name)} cannot be told: of such things the"
                f" detector knows {_listed(meaning.kinds)} alone, and none of these has been seen."
            )
        maybe = [t for t in self.objects.present if self.kinds.may_be_one(meaning, t.label)]
        if maybe:
            name = with_article(f"{meaning.color} {meaning.name or 'object'}")
            where = ", ".join(f"{t.label} at {place_of(t.box)}" for t in maybe[:MAX_LISTED])
            raise NotGroundedError(
                f"whether there is {name} cannot be told: no colour is sure of {where}."
            )

    def _assume_colors(self, meaning: Meaning) -> None:
        maybe = [t for t in self.objects.present if self.kinds.may_be_one(meaning, t.label)]
        if maybe:
            self._assume(f"The colour of {len(maybe)} more is not sure.")


def unknown_name(name: str, kinds: KindNames) -> NotMeasurableError:
    """That a detector has no kind for a name, and what is near to it."""
    number = len(kinds.kinds)
    few = f": {_listed(frozenset(kinds.kinds))}" if 0 < number <= MAX_LISTED else ""
    knows = f"it knows {_kinds(number)}{few}"
    if not kinds.is_closed:
        knows = f"things of {_kinds(number)} have been seen so far{few}"
    if not number:
        knows = "its kinds are not known (detector.names)"
    nearest = kinds.nearest(name)
    near = f", the nearest to it {_listed(nearest)}" if nearest and not few else ""
    return NotMeasurableError(
        f"{name!r} is no kind of thing that the detector knows: {knows}{near}. Whether there is one"
        " cannot be told: ask for another name, or use a detector that takes phrases."
    )


def _kinds(number: int) -> str:
    return f"{number} kind{'s' if number != 1 else ''}"


def _listed(names: Sequence[str] | frozenset[str]) -> str:
    """`'cup'`, `'cup' or 'bowl'`, of many the first."""
    ordered = [f"{name!r}" for name in (sorted(names) if isinstance(names, frozenset) else names)]
    shown = ordered[:MAX_LISTED]
    if len(ordered) > MAX_LISTED:
        return ", ".join(shown) + f" and {len(ordered) - MAX_LISTED} more"
    return ", ".join(shown[:-1]) + (" or " if len(shown) > 1 else "") + shown[-1]
