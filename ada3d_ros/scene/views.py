"""Frames to views: square, normalised images, depth, intrinsics and poses for the model.

Preset `default`: every view has its own intrinsics, depth is sampled on the same resize-and-crop
grid as colour, half a pixel is accounted for on both axes, and missing depth is NaN. Preset
`reference`: LLaVA-3D bit for bit, its quirks kept
(llava/model/multimodal_encoder/video_processor.py; colour: transformers' CLIPImageProcessor). Sizes
are (width, height).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ada3d_ros.errors import ConfigError, NoFramesError
from ada3d_ros.types import MultiViewInput, RgbdFrame

Size = tuple[int, int]
FloatTriple = tuple[float, float, float]


def sample_reference_frames(n_total: int, num_frames: int) -> list[int]:
    """The frames that the reference takes of a recording: every (n // F)-th, or all, repeated
    cyclically up to F.
    """
    if n_total <= 0 or num_frames <= 0:
        raise ConfigError(
            f"n_total = {n_total} and num_frames = {num_frames} must both be above 0."
        )
    step = max(n_total // num_frames, 1)
    return [index * step % n_total for index in range(num_frames)]


def color_size(size: Size, side: int) -> Size:
    """Size after the short side became `side`; the other is int(side * long / short), as CLIP's
    processor has it.
    """
    width, height = size
    return (
        (side, int(side * height / width))
        if width <= height
        else (int(side * width / height), side)
    )


def reference_depth_size(size: Size, side: int) -> Size:
    """The same for depth: int(long * (side / short)), which can differ by one pixel from the colour
    rule.
    """
    width, height = size
    return (
        (side, int(height * (side / width)))
        if width <= height
        else (int(width * (side / height)), side)
    )


def preprocess_color(
    rgb: npt.NDArray[np.uint8],
    side: int,
    mean: FloatTriple,
    std: FloatTriple,
    aspect: str = "square",
) -> torch.Tensor:
    """rgb (H, W, 3) uint8 to (3, S, S) float32: bicubic, centre crop, normalised. aspect `pad`
    keeps the whole image on a square of the mean colour instead of cropping.
    """
    image = Image.fromarray(rgb)
    if aspect == "pad":
        image = _pad_to_square(image, mean)
    size = color_size(image.size, side)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    image = image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))
    unit = (np.asarray(image) * (1 / 255)).astype(np.float32)
    pixels = (unit - np.array(mean, np.float32)) / np.array(std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _pad_to_square(image: Image.Image, mean: FloatTriple) -> Image.Image:
    width, height = image.size
    side = max(width, height)
    square = Image.new("RGB", (side, side), tuple(int(value * 255) for value in mean))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def _nearest_indices(source: int, target: int) -> npt.NDArray[np.int64]:
    """Source index of each target pixel, by Pillow's NEAREST on a row of indices (16 bit, as the
    reference's depth).
    """
    row = Image.fromarray(np.arange(source, dtype=np.uint16)[None])
    return np.asarray(row.resize((target, 1), Image.Resampling.NEAREST))[0].astype(np.int64)


def resize_crop_nearest(
    depth: npt.NDArray[np.generic], size: Size, left_top: tuple[int, int], side: int
) -> npt.NDArray[np.generic]:
    """depth (H, W) resized to `size` by nearest sampling, then the S x S window at left_top; 0
    beyond the border.
    """
    (left, top), (height, width) = left_top, depth.shape
    columns = _nearest_indices(width, size[0])[left : left + side]
    rows = _nearest_indices(height, size[1])[top : top + side]
    window = np.zeros((side, side), depth.dtype)
    window[: len(rows), : len(columns)] = depth[rows[:, None], columns]
    return window


def preprocess_reference_depth(
    depth: npt.NDArray[np.generic], side: int, depth_scale: float = 1.0
) -> torch.Tensor:
    """Raw depth (H, W) in 1/depth_scale metres to (S, S) float32 metres; no reading stays 0 (NaN
    becomes 0).
    """
    height, width = depth.shape
    size = reference_depth_size((width, height), side)
    left_top = (
        round((size[0] - side) / 2),
        round((size[1] - side) / 2),
    )  # half to even: Pillow rounds the crop box so
    window = resize_crop_nearest(depth, size, left_top, side)
    return torch.from_numpy(np.nan_to_num(window.astype(np.float32))) / depth_scale


def adjust_reference_intrinsics(
    intrinsics: npt.NDArray[np.float64], original: Size, resized: Size
) -> npt.NDArray[np.float32]:
    """(V, 4, 4) or (V, 3, 3) px after resize and crop. Quirks kept: no half pixel, and portrait
    images shift cx by the negative half difference while cy stays.
    """
    adjusted = np.array(intrinsics, dtype=np.float64)
    adjusted[:, 0] /= original[0] / resized[0]
    adjusted[:, 1] /= original[1] / resized[1]
    adjusted[:, 0, 2] -= (resized[0] - resized[1]) / 2
    return adjusted.astype(np.float32)


def build_reference_multiview(
    rgb: Sequence[npt.NDArray[np.uint8]],
    depth: Sequence[npt.NDArray[np.generic]],
    intrinsics: npt.NDArray[np.float64],
    intrinsics_size: Size,
    poses: npt.NDArray[np.float64],
    side: int,
    mean: FloatTriple,
    std: FloatTriple,
    depth_scale: float = 1.0,
    axis_align: npt.NDArray[np.float64] | None = None,
    stamps_ns: Sequence[int] | None = None,
) -> MultiViewInput:
    """Views as the reference makes them; colour and depth may have different sizes.

    rgb V times (H, W, 3) uint8; depth V times (h, w) in 1/depth_scale metres; intrinsics (V, 4, 4)
    or (V, 3, 3) px at intrinsics_size; poses (V, 4, 4) camera to world; axis_align (4, 4) takes
    that world to the aligned one.
    """
    height, width = depth[-1].shape  # the last frame's size serves all
    resized = reference_depth_size((width, height), side)
    K = adjust_reference_intrinsics(intrinsics, intrinsics_size, resized)
    align = torch.from_numpy(np.eye(4) if axis_align is None else np.array(axis_align)).float()
    return MultiViewInput(
        pixels=torch.stack([preprocess_color(image, side, mean, std) for image in rgb]),
        depth_m=torch.stack(
            [preprocess_reference_depth(image, side, depth_scale) for image in depth]
        ),
        K=torch.from_numpy(np.ascontiguousarray(K[:, :3, :3])),
        T_world_cam=align @ torch.from_numpy(np.array(poses)).float(),
        stamp_ns=np.array(
            stamps_ns if stamps_ns is not None else np.zeros(len(rgb)), dtype=np.int64
        ),
    )


def _crop_view(frame: RgbdFrame, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth (S, S) float32 metres with NaN, and K (3, 3) float32, on the grid of
    `preprocess_color`.

    Pixel centres lie at integers, so pixel u of the original is (u + 0.5) * scale - 0.5 - left in
    the view.
    """
    camera = frame.intrinsics
    size = color_size((camera.width, camera.height), side)
    left_top = (size[0] - side) // 2, (size[1] - side) // 2
    depth = resize_crop_nearest(frame.depth_m, size, left_top, side).astype(np.float32)
    depth[~(depth > 0)] = np.nan
    sx, sy = size[0] / camera.width, size[1] / camera.height
    cx, cy = (camera.cx + 0.5) * sx - 0.5 - left_top[0], (camera.cy + 0.5) * sy - 0.5 - left_top[1]
    K = torch.tensor(
        [[camera.fx * sx, 0.0, cx], [0.0, camera.fy * sy, cy], [0.0, 0.0, 1.0]], dtype=torch.float32
    )
    return torch.from_numpy(depth), K


def build_multiview(
    frames: Sequence[RgbdFrame], side: int, compat: str, mean: FloatTriple, std: FloatTriple
) -> MultiViewInput:
    """Views of side S of live frames (depth registered to colour), under preset `default` or
    `reference`.

    Raises NoFramesError without frames.
    """
    if not frames:
        raise NoFramesError(
            "no frame to look at: is the camera publishing, and does every image have depth and a"
            " pose?"
        )
    if compat == "reference":
        last = frames[-1].intrinsics
        return build_reference_multiview(
            [frame.rgb for frame in frames],
            [frame.depth_m for frame in frames],
            np.stack([frame.intrinsics.matrix for frame in frames]),
            (last.width, last.height),
            np.stack([frame.T_world_cam for frame in frames]),
            side,
            mean,
            std,
            stamps_ns=[frame.stamp_ns for frame in frames],
        )
    depths, intrinsics = zip(*(_crop_view(frame, side) for frame in frames), strict=True)
    return MultiViewInput(
        pixels=torch.stack([preprocess_color(frame.rgb, side, mean, std) for frame in frames]),
        depth_m=torch.stack(depths),
        K=torch.stack(intrinsics),
        T_world_cam=torch.from_numpy(np.stack([frame.T_world_cam for frame in frames])).float(),
        stamp_ns=np.array([frame.stamp_ns for frame in frames], dtype=np.int64),
    )
