"""Rooms with furniture and a camera's path through them, batched.

Metres, world z up, the floor at z = 0, the room's middle near the origin. Level 1: 8 views from
near the walls, objects turned by multiples of 90 degrees. Level 2: up to 20 views along a path, any
yaw, more objects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
_SMALL: dict[str, Bounds] = {  # of the same categories where they stand on a table
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

    @property
    def present(self) -> torch.Tensor:
        """(B, O) bool."""
        return self.category >= 0

    def extents_m(self) -> torch.Tensor:
        """Full extents (B, O, 3) of the world-axis-aligned boxes that enclose the objects, as
        ScanRefer's boxes are.
        """
        c, s = self.yaw_rad.cos().abs(), self.yaw_rad.sin().abs()
        length, width, height = self.size_m.unbind(-1)
        return torch.stack((length * c + width * s, length * s + width * c, height), dim=-1)


def make_rooms(split: str, seeds: torch.Tensor, level: int = 1) -> Rooms:
    """Rooms of `seeds` (B,); room i depends on split, level and seeds[i] alone. Raises ConfigError."""
    if level not in NUM_VIEWS:
        raise ConfigError(f"level = {level!r}; allowed: 1, 2.")
    keys = room_keys(split, seeds)
    rooms = _draw(keys, level)
    for attempt in range(
        1, _ATTEMPTS
    ):  # about 2 rooms in 10,000 do not hold enough objects: draw these anew
        sparse = rooms.present.sum(1) < MIN_OBJECTS
        if not bool(sparse.any()):
            return rooms
        keys = torch.where(sparse, room_keys(split, seeds) + (attempt << 50), keys)
        rooms = _draw(keys, level)
    raise ConfigError(
        f"no room with {MIN_OBJECTS} objects after {_ATTEMPTS} draws; take other seeds."
    )


def _draw(keys: torch.Tensor, level: int) -> Rooms:
    count = MAX_OBJECTS[level]
    room = (4.4 if level == 1 else 4.9) + 1.7 * uniform(keys, 1, 2)
    category, color = _draw_kinds(keys, count)
    small = torch.zeros_like(category, dtype=torch.bool)
    for name in _SMALL:
        small |= category == CATEGORIES.index(name)
    small &= uniform(keys, 2, count) < 0.35
    size = _draw_sizes(keys, category, small)
    quarter = (uniform(keys, 3, count) * 4).floor() * (math.pi / 2)
    yaw = quarter if level == 1 else 2 * math.pi * uniform(keys, 3, count)
    wanted = MIN_OBJECTS + (uniform(keys, 4, 1) * (count - MIN_OBJECTS + 1)).floor().long()
    placed = _place(keys, room, category, color, size, yaw, small, wanted, level)
    return Rooms(level, keys, room, *placed, *_path(keys, room, level))


def _draw_kinds(keys: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Categories and colours (B, O). Palettes of a few per room make distractors: objects that
    share one of the two.
    """

    def palette(stream: int, kinds: int, low: int) -> torch.Tensor:
        order = uniform(keys, stream, kinds).argsort(dim=1)
        used = low + (uniform(keys, stream + 1, 1) * (kinds - low + 1)).floor().long().clamp(
            max=kinds - low
        )
        pick = (uniform(keys, stream + 2, count) * used).floor().long()
        return order.gather(1, pick)

    return palette(10, len(CATEGORIES), 5), palette(20, len(COLORS), 4)


def _draw_sizes(keys: torch.Tensor, category: torch.Tensor, small: torch.Tensor) -> torch.Tensor:
    def table(of: dict[str, Bounds]) -> torch.Tensor:
        return torch.tensor([of.get(name, _SIZES[name]) for name in CATEGORIES], device=keys.device)

    bounds = torch.where(
        small[..., None, None], table(_SMALL)[category], table(_SIZES)[category]
    )  # (B, O, 2, 3)
    share = uniform(keys, 30, category.shape[1], 3)
    size = bounds[:, :, 0] + share * (bounds[:, :, 1] - bounds[:, :, 0])
    is_round = torch.tensor([name in _ROUND for name in CATEGORIES], device=keys.device)[category]
    size[..., 1] = torch.where(is_round, size[..., 0], size[..., 1])
    is_ball = category == CATEGORIES.index("ball")
    size[..., 2] = torch.where(is_ball, size[..., 0], size[..., 2])
    return size


