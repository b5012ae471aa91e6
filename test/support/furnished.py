"""Rooms with furniture of blocks, seen by a camera that is carried through: frames with depth as a
sensor gives it, and which piece each pixel shows.

Metres, world z up, floor at z = 0. A piece faces +y before it is turned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ada3d_ros.types import Intrinsics, RgbdFrame

Array = npt.NDArray[np.float64]
Blocks = tuple[tuple[float, float, float, float, float, float], ...]  # middles and sizes

NOTHING = -1  # the room itself
WIDTH, HEIGHT, FOCAL_PX = 240, 180, 197.0  # a Kinect's view, coarser
CAMERA = Intrinsics(FOCAL_PX, FOCAL_PX, (WIDTH - 1) / 2, (HEIGHT - 1) / 2, WIDTH, HEIGHT)
PERIOD_NS = 100_000_000


@dataclass(frozen=True)
class Piece:
    """kind: as COCO names it, "" for what it has no kind for; blocks: around the piece's place."""

    kind: str
    blocks: Blocks
    rgb: tuple[int, int, int] = (120, 110, 100)
    at: tuple[float, float, float] = (0.0, 0.0, 0.0)
    yaw_deg: float = 0.0

    def put(self, x: float, y: float, yaw_deg: float = 0.0, z: float = 0.0) -> Piece:
        return replace(self, at=(x, y, z), yaw_deg=yaw_deg)

    @property
    def turn(self) -> Array:
        c, s = np.cos(np.radians(self.yaw_deg)), np.sin(np.radians(self.yaw_deg))
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])

    def corners_m(self) -> Array:
        """Of all its blocks (8 B, 3), in the world."""
        signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2
        local = [np.array(block[:3]) + signs * np.array(block[3:]) for block in self.blocks]
        corners: Array = np.concatenate(local) @ self.turn.T + self.at
        return corners

    def extent_m(self) -> tuple[Array, Array]:
        """Its faces low (3,), high (3,) along the world's axes."""
        corners = self.corners_m()
        return corners.min(axis=0), corners.max(axis=0)


def _legs(length: float, width: float, height: float, thick: float = 0.05) -> Blocks:
    x, y = (length - thick) / 2, (width - thick) / 2
    return tuple((i * x, j * y, height / 2, thick, thick, height) for i in (-1, 1) for j in (-1, 1))


def sofa(length: float = 2.0, kind: str = "couch") -> Piece:
    side = length / 2 - 0.09
    blocks = (
        (0.0, 0.08, 0.21, length - 0.34, 0.74, 0.42),
        (0.0, -0.36, 0.42, length, 0.18, 0.84),
        (-side, 0.05, 0.31, 0.18, 0.80, 0.62),
        (side, 0.05, 0.31, 0.18, 0.80, 0.62),
    )
    return Piece(kind, blocks, (60, 70, 110))


def chair() -> Piece:
    blocks = ((0.0, 0.0, 0.45, 0.45, 0.45, 0.06), (0.0, -0.20, 0.70, 0.45, 0.05, 0.50))
    return Piece("chair", blocks + _legs(0.45, 0.45, 0.43), (110, 70, 40))


def table(
    length: float = 1.2, width: float = 0.7, height: float = 0.74, kind: str = "dining table"
) -> Piece:
    top = (0.0, 0.0, height - 0.02, length, width, 0.04)
    return Piece(kind, (top, *_legs(length, width, height - 0.04)), (150, 105, 65))


def backpack() -> Piece:
    blocks = ((0.0, 0.0, 0.21, 0.32, 0.20, 0.42), (0.0, 0.12, 0.13, 0.24, 0.06, 0.22))
    return Piece("backpack", blocks, (190, 40, 40))


def cup() -> Piece:
    return Piece("cup", ((0.0, 0.0, 0.05, 0.08, 0.08, 0.10),), (230, 230, 225))


def laptop() -> Piece:
    blocks = ((0.0, 0.0, 0.01, 0.34, 0.24, 0.02), (0.0, 0.12, 0.12, 0.34, 0.02, 0.22))
    return Piece("laptop", blocks, (60, 60, 62))


def screen(width: float = 0.55) -> Piece:
    blocks = ((0.0, 0.0, 0.28, width, 0.05, 0.34), (0.0, -0.02, 0.06, 0.20, 0.14, 0.12))
    return Piece("tv", blocks, (20, 20, 22))


def plant() -> Piece:
    blocks = (
        (0.0, 0.0, 0.15, 0.30, 0.30, 0.30),
        (0.0, 0.0, 0.60, 0.12, 0.10, 0.60),
        (0.12, 0.05, 0.85, 0.34, 0.20, 0.22),
        (-0.12, -0.06, 0.72, 0.30, 0.24, 0.26),
    )
    return Piece("potted plant", blocks, (50, 120, 50))


def cabinet(width: float = 0.8, height: float = 1.2) -> Piece:
    return Piece("", ((0.0, 0.0, height / 2, width, 0.45, height),), (180, 175, 165))


