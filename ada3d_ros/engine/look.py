"""Frames to visual tokens, stage by stage on the clock: a scene's spatial tokens, or the patches of one image."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ada3d_ros.engine.choose import image_tokens
from ada3d_ros.engine.timing import StageClock
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.scene.views import build_multiview, preprocess_color
from ada3d_ros.types import AskHooks, RgbdFrame, SpatialTokens


@torch.inference_mode()
def scene_tokens(
    model: Llava3D, frames: Sequence[RgbdFrame], compat: str, hooks: AskHooks, clock: StageClock
) -> SpatialTokens:
    """The spatial tokens of posed frames. Raises NoFramesError, or what hooks.check raises between the stages."""
    vision = model.config.vision
    with clock.stage("preprocess_s"):
        views = build_multiview(frames, vision.image_size, compat, vision.image_mean, vision.image_std)
    hooks.check()
    with clock.stage("vision_s"):
        features = model.encode_views(views.pixels)
    hooks.check()
    with clock.stage("spatial_s"):
        return model.build_spatial_tokens(features, views)


@torch.inference_mode()
def patch_tokens(model: Llava3D, frame: RgbdFrame, clock: StageClock) -> SpatialTokens:
    """The patches of the frame's colour image, without 3D."""
    config, vision = model.config, model.config.vision
    with clock.stage("preprocess_s"):
        pixels = preprocess_color(
            frame.rgb, vision.image_size, vision.image_mean, vision.image_std, config.image_aspect_ratio
        )
    with clock.stage("vision_s"):
        return image_tokens(model.encode_views(pixels[None])[0])
