"""A generated room with coloured boxes, ray-cast exactly: posed RGB-D with known boxes.

Everything follows from the seed. The world is z up with the floor at z = 0 and the room's centre at
x = y = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ada3d_ros.geometry.boxes import iou_axis_aligned, yaw_rotation
from ada3d_ros.types import Box3D, Intrinsics, RgbdFrame

Array = npt.NDArray[np.float64]

ROOM_SIZE_M = (6.0, 4.5, 2.7)
EYE_HEIGHT_M = 1.3
FIRST_STAMP_NS = 1_000_000_000
FRAME_INTERVAL_NS = 200_000_000
PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (200, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 70, 200),
    "yellow": (220, 200, 40),
    "purple": (140, 50, 170),
    "orange": (230, 130, 30),
}
# Of the walls across x, the walls across y, the floor and the ceiling.
WALL_COLORS = np.array(
    [[190, 180, 165], [175, 190, 200], [150, 120, 90], [235, 235, 235]], dtype=np.float64
)


@dataclass(frozen=True, eq=False, slots=True)
class BoxRoom:
    """Frames along a smooth trajectory, and the true boxes, in one world frame.

    Boxes are labelled "red box" and so on.
    """

    frames: tuple[RgbdFrame, ...]
    boxes: tuple[Box3D, ...]


def build_box_room(
    seed: int = 0,
    num_views: int = 20,
    width: int = 320,
    height: int = 240,
    num_boxes: int = 4,
    frame_id: str = "map",
) -> BoxRoom:
    """A room seen from num_views poses on an ellipse, the camera towards the boxes.

    num_boxes, up to 6, stand on the floor. Depth is exact to float32, without noise or holes;
    frames are 0.2 s apart from 1 s on.
    """
    if not 0 <= num_boxes <= len(PALETTE):
        raise ValueError(f"num_boxes = {num_boxes}, allowed 0 to {len(PALETTE)}.")
    boxes = _place_boxes(np.random.default_rng(seed), num_boxes)
    focal_px = 0.8 * width
    intrinsics = Intrinsics(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2, width, height)
    frames = tuple(
        _render(
            FIRST_STAMP_NS + i * FRAME_INTERVAL_NS,
            _trajectory(i / max(num_views, 1)),
            intrinsics,
            boxes,
            frame_id,
        )
        for i in range(num_views)
    )
    return BoxRoom(frames, boxes)


def _place_boxes(rng: np.random.Generator, num_boxes: int) -> tuple[Box3D, ...]:
    """Boxes on the floor near the room's middle that do not touch each other."""
    boxes: list[Box3D] = []
    names = list(PALETTE)
    while len(boxes) < num_boxes:
        size_m = rng.uniform((0.3, 0.3, 0.3), (0.7, 0.7, 0.9))
        xy_m = rng.uniform((-1.3, -0.9), (1.3, 0.9))
        yaw_rad = float(rng.uniform(-np.pi / 4, np.pi / 4))
        box = Box3D(
            np.array([*xy_m, size_m[2] / 2]),
            size_m,
            yaw_rad,
            label=f"{names[len(boxes)]} box",
            score=1.0,
        )
        if all(iou_axis_aligned(box, other) == 0.0 for other in boxes):
            boxes.append(box)
    return tuple(boxes)


def _trajectory(fraction: float) -> Array:
    """T_world_cam (4, 4) on three quarters of an ellipse along the walls, facing the middle."""
    angle = 1.5 * np.pi * fraction
    room = np.array(ROOM_SIZE_M)
    eye = np.array(
        [
            0.40 * room[0] * np.cos(angle),
            0.38 * room[1] * np.sin(angle),
            EYE_HEIGHT_M + 0.1 * np.sin(3 * angle),
        ]
    )
    target = np.array([0.2 * np.sin(2 * angle), 0.2 * np.cos(2 * angle), 0.35])
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    T = np.eye(4)
    # Optical frame: x right, y down, z forward.
    T[:3, :3] = np.stack((right, np.cross(forward, right), forward), axis=1)
    T[:3, 3] = eye
    return T


