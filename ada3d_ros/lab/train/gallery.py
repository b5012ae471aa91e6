"""Rendered rooms on disk: what every patch shows and where it lies.

Rendered once, read many times, resumable.
Arrays per room: rgb (V, S, S, 3) uint8; xyz_m (V * P, 3) float32 of each patch's top-left pixel,
NaN where depth is missing; owners (V * P, 9) int8, the object at nine places around that pixel.
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
from ada3d_ros.model.config import VisionConfig

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
    vision: VisionConfig,
    device: str = "cpu",
) -> Gallery:
    """The gallery of seeds 0 to count - 1; rooms that are not rendered yet are rendered now."""
    # The arrays, filled as far as an earlier run came.
    folder.mkdir(parents=True, exist_ok=True)
    side, views, patches = vision.image_size, NUM_VIEWS[level], vision.patches_per_side
    shapes = {
        "rgb": ((count, views, side, side, 3), np.uint8),
        "xyz_m": ((count, views * patches**2, 3), np.float32),
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
        _fill(gallery, slice(start, stop), vision, device)
        done_file.write_text(str(stop))
    return gallery


def _fill(gallery: Gallery, part: slice, vision: VisionConfig, device: str) -> None:
    """Renders some of the gallery's rooms into its arrays."""
    rooms = make_rooms(gallery.split, gallery.seeds[part].to(device), gallery.level)
    views = render(rooms, vision.image_size)
    side, patches = vision.image_size, vision.patches_per_side

    # Where each patch's top-left pixel lies; views that do not count lie nowhere.
    corner = torch.arange(patches, device=views.depth_m.device) * side // patches
    xyz = unproject_depth(views.depth_m, views.K, rooms.T_world_cam)[:, :, corner][:, :, :, corner]
    unseen = torch.arange(xyz.shape[1], device=xyz.device)[None] >= rooms.num_views[:, None]
    xyz[unseen] = float("nan")

    # Which objects lie around that pixel.
    lines = [(corner + d).clamp(0, side - 1) for d in (-REACH_PX, 0, REACH_PX)]
    index = views.object_index
    around = [index[:, :, rows][:, :, :, columns] for rows in lines for columns in lines]
    gallery.rgb[part] = views.rgb.cpu().numpy()
    gallery.xyz_m[part] = xyz.flatten(1, 3).cpu().numpy()
    gallery.owners[part] = torch.stack(around, -1).flatten(1, 3).to(torch.int8).cpu().numpy()


def normalise(rgb: torch.Tensor, vision: VisionConfig) -> torch.Tensor:
    """Views (V, S, S, 3) uint8 to (V, 3, S, S) float32, as the tower wants them."""
    mean = torch.tensor(vision.image_mean, device=rgb.device)
    std = torch.tensor(vision.image_std, device=rgb.device)
    return ((rgb.float() / 255 - mean) / std).permute(0, 3, 1, 2)
