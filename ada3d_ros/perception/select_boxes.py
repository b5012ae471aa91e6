"""The last step of every detector: which of its raw boxes are kept, and why the others are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ada3d_ros.perception.detector import Detection2D, FrameDetections

# Reasons in words, for counters.
NAN_SCORE = "a score that is NaN"
SCORE_OUTSIDE = "a score outside 0..1"
NAN_BOX = "a box whose corners are not numbers"
BOX_OUTSIDE = "a box outside the picture"
BOX_WITHOUT_EXTENT = "a box without extent"
MASK_SIZE = "a mask of another size than the picture"

SUPPRESSION_IOU = 0.6  # of two boxes of one label that overlap by more the better stays
MAX_BOXES = 300
EPSILON = 1e-3  # of a score that rounding took beyond 0..1
LEAST_PX = 1.0  # extent of a box that is kept, after it was clipped


def select_boxes(
    boxes_px: npt.ArrayLike,
    scores: npt.ArrayLike,
    labels: Sequence[str],
    size: tuple[int, int],
    min_score: float,
    masks: Sequence[npt.NDArray[np.bool_] | None] | None = None,
) -> FrameDetections:
    """Boxes clipped to the picture, best first, one a thing and label, at most 300.

    boxes_px (N, 4): x0, y0, x1, y1 in pixels; scores (N,); labels (N,); size: (width, height) of
    the picture in pixels; masks (N,) of (H, W) bool or None, asked only for boxes that are kept.
    Boxes below min_score are left out silently, wrong ones are counted in `refused`. `seconds`
    stays NaN.
    """
    boxes = np.asarray(boxes_px, np.float64).reshape(-1, 4)
    values = np.asarray(scores, np.float64).reshape(-1)
    refused: Counter[str] = Counter()

    # Scores first: what is below the threshold is of no interest, whatever its box.
    nan = np.isnan(values)
    outside = ~nan & ((values < -EPSILON) | (values > 1 + EPSILON))
    refused[NAN_SCORE] += int(nan.sum())
    refused[SCORE_OUTSIDE] += int(outside.sum())
    kept = np.flatnonzero(~nan & ~outside & (values >= min_score)).tolist()

    # Then boxes, clipped.
    good: list[int] = []
    clipped = np.clip(boxes, 0, [size[0], size[1], size[0], size[1]])
    for index in kept:
        if reason := _objection(boxes[index], clipped[index], size):
            refused[reason] += 1
        else:
            good.append(index)

    # Best first, one a thing; masks of those alone.
    order = sorted(good, key=lambda index: -values[index])
    detections: list[Detection2D] = []
    for index in _suppressed(order, clipped, labels)[:MAX_BOXES]:
        mask = masks[index] if masks is not None else None
        if mask is not None and mask.shape != (size[1], size[0]):
            refused[MASK_SIZE] += 1
            continue
        x0, y0, x1, y1 = clipped[index].tolist()
        score = float(np.clip(values[index], 0, 1))
        detections.append(Detection2D((x0, y0, x1, y1), labels[index], score, mask))
    return FrameDetections(tuple(detections), {reason: n for reason, n in refused.items() if n})


def _objection(
    box: npt.NDArray[np.float64], clipped: npt.NDArray[np.float64], size: tuple[int, int]
) -> str:
    """Why a box is refused, or nothing."""
    if not np.isfinite(box).all():
        return NAN_BOX
    if box[2] <= box[0] or box[3] <= box[1]:
        return BOX_WITHOUT_EXTENT
    if box[0] >= size[0] or box[1] >= size[1] or box[2] <= 0 or box[3] <= 0:
        return BOX_OUTSIDE
    if clipped[2] - clipped[0] < LEAST_PX or clipped[3] - clipped[1] < LEAST_PX:
        return BOX_WITHOUT_EXTENT
    return ""


def _suppressed(
    order: Sequence[int], boxes: npt.NDArray[np.float64], labels: Sequence[str]
) -> list[int]:
    """The indices, best first, without those that repeat a better one of the same label."""
    by_label: dict[str, list[int]] = {}
    for index in order:
        by_label.setdefault(labels[index], []).append(index)
    stays: set[int] = set()
    for indices in by_label.values():
        left = np.array(indices)
        while left.size:
            first, left = left[0], left[1:]
            stays.add(int(first))
            left = left[_iou(boxes[first], boxes[left]) <= SUPPRESSION_IOU]
    return [index for index in order if index in stays]


def _iou(box: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Intersection over union of (4,) with (N, 4) -> (N,)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1)
    return np.asarray(shared / (np.prod(box[2:] - box[:2]) + areas - shared), np.float64)