def _render(
    stamp_ns: int,
    T_world_cam: Array,
    intrinsics: Intrinsics,
    boxes: tuple[Box3D, ...],
    frame_id: str,
) -> RgbdFrame:
    # A ray per pixel, with z = 1: the ray parameter is the depth.
    v, u = np.mgrid[: intrinsics.height, : intrinsics.width].astype(np.float64)
    rays = np.stack(
        ((u - intrinsics.cx) / intrinsics.fx, (v - intrinsics.cy) / intrinsics.fy, np.ones_like(u)),
        axis=-1,
    ).reshape(-1, 3)
    directions = rays @ T_world_cam[:3, :3].T
    eye = T_world_cam[:3, 3]

    # The room's walls, seen from inside.
    room = Box3D(np.array([0.0, 0.0, ROOM_SIZE_M[2] / 2]), np.array(ROOM_SIZE_M))
    _, depth, face = _slab(eye, directions, room)
    color = _textured(
        WALL_COLORS[_wall_index(face, directions)], eye + depth[:, None] * directions, face, room
    )

    # Boxes where they are nearer.
    for box in boxes:
        entry, leave, box_face = _slab(eye, directions, box, from_outside=True)
        hit = (entry < leave) & (entry > 0) & (entry < depth)
        points = eye + entry[hit, None] * directions[hit]
        base = np.broadcast_to(
            np.array(PALETTE[box.label.split()[0]], dtype=np.float64), points.shape
        )
        color[hit] = _textured(base, points, box_face[hit], box)
        depth[hit] = entry[hit]

    shape = (intrinsics.height, intrinsics.width)
    return RgbdFrame(
        stamp_ns=stamp_ns,
        rgb=np.clip(color, 0, 255).astype(np.uint8).reshape(*shape, 3),
        depth_m=depth.astype(np.float32).reshape(shape),
        intrinsics=intrinsics,
        T_world_cam=T_world_cam,
        frame_id=frame_id,
        camera_frame_id="camera_color_optical_frame",
    )


def _slab(
    eye: Array, directions: Array, box: Box3D, from_outside: bool = False
) -> tuple[Array, Array, npt.NDArray[np.intp]]:
    """Ray parameters (R,) where rays enter and leave a box, and the axis of a face.

    The axis 0-2 is that of the face entered where `from_outside`, else of the one left.
    """
    R = yaw_rotation(box.yaw_rad)
    start, half = ((eye - box.center_m) @ R)[:, None], box.size_m[:, None] / 2
    ray = np.ascontiguousarray((directions @ R).T)  # (3, R): numpy reduces long rows faster
    ray[np.abs(ray) < 1e-12] = 1e-12
    first, second = (-half - start) / ray, (half - start) / ray
    near, far = np.minimum(first, second), np.maximum(first, second)
    face = near.argmax(axis=0) if from_outside else far.argmin(axis=0)
    return near.max(axis=0), far.min(axis=0), face


def _wall_index(face: npt.NDArray[np.intp], directions: Array) -> npt.NDArray[np.intp]:
    return face + ((face == 2) & (directions[:, 2] > 0))


def _textured(base: Array, points: Array, face: npt.NDArray[np.intp], box: Box3D) -> Array:
    """base (P, 3) with a checker of 0.2 m squares, fine stripes, and a shade per face.

    The pattern is fixed in box coordinates.
    """
    local = ((points - box.center_m) @ yaw_rotation(box.yaw_rad)).T
    flat = np.where(np.arange(3)[:, None] == face, 0.0, local)  # the two coordinates along the face
    checker = np.floor(flat / 0.2).sum(axis=0) % 2
    stripes = np.sin(flat.sum(axis=0) * 60.0)
    shade = np.array([0.82, 0.92, 1.0])[face]
    textured: Array = base * (shade * (0.88 + 0.12 * checker) + 0.04 * stripes)[:, None]
    return textured
