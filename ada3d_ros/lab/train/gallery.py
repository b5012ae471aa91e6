"""Rendered rooms on disk: what every patch shows and where it lies.

Rendered once, read many times, resumable.
Arrays per room: rgb (V, S, S, 3) uint8; xyz_m (V * P, 3) float32 of each patch's top-left pixel,
NaN where depth is missing; owners (V * P, 9) int8, the object at nine places around that pixel. In
Video-3D-LLM's form xyz_m (V * m * m, 3) is the mean place of each cell, and the nine places lie
within the patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ada3d_ros.geometry.unproject import unproject_depth
from ada3d_ros.lab.world.render import render
from ada3d_ros.lab.world.rooms import NUM_VIEWS, make_rooms
from ada3d_ros.model.config import BackboneConfig, VisionConfig
from ada3d_ros.model.video3dllm.config import Video3DConfig
from ada3d_ros.model.video3dllm.geometry import mean_points

REACH_PX = 2  # owners are looked up this far around a patch's corner
ROOMS_AT_ONCE = 8


@dataclass(frozen=True, eq=False, slots=True)
class Gallery:
    """Rendered rooms.

    seeds (N,) int64; arrays are memory-mapped and filled up to the count in `done.txt`.
    """

    split: str
    level: int
    seeds: torch.Tensor
    rgb: np.memmap
    xyz_m: np.memmap
    owners: np.memmap

    def __len__(self) -> int:
        return len(self.seeds)


def open_gallery(
    folder: Path,
    split: str,
    level: int,
    count: int,
    config: BackboneConfig,
    device: str = "cpu",
) -> Gallery:
    """The gallery of seeds 0 to count - 1; rooms that are not rendered yet are rendered now."""
    # The arrays, filled as far as an earlier run came.
    folder.mkdir(parents=True, exist_ok=True)
    vision, views = config.vision, NUM_VIEWS[level]
    side, patches = vision.image_size, vision.patches_per_side
    places = config.cells_per_side if isinstance(config, Video3DConfig) else patches
    shapes = {
        "rgb": ((count, views, side, side, 3), np.uint8),
        "xyz_m": ((count, views * places**2, 3), np.float32),
        "owners": ((count, views * patches**2, 9), np.int8),
    }
    name = f"{split}{level}_0_{count}"
    arrays = {}
    for key, (shape, kind) in shapes.items():
        path = folder / f"{name}_{key}.npy"
        arrays[key] = np.lib.format.open_memmap(path, "r+" if path.exists() else "w+", kind, shape)
    gallery = Gallery(split, level, torch.arange(count), **arrays)
    done_file = folder / f"{name}_done.txt"
    done = int(done_file.read_text()) if done_file.exists() else 0

    # The rest, a few rooms at a time.
    starts = range(done, count, ROOMS_AT_ONCE)
    for start in tqdm(starts, desc=f"rendering {name}", disable=done >= count, mininterval=10):
        stop = min(start + ROOMS_AT_ONCE, count)
        _fill(gallery, slice(start, stop), config, device)
        done_file.write_text(str(stop))
    return gallery


def _fill(gallery: Gallery, part: slice, config: BackboneConfig, device: str) -> None:
    """Renders some of the gallery's rooms into its arrays."""
    rooms = make_rooms(gallery.split, gallery.seeds[part].to(device), gallery.level)
    views = render(rooms, config.vision.image_size)

    # Where what is shown lies; views that do not count lie nowhere.
    points = unproject_depth(views.depth_m, views.K, rooms.T_world_cam)  # (B, V, S, S, 3)
    unseen = torch.arange(points.shape[1], device=points.device)[None] >= rooms.num_views[:, None]
    points[unseen] = float("nan")
    if isinstance(config, Video3DConfig):
        xyz, places = _cell_means(points, config), _inside(config.vision)
    else:
        corner = _corners(config.vision)
        xyz, places = points[:, :, corner][:, :, :, corner], _around(config.vision)

    # Which objects do.
    index = views.object_index
    owners = [index[:, :, rows][:, :, :, columns] for rows in places for columns in places]
    gallery.rgb[part] = views.rgb.cpu().numpy()
    gallery.xyz_m[part] = xyz.flatten(1, 3).cpu().numpy()
    gallery.owners[part] = torch.stack(owners, -1).flatten(1, 3).to(torch.int8).cpu().numpy()


def _cell_means(points_m: torch.Tensor, config: Video3DConfig) -> torch.Tensor:
    """(B, V, m, m, 3) of points (B, V, S, S, 3)."""
    means = mean_points(points_m.flatten(0, 1), config.cells_per_side, config.cell_px)
    return means.unflatten(0, points_m.shape[:2])


def _corners(vision: VisionConfig) -> torch.Tensor:
    """Rows, and columns, of the patches' top-left pixels."""
    return torch.arange(vision.patches_per_side) * vision.image_size // vision.patches_per_side


def _around(vision: VisionConfig) -> list[torch.Tensor]:
    """Rows, and columns, before, at and after those."""
    last = vision.image_size - 1
    return [(_corners(vision) + d).clamp(0, last) for d in (-REACH_PX, 0, REACH_PX)]


def _inside(vision: VisionConfig) -> list[torch.Tensor]:
    """Rows, and columns, near both borders of each patch and in its middle."""
    patch = vision.patch_size
    first = torch.arange(vision.patches_per_side) * patch
    return [first + d for d in (patch // 6, patch // 2, patch - 1 - patch // 6)]


def normalise(rgb: torch.Tensor, vision: VisionConfig) -> torch.Tensor:
    """Views (V, S, S, 3) uint8 to (V, 3, S, S) float32, as the tower wants them."""
    mean = torch.tensor(vision.image_mean, device=rgb.device)
    std = torch.tensor(vision.image_std, device=rgb.device)
    return ((rgb.float() / 255 - mean) / std).permute(0, 3, 1, 2)
