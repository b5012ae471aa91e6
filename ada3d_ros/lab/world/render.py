"""RGB-D views of rooms by ray casting, batched: colours, depth with noise and holes, and which
object is where.

Every primitive is met only by the rays in the window of its projected box. These (ray, primitive)
pairs form one flat list; the nearest hit per pixel is the least integer of (depth bits, primitive).
Colours are worked out for the winners alone. Room i looks the same in any batch: elementwise
arithmetic only, and noise cut out of a fixed table at places drawn from the room's key.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from ada3d_ros.lab.world.randomness import uniform
from ada3d_ros.lab.world.rooms import CATEGORIES, COLORS, FIELD_OF_VIEW_DEG, WALL_HEIGHT_M, Rooms
from ada3d_ros.lab.world.shapes import (
    BOX,
    CYLINDER,
    ELLIPSOID,
    GAP,
    GAP_ON_BLACK,
    NEUTRAL,
    PALETTE,
    Primitives,
    dark_lines,
    primitives,
)
from ada3d_ros.types import Box3D, Intrinsics, RgbdFrame

NOTHING = -1  # object_index of walls, floor and ceiling
FRAME_ID = "map"
CAMERA_FRAME_ID = "camera_color_optical_frame"
_LIGHT = (0.45, 0.30, 0.841)
_NEAR_M = 0.03
_BACKGROUND = 255  # in the place of a primitive's number
_PIXELS = {"cpu": 320_000, "cuda": 4_000_000}  # of one chunk of rooms
_NOISE = 1 << 20  # length of the noise tables


@dataclass(frozen=True, eq=False, slots=True)
class Views:
    """V views of B rooms, side S.

    rgb (B, V, S, S, 3) uint8; depth_m (B, V, S, S) float32 along the optical axis, NaN = no
    reading; object_index (B, V, S, S) int16, NOTHING where there is no object, without noise; K (3,
    3) float32 px.
    """

    rgb: torch.Tensor
    depth_m: torch.Tensor
    object_index: torch.Tensor
    K: torch.Tensor


@dataclass(frozen=True, eq=False, slots=True)
class _Local:
    """Rays in the frames in which the primitives have half size 1: 3 components (B V P,) of each.

    The ray of pixel offset (u, v) from the principal point has direction u along_u + v along_v +
    middle, depth 1.
    """

    along_u: tuple[torch.Tensor, ...]
    along_v: tuple[torch.Tensor, ...]
    middle: tuple[torch.Tensor, ...]
    eye: tuple[torch.Tensor, ...]


def render(rooms: Rooms, side: int = 96, noise: bool = True) -> Views:
    """Views of all rooms on the rooms' device; views after rooms.num_views show no objects."""
    device = rooms.keys.device
    views = rooms.T_world_cam.shape[1]
    step = max(1, _PIXELS.get(device.type, _PIXELS["cuda"]) // (views * side * side))
    parts = [
        _render(_part(rooms, i, i + step), side, noise) for i in range(0, rooms.keys.shape[0], step)
    ]
    rgb, depth, index = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return Views(rgb, depth, index, intrinsics(side, device))


def intrinsics(side: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """K (3, 3) float32, px."""
    focal, middle = _focal(side), (side - 1) / 2
    return torch.tensor(
        [[focal, 0.0, middle], [0.0, focal, middle], [0.0, 0.0, 1.0]], device=device
    )


def frames_of(rooms: Rooms, views: Views, index: int) -> tuple[RgbdFrame, ...]:
    """The views of one room as camera frames, 0.2 s apart from 1 s on."""
    K = views.K.double().cpu().numpy()
    side = views.rgb.shape[2]
    camera = Intrinsics(float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]), side, side)
    frames = []
    for i in range(int(rooms.num_views[index])):
        T = rooms.T_world_cam[index, i].double().cpu().numpy().copy()
        left, _, right = np.linalg.svd(T[:3, :3])
        T[:3, :3] = left @ right
        rgb, depth = (
            views.rgb[index, i].cpu().numpy().copy(),
            views.depth_m[index, i].cpu().numpy().copy(),
        )
        frames.append(
            RgbdFrame(
                1_000_000_000 + i * 200_000_000, rgb, depth, camera, T, FRAME_ID, CAMERA_FRAME_ID
            )
        )
    return tuple(frames)


