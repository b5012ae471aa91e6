"""LLaVA-NeXT put together: LLaVA-1.5's parts, a newline, and images in crops.

Reference: transformers' LlavaNextModel; llava/model/llava_arch.py, mm_patch_merge_type
`spatial_unpad`.
"""

from __future__ import annotations

import torch
from torch import nn

from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.llava_next.anyres import patch_grid_of, preprocess_anyres, select_pinpoint
from ada3d_ros.model.llava_next.config import LlavaNextConfig
from ada3d_ros.model.llava_next.tokens import pack_tokens
from ada3d_ros.types import RgbdFrame, SpatialTokens


class LlavaNext(Llava3D):
    """The model: 2D alone. Its tokens are the decoder's embeddings already, since a newline is one;
    so `project` leaves them as they are.
    """

    config: LlavaNextConfig

    def __init__(self, config: LlavaNextConfig, compat: str = "default") -> None:
        super().__init__(config, compat)
        self.image_newline = nn.Parameter(torch.zeros(config.decoder.hidden_size))

    def preprocess(self, frame: RgbdFrame) -> torch.Tensor:
        """(1 + crops, 3, S, S) float32 of the frame's colour image: itself and its crops."""
        config, vision = self.config, self.config.vision
        pinpoint = select_pinpoint(frame.rgb.shape[:2], config.pinpoints)
        mean, std = vision.image_mean, vision.image_std
        return preprocess_anyres(frame.rgb, pinpoint, vision.image_size, mean, std)

    def pack(self, features: torch.Tensor, frame: RgbdFrame) -> SpatialTokens:
        """The image's tokens of the patch features (1 + crops, P, C) of `preprocess`."""
        vision, size = self.config.vision, frame.rgb.shape[:2]
        pinpoint = select_pinpoint(size, self.config.pinpoints)
        grid = patch_grid_of(size, pinpoint, vision.image_size, vision.patches_per_side)
        return pack_tokens(self.projector(features), grid, self.image_newline)

    def image_tokens(self, frame: RgbdFrame) -> SpatialTokens:
        """The tokens of the frame's colour image, newlines among them."""
        return self.pack(self.encode_views(self.preprocess(frame)), frame)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        return features
