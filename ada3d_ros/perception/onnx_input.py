"""A picture made into a network's input, and where the picture lies in it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np
import numpy.typing as npt

PAD = 114  # the grey, 0..255, that YOLO and YOLOX are trained with around a picture
IMAGENET_MEAN = (123.675, 116.28, 103.53)  # red, green, blue, of 0..255
IMAGENET_STD = (58.395, 57.12, 57.375)


class Fit(StrEnum):
    """How a picture of another shape fills the input."""

    STRETCH = "stretched"
    CORNER = "letterboxed, the picture at the top left"
    CENTRE = "letterboxed, the picture in the middle"


@dataclass(frozen=True, slots=True)
class Convention:
    """What a network expects of its values: ((0..255) - mean) / std.

    bgr: blue first; mean, std in the order of the channels.
    """

    fit: Fit
    bgr: bool = False
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


UNIT = (255.0, 255.0, 255.0)  # the std of networks that take 0..1


@dataclass(frozen=True, slots=True)
class ImageInput:
    """The input of a network that takes the picture: its name, size in px, number format.

    channels_first: (1, 3, height, width), else (1, height, width, 3).
    """

    name: str
    height: int
    width: int
    dtype: npt.DTypeLike = np.float32
    channels_first: bool = True


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a picture of width x height px lies in the input: x_input = x * scale_x + left.

    Pixel edges: the picture is (0, 0) to (width, height), the input likewise.
    """

    width: int
    height: int
    scale_x: float
    scale_y: float
    left: int = 0
    top: int = 0

    def to_picture(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Boxes (N, 4) x0, y0, x1, y1 from pixels of the input to pixels of the picture."""
        offset = np.array([self.left, self.top, self.left, self.top], dtype=np.float64)
        scale = np.array([self.scale_x, self.scale_y, self.scale_x, self.scale_y])
        return np.asarray((boxes - offset) / scale, dtype=np.float64)

    def mask(
        self, logits: npt.NDArray[np.float32], image: ImageInput, box: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.bool_]:
        """A mask (height, width) of the picture, true only inside a box of it in px.

        logits (h, w): over the whole input, above 0 inside the thing; between them linear.
        """
        mask = np.zeros((self.height, self.width), dtype=bool)
        low = np.clip(np.floor(box[:2]), 0, None).astype(int)
        high = np.clip(np.ceil(box[2:]), 0, [self.width, self.height]).astype(int)
        if (high <= low).any():
            return mask
        # The centres of the box's pixels, in cells of the logits.
        rows, columns = logits.shape
        x = (np.arange(low[0], high[0]) + 0.5) * self.scale_x + self.left
        y = (np.arange(low[1], high[1]) + 0.5) * self.scale_y + self.top
        map_x, map_y = np.meshgrid(
            np.float32(x * columns / image.width - 0.5), np.float32(y * rows / image.height - 0.5)
        )
        values = cv2.remap(
            np.ascontiguousarray(logits),
            map_x,
            map_y,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        mask[low[1] : high[1], low[0] : high[0]] = values > 0
        return mask


def place(width: int, height: int, image: ImageInput, fit: Fit) -> Placement:
    """Where a picture of width x height px lies in an input."""
    if fit is Fit.STRETCH:
        return Placement(width, height, image.width / width, image.height / height)
    # Whole pixels: what rounding changes is part of the scale, so that boxes come back exactly.
    ratio = min(image.width / width, image.height / height)
    inner_width = min(max(round(width * ratio), 1), image.width)
    inner_height = min(max(round(height * ratio), 1), image.height)
    left, top = (image.width - inner_width) // 2, (image.height - inner_height) // 2
    if fit is Fit.CORNER:
        left = top = 0
    return Placement(width, height, inner_width / width, inner_height / height, left, top)


def grey(image: ImageInput) -> npt.NDArray[np.generic]:
    """An input without anything to see, to try a network with."""
    size = (image.height, image.width)
    shape = (1, 3, *size) if image.channels_first else (1, *size, 3)
    return np.full(shape, PAD if image.dtype == np.uint8 else 0.5, dtype=image.dtype)


def prepare(
    rgb: npt.NDArray[np.uint8], image: ImageInput, convention: Convention
) -> tuple[npt.NDArray[np.generic], Placement]:
    """The input of one picture, rgb (H, W, 3) uint8 RGB, and where the picture lies in it."""
    # The picture in its place.
    height, width = rgb.shape[:2]
    placed = place(width, height, image, convention.fit)
    inner = (round(width * placed.scale_x), round(height * placed.scale_y))
    resized = cv2.resize(rgb, inner, interpolation=cv2.INTER_LINEAR)
    if inner != (image.width, image.height):
        right, bottom = image.width - inner[0] - placed.left, image.height - inner[1] - placed.top
        borders = (placed.top, bottom, placed.left, right)
        around = (PAD, PAD, PAD)
        resized = cv2.copyMakeBorder(resized, *borders, cv2.BORDER_CONSTANT, value=around)

    # Its values.
    values: npt.NDArray[np.generic] = resized[:, :, ::-1] if convention.bgr else resized
    if image.dtype != np.uint8:  # a network of bytes normalises them itself
        mean, std = np.array([convention.mean, convention.std], dtype=np.float32)
        values = (values - mean) / std
    if image.channels_first:
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values[None], dtype=image.dtype), placed