def true_boxes(rooms: Rooms, index: int) -> tuple[Box3D, ...]:
    """The axis-aligned boxes of one room's objects, labelled "red chair"."""
    center, extents = (
        rooms.center_m[index].double().cpu().numpy(),
        rooms.extents_m()[index].double().cpu().numpy(),
    )
    names = zip(rooms.color[index].tolist(), rooms.category[index].tolist(), strict=True)
    return tuple(
        Box3D(
            center[i].copy(),
            extents[i].copy(),
            label=f"{COLORS[color]} {CATEGORIES[category]}",
            score=1.0,
        )
        for i, (color, category) in enumerate(names)
        if category >= 0
    )


def _focal(side: int) -> float:
    return side / 2 / math.tan(math.radians(FIELD_OF_VIEW_DEG) / 2)


def _part(rooms: Rooms, start: int, stop: int) -> Rooms:
    fields = {f.name: getattr(rooms, f.name) for f in dataclasses.fields(rooms)}
    return Rooms(
        **{name: value if name == "level" else value[start:stop] for name, value in fields.items()}
    )


def _render(
    rooms: Rooms, side: int, noise: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch, views = rooms.T_world_cam.shape[:2]
    shapes = primitives(rooms)
    local = _local_rays(rooms, shapes, side)
    rays = _rays(rooms, side)
    room_depth, face = _walls(rooms, rays)
    winner = (room_depth.view(torch.int32).to(torch.int64) << 8 | _BACKGROUND).flatten()
    _cast(rooms, shapes, local, side, winner)
    depth = (winner >> 8).to(torch.int32).view(torch.float32)
    color, cosine = _room_colors(rooms, rays, room_depth, face)
    color, cosine = color.reshape(-1, 3), cosine.flatten()
    index = torch.full_like(winner, NOTHING, dtype=torch.int16)
    number = winner & 0xFF
    at = (number != _BACKGROUND).nonzero()[:, 0]
    index[at] = _paint(rooms, shapes, local, rays, side, at, number[at], depth[at], color, cosine)
    color = color.reshape(batch, views, side, side, 3)
    bright = 0.85 + 0.25 * uniform(rooms.keys, 104, 1, 1, 1, 1)
    rgb = color * (255.0 * bright)
    depth = depth.reshape(batch, views, side, side)
    if noise:
        rgb = rgb + 3.0 * _cut(rooms, _normals, 110, side * side * 3).reshape(rgb.shape)
        depth = _sensor(rooms, depth, cosine.reshape(depth.shape))
    return rgb.round_().clamp_(0, 255).to(torch.uint8), depth, index.reshape(depth.shape)


def _rays(rooms: Rooms, side: int) -> tuple[torch.Tensor, ...]:
    """World directions of depth 1 as x, y, z, each (B, V, S, S)."""
    offset = (torch.arange(side, device=rooms.keys.device) - (side - 1) / 2) / _focal(side)
    x, y, z = rooms.T_world_cam[..., :3, :3, None, None].unbind(3)  # the camera's axes
    return tuple(
        x[:, :, i] * offset + (y[:, :, i] * offset[:, None] + z[:, :, i]) for i in range(3)
    )


def _away_from_zero(value: torch.Tensor) -> torch.Tensor:
    """No |value| below 1e-6, so that its inverse is finite."""
    return value + (value.abs() < 1e-6) * 2e-6


def _walls(rooms: Rooms, rays: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth of the room's inside, and which face (-x +x -y +y floor ceiling), each (B, V, S, S)."""
    low = torch.cat((-rooms.room_m / 2, torch.zeros_like(rooms.room_m[:, :1])), 1)
    high = torch.cat((rooms.room_m / 2, torch.full_like(rooms.room_m[:, :1], WALL_HEIGHT_M)), 1)
    nearest, face = torch.empty(0), torch.empty(0)
    for i in range(3):
        d, eye = _away_from_zero(rays[i]), rooms.T_world_cam[:, :, i, 3]
        ahead = d > 0
        room = [(wall[:, i, None] - eye)[..., None, None] for wall in (low, high)]
        t = torch.where(ahead, room[1], room[0]) / d
        side = ahead.to(torch.int64) + 2 * i
        closer = t < nearest if i else None
        nearest = t if closer is None else torch.where(closer, t, nearest)
        face = side if closer is None else torch.where(closer, side, face)
    return nearest.clamp(min=_NEAR_M), face


def _local_rays(rooms: Rooms, shapes: Primitives, side: int) -> _Local:
    c, s = shapes.yaw_rad.cos()[:, None], shapes.yaw_rad.sin()[:, None]

    def turn(vector: tuple[torch.Tensor, ...], scale: float) -> tuple[torch.Tensor, ...]:
        (x, y, z), half = vector, shapes.half_m[:, None]
        turned = (c * x + s * y, c * y - s * x, z.expand(*z.shape[:2], c.shape[2]))
        return tuple((t / (half[..., i] * scale)).flatten() for i, t in enumerate(turned))

    T = rooms.T_world_cam[..., None]  # (B, V, 4, 4, 1)
    columns = [(T[:, :, 0, j], T[:, :, 1, j], T[:, :, 2, j]) for j in range(4)]
    eye = tuple(e - shapes.center_m[:, None, :, i] for i, e in enumerate(columns[3]))
    focal = _focal(side)
    return _Local(
        turn(columns[0], focal), turn(columns[1], focal), turn(columns[2], 1.0), turn(eye, 1.0)
    )


def _windows(rooms: Rooms, shapes: Primitives, side: int) -> tuple[torch.Tensor, ...]:
    """First column, first row, columns, rows (B V P,) int64 of the pixels that may show each
    primitive, 0 if none.
    """
    signs = (-1, 1)
    corner = torch.tensor(
        [[x, y, z] for x in signs for y in signs for z in signs], device=rooms.keys.device
    )
    x, y, z = (shapes.half_m[..., None, :] * corner).unbind(-1)  # (B, P, 8)
    c, s = shapes.yaw_rad.cos()[..., None], shapes.yaw_rad.sin()[..., None]
    point = torch.stack((c * x - s * y, s * x + c * y, z), -1) + shapes.center_m[..., None, :]
    R, eye = rooms.T_world_cam[:, :, :3, :3], rooms.T_world_cam[:, :, :3, 3]
    away = [point[:, None, ..., i] - eye[:, :, i, None, None] for i in range(3)]  # (B, V, P, 8)
    axes = [[R[:, :, j, i, None, None] for j in range(3)] for i in range(3)]
    across, down, depth = (a[0] * away[0] + a[1] * away[1] + a[2] * away[2] for a in axes)
    focal, middle, edge = _focal(side), (side - 1) / 2, side / (2 * _focal(side))
    behind = depth < _NEAR_M
    shown = shapes.valid[:, None] & ~behind.all(-1)
    shown &= (torch.arange(R.shape[1], device=R.device)[None] < rooms.num_views[:, None])[..., None]
    for value in (across, down):  # wholly beyond one side of the view
        shown &= ~((value > edge * depth).all(-1) | (value < -edge * depth).all(-1))
    bounds = []
    for value in (across, down):
        pixel = focal * value / depth.clamp(min=_NEAR_M) + middle
        low = torch.where(behind.any(-1), 0.0, pixel.amin(-1).ceil().clamp(0, side))
        high = torch.where(behind.any(-1), side - 1.0, pixel.amax(-1).floor().clamp(-1, side - 1))
        bounds.append((low.long(), (high - low + 1).clamp(min=0).long() * shown))
    (left, columns), (top, rows) = bounds
    return tuple(t.flatten() for t in (left, top, columns, rows))


def _cast(rooms: Rooms, shapes: Primitives, local: _Local, side: int, winner: torch.Tensor) -> None:
    """Lower `winner` (B V S S,) int64, depth bits << 8 | primitive, where a primitive is nearer."""
    views, count = rooms.T_world_cam.shape[1], shapes.kind.shape[1]
    left, top, columns, rows = _windows(rooms, shapes, side)
    kind = shapes.kind[:, None].expand(-1, views, -1).flatten()
    for which, meet in ((BOX, _meet_box), (CYLINDER, _meet_cylinder), (ELLIPSOID, _meet_ellipsoid)):
        item = ((kind == which) & (columns * rows > 0)).nonzero()[:, 0]
        u0, v0, width = left[item], top[item], columns[item]
        number = width * rows[item]
        of = torch.repeat_interleave(number)
        place = torch.arange(of.shape[0], device=of.device) - (number.cumsum(0) - number)[of]
        row = ((place + 0.5) / width.float()[of]).floor()  # exact: far from a rounding's reach
        column = place - row * width.float()[of]
        du, dv = u0 - (side - 1) / 2, v0 - (side - 1) / 2
        direction = []
        for i in range(3):
            along_u, along_v = local.along_u[i][item], local.along_v[i][item]
            start = along_u * du + along_v * dv + local.middle[i][item]
            direction.append(start[of] + along_u[of] * column + along_v[of] * row)
        depth, hit = meet(*direction, *(eye[item][of] for eye in local.eye))
        at = (hit & (depth > _NEAR_M)).nonzero()[:, 0]
        of, depth = of[at], depth[at]
        pixel = (torch.div(item, count, rounding_mode="floor") * side + v0)[of] * side + u0[of]
        pixel += (row[at] * side + column[at]).long()
        key = depth.view(torch.int32).to(torch.int64) << 8 | (item % count)[of]
        winner.scatter_reduce_(0, pixel, key, "amin")


def _slab(d: torch.Tensor, o: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    inverse = _away_from_zero(d).reciprocal_()
    middle, half = -o * inverse, inverse.abs()
    return middle - half, middle + half


def _meet_box(
    dx: torch.Tensor,
    dy: torch.Tensor,
    dz: torch.Tensor,
    ox: torch.Tensor,
    oy: torch.Tensor,
    oz: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    (x0, x1), (y0, y1), (z0, z1) = _slab(dx, ox), _slab(dy, oy), _slab(dz, oz)
    near, far = torch.maximum(torch.maximum(x0, y0), z0), torch.minimum(torch.minimum(x1, y1), z1)
    return near, near < far


def _meet_cylinder(
    dx: torch.Tensor,
    dy: torch.Tensor,
    dz: torch.Tensor,
    ox: torch.Tensor,
    oy: torch.Tensor,
    oz: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    square = (dx * dx + dy * dy).clamp(min=1e-12)
    cross = ox * dy - oy * dx
    inside = square - cross * cross
    root, middle = inside.clamp(min=0).sqrt(), -(ox * dx + oy * dy)
    z0, z1 = _slab(dz, oz)
    near, far = (
        torch.maximum((middle - root) / square, z0),
        torch.minimum((middle + root) / square, z1),
    )
    return near, (inside > 0) & (near < far)


def _meet_ellipsoid(
    dx: torch.Tensor,
    dy: torch.Tensor,
    dz: torch.Tensor,
    ox: torch.Tensor,
    oy: torch.Tensor,
    oz: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    square = (dx * dx + dy * dy + dz * dz).clamp(min=1e-12)
    middle = ox * dx + oy * dy + oz * dz
    inside = middle * middle - square * (ox * ox + oy * oy + oz * oz - 1.0)
    return (-middle - inside.clamp(min=0).sqrt()) / square, inside > 0


def _room_colors(
    rooms: Rooms, rays: tuple[torch.Tensor, ...], depth: torch.Tensor, face: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Colours (B, V, S, S, 3) of walls, floor and ceiling, and the cosine to their normals."""
    batch = rooms.keys.shape[0]
    tint = uniform(rooms.keys, 100, 3, 3) - 0.5  # wall, floor, ceiling
    gray = torch.tensor(
        [[0.60, 0.56, 0.50], [0.44, 0.38, 0.32], [0.62, 0.61, 0.59]], device=depth.device
    )
    level = uniform(rooms.keys, 101, 3, 1) - 0.5
    color = gray * (1 + 0.14 * level + 0.10 * tint)  # (B, 3, 3)
    shade = torch.tensor([1.0, 0.93, 0.97, 0.90, 1.0, 1.0], device=depth.device)
    surface = color[:, [0, 0, 0, 0, 1, 2]] * shade[:, None]
    room = torch.arange(batch, device=face.device)[:, None, None, None] * 6
    painted = surface.reshape(-1, 3)[room + face]
    eye = rooms.T_world_cam[:, :, :3, 3, None, None]
    tile = [((eye[:, :, i] + depth * rays[i]) * 2.0).floor() for i in range(2)]
    odd = torch.remainder(tile[0] + tile[1], 2.0)
    painted = painted * (1.0 - 0.10 * odd * (face == 4))[..., None]
    axis = torch.div(face, 2, rounding_mode="floor")
    along = torch.where(axis == 0, rays[0], torch.where(axis == 1, rays[1], rays[2])).abs()
    return painted, along / _length(rays)


def _length(d: tuple[torch.Tensor, ...] | list[torch.Tensor]) -> torch.Tensor:
    return (d[0] * d[0] + d[1] * d[1] + d[2] * d[2]).sqrt()


@lru_cache(maxsize=8)
def _colors(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([PALETTE[name] for name in COLORS], device=device), torch.tensor(
        NEUTRAL, device=device
    )


def _primitive_colors(rooms: Rooms, shapes: Primitives) -> tuple[torch.Tensor, torch.Tensor]:
    """Colours (B P, 3), the object's with its own jitter, and the brightness of dark lines (B P,)."""
    palette, neutral = _colors(rooms.keys.device)
    count = rooms.color.shape[1]
    jitter = (
        1.0
        + 0.14 * (uniform(rooms.keys, 102, count, 1) - 0.5)
        + 0.06 * (uniform(rooms.keys, 103, count, 3) - 0.5)
    )
    own = palette[rooms.color.clamp(min=0)] * jitter  # (B, O, 3)
    own = own.gather(1, shapes.object_index[..., None].expand(-1, -1, 3))
    color = torch.where((shapes.tint == 0)[..., None], own, neutral[(shapes.tint - 1).clamp(min=0)])
    black = (rooms.color == COLORS.index("black")).gather(1, shapes.object_index)
    return color.flatten(0, 1), torch.where(black, GAP_ON_BLACK, GAP).flatten()


def _paint(
    rooms: Rooms,
    shapes: Primitives,
    local: _Local,
    rays: tuple[torch.Tensor, ...],
    side: int,
    at: torch.Tensor,
    number: torch.Tensor,
    depth: torch.Tensor,
    color: torch.Tensor,
    cosine: torch.Tensor,
) -> torch.Tensor:
    """Write colour and cosine of pixels `at` (N,), which show `number` at `depth`; their
    object_index (N,) int16.
    """
    views, count = rooms.T_world_cam.shape[1], shapes.kind.shape[1]
    view = torch.div(at, side * side, rounding_mode="floor")
    pixel = at - view * (side * side)
    line = torch.div(pixel, side, rounding_mode="floor")
    u, v = (pixel - line * side) - (side - 1) / 2, line - (side - 1) / 2
    ray = view * count + number
    of = torch.div(view, views, rounding_mode="floor") * count + number
    hit = []
    for i in range(3):
        direction = local.along_u[i][ray] * u + local.along_v[i][ray] * v + local.middle[i][ray]
        hit.append(local.eye[i][ray] + depth * direction)
    kind = shapes.kind.flatten()[of]
    x, y, z = hit
    ax, ay, az, radius = x.abs(), y.abs(), z.abs(), (x * x + y * y).sqrt()
    flat = kind != ELLIPSOID
    lid = flat & (az > torch.where(kind == BOX, torch.maximum(ax, ay), radius))  # top or bottom
    on_x, on_y = (kind == BOX) & ~lid & (ax >= ay), (kind == BOX) & ~lid & (ax < ay)
    half = [shapes.half_m[..., i].flatten()[of] for i in range(3)]
    nx = torch.where(lid | on_y, 0.0, x / half[0])
    ny = torch.where(lid | on_x, 0.0, y / half[1])
    nz = torch.where(flat & ~lid, 0.0, z / half[2])
    yaw = shapes.yaw_rad.flatten()
    c, s = yaw.cos()[of], yaw.sin()[of]
    scale = 1.0 / _length([nx, ny, nz]).clamp(min=1e-9)
    normal = [(c * nx - s * ny) * scale, (s * nx + c * ny) * scale, nz * scale]
    d = [r.flatten()[at] for r in rays]
    cosine[at] = (normal[0] * d[0] + normal[1] * d[1] + normal[2] * d[2]).abs() / _length(d)
    light = normal[0] * _LIGHT[0] + normal[1] * _LIGHT[1] + normal[2] * _LIGHT[2]
    across = torch.where(on_x, y, x)
    pattern, bands = shapes.pattern.flatten()[of], shapes.bands.flatten()[of]
    dark = dark_lines(pattern, bands, across, torch.where(lid, y, z), lid, on_x)
    base, gap = _primitive_colors(rooms, shapes)
    color[at] = (base[of] * (1.0 - dark)[:, None] + (gap[of] * dark)[:, None]) * (
        0.82 + 0.18 * light
    )[:, None]
    return shapes.object_index.flatten()[of].to(torch.int16)


@lru_cache(maxsize=8)
def _normals(device: torch.device) -> torch.Tensor:
    return torch.randn(_NOISE, generator=torch.Generator().manual_seed(1)).to(device)


@lru_cache(maxsize=8)
def _uniforms(device: torch.device) -> torch.Tensor:
    return torch.rand(_NOISE, generator=torch.Generator().manual_seed(2)).to(device)


def _cut(
    rooms: Rooms, table: Callable[[torch.device], torch.Tensor], stream: int, length: int
) -> torch.Tensor:
    """(B, V, length) float32 of a noise table, from a place that depends on the room and the view."""
    values = table(rooms.keys.device)
    start = (uniform(rooms.keys, stream, rooms.T_world_cam.shape[1]) * (_NOISE - length)).long()
    return values.unfold(0, length, 1)[start]


def _sensor(rooms: Rooms, depth: torch.Tensor, cosine: torch.Tensor) -> torch.Tensor:
    """Depth (B, V, S, S) with noise that grows with its square, and NaN at grazing angles, at edges
    and at random.
    """
    side = depth.shape[-1]
    normal = _cut(rooms, _normals, 111, side * side).reshape(depth.shape)
    chance = _cut(rooms, _uniforms, 112, side * side).reshape(depth.shape)
    allowed = 0.05 + 0.03 * depth
    edge = torch.zeros_like(depth, dtype=torch.bool)
    for axis in (2, 3):
        first, second = depth.narrow(axis, 0, side - 1), depth.narrow(axis, 1, side - 1)
        jump = (second - first).abs() > allowed.narrow(axis, 0, side - 1)
        edge.narrow(axis, 0, side - 1).logical_or_(jump)
        edge.narrow(axis, 1, side - 1).logical_or_(jump)
    seed = (chance < 0.0007).to(torch.float32).flatten(0, 1)[:, None]
    blob = (
        torch.nn.functional.max_pool2d(seed, 3, 1, 1)[:, 0].reshape(depth.shape) > 0
    )  # about 0.6 %
    hole = (cosine < 0.12) | blob | (edge & (chance < 0.5)) | (chance > 0.996)
    return torch.where(hole, torch.nan, depth + normal * (0.002 + 0.0015 * depth * depth))
