"""What benchmarks have in common whose answers are boxes: ScanRefer and Multi3DRefer.

Boxes are axis-aligned, centre and full extents in metres of the aligned world. An answer with a yaw
counts as the axis-aligned box around it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ada3d_ros.errors import SourceError
from ada3d_ros.geometry.boxes import corners, iou_axis_aligned
from ada3d_ros.lab.evaluation.field.benchmark import Item, Record, Scoring
from ada3d_ros.lab.evaluation.field.json_files import Entry, read_text_answers
from ada3d_ros.lab.evaluation.field.true_boxes import TrueBoxes, box_of
from ada3d_ros.types import Answer, Box3D, Question, Scope

PHRASES, BOXES, LABELS = "phrases", "boxes", "labels"


class GroundedBenchmark:
    """Question, record and answers of a phrase."""

    scope = Scope.SCENE
    grounds = True
    prompt = ""

    def question(self, item: Item) -> Question:
        """The phrase as it is written."""
        return Question(item.text)

    def record(self, item: Item, answer: Answer) -> Record:
        """All boxes, best first."""
        best_first = sorted(answer.boxes, key=_score, reverse=True)
        return {"text": answer.text, BOXES: [numbers_of(box) for box in best_first]}

    def remarks(self, scored: Sequence[tuple[Item, Record]], scoring: Scoring) -> list[str]:
        """None: the numbers are of all that was scored."""
        return []

    def read_answers(self, path: Path) -> dict[str, Record]:
        """Ours, or rows with an id and `boxes` (or one `box`) of 6 or 7 numbers: centre, size, and
        perhaps a score; without scores in their order.
        """
        return read_text_answers(path, _record)


def numbers_of(box: Box3D) -> list[float | None]:
    """[cx, cy, cz, dx, dy, dz, score] of the axis-aligned box around it; no score: None."""
    at = corners(box)
    low, high = at.min(axis=0), at.max(axis=0)
    score = None if math.isnan(box.score) else round(float(box.score), 6)
    return [*(round(float(v), 4) for v in (*((low + high) / 2), *(high - low))), score]


def ious_of(item: Item, record: Record) -> list[list[float]]:
    """Of each answered box with each true one."""
    true = [box_of(numbers) for numbers in item.extra[BOXES]]
    return [[iou_axis_aligned(box_of(found), each) for each in true] for found in boxes_in(record)]


def boxes_in(record: Record) -> Sequence[list[float]]:
    """The answered boxes, best first; none where there was no answer."""
    found: Sequence[list[float]] = record.get(BOXES, [])
    return found


def item_id(scene: str, entry: Entry, objects: Sequence[str]) -> str:
    """`scene0011_00|7|2`: scene, objects and number of the description, which together are one."""
    return "|".join((scene.rsplit("/", 1)[-1], *objects, entry.text("ann_id")))


def boxes_of(
    entry: Entry, scene: str, objects: Sequence[str], known: TrueBoxes | None
) -> list[list[float]]:
    """The true boxes of the entry's objects: its own (`box` or `boxes`), else those of the scene.

    Raises SourceError where neither is there.
    """
    if entry.has(BOXES):
        rows = entry.value(BOXES)
        return [entry.numbers(row, 6) for row in (rows if isinstance(rows, list) else [rows])]
    if entry.has("box"):
        return [entry.numbers(entry.value("box"), 6)]
    if known is None:
        raise SourceError(
            f"{entry.path} names objects without boxes: name the folder of the scenes' meshes, or"
            " of ScanRefer's prepared SCENE_aligned_bbox.npy files, with --boxes FOLDER."
        )
    numbers = [name for name in objects if name.isdecimal()]
    if len(numbers) != len(objects):
        raise entry.error(f"object ids {', '.join(objects)} are no numbers.")
    return [known.box(scene, int(name)) for name in numbers]


def _score(box: Box3D) -> float:
    return -1.0 if math.isnan(box.score) else float(box.score)


def _record(entry: Entry) -> Record:
    data: Mapping[str, Any] = entry.data
    if "error" in data:
        return dict(data)
    rows = data.get(BOXES, [data["box"]] if "box" in data else None)
    if not isinstance(rows, list):
        raise entry.error("has no `boxes`; a list of boxes of 6 or 7 numbers is expected.")
    boxes = []
    for row in rows:
        scored = isinstance(row, list) and len(row) == 7
        score = row[6] if scored else None
        boxes.append([*entry.numbers(row[:6] if scored else row, 6), score])
    if all(isinstance(box[6], int | float) for box in boxes):
        boxes.sort(key=lambda box: float(box[6] or 0.0), reverse=True)
    return {"text": str(data.get("text", "")), BOXES: boxes}
