"""One question about a room and its true answer, and how the things of a room are named in it."""

from __future__ import annotations

import random
from dataclasses import dataclass

from ada3d_ros.lab.world.graph import Graph, Thing

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
SUPERLATIVE_MARGIN = 1.1  # times as large as the next


@dataclass(frozen=True, slots=True)
class RoomQuestion:
    """One question and its true answer.

    kind: one of KINDS; text: the question, of kinds to ground the phrase alone; evidence: objects
    that the answer rests on (numbers of the graph); phrase, target: for grounding, target is the
    object or None where there is none; unique: no other of the target's category. form, names:
    which wordings ask the same, and what stands in them; places: objects to point at, in that
    order, the last of them seen from where one stands if egocentric.
    """

    kind: str
    text: str
    answer: str
    evidence: tuple[int, ...] = ()
    phrase: str = ""
    target: int | None = None
    unique: bool = False
    form: str = ""
    names: tuple[str, ...] = ()
    places: tuple[int, ...] = ()
    egocentric: bool = False


def point(thing: Thing, draw: random.Random) -> str:
    """A point inside the object, as the reference's training takes its clicks (llava3d.md 4.9)."""
    x, y, z = (
        c + (draw.random() - 0.5) * 0.6 * e
        for c, e in zip(thing.center_m, thing.extents_m, strict=True)
    )
    return f"[{x:.3f}, {y:.3f}, {z:.3f}]"


def an(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def left_to_right(things: list[Thing]) -> tuple[int, ...]:
    """Numbers in ascending x: the order in which several are pointed at."""
    return tuple(t.number for t in sorted(things, key=lambda t: t.center_m))


def only(graph: Graph, draw: random.Random) -> Thing | None:
    """An object that is the only one of its category."""
    unique = [t for t in graph.things if len(graph.matching(category=t.category)) == 1]
    return draw.choice(unique) if unique else None


def about(kind: str, text: str, answer: str, thing: Thing, name: str) -> RoomQuestion:
    """A question about one thing, which is pointed at first."""
    number = (thing.number,)
    return RoomQuestion(kind, text, answer, number, names=(name,), places=number)


def named(graph: Graph, draw: random.Random) -> Thing | None:
    """An object whose colour and category name it alone."""
    unique = uniquely_named(graph)
    return draw.choice(unique) if unique else None


def uniquely_named(graph: Graph) -> list[Thing]:
    """The objects whose colour and category name them alone."""
    return [t for t in graph.things if len(graph.matching(t.category, t.color)) == 1]


def largest(things: list[Thing]) -> Thing | None:
    ordered = sorted(things, key=lambda t: -t.volume_m3)
    if len(ordered) < 2 or ordered[0].volume_m3 < SUPERLATIVE_MARGIN * ordered[1].volume_m3:
        return None
    return ordered[0]
