"""One generated room on its own: frames, true boxes and the graph to ask about.

What bags, figures and the demo are made of.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ada3d_ros.lab.world.graph import Graph, graphs
from ada3d_ros.lab.world.render import Views, render
from ada3d_ros.lab.world.rooms import CATEGORIES, COLORS, Rooms, make_rooms
from ada3d_ros.types import Box3D, Intrinsics, RgbdFrame

FRAME_ID = "map"
CAMERA_FRAME_ID = "camera_color_optical_frame"
FIRST_STAMP_NS, PERIOD_NS = 1_000_000_000, 200_000_000


@dataclass(frozen=True, eq=False, slots=True)
class GeneratedRoom:
    """boxes: axis-aligned, labelled `red chair`, in the order of graph.things; walls_m: lengths of
    the walls along x and y, the room's middle at the origin.
    """

    frames: tuple[RgbdFrame, ...]
    boxes: tuple[Box3D, ...]
    graph: Graph
    walls_m: tuple[float, float]


def generate_room(
    seed: int, level: int = 1, side_px: int = 384, split: str = "test"
) -> GeneratedRoom:
    """The room of a seed in square pictures of side_px.

    Raises ConfigError for a seed, level or split that does not exist.
    """
    rooms = make_rooms(split, torch.tensor([seed]), level)
    frames = frames_of(rooms, render(rooms, side_px), 0)
    length, width = rooms.room_m[0].tolist()
    return GeneratedRoom(frames, true_boxes(rooms, 0), graphs(rooms)[0], (length, width))


def frames_of(rooms: Rooms, views: Views, index: int) -> tuple[RgbdFrame, ...]:
    """The views of one room as camera frames, 0.2 s apart from 1 s on."""
    K = views.K.double().cpu().numpy()
    side = views.rgb.shape[2]
    camera = Intrinsics(float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]), side, side)
    frames = []
    for i in range(int(rooms.num_views[index])):
        # The nearest rotation in float64: a frame's pose is checked to be one.
        T = rooms.T_world_cam[index, i].double().cpu().numpy().copy()
        left, _, right = np.linalg.svd(T[:3, :3])
        T[:3, :3] = left @ right

        rgb = views.rgb[index, i].cpu().numpy().copy()
        depth = views.depth_m[index, i].cpu().numpy().copy()
        stamp = FIRST_STAMP_NS + i * PERIOD_NS
        frames.append(RgbdFrame(stamp, rgb, depth, camera, T, FRAME_ID, CAMERA_FRAME_ID))
    return tuple(frames)


def true_boxes(rooms: Rooms, index: int) -> tuple[Box3D, ...]:
    """The axis-aligned boxes of one room's objects, labelled "red chair"."""
    center = rooms.center_m[index].double().cpu().numpy()
    extents = rooms.extents_m()[index].double().cpu().numpy()
    names = zip(rooms.color[index].tolist(), rooms.category[index].tolist(), strict=True)
    boxes = []
    for i, (color, category) in enumerate(names):
        if category >= 0:
            label = f"{COLORS[color]} {CATEGORIES[category]}"
            boxes.append(Box3D(center[i].copy(), extents[i].copy(), label=label, score=1.0))
    return tuple(boxes)
