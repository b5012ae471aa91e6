"""Which objects, or how many: nearest, within a radius, count, on, under, between, largest.

Each takes checked things. Distances of these kinds are between centres on the floor plan, as in the
generated rooms' questions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ada3d_ros.errors import NotGroundedError
from ada3d_ros.geometry.measure import uncertainty
from ada3d_ros.geometry.measure.distance import plan_distance_m
from ada3d_ros.geometry.measure.lengths import format_length, give_or_take
from ada3d_ros.geometry.measure.metric import METRES, capital, doubts, listed
from ada3d_ros.geometry.measure.relations import (
    BETWEEN_M,
    ON_FLOOR_M,
    bottom_m,
    is_between,
    lies_under,
    stands_on,
    top_m,
)
from ada3d_ros.geometry.measure.request import MeasuredScene, Referent, Resolved, given
from ada3d_ros.geometry.measure.uncertainty import count_half_width, half_width_m
from ada3d_ros.measures import MeasureKind, Measurement, MeasureRequest, SceneObject
from ada3d_ros.types import Box3D

ON_PLAN = "Distances are between centres, on the floor plan."
CLOSE_SHARE = 0.9  # of the first one's measure: the second one comes close
NOTHING, FLOOR, YES, NO = "nothing", "floor", "yes", "no"

Objects = Sequence[SceneObject]


def nearest(request: MeasureRequest, things: Resolved, scene: MeasuredScene) -> Measurement:
    """The k objects nearest to one, with their distances."""
    # By distance, the first one where two are equally far.
    anchor = given(things.to)
    found = by_distance(anchor.box, things.candidates)[: request.k]
    if not found:
        raise NotGroundedError(
            f"no other object is known near {anchor.name}: look around, or ask for another thing."
        )
    values = tuple(plan_distance_m(anchor.box, one.box) for one in found)
    halves = tuple(half_width_m(uncertainty.PLAN, anchor.box, one.box) for one in found)

    # In words; a runner-up that may be as near is told.
    assumptions = [ON_PLAN, *doubts(anchor)]
    if len(found) < request.k:
        assumptions.append(f"Only {len(found)} of {request.k} are known.")
    rest = by_distance(anchor.box, things.candidates)[len(found) :]
    if rest and plan_distance_m(anchor.box, rest[0].box) - values[-1] < halves[-1]:
        assumptions.append(f"The {rest[0].label} may be as near.")
    names = listed(
        [
            f"the {one.label}, {format_length(value, request.unit)}{_away(half, request.unit)}"
            for one, value, half in zip(found, values, halves, strict=True)
        ]
    )
    verb = "is" if len(found) == 1 else "are"
    return Measurement(
        MeasureKind.NEAREST,
        values,
        METRES,
        halves,
        word=found[0].label,
        sentence=f"Nearest to {anchor.name} {verb} {names}.",
        boxes=(anchor.box, *(one.box for one in found)),
        assumptions=tuple(assumptions),
    )


def _away(half: float, unit: str) -> str:
    return f" away{give_or_take(half, unit)}"


def within(request: MeasureRequest, things: Resolved, scene: MeasuredScene) -> Measurement:
    """The objects within a radius of one, nearest first: their number, names and boxes; of a thing
    that is named whether it is.
    """
    anchor, radius = given(things.to), request.radius_m
    if things.of is not None:
        return _is_within(request, things.of, anchor)
    found = [
        one
        for one in by_distance(anchor.box, things.candidates)
        if plan_distance_m(anchor.box, one.box) <= radius
    ]
    unsure = [one for one in things.candidates if near_radius(anchor.box, one.box, radius)]
    text = format_length(radius, request.unit)
    sentence = f"Within {text} of {anchor.name} there {_number_and_names(found)}."
    assumptions = [ON_PLAN, *doubts(anchor)]
    if unsure:
        names = capital(listed([f"the {one.label}" for one in unsure]))
        verb = "is" if len(unsure) == 1 else "are"
        assumptions.append(f"{names} {verb} so near {text} that in or out is not sure.")
    return Measurement(
        request.kind,
        (float(len(found)),),
        "",
        (count_half_width(len(unsure), len(found)),),
        word=_word(request, found),
        sentence=sentence,
        boxes=(anchor.box, *(one.box for one in found)),
        assumptions=tuple(assumptions),
    )


def _is_within(request: MeasureRequest, thing: Referent, anchor: Referent) -> Measurement:
    """Yes or no, with the distance."""
    text = format_length(request.radius_m, request.unit)
    apart_m = plan_distance_m(anchor.box, thing.box)
    half_m = half_width_m(uncertainty.PLAN, anchor.box, thing.box)
    is_so = apart_m <= request.radius_m
    apart = f"{format_length(apart_m, request.unit)} apart{give_or_take(half_m, request.unit)}"
    assumptions = [ON_PLAN, *doubts(thing, anchor)]
    if near_radius(anchor.box, thing.box, request.radius_m):
        assumptions.append(f"{capital(thing.name)} is so near {text} that yes or no is not sure.")
    return Measurement(
        request.kind,
        (apart_m,),
        METRES,
        (half_m,),
        word=YES if is_so else NO,
        sentence=(
            f"{capital(YES if is_so else NO)}, {thing.name} is {'' if is_so else 'not '}within"
            f" {text} of {anchor.name}: their centres are {apart}."
        ),
        boxes=(thing.box, anchor.box),
        assumptions=tuple(assumptions),
    )


def near_radius(anchor: Box3D, box: Box3D, radius_m: float) -> bool:
    """Whether the radius lies within the distance's interval."""
    off_m = abs(plan_distance_m(anchor, box) - radius_m)
    return off_m <= half_width_m(uncertainty.PLAN, anchor, box)


