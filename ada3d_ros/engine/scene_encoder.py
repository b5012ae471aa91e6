"""From keyframes to spatial tokens: each keyframe passes the vision tower once, alone.

So the tokens are the same, bit for bit, whether keyframes were encoded one by one as they came or
all at a question, and whether others were kept meanwhile. Their places are in the model's world,
whose floor lies at 0 where the model wants it; when the floor in force moves, all are encoded anew.
Preset `reference` is the exception:
there one view's intrinsics serve all, so that a changed scene is encoded anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ada3d_ros.engine.timing import StageClock
from ada3d_ros.engine.token_selection import image_tokens
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.llava_next.llava_next import LlavaNext
from ada3d_ros.scene.floor import stand_on_floor
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.scene.views import build_multiview, preprocess_color
from ada3d_ros.scene.voxel_table import VoxelTable
from ada3d_ros.types import Keyframe, RgbdFrame, SpatialTokens


class SceneEncoder:
    """The keyframes of one scene in one model, as sums per voxel. Used by the thread that owns the
    model alone.
    """

    def __init__(self, model: Llava3D) -> None:
        self.model = model
        self.table = VoxelTable()
        self._tokens: tuple[int, SpatialTokens] | None = None  # of a revision of the table
        self._place = -1, 0.0  # epoch of the scene, and height of its floor
        self.version: tuple[int, int] | None = None  # of the scene that is held in whole

    @property
    def num_voxels(self) -> int:
        """Voxels seen, an upper bound of the spatial tokens."""
        return len(self.table.sums) if self.table.views else 0

    def follow(self, scene: SceneSnapshot) -> list[Keyframe]:
        """Take out keyframes that the scene keeps no more; those of it that are not encoded yet."""
        place = scene.state.epoch, self.model.floor_of(scene.floor.z_m)
        if place != self._place:
            self._place = place
            self._clear()
        kept = {keyframe.index for keyframe in scene.keyframes}
        for index in self.table.views:
            if index not in kept:
                self.table.remove(index)
        encoded = set(self.table.views)
        return [keyframe for keyframe in scene.keyframes if keyframe.index not in encoded]

    def update(self, scene: SceneSnapshot, clock: StageClock, check: Callable[[], None]) -> None:
        """Hold the scene's keyframes and no others; `check` is called before each is encoded."""
        missing = self.follow(scene)
        if self.model.reference and (missing or len(self.table.views) != len(scene.keyframes)):
            self._clear()
            check()
            self._add(scene.keyframes, clock)
            missing = []
        for keyframe in missing:
            check()
            self.encode_keyframe(keyframe, clock)
        self.version = scene.version

    def encode_keyframe(self, keyframe: Keyframe, clock: StageClock) -> None:
        """One keyframe through the vision tower, into the table; not under preset `reference`."""
        assert not self.model.reference
        self._add([keyframe], clock)

    def tokens(self, clock: StageClock) -> SpatialTokens:
        """The spatial tokens of what is held, made once. Raises NoFramesError without depth."""
        if self._tokens is None or self._tokens[0] != self.table.revision:
            with clock.stage("spatial_s"), torch.inference_mode():
                self._tokens = self.table.revision, self.model.spatial_tokens(self.table)
        return self._tokens[1]

    def tokens_of(self, scene: SceneSnapshot, clock: StageClock) -> SpatialTokens:
        """The spatial tokens of some of the keyframes held."""
        indices = [keyframe.index for keyframe in scene.keyframes]
        with clock.stage("spatial_s"), torch.inference_mode():
            return self.model.spatial_tokens(self.table.of_views(indices))

    def _clear(self) -> None:
        self.table, self._tokens, self.version = VoxelTable(), None, None

    @torch.inference_mode()
    def _add(self, keyframes: Sequence[Keyframe], clock: StageClock) -> None:
        vision = self.model.config.vision
        compat = "reference" if self.model.reference else "default"
        with clock.stage("preprocess_s"):
            frames = stand_on_floor([keyframe.frame for keyframe in keyframes], self._place[1])
            mean, std = vision.image_mean, vision.image_std
            views = build_multiview(frames, vision.image_size, compat, mean, std)
        with clock.stage("vision_s"):
            features = self.model.encode_views(views.pixels)
        with clock.stage("spatial_s"):
            for keyframe, sums in zip(
                keyframes, self.model.sum_views(features, views), strict=True
            ):
                self.table.add(keyframe.index, sums)


@torch.inference_mode()
def patch_tokens(model: Llava3D, frame: RgbdFrame, clock: StageClock) -> SpatialTokens:
    """The tokens of the frame's colour image, without 3D."""
    if isinstance(model, LlavaNext):
        with clock.stage("preprocess_s"):
            pixels = model.preprocess(frame)
        with clock.stage("vision_s"):
            return model.pack(model.encode_views(pixels), frame)
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
