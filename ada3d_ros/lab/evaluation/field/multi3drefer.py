"""Multi3DRefer: a description to the boxes of none, one or several objects.

Read is its own list (scene_id, object_ids, ann_id, eval_type, description). Scored is F1@.25 and
F1@.5: found and true boxes are matched one to one so that the sum of their IoUs is largest
(Hungarian method); a pair counts whose IoU reaches that, F1 = 2 pairs / (found + true). A
description that means nothing in the scene has F1 1 without any box, else 0. Numbers are means over
descriptions, over all and by type: zt_w_d, zt_wo_d (zero targets with and without distractors),
st_w_d, st_wo_d (one), mt (several).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from ada3d_ros.lab.evaluation.field.benchmark import Files, Item, OfficialFile, Record, Scoring
from ada3d_ros.lab.evaluation.field.grounded import (
    BOXES,
    PHRASES,
    GroundedBenchmark,
    boxes_in,
    boxes_of,
    ious_of,
    item_id,
)
from ada3d_ros.lab.evaluation.field.json_files import Entry, checked_items, read_entries
from ada3d_ros.lab.evaluation.field.scanrefer import BOX_FILES
from ada3d_ros.lab.evaluation.field.true_boxes import TrueBoxes
from ada3d_ros.lab.evaluation.metrics import IOU_PERCENT, is_found

TYPES = ("zt_wo_d", "zt_w_d", "st_wo_d", "st_w_d", "mt")


class Multi3DRefer(GroundedBenchmark):
    """See the module."""

    name = "multi3drefer"
    description = "Multi3DRefer: none, one or several boxes of a description; F1@.25, F1@.5 by type"
    files = (OfficialFile(PHRASES, "Multi3DRefer's JSON of descriptions"), *BOX_FILES)

    def read(self, files: Files) -> list[Item]:
        path = files[PHRASES]
        known = TrueBoxes(files[BOXES]) if BOXES in files else None
        items = []
        for entry in read_entries(path):
            scene, objects = entry.text("scene_id"), _objects(entry)
            boxes = boxes_of(entry, scene, objects, known) if objects else []
            kind = entry.text("eval_type")
            if kind not in TYPES:
                raise entry.error(f"eval_type is {kind!r}; one of {', '.join(TYPES)} is expected.")
            if len(boxes) != len(objects):
                raise entry.error(f"has {len(boxes)} boxes for {len(objects)} objects.")
            extra = {BOXES: boxes, "type": kind}
            name = item_id(scene, entry, objects)
            items.append(Item(name, scene, entry.text("description"), (), extra))
        return checked_items(items, path)

    def item_score(self, item: Item, record: Record) -> float:
        """The mean of F1@.25 and F1@.5."""
        return float(np.mean([f1(item, record, percent) for percent in IOU_PERCENT]))

    def score(self, scored: Sequence[tuple[Item, Record]], scoring: Scoring) -> dict[str, float]:
        scores = {}
        for name in ("overall", *TYPES):
            of_type = [(i, r) for i, r in scored if name in ("overall", i.extra["type"])]
            for percent in IOU_PERCENT:
                values = [f1(item, record, percent) for item, record in of_type]
                scores[f"{name}_f1_{percent}"] = float(np.mean(values)) if values else math.nan
        return scores


def f1(item: Item, record: Record, percent: int) -> float:
    """Of one description, 0..1; 0 where no answer came, even if nothing was to be found."""
    if "error" in record:
        return 0.0
    found, true = len(boxes_in(record)), len(item.extra[BOXES])
    return f1_of_ious(ious_of(item, record) if found and true else [], found, true, percent)


def f1_of_ious(ious: Sequence[Sequence[float]], found: int, true: int, percent: int) -> float:
    """Of `found` boxes for `true` ones, ious (found, true): 0..1."""
    if not found or not true:
        return float(found == true)
    table = np.array(ious)
    rows, columns = linear_sum_assignment(table, maximize=True)
    pairs = sum(is_found(iou, percent) for iou in table[rows, columns].tolist())
    return 2.0 * pairs / (found + true)


def _objects(entry: Entry) -> list[str]:
    value = entry.value("object_ids")
    if not isinstance(value, list) or any(isinstance(each, list | dict) for each in value):
        raise entry.error("object_ids should be a list of ids, empty for none.")
    return [str(each) for each in value]


MULTI3DREFER = Multi3DRefer()
