"""What the furniture looks like: every category as at most 6 primitives in the object's unit box.

The unit box has x, y in [-0.5, 0.5] along length and width and z in [0, 1]; the primitives of a
category reach all six of its faces.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

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

_Part = tuple[int, tuple[float, float, float], tuple[float, float, float], int, int, int]


def _part(
    kind: int, lower: tuple[float, float, float], upper: tuple[float, float, float], tint: int = OBJECT,
    pattern: int = PLAIN, bands: int = 1,
) -> _Part:  # fmt: skip
    return kind, lower, upper, tint, pattern, bands


def _legs(top: float, thick: float) -> tuple[_Part, ...]:
    """Four legs in the corners, `thick` along the unit box."""
    spans = ((-0.5, -0.5 + thick), (0.5 - thick, 0.5))
    return tuple(_part(BOX, (x0, y0, 0.0), (x1, y1, top)) for x0, x1 in spans for y0, y1 in spans)


_PARTS: dict[str, tuple[_Part, ...]] = {
    "ball": (_part(ELLIPSOID, (-0.5, -0.5, 0.0), (0.5, 0.5, 1.0)),),
    "barrel": (
        _part(CYLINDER, (-0.5, -0.5, 0.0), (0.5, 0.5, 0.96), pattern=BANDS, bands=3),
        _part(CYLINDER, (-0.38, -0.38, 0.96), (0.38, 0.38, 1.0), WOOD),
    ),
    "bed": (
        _part(BOX, (-0.5, -0.5, 0.0), (0.5, 0.5, 0.55)),
        _part(BOX, (-0.5, -0.5, 0.55), (-0.43, 0.5, 1.0)),
        _part(BOX, (-0.39, -0.38, 0.55), (-0.15, 0.38, 0.74), OFF_WHITE),
    ),
    "cabinet": (_part(BOX, (-0.5, -0.5, 0.0), (0.5, 0.5, 1.0), pattern=PANEL),),
    "chair": (
        _part(BOX, (-0.5, -0.5, 0.40), (0.5, 0.5, 0.50)),
        _part(BOX, (-0.5, -0.5, 0.50), (-0.38, 0.5, 1.0)),
        *_legs(0.40, 0.13),
    ),
    "crate": (_part(BOX, (-0.5, -0.5, 0.0), (0.5, 0.5, 1.0), pattern=CROSS),),
    "lamp": (
        _part(CYLINDER, (-0.33, -0.33, 0.0), (0.33, 0.33, 0.05), WOOD),
        _part(CYLINDER, (-0.07, -0.07, 0.05), (0.07, 0.07, 0.62), WOOD),
        _part(CYLINDER, (-0.5, -0.5, 0.62), (0.5, 0.5, 1.0)),
    ),
    "shelf": (_part(BOX, (-0.5, -0.5, 0.0), (0.5, 0.5, 1.0), pattern=SHELVES, bands=4),),
    "sofa": (
        _part(BOX, (-0.36, -0.24, 0.0), (0.36, 0.47, 0.42), pattern=STRIPES),
        _part(BOX, (-0.5, -0.5, 0.0), (0.5, -0.24, 1.0)),
        _part(BOX, (-0.5, -0.24, 0.0), (-0.36, 0.5, 0.66)),
        _part(BOX, (0.36, -0.24, 0.0), (0.5, 0.5, 0.66)),
    ),
    "table": (_part(BOX, (-0.5, -0.5, 0.87), (0.5, 0.5, 1.0)), *_legs(0.87, 0.09)),
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
    """(10, 6, 5) int64: valid, kind, tint, pattern, bands; (10, 6, 6) float32: middle, half size in
    the unit box.
    """
    whole = torch.zeros(len(CATEGORIES), MAX_PRIMITIVES, 5, dtype=torch.int64)
    place = torch.zeros(len(CATEGORIES), MAX_PRIMITIVES, 6)
    for i, name in enumerate(CATEGORIES):
        for j, (kind, lower, upper, tint, pattern, bands) in enumerate(_PARTS[name]):
            whole[i, j] = torch.tensor((1, kind, tint, pattern, bands))
            low, high = torch.tensor(lower), torch.tensor(upper)
            place[i, j] = torch.cat(((low + high) / 2, (high - low) / 2))
    return whole.to(device), place.to(device)


def primitives(rooms: Rooms) -> Primitives:
    """The primitives of all objects that are there, in the world frame."""
    whole, place = _tables(rooms.keys.device)
    batch, count = rooms.category.shape
    kinds = whole[rooms.category.clamp(min=0)]  # (B, O, 6, 5)
    unit = place[rooms.category.clamp(min=0)]
    size = rooms.size_m[:, :, None]
    x, y, _ = (unit[..., :3] * size).unbind(-1)
    z = (unit[..., 2] - 0.5) * size[..., 2]
    c, s = rooms.yaw_rad.cos()[..., None], rooms.yaw_rad.sin()[..., None]
    center = rooms.center_m[:, :, None] + torch.stack((c * x - s * y, s * x + c * y, z), -1)
    number = torch.arange(count, device=rooms.keys.device)[None, :, None].expand(
        batch, count, MAX_PRIMITIVES
    )
    valid = (kinds[..., 0] > 0) & rooms.present[..., None]
    half = torch.where(valid[..., None], unit[..., 3:] * size, 1.0)
    yaw = rooms.yaw_rad[..., None].expand(batch, count, MAX_PRIMITIVES)
    _, kind, tint, pattern, bands = kinds.unbind(-1)
    return Primitives(
        *(t.flatten(1, 2) for t in (valid, kind, number, tint, pattern, bands, center, half, yaw))
    )


def dark_lines(
    pattern: torch.Tensor, bands: torch.Tensor, x: torch.Tensor, z: torch.Tensor, lid: torch.Tensor,
    narrow: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """How much (N,) of a surface's colour is replaced by the dark lines' at x, z (N,) in [-1, 1] of
    its face.

    lid (N,) bool: top or bottom faces; narrow (N,) bool: upright faces across the length.
    """
    wall, across, up = ~lid, x.abs(), z.abs()
    phase = (torch.frac((z + 1) / 2 * bands) - 0.5).abs()
    band = (pattern == BANDS) & wall & (phase < 0.17)
    shelf = (pattern == SHELVES) & wall & (across < 0.86) & (phase < 0.34)
    stripe = (pattern == STRIPES) & ((torch.frac((x + 1) / 2 * bands) - 0.5).abs() < 0.04)
    border = ((across - 0.80).abs() < 0.07) & (up < 0.9) | ((up - 0.86).abs() < 0.04) & (
        across < 0.87
    )
    panel = (pattern == PANEL) & wall & ~narrow & (border | (across < 0.07))
    cross = (pattern == CROSS) & ((across - up).abs() < 0.22) & (across < 0.9)
    return 0.9 * (band | shelf | stripe | panel | cross)