def count(request: MeasureRequest, things: Resolved, scene: MeasuredScene) -> Measurement:
    """How many there are, in the scene or within a radius."""
    if not math.isnan(request.radius_m):
        return within(request, things, scene)
    found = sorted(things.candidates, key=lambda one: float(one.center_m[0]))
    return Measurement(
        MeasureKind.COUNT,
        (float(len(found)),),
        "",
        (count_half_width(0, len(found)),),
        word=_word(request, found),
        sentence=f"There {_number_and_names(found)}.",
        boxes=tuple(one.box for one in found),
        assumptions=("Counted in what has been seen so far.",),
    )


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _number_and_names(found: Objects) -> str:
    """`are 2: the red chair and the blue chair`; the request's own words may be plural or not."""
    if not found:
        return "are none"
    return f"{_are(len(found))} {len(found)}: {listed([f'the {one.label}' for one in found])}"


def _word(request: MeasureRequest, found: Objects) -> str:
    """Of a question that does not ask for the number: the first one's name, or yes and no."""
    if request.attribute == "yes_no":
        return YES if found else NO
    if request.attribute == "count" or request.kind is MeasureKind.COUNT:
        return ""
    return found[0].label if found else NOTHING


def on(request: MeasureRequest, things: Resolved, scene: MeasuredScene) -> Measurement:
    """Whether a thing stands on another, or what does."""
    support = given(things.to)
    return _held(request, things, support, lambda box: stands_on(box, support.box), "on")


def under(request: MeasureRequest, things: Resolved, scene: MeasuredScene) -> Measurement:
    """Whether a thing is under another, or what is: the floor where nothing else."""
    above = given(things.to)
    answer = _held(request, things, above, lambda box: lies_under(box, above.box), "under")
    on_floor = abs(bottom_m(above.box) - scene.floor_z_m) <= ON_FLOOR_M
    if answer.word != NOTHING or not on_floor:
        return answer
    return Measurement(
        MeasureKind.UNDER,
        word=FLOOR,
        sentence=f"Under {above.name} is the floor.",
        boxes=answer.boxes,
        assumptions=answer.assumptions,
    )


