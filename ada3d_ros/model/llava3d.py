"""LLaVA-3D put together: spatial tokens of views, their projection, clicks, and the prompt of all.

Nothing here generates text (engine/) or reads files (checkpoint.py). Reference:
llava/model/llava_arch.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ada3d_ros.errors import ConfigError, InvalidRequestError, NoFramesError
from ada3d_ros.geometry.voxel import to_device
from ada3d_ros.model.config import LlavaConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.spatial import (
    PointEncoder,
    cap_spatial_tokens,
    mean_tokens,
    sample_patch_points,
    sum_view,
)
from ada3d_ros.model.splice import splice_prompt
from ada3d_ros.model.vision import VisionTower
from ada3d_ros.scene.voxel_table import VoxelSums, VoxelTable
from ada3d_ros.types import MultiViewInput, PromptSequence, SpatialTokens


class Llava3D(nn.Module):
    """The model.

    compat `reference` keeps patches without depth, caps the spatial tokens at random and truncates
    long prompts, as LLaVA-3D does; `default` does not.
    """

    def __init__(self, config: LlavaConfig, compat: str = "default") -> None:
        super().__init__()
        if compat not in ("default", "reference"):
            raise ConfigError(
                f"model.compat = {compat!r}: not a known choice; allowed: 'default', 'reference'."
            )
        self.config = config
        self.reference = compat == "reference"

        # LLaVA-1.5: CLIP, a two-layer projector, LLaMA.
        width = config.decoder.hidden_size
        self.vision = VisionTower(config.vision)
        self.projector = nn.Sequential(
            nn.Linear(config.vision.hidden_size, width), nn.GELU(), nn.Linear(width, width)
        )
        self.decoder = LlamaDecoder(config.decoder)

        # What LLaVA-3D adds: positions of patches and of clicks.
        if config.has_video_tower:
            self.position_embedding = PointEncoder(config.position_embedding_width)
            self.click_encoder = PointEncoder(config.click_encoder_width)

    @property
    def device(self) -> torch.device:
        return self.decoder.device

    def floor_of(self, floor_z_m: float) -> float:
        """How far the world is moved down before the model sees it, the floor lying at floor_z_m: 0
        for a model that does not care, and as the reference does.
        """
        return floor_z_m if self.config.floor_at_zero and not self.reference else 0.0

    def encode_views(self, pixels: torch.Tensor) -> torch.Tensor:
        """Patch features (V, P, C) of normalised pixels (V, 3, S, S).

        Each view alone, so that they can be kept per keyframe.
        """
        return self.vision(to_device(pixels, self.device))

    def sum_views(self, features: torch.Tensor, views: MultiViewInput) -> list[VoxelSums]:
        """What each view adds to a scene: patch features (V, P, C) summed per voxel.

        views: the geometry of the same views, on the CPU. Raises InvalidRequestError for a 2D-only
        model.
        """
        self._require_3d("questions about the scene")
        points = sample_patch_points(views, self.config.vision.patches_per_side).flatten(1, 2)
        embedding, size = self.position_embedding, self.config.voxel_size_m
        return [
            sum_view(patches, xyz, embedding, size, keep_invalid=self.reference)
            for patches, xyz in zip(features, points, strict=True)
        ]

    def spatial_tokens(self, table: VoxelTable) -> SpatialTokens:
        """Spatial tokens of the views in the table, at most config.token_cap.

        Raises NoFramesError if no patch of any view has a depth reading.
        """
        if not table.views or not len(table.sums):
            raise NoFramesError(
                f"none of the {len(table.views)} views has a depth reading at any patch: check the"
                " depth topic, its unit and depth.min_m / depth.max_m."
            )
        tokens = mean_tokens(table.sums, self.decoder.dtype, self.config.voxel_size_m)
        return cap_spatial_tokens(tokens, self.config.token_cap, scramble=self.reference)

    def build_spatial_tokens(self, features: torch.Tensor, views: MultiViewInput) -> SpatialTokens:
        """Spatial tokens of patch features (V, P, C) and their views, at most config.token_cap.

        Raises InvalidRequestError for a 2D-only model, NoFramesError if no patch of any view has a
        depth reading.
        """
        table = VoxelTable()
        for name, sums in enumerate(self.sum_views(features, views)):
            table.add(name, sums)
        return self.spatial_tokens(table)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Vision features (N, C), pooled or of one image, to decoder embeddings (N, D)."""
        return self.projector(features)

    def encode_clicks(self, clicks: Sequence[Sequence[float]]) -> torch.Tensor:
        """Points (n, 3) in metres in the model's world to decoder embeddings (n, D)."""
        if not len(clicks):
            return torch.zeros(
                0, self.config.decoder.hidden_size, dtype=self.decoder.dtype, device=self.device
            )
        self._require_3d("coordinates in a question")
        return self.encode_points(to_device(torch.tensor(clicks, dtype=torch.float32), self.device))

    def encode_points(self, xyz_m: torch.Tensor) -> torch.Tensor:
        """The same of points (n, 3) float32 that lie on the model's device; of a 3D model alone."""
        return self.click_encoder(xyz_m).to(self.decoder.dtype)

    def build_prompt(
        self,
        ids: Sequence[int],
        visual: torch.Tensor | None,
        clicks: torch.Tensor | None = None,
        xyz_m: torch.Tensor | None = None,
    ) -> PromptSequence:
        """The embeddings of a prompt (`splice_prompt`); preset `reference` truncates a long one."""
        return splice_prompt(
            self.decoder, ids, visual, clicks, xyz_m, self.config.max_length, self.reference
        )

    def _require_3d(self, what: str) -> None:
        if not self.config.has_video_tower:
            raise InvalidRequestError(
                "the loaded model is 2D only (its config.json has no mm_video_tower), so it cannot"
                f" take {what}; ask with scope LATEST_IMAGE and without coordinates, or load a"
                " LLaVA-3D checkpoint."
            )
