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
from ada3d_ros.model.backbone import Origin
from ada3d_ros.model.config import LlavaConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.image import ImageInput, patch_tokens
from ada3d_ros.model.prompt import Tokenizer
from ada3d_ros.model.prompt_embeds import prompt_embeds, truncated
from ada3d_ros.model.spatial import (
    PointEncoder,
    cap_spatial_tokens,
    mean_tokens,
    sample_patch_points,
    sum_view,
)
from ada3d_ros.model.vision import VisionTower
from ada3d_ros.scene.floor import stand_on_floor
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.scene.views import build_multiview
from ada3d_ros.scene.voxel_table import HeldVoxels, VoxelSums, VoxelTable
from ada3d_ros.types import MultiViewInput, PromptSequence, RgbdFrame, SpatialTokens

NO_GROUND_HEADS = "LLaVA-3D has no ground heads that score proposals: it is asked for boxes."


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

    @property
    def name(self) -> str:
        return self.config.backbone

    def origin_of(self, scene: SceneSnapshot) -> Origin:
        """On the floor below the world's origin; that itself for a model that does not care, and
        as the reference does.
        """
        moves = self.config.floor_at_zero and not self.reference
        return 0.0, 0.0, scene.floor.z_m if moves else 0.0

    def prepare_views(self, frames: Sequence[RgbdFrame], origin_m: Origin) -> MultiViewInput:
        """Views of the tower's size. Raises NoFramesError."""
        x, y, z = origin_m
        vision, compat = self.config.vision, "reference" if self.reference else "default"
        moved = stand_on_floor(frames, z, (x, y))
        return build_multiview(
            moved, vision.image_size, compat, vision.image_mean, vision.image_std
        )

    def encode_views(self, pixels: torch.Tensor) -> torch.Tensor:
        """Patch features (V, P, C) of normalised pixels (V, 3, S, S).

        Each view alone, so that they can be kept per keyframe.
        """
        return self.vision(to_device(pixels, self.device))

    def view_parts(self, features: torch.Tensor, views: MultiViewInput) -> list[VoxelSums]:
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

    def new_table(self) -> VoxelTable:
        return VoxelTable()

    def new_tokens(self, table: VoxelTable, held: HeldVoxels) -> tuple[SpatialTokens, HeldVoxels]:
        """The voxels that are new since a prefix was made of `held`, by their means of now."""
        new, held = table.new_voxels(held)
        sums = table.sums.at(new)
        return mean_tokens(sums, self.decoder.dtype, self.config.voxel_size_m), held

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
        table = self.new_table()
        for name, sums in enumerate(self.view_parts(features, views)):
            table.add(name, sums)
        return self.spatial_tokens(table)

    def prepare_image(self, frame: RgbdFrame) -> ImageInput:
        return ImageInput.square(frame, self.config.vision, self.config.image_aspect_ratio)

    def image_tokens(self, features: torch.Tensor, image: ImageInput) -> SpatialTokens:
        """The patches (1, P, C) of one image."""
        return patch_tokens(features[0])

    @property
    def scores_proposals(self) -> bool:
        return False

    def grounding_ids(self, tokenizer: Tokenizer, phrase: str) -> list[int]:
        raise InvalidRequestError(NO_GROUND_HEADS)

    def score_proposals(
        self, state: torch.Tensor, boxes_m: torch.Tensor, table: VoxelTable
    ) -> torch.Tensor:
        raise InvalidRequestError(NO_GROUND_HEADS)

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
        """The embeddings of a prompt: text, spatial tokens and clicks.

        ids: of the text, each IMAGE_ID replaced by `visual` (N, D), each CLICK_ID by the next of
        `clicks` (n, D). xyz_m (N, 3): where the visual tokens lie, kept for strategies that rank by
        place. Raises InvalidRequestError where placeholders and embeddings differ in number,
        QuestionTooLongError beyond config.max_length tokens (preset `reference` truncates instead).
        """
        limit = self.config.max_length
        if self.reference:
            return truncated(prompt_embeds(self.decoder, ids, visual, clicks, xyz_m), limit)
        return prompt_embeds(self.decoder, ids, visual, clicks, xyz_m, limit)

    def _require_3d(self, what: str) -> None:
        if not self.config.has_video_tower:
            raise InvalidRequestError(
                "the loaded model is 2D only (its config.json has no mm_video_tower), so it cannot"
                f" take {what}; ask with scope LATEST_IMAGE and without coordinates, or load a"
                " LLaVA-3D checkpoint."
            )
