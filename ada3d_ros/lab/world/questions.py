"""Questions about a room with answers from its graph: eleven types, several wordings each.

Coordinates stand in the text as [x, y, z] metres, as a user of the node writes them. Answers are
balanced within their type: yes and no, the counts, the three directions. Phrases to ground name an
object by its category, by colour and category, or as the largest of its category.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from ada3d_ros.lab.world.graph import Graph, Thing, distance_m
from ada3d_ros.lab.world.rooms import CATEGORIES, COLORS

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
DIRECTIONS = ("left", "right", "behind")
NEAREST_MARGIN_M = 0.25
SUPERLATIVE_MARGIN = 1.1  # times as large as the next
CAPTION_PROMPT = "The related object is located at {point}. Describe the object in detail."
FOUND, NOT_FOUND = "here it is", "not seen"


@dataclass(frozen=True, slots=True)
class RoomQuestion:
    """One question and its true answer.

    kind: one of KINDS; text: the question, of kinds to ground the phrase alone; evidence: objects
    that the answer rests on (numbers of the graph); phrase, target: for grounding, target is the
    object or None where there is none; unique: no other of the target's category.
    """

    kind: str
    text: str
    answer: str
    evidence: tuple[int, ...] = ()
    phrase: str = ""
    target: int | None = None
    unique: bool = False


def _point(thing: Thing, draw: random.Random) -> str:
    """A point inside the object, as the reference's training takes its clicks (llava3d.md 4.9)."""
    x, y, z = (
        c + (draw.random() - 0.5) * 0.6 * e
        for c, e in zip(thing.center_m, thing.extents_m, strict=True)
    )
    return f"[{x:.3f}, {y:.3f}, {z:.3f}]"


def _plural(category: str) -> str:
    return {"shelf": "shelves"}.get(category, category + "s")


