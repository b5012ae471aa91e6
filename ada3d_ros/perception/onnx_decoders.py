"""What the outputs of ONNX detectors say: a score and a class for each box, and the box in pixels.

One class for each format that answers for every cell of its maps; those that answer with a list
are in onnx_rows.py. All share the steps of `Decoder`, so that only boxes worth keeping are
computed. Outputs come in the order of the file, as float32 or integers. Boxes are x0, y0, x1, y1
in pixels of the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from ada3d_ros.perception.onnx_input import IMAGENET_MEAN, IMAGENET_STD, UNIT, Convention, Fit

Array = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int64]
Outputs = Sequence[npt.NDArray[Any]]

# Blue first, each channel with its own mean and deviation of ImageNet.
PICODET_INPUT = Convention(Fit.STRETCH, True, IMAGENET_MEAN[::-1], IMAGENET_STD[::-1])
YOLOX_INPUT = Convention(Fit.CORNER, bgr=True)  # 0..255
YOLO_INPUT = Convention(Fit.CENTRE, std=UNIT)  # 0..1


class Decoder(Protocol):
    """How one format is read.

    format: of DetectorInfo; min_score: what its boxes are worth keeping from; num_kinds: that the
    shapes tell, None where they do not.
    """

    @property
    def format(self) -> str: ...
    @property
    def min_score(self) -> float: ...
    @property
    def convention(self) -> Convention: ...
    @property
    def num_kinds(self) -> int | None: ...

    def scores(self, outputs: Outputs) -> tuple[Array, Classes]:
        """The score (N,) of every box, and its class (N,)."""
        ...

    def boxes(self, outputs: Outputs, rows: Rows) -> Array:
        """The boxes (K, 4) of some rows, px of the input."""
        ...

    def mask(self, outputs: Outputs, row: int) -> Array | None:
        """The mask of one row as logits (h, w) over the whole input, above 0 inside; None where
        the format has none.
        """
        ...


class WithoutMask:
    """A format that has boxes only."""

    __slots__ = ()

    def mask(self, outputs: Outputs, row: int) -> Array | None:
        return None


def grid(size: tuple[int, int], strides: Sequence[int]) -> Array:
    """Every cell's column, row and stride, (N, 3), of maps of a size (height, width) in px."""
    height, width = size
    parts = []
    for stride in strides:
        rows, columns = -(-height // stride), -(-width // stride)
        y, x = np.mgrid[:rows, :columns]
        parts.append(np.stack([x, y, np.full_like(x, stride)], axis=-1).reshape(-1, 3))
    return np.concatenate(parts).astype(np.float32)


def sigmoid(values: Array) -> Array:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * values), dtype=np.float32)


def softmax(values: Array) -> Array:
    """Over the last axis; NaN where a row holds NaN or an infinity."""
    raised = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True), dtype=np.float32)


def best_class(scores: Array) -> tuple[Array, Classes]:
    """The best score of each row (N, C) and its class; NaN where any score of the row is NaN."""
    classes = scores.argmax(axis=1)
    return scores[np.arange(len(scores)), classes], classes


def best_class_with_objectness(rows: Array) -> tuple[Array, Classes]:
    """The same of rows (N, 5 + C): a box, whether there is an object, and its classes' scores."""
    return best_class(rows[:, 4:5] * rows[:, 5:])


def corners(boxes: Array) -> Array:
    """Boxes (K, 4) from centre and size to x0, y0, x1, y1."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def sides_from_bins(bins: Array) -> Array:
    """Distances (K, 4) in cells from the logits (K, 4 * M) of M bins: their mean 0..M-1."""
    logits = bins.reshape(len(bins), 4, bins.shape[1] // 4)
    return np.asarray(softmax(logits) @ np.arange(logits.shape[2], dtype=np.float32))


def around(cells: Array, centre: float, sides: Array) -> Array:
    """Boxes (K, 4) px from left, top, right, bottom (K, 4) in cells around cells (K, 3)."""
    middle = cells[:, :2] + np.float32(centre)
    stride = cells[:, 2:]
    low, high = middle - sides[:, :2], middle + sides[:, 2:]
    return np.concatenate([low * stride, high * stride], axis=1)


@dataclass(frozen=True, slots=True)
class PicoDet(WithoutMask):
    """PicoDet: for each stride scores (1, N, C) in 0..1 and bins (1, N, 4 * M)."""

    cells: Array
    score_outputs: tuple[int, ...]
    side_outputs: tuple[int, ...]
    num_kinds: int

    format: ClassVar[str] = "picodet"
    min_score: ClassVar[float] = 0.45
    convention: ClassVar[Convention] = PICODET_INPUT

    def scores(self, outputs: Outputs) -> tuple[Array, Classes]:
        return best_class(np.concatenate([outputs[index][0] for index in self.score_outputs]))

    def boxes(self, outputs: Outputs, rows: Rows) -> Array:
        bins = np.concatenate([outputs[index][0] for index in self.side_outputs])[rows]
        return around(self.cells[rows], 0.5, sides_from_bins(bins))


@dataclass(frozen=True, slots=True)
class NanoDet(WithoutMask):
    """NanoDet-Plus: (1, N, C + 4 * M), scores in 0..1 and bins around the cell's top left."""

    cells: Array
    num_kinds: int

    format: ClassVar[str] = "nanodet"
    min_score: ClassVar[float] = 0.4
    convention: ClassVar[Convention] = PICODET_INPUT

    def scores(self, outputs: Outputs) -> tuple[Array, Classes]:
        return best_class(outputs[0][0][:, : self.num_kinds])

    def boxes(self, outputs: Outputs, rows: Rows) -> Array:
        bins = outputs[0][0][rows, self.num_kinds :]
        return around(self.cells[rows], 0.0, sides_from_bins(bins))


