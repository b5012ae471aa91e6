"""Where labels go so that none lies on another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]

GLYPH, LINE, PADDING = 0.56, 1.3, 3.0  # of the font's size; units around a text
STEPS = 12  # rings of candidates around an anchor
FAR = 1.2  # a label this many line heights from its anchor gets a leader


@dataclass(frozen=True, eq=False, slots=True)
class Label:
    """A text with its middle `at` (2,), and from where a leader comes, None for none.

    width, height: of the text, in the picture's units. kind: a class of the style sheet.
    """

    text: str
    at: Points
    width: float
    height: float
    leader: Points | None = None
    kind: str = ""


def text_size(text: str, font: float) -> tuple[float, float]:
    """About how wide and high a text is in a sans-serif font, with some room around it."""
    return GLYPH * font * len(text) + 2 * PADDING, LINE * font


def place_labels(
    texts: Sequence[str],
    anchors: Sequence[Points],
    font: float,
    size: tuple[float, float],
    kinds: Sequence[str] = (),
) -> list[Label]:
    """A label for each anchor (2,), inside a picture of `size`, as near as it can without lying on
    another; from top to bottom, so that what is above stays above.

    A picture too small for all gets some on top of each other.
    """
    order = sorted(range(len(texts)), key=lambda i: (anchors[i][1], anchors[i][0]))
    placed: dict[int, Label] = {}
    for i in order:
        width, height = text_size(texts[i], font)
        box = np.array([min(width, size[0]), height])
        others = list(placed.values())
        at = _free_place(anchors[i], box, np.array(size), others)
        far = np.linalg.norm((at - anchors[i]) / (FAR * height)) > 1
        kind = kinds[i] if kinds else ""
        leader = anchors[i] if far else None
        placed[i] = Label(texts[i], at, float(box[0]), float(box[1]), leader, kind)
    return [placed[i] for i in range(len(texts))]


def _free_place(anchor: Points, box: Points, size: Points, others: Sequence[Label]) -> Points:
    """The first of the candidates that lies on no other label, else the one that does least."""
    low, high = box / 2, np.maximum(size - box / 2, box / 2)
    best, least = np.clip(anchor, low, high), np.inf
    for step in range(STEPS):
        for direction in ((0, 0),) if step == 0 else ((0, -1), (0, 1), (-1, 0), (1, 0)):
            shift = np.array(direction) * (0.55 * box[0], 1.05 * box[1]) * step
            at = np.clip(anchor + shift, low, high)
            shared = sum(_overlap(at, box, other) for other in others)
            if shared < least:
                best, least = at, shared
            if shared == 0:
                return at
    return best


def _overlap(at: Points, box: Points, other: Label) -> float:
    """The area that two labels share."""
    apart = np.abs(at - other.at)
    shared = (box + np.array([other.width, other.height])) / 2 - apart
    return float(max(shared[0], 0.0) * max(shared[1], 0.0))