@dataclass(frozen=True)
class Furnished:
    """A room, its middle at the origin. size_m: lengths of its walls along x and y, and height."""

    pieces: tuple[Piece, ...]
    size_m: tuple[float, float, float] = (6.0, 6.0, 2.6)


@dataclass(frozen=True, eq=False)
class Seen:
    """A frame, and which piece each pixel (H, W) shows."""

    frame: RgbdFrame
    owner: npt.NDArray[np.int16]


def looking(eye: Sequence[float], target: Sequence[float]) -> Array:
    """T_world_cam of an upright camera: x right, y down, z forward."""
    forward = np.subtract(target, eye).astype(np.float64)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    T = np.eye(4)
    T[:3, :3] = np.stack((right, np.cross(forward, right), forward), axis=-1)
    T[:3, 3] = eye
    return T


def carried(
    eyes: Sequence[Sequence[float]], targets: Sequence[Sequence[float]], count: int
) -> list[Array]:
    """Poses of a camera that goes from one place to the next, `count` in all."""
    along = np.linspace(0, len(eyes) - 1, count)
    places, looked_at = (
        np.stack([np.interp(along, range(len(p)), np.asarray(p, float)[:, i]) for i in range(3)])
        for p in (eyes, targets)
    )
    return [looking(places[:, i], looked_at[:, i]) for i in range(count)]


def film(room: Furnished, poses: Sequence[Array], seed: int = 0) -> list[Seen]:
    """What a depth camera sees from each pose: noise that grows with the square of depth, and
    half of the pixels at edges without a reading.
    """
    random = np.random.default_rng(seed)
    seen = []
    for index, pose in enumerate(poses):
        depth, owner = _cast(room, pose)
        edge = np.zeros(depth.shape, bool)
        for axis in (0, 1):
            jump = np.abs(np.diff(depth, axis=axis)) > 0.08
            edge |= np.concatenate((jump, np.zeros_like(jump.take([0], axis))), axis)
        noise = random.standard_normal(depth.shape) * (0.0012 + 0.0019 * (depth - 0.4) ** 2)
        depth = np.where(edge & (random.random(depth.shape) < 0.5), np.nan, depth + noise)
        colors = np.array([piece.rgb for piece in room.pieces] + [(200, 198, 190)], np.float64)
        rgb = colors[owner] + random.normal(0, 4, (*depth.shape, 3))
        frame = RgbdFrame(
            (index + 1) * PERIOD_NS,
            np.clip(rgb, 0, 255).astype(np.uint8),
            depth.astype(np.float32),
            CAMERA,
            pose,
            "map",
        )
        seen.append(Seen(frame, owner))
    return seen


def _cast(room: Furnished, pose: Array) -> tuple[Array, npt.NDArray[np.int16]]:
    """Depth along the optical axis, and the piece of each pixel (H, W)."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    rays = np.stack(((u - CAMERA.cx) / FOCAL_PX, (v - CAMERA.cy) / FOCAL_PX, np.ones_like(u)), -1)
    rays, eye = rays @ pose[:3, :3].T, pose[:3, 3]

    # The room, from inside.
    high = np.array(room.size_m) / (2, 2, 1)
    low = -high * (1, 1, 0)
    with np.errstate(divide="ignore"):
        depth = np.maximum((low - eye) / rays, (high - eye) / rays).min(axis=-1)
    owner = np.full(depth.shape, NOTHING, np.int16)

    # Every block, in its own frame, where its box may show.
    for number, piece in enumerate(room.pieces):
        window = _window(piece.corners_m(), pose)
        if window is None:
            continue
        turned, at = rays[window] @ piece.turn, (eye - piece.at) @ piece.turn
        for block in piece.blocks:
            middle, half = np.array(block[:3]), np.array(block[3:]) / 2
            with np.errstate(divide="ignore", invalid="ignore"):
                first, second = ((middle + s * half - at) / turned for s in (-1, 1))
            near = np.minimum(first, second).max(axis=-1)
            far = np.maximum(first, second).min(axis=-1)
            hit = (near < far) & (near > 0.05) & (near < depth[window])
            depth[window][hit], owner[window][hit] = near[hit], number
    return depth, owner


def _window(corners_m: Array, pose: Array) -> tuple[slice, slice] | None:
    """The rows and columns that may show points (N, 3); None where none can."""
    box = projected(corners_m, pose)
    if box is None:
        return None
    x0, y0, x1, y1 = box
    rows = slice(max(int(y0) - 1, 0), min(int(y1) + 2, HEIGHT))
    columns = slice(max(int(x0) - 1, 0), min(int(x1) + 2, WIDTH))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def projected(corners_m: Array, pose: Array) -> tuple[float, float, float, float] | None:
    """The box of points (N, 3) in the picture, which may reach beyond it; None behind it."""
    local = (corners_m - pose[:3, 3]) @ pose[:3, :3]
    if (local[:, 2] <= 0.05).all():
        return None
    z = np.maximum(local[:, 2], 0.05)
    u, v = FOCAL_PX * local[:, 0] / z + CAMERA.cx, FOCAL_PX * local[:, 1] / z + CAMERA.cy
    return float(u.min()), float(v.min()), float(u.max()), float(v.max())
