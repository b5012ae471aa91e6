"""LLaVA-NeXT put together: LLaVA-1.5's parts, a newline, and images in crops.

Reference: transformers' LlavaNextModel; llava/model/llava_arch.py, mm_patch_merge_type
`spatial_unpad`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ada3d_ros.model.image import ImageInput
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.llava_next.anyres import (
    PatchGrid,
    patch_grid_of,
    preprocess_anyres,
    select_pinpoint,
)
from ada3d_ros.model.llava_next.config import LlavaNextConfig
from ada3d_ros.model.llava_next.tokens import pack_tokens
from ada3d_ros.types import RgbdFrame, SpatialTokens


@dataclass(frozen=True, eq=False, slots=True)
class AnyresInput(ImageInput):
    """pixels (1 + crops, 3, S, S): the whole image, then its crops row by row, as `grid` says."""

    grid: PatchGrid


class LlavaNext(Llava3D):
    """The model: 2D alone. Its tokens are the decoder's embeddings already, since a newline is one;
    so `project` leaves them as they are.
    """

    config: LlavaNextConfig

    def __init__(self, config: LlavaNextConfig, compat: str = "default") -> None:
        super().__init__(config, compat)
        self.newline = nn.Parameter(torch.zeros(config.decoder.hidden_size))

    @property
    def name(self) -> str:
        return self.config.backbone

    def prepare_image(self, frame: RgbdFrame) -> AnyresInput:
        """The frame's colour, of any shape, whole and in the crops of the grid that fits it."""
        vision, size = self.config.vision, frame.rgb.shape[:2]
        side, mean, std = vision.image_size, vision.image_mean, vision.image_std
        pinpoint = select_pinpoint(size, self.config.pinpoints)
        grid = patch_grid_of(size, pinpoint, side, vision.patches_per_side)
        return AnyresInput(preprocess_anyres(frame.rgb, pinpoint, side, mean, std), grid)

    def image_tokens(self, features: torch.Tensor, image: ImageInput) -> SpatialTokens:
        """The tokens of one image of its patch features (1 + crops, P, C), newlines among them."""
        assert isinstance(image, AnyresInput)
        return pack_tokens(self.projector(features), image.grid, self.newline)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        return features
