"""Colours of what the pixels of a room's views show, and how obliquely they are seen."""

from __future__ import annotations

from functools import lru_cache

import torch

from ada3d_ros.lab.world.randomness import uniform
from ada3d_ros.lab.world.raycast import BACKGROUND, Rays, Surfaces, Vector, length
from ada3d_ros.lab.world.rooms import COLORS, Rooms
from ada3d_ros.lab.world.shapes import (
    BOX,
    ELLIPSOID,
    GAP,
    GAP_ON_BLACK,
    NEUTRAL,
    PALETTE,
    Primitives,
    SurfacePoints,
    dark_lines,
)

NOTHING = -1  # object_index of walls, floor and ceiling
_LIGHT = (0.45, 0.30, 0.841)  # towards the lamp, length 1


def shade(rays: Rays, surfaces: Surfaces) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Colour (B V S S, 3) in 0..1, cosine (B V S S,) to the surface's normal, object_index.

    object_index (B V S S,) int16, NOTHING for the room itself.
    """
    color, cosine = _room_colors(rays, surfaces)
    color, cosine = color.reshape(-1, 3), cosine.flatten()
    index = torch.full_like(surfaces.primitive, NOTHING, dtype=torch.int16)

    # Objects are painted over the room, where they are nearest.
    at = (surfaces.primitive != BACKGROUND).nonzero()[:, 0]
    points = _object_points(rays, surfaces, at)
    color[at], cosine[at] = _object_colors(rays, points, at)
    index[at] = rays.shapes.object_index.flatten()[points.primitive].to(torch.int16)
    return color, cosine, index


def _room_colors(rays: Rays, surfaces: Surfaces) -> tuple[torch.Tensor, torch.Tensor]:
    """Colours (B, V, S, S, 3) of walls, floor and ceiling, and the cosine to their normals."""
    keys, face, depth = rays.rooms.keys, surfaces.face, surfaces.wall_m

    # Three greys of the room's own brightness and tint; faces differ as if lit from one side.
    tint = uniform(keys, 100, 3, 3) - 0.5  # wall, floor, ceiling
    gray = torch.tensor(
        [[0.60, 0.56, 0.50], [0.44, 0.38, 0.32], [0.62, 0.61, 0.59]], device=depth.device
    )
    level = uniform(keys, 101, 3, 1) - 0.5
    color = gray * (1 + 0.14 * level + 0.10 * tint)  # (B, 3, 3)
    lit = torch.tensor([1.0, 0.93, 0.97, 0.90, 1.0, 1.0], device=depth.device)
    surface = color[:, [0, 0, 0, 0, 1, 2]] * lit[:, None]
    room = torch.arange(keys.shape[0], device=face.device)[:, None, None, None] * 6
    painted = surface.reshape(-1, 3)[room + face]

    # The floor has tiles of half a metre, every other one darker.
    eye = rays.rooms.T_world_cam[:, :, :3, 3, None, None]
    tile = [((eye[:, :, i] + depth * rays.world[i]) * 2.0).floor() for i in range(2)]
    odd = torch.remainder(tile[0] + tile[1], 2.0)
    painted = painted * (1.0 - 0.10 * odd * (face == 4))[..., None]

    axis, (x, y, z) = torch.div(face, 2, rounding_mode="floor"), rays.world
    along = torch.where(axis == 0, x, torch.where(axis == 1, y, z)).abs()
    return painted, along / length(rays.world)


@lru_cache(maxsize=8)
def _palettes(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The objects' colours (8, 3) and the neutral ones (2, 3)."""
    palette = torch.tensor([PALETTE[name] for name in COLORS], device=device)
    return palette, torch.tensor(NEUTRAL, device=device)


