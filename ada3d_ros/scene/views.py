"""Frames to views: square, normalised images, depth, intrinsics and poses for the model.

Preset `default`: every view has its own intrinsics, depth is sampled on the same resize-and-crop
grid as colour, half a pixel is accounted for on both axes, and missing depth is NaN. Preset
`reference`: LLaVA-3D bit for bit, its quirks kept
(llava/model/multimodal_encoder/video_processor.py; colour: transformers' CLIPImageProcessor).
Sizes are (width, height).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ada3d_ros.errors import NoFramesError
from ada3d_ros.types import MultiViewInput, RgbdFrame

Size = tuple[int, int]
FloatTriple = tuple[float, float, float]


# -- images


def color_size(size: Size, side: int) -> Size:
    """Size after the short side became `side`, the other int(side * long / short), as in CLIP."""
    width, height = size
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side


def preprocess_color(
    rgb: npt.NDArray[np.uint8],
    side: int,
    mean: FloatTriple,
    std: FloatTriple,
    aspect: str = "square",
) -> torch.Tensor:
    """rgb (H, W, 3) uint8 to (3, S, S) float32: bicubic, centre crop, normalised.

    aspect `pad` keeps the whole image on a square of the mean colour instead of cropping.
    """
    image = Image.fromarray(rgb)
    if aspect == "pad":
        image = _pad_to_square(image, mean)
    size = color_size(image.size, side)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    image = image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))
    return normalise_color(np.asarray(image), mean, std)


def normalise_color(
    rgb: npt.NDArray[np.uint8], mean: FloatTriple, std: FloatTriple
) -> torch.Tensor:
    """rgb (H, W, 3) uint8 to (3, H, W) float32, in the order and precision of transformers'
    processors.
    """
    unit = (rgb * (1 / 255)).astype(np.float32)
    pixels = (unit - np.array(mean, np.float32)) / np.array(std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _pad_to_square(image: Image.Image, mean: FloatTriple) -> Image.Image:
    width, height = image.size
    side = max(width, height)
    square = Image.new("RGB", (side, side), tuple(int(value * 255) for value in mean))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def _nearest_indices(source: int, target: int) -> npt.NDArray[np.int64]:
    """Source index of each target pixel, by Pillow's NEAREST on a row of 16-bit indices."""
    row = Image.fromarray(np.arange(source, dtype=np.uint16)[None])
    return np.asarray(row.resize((target, 1), Image.Resampling.NEAREST))[0].astype(np.int64)


def resize_crop_nearest(
    depth: npt.NDArray[np.generic], size: Size, left_top: tuple[int, int], side: int
) -> npt.NDArray[np.generic]:
    """depth (H, W) resized to `size` by nearest sampling, cropped to the S x S window at left_top.

    0 beyond the border.
    """
    (left, top), (height, width) = left_top, depth.shape
    columns = _nearest_indices(width, size[0])[left : left + side]
    rows = _nearest_indices(height, size[1])[top : top + side]
    window = np.zeros((side, side), depth.dtype)
    window[: len(rows), : len(columns)] = depth[rows[:, None], columns]
    return window


# -- preset reference


@dataclass(frozen=True, eq=False, slots=True)
class RecordedViews:
    """V views as a data set stores them; colour and depth may have different sizes.

    rgb V times (H, W, 3) uint8; depth V times (h, w) in 1/depth_scale metres; intrinsics (V, 4, 4)
    or (V, 3, 3) px at intrinsics_size; poses (V, 4, 4) camera to world; axis_align (4, 4) takes
    that world to the aligned one.
    """

    rgb: Sequence[npt.NDArray[np.uint8]]
    depth: Sequence[npt.NDArray[np.generic]]
    intrinsics: npt.NDArray[np.float64]
    intrinsics_size: Size
    poses: npt.NDArray[np.float64]
    depth_scale: float = 1.0
    axis_align: npt.NDArray[np.float64] | None = None
    stamps_ns: Sequence[int] | None = None


def build_reference_multiview(
    views: RecordedViews, side: int, mean: FloatTriple, std: FloatTriple
) -> MultiViewInput:
    """Views of side S as the reference makes them."""
    # Intrinsics after the resize; the last frame's size serves all.
    height, width = views.depth[-1].shape
    resized = reference_depth_size((width, height), side)
    K = adjust_reference_intrinsics(views.intrinsics, views.intrinsics_size, resized)

    # Poses in the aligned world.
    align = np.eye(4) if views.axis_align is None else np.array(views.axis_align)
    poses = torch.from_numpy(align).float() @ torch.from_numpy(np.array(views.poses)).float()

    # Colour and depth.
    scale = views.depth_scale
    stamps_ns = np.zeros(len(views.rgb)) if views.stamps_ns is None else views.stamps_ns
    return MultiViewInput(
        pixels=torch.stack([preprocess_color(rgb, side, mean, std) for rgb in views.rgb]),
        depth_m=torch.stack([preprocess_reference_depth(d, side, scale) for d in views.depth]),
        K=torch.from_numpy(np.ascontiguousarray(K[:, :3, :3])),
        T_world_cam=poses,
        stamp_ns=np.array(stamps_ns, dtype=np.int64),
    )


