"""From a frame's features and cells to its tokens: pooling, sine embedding, newlines.

Places are float32 always, whatever the dtype of the weights: the embedding's arguments reach 300
radians. Reference: llava/model/llava_arch.py, position_encoding.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ada3d_ros.geometry.voxel import to_device
from ada3d_ros.model.video3dllm.config import Video3DConfig
from ada3d_ros.model.video3dllm.geometry import mean_points
from ada3d_ros.scene.frame_table import FrameTokens

WAVELENGTH = 10000.0


@dataclass(frozen=True, eq=False, slots=True)
class GroundedFrame(FrameTokens):
    """The tokens of one frame, and what ground heads need of it.

    patches (P, D): features of all patches in the decoder's space, before pooling and without
    place; points_m (S, S, 3) float32 in the model's world, on the CPU. num_holes: cells that have
    no token for want of depth; num_beyond: those that lie outside of the model's voxels.
    """

    patches: torch.Tensor
    points_m: torch.Tensor
    num_holes: int = 0
    num_beyond: int = 0


def place_voxels(xyz_m: torch.Tensor, config: Video3DConfig) -> torch.Tensor:
    """Voxels of points (..., 3) in the model's world, whole numbers as float32, (..., 3).

    Absolute, counted from min_xyz_m; points outside of the range lie on its border.
    """
    low, high = xyz_m.new_tensor(config.min_xyz_m), xyz_m.new_tensor(config.max_xyz_m)
    clamped = torch.minimum(torch.maximum(xyz_m, low), high)
    return torch.round((clamped - low) / config.voxel_size_m)


def is_in_range(xyz_m: torch.Tensor, config: Video3DConfig) -> torch.Tensor:
    """Which points (..., 3) lie within the model's voxels, (...) bool; NaN does not."""
    low, high = xyz_m.new_tensor(config.min_xyz_m), xyz_m.new_tensor(config.max_xyz_m)
    return ((xyz_m >= low) & (xyz_m <= high)).all(dim=-1)


def sine_embedding(voxels: torch.Tensor, width: int) -> torch.Tensor:
    """The embedding (..., width) float32 of voxels (..., 3), without parameters.

    A third of the width for each of x, y, z: sines at even places, cosines at odd ones, of
    wavelengths that grow; what the division leaves over is 0.
    """
    third = width // 3
    slots = torch.arange(third, device=voxels.device)
    exponents = 2 * torch.div(slots, 2, rounding_mode="floor").float() / third
    angles = voxels.float()[..., None] / WAVELENGTH**exponents  # (..., 3, third)
    waves = torch.where(slots % 2 == 0, angles.sin(), angles.cos())
    return F.pad(waves.flatten(-2), (0, width - 3 * third))


def embed_places(xyz_m: torch.Tensor, width: int, config: Video3DConfig) -> torch.Tensor:
    """Points (..., 3) float32 in the model's world to (..., width) float32."""
    return sine_embedding(place_voxels(xyz_m, config), width)


def pool_patches(features: torch.Tensor, cells_per_side: int) -> torch.Tensor:
    """Features (V, n * n, D) of patches to those of cells (V, m * m, D), bilinear."""
    side = round(features.shape[1] ** 0.5)
    grid = features.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    pooled = F.interpolate(grid, size=(cells_per_side, cells_per_side), mode="bilinear")
    return pooled.flatten(2).transpose(1, 2)


def rows_with_newlines(
    cells: torch.Tensor, newline: torch.Tensor, kept: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cells (m, m, D) in rows, each closed by `newline` (D,): (n, D), and which of the n have a
    place, (n,) bool on the CPU.

    kept (m, m) bool on the CPU: cells that have a token; a row without any has no newline.
    """
    side = cells.shape[0]
    kept = torch.ones(side, side, dtype=torch.bool) if kept is None else kept
    with_newline = torch.cat((cells, newline.expand(side, 1, -1)), dim=1)
    stays = torch.cat((kept, kept.any(dim=1, keepdim=True)), dim=1)
    is_cell = torch.ones(side, side + 1, dtype=torch.bool)
    is_cell[:, -1] = False
    index = torch.nonzero(stays.flatten())[:, 0]
    return with_newline.flatten(0, 1)[to_device(index, cells.device)], is_cell.flatten()[index]


def frame_tokens(
    patches: torch.Tensor,
    points_m: torch.Tensor,
    newline: torch.Tensor,
    config: Video3DConfig,
    keep_all: bool,
) -> GroundedFrame:
    """The tokens of one frame.

    patches (P, D) in the model's dtype, projected; points_m (S, S, 3) float32 on the CPU, NaN where
    there is no reading; newline (D,). keep_all (preset `reference`): every cell has a token, on the
    range's border where it lies outside.
    """
    # Which cells have a token.
    side = config.cells_per_side
    cells_m = mean_points(points_m[None], side, config.cell_px)[0]
    known, inside = torch.isfinite(cells_m).all(dim=-1), is_in_range(cells_m, config)
    kept = torch.ones_like(known) if keep_all else inside
    holes, beyond = int((~known & ~kept).sum()), int((known & ~kept).sum())

    # Their features with their places, row by row.
    cells = pool_patches(patches[None], side)[0].unflatten(0, (side, side))
    places = embed_places(cells_m.nan_to_num(), cells.shape[-1], config)
    cells = cells + to_device(places, cells.device).to(cells.dtype)
    features, has_place = rows_with_newlines(cells, newline.to(cells.dtype), kept)
    xyz_m = torch.full((len(has_place), 3), torch.nan)
    xyz_m[has_place] = cells_m[kept]
    return GroundedFrame(
        features, xyz_m, has_place.to(torch.int64), patches, points_m, holes, beyond
    )


def say_left_out(frames: Sequence[GroundedFrame], config: Video3DConfig) -> str:
    """What has no token in these frames and why, a sentence; '' where every cell has one."""
    cells = len(frames) * config.cells_per_side**2
    holes = sum(frame.num_holes for frame in frames)
    beyond = sum(frame.num_beyond for frame in frames)
    if not holes and not beyond:
        return ""
    of_all, parts = f"of {cells} cells of {len(frames)} views", []
    if holes:
        parts.append(f"{holes} {of_all} have no depth reading")
    if beyond:
        (x, y, z), (X, Y, Z) = config.min_xyz_m, config.max_xyz_m
        parts.append(
            f"{beyond} {'' if holes else f'{of_all} '}lie outside of what the model can place"
            f" (x {x:g} to {X:g}, y {y:g} to {Y:g}, z {z:g} to {Z:g} m from the scene's origin;"
            " reset the scene nearer to what you ask about)"
        )
    return f"{', '.join(parts)}: the model does not see them."