def _primitive_colors(rooms: Rooms, shapes: Primitives) -> tuple[torch.Tensor, torch.Tensor]:
    """Colours (B P, 3) of the primitives, and the brightness of their dark lines (B P,).

    The object's colour has a jitter of its own.
    """
    palette, neutral = _palettes(rooms.keys.device)
    count = rooms.color.shape[1]
    bright, tint = uniform(rooms.keys, 102, count, 1), uniform(rooms.keys, 103, count, 3)
    jitter = 1.0 + 0.14 * (bright - 0.5) + 0.06 * (tint - 0.5)
    own = palette[rooms.color.clamp(min=0)] * jitter  # (B, O, 3)
    own = own.gather(1, shapes.object_index[..., None].expand(-1, -1, 3))
    color = torch.where((shapes.tint == 0)[..., None], own, neutral[(shapes.tint - 1).clamp(min=0)])
    black = (rooms.color == COLORS.index("black")).gather(1, shapes.object_index)
    return color.flatten(0, 1), torch.where(black, GAP_ON_BLACK, GAP).flatten()


def _object_points(rays: Rays, surfaces: Surfaces, at: torch.Tensor) -> SurfacePoints:
    """Where the rays of pixels `at` (N,) meet the primitives they show, and on which faces."""
    shapes, local, side = rays.shapes, rays.local, rays.side
    views, count = rays.rooms.T_world_cam.shape[1], shapes.kind.shape[1]
    number, depth = surfaces.primitive[at], surfaces.depth_m[at]

    # Which view, which pixel of it, which ray of which primitive.
    view = torch.div(at, side * side, rounding_mode="floor")
    pixel = at - view * (side * side)
    line = torch.div(pixel, side, rounding_mode="floor")
    u, v = (pixel - line * side) - (side - 1) / 2, line - (side - 1) / 2
    ray = view * count + number
    of = torch.div(view, views, rounding_mode="floor") * count + number

    def component(i: int) -> torch.Tensor:
        direction = local.along_u[i][ray] * u + local.along_v[i][ray] * v + local.middle[i][ray]
        return local.eye[i][ray] + depth * direction

    # Of a box the face of the largest coordinate was hit; an ellipsoid has one face.
    x, y, z = component(0), component(1), component(2)
    kind = shapes.kind.flatten()[of]
    ax, ay, az, radius = x.abs(), y.abs(), z.abs(), (x * x + y * y).sqrt()
    flat = kind != ELLIPSOID
    lid = flat & (az > torch.where(kind == BOX, torch.maximum(ax, ay), radius))
    on_x, on_y = (kind == BOX) & ~lid & (ax >= ay), (kind == BOX) & ~lid & (ax < ay)
    return SurfacePoints(of, (x, y, z), lid, on_x, on_y, flat & ~lid)


def _object_colors(
    rays: Rays, points: SurfacePoints, at: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Colour (N, 3) and cosine (N,) of pixels `at` (N,), which show `points`."""
    shapes, of = rays.shapes, points.primitive
    nx, ny, nz = normal = _normals(shapes, points)

    # Oblique to the ray, lit by the lamp.
    d = [r.flatten()[at] for r in rays.world]
    cosine = (nx * d[0] + ny * d[1] + nz * d[2]).abs() / length((d[0], d[1], d[2]))
    light = normal[0] * _LIGHT[0] + normal[1] * _LIGHT[1] + normal[2] * _LIGHT[2]

    # The primitive's colour, its dark lines over it.
    dark = dark_lines(shapes, points)
    base, gap = _primitive_colors(rays.rooms, shapes)
    mixed = base[of] * (1.0 - dark)[:, None] + (gap[of] * dark)[:, None]
    return mixed * (0.82 + 0.18 * light)[:, None], cosine


def _normals(shapes: Primitives, points: SurfacePoints) -> Vector:
    """Unit normals in the world frame, each (N,)."""
    of, (x, y, z) = points.primitive, points.local
    half = [shapes.half_m[..., i].flatten()[of] for i in range(3)]
    nx = torch.where(points.lid | points.on_y, 0.0, x / half[0])
    ny = torch.where(points.lid | points.on_x, 0.0, y / half[1])
    nz = torch.where(points.upright, 0.0, z / half[2])
    yaw = shapes.yaw_rad.flatten()
    c, s = yaw.cos()[of], yaw.sin()[of]
    scale = 1.0 / length((nx, ny, nz)).clamp(min=1e-9)
    return (c * nx - s * ny) * scale, (s * nx + c * ny) * scale, nz * scale
