"""Which surface every pixel of a room's views shows, by ray casting, batched.

Every primitive is met only by the rays in the window of its projected box. These (ray, primitive)
pairs form one flat list; the nearest hit per pixel is the least integer of (depth bits, primitive).
Elementwise arithmetic only, so that room i comes out the same in any batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ada3d_ros.lab.world.rooms import FIELD_OF_VIEW_DEG, WALL_HEIGHT_M, Rooms
from ada3d_ros.lab.world.shapes import BOX, CYLINDER, ELLIPSOID, Primitives, primitives

Vector = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # x, y, z, of one shape

NEAR_M = 0.03
BACKGROUND = 255  # in the place of a primitive's number


def focal_px(side: int) -> float:
    """Focal length of square views of `side` px."""
    return side / 2 / math.tan(math.radians(FIELD_OF_VIEW_DEG) / 2)


@dataclass(frozen=True, eq=False, slots=True)
class LocalRays:
    """Rays in the frames in which the primitives have half size 1: 3 components (B V P,) of each.

    The ray of pixel offset (u, v) from the principal point has direction u along_u + v along_v +
    middle, depth 1.
    """

    along_u: Vector
    along_v: Vector
    middle: Vector
    eye: Vector


@dataclass(frozen=True, eq=False, slots=True)
class Rays:
    """All rays of B rooms with V views of side S px.

    world: directions of depth 1, each (B, V, S, S); local: the same in the primitives' frames.
    """

    rooms: Rooms
    shapes: Primitives
    side: int
    world: Vector
    local: LocalRays

    @classmethod
    def from_rooms(cls, rooms: Rooms, side: int) -> Rays:
        """The rays through all pixels of the rooms' views."""
        shapes = primitives(rooms)
        return cls(rooms, shapes, side, _world_rays(rooms, side), _local_rays(rooms, shapes, side))


@dataclass(frozen=True, eq=False, slots=True)
class Surfaces:
    """What each pixel shows.

    depth_m (B V S S,) along the optical axis; primitive (B V S S,) int64, BACKGROUND where it is
    the room; wall_m, face (B, V, S, S): the room itself, its depth and which face (-x +x -y +y
    floor ceiling).
    """

    depth_m: torch.Tensor
    primitive: torch.Tensor
    wall_m: torch.Tensor
    face: torch.Tensor


def nearest_surfaces(rays: Rays) -> Surfaces:
    """The nearest hit of every ray."""
    wall, face = _meet_walls(rays)
    nearest = (wall.view(torch.int32).to(torch.int64) << 8 | BACKGROUND).flatten()
    _meet_primitives(rays, nearest)
    depth = (nearest >> 8).to(torch.int32).view(torch.float32)
    return Surfaces(depth, nearest & 0xFF, wall, face)


def length(d: Vector) -> torch.Tensor:
    """Euclidean norm of vectors."""
    return (d[0] * d[0] + d[1] * d[1] + d[2] * d[2]).sqrt()


def _world_rays(rooms: Rooms, side: int) -> Vector:
    offset = (torch.arange(side, device=rooms.keys.device) - (side - 1) / 2) / focal_px(side)
    x, y, z = rooms.T_world_cam[..., :3, :3, None, None].unbind(3)  # the camera's axes

    def component(i: int) -> torch.Tensor:
        return x[:, :, i] * offset + (y[:, :, i] * offset[:, None] + z[:, :, i])

    return component(0), component(1), component(2)


def _local_rays(rooms: Rooms, shapes: Primitives, side: int) -> LocalRays:
    c, s = shapes.yaw_rad.cos()[:, None], shapes.yaw_rad.sin()[:, None]

    def turn(vector: Vector, scale: float) -> Vector:
        """Into the primitives' frames, in units of their half sizes times `scale`."""
        (x, y, z), half = vector, shapes.half_m[:, None]
        turned = (c * x + s * y, c * y - s * x, z.expand(*z.shape[:2], c.shape[2]))
        a, b, h = ((t / (half[..., i] * scale)).flatten() for i, t in enumerate(turned))
        return a, b, h

    T = rooms.T_world_cam[..., None]  # (B, V, 4, 4, 1)
    u, v, forward, eye = ((T[:, :, 0, j], T[:, :, 1, j], T[:, :, 2, j]) for j in range(4))
    x, y, z = (e - shapes.center_m[:, None, :, i] for i, e in enumerate(eye))
    focal = focal_px(side)
    return LocalRays(turn(u, focal), turn(v, focal), turn(forward, 1.0), turn((x, y, z), 1.0))


