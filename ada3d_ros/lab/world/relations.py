"""Questions about where things are to each other: sides, within a radius, on, under and between."""

from __future__ import annotations

import math
import random

from ada3d_ros.asking.words import plural
from ada3d_ros.lab.world.graph import Graph, Thing, distance_m
from ada3d_ros.lab.world.room_question import (
    NUMBERS,
    RoomQuestion,
    left_to_right,
    named,
    uniquely_named,
)
from ada3d_ros.lab.world.rooms import CATEGORIES, COLORS, SMALL

DIRECTIONS = ("left", "right", "behind")
RADII_M = (1.0, 1.5, 2.0, 2.5, 3.0)
RADIUS_MARGIN_M = 0.15  # nothing counted lies so near the radius
BETWEEN_M = 0.35  # from the line of two things to what stands between them, at most
CLEAR_M = 0.9  # and at least to everything else
GAP_M = 0.06  # between a thing and what it stands on


def relation(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    """SQA3D's situation: standing at one object, facing another, where is a third?"""
    wanted = draw.choice(DIRECTIONS)
    found = situation(graph, draw, wanted)
    if found is None:
        return None
    at, facing, thing = found
    text = (
        f"I am standing at the {at.name} and facing the {facing.name}. Is the {thing.name}"
        " on my left, on my right or behind me?"
    )
    return RoomQuestion(
        "relation",
        text,
        wanted,
        (thing.number,),
        names=(at.name, facing.name, thing.name),
        places=(at.number, facing.number, thing.number),
        egocentric=True,
    )


def situation(graph: Graph, draw: random.Random, wanted: str) -> tuple[Thing, Thing, Thing] | None:
    """Three named things: standing at the first and facing the second, the third is `wanted`."""
    named = uniquely_named(graph)
    if len(named) < 3:
        return None
    for _ in range(12):
        at, facing, thing = draw.sample(named, 3)
        apart = distance_m(at, facing) > 0.8 and distance_m(at, thing) > 0.8
        if apart and direction(at, facing, thing) == wanted:
            return at, facing, thing
    return None


def direction(at: Thing, facing: Thing, thing: Thing) -> str:
    """left, right, behind; empty where it is ahead or near a border of the sectors."""
    ahead = math.atan2(facing.center_m[1] - at.center_m[1], facing.center_m[0] - at.center_m[0])
    towards = math.atan2(thing.center_m[1] - at.center_m[1], thing.center_m[0] - at.center_m[0])
    angle = math.degrees((towards - ahead + math.pi) % (2 * math.pi) - math.pi)
    if abs(angle) > 150:
        return "behind"
    return ("left" if angle > 0 else "right") if 30 < abs(angle) < 120 else ""


SIDES = {"left": "on my left", "right": "on my right", "behind": "behind me"}


def side(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    """The same as a question of yes or no."""
    # A room has to allow both answers, or the rarer direction would mean no.
    asked, other = draw.sample(DIRECTIONS, 2)
    so, not_so = situation(graph, draw, asked), situation(graph, draw, other)
    if so is None or not_so is None:
        return None
    is_so = draw.random() < 0.5
    at, facing, thing = so if is_so else not_so
    text = (
        f"I am standing at the {at.name} and facing the {facing.name}. Is the {thing.name}"
        f" {SIDES[asked]}?"
    )
    return RoomQuestion(
        "side",
        text,
        "yes" if is_so else "no",
        (thing.number,),
        names=(at.name, facing.name, thing.name, SIDES[asked]),
        places=(at.number, facing.number, thing.number),
        egocentric=True,
    )


def within(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    """How many of a name stand within a radius of a thing, centre to centre on the floor plan."""
    anchor = named(graph, draw)
    if anchor is None:
        return None
    radius = draw.choice(RADII_M)
    others = [t for t in graph.things if t is not anchor]
    if any(abs(distance_m(anchor, t) - radius) < RADIUS_MARGIN_M for t in others):
        return None
    near = [t for t in others if distance_m(anchor, t) < radius]
    if not near and draw.random() < 0.7:
        return None  # many a thing has nothing near it: zero would be most answers

    # Every number equally likely; "objects" of any kind too.
    groups: dict[int, list[tuple[str, tuple[int, ...]]]] = {
        len(near): [("object", left_to_right(near))]
    }
    for category in CATEGORIES:
        found = [t for t in near if t.category == category]
        groups.setdefault(len(found), []).append((category, left_to_right(found)))
    for color in COLORS:
        found = [t for t in near if t.color == color]
        groups.setdefault(len(found), []).append((f"{color} object", left_to_right(found)))
    number = draw.choice(sorted(n for n in groups if n < len(NUMBERS)))
    words, numbers = draw.choice(groups[number])
    text = f"How many {plural(words)} are within {radius:g} m of the {anchor.name}?"
    return RoomQuestion(
        "within",
        text,
        NUMBERS[number],
        (anchor.number, *numbers),
        names=(words, f"{radius:g}", anchor.name),
        places=(anchor.number, *numbers),
    )


def support_of(graph: Graph, thing: Thing) -> Thing | None:
    """What it stands on; None for the floor."""
    bottom = thing.center_m[2] - thing.extents_m[2] / 2
    for other in graph.things:
        near = abs(other.height_m - bottom) < GAP_M and other is not thing
        inside = all(
            abs(thing.center_m[i] - other.center_m[i]) < other.extents_m[i] / 2 for i in (0, 1)
        )
        if near and inside:
            return other
    return None


def on(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    """What is on a table, or whether a thing is on it.

    Both answers are asked of the same kinds of tables and things: only tables hold things in these
    rooms, and only things of SMALL categories stand on them.
    """
    tables = [t for t in uniquely_named(graph) if t.category == "table"]
    held = {support_of(graph, t): t for t in graph.things}
    if not tables:
        return None
    if draw.random() < 0.6:
        full, empty = [t for t in tables if t in held], [t for t in tables if t not in held]
        if not full and draw.random() < 0.7:
            return None  # most rooms have an empty table, few one that holds something
        table = draw.choice(full if full and (not empty or draw.random() < 0.6) else empty)
        thing = held.get(table)
        text, answer = f"What is on the {table.name}?", thing.category if thing else "nothing"
        numbers = (table.number, thing.number) if thing else (table.number,)
        return RoomQuestion("on", text, answer, numbers, names=(table.name,), places=numbers)

    # Whether it is this one: the same room allows a yes and a no.
    asked = [t for t in uniquely_named(graph) if t.category in SMALL]
    pairs = [(thing, table) for thing in asked for table in tables]
    so = [(thing, table) for thing, table in pairs if held.get(table) is thing]
    not_so = [pair for pair in pairs if pair not in so]
    if not so or not not_so:
        return None
    is_so = draw.random() < 0.5
    thing, table = draw.choice(so if is_so else not_so)
    text, answer = f"Is the {thing.name} on the {table.name}?", "yes" if is_so else "no"
    numbers = thing.number, table.number
    return RoomQuestion(
        "on", text, answer, numbers, form="on_yes", names=(thing.name, table.name), places=numbers
    )


def under(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    """What a thing stands on: of things of the same categories, a table or the floor."""
    things = [t for t in uniquely_named(graph) if t.category in SMALL]
    raised = [t for t in things if support_of(graph, t) is not None]
    on_floor = [t for t in things if t not in raised]
    if not raised or not on_floor:
        return None
    thing = draw.choice(raised if draw.random() < 0.5 else on_floor)
    support = support_of(graph, thing)
    answer = support.category if support else "floor"
    numbers = (thing.number, support.number) if support else (thing.number,)
    text = f"What is under the {thing.name}?"
    return RoomQuestion("under", text, answer, numbers, names=(thing.name,), places=numbers)


def between(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    """What stands between two things on the floor plan, or nothing."""
    things = uniquely_named(graph)
    if len(things) < 2:
        return None
    wants_thing = draw.random() < 0.65
    for _ in range(12):
        a, b = draw.sample(things, 2)
        others = [t for t in graph.things if t is not a and t is not b]
        off = {t: off_line_m(a, b, t) for t in others}
        inside = [t for t in others if off[t] < BETWEEN_M]
        clear = all(off[t] > CLEAR_M for t in others if t not in inside)
        if clear and len(inside) == wants_thing:
            thing = inside[0] if inside else None
            numbers = (a.number, b.number) + ((thing.number,) if thing else ())
            text = f"What is between the {a.name} and the {b.name}?"
            answer = thing.category if thing else "nothing"
            return RoomQuestion(
                "between", text, answer, numbers, names=(a.name, b.name), places=numbers
            )
    return None


def off_line_m(a: Thing, b: Thing, thing: Thing) -> float:
    """Distance of a thing's centre from the middle four fifths of the line of two others."""
    ax, ay, bx, by = *a.center_m[:2], *b.center_m[:2]
    dx, dy = bx - ax, by - ay
    along = ((thing.center_m[0] - ax) * dx + (thing.center_m[1] - ay) * dy) / (dx * dx + dy * dy)
    along = min(0.9, max(0.1, along))
    return math.hypot(thing.center_m[0] - ax - along * dx, thing.center_m[1] - ay - along * dy)
