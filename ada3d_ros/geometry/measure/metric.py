"""Lengths: distance, size, height, where, free floor. Each takes checked things."""

from __future__ import annotations

from collections.abc import Sequence

from ada3d_ros.errors import NotGroundedError
from ada3d_ros.geometry.floor_grid import CELL_M, REACH_M
from ada3d_ros.geometry.measure import uncertainty
from ada3d_ros.geometry.measure.distance import center_distance_m, surface_distance_m
from ada3d_ros.geometry.measure.fitted import fit_to_depth
from ada3d_ros.geometry.measure.free_floor import (
    BESIDE_M,
    MIN_SIDE_M,
    free_rectangle,
)
from ada3d_ros.geometry.measure.lengths import format_length, format_lengths, give_or_take
from ada3d_ros.geometry.measure.relations import top_m
from ada3d_ros.geometry.measure.request import MeasuredScene, Referent, Resolved, given
from ada3d_ros.geometry.measure.uncertainty import half_width_m
from ada3d_ros.measures import MeasureKind, Measurement, MeasureRequest
from ada3d_ros.types import Box3D

METRES = "m"
IN_METRES = "In metres in the world frame."
NOT_SURE = 0.5  # a thing of a lower score may be another one


def distance(request: MeasureRequest, things: Resolved, scene: MeasuredScene) -> Measurement:
    """Between surfaces in 3D, or between centres."""
    first, second = given(things.of), given(things.to)
    if request.centers:  # as they are: a centre gains nothing from the fit
        boxes = first.box, second.box
        value, factor, between = center_distance_m(*boxes), uncertainty.CENTERS, "centres"
    else:
        boxes = fitted(first, scene), fitted(second, scene)
        value, factor = surface_distance_m(*boxes), uncertainty.SURFACES
        between = "their nearest surfaces"
    half = half_width_m(factor, *boxes)
    unit = request.unit
    sentence = (
        f"{capital(first.name)} is {format_length(value, unit)}{give_or_take(half, unit)} from"
        f" {second.name}."
    )
    assumed = f"Measured between {between}."
    return Measurement(
        MeasureKind.DISTANCE,
        (value,),
        METRES,
        (half,),
        sentence=sentence,
        boxes=boxes,
        assumptions=(assumed, *doubts(first, second)),
    )


def size(request: MeasureRequest, things: Resolved, scene: MeasuredScene) -> Measurement:
    """Length (the longer side), width and height."""
    thing = given(things.of)
    box = fitted(thing, scene)
    length, width = sorted((float(v) for v in box.size_m[:2]), reverse=True)
    values = length, width, float(box.size_m[2])
    side, high = half_width_m(uncertainty.EXTENT, box), half_width_m(uncertainty.TOP, box)
    sentence = (
        f"{capital(thing.name)} is {format_lengths(values, request.unit)} (length x width x"
        f" height{_of_each(side, request.unit)})."
    )
    return Measurement(
        MeasureKind.SIZE,
        values,
        METRES,
        (side, side, high),
        sentence=sentence,
        boxes=(box,),
        assumptions=doubts(thing),
    )


def _of_each(half: float, unit: str) -> str:
    return ", " + give_or_take(half, unit).strip(" ()")


def height(request: MeasureRequest, things: Resolved, scene: MeasuredScene) -> Measurement:
    """Of a thing's top above the floor."""
    thing = given(things.of)
    value = top_m(thing.box) - scene.floor_z_m
    half = half_width_m(uncertainty.TOP, thing.box)
    unit = request.unit
    sentence = (
        f"The top of {thing.name} is {format_length(value, unit)}{give_or_take(half, unit)} above"
        " the floor."
    )
    return Measurement(
        MeasureKind.HEIGHT,
        (value,),
        METRES,
        (half,),
        sentence=sentence,
        boxes=(thing.box,),
        assumptions=doubts(thing),
    )


def where(request: MeasureRequest, things: Resolved, scene: MeasuredScene) -> Measurement:
    """The centre of a thing's box: x, y, z in the world frame."""
    thing = given(things.of)
    x, y, z = (float(value) for value in thing.box.center_m)
    half = half_width_m(uncertainty.PLACE, thing.box)
    sentence = f"{capital(thing.name)} is at [{x:.2f}, {y:.2f}, {z:.2f}]{give_or_take(half)}."
    return Measurement(
        MeasureKind.WHERE,
        (x, y, z),
        METRES,
        (half, half, half),
        sentence=sentence,
        boxes=(thing.box,),
        assumptions=(IN_METRES, *doubts(thing)),
    )


def free_floor(request: MeasureRequest, things: Resolved, scene: MeasuredScene) -> Measurement:
    """The largest free rectangle beside a thing: length, width."""
    anchor = given(things.to)
    others = [candidate.box for candidate in things.candidates]
    rectangle = free_rectangle(scene.frames, anchor.box, scene.floor_z_m, others)
    if rectangle is None:
        raise NotGroundedError(
            f"no free floor of {MIN_SIDE_M:g} x {MIN_SIDE_M:g} m was seen within {BESIDE_M:g} m of"
            f" {anchor.name}: look at the floor around it, from above 1 m."
        )
    length, width = sorted((float(v) for v in rectangle.size_m[:2]), reverse=True)
    x, y = (float(value) for value in rectangle.center_m[:2])
    sentence = (
        f"Beside {anchor.name} {format_lengths((length, width), request.unit)} of floor is free,"
        f" around [{x:.2f}, {y:.2f}]."
    )
    assumptions = (
        f"Looked for within {REACH_M:g} m of {anchor.name}; the rectangle begins at most"
        f" {BESIDE_M:g} m from it.",
        "Floor that no view shows counts as not free.",
    )
    return Measurement(
        MeasureKind.FREE_FLOOR,
        (length, width),
        METRES,
        (2 * CELL_M, 2 * CELL_M),
        sentence=sentence,
        boxes=(anchor.box, rectangle),
        assumptions=assumptions + doubts(anchor),
    )


def fitted(referent: Referent, scene: MeasuredScene) -> Box3D:
    """A thing's box with its faces at the surfaces that depth shows; a point as it is."""
    if not referent.is_object:
        return referent.box
    return fit_to_depth(referent.box, scene.frames, scene.floor_z_m)


def doubts(*referents: Referent) -> tuple[str, ...]:
    """A sentence for each thing that the model is not sure of."""
    return tuple(
        f"What was taken for {one.name} may be something else (score {one.box.score:.2f})."
        for one in referents
        if one.is_object and one.box.score < NOT_SURE
    )


def capital(text: str) -> str:
    """With a capital letter."""
    return text[:1].upper() + text[1:]


def listed(names: Sequence[str]) -> str:
    """`the a`, `the a and the b`, `the a, the b and the c`."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
