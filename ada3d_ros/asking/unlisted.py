"""What depth and colour show that no listed object explains: perhaps a thing that was not found."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from ada3d_ros.geometry.boxes import grow_box, points_inside
from ada3d_ros.geometry.camera import unproject_depth
from ada3d_ros.geometry.measure import are_of_things
from ada3d_ros.measures import SceneObject
from ada3d_ros.perception.colors import NAMES, lab_of, nearest_names
from ada3d_ros.types import RgbdFrame

GRID = 128  # readings along the longer side of a view, at most
ABOUT_BOX_M = 0.1  # a listed object explains what is so near its box
SMALL_THING = 10, 400  # readings of one: less is noise, more the rim of what is listed, or a wall


def shows_unlisted(
    color: str, frames: Sequence[RgbdFrame], floor_z_m: float, objects: Sequence[SceneObject]
) -> bool:
    """Whether about as many readings have this colour as a small thing has, that are neither of
    floor, ceiling or walls nor at a listed object. floor_z_m: height of the floor, world frame.
    """
    if color not in NAMES:
        return False
    least, most = SMALL_THING
    return least <= count_unlisted(color, frames, floor_z_m, objects) <= most


def count_unlisted(
    color: str, frames: Sequence[RgbdFrame], floor_z_m: float, objects: Sequence[SceneObject]
) -> int:
    """The number of those readings, on a grid of GRID a view. Raises ValueError for a colour
    without a name.
    """
    # Readings and what they look like.
    points, rgb = [], []
    for frame in frames:
        stride = math.ceil(max(frame.depth_m.shape) / GRID)
        K = frame.intrinsics.matrix
        K[:2] /= stride
        depth = torch.from_numpy(frame.depth_m[::stride, ::stride].astype(np.float64))
        pose = torch.from_numpy(frame.T_world_cam.copy())
        xyz = unproject_depth(depth, torch.from_numpy(K), pose).numpy().reshape(-1, 3)
        is_valid = np.isfinite(xyz).all(axis=1)
        points.append(xyz[is_valid])
        rgb.append(frame.rgb[::stride, ::stride].reshape(-1, 3)[is_valid])
    xyz_m = np.concatenate(points)

    # Those of things that are not listed.
    is_left = are_of_things(xyz_m, floor_z_m)
    for thing in objects:
        is_left &= ~points_inside(xyz_m, grow_box(thing.box, ABOUT_BOX_M))
    names = nearest_names(lab_of(np.concatenate(rgb)[is_left]))
    return int((names == NAMES.index(color)).sum())
