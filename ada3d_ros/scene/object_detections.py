"""What was found of many names in one scene, reduced to one detection an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ada3d_ros.types import Box3D

MAX_IOU = 0.3  # boxes that overlap more are of one object
MAX_ALTERNATIVES = 4


@dataclass(frozen=True, eq=False, slots=True)
class Detection:
    """A box with the label that fits best, and other labels that were found there, best first."""

    box: Box3D
    alternatives: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return self.box.label


def suppress(boxes: Sequence[Box3D], max_iou: float = MAX_IOU) -> list[Detection]:
    """Non-maximum suppression over all labels: of boxes that overlap by more than max_iou the one
    of the highest score stays, and the labels of the others become its alternatives.

    Best first; the same for any order of boxes with different scores.
    """
    order = sorted(range(len(boxes)), key=lambda i: (-boxes[i].score, i))
    ious = iou_matrix(boxes, boxes)
    kept: list[int] = []
    others: dict[int, list[str]] = {}
    for i in order:
        owner = kept[int(ious[i, kept].argmax())] if kept else i
        if owner == i or ious[i, owner] <= max_iou:
            kept.append(i)
            others[i] = []
        elif len(others[owner]) < MAX_ALTERNATIVES and boxes[i].label not in (
            boxes[owner].label,
            *others[owner],
        ):
            others[owner].append(boxes[i].label)
    return [Detection(boxes[i], tuple(others[i])) for i in kept]


def iou_matrix(first: Sequence[Box3D], second: Sequence[Box3D]) -> npt.NDArray[np.float64]:
    """Intersection over union (F, S) of boxes along the world's axes; yaw ignored."""
    low_a, high_a = _faces(first)
    low_b, high_b = _faces(second)
    volume = np.ones((len(first), len(second)))
    for axis in range(3):  # one by one: a third of the memory
        high = np.minimum.outer(high_a[:, axis], high_b[:, axis])
        low = np.maximum.outer(low_a[:, axis], low_b[:, axis])
        volume *= np.clip(high - low, 0.0, None)
    union = (high_a - low_a).prod(axis=-1)[:, None] + (high_b - low_b).prod(axis=-1) - volume
    ious: npt.NDArray[np.float64] = volume / np.maximum(union, 1e-12)
    return ious


def _faces(boxes: Sequence[Box3D]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    center = np.array([box.center_m for box in boxes], dtype=np.float64).reshape(-1, 3)
    half = np.array([box.size_m for box in boxes], dtype=np.float64).reshape(-1, 3) / 2
    return center - half, center + half
