"""One colour image without 3D: its pixels for a vision tower, and its patches as spatial tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ada3d_ros.errors import InvalidRequestError
from ada3d_ros.model.config import VisionConfig
from ada3d_ros.scene.views import preprocess_color
from ada3d_ros.types import RgbdFrame, SpatialTokens

MAX_ASPECT = 2000  # of such an image, 336 pixels high, resizing takes 0.7 GB


@dataclass(frozen=True, eq=False, slots=True)
class ImageInput:
    """pixels (n, 3, S, S) float32, normalised: of one image, what the tower sees of it."""

    pixels: torch.Tensor

    @classmethod
    def square(cls, frame: RgbdFrame, vision: VisionConfig, aspect: str) -> ImageInput:
        """The colour of a frame as one view; aspect `pad` or `square` (cropped). Raises
        InvalidRequestError for an image so thin that the square it is cut from would be huge.
        """
        height, width = frame.rgb.shape[:2]
        if max(height, width) > MAX_ASPECT * min(height, width):
            raise InvalidRequestError(
                f"the image has {width} x {height} pixels: one side may be {MAX_ASPECT} times the"
                " other at most. Crop it."
            )
        mean, std = vision.image_mean, vision.image_std
        return cls(preprocess_color(frame.rgb, vision.image_size, mean, std, aspect)[None])


def patch_tokens(features: torch.Tensor) -> SpatialTokens:
    """The patches (P, C) of one image as tokens: patch coordinates stand in for places, a patch for
    a voxel.
    """
    count = features.shape[0]
    ones = torch.ones(count, dtype=torch.int64, device=features.device)
    return SpatialTokens(features, patch_grid(count, features.device), ones, voxel_size_m=1.0)


def patch_grid(num_patches: int, device: torch.device | None = None) -> torch.Tensor:
    """(P, 3) float32: column, row, 0 of an image's patches in row-major order; xyz in 2D."""
    side = round(num_patches**0.5)
    index = torch.arange(num_patches, device=device)
    return torch.stack((index % side, index // side, torch.zeros_like(index)), dim=1).float()