def reference_depth_size(size: Size, side: int) -> Size:
    """As color_size, but int(long * (side / short)): one pixel off where that rounds otherwise."""
    width, height = size
    if width <= height:
        return side, int(height * (side / width))
    return int(width * (side / height)), side


def preprocess_reference_depth(
    depth: npt.NDArray[np.generic], side: int, depth_scale: float = 1.0
) -> torch.Tensor:
    """Raw depth (H, W) in 1/depth_scale metres to (S, S) float32 metres; no reading is 0."""
    height, width = depth.shape
    size = reference_depth_size((width, height), side)
    # half to even: Pillow rounds the crop box so
    left_top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    window = resize_crop_nearest(depth, size, left_top, side)
    return torch.from_numpy(np.nan_to_num(window.astype(np.float32))) / depth_scale


def adjust_reference_intrinsics(
    intrinsics: npt.NDArray[np.float64], size: Size, resized: Size
) -> npt.NDArray[np.float32]:
    """(V, 4, 4) or (V, 3, 3) px of images of `size` after resize and crop.

    Quirks kept: no half pixel, and portrait images shift cx by the negative half difference while
    cy stays.
    """
    adjusted = np.array(intrinsics, dtype=np.float64)
    adjusted[:, 0] /= size[0] / resized[0]
    adjusted[:, 1] /= size[1] / resized[1]
    adjusted[:, 0, 2] -= (resized[0] - resized[1]) / 2
    return adjusted.astype(np.float32)


# -- live frames


def build_multiview(
    frames: Sequence[RgbdFrame], side: int, compat: str, mean: FloatTriple, std: FloatTriple
) -> MultiViewInput:
    """Views of side S of live frames (depth registered to colour) under preset `compat`.

    compat: `default` or `reference`. Raises NoFramesError without frames.
    """
    if not frames:
        raise NoFramesError(
            "no frame to look at: is the camera publishing, and does every image have depth and a"
            " pose?"
        )
    stamps_ns = [frame.stamp_ns for frame in frames]
    poses = np.stack([frame.T_world_cam for frame in frames])

    # Preset reference.
    if compat == "reference":
        last = frames[-1].intrinsics
        recorded = RecordedViews(
            rgb=[frame.rgb for frame in frames],
            depth=[frame.depth_m for frame in frames],
            intrinsics=np.stack([frame.intrinsics.matrix for frame in frames]),
            intrinsics_size=(last.width, last.height),
            poses=poses,
            stamps_ns=stamps_ns,
        )
        return build_reference_multiview(recorded, side, mean, std)

    # Preset default.
    depths, intrinsics = zip(*(_crop_view(frame, side) for frame in frames), strict=True)
    return MultiViewInput(
        pixels=torch.stack([preprocess_color(frame.rgb, side, mean, std) for frame in frames]),
        depth_m=torch.stack(depths),
        K=torch.stack(intrinsics),
        T_world_cam=torch.from_numpy(poses).float(),
        stamp_ns=np.array(stamps_ns, dtype=np.int64),
    )


def _crop_view(frame: RgbdFrame, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth (S, S) float32 metres with NaN, and K (3, 3), on the grid of `preprocess_color`."""
    # Depth on the grid of colour.
    camera = frame.intrinsics
    size = color_size((camera.width, camera.height), side)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    depth = resize_crop_nearest(frame.depth_m, size, (left, top), side).astype(np.float32)
    depth[~(depth > 0)] = np.nan

    # Pixel centres lie at integers: pixel u of the frame is (u + 0.5) sx - 0.5 - left in the view.
    sx, sy = size[0] / camera.width, size[1] / camera.height
    cx, cy = (camera.cx + 0.5) * sx - 0.5 - left, (camera.cy + 0.5) * sy - 0.5 - top
    rows = [[camera.fx * sx, 0.0, cx], [0.0, camera.fy * sy, cy], [0.0, 0.0, 1.0]]
    return torch.from_numpy(depth), torch.tensor(rows, dtype=torch.float32)
