"""Questions about ONE view of a room; the renderer's own object masks say what is in it.

A thing is in the view where it covers MIN_SHARE of its pixels; one that covers less is neither in
it nor not, so nothing is asked that it would decide. Wordings are plain ones of questions.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ada3d_ros.lab.world.graph import Graph, Thing
from ada3d_ros.lab.world.room_question import RoomQuestion, an
from ada3d_ros.lab.world.rooms import CATEGORIES, COLORS

MIN_SHARE = 1 / 256  # of a view: one patch of the embedded model's tower, 64 px of 128 x 128
VIEW_KINDS = ("existence", "color", "category")


def shares_of(object_index: torch.Tensor) -> dict[int, float]:
    """Which share of a view (S, S) each object covers, 0..1, by its number; those with a pixel."""
    numbers, counts = object_index[object_index >= 0].unique(return_counts=True)
    shares = counts.double() / object_index.numel()
    return dict(zip(numbers.tolist(), shares.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class ViewThings:
    """shown: things that are in the view; hinted: those of which a pixel is, with the former."""

    shown: list[Thing]
    hinted: list[Thing]


def things_in_view(graph: Graph, shares: Mapping[int, float]) -> ViewThings:
    """shares: as `shares_of` counts."""
    hinted = [thing for thing in graph.things if shares.get(thing.number, 0.0) > 0.0]
    return ViewThings([thing for thing in hinted if shares[thing.number] >= MIN_SHARE], hinted)


def view_questions(
    graph: Graph, shares: Mapping[int, float], draw: random.Random
) -> list[RoomQuestion]:
    """At most one question of each of VIEW_KINDS about a view, where anything is in it.

    An existing thing is asked about by even chance.
    """
    things = things_in_view(graph, shares)
    if not things.shown:
        return []
    made = (existence(things, draw.random() < 0.5, draw), color(things, draw))
    return [question for question in (*made, category(things, draw)) if question is not None]


def existence(things: ViewThings, exists: bool, draw: random.Random) -> RoomQuestion | None:
    """What is in the view or, where not `exists`, what no pixel shows; things elsewhere in the room
    do not count. None where nothing can be asked.
    """
    names = draw.choice((_pair, _pair, _category_of, _color_of))
    if exists:
        words = sorted({names(thing) for thing in things.shown})
    else:
        near = {f"{a.color} {b.category}" for a in things.shown for b in things.shown}  # hard
        others = near if names is _pair else set(CATEGORIES)
        others = {f"{color} object" for color in COLORS} if names is _color_of else others
        words = sorted(others - {names(thing) for thing in things.hinted})
    if not words:
        return None
    asked = draw.choice(words)
    text = draw.choice(("Is there {0}?", "Do you see {0}?")).format(an(asked))
    return RoomQuestion("existence", text, "yes" if exists else "no", names=(asked,))


def color(things: ViewThings, draw: random.Random) -> RoomQuestion | None:
    """Of the only thing of its category in the view; None where there is none."""
    thing = _only(things, _category_of, draw)
    if thing is None:
        return None
    form = draw.choice(("What color is the {0}?", "What is the color of the {0}?"))
    text = form.format(thing.category)
    return RoomQuestion("color", text, thing.color, (thing.number,), names=(thing.category,))


def category(things: ViewThings, draw: random.Random) -> RoomQuestion | None:
    """Of the only thing of its colour in the view; None where there is none."""
    thing = _only(things, _color_of, draw)
    if thing is None:
        return None
    form = draw.choice(("What is the {0} object?", "What kind of object is {0}?"))
    text = form.format(thing.color)
    return RoomQuestion("category", text, thing.category, (thing.number,), names=(thing.color,))


def _only(things: ViewThings, name: Callable[[Thing], str], draw: random.Random) -> Thing | None:
    """A thing that is in the view, where no other that a pixel shows has its name."""
    names = [name(thing) for thing in things.hinted]
    alone = [thing for thing in things.shown if names.count(name(thing)) == 1]
    return draw.choice(alone) if alone else None


def _pair(thing: Thing) -> str:
    return thing.name


def _category_of(thing: Thing) -> str:
    return thing.category


def _color_of(thing: Thing) -> str:
    return f"{thing.color} object"
