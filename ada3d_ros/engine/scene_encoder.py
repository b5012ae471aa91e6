"""From keyframes to spatial tokens, as they come: every keyframe goes through the vision tower
once, alone.

So the tokens are the same, bit for bit, whether keyframes were looked at one by one as they came or
all at a question, and whether others were kept meanwhile. Preset `reference` is the exception:
there one view's intrinsics serve all, so that a changed scene is looked at anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ada3d_ros.engine.timing import StageClock
from ada3d_ros.engine.token_selection import image_tokens
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.scene.views import build_multiview, preprocess_color
from ada3d_ros.scene.voxel_table import VoxelTable
from ada3d_ros.types import AskHooks, Keyframe, RgbdFrame, SpatialTokens


class SceneEncoder:
    """What one model has seen of one scene. Used by the thread that owns the model alone."""

    def __init__(self, model: Llava3D) -> None:
        self.model = model
        self.table = VoxelTable()
        self._tokens: tuple[int, SpatialTokens] | None = None  # of a revision of the table

    def forget(self) -> None:
        """Start with an empty scene."""
        self.table, self._tokens = VoxelTable(), None

    def missing(self, keyframes: Sequence[Keyframe]) -> list[Keyframe]:
        """Those not looked at yet."""
        seen = set(self.table.views)
        return [keyframe for keyframe in keyframes if keyframe.index not in seen]

    @torch.inference_mode()
    def encode_keyframe(self, keyframe: Keyframe, clock: StageClock) -> None:
        """One keyframe through the vision tower, and into the table. Not under preset `reference`."""
        assert not self.model.reference
        self._add([keyframe], clock)

    def follow(self, keyframes: Sequence[Keyframe], hooks: AskHooks, clock: StageClock) -> None:
        """Hold these keyframes and no others; hooks.check is asked before each look."""
        missing = self.missing(keyframes)
        self.drop_all_but(keyframes)
        if self.model.reference and (missing or len(self.table.views) != len(keyframes)):
            self.forget()
            hooks.check()
            self._add(keyframes, clock)
            return
        for keyframe in missing:
            hooks.check()
            self.encode_keyframe(keyframe, clock)

    def drop_all_but(self, keyframes: Sequence[Keyframe]) -> None:
        """Take out keyframes that are kept no more."""
        kept = {keyframe.index for keyframe in keyframes}
        for name in self.table.views:
            if name not in kept:
                self.table.remove(name)

    @torch.inference_mode()
    def tokens(self, clock: StageClock) -> SpatialTokens:
        """The spatial tokens of what is held, made once. Raises NoFramesError without depth."""
        if self._tokens is None or self._tokens[0] != self.table.revision:
            with clock.stage("spatial_s"):
                self._tokens = self.table.revision, self.model.spatial_tokens(self.table)
        return self._tokens[1]

    @torch.inference_mode()
    def _add(self, keyframes: Sequence[Keyframe], clock: StageClock) -> None:
        vision = self.model.config.vision
        compat = "reference" if self.model.reference else "default"
        with clock.stage("preprocess_s"):
            frames = [keyframe.frame for keyframe in keyframes]
            views = build_multiview(
                frames, vision.image_size, compat, vision.image_mean, vision.image_std
            )
        with clock.stage("vision_s"):
            features = self.model.encode_views(views.pixels)
        with clock.stage("spatial_s"):
            for keyframe, sums in zip(
                keyframes, self.model.sum_views(features, views), strict=True
            ):
                self.table.add(keyframe.index, sums)


@torch.inference_mode()
def patch_tokens(model: Llava3D, frame: RgbdFrame, clock: StageClock) -> SpatialTokens:
    """The patches of the frame's colour image, without 3D."""
    config, vision = model.config, model.config.vision
    with clock.stage("preprocess_s"):
        pixels = preprocess_color(
            frame.rgb,
            vision.image_size,
            vision.image_mean,
            vision.image_std,
            config.image_aspect_ratio,
        )
    with clock.stage("vision_s"):
        return image_tokens(model.encode_views(pixels[None])[0])