def _an(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _existence(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    """A thing that is in the room, or by even chance one that is not."""
    exists = draw.random() < 0.5
    form = draw.choice(("pair", "pair", "category", "color"))
    categories = sorted({t.category for t in graph.things})
    colors = sorted({t.color for t in graph.things})

    # By colour and category, an absent one of colours and categories that are there: hard to tell.
    if form == "pair":
        names = {t.name for t in graph.things}
        absent = sorted({f"{c} {k}" for c in colors for k in categories} - names)
        words = draw.choice(sorted(names) if exists else absent) if exists or absent else ""
    elif form == "category":
        others = [k for k in CATEGORIES if k not in categories]
        words = draw.choice(categories if exists else others or [""])
    else:
        others = [c for c in COLORS if c not in colors]
        words = draw.choice(colors if exists else others or [""])
        words = words and words + " object"
    if not words:
        return None

    form = draw.choice(("Is there {0}?", "Is there {0} in the room?", "Do you see {0}?"))
    matches = tuple(
        t.number for t in graph.things if words in (t.name, t.category, t.color + " object")
    )
    return RoomQuestion("existence", form.format(_an(words)), "yes" if exists else "no", matches)


def _count(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    """How many of a category or a colour, every number equally likely."""
    groups: dict[int, list[tuple[str, tuple[int, ...]]]] = {}
    for k in CATEGORIES:
        found = graph.matching(category=k)
        groups.setdefault(len(found), []).append((_plural(k), tuple(t.number for t in found)))
    for c in COLORS:
        found = graph.matching(color=c)
        groups.setdefault(len(found), []).append((f"{c} objects", tuple(t.number for t in found)))
    number = draw.choice(sorted(n for n in groups if n < len(NUMBERS)))
    words, numbers = draw.choice(groups[number])
    text = draw.choice(("How many {0} are there?", "How many {0} are in the room?")).format(words)
    return RoomQuestion("count", text, NUMBERS[number], numbers)


def _only(graph: Graph, draw: random.Random) -> Thing | None:
    """An object that is the only one of its category."""
    unique = [t for t in graph.things if len(graph.matching(category=t.category)) == 1]
    return draw.choice(unique) if unique else None


def _color(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    thing = _only(graph, draw)
    if thing is None:
        return None
    form = draw.choice(("What color is the {0}?", "What is the color of the {0}?"))
    return RoomQuestion("color", form.format(thing.category), thing.color, (thing.number,))


def _category(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    """What is at a point, or what has a colour that nothing else has."""
    if draw.random() < 0.5:
        thing = draw.choice(graph.things)
        form = draw.choice(("What is at {0}?", "What is the object at {0}?"))
        text = form.format(_point(thing, draw))
        return RoomQuestion("category", text, thing.category, (thing.number,))
    unique = [t for t in graph.things if len(graph.matching(color=t.color)) == 1]
    if not unique:
        return None
    thing = draw.choice(unique)
    form = draw.choice(("What is the {0} object?", "What kind of object is {0}?"))
    return RoomQuestion("category", form.format(thing.color), thing.category, (thing.number,))


def _named(graph: Graph, draw: random.Random) -> Thing | None:
    """An object whose colour and category name it alone."""
    unique = [t for t in graph.things if len(graph.matching(t.category, t.color)) == 1]
    return draw.choice(unique) if unique else None


def _nearest(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    anchor = _named(graph, draw)
    nearest = graph.nearest(anchor, NEAREST_MARGIN_M) if anchor else None
    if anchor is None or nearest is None:
        return None
    form = draw.choice(("What is nearest to the {0}?", "Which object is closest to the {0}?"))
    return RoomQuestion("nearest", form.format(anchor.name), nearest.category, (nearest.number,))


def _relation(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    """SQA3D's situation: standing at one object, facing another, where is a third?"""
    named = [t for t in graph.things if len(graph.matching(t.category, t.color)) == 1]
    if len(named) < 3:
        return None
    wanted = draw.choice(DIRECTIONS)
    for _ in range(12):
        at, facing, thing = draw.sample(named, 3)
        apart = distance_m(at, facing) > 0.8 and distance_m(at, thing) > 0.8
        if apart and direction(at, facing, thing) == wanted:
            text = (
                f"I am standing at the {at.name} and facing the {facing.name}. Is the {thing.name}"
                " on my left, on my right or behind me?"
            )
            return RoomQuestion("relation", text, wanted, (thing.number,))
    return None


def direction(at: Thing, facing: Thing, thing: Thing) -> str:
    """left, right, behind; empty where it is ahead or near a border of the sectors."""
    ahead = math.atan2(facing.center_m[1] - at.center_m[1], facing.center_m[0] - at.center_m[0])
    towards = math.atan2(thing.center_m[1] - at.center_m[1], thing.center_m[0] - at.center_m[0])
    angle = math.degrees((towards - ahead + math.pi) % (2 * math.pi) - math.pi)
    if abs(angle) > 150:
        return "behind"
    return ("left" if angle > 0 else "right") if 30 < abs(angle) < 120 else ""


def _largest(things: list[Thing]) -> Thing | None:
    ordered = sorted(things, key=lambda t: -t.volume_m3)
    if len(ordered) < 2 or ordered[0].volume_m3 < SUPERLATIVE_MARGIN * ordered[1].volume_m3:
        return None
    return ordered[0]


def _superlative(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    """The largest or the tallest object, where it stands out."""
    if draw.random() < 0.5:
        thing = _largest(list(graph.things))
        if thing is None:
            return None
        text = "What color is the largest object?"
        return RoomQuestion("superlative", text, thing.color, (thing.number,))
    first, second = sorted(graph.things, key=lambda t: -t.height_m)[:2]
    if first.height_m < SUPERLATIVE_MARGIN * second.height_m:
        return None
    return RoomQuestion(
        "superlative", "What is the tallest object?", first.category, (first.number,)
    )


def _multihop(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    """The colour of what is nearest to an object that must be found first."""
    groups = [k for k in CATEGORIES if graph.matching(category=k)]
    category = draw.choice(groups)
    things = graph.matching(category=category)
    anchor = things[0] if len(things) == 1 else _largest(things)
    nearest = graph.nearest(anchor, NEAREST_MARGIN_M) if anchor else None
    if nearest is None:
        return None
    words = ("largest " if len(things) > 1 else "") + category
    text = f"What color is the object nearest to the {words}?"
    return RoomQuestion("multihop", text, nearest.color, (nearest.number,))


def _caption(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    thing = draw.choice(graph.things)
    text = CAPTION_PROMPT.format(point=_point(thing, draw))
    return RoomQuestion("caption", text, _an(thing.name), (thing.number,))


def _grounding(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    """A phrase that names one object alone: by category, colour and category, or size."""
    thing = draw.choice(graph.things)
    same = graph.matching(category=thing.category)
    phrase = ""
    if len(same) == 1 and draw.random() < 0.4:
        phrase = thing.category
    elif len(graph.matching(thing.category, thing.color)) == 1:
        phrase = thing.name
    elif _largest(same) is thing:
        phrase = f"largest {thing.category}"
    if not phrase:
        return None
    words = draw.choice(("the " + phrase, "the " + phrase, _an(phrase)))
    return _grounded("grounding", words, thing, len(same) == 1)


def _grounded(kind: str, phrase: str, thing: Thing | None, unique: bool) -> RoomQuestion:
    number = () if thing is None else (thing.number,)
    target = None if thing is None else thing.number
    return RoomQuestion(
        kind, phrase, FOUND if number else NOT_FOUND, number, phrase, target, unique
    )


def _absent(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    """A phrase to ground that names nothing in the room."""
    asked = _existence(graph, draw)
    while asked is not None and asked.answer == "yes":
        asked = _existence(graph, draw)
    if asked is None:
        return None
    words = asked.text.removesuffix("?").removesuffix(" in the room")
    words = words.split(" a ", 1)[-1].split(" an ", 1)[-1]
    return _grounded("absent", "the " + words, None, False)


KINDS: dict[str, Callable[[Graph, random.Random], RoomQuestion | None]] = {
    "existence": _existence,
    "count": _count,
    "color": _color,
    "category": _category,
    "nearest": _nearest,
    "relation": _relation,
    "superlative": _superlative,
    "multihop": _multihop,
    "caption": _caption,
    "grounding": _grounding,
    "absent": _absent,
}


def make_question(
    graph: Graph, kind: str, draw: random.Random, tries: int = 4
) -> RoomQuestion | None:
    """A question of `kind`, or None where this room does not allow one in `tries` draws."""
    for _ in range(tries):
        question = KINDS[kind](graph, draw)
        if question is not None:
            return question
    return None


def make_questions(
    graph: Graph, seed: int, kinds: tuple[str, ...], count: int
) -> list[RoomQuestion]:
    """Up to `count` questions, the kinds in turn; the same for the same room and seed."""
    draw = random.Random(seed)
    made = (make_question(graph, kinds[i % len(kinds)], draw) for i in range(count))
    return [question for question in made if question is not None]