def _away_from_zero(value: torch.Tensor) -> torch.Tensor:
    """No |value| below 1e-6, so that its inverse is finite."""
    return value + (value.abs() < 1e-6) * 2e-6


def _meet_walls(rays: Rays) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth of the room's inside, and which of its faces, each (B, V, S, S)."""
    rooms = rays.rooms
    low = torch.cat((-rooms.room_m / 2, torch.zeros_like(rooms.room_m[:, :1])), 1)
    high = torch.cat((rooms.room_m / 2, torch.full_like(rooms.room_m[:, :1], WALL_HEIGHT_M)), 1)
    nearest, face = torch.empty(0), torch.empty(0)
    for i in range(3):
        # Of the two walls across this axis the ray meets the one ahead.
        d, eye = _away_from_zero(rays.world[i]), rooms.T_world_cam[:, :, i, 3]
        ahead = d > 0
        walls = [(wall[:, i, None] - eye)[..., None, None] for wall in (low, high)]
        t = torch.where(ahead, walls[1], walls[0]) / d
        number = ahead.to(torch.int64) + 2 * i

        closer = t < nearest if i else None
        nearest = t if closer is None else torch.where(closer, t, nearest)
        face = number if closer is None else torch.where(closer, number, face)
    return nearest.clamp(min=NEAR_M), face


def _windows(rays: Rays) -> Windows:
    """The pixels that may show each primitive; 0 columns or rows if none."""
    rooms, shapes, side = rays.rooms, rays.shapes, rays.side

    # The 8 corners of every primitive's box in the world.
    signs = (-1, 1)
    corner = torch.tensor(
        [[x, y, z] for x in signs for y in signs for z in signs], device=rooms.keys.device
    )
    x, y, z = (shapes.half_m[..., None, :] * corner).unbind(-1)  # (B, P, 8)
    c, s = shapes.yaw_rad.cos()[..., None], shapes.yaw_rad.sin()[..., None]
    point = torch.stack((c * x - s * y, s * x + c * y, z), -1) + shapes.center_m[..., None, :]

    # In every camera's frame.
    R, eye = rooms.T_world_cam[:, :, :3, :3], rooms.T_world_cam[:, :, :3, 3]
    away = [point[:, None, ..., i] - eye[:, :, i, None, None] for i in range(3)]  # (B, V, P, 8)
    axes = [[R[:, :, j, i, None, None] for j in range(3)] for i in range(3)]
    across, down, depth = (a[0] * away[0] + a[1] * away[1] + a[2] * away[2] for a in axes)

    # Not shown: behind the camera, in a view that does not count, wholly beyond one side of it.
    focal, middle, edge = focal_px(side), (side - 1) / 2, side / (2 * focal_px(side))
    behind = depth < NEAR_M
    shown = shapes.valid[:, None] & ~behind.all(-1)
    shown &= (torch.arange(R.shape[1], device=R.device)[None] < rooms.num_views[:, None])[..., None]
    for value in (across, down):
        shown &= ~((value > edge * depth).all(-1) | (value < -edge * depth).all(-1))

    # The projected box; one that reaches behind the camera may be anywhere.
    bounds = []
    for value in (across, down):
        pixel = focal * value / depth.clamp(min=NEAR_M) + middle
        low = torch.where(behind.any(-1), 0.0, pixel.amin(-1).ceil().clamp(0, side))
        high = torch.where(behind.any(-1), side - 1.0, pixel.amax(-1).floor().clamp(-1, side - 1))
        bounds.append(
            (low.long().flatten(), ((high - low + 1).clamp(min=0).long() * shown).flatten())
        )
    (left, columns), (top, rows) = bounds
    return Windows(left, top, columns, rows)


