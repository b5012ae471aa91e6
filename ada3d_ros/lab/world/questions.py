"""Questions about a room with answers from its graph: sixteen types, a few plain wordings each.

wordings.py says the same in many other ways; relations.py has what stands on, under, between and
within. `places` are what the model is taught to point at before it speaks.

Coordinates stand in the text as [x, y, z] metres, as a user of the node writes them. Answers are
balanced within their type: yes and no, the counts, the three directions. Phrases to ground name an
object by its category, by colour and category, or as the largest of its category.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from ada3d_ros.asking.taught import CAPTION_PROMPT
from ada3d_ros.asking.words import plural
from ada3d_ros.lab.world.graph import Graph, Thing
from ada3d_ros.lab.world.relations import between, on, relation, side, under, within
from ada3d_ros.lab.world.room_question import (
    NUMBERS,
    SUPERLATIVE_MARGIN,
    RoomQuestion,
    about,
    an,
    largest,
    left_to_right,
    named,
    only,
    point,
)
from ada3d_ros.lab.world.rooms import CATEGORIES, COLORS

NEAREST_MARGIN_M = 0.25
FOUND, NOT_FOUND = "here it is", "not seen"


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
    matches = left_to_right(
        [t for t in graph.things if words in (t.name, t.category, t.color + " object")]
    )
    return RoomQuestion(
        "existence",
        form.format(an(words)),
        "yes" if exists else "no",
        matches,
        names=(words,),
        places=matches[:1],
    )


def _count(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    """How many of a category or a colour, every number equally likely."""
    groups: dict[int, list[tuple[str, tuple[int, ...]]]] = {}
    for k in CATEGORIES:
        found = graph.matching(category=k)
        groups.setdefault(len(found), []).append((k, left_to_right(found)))
    for c in COLORS:
        found = graph.matching(color=c)
        groups.setdefault(len(found), []).append((f"{c} object", left_to_right(found)))
    number = draw.choice(sorted(n for n in groups if n < len(NUMBERS)))
    words, numbers = draw.choice(groups[number])
    form = draw.choice(("How many {0} are there?", "How many {0} are in the room?"))
    return RoomQuestion(
        "count",
        form.format(plural(words)),
        NUMBERS[number],
        numbers,
        names=(words,),
        places=numbers,
    )


def _color(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    thing = only(graph, draw)
    if thing is None:
        return None
    form = draw.choice(("What color is the {0}?", "What is the color of the {0}?"))
    return about("color", form.format(thing.category), thing.color, thing, thing.category)


def _category(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    """What is at a point, or what has a colour that nothing else has."""
    if draw.random() < 0.5:
        thing = draw.choice(graph.things)
        form = draw.choice(("What is at {0}?", "What is the object at {0}?"))
        at = point(thing, draw)
        return RoomQuestion(
            "category",
            form.format(at),
            thing.category,
            (thing.number,),
            form="category_at",
            names=(at,),
        )
    unique = [t for t in graph.things if len(graph.matching(color=t.color)) == 1]
    if not unique:
        return None
    thing = draw.choice(unique)
    form = draw.choice(("What is the {0} object?", "What kind of object is {0}?"))
    return about("category", form.format(thing.color), thing.category, thing, thing.color)


def _nearest(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    anchor = named(graph, draw)
    nearest = graph.nearest(anchor, NEAREST_MARGIN_M) if anchor else None
    if anchor is None or nearest is None:
        return None
    form = draw.choice(("What is nearest to the {0}?", "Which object is closest to the {0}?"))
    return RoomQuestion(
        "nearest",
        form.format(anchor.name),
        nearest.category,
        (nearest.number,),
        names=(anchor.name,),
        places=(anchor.number, nearest.number),
    )


def _superlative(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    """The largest or the tallest object, where it stands out."""
    if draw.random() < 0.5:
        thing = largest(list(graph.things))
        if thing is None:
            return None
        text, number = "What color is the largest object?", (thing.number,)
        return RoomQuestion("superlative", text, thing.color, number, form="largest", places=number)
    first, second = sorted(graph.things, key=lambda t: -t.height_m)[:2]
    if first.height_m < SUPERLATIVE_MARGIN * second.height_m:
        return None
    text, number = "What is the tallest object?", (first.number,)
    return RoomQuestion("superlative", text, first.category, number, form="tallest", places=number)


def _multihop(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    """The colour of what is nearest to an object that must be found first."""
    groups = [k for k in CATEGORIES if graph.matching(category=k)]
    category = draw.choice(groups)
    things = graph.matching(category=category)
    anchor = things[0] if len(things) == 1 else largest(things)
    nearest = graph.nearest(anchor, NEAREST_MARGIN_M) if anchor else None
    if anchor is None or nearest is None:
        return None
    words = ("largest " if len(things) > 1 else "") + category
    text = f"What color is the object nearest to the {words}?"
    return RoomQuestion(
        "multihop",
        text,
        nearest.color,
        (nearest.number,),
        names=(words,),
        places=(anchor.number, nearest.number),
    )


def _caption(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    thing = draw.choice(graph.things)
    at = point(thing, draw)
    text = CAPTION_PROMPT.format(place=at)
    return RoomQuestion("caption", text, an(thing.name), (thing.number,), names=(at,))


def _grounding(graph: Graph, draw: random.Random) -> RoomQuestion | None:
    """A phrase that names one object alone: by category, colour and category, or size."""
    thing = draw.choice(graph.things)
    same = graph.matching(category=thing.category)
    phrase = ""
    if len(same) == 1 and draw.random() < 0.4:
        phrase = thing.category
    elif len(graph.matching(thing.category, thing.color)) == 1:
        phrase = thing.name
    elif largest(same) is thing:
        phrase = f"largest {thing.category}"
    if not phrase:
        return None
    words = draw.choice(("the " + phrase, "the " + phrase, an(phrase)))
    return _grounded("grounding", words, thing, len(same) == 1)


def _grounded(kind: str, phrase: str, thing: Thing | None, unique: bool) -> RoomQuestion:
    number = () if thing is None else (thing.number,)
    target = None if thing is None else thing.number
    return RoomQuestion(
        kind,
        phrase,
        FOUND if number else NOT_FOUND,
        number,
        phrase,
        target,
        unique,
        names=(phrase.removeprefix("the ").removeprefix("an ").removeprefix("a "),),
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
    "relation": relation,
    "superlative": _superlative,
    "multihop": _multihop,
    "caption": _caption,
    "grounding": _grounding,
    "absent": _absent,
    "side": side,
    "within": within,
    "on": on,
    "under": under,
    "between": between,
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