@dataclass(frozen=True, slots=True)
class YoloX(WithoutMask):
    """YOLOX: (1, N, 5 + C), centre and size, objectness, scores, both in 0..1.

    decoded: the boxes are in pixels; else an offset in cells and the log of the size in cells.
    """

    cells: Array
    num_kinds: int
    decoded: bool = False

    format: ClassVar[str] = "yolox"
    min_score: ClassVar[float] = 0.35
    convention: ClassVar[Convention] = YOLOX_INPUT

    def scores(self, outputs: Outputs) -> tuple[Array, Classes]:
        return best_class_with_objectness(outputs[0][0])

    def boxes(self, outputs: Outputs, rows: Rows) -> Array:
        found = outputs[0][0][rows, :4]
        if self.decoded:
            return corners(found)
        cells, stride = self.cells[rows, :2], self.cells[rows, 2:]
        size = np.exp(found[:, 2:]) * stride
        return corners(np.concatenate([(found[:, :2] + cells) * stride, size], axis=1))


@dataclass(frozen=True, slots=True)
class YoloAnchors(WithoutMask):
    """YOLOv5 and v7: (1, 3 * N, 5 + C), centre and size in pixels, objectness, scores."""

    num_kinds: int

    format: ClassVar[str] = "yolo"
    min_score: ClassVar[float] = 0.4
    convention: ClassVar[Convention] = YOLO_INPUT

    def scores(self, outputs: Outputs) -> tuple[Array, Classes]:
        return best_class_with_objectness(outputs[0][0])

    def boxes(self, outputs: Outputs, rows: Rows) -> Array:
        return corners(outputs[0][0][rows, :4])


@dataclass(frozen=True, slots=True)
class Yolo:
    """YOLOv8 and later: (1, 4 + C + M, N) or (1, N, 4 + C + M): centre and size in pixels, scores
    in 0..1, and the weights of M masks (1, M, h, w).

    main, masks: the numbers of these outputs, masks None where there are none.
    """

    num_kinds: int
    main: int = 0
    masks: int | None = None
    channels_last: bool = False

    format: ClassVar[str] = "yolo"
    min_score: ClassVar[float] = 0.4
    convention: ClassVar[Convention] = YOLO_INPUT

    def scores(self, outputs: Outputs) -> tuple[Array, Classes]:
        return best_class(self._table(outputs)[:, 4 : 4 + self.num_kinds])

    def boxes(self, outputs: Outputs, rows: Rows) -> Array:
        return corners(self._table(outputs)[rows, :4])

    def mask(self, outputs: Outputs, row: int) -> Array | None:
        if self.masks is None:
            return None
        return mask_from_weights(
            self._table(outputs)[row, 4 + self.num_kinds :], outputs[self.masks]
        )

    def _table(self, outputs: Outputs) -> Array:
        main: Array = outputs[self.main][0]
        return main if self.channels_last else main.T


def mask_from_weights(weights: Array, masks: Array) -> Array:
    """Logits (h, w): masks (1, M, h, w) summed by weights (M,)."""
    return np.asarray(np.tensordot(weights, masks[0], axes=1), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class YoloMaps(WithoutMask):
    """The maps of YOLOv8 and later before their last step, for each stride (1, 4 * M, h, w) bins
    and (1, C, h, w) logits, in two outputs or one behind the other in one.

    logits: the scores are; else they are in 0..1 already.
    """

    cells: Array
    num_kinds: int
    bin_outputs: tuple[int, ...]
    score_outputs: tuple[int, ...]
    logits: bool = True

    format: ClassVar[str] = "yolo"
    min_score: ClassVar[float] = 0.4
    convention: ClassVar[Convention] = YOLO_INPUT

    def scores(self, outputs: Outputs) -> tuple[Array, Classes]:
        scores, classes = best_class(
            self._rows(outputs, self.score_outputs, slice(-self.num_kinds, None))
        )
        return (sigmoid(scores) if self.logits else scores), classes

    def boxes(self, outputs: Outputs, rows: Rows) -> Array:
        bins = self._rows(outputs, self.bin_outputs, slice(0, 64))[rows]
        return around(self.cells[rows], 0.5, sides_from_bins(bins))

    def _rows(self, outputs: Outputs, numbers: Sequence[int], channels: slice) -> Array:
        """Some channels of some maps, (N, channels)."""
        maps = [outputs[number][0, channels] for number in numbers]
        return np.concatenate([one.reshape(len(one), -1).T for one in maps])
