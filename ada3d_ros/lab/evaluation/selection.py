"""Which generated rooms are asked about, and what each of them is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ada3d_ros.engine.emitted_text import move_coordinates
from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.world.generated import frames_of, true_boxes
from ada3d_ros.lab.world.graph import Graph, graphs
from ada3d_ros.lab.world.questions import KINDS, make_questions
from ada3d_ros.lab.world.relations import DIRECTIONS
from ada3d_ros.lab.world.render import render
from ada3d_ros.lab.world.room_question import NUMBERS, RoomQuestion
from ada3d_ros.lab.world.rooms import CATEGORIES, COLORS, Rooms, make_rooms
from ada3d_ros.lab.world.view_questions import shares_of
from ada3d_ros.scene.floor import stand_on_floor
from ada3d_ros.types import Box3D, RgbdFrame

GROUNDED_KINDS = ("grounding", "absent")  # phrases; all others are questions with a text to answer
_ASKED_MOST = (
    *("existence", "existence", "color", "color", "category", "category", "count", "relation"),
    *("multihop", "nearest", "superlative", "caption"),
    *("grounding", "grounding", "grounding", "absent", "absent"),
)
# The kinds of question that every room is asked, in turn; those that came later once each.
ASKED = _ASKED_MOST + tuple(kind for kind in KINDS if kind not in _ASKED_MOST)
TEXT_KINDS = tuple(kind for kind in dict.fromkeys(ASKED) if kind not in GROUNDED_KINDS)
ROOMS_AT_ONCE = 8
MAX_FLOOR_M = 1000.0  # from the origin
SEEDS_APART = 100_000  # --seeds S takes the rooms S * 100000 and up


@dataclass(frozen=True, slots=True)
class RoomSelection:
    """Which rooms are asked about. shuffle: the questions of room i about the views of room i + 1;
    floor_z_m: where the rooms are moved to, views and boxes alike.

    Raises ConfigError where the numbers name no rooms.
    """

    split: str = "test"
    seed: int = 0
    scenes: int = 200
    level: int = 1
    shuffle: bool = False
    floor_z_m: float = 0.0

    def __post_init__(self) -> None:
        least = 2 if self.shuffle else 1
        if not least <= self.scenes <= SEEDS_APART:
            raise ConfigError(f"--scenes {self.scenes}: at least {least}, at most {SEEDS_APART}.")
        if self.seed < 0:
            raise ConfigError(f"seed {self.seed}: 0 or more.")
        if not abs(self.floor_z_m) <= MAX_FLOOR_M:  # NaN, too
            raise ConfigError(f"--floor-z {self.floor_z_m}: within +-{MAX_FLOOR_M:g} m.")

    def room_seeds(self) -> torch.Tensor:
        """(scenes,) int64 seeds of `make_rooms`."""
        return torch.arange(self.scenes) + self.seed * SEEDS_APART


def questions_of(graph: Graph, seed: int) -> list[RoomQuestion]:
    """What the room of this seed is asked."""
    return make_questions(graph, seed, ASKED, len(ASKED))


def num_possible(question: RoomQuestion) -> int:
    """How many answers such a question may have: as many as there are words like the true one."""
    for words in (("yes", "no"), DIRECTIONS, NUMBERS, COLORS, CATEGORIES):
        if question.answer in words:
            return len(words)
    if question.kind == "caption":
        return len(COLORS) * len(CATEGORIES)
    return len(CATEGORIES) + 1  # "nothing", "floor": beside the things that may stand there


@dataclass(frozen=True, eq=False, slots=True)
class Room:
    """One room to be asked about.

    boxes: the true ones by object number, axis-aligned and labelled "red chair"; solids: as the
    objects were drawn, with their yaw; graph: of the room where it was drawn, its floor at 0;
    frames: () where no view was wanted; seen: of each frame, the share of its pixels (0..1) that
    shows an object, by object number.
    """

    frames: tuple[RgbdFrame, ...]
    questions: list[RoomQuestion]
    boxes: dict[int, Box3D]
    solids: dict[int, Box3D]
    graph: Graph
    seen: tuple[dict[int, float], ...] = ()


def rooms_of(
    selection: RoomSelection, side: int | None, only: Sequence[int] | None = None
) -> Iterator[Room]:
    """The selected rooms in views of side px, rendered a few at a time; None: without views.

    only: which of them, counted from the selection's first; None: all.
    """
    wanted = selection.room_seeds()
    if only is not None:
        wanted = torch.tensor(list(only), dtype=torch.int64) + selection.seed * SEEDS_APART
    for seeds in wanted.split(ROOMS_AT_ONCE) if len(wanted) else ():
        rooms = make_rooms(selection.split, seeds, selection.level)
        views = None if side is None else render(rooms, side)
        for b, graph in enumerate(graphs(rooms)):
            numbers = [thing.number for thing in graph.things]
            boxes = dict(zip(numbers, true_boxes(rooms, b), strict=True))
            frames = () if views is None else frames_of(rooms, views, b)
            seen = () if views is None else views.object_index[b, : len(frames)]
            asked, solids = questions_of(graph, int(seeds[b])), _solids(rooms, b, numbers)
            room = Room(frames, asked, boxes, solids, graph, tuple(map(shares_of, seen)))
            yield _moved_up(room, selection.floor_z_m) if selection.floor_z_m else room


def _solids(rooms: Rooms, b: int, numbers: list[int]) -> dict[int, Box3D]:
    """The boxes of one room's objects before they are enclosed by axis-aligned ones."""
    columns = rooms.center_m[b].double(), rooms.size_m[b].double()
    center, size = (column.cpu().numpy() for column in columns)
    yaw = rooms.yaw_rad[b].tolist()
    return {i: Box3D(center[i].copy(), size[i].copy(), yaw[i]) for i in numbers}


def _moved_up(room: Room, by_m: float) -> Room:
    """The room with all that is told of it in a world whose floor lies at by_m."""
    up = 0.0, 0.0, by_m
    boxes, solids = (
        {number: replace(box, center_m=box.center_m + up) for number, box in of_room.items()}
        for of_room in (room.boxes, room.solids)
    )
    return replace(
        room,
        frames=tuple(stand_on_floor(room.frames, -by_m)),
        questions=[
            replace(asked, text=move_coordinates(asked.text, up)) for asked in room.questions
        ],
        boxes=boxes,
        solids=solids,
    )
