"""Frames to square views with a world point for every pixel, and the mean point of every cell.

Preset `robot`: pixels without a reading have no point, a cell without any is a hole, portrait
images are cropped above and below. Preset `reference`: Video-3D-LLM as it is, where a missing
reading is the camera's centre and pulls the mean of its cell there. Both unproject at the depth
image's own size and resize the points, as the reference does; colour is squeezed to the size that
depth gets. Sizes are (width, height).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional as F

from ada3d_ros.errors import FrameError, FrameReason, NoFramesError
from ada3d_ros.geometry.unproject import unproject_grid
from ada3d_ros.model.video3dllm.config import Triple, Video3DConfig
from ada3d_ros.scene.views import Size, normalise_color
from ada3d_ros.types import RgbdFrame


@dataclass(frozen=True, eq=False, slots=True)
class SquareViews:
    """V views of side S: pixels (V, 3, S, S) float32, normalised; points_m (V, S, S, 3) float32 in
    the model's world, NaN where there is no reading; T_model_cam (V, 4, 4) float32.
    """

    pixels: torch.Tensor
    points_m: torch.Tensor
    T_model_cam: torch.Tensor


@dataclass(frozen=True, slots=True)
class Square:
    """How an image becomes one of side S: resized to `size`, then cropped at (left, top)."""

    size: Size
    left: int
    top: int
    side: int


def square_of(size: Size, side: int, portrait: bool) -> Square:
    """The central square of an image, its short side scaled to `side`.

    portrait: images higher than wide are taken too. The reference scales the height and crops
    left and right alone; it fails for them. Raises FrameError (BAD_SIZE) then.
    """
    width, height = size
    if width >= height:
        wide = int(width * (side / height))
        wide = max(wide, side) if portrait else wide
        if wide >= side:
            return Square((wide, side), (wide - side) // 2, 0, side)
    if not portrait:
        raise FrameError(
            FrameReason.BAD_SIZE,
            f"depth of {width}x{height} px is less than {side} px wide where it is {side} px high,"
            " which preset `reference` cannot crop (nor can the reference code): set model.compat:"
            " default, or turn the image.",
        )
    high = max(int(height * (side / width)), side)
    return Square((side, high), 0, (high - side) // 2, side)


def crop_color(rgb: npt.NDArray[np.uint8], square: Square) -> npt.NDArray[np.uint8]:
    """rgb (H, W, 3) as (S, S, 3) uint8: bicubic, whatever the image's own aspect."""
    image = Image.fromarray(rgb).resize(square.size, Image.Resampling.BICUBIC)
    box = (square.left, square.top, square.left + square.side, square.top + square.side)
    return np.asarray(image.crop(box))


def sampled_indices(source: int, target: int) -> npt.NDArray[np.int64]:
    """The pixel of a row of `source` that each of `target` takes, by OpenCV's nearest neighbour."""
    row = np.arange(source, dtype=np.float32)[None]
    return cv2.resize(row, (target, 1), interpolation=cv2.INTER_NEAREST)[0].astype(np.int64)


def square_points(
    depth_m: torch.Tensor, K: torch.Tensor, T_model_cam: torch.Tensor, square: Square
) -> torch.Tensor:
    """World points (S, S, 3) of depth (H, W) at its own size; K (3, 3) px at that size."""
    height, width = depth_m.shape
    u = sampled_indices(width, square.size[0])[square.left : square.left + square.side]
    v = sampled_indices(height, square.size[1])[square.top : square.top + square.side]
    rows, columns = torch.from_numpy(v), torch.from_numpy(u)
    sampled = depth_m[rows[:, None], columns]
    return unproject_grid(rows.float(), columns.float(), sampled, K, T_model_cam)


def mean_points(points_m: torch.Tensor, cells_per_side: int, cell_px: int) -> torch.Tensor:
    """The mean point of each cell, (V, m, m, 3) float32, of points (V, S, S, 3).

    A cell is a window of cell_px x cell_px pixels from the upper left corner on; points that are
    NaN do not count, and a cell without any other is NaN.
    """
    # Summed pixel by pixel as by the reference's pooling: another order differs by 1e-5 m.
    seen = cells_per_side * cell_px
    points = points_m[:, :seen, :seen].permute(0, 3, 1, 2)
    shares = F.avg_pool2d(torch.isfinite(points).float(), cell_px)
    means = F.avg_pool2d(points.nan_to_num(), cell_px) / shares
    return means.permute(0, 2, 3, 1)


def build_square_views(
    frames: Sequence[RgbdFrame], origin_m: Triple, config: Video3DConfig, reference: bool
) -> SquareViews:
    """Views of live frames, whose depth is registered to colour, in a world moved by -origin_m.

    Raises NoFramesError without frames; preset `reference`: FrameError for portrait images.
    """
    if not frames:
        raise NoFramesError(
            "no frame to look at: is the camera publishing, and does every image have depth and a"
            " pose?"
        )
    side = config.vision.image_size
    pixels, points, poses = [], [], []
    for frame in frames:
        camera, T = frame.intrinsics, frame.T_world_cam.copy()
        T[:3, 3] -= origin_m
        square = square_of((camera.width, camera.height), side, portrait=not reference)
        depth_m = torch.from_numpy(np.array(frame.depth_m))
        nothing = 0.0 if reference else float("nan")
        depth_m = torch.where(torch.isfinite(depth_m) & (depth_m > 0), depth_m, nothing)
        K, T_model_cam = torch.from_numpy(camera.matrix).float(), torch.from_numpy(T).float()
        pixels.append(normalised_square(frame.rgb, square, config))
        points.append(square_points(depth_m, K, T_model_cam, square))
        poses.append(T_model_cam)
    return SquareViews(torch.stack(pixels), torch.stack(points), torch.stack(poses))


def square_pixels(rgb: npt.NDArray[np.uint8], config: Video3DConfig) -> torch.Tensor:
    """The central square of an image rgb (H, W, 3) alone, (3, S, S) float32, normalised."""
    size = rgb.shape[1], rgb.shape[0]
    return normalised_square(rgb, square_of(size, config.vision.image_size, portrait=True), config)


def normalised_square(
    rgb: npt.NDArray[np.uint8], square: Square, config: Video3DConfig
) -> torch.Tensor:
    """A square (3, S, S) float32 of an image rgb (H, W, 3), normalised for the vision tower."""
    vision = config.vision
    return normalise_color(crop_color(rgb, square), vision.image_mean, vision.image_std)
