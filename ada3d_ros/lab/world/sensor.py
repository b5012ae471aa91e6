"""What a depth camera makes of a view: noise, holes and edges without a reading.

Noise is a piece of a fixed table at a place drawn from the room's key, so that a room looks the
same in any batch and on any device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch

from ada3d_ros.lab.world.randomness import uniform
from ada3d_ros.lab.world.rooms import Rooms

_TABLE_SIZE = 1 << 20


@lru_cache(maxsize=8)
def _normal_table(device: torch.device) -> torch.Tensor:
    return torch.randn(_TABLE_SIZE, generator=torch.Generator().manual_seed(1)).to(device)


@lru_cache(maxsize=8)
def _uniform_table(device: torch.device) -> torch.Tensor:
    return torch.rand(_TABLE_SIZE, generator=torch.Generator().manual_seed(2)).to(device)


def _table_slice(
    rooms: Rooms, table: Callable[[torch.device], torch.Tensor], stream: int, length: int
) -> torch.Tensor:
    """(B, V, length) float32 of a table, from a place that depends on the room and the view."""
    values = table(rooms.keys.device)
    views = rooms.T_world_cam.shape[1]
    start = (uniform(rooms.keys, stream, views) * (_TABLE_SIZE - length)).long()
    return values.unfold(0, length, 1)[start]


def color_noise(rooms: Rooms, side: int) -> torch.Tensor:
    """(B, V, S, S, 3) float32, standard normal."""
    noise = _table_slice(rooms, _normal_table, 110, side * side * 3)
    return noise.reshape(*noise.shape[:2], side, side, 3)


def measure_depth(rooms: Rooms, depth: torch.Tensor, cosine: torch.Tensor) -> torch.Tensor:
    """Depth (B, V, S, S) in metres as a sensor gives it.

    Noise grows with the square of depth; NaN at grazing angles (cosine to the surface's normal), at
    edges and at random.
    """
    side = depth.shape[-1]
    normal = _table_slice(rooms, _normal_table, 111, side * side).reshape(depth.shape)
    chance = _table_slice(rooms, _uniform_table, 112, side * side).reshape(depth.shape)

    # Edges: neighbours whose depths differ more than a surface's slope makes them.
    allowed = 0.05 + 0.03 * depth
    edge = torch.zeros_like(depth, dtype=torch.bool)
    for axis in (2, 3):
        first, second = depth.narrow(axis, 0, side - 1), depth.narrow(axis, 1, side - 1)
        jump = (second - first).abs() > allowed.narrow(axis, 0, side - 1)
        edge.narrow(axis, 0, side - 1).logical_or_(jump)
        edge.narrow(axis, 1, side - 1).logical_or_(jump)

    # Blobs of 3 x 3 px without a reading, about 0.6 % of the image.
    seed = (chance < 0.0007).to(torch.float32).flatten(0, 1)[:, None]
    blob = torch.nn.functional.max_pool2d(seed, 3, 1, 1)[:, 0].reshape(depth.shape) > 0
    hole = (cosine < 0.12) | blob | (edge & (chance < 0.5)) | (chance > 0.996)
    return torch.where(hole, torch.nan, depth + normal * (0.002 + 0.0015 * depth * depth))
