"""A detector that sees furnished rooms and errs as small detectors do in real ones: shaky boxes,
things missed, other names, parts taken for things, boxes drawn around what is hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ada3d_ros.perception.detector import FrameDetections
from ada3d_ros.perception.select_boxes import select_boxes
from test.support.furnished import HEIGHT, WIDTH, Piece, Seen, projected

MIN_PIXELS = 25
FAINT = 0.34
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Errors:
    """Shares of views. shaky: of a box's sides, by which each is off; missed; through: of things
    partly hidden, that are boxed as if they were not; also, instead: by kind, the names that are
    given beside the right one, or in its place, and how often; parts: by kind, the names given to
    parts of it.
    """

    shaky: float = 0.04
    missed: float = 0.2
    through: float = 0.3
    also: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    instead: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    parts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class ErringDetector:
    """What it says depends on its seed and on the frames in their order."""

    def __init__(self, pieces: Sequence[Piece], errors: Errors, seed: int) -> None:
        self._pieces, self._errors = pieces, errors
        self._random = np.random.default_rng(seed)

    def see(self, seen: Seen) -> FrameDetections:
        """The boxes of one frame, suppressed as every detector's are."""
        boxes: list[Box] = []
        scores: list[float] = []
        labels: list[str] = []

        def say(label: str, box: Box, score: float) -> None:
            boxes.append(box)
            labels.append(label)
            scores.append(float(np.clip(score, 0.0, 0.97)))

        for number, piece in enumerate(self._pieces):
            shown = self._shown(seen, number)
            if shown is None or not piece.kind:
                continue
            box, score = shown
            kind = self._name(piece.kind)
            say(kind, self._shaken(box), score)
            for name, share in self._errors.also.get(piece.kind, {}).items():
                if self._chance(share):
                    say(name, self._shaken(box), score - abs(self._random.normal(0.1, 0.1)))
            for name, share in self._errors.parts.get(piece.kind, {}).items():
                if self._chance(share):
                    say(name, self._shaken(self._part(box)), self._random.normal(0.52, 0.09))
        return select_boxes(boxes, scores, labels, (WIDTH, HEIGHT), FAINT)

    def _shown(self, seen: Seen, number: int) -> tuple[Box, float] | None:
        """Its box in the picture and a score; None where it is not seen, or missed."""
        rows, columns = np.nonzero(seen.owner == number)
        whole = projected(self._pieces[number].corners_m(), seen.frame.T_world_cam)
        if len(rows) < MIN_PIXELS or whole is None:
            return None
        box = (
            *(float(columns.min()), float(rows.min())),
            *(float(columns.max()) + 1, float(rows.max()) + 1),
        )
        share = _area(box) / max(_area(whole), 1.0)
        small = min(box[2] - box[0], box[3] - box[1]) < 12
        if self._chance(self._errors.missed + 0.5 * max(0.0, 0.6 - share) + 0.2 * small):
            return None
        if share < 0.85 and self._chance(self._errors.through):
            box = whole
        score = self._random.normal(0.70, 0.12) - 0.35 * max(0.0, 0.7 - share)
        return box, float(score)

    def _name(self, kind: str) -> str:
        for name, share in self._errors.instead.get(kind, {}).items():
            if self._chance(share):
                return name
        return kind

    def _part(self, box: Box) -> Box:
        """A third to two thirds of its width, all of its height or the upper part."""
        x0, y0, x1, y1 = box
        width = (x1 - x0) * self._random.uniform(0.33, 0.67)
        left = x0 + self._random.uniform(0, 1) * (x1 - x0 - width)
        return (left, y0, left + width, y0 + (y1 - y0) * self._random.uniform(0.7, 1.0))

    def _shaken(self, box: Box) -> Box:
        x0, y0, x1, y1 = box
        off = self._random.normal(0, self._errors.shaky, 4)
        w, h = x1 - x0, y1 - y0
        return (x0 + off[0] * w, y0 + off[1] * h, x1 + off[2] * w, y1 + off[3] * h)

    def _chance(self, share: float) -> bool:
        return bool(self._random.random() < share)


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)
