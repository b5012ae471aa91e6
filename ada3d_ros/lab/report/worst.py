"""The items that a benchmark's answers were worst at, as a page with pictures.

The template is worst.html.j2; jinja2 escapes every value, and nothing is fetched from anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ada3d_ros.lab.report.content import Evidence
from ada3d_ros.lab.report.page import TEMPLATES
from ada3d_ros.lab.report.pictures import (
    CROP_FONT,
    VIEW_PX,
    Picture,
    draw_beside,
    draw_crop,
    overlay,
    whole,
)
from ada3d_ros.types import Box3D, RgbdFrame

FEW = 3  # views of an item that is about no place


@dataclass(frozen=True, eq=False, slots=True)
class WorstItem:
    """One item. score: 0..1; error: why there was no answer, "" where one came; boxes: how many
    were answered; pictures: of its scene, () without.
    """

    id: str
    source: str
    score: float
    question: str
    references: Sequence[str]
    answer: str
    error: str = ""
    boxes: int = 0
    pictures: Sequence[Picture] = ()


def write_worst(
    path: Path, title: str, tiles: Sequence[tuple[str, str]], items: Sequence[WorstItem]
) -> Path:
    """Write the page, its folder too; returns its path. tiles: number -> what it is, at the top."""
    document = TEMPLATES.get_template("worst.html.j2").render(
        title=title, tiles=tiles, items=items, views=(), stages=()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document + "\n", encoding="utf-8")
    return path


def draw_item(
    frames: Sequence[RgbdFrame], true: Sequence[Box3D], found: Sequence[Box3D]
) -> list[Picture]:
    """True and answered boxes in one view; without boxes, or where none is seen, a few views."""
    boxes = Evidence(tuple(true), tuple(found))
    together = draw_crop(frames, boxes) or draw_beside(frames, boxes)
    if together is not None:
        return [together]
    places = np.unique(np.linspace(0, len(frames) - 1, FEW).astype(int)).tolist()
    return [
        overlay(frames[i], whole(frames[i], VIEW_PX), Evidence(), CROP_FONT, f"View {i + 1}")
        for i in places
    ]
