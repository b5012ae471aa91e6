"""The seam: what engine, grounding, asking and node know of a model.

A backbone turns frames into rows of embeddings with places, and a question into token ids; one
decoder, one engine and one set of pruning strategies serve them all. Which one a checkpoint is, its
own config says (architectures.py). How one is added: docs/how-to/add-a-backbone.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from ada3d_ros.model.config import BackboneConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.scene.scene_table import HeldScene, SceneTable
from ada3d_ros.types import PromptSequence, RgbdFrame, SpatialTokens

Origin = tuple[float, float, float]  # of the model's world, metres in the world frame


class EncoderInput(Protocol):
    """What a backbone makes of frames on the CPU; pixels (n, 3, S, S) float32, normalised."""

    @property
    def pixels(self) -> torch.Tensor: ...


class Backbone(Protocol):
    """A model that answers from spatial tokens. Shapes: V views, N tokens, C features, D hidden."""

    @property
    def name(self) -> str:
        """As `ada3d doctor --model` and `architectures.py` call it."""
        ...

    @property
    def config(self) -> BackboneConfig: ...

    @property
    def decoder(self) -> LlamaDecoder: ...

    @property
    def reference(self) -> bool:
        """Whether it does as its reference code does, quirks included (model.compat)."""
        ...

    @property
    def device(self) -> torch.device: ...

    # -- the scene, a view at a time

    def origin_of(self, scene: SceneSnapshot) -> Origin:
        """Where the model's world begins. When it moves, all views are encoded anew."""
        ...

    def prepare_views(self, frames: Sequence[RgbdFrame], origin_m: Origin) -> Any:
        """An EncoderInput of V views, with what `view_parts` needs of their geometry. Raises
        NoFramesError, InvalidRequestError for a 2D-only model.
        """
        ...

    def encode_views(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of the vision tower (n, P, C); each image alone, so that they can be kept."""
        ...

    def view_parts(self, features: torch.Tensor, views: Any) -> Sequence[Any]:
        """What each view adds to a table of `new_table`."""
        ...

    def new_table(self) -> SceneTable: ...

    def spatial_tokens(self, table: Any) -> SpatialTokens:
        """Of all views in the table. Raises NoFramesError without a depth reading."""
        ...

    def new_tokens(self, table: Any, held: Any) -> tuple[SpatialTokens, HeldScene]:
        """What the table has and a prefix made of `held` lacks, and what it holds with that."""
        ...

    # -- one image

    def prepare_image(self, frame: RgbdFrame) -> EncoderInput: ...

    def image_tokens(self, features: torch.Tensor, image: Any) -> SpatialTokens:
        """Of one image, places in patches (column, row, 0)."""
        ...

    # -- grounding by heads of its own

    @property
    def scores_proposals(self) -> bool:
        """Whether it can; else the next raises InvalidRequestError."""
        ...

    def grounding_ids(self, tokenizer: Any, phrase: str) -> list[int]:
        """The prompt that asks which proposals a checked phrase means; the state of its last token
        is compared with theirs.
        """
        ...

    def score_proposals(
        self, state: torch.Tensor, boxes_m: torch.Tensor, table: Any
    ) -> torch.Tensor:
        """Shares (n,) float32 on the CPU of proposals (n, 6), 0 of those that are not meant.

        state (D,): final normed one of the last token of a prompt of `grounding_ids`; boxes_m
        (n, 6) float32 on the CPU: centre and full size along the axes of the model's world; table:
        of the scene's views. Raises OutOfReachError where the model can place none of them.
        """
        ...

    # -- the prompt

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Features of spatial tokens (N, C) as embeddings (N, D)."""
        ...

    def encode_clicks(self, clicks: Sequence[Sequence[float]]) -> torch.Tensor:
        """Points (n, 3), metres in the model's world, as embeddings (n, D)."""
        ...

    def encode_points(self, xyz_m: torch.Tensor) -> torch.Tensor:
        """The same of points (n, 3) float32 on the model's device."""
        ...

    def build_prompt(
        self,
        ids: Sequence[int],
        visual: torch.Tensor | None,
        clicks: torch.Tensor | None = None,
        xyz_m: torch.Tensor | None = None,
    ) -> PromptSequence:
        """Raises InvalidRequestError, QuestionTooLongError; see Llava3D.build_prompt."""
        ...
