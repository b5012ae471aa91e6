"""What the furniture looks like: every category as at most 6 primitives in the object's unit box.

The unit box has x, y in [-0.5, 0.5] along length and width and z in [0, 1]; the primitives of a
category reach all six of its faces.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch

from ada3d_ros.lab.world.rooms import CATEGORIES, Rooms

BOX, CYLINDER, ELLIPSOID = 0, 1, 2  # cylinders stand upright
OBJECT, WOOD, OFF_WHITE = 0, 1, 2  # tints: the object's own colour, or a neutral one
# SHELVES: wide gaps within a frame; PANEL: two doors on the long faces; CROSS: an X on every face,
# the top too
PLAIN, BANDS, STRIPES, PANEL, SHELVES, CROSS = 0, 1, 2, 3, 4, 5
MAX_PRIMITIVES = 6  # of an object
PALETTE = {
    "red": (0.86, 0.09, 0.10),
    "orange": (0.98, 0.50, 0.04),
    "yellow": (0.95, 0.88, 0.12),
    "green": (0.10, 0.60, 0.17),
    "blue": (0.10, 0.24, 0.86),
    "purple": (0.56, 0.15, 0.68),
    "white": (0.98, 0.98, 0.98),
    "black": (0.06, 0.06, 0.07),
}
NEUTRAL = ((0.33, 0.28, 0.24), (0.93, 0.91, 0.86))  # WOOD, OFF_WHITE
GAP = 0.10  # brightness of dark lines, and on black objects:
GAP_ON_BLACK = 0.40

Point = tuple[float, float, float]


class _Part(NamedTuple):
    """One primitive from lower to upper in the unit box."""

    kind: int
    lower: Point
    upper: Point
    tint: int = OBJECT
    pattern: int = PLAIN
    bands: int = 1


def _legs(top: float, thick: float) -> tuple[_Part, ...]:
    """Four legs in the corners, `thick` along the unit box."""
    spans = ((-0.5, -0.5 + thick), (0.5 - thick, 0.5))
    return tuple(_Part(BOX, (x0, y0, 0.0), (x1, y1, top)) for x0, x1 in spans for y0, y1 in spans)


_PARTS: dict[str, tuple[_Part, ...]] = {
    "ball": (_Part(ELLIPSOID, (-0.5, -0.5, 0.0), (0.5, 0.5, 1.0)),),
    "barrel": (
        _Part(CYLINDER, (-0.5, -0.5, 0.0), (0.5, 0.5, 0.96), pattern=BANDS, bands=3),
        _Part(CYLINDER, (-0.38, -0.38, 0.96), (0.38, 0.38, 1.0), WOOD),
    ),
    "bed": (
        _Part(BOX, (-0.5, -0.5, 0.0), (0.5, 0.5, 0.55)),
        _Part(BOX, (-0.5, -0.5, 0.55), (-0.43, 0.5, 1.0)),
        _Part(BOX, (-0.39, -0.38, 0.55), (-0.15, 0.38, 0.74), OFF_WHITE),
    ),
    "cabinet": (_Part(BOX, (-0.5, -0.5, 0.0), (0.5, 0.5, 1.0), pattern=PANEL),),
    "chair": (
        _Part(BOX, (-0.5, -0.5, 0.40), (0.5, 0.5, 0.50)),
        _Part(BOX, (-0.5, -0.5, 0.50), (-0.38, 0.5, 1.0)),
        *_legs(0.40, 0.13),
    ),
    "crate": (_Part(BOX, (-0.5, -0.5, 0.0), (0.5, 0.5, 1.0), pattern=CROSS),),
    "lamp": (
        _Part(CYLINDER, (-0.33, -0.33, 0.0), (0.33, 0.33, 0.05), WOOD),
        _Part(CYLINDER, (-0.07, -0.07, 0.05), (0.07, 0.07, 0.62), WOOD),
        _Part(CYLINDER, (-0.5, -0.5, 0.62), (0.5, 0.5, 1.0)),
    ),
    "shelf": (_Part(BOX, (-0.5, -0.5, 0.0), (0.5, 0.5, 1.0), pattern=SHELVES, bands=4),),
    "sofa": (
        _Part(BOX, (-0.36, -0.24, 0.0), (0.36, 0.47, 0.42), pattern=STRIPES),
        _Part(BOX, (-0.5, -0.5, 0.0), (0.5, -0.24, 1.0)),
        _Part(BOX, (-0.5, -0.24, 0.0), (-0.36, 0.5, 0.66)),
        _Part(BOX, (0.36, -0.24, 0.0), (0.5, 0.5, 0.66)),
    ),
    "table": (_Part(BOX, (-0.5, -0.5, 0.87), (0.5, 0.5, 1.0)), *_legs(0.87, 0.09)),
}


@dataclass(frozen=True, eq=False, slots=True)
class Primitives:
    """P = 6 O primitives of B rooms; only those with `valid` count.

    valid (B, P) bool; kind, object_index, tint, pattern, bands (B, P) int64; center_m (B, P, 3) in
    the world frame; half_m (B, P, 3) half sizes before yaw; yaw_rad (B, P).
    """

    valid: torch.Tensor
    kind: torch.Tensor
    object_index: torch.Tensor
    tint: torch.Tensor
    pattern: torch.Tensor
    bands: torch.Tensor
    center_m: torch.Tensor
    half_m: torch.Tensor
    yaw_rad: torch.Tensor


@lru_cache(maxsize=8)
def _tables(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """All categories' primitives.

    (10, 6, 5) int64: valid, kind, tint, pattern, bands; (10, 6, 6) float32: middle, half size in
    the unit box.
    """
    whole = torch.zeros(len(CATEGORIES), MAX_PRIMITIVES, 5, dtype=torch.int64)
    place = torch.zeros(len(CATEGORIES), MAX_PRIMITIVES, 6)
    for i, name in enumerate(CATEGORIES):
        for j, part in enumerate(_PARTS[name]):
            whole[i, j] = torch.tensor((1, part.kind, part.tint, part.pattern, part.bands))
            low, high = torch.tensor(part.lower), torch.tensor(part.upper)
            place[i, j] = torch.cat(((low + high) / 2, (high - low) / 2))
    return whole.to(device), place.to(device)


def primitives(rooms: Rooms) -> Primitives:
    """The primitives of all objects that are present, in the world frame."""
    # From the tables of the categories.
    whole, place = _tables(rooms.keys.device)
    batch, count = rooms.category.shape
    kinds = whole[rooms.category.clamp(min=0)]  # (B, O, 6, 5)
    unit = place[rooms.category.clamp(min=0)]

    # The unit box takes the object's size, turns with it and moves to its place.
    size = rooms.size_m[:, :, None]
    x, y, _ = (unit[..., :3] * size).unbind(-1)
    z = (unit[..., 2] - 0.5) * size[..., 2]
    c, s = rooms.yaw_rad.cos()[..., None], rooms.yaw_rad.sin()[..., None]
    center = rooms.center_m[:, :, None] + torch.stack((c * x - s * y, s * x + c * y, z), -1)

    number = torch.arange(count, device=rooms.keys.device)[None, :, None]
    number = number.expand(batch, count, MAX_PRIMITIVES)
    valid = (kinds[..., 0] > 0) & rooms.present[..., None]
    half = torch.where(valid[..., None], unit[..., 3:] * size, 1.0)
    yaw = rooms.yaw_rad[..., None].expand(batch, count, MAX_PRIMITIVES)
    _, kind, tint, pattern, bands = kinds.unbind(-1)
    return Primitives(
        *(t.flatten(1, 2) for t in (valid, kind, number, tint, pattern, bands, center, half, yaw))
    )


@dataclass(frozen=True, eq=False, slots=True)
class SurfacePoints:
    """N points on primitives.

    primitive (N,) int64 into the flattened (B P,) primitives; local: x, y, z (N,) in units of their
    half sizes. All others (N,) bool: lid, top or bottom faces; on_x, on_y, upright faces of boxes
    across length and width; upright, all but lids and ellipsoids.
    """

    primitive: torch.Tensor
    local: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    lid: torch.Tensor
    on_x: torch.Tensor
    on_y: torch.Tensor
    upright: torch.Tensor


def dark_lines(shapes: Primitives, points: SurfacePoints) -> torch.Tensor:
    """How much (N,) of a surface's colour is replaced by the dark lines'."""
    # Place on the face: along its length, and up (on lids across).
    x, y, z = points.local
    wall = ~points.lid
    along, height = torch.where(points.on_x, y, x), torch.where(points.lid, y, z)
    across, up = along.abs(), height.abs()
    pattern = shapes.pattern.flatten()[points.primitive]
    bands = shapes.bands.flatten()[points.primitive]

    # Lines that repeat.
    phase = (torch.frac((height + 1) / 2 * bands) - 0.5).abs()
    band = (pattern == BANDS) & wall & (phase < 0.17)
    shelf = (pattern == SHELVES) & wall & (across < 0.86) & (phase < 0.34)
    stripe = (pattern == STRIPES) & ((torch.frac((along + 1) / 2 * bands) - 0.5).abs() < 0.04)

    # Two doors with a frame, on the long faces alone; an X on every face.
    sides = ((across - 0.80).abs() < 0.07) & (up < 0.9)
    border = sides | ((up - 0.86).abs() < 0.04) & (across < 0.87)
    panel = (pattern == PANEL) & wall & ~points.on_x & (border | (across < 0.07))
    cross = (pattern == CROSS) & ((across - up).abs() < 0.22) & (across < 0.9)
    return 0.9 * (band | shelf | stripe | panel | cross)