def _place(
    keys: torch.Tensor, room: torch.Tensor, category: torch.Tensor, color: torch.Tensor, size: torch.Tensor, yaw: torch.Tensor,
    small: torch.Tensor, wanted: torch.Tensor, level: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Objects one after the other where they fit; those that fit nowhere are absent. Small ones
    stand on a free table if there is one.
    """
    rooms, count = category.shape
    c, s = yaw.cos().abs(), yaw.sin().abs()
    half = (
        torch.stack((size[..., 0] * c + size[..., 1] * s, size[..., 0] * s + size[..., 1] * c), -1)
        / 2
    )
    # large things first, or the late ones find no room; of those drawn, the first `wanted` before
    # the others, which only fill gaps
    order = (half[..., 0] * half[..., 1] + 10.0 * ~small).argsort(dim=1, descending=True)
    order = order.gather(1, (order >= wanted).to(torch.int8).argsort(dim=1, stable=True))
    category, color = category.gather(1, order), color.gather(1, order)
    size, yaw, small = _take(size, order), yaw.gather(1, order), small.gather(1, order)
    half = _take(half, order)
    center = torch.zeros(rooms, count, 3, device=keys.device)
    alive = torch.zeros(rooms, count, dtype=torch.bool, device=keys.device)
    support = torch.full((rooms, count), ABSENT, device=keys.device)
    number = torch.arange(rooms, device=keys.device)
    tries = uniform(keys, 40, count, _TRIES, 2)
    table = CATEGORIES.index("table")
    for i in range(count):
        limit = (room / 2)[:, None] - half[:, None, i] - GAP_M  # (B, 1, 2)
        spot = (tries[:, i] * 2 - 1) * limit  # (B, T, 2)
        clear = (
            (spot[:, :, None] - center[:, None, :i, :2]).abs()
            >= (half[:, None, None, i] + half[:, None, :i] + GAP_M)
        ).any(-1)
        blocks = alive[:, None, :i] & (support[:, None, :i] == ABSENT)
        fits = (clear | ~blocks).all(-1)  # (B, T)
        first = fits.to(torch.int8).argmax(dim=1)
        xy, found = spot[number, first], fits.any(1)
        on = (
            (category[:, :i] == table)
            & alive[:, :i]
            & ~(support[:, None, :i] == torch.arange(i, device=keys.device)[None, :, None]).any(-1)
        )
        on &= ((half[:, :i] - 0.04) >= half[:, None, i]).all(-1)
        on_table = small[:, i] & on.any(1) if i else torch.zeros_like(found)
        if i:
            base = on.to(torch.int8).argmax(dim=1)
            room_left = half[number, base] - half[:, i] - 0.03
            top = center[number, base, :2] + (tries[:, i, 0] * 2 - 1) * room_left * (
                0.9 if level == 1 else 0.6
            )
            xy = torch.where(on_table[:, None], top, xy)
            support[:, i] = torch.where(on_table, base, ABSENT)
            height = center[number, base, 2] + size[number, base, 2] / 2
        else:
            height = torch.zeros(rooms, device=keys.device)
        center[:, i, :2] = xy
        center[:, i, 2] = size[:, i, 2] / 2 + torch.where(
            on_table, height, torch.zeros_like(height)
        )
        alive[:, i] = (found | on_table) & (alive.sum(1) < wanted[:, 0])
        support[:, i] = torch.where(alive[:, i], support[:, i], ABSENT)
    return (
        torch.where(alive, category, ABSENT), torch.where(alive, color, ABSENT), support, center, size, yaw,
    )  # fmt: skip


def _take(values: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    return values.gather(1, order[..., None].expand(*order.shape, values.shape[-1]))


def look_at(eye: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """T_world_cam (..., 4, 4) of an upright camera at eye (..., 3) looking at target (..., 3): x
    right, y down, z forward.
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
    """Poses (B, V, 4, 4) on an ellipse near the walls above every object, looking across the room;
    and how many count (B,).
    """
    views = NUM_VIEWS[level]
    used = torch.full_like(keys, views)
    if level == 2:
        used = 12 + (uniform(keys, 50, 1)[:, 0] * (views - 11)).floor().long()
    turn = torch.arange(views, device=keys.device).float()[None] / used[:, None]
    turn = turn.clamp(max=1.0) * (1.0 if level == 1 else 1.3)
    angle = 2 * math.pi * (turn + uniform(keys, 51, 1)) + 0.15 * normal(keys, 52, views)
    radius = room[:, None] / 2 - 0.25
    flat = torch.stack((angle.cos(), angle.sin()), -1)
    flat = flat / flat.abs().amax(-1, keepdim=True).clamp(min=0.85)  # towards the corners
    height = 1.9 + 0.25 * uniform(keys, 53, views)
    eye = torch.cat((flat * radius, height[..., None]), -1)
    spread = 0.5 if level == 1 else 1.0
    target = torch.stack((
        spread * normal(keys, 54, views), spread * normal(keys, 55, views), 0.2 + 0.3 * uniform(keys, 56, views),
    ), -1)  # fmt: skip
    target[..., :2] = target[..., :2].clamp(-1.0, 1.0) - 0.15 * eye[..., :2]
    return look_at(eye, target), used
