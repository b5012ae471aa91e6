"""Rooms with furniture and a camera's path through them, batched.

Metres, world z up, the floor at z = 0, the room's middle near the origin. Level 1: 8 views from
near the walls, objects turned by multiples of 90 degrees. Level 2: up to 20 views along a path, any
yaw, more objects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch

from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.world.randomness import normal, room_keys, uniform

CATEGORIES = (
    "ball",
    "barrel",
    "bed",
    "cabinet",
    "chair",
    "crate",
    "lamp",
    "shelf",
    "sofa",
    "table",
)
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
ABSENT = -1
MIN_OBJECTS = 6
MAX_OBJECTS = {1: 9, 2: 12}
NUM_VIEWS = {1: 8, 2: 20}
WALL_HEIGHT_M = 2.6
FIELD_OF_VIEW_DEG = 74.0
GAP_M = 0.18  # between neighbours, and to the walls
_TRIES = 64
_ATTEMPTS = 8

Bounds = tuple[tuple[float, float, float], tuple[float, float, float]]
# full extents in metres: lowest and highest of (length, width, height)
_SIZES: dict[str, Bounds] = {
    "ball": ((0.35, 0.35, 0.35), (0.65, 0.65, 0.65)),
    "barrel": ((0.40, 0.40, 0.60), (0.60, 0.60, 0.95)),
    "bed": ((1.25, 0.85, 0.40), (1.50, 1.15, 0.60)),
    "cabinet": ((0.60, 0.40, 0.90), (1.00, 0.60, 1.40)),
    "chair": ((0.45, 0.45, 0.80), (0.60, 0.60, 1.05)),
    "crate": ((0.35, 0.35, 0.30), (0.65, 0.60, 0.55)),
    "lamp": ((0.35, 0.35, 1.10), (0.50, 0.50, 1.50)),
    "shelf": ((0.70, 0.30, 1.20), (1.10, 0.42, 1.50)),
    "sofa": ((1.20, 0.70, 0.70), (1.50, 0.95, 0.90)),
    "table": ((0.85, 0.70, 0.55), (1.30, 1.00, 0.80)),
}
SMALL: dict[str, Bounds] = {  # of the categories that stand on tables too, where they do
    "ball": ((0.20, 0.20, 0.20), (0.32, 0.32, 0.32)),
    "crate": ((0.22, 0.22, 0.20), (0.36, 0.32, 0.30)),
    "barrel": ((0.20, 0.20, 0.26), (0.28, 0.28, 0.40)),
    "lamp": ((0.22, 0.22, 0.35), (0.30, 0.30, 0.50)),
}
_ROUND = ("ball", "barrel", "lamp")  # as long as wide


@dataclass(frozen=True, eq=False, slots=True)
class Rooms:
    """B rooms of at most O objects and V views.

    keys (B,) int64; room_m (B, 2) lengths of the walls; category, color (B, O) int64, ABSENT where
    there is no object; support (B, O) int64, the object it stands on or ABSENT (the floor);
    center_m, size_m (B, O, 3) full extents before yaw; yaw_rad (B, O); T_world_cam (B, V, 4, 4)
    optical frames; num_views (B,) int64: later views repeat the path's end and are not looked at.
    """

    level: int
    keys: torch.Tensor
    room_m: torch.Tensor
    category: torch.Tensor
    color: torch.Tensor
    support: torch.Tensor
    center_m: torch.Tensor
    size_m: torch.Tensor
    yaw_rad: torch.Tensor
    T_world_cam: torch.Tensor
    num_views: torch.Tensor

    def __getitem__(self, part: slice) -> Rooms:
        """Some of them."""
        values = {f.name: getattr(self, f.name)[part] for f in fields(self) if f.name != "level"}
        return replace(self, **values)

    @property
    def present(self) -> torch.Tensor:
        """(B, O) bool."""
        return self.category >= 0

    def extents_m(self) -> torch.Tensor:
        """Full extents (B, O, 3) of the world-axis-aligned boxes that enclose the objects.

        ScanRefer's boxes are such boxes.
        """
        c, s = self.yaw_rad.cos().abs(), self.yaw_rad.sin().abs()
        length, width, height = self.size_m.unbind(-1)
        return torch.stack((length * c + width * s, length * s + width * c, height), dim=-1)


def make_rooms(split: str, seeds: torch.Tensor, level: int = 1) -> Rooms:
    """Rooms of `seeds` (B,); room i depends on split, level and seeds[i] alone.

    Raises ConfigError for a split, seed or level that does not exist.
    """
    if level not in NUM_VIEWS:
        raise ConfigError(f"level = {level!r}; allowed: 1, 2.")
    keys = room_keys(split, seeds)
    rooms = _draw(keys, level)

    # About 2 rooms in 10,000 do not hold enough objects: these are drawn anew.
    for attempt in range(1, _ATTEMPTS):
        sparse = rooms.present.sum(1) < MIN_OBJECTS
        if not bool(sparse.any()):
            return rooms
        keys = torch.where(sparse, room_keys(split, seeds) + (attempt << 50), keys)
        rooms = _draw(keys, level)
    raise ConfigError(
        f"no room with {MIN_OBJECTS} objects after {_ATTEMPTS} draws; take other seeds."
    )


@dataclass(frozen=True, eq=False, slots=True)
class _Objects:
    """Objects that are to be placed.

    category, color, yaw_rad (B, O); size_m (B, O, 3) full extents before yaw; small (B, O) bool,
    those that may stand on a table.
    """

    category: torch.Tensor
    color: torch.Tensor
    size_m: torch.Tensor
    yaw_rad: torch.Tensor
    small: torch.Tensor

    def half_m(self) -> torch.Tensor:
        """Half extents (B, O, 2) along the room's walls."""
        c, s = self.yaw_rad.cos().abs(), self.yaw_rad.sin().abs()
        length, width = self.size_m[..., 0], self.size_m[..., 1]
        return torch.stack((length * c + width * s, length * s + width * c), -1) / 2

    def reordered(self, order: torch.Tensor) -> _Objects:
        """order (B, O) int64: which object comes where."""
        return _Objects(
            self.category.gather(1, order),
            self.color.gather(1, order),
            self.size_m.gather(1, order[..., None].expand(-1, -1, 3)),
            self.yaw_rad.gather(1, order),
            self.small.gather(1, order),
        )


