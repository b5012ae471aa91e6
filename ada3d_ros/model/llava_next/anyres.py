"""Images of any shape for a square vision tower: the grid that fits, its crops, the whole image.

Sizes are (height, width). As transformers' LlavaNextImageProcessor and LlavaNextModel do it, whose
unpadding rounds at the seventh decimal; LLaVA's own code (llava/mm_utils.py, llava_arch.py)
truncates there (docs/decisions/0195-anyres-as-transformers-has-it.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ada3d_ros.scene.views import FloatTriple, preprocess_color

Size = tuple[int, int]
# Of both layouts' published checkpoints, and transformers' default.
V1_6_PINPOINTS: tuple[Size, ...] = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
DECIMALS = 7  # a size in patches is rounded to so many before it is truncated


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """The patches of an image's crops: `crops` (rows, columns) squares side by side, of whose
    patches rows top to top + rows and columns left to left + columns show the image; the others
    show the black that was put around it. rows or columns is 0 for an image as thin as a hair.
    """

    crops: Size
    top: int
    left: int
    rows: int
    columns: int


def select_pinpoint(size: Size, pinpoints: Sequence[Size]) -> Size:
    """The size in pixels of the grid that an image is fitted into.

    The one that keeps most of its pixels, of these the smallest; of equals the first.
    """

    def worth(pinpoint: Size) -> tuple[int, int]:
        scale = min(pinpoint[1] / size[1], pinpoint[0] / size[0])
        kept = min(int(size[1] * scale) * int(size[0] * scale), size[0] * size[1])
        return kept, kept - pinpoint[0] * pinpoint[1]

    return max(pinpoints, key=worth)


def fitted_size(size: Size, target: Size) -> Size:
    """The size of an image that fills `target` in one direction and keeps its aspect ratio."""
    by_height, by_width = target[0] / size[0], target[1] / size[1]
    if by_width < by_height:
        return min(math.ceil(size[0] * by_width), target[0]), target[1]
    return target[0], min(math.ceil(size[1] * by_height), target[1])


def patch_grid_of(size: Size, pinpoint: Size, side: int, patches: int) -> PatchGrid:
    """The patches of an image of `size` in the grid `pinpoint`, in crops of `side` pixels with
    `patches` a side.
    """
    crops = pinpoint[0] // side, pinpoint[1] // side
    height, width = crops[0] * patches, crops[1] * patches
    if size[1] / size[0] > width / height:  # black above and below
        shown = int(round(size[0] * (width / size[1]), DECIMALS))
        top = (height - shown) // 2
        return PatchGrid(crops, top, 0, height - 2 * top, width)
    shown = int(round(size[1] * (height / size[0]), DECIMALS))
    left = (width - shown) // 2
    return PatchGrid(crops, 0, left, height, width - 2 * left)


def preprocess_anyres(
    rgb: npt.NDArray[np.uint8], pinpoint: Size, side: int, mean: FloatTriple, std: FloatTriple
) -> torch.Tensor:
    """rgb (H, W, 3) uint8 to (1 + crops, 3, S, S) float32: the whole image squeezed into a square,
    then the crops row by row, of the image on black; bicubic, normalised.
    """
    # The image in the middle of its grid.
    image = Image.fromarray(rgb)
    height, width = fitted_size((image.height, image.width), pinpoint)
    canvas = Image.new("RGB", (pinpoint[1], pinpoint[0]))
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    canvas.paste(resized, ((pinpoint[1] - width) // 2, (pinpoint[0] - height) // 2))

    # Squares of the tower's size, which only need normalising.
    squares = [image.resize((side, side), Image.Resampling.BICUBIC)]
    for top in range(0, pinpoint[0], side):
        for left in range(0, pinpoint[1], side):
            squares.append(canvas.crop((left, top, left + side, top + side)))
    return torch.stack([preprocess_color(np.asarray(s), side, mean, std) for s in squares])
