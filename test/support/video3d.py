"""A small Video-3D-LLM with random weights, and frames for it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from ada3d_ros.model.config import DecoderConfig, VisionConfig
from ada3d_ros.model.video3dllm.backbone import Video3DLLM
from ada3d_ros.model.video3dllm.config import Video3DConfig
from ada3d_ros.model.video3dllm.tokens import GroundedFrame
from ada3d_ros.types import Intrinsics, RgbdFrame

# 6x6 patches, 3x3 cells of 30 px, the last 6 px belong to none.
SMALL_VIDEO3D = Video3DConfig(
    decoder=DecoderConfig(40, 50, 64, 2, 5, 1, 1e-6, 1e6, 512, -1, (39,), qkv_bias=True),
    vision=VisionConfig(16, 24, 3, 2, 14, 96, "gelu_pytorch_tanh", 1e-6, -2),
    max_length=256,
    coord_id=38,
    ground_id=37,
)
CELLS = SMALL_VIDEO3D.cells_per_side


def small_video3d(compat: str = "default", config: Video3DConfig = SMALL_VIDEO3D) -> Video3DLLM:
    generator = torch.Generator().manual_seed(0)
    model = Video3DLLM(config, compat).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def flat_frame(
    size: tuple[int, int] = (160, 120),
    depth_m: float = 2.0,
    xyz_m: tuple[float, float, float] = (0.0, 0.0, 1.0),
    seed: int = 0,
) -> RgbdFrame:
    """A wall at depth_m that fills the image; the camera at xyz_m looks along x of the world."""
    width, height = size
    rng = np.random.default_rng(seed)
    T = np.eye(4)
    T[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]  # forward is x, left is y
    T[:3, 3] = xyz_m
    camera = Intrinsics(100.0, 100.0, width / 2 - 0.5, height / 2 - 0.5, width, height)
    rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    depth = np.full((height, width), depth_m, dtype=np.float32)
    return RgbdFrame(seed, rgb, depth, camera, T, "map")


def with_depth(frame: RgbdFrame, depth_m: npt.NDArray[np.float64]) -> RgbdFrame:
    return replace(frame, depth_m=depth_m.astype(np.float32))


def encode(
    model: Video3DLLM,
    frames: Sequence[RgbdFrame],
    origin_m: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> list[GroundedFrame]:
    """The frames as tokens, in a world whose origin is origin_m."""
    views = model.prepare_views(frames, origin_m)
    return model.view_parts(model.encode_views(views.pixels), views)
