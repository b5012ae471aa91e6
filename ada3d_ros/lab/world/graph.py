"""One room as plain Python: objects, names, distances. Questions are made from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ada3d_ros.lab.world.rooms import CATEGORIES, COLORS, Rooms

Point = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Thing:
    """An object: centre and world-axis-aligned full extents in metres."""

    number: int
    category: str
    color: str
    center_m: Point
    extents_m: Point

    @property
    def name(self) -> str:
        """`red chair`."""
        return f"{self.color} {self.category}"

    @property
    def volume_m3(self) -> float:
        return math.prod(self.extents_m)

    @property
    def height_m(self) -> float:
        """Of its top above the floor."""
        return self.center_m[2] + self.extents_m[2] / 2


@dataclass(frozen=True, slots=True)
class Graph:
    """The objects of one room."""

    things: tuple[Thing, ...]

    def matching(self, category: str = "", color: str = "") -> list[Thing]:
        """Objects of a category and a colour; empty means any."""
        return [t for t in self.things if category in ("", t.category) and color in ("", t.color)]

    def nearest(self, anchor: Thing, margin_m: float) -> Thing | None:
        """The object nearest to `anchor` on the floor plan.

        None unless the next one is at least margin_m farther.
        """
        others = sorted((distance_m(anchor, t), t.number) for t in self.things if t is not anchor)
        if len(others) < 2 or others[1][0] - others[0][0] < margin_m:
            return None
        return next(t for t in self.things if t.number == others[0][1])


def distance_m(a: Thing, b: Thing) -> float:
    """Between centres, on the floor plan."""
    return math.hypot(a.center_m[0] - b.center_m[0], a.center_m[1] - b.center_m[1])


def graphs(rooms: Rooms) -> list[Graph]:
    """One graph per room."""
    columns = (rooms.category, rooms.color, rooms.center_m, rooms.extents_m())
    return [
        Graph(
            tuple(
                Thing(number, CATEGORIES[category], COLORS[color], tuple(center), tuple(extents))
                for number, (category, color, center, extents) in enumerate(zip(*room, strict=True))
                if category >= 0
            )
        )
        for room in zip(*(column.tolist() for column in columns), strict=True)
    ]
