"""Questions about ONE view of a room; the renderer's own object masks say what is in it.

A thing is in the view where it covers MIN_PIXELS; one that covers fewer is neither in it nor not,
so nothing is asked that it would decide. Wordings are plain ones of questions.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import torch

from ada3d_ros.lab.world.graph import Graph, Thing
from ada3d_ros.lab.world.room_question import RoomQuestion, an
from ada3d_ros.lab.world.rooms import CATEGORIES, COLORS

MIN_PIXELS = 64  # of 128 x 128: one patch of the embedded model's tower
VIEW_KINDS = ("existence", "color", "category")


def pixels_of(object_index: torch.Tensor) -> dict[int, int]:
    """How many pixels of a view (S, S) each object covers, by its number; none of 0."""
    numbers, counts = object_index[object_index >= 0].unique(return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist(), strict=True))


def view_questions(
    graph: Graph, pixels: Mapping[int, int], draw: random.Random
) -> list[RoomQuestion]:
    """At most one question of each of VIEW_KINDS about a view; pixels: as `pixels_of` counts."""
    hinted = [thing for thing in graph.things if pixels.get(thing.number, 0) > 0]
    shown = [thing for thing in hinted if pixels[thing.number] >= MIN_PIXELS]
    if not shown:
        return []
    made = (make(shown, hinted, draw) for make in (_existence, _color, _category))
    return [question for question in made if question is not None]


def _existence(shown: list[Thing], hinted: list[Thing], draw: random.Random) -> RoomQuestion | None:
    """What is shown or, by even chance, what no pixel shows; things elsewhere in the room do not
    count.
    """
    exists = draw.random() < 0.5
    names = draw.choice((_pair, _pair, _category_of, _color_of))
    if exists:
        words = sorted({names(thing) for thing in shown})
    else:
        near = {f"{a.color} {b.category}" for a in shown for b in shown}  # hard to tell
        others = near if names is _pair else set(CATEGORIES)
        others = {f"{color} object" for color in COLORS} if names is _color_of else others
        words = sorted(others - {names(thing) for thing in hinted})
    if not words:
        return None
    asked = draw.choice(words)
    text = draw.choice(("Is there {0}?", "Do you see {0}?")).format(an(asked))
    return RoomQuestion("existence", text, "yes" if exists else "no", names=(asked,))


def _color(shown: list[Thing], hinted: list[Thing], draw: random.Random) -> RoomQuestion | None:
    thing = _only(shown, hinted, _category_of, draw)
    if thing is None:
        return None
    form = draw.choice(("What color is the {0}?", "What is the color of the {0}?"))
    text = form.format(thing.category)
    return RoomQuestion("color", text, thing.color, (thing.number,), names=(thing.category,))


def _category(shown: list[Thing], hinted: list[Thing], draw: random.Random) -> RoomQuestion | None:
    thing = _only(shown, hinted, _color_of, draw)
    if thing is None:
        return None
    form = draw.choice(("What is the {0} object?", "What kind of object is {0}?"))
    text = form.format(thing.color)
    return RoomQuestion("category", text, thing.category, (thing.number,), names=(thing.color,))


def _only(
    shown: list[Thing], hinted: list[Thing], name: Callable[[Thing], str], draw: random.Random
) -> Thing | None:
    """A thing that is shown, where no other that a pixel shows has its name."""
    names = [name(thing) for thing in hinted]
    alone = [thing for thing in shown if names.count(name(thing)) == 1]
    return draw.choice(alone) if alone else None


def _pair(thing: Thing) -> str:
    return thing.name


def _category_of(thing: Thing) -> str:
    return thing.category


def _color_of(thing: Thing) -> str:
    return f"{thing.color} object"
