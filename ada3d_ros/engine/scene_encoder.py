"""From keyframes to spatial tokens: each keyframe passes the vision tower once, alone.

So the tokens are the same, bit for bit, whether keyframes were encoded one by one as they came or
all at a question, and whether others were kept meanwhile. Their places are in the model's world
(Backbone.origin_of); when its origin moves, all are encoded anew. LLaVA-3D's preset `reference` is
the exception: there one view's intrinsics serve all, so that a changed scene is encoded anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ada3d_ros.engine.timing import StageClock
from ada3d_ros.model.backbone import Backbone, Origin
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.scene.scene_table import SceneTable
from ada3d_ros.types import Keyframe, RgbdFrame, SpatialTokens


class SceneEncoder:
    """The keyframes of one scene in one model, in the table that it wants. Used by the thread that
    owns the model alone.
    """

    def __init__(self, model: Backbone) -> None:
        self.model = model
        self.table: SceneTable = model.new_table()
        self._tokens: tuple[int, SpatialTokens] | None = None  # of a revision of the table
        self._place: tuple[int, Origin] = -1, (0.0, 0.0, 0.0)  # epoch of the scene, and its origin
        self.version: tuple[int, int] | None = None  # of the scene that is held in whole

    def follow(self, scene: SceneSnapshot) -> list[Keyframe]:
        """Take out keyframes that the scene keeps no more; those of it that are not encoded yet."""
        place = scene.state.epoch, self.model.origin_of(scene)
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
        self.table, self._tokens, self.version = self.model.new_table(), None, None

    @torch.inference_mode()
    def _add(self, keyframes: Sequence[Keyframe], clock: StageClock) -> None:
        frames = [keyframe.frame for keyframe in keyframes]
        with clock.stage("preprocess_s"):
            views = self.model.prepare_views(frames, self._place[1])
        with clock.stage("vision_s"):
            features = self.model.encode_views(views.pixels)
        with clock.stage("spatial_s"):
            parts = self.model.view_parts(features, views)
            for keyframe, part in zip(keyframes, parts, strict=True):
                self.table.add(keyframe.index, part)


@torch.inference_mode()
def encode_image(model: Backbone, frame: RgbdFrame, clock: StageClock) -> SpatialTokens:
    """The spatial tokens of the frame's colour image, without 3D."""
    with clock.stage("preprocess_s"):
        image = model.prepare_image(frame)
    with clock.stage("vision_s"):
        return model.image_tokens(model.encode_views(image.pixels), image)
