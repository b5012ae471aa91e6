"""Video-3D-LLM put together: tokens of frames, clicked places, ground heads, and the prompt of all.

Nothing here generates text (engine/) or reads files. Reference: llava/model/llava_arch.py.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from ada3d_ros.errors import ConfigError, InvalidRequestError, NoFramesError
from ada3d_ros.geometry.voxel import to_device
from ada3d_ros.model.backbone import Origin
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.image import ImageInput, patch_grid
from ada3d_ros.model.prompt_embeds import prompt_embeds, truncated
from ada3d_ros.model.qwen_tokenizer import QwenTokenizer
from ada3d_ros.model.video3dllm.config import Video3DConfig
from ada3d_ros.model.video3dllm.geometry import (
    SquareViews,
    build_square_views,
    square_pixels,
)
from ada3d_ros.model.video3dllm.ground import GroundHeads, choose_several
from ada3d_ros.model.video3dllm.tokens import (
    GroundedFrame,
    embed_places,
    frame_tokens,
    is_in_range,
    pool_patches,
    rows_with_newlines,
    say_left_out,
)
from ada3d_ros.model.video3dllm.vision import SiglipTower
from ada3d_ros.scene.frame_table import FrameTable, FrameTokens, HeldFrames
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.types import PromptSequence, RgbdFrame, SpatialTokens

log = logging.getLogger(__name__)


class Video3DLLM(nn.Module):
    """The model.

    compat `reference` keeps cells without depth and beyond the range, and truncates long prompts,
    as Video-3D-LLM does; `default` (the geometry's preset `robot`) does not.
    """

    def __init__(self, config: Video3DConfig, compat: str = "default") -> None:
        super().__init__()
        if compat not in ("default", "reference"):
            raise ConfigError(
                f"model.compat = {compat!r}: not a known choice; allowed: 'default', 'reference'."
            )
        self.config = config
        self.reference = compat == "reference"

        width = config.decoder.hidden_size
        self.vision = SiglipTower(config.vision)
        self.projector = nn.Sequential(
            nn.Linear(config.vision.hidden_size, width), nn.GELU(), nn.Linear(width, width)
        )
        self.decoder = LlamaDecoder(config.decoder)
        self.newline = nn.Parameter(torch.zeros(width))
        self.ground = GroundHeads(config) if config.ground_id >= 0 else None
        self._said = ""  # what has no token in the scene, as it was logged

    @property
    def device(self) -> torch.device:
        return self.decoder.device

    @property
    def name(self) -> str:
        return self.config.backbone

    # -- a scene

    def origin_of(self, scene: SceneSnapshot) -> Origin:
        """On the floor below the camera of the epoch's first keyframe: the model counts voxels from
        there, and knows those of scenes that lie around its origin. The world's own under preset
        `reference`.
        """
        if self.reference:
            return 0.0, 0.0, 0.0
        return *scene.anchor_xy_m, scene.floor.z_m if self.config.floor_at_zero else 0.0

    def prepare_views(self, frames: Sequence[RgbdFrame], origin_m: Origin) -> SquareViews:
        """Square views of frames in a world whose origin is origin_m; see `build_square_views`."""
        return build_square_views(frames, origin_m, self.config, self.reference)

    def encode_views(self, pixels: torch.Tensor) -> torch.Tensor:
        """Patch features (V, P, C) of normalised pixels (V, 3, S, S)."""
        features: torch.Tensor = self.vision(to_device(pixels, self.device))
        return features

    def view_parts(self, features: torch.Tensor, views: SquareViews) -> list[GroundedFrame]:
        """What each view adds to a scene: patch features (V, P, C) of the views, as tokens."""
        patches = self.projector(features)
        return [
            frame_tokens(own, points_m, self.newline, self.config, keep_all=self.reference)
            for own, points_m in zip(patches, views.points_m, strict=True)
        ]

    def new_table(self) -> FrameTable:
        return FrameTable()

    def spatial_tokens(self, table: FrameTable) -> SpatialTokens:
        """The tokens of all frames in the table, in frame order.

        Raises NoFramesError if no cell of any frame has a place.
        """
        frames = cast(tuple[GroundedFrame, ...], table.frames)
        left_out = say_left_out(frames, self.config)
        if not any(map(len, frames)):
            check = " Check the depth topic, its unit and depth.min_m / depth.max_m."
            raise NoFramesError(
                f"nothing of the scene can be seen: {left_out or 'there is no view.'}"
                f"{check if any(frame.num_holes for frame in frames) else ''}"
            )
        if left_out not in ("", self._said):
            is_beyond = any(frame.num_beyond for frame in frames)
            log.log(logging.WARNING if is_beyond else logging.INFO, left_out)
        self._said = left_out
        return self._in_memory(table.tokens())

    def new_tokens(self, table: FrameTable, held: HeldFrames) -> tuple[SpatialTokens, HeldFrames]:
        """The frames that came since a prefix was made of `held`: exactly what follows it."""
        new, held = table.new_frames(held)
        width, device = self.config.decoder.hidden_size, self.device
        nothing = torch.zeros(0, width, dtype=self.decoder.dtype, device=device)
        none = FrameTokens(nothing, torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
        return self._in_memory(table.tokens(new) if new else none), held

    def _in_memory(self, tokens: FrameTokens) -> SpatialTokens:
        places = to_device(tokens.xyz_m, self.device)
        patches = to_device(tokens.num_patches, self.device)
        return SpatialTokens(tokens.features, places, patches, self.config.voxel_size_m)

    # -- one image

    def prepare_image(self, frame: RgbdFrame) -> ImageInput:
        return ImageInput(square_pixels(frame.rgb, self.config)[None])

    def image_tokens(self, features: torch.Tensor, image: ImageInput) -> SpatialTokens:
        """The cells of one image's patch features (1, P, C), without a sine embedding, newlines
        after each row. The reference takes no image without depth.
        """
        side = self.config.cells_per_side
        pooled = pool_patches(self.projector(features), side)[0].unflatten(0, (side, side))
        rows, has_place = rows_with_newlines(pooled, self.newline.to(pooled.dtype))
        xyz_m = torch.full((len(has_place), 3), torch.nan)
        xyz_m[has_place] = patch_grid(side * side)
        places = to_device(has_place.to(torch.int64), self.device)
        return SpatialTokens(rows, to_device(xyz_m, self.device), places, voxel_size_m=1.0)

    # -- the prompt

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Spatial tokens are embeddings already: the features (N, D) themselves."""
        return features

    def encode_clicks(self, clicks: Sequence[Sequence[float]]) -> torch.Tensor:
        """Points (n, 3) in metres in the model's world to decoder embeddings (n, D).

        Each point is its own, where the reference gives all the first one's. Raises
        InvalidRequestError for a point that the model cannot place (preset `reference` moves it to
        the border).
        """
        xyz_m = torch.tensor(clicks, dtype=torch.float32).reshape(-1, 3)
        if len(xyz_m) and self.config.coord_id < 0:
            raise InvalidRequestError(
                "the loaded model takes no coordinates (its config.json has no coord_token_ids):"
                " ask without them, or load a Video-3D-LLM checkpoint."
            )
        config, inside = self.config, is_in_range(xyz_m, self.config)
        if not bool(inside.all()) and not self.reference:
            x, y, z = xyz_m[~inside][0].tolist()
            raise InvalidRequestError(
                f"the point ({x:.2f}, {y:.2f}, {z:.2f}) m from the scene's origin lies outside of"
                f" what the model can place ({list(config.min_xyz_m)} to"
                f" {list(config.max_xyz_m)} m): ask about a nearer one, or reset the scene there."
            )
        return self.encode_points(to_device(xyz_m, self.device))

    def encode_points(self, xyz_m: torch.Tensor) -> torch.Tensor:
        """The same of points (n, 3) float32 that lie on the model's device, none refused."""
        ids = torch.full((len(xyz_m),), self.config.coord_id, device=self.device)
        embeds = self.decoder.embed(ids)
        return embeds + embed_places(xyz_m, embeds.shape[1], self.config).to(embeds.dtype)

    def build_prompt(
        self,
        ids: Sequence[int],
        visual: torch.Tensor | None,
        clicks: torch.Tensor | None = None,
        xyz_m: torch.Tensor | None = None,
    ) -> PromptSequence:
        """As Llava3D.build_prompt; CLICK_ID stands for `<coord>`."""
        limit = self.config.max_length
        if self.reference:
            return truncated(prompt_embeds(self.decoder, ids, visual, clicks, xyz_m), limit)
        return prompt_embeds(self.decoder, ids, visual, clicks, xyz_m, limit)

    # -- grounding

    @property
    def scores_proposals(self) -> bool:
        return self.ground is not None

    def grounding_ids(self, tokenizer: QwenTokenizer, phrase: str) -> list[int]:
        return tokenizer.encode_grounding(phrase)

    def score_proposals(
        self, state: torch.Tensor, boxes_m: torch.Tensor, table: FrameTable
    ) -> torch.Tensor:
        """Shares (n,) float32 on the CPU of the proposals (n, 6) that are meant, 0 of the others,
        by Multi3DRefer's rule.

        Those that the model cannot place are not meant. Raises OutOfReachError where it can place
        none, and as `ground_scores`.
        """
        placed = is_in_range(boxes_m[:, :3], self.config)
        if self.reference or not bool(placed.any()):
            placed = torch.ones_like(placed)
        frames = cast(tuple[GroundedFrame, ...], table.frames)
        scores = self.ground_scores(state, boxes_m[placed], frames).cpu()
        shares = torch.softmax(scores / self.config.ground_temperature, dim=0)[:-1]
        chosen = choose_several(scores, self.config.ground_temperature)
        meant = torch.zeros(len(boxes_m))
        meant[torch.nonzero(placed)[chosen, 0]] = shares[chosen]
        return meant

    def ground_scores(
        self, state: torch.Tensor, boxes_m: torch.Tensor, frames: Sequence[GroundedFrame]
    ) -> torch.Tensor:
        """Cosine scores (n + 1,) float32 of proposals (n, 6), the last one of "no object".

        state (D,): of `<ground>` after the decoder's last norm; boxes_m float32 in the model's
        world, on the CPU. Raises InvalidRequestError without ground heads or proposals.
        """
        if self.ground is None:
            raise InvalidRequestError(
                "the loaded model has no ground heads: load a Video-3D-LLM checkpoint, or ask for"
                " relevance."
            )
        features = self.ground.object_features(boxes_m, frames, strict=not self.reference)
        return self.ground.scores(features, state)