@dataclass(frozen=True, eq=False, slots=True)
class Windows:
    """First column, first row, number of columns and of rows, px, each (B V P,) int64."""

    left: torch.Tensor
    top: torch.Tensor
    columns: torch.Tensor
    rows: torch.Tensor


def _meet_primitives(rays: Rays, nearest: torch.Tensor) -> None:
    """Lowers `nearest` (B V S S,) int64 where a primitive is nearer.

    nearest: depth bits << 8 | primitive; as integers, depths above 0 are ordered as they are as
    floats.
    """
    side, local, count = rays.side, rays.local, rays.shapes.kind.shape[1]
    windows, views = _windows(rays), rays.rooms.T_world_cam.shape[1]
    kind = rays.shapes.kind[:, None].expand(-1, views, -1).flatten()
    for which, meet in ((BOX, _meet_box), (CYLINDER, _meet_cylinder), (ELLIPSOID, _meet_ellipsoid)):
        # One entry for every pixel of every window: which item `of`, which row and column in it.
        item = ((kind == which) & (windows.columns * windows.rows > 0)).nonzero()[:, 0]
        u0, v0, width = windows.left[item], windows.top[item], windows.columns[item]
        number = width * windows.rows[item]
        of = torch.repeat_interleave(number)
        place = torch.arange(of.shape[0], device=of.device) - (number.cumsum(0) - number)[of]
        row = ((place + 0.5) / width.float()[of]).floor()  # exact: far from a rounding's reach
        column = place - row * width.float()[of]

        # Its ray in the primitive's frame, from the window's first pixel on.
        du, dv = u0 - (side - 1) / 2, v0 - (side - 1) / 2
        direction = []
        for i in range(3):
            along_u, along_v = local.along_u[i][item], local.along_v[i][item]
            start = along_u * du + along_v * dv + local.middle[i][item]
            direction.append(start[of] + along_u[of] * column + along_v[of] * row)
        ex, ey, ez = (eye[item][of] for eye in local.eye)
        depth, hit = meet((direction[0], direction[1], direction[2]), (ex, ey, ez))

        # The least integer a pixel wins.
        at = (hit & (depth > NEAR_M)).nonzero()[:, 0]
        of, depth = of[at], depth[at]
        pixel = (torch.div(item, count, rounding_mode="floor") * side + v0)[of] * side + u0[of]
        pixel += (row[at] * side + column[at]).long()
        key = depth.view(torch.int32).to(torch.int64) << 8 | (item % count)[of]
        nearest.scatter_reduce_(0, pixel, key, "amin")


def _slab(d: torch.Tensor, o: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where rays enter and leave -1 <= x <= 1 along one axis."""
    inverse = _away_from_zero(d).reciprocal_()
    middle, half = -o * inverse, inverse.abs()
    return middle - half, middle + half


def _meet_box(d: Vector, o: Vector) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth (N,) at which rays o + t d enter the box |x|, |y|, |z| <= 1, and whether they do."""
    (x0, x1), (y0, y1), (z0, z1) = (_slab(d[i], o[i]) for i in range(3))
    near, far = torch.maximum(torch.maximum(x0, y0), z0), torch.minimum(torch.minimum(x1, y1), z1)
    return near, near < far


def _meet_cylinder(d: Vector, o: Vector) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for the upright cylinder of radius 1 and |z| <= 1."""
    (dx, dy, dz), (ox, oy, oz) = d, o
    square = (dx * dx + dy * dy).clamp(min=1e-12)
    cross = ox * dy - oy * dx
    inside = square - cross * cross
    root, middle = inside.clamp(min=0).sqrt(), -(ox * dx + oy * dy)
    z0, z1 = _slab(dz, oz)
    near = torch.maximum((middle - root) / square, z0)
    far = torch.minimum((middle + root) / square, z1)
    return near, (inside > 0) & (near < far)


def _meet_ellipsoid(d: Vector, o: Vector) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for the unit ball."""
    (dx, dy, dz), (ox, oy, oz) = d, o
    square = (dx * dx + dy * dy + dz * dz).clamp(min=1e-12)
    middle = ox * dx + oy * dy + oz * dz
    inside = middle * middle - square * (ox * ox + oy * oy + oz * oz - 1.0)
    return (-middle - inside.clamp(min=0).sqrt()) / square, inside > 0
