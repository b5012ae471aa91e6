"""ScanRefer: a description to the box of the one object that it means.

Read is ScanRefer's own list (scene_id, object_id, object_name, ann_id, description). Scored is the
best box: Acc@.25 and Acc@.5 are the shares of descriptions whose IoU reaches that, over all, over
`unique` ones (the object is the only one of its class among the scene's described objects) and over
`multiple` ones. A class is one of 17 of ScanNet's or "others", whatever is none of them, as
ScanRefer's evaluator has it (--labels); without that file the object's name. An entry that says
`unique` or `eval_type` itself is believed.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.evaluation.field.benchmark import Files, Item, OfficialFile, Record, Scoring
from ada3d_ros.lab.evaluation.field.grounded import (
    BOXES,
    LABELS,
    PHRASES,
    GroundedBenchmark,
    boxes_of,
    ious_of,
    item_id,
)
from ada3d_ros.lab.evaluation.field.json_files import Entry, checked_items, read_entries
from ada3d_ros.lab.evaluation.field.true_boxes import TrueBoxes
from ada3d_ros.lab.evaluation.metrics import scanrefer_scores

# ScanNet's benchmark classes as NYU40 names; every other one, "otherfurniture" too, is the 18th.
CLASSES = (
    *("cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture"),
    *("counter", "desk", "curtain", "refrigerator", "shower curtain", "toilet", "sink"),
    "bathtub",
)
OTHERS = "others"
BOX_FILES = (
    OfficialFile(
        BOXES, "folder of ScanNet's meshes, or of SCENE_aligned_bbox.npy files", False, False
    ),
)


class ScanRefer(GroundedBenchmark):
    """See the module."""

    name = "scanrefer"
    description = "ScanRefer: the box of a description; Acc@.25, Acc@.5, unique and multiple"
    files = (
        OfficialFile(PHRASES, "ScanRefer's JSON of descriptions"),
        *BOX_FILES,
        OfficialFile(LABELS, "scannetv2-labels.combined.tsv: names to classes", False, False),
    )

    def read(self, files: Files) -> list[Item]:
        path = files[PHRASES]
        entries = read_entries(path)
        known = TrueBoxes(files[BOXES]) if BOXES in files else None
        classes = read_classes(files[LABELS]) if LABELS in files else None
        alone = _alone(entries, classes)
        items = []
        for entry, unique in zip(entries, alone, strict=True):
            scene, number = entry.text("scene_id"), entry.text("object_id")
            boxes = boxes_of(entry, scene, [number], known)
            if len(boxes) != 1:
                raise entry.error(f"has {len(boxes)} boxes; ScanRefer's descriptions mean one.")
            extra = {BOXES: boxes, "unique": unique}
            items.append(
                Item(item_id(scene, entry, [number]), scene, entry.text("description"), (), extra)
            )
        return checked_items(items, path)

    def item_score(self, item: Item, record: Record) -> float:
        """The IoU of the best box."""
        return next((float(row[0]) for row in ious_of(item, record)), 0.0)

    def score(self, scored: Sequence[tuple[Item, Record]], scoring: Scoring) -> dict[str, float]:
        ious = [self.item_score(item, record) for item, record in scored]
        return scanrefer_scores(ious, [bool(item.extra["unique"]) for item, _ in scored])


def read_classes(path: Path) -> dict[str, str]:
    """Names as annotators wrote them -> one of CLASSES or OTHERS. Raises SourceError."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path} cannot be read as a table ({error}).") from None
    if not rows or not {"raw_category", "nyu40class"} <= set(rows[0]):
        raise SourceError(
            f"{path} has no columns raw_category and nyu40class; ScanNet's"
            " scannetv2-labels.combined.tsv is expected."
        )
    return {
        str(row["raw_category"]): row["nyu40class"] if row["nyu40class"] in CLASSES else OTHERS
        for row in rows
    }


def _alone(entries: Sequence[Entry], classes: dict[str, str] | None) -> list[bool]:
    """Whether each entry's object is the only one of its class among the scene's described."""
    objects = {(entry.text("scene_id"), entry.text("object_id")): entry for entry in entries}
    counts = Counter((scene, _class(entry, classes)) for (scene, _), entry in objects.items())
    return [
        _said_unique(entry, counts[entry.text("scene_id"), _class(entry, classes)] == 1)
        for entry in entries
    ]


def _said_unique(entry: Entry, otherwise: bool) -> bool:
    said = entry.data.get("unique", entry.data.get("eval_type"))
    if said is None:
        return otherwise
    if said in ("unique", "multiple"):
        return bool(said == "unique")
    if isinstance(said, bool):
        return said
    raise entry.error(f"unique is {said!r}; true or false, or `unique` or `multiple`.")


def _class(entry: Entry, classes: dict[str, str] | None) -> str:
    name = entry.text("object_name").replace("_", " ")
    return name if classes is None else classes.get(name, OTHERS)


SCANREFER = ScanRefer()