def between(request: MeasureRequest, things: Resolved, scene: MeasuredScene) -> Measurement:
    """Whether a thing stands between two others, or what does, on the floor plan."""
    first, second = given(things.to), given(things.third)
    pair = Referent(f"{first.label} and {second.name}", first.box)
    answer = _held(
        request, things, pair, lambda box: is_between(box, first.box, second.box), "between"
    )
    named = () if things.of is None else (things.of.box,)
    found = answer.boxes[1 + len(named) :]
    assumed = (
        f"Between means within {format_length(BETWEEN_M, request.unit)} of the middle of the line"
        " of their centres, on the floor plan."
    )
    return Measurement(
        MeasureKind.BETWEEN,
        word=answer.word,
        sentence=answer.sentence,
        boxes=(*named, first.box, second.box, *found),
        assumptions=(assumed, *doubts(first, second)),
    )


def _held(
    request: MeasureRequest,
    things: Resolved,
    other: Referent,
    holds: Callable[[Box3D], bool],
    word: str,
) -> Measurement:
    """Yes or no of the thing that is named, else which objects hold."""
    if things.of is not None:
        is_so = holds(things.of.box)
        sentence = (
            f"{YES.capitalize() if is_so else NO.capitalize()}, {things.of.name} is"
            f" {'' if is_so else 'not '}{word} {other.name}."
        )
        return Measurement(
            request.kind,
            word=YES if is_so else NO,
            sentence=sentence,
            boxes=(things.of.box, other.box),
            assumptions=doubts(things.of, other),
        )
    found = [one for one in things.candidates if holds(one.box)]
    found.sort(key=lambda one: -one.box.score)
    names = listed([f"the {one.label}" for one in found]) if found else NOTHING
    counted = request.attribute == "count"
    if counted and found:
        names = f"{len(found)}: {names}"
    return Measurement(
        request.kind,
        (float(len(found)),) if counted else (),
        "",
        (count_half_width(0, len(found)),) if counted else (),
        word=_word(request, found),
        sentence=f"{capital(word)} {other.name} {_are(max(len(found), 1))} {names}.",
        boxes=(other.box, *(one.box for one in found)),
        assumptions=("Of what has been seen so far.", *doubts(other)),
    )


def exists(request: MeasureRequest, things: Resolved, scene: MeasuredScene) -> Measurement:
    """Whether there is such a thing: the one that is named, or a candidate."""
    found = [(f"the {one.label}", one.box) for one in things.candidates]
    if things.of is not None:
        found = [(things.of.name, things.of.box)]
    names = listed([name for name, _ in found]) if found else ""
    return Measurement(
        MeasureKind.EXISTS,
        word=YES if found else NO,
        sentence=f"Yes: {names}." if found else "No, none has been seen.",
        boxes=tuple(box for _, box in found),
        assumptions=("Of what has been seen so far.",),
    )


def largest(request: MeasureRequest, things: Resolved, scene: MeasuredScene) -> Measurement:
    """The candidate of the largest volume."""
    return _first(request, things, lambda box: float(box.size_m.prod()), "largest", "volume")


def tallest(request: MeasureRequest, things: Resolved, scene: MeasuredScene) -> Measurement:
    """The candidate whose top is the highest."""
    return _first(request, things, top_m, "tallest", "height of its top")


def _first(
    request: MeasureRequest,
    things: Resolved,
    by: Callable[[Box3D], float],
    which: str,
    measure: str,
) -> Measurement:
    if not things.candidates:
        raise NotGroundedError(
            f"no {request.category or 'object'} is known: look around, or ask for another thing."
        )
    ordered = sorted(things.candidates, key=lambda one: -by(one.box))
    assumptions = [f"By the {measure}, of what has been seen so far."]
    if len(ordered) > 1 and by(ordered[1].box) > CLOSE_SHARE * by(ordered[0].box):
        assumptions.append(f"The {ordered[1].label} comes close.")
    return Measurement(
        request.kind,
        word=ordered[0].label,
        sentence=f"The {which} is the {ordered[0].label}.",
        boxes=(ordered[0].box,),
        assumptions=tuple(assumptions),
    )


def by_distance(anchor: Box3D, candidates: Objects) -> list[SceneObject]:
    """Nearest first, between centres on the floor plan."""
    return sorted(candidates, key=lambda one: (plan_distance_m(anchor, one.box), one.id))
