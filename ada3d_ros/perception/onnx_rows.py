"""Formats of ONNX detectors that answer with a list of boxes: suppressed inside, or one a query.

Beside onnx_decoders.py, whose `Decoder` they implement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ada3d_ros.perception.onnx_decoders import (
    PICODET_INPUT,
    YOLO_INPUT,
    Array,
    Classes,
    Outputs,
    Rows,
    WithoutMask,
    best_class,
    corners,
    mask_from_weights,
    sigmoid,
    softmax,
)
from ada3d_ros.perception.onnx_input import IMAGENET_MEAN, IMAGENET_STD, UNIT, Convention, Fit

DETR_INPUT = Convention(Fit.STRETCH, mean=IMAGENET_MEAN, std=IMAGENET_STD)
RTDETR_INPUT = Convention(Fit.STRETCH, std=UNIT)  # 0..1
RTMDET_INPUT = Convention(Fit.CORNER, True, IMAGENET_MEAN[::-1], IMAGENET_STD[::-1])  # blue first


def of_rows(scores: Array, classes: Array) -> tuple[Array, Classes]:
    """Scores and classes of a list; rows that fill it up, of a class below 0, get the score 0."""
    numbers = np.where(np.isfinite(classes), classes, np.iinfo(np.int32).max).astype(np.int64)
    return np.where(numbers < 0, np.float32(0), scores), numbers


def of_shares(boxes: Array, size: tuple[int, int]) -> Array:
    """Boxes (K, 4) of centre and size, in 0..1 of an input (height, width), as corners in px."""
    height, width = size
    return corners(boxes * np.array([width, height, width, height], dtype=np.float32))


@dataclass(frozen=True, slots=True)
class YoloRows:
    """YOLO with suppression inside: (1, N, 6 + M) of x0, y0, x1, y1 px, score, class, and the
    weights of M masks (1, M, h, w).

    main, masks: the numbers of these outputs, masks None where there are none.
    """

    main: int = 0
    masks: int | None = None
    num_kinds: None = None

    format: ClassVar[str] = "yolo"
    min_score: ClassVar[float] = 0.4
    convention: ClassVar[Convention] = YOLO_INPUT

    def scores(self, outputs: Outputs) -> tuple[Array, Classes]:
        rows = outputs[self.main][0]
        return of_rows(rows[:, 4], rows[:, 5])

    def boxes(self, outputs: Outputs, rows: Rows) -> Array:
        return np.asarray(outputs[self.main][0][rows, :4], dtype=np.float32)

    def mask(self, outputs: Outputs, row: int) -> Array | None:
        if self.masks is None:
            return None
        return mask_from_weights(outputs[self.main][0][row, 6:], outputs[self.masks])


@dataclass(frozen=True, slots=True)
class BatchRows(WithoutMask):
    """YOLOv7 with suppression inside: (N, 7) of picture, x0, y0, x1, y1 px, class, score."""

    num_kinds: None = None

    format: ClassVar[str] = "yolo"
    min_score: ClassVar[float] = 0.4
    convention: ClassVar[Convention] = YOLO_INPUT

    def scores(self, outputs: Outputs) -> tuple[Array, Classes]:
        return of_rows(outputs[0][:, 6], outputs[0][:, 5])

    def boxes(self, outputs: Outputs, rows: Rows) -> Array:
        return np.asarray(outputs[0][rows, 1:5], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class PaddleRows(WithoutMask):
    """PaddleDetection with suppression inside: (N, 6) of class, score, x0, y0, x1, y1 px.

    is_detr: Paddle's RT-DETR, else PicoDet.
    """

    main: int
    is_detr: bool = False
    num_kinds: None = None

    @property
    def format(self) -> str:
        return "detr" if self.is_detr else "picodet"

    @property
    def min_score(self) -> float:
        return 0.5

    @property
    def convention(self) -> Convention:
        return RTDETR_INPUT if self.is_detr else PICODET_INPUT

    def scores(self, outputs: Outputs) -> tuple[Array, Classes]:
        return of_rows(outputs[self.main][:, 1], outputs[self.main][:, 0])

    def boxes(self, outputs: Outputs, rows: Rows) -> Array:
        return np.asarray(outputs[self.main][rows, 2:], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class PaddleBoxes(WithoutMask):
    """PicoDet with decoded boxes (1, N, 4) px and scores (1, C, N), not suppressed."""

    num_kinds: int
    box_output: int
    score_output: int

    format: ClassVar[str] = "picodet"
    min_score: ClassVar[float] = 0.5
    convention: ClassVar[Convention] = PICODET_INPUT

    def scores(self, outputs: Outputs) -> tuple[Array, Classes]:
        return best_class(outputs[self.score_output][0].T)

    def boxes(self, outputs: Outputs, rows: Rows) -> Array:
        return np.asarray(outputs[self.box_output][0][rows], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Detr:
    """DETR and its kin: logits (1, Q, C or C + 1), boxes (1, Q, 4) of centre and size in 0..1 of
    the picture, and masks (1, Q, h, w) as logits where it has them.

    size: height and width of the input, px; last_is_nothing: the last class means no object, and
    the classes exclude each other (softmax); normalised: the values are those of ImageNet.
    """

    num_kinds: int
    size: tuple[int, int]
    logit_output: int
    box_output: int
    mask_output: int | None = None
    last_is_nothing: bool = False
    normalised: bool = False

    format: ClassVar[str] = "detr"

    @property
    def min_score(self) -> float:
        return 0.8 if self.last_is_nothing else 0.5  # softmax is surer of itself

    @property
    def convention(self) -> Convention:
        return DETR_INPUT if self.normalised else RTDETR_INPUT

    def scores(self, outputs: Outputs) -> tuple[Array, Classes]:
        logits: Array = outputs[self.logit_output][0]
        if self.last_is_nothing:
            return best_class(softmax(logits)[:, : self.num_kinds])
        scores, classes = best_class(logits[:, : self.num_kinds])
        return sigmoid(scores), classes

    def boxes(self, outputs: Outputs, rows: Rows) -> Array:
        return of_shares(outputs[self.box_output][0][rows], self.size)

    def mask(self, outputs: Outputs, row: int) -> Array | None:
        if self.mask_output is None:
            return None
        return np.asarray(outputs[self.mask_output][0, row], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class DetrTable(WithoutMask):
    """RT-DETR in one output: (1, Q, 4 + C), centre and size in 0..1 of the picture, scores."""

    num_kinds: int
    size: tuple[int, int]

    format: ClassVar[str] = "detr"
    min_score: ClassVar[float] = 0.5
    convention: ClassVar[Convention] = RTDETR_INPUT

    def scores(self, outputs: Outputs) -> tuple[Array, Classes]:
        return best_class(outputs[0][0][:, 4:])

    def boxes(self, outputs: Outputs, rows: Rows) -> Array:
        return of_shares(outputs[0][0][rows, :4], self.size)


@dataclass(frozen=True, slots=True)
class DetrRows(WithoutMask):
    """RT-DETR and D-FINE with their last step inside: labels (1, Q), boxes (1, Q, 4) x0, y0, x1,
    y1 in pixels of what was given as orig_target_sizes, the input here, and scores (1, Q).
    """

    label_output: int
    box_output: int
    score_output: int
    num_kinds: None = None

    format: ClassVar[str] = "detr"
    min_score: ClassVar[float] = 0.5
    convention: ClassVar[Convention] = RTDETR_INPUT

    def scores(self, outputs: Outputs) -> tuple[Array, Classes]:
        return of_rows(outputs[self.score_output][0], outputs[self.label_output][0])

    def boxes(self, outputs: Outputs, rows: Rows) -> Array:
        return np.asarray(outputs[self.box_output][0][rows], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class MmdetRows(WithoutMask):
    """mmdetection's with suppression inside: (1, N, 5) of x0, y0, x1, y1 px, score, and labels
    (1, N). How the picture is prepared is not in the file: as for RTMDet (decision 0149).
    """

    box_output: int
    label_output: int
    num_kinds: None = None

    format: ClassVar[str] = "mmdet"
    min_score: ClassVar[float] = 0.4
    convention: ClassVar[Convention] = RTMDET_INPUT

    def scores(self, outputs: Outputs) -> tuple[Array, Classes]:
        return of_rows(outputs[self.box_output][0][:, 4], outputs[self.label_output][0])

    def boxes(self, outputs: Outputs, rows: Rows) -> Array:
        return np.asarray(outputs[self.box_output][0][rows, :4], dtype=np.float32)
