"""RGB-D views of rooms, batched: colours, depth with noise and holes, and which object is where.

raycast.py finds what each pixel shows, shading.py colours it, sensor.py adds what a depth camera
loses. Room i looks the same in any batch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from ada3d_ros.lab.world.randomness import uniform
from ada3d_ros.lab.world.raycast import Rays, focal_px, nearest_surfaces
from ada3d_ros.lab.world.rooms import Rooms
from ada3d_ros.lab.world.sensor import color_noise, measure_depth
from ada3d_ros.lab.world.shading import NOTHING, shade

__all__ = ["NOTHING", "Views", "intrinsics", "render"]

_PIXELS = {"cpu": 320_000, "cuda": 4_000_000}  # of one chunk of rooms


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


def render(rooms: Rooms, side: int = 96, noise: bool = True) -> Views:
    """Views of all rooms on the rooms' device; views after rooms.num_views show no objects."""
    device = rooms.keys.device
    views = rooms.T_world_cam.shape[1]
    step = max(1, _PIXELS.get(device.type, _PIXELS["cuda"]) // (views * side * side))
    starts = range(0, rooms.keys.shape[0], step)
    parts = [_render(_slice(rooms, i, i + step), side, noise) for i in starts]
    rgb, depth, index = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return Views(rgb, depth, index, intrinsics(side, device))


def intrinsics(side: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """K (3, 3) float32, px, pixel centres at whole numbers."""
    focal, middle = focal_px(side), (side - 1) / 2
    return torch.tensor(
        [[focal, 0.0, middle], [0.0, focal, middle], [0.0, 0.0, 1.0]], device=device
    )


def _slice(rooms: Rooms, start: int, stop: int) -> Rooms:
    fields = {f.name: getattr(rooms, f.name) for f in dataclasses.fields(rooms)}
    parts = {name: v if name == "level" else v[start:stop] for name, v in fields.items()}
    return Rooms(**parts)


def _render(
    rooms: Rooms, side: int, noise: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """rgb, depth_m and object_index as in Views."""
    # What every pixel shows, and in which colour.
    rays = Rays.from_rooms(rooms, side)
    surfaces = nearest_surfaces(rays)
    color, cosine, index = shade(rays, surfaces)
    shape = rays.world[0].shape  # (B, V, S, S)

    # Each room has its own exposure.
    exposure = 0.85 + 0.25 * uniform(rooms.keys, 104, 1, 1, 1, 1)
    rgb = color.reshape(*shape, 3) * (255.0 * exposure)
    depth = surfaces.depth_m.reshape(shape)
    if noise:
        rgb = rgb + 3.0 * color_noise(rooms, side)
        depth = measure_depth(rooms, depth, cosine.reshape(shape))
    return rgb.round_().clamp_(0, 255).to(torch.uint8), depth, index.reshape(shape)