def _draw(keys: torch.Tensor, level: int) -> Rooms:
    """One draw of every room: its walls, its objects, where they stand, and the camera's path."""
    count = MAX_OBJECTS[level]
    room = (4.4 if level == 1 else 4.9) + 1.7 * uniform(keys, 1, 2)

    # What there is: kinds, sizes, and how each is turned.
    category, color = _draw_kinds(keys, count)
    small = torch.zeros_like(category, dtype=torch.bool)
    for name in SMALL:
        small |= category == CATEGORIES.index(name)
    small &= uniform(keys, 2, count) < 0.35
    size = _draw_sizes(keys, category, small)
    quarter = (uniform(keys, 3, count) * 4).floor() * (math.pi / 2)
    yaw = quarter if level == 1 else 2 * math.pi * uniform(keys, 3, count)

    # Where it stands, as far as there is room for it.
    wanted = MIN_OBJECTS + (uniform(keys, 4, 1) * (count - MIN_OBJECTS + 1)).floor().long()
    drawn = _Objects(category, color, size, yaw, small)
    placed, support, center = _place(keys, room, drawn, wanted, level)
    poses, num_views = _path(keys, room, level)
    return Rooms(
        level=level,
        keys=keys,
        room_m=room,
        category=placed.category,
        color=placed.color,
        support=support,
        center_m=center,
        size_m=placed.size_m,
        yaw_rad=placed.yaw_rad,
        T_world_cam=poses,
        num_views=num_views,
    )


def _draw_kinds(keys: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Categories and colours (B, O).

    Palettes of a few per room make distractors: objects that share one of the two.
    """

    def palette(stream: int, kinds: int, low: int) -> torch.Tensor:
        order = uniform(keys, stream, kinds).argsort(dim=1)
        more = (uniform(keys, stream + 1, 1) * (kinds - low + 1)).floor().long()
        used = low + more.clamp(max=kinds - low)
        pick = (uniform(keys, stream + 2, count) * used).floor().long()
        return order.gather(1, pick)

    return palette(10, len(CATEGORIES), 5), palette(20, len(COLORS), 4)


def _draw_sizes(keys: torch.Tensor, category: torch.Tensor, small: torch.Tensor) -> torch.Tensor:
    """Full extents (B, O, 3) in metres; what is round is as long as wide, a ball as high too."""

    def table(of: dict[str, Bounds]) -> torch.Tensor:
        return torch.tensor([of.get(name, _SIZES[name]) for name in CATEGORIES], device=keys.device)

    by_kind, on_table = table(_SIZES)[category], table(SMALL)[category]
    bounds = torch.where(small[..., None, None], on_table, by_kind)  # (B, O, 2, 3)
    share = uniform(keys, 30, category.shape[1], 3)
    size = bounds[:, :, 0] + share * (bounds[:, :, 1] - bounds[:, :, 0])
    is_round = torch.tensor([name in _ROUND for name in CATEGORIES], device=keys.device)[category]
    size[..., 1] = torch.where(is_round, size[..., 0], size[..., 1])
    is_ball = category == CATEGORIES.index("ball")
    size[..., 2] = torch.where(is_ball, size[..., 0], size[..., 2])
    return size


def _place(
    keys: torch.Tensor, room: torch.Tensor, drawn: _Objects, wanted: torch.Tensor, level: int
) -> tuple[_Objects, torch.Tensor, torch.Tensor]:
    """Objects one after the other where they fit, small ones on a free table if there is one.

    The objects in the order of placing, those that fit nowhere ABSENT; support (B, O) and centres
    (B, O, 3) as in Rooms. wanted (B, 1): how many there are to be.
    """
    # Large things first, or the late ones find no room; of those drawn, the first `wanted` before
    # the others, which only fill gaps.
    half = drawn.half_m()
    order = (half[..., 0] * half[..., 1] + 10.0 * ~drawn.small).argsort(dim=1, descending=True)
    order = order.gather(1, (order >= wanted).to(torch.int8).argsort(dim=1, stable=True))
    objects = drawn.reordered(order)
    half, height = objects.half_m(), objects.size_m[..., 2]

    rooms, count = objects.category.shape
    center = torch.zeros(rooms, count, 3, device=keys.device)
    alive = torch.zeros(rooms, count, dtype=torch.bool, device=keys.device)
    support = torch.full((rooms, count), ABSENT, device=keys.device)
    number = torch.arange(rooms, device=keys.device)
    tries = uniform(keys, 40, count, _TRIES, 2)
    for i in range(count):
        # On the floor: the first of the tries that keeps its distance from all that stand there.
        limit = (room / 2)[:, None] - half[:, None, i] - GAP_M  # (B, 1, 2)
        spot = (tries[:, i] * 2 - 1) * limit  # (B, T, 2)
        apart = half[:, None, None, i] + half[:, None, :i] + GAP_M
        clear = ((spot[:, :, None] - center[:, None, :i, :2]).abs() >= apart).any(-1)
        blocks = alive[:, None, :i] & (support[:, None, :i] == ABSENT)
        fits = (clear | ~blocks).all(-1)  # (B, T)
        xy, found = spot[number, fits.to(torch.int8).argmax(dim=1)], fits.any(1)

        # On a table: one that is there, holds nothing yet, and is larger.
        base = torch.full_like(number, ABSENT)
        if i:
            table = _free_tables(objects.category[:, :i], alive[:, :i], support[:, :i])
            table &= ((half[:, :i] - 0.04) >= half[:, None, i]).all(-1)
            on_table = objects.small[:, i] & table.any(1)
            base = torch.where(on_table, table.to(torch.int8).argmax(dim=1), ABSENT)
            margin = half[number, base] - half[:, i] - 0.03
            reach = 0.9 if level == 1 else 0.6
            top = center[number, base, :2] + (tries[:, i, 0] * 2 - 1) * margin * reach
            xy = torch.where(on_table[:, None], top, xy)
            found |= on_table

        # It stands there, if it is still wanted.
        floor = torch.where(base < 0, 0.0, center[number, base, 2] + height[number, base] / 2)
        center[:, i, :2] = xy
        center[:, i, 2] = height[:, i] / 2 + floor
        alive[:, i] = found & (alive.sum(1) < wanted[:, 0])
        support[:, i] = torch.where(alive[:, i], base, ABSENT)
    category = torch.where(alive, objects.category, ABSENT)
    color = torch.where(alive, objects.color, ABSENT)
    return replace(objects, category=category, color=color), support, center


def _free_tables(
    category: torch.Tensor, alive: torch.Tensor, support: torch.Tensor
) -> torch.Tensor:
    """(B, O) bool: tables that are there and that no object stands on."""
    number = torch.arange(category.shape[1], device=category.device)
    holds = (support[:, None] == number[None, :, None]).any(-1)
    return (category == CATEGORIES.index("table")) & alive & ~holds


def look_at(eye: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """T_world_cam (..., 4, 4) of an upright camera at eye (..., 3) that looks at target (..., 3).

    Optical frame: x right, y down, z forward.
    """
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    up = torch.tensor([0.0, 0.0, 1.0], device=eye.device).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=-1)
    T = torch.zeros(*eye.shape[:-1], 4, 4, device=eye.device)
    T[..., :3, :3] = torch.stack((right, torch.linalg.cross(forward, right), forward), dim=-1)
    T[..., :3, 3] = eye
    T[..., 3, 3] = 1.0
    return T


def _path(keys: torch.Tensor, room: torch.Tensor, level: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Poses (B, V, 4, 4) near the walls above every object, looking across the room.

    And how many of them count (B,).
    """
    # How far along the path each view is; the last ones repeat its end.
    views = NUM_VIEWS[level]
    used = torch.full_like(keys, views)
    if level == 2:
        used = 12 + (uniform(keys, 50, 1)[:, 0] * (views - 11)).floor().long()
    turn = torch.arange(views, device=keys.device).float()[None] / used[:, None]
    turn = turn.clamp(max=1.0) * (1.0 if level == 1 else 1.3)

    # Where the camera is.
    angle = 2 * math.pi * (turn + uniform(keys, 51, 1)) + 0.15 * normal(keys, 52, views)
    radius = room[:, None] / 2 - 0.25
    flat = torch.stack((angle.cos(), angle.sin()), -1)
    flat = flat / flat.abs().amax(-1, keepdim=True).clamp(min=0.85)  # towards the corners
    height = 1.9 + 0.25 * uniform(keys, 53, views)
    eye = torch.cat((flat * radius, height[..., None]), -1)

    # What it looks at: a low point around the room's middle, rather beyond it.
    spread = 0.5 if level == 1 else 1.0
    x, y = spread * normal(keys, 54, views), spread * normal(keys, 55, views)
    target = torch.stack((x, y, 0.2 + 0.3 * uniform(keys, 56, views)), -1)
    target[..., :2] = target[..., :2].clamp(-1.0, 1.0) - 0.15 * eye[..., :2]
    return look_at(eye, target), used
