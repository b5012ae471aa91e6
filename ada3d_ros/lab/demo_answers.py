"""The node's messages as the demo compares and shows them. Reads attributes; imports no ROS."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ada3d_ros.errors import ErrorCode
from ada3d_ros.geometry.boxes import iou_axis_aligned
from ada3d_ros.lab.demo_questions import RIGHT_IOU, DemoQuestion, Reply, judge
from ada3d_ros.lab.report import Evidence, FoundObject, GivenAnswer
from ada3d_ros.lab.world.generated import GeneratedRoom
from ada3d_ros.measures import MeasureKind
from ada3d_ros.types import AnswerMethod, Box3D

LATENCY = "_ms"  # how the stages of a Latency message end
JOINED = (MeasureKind.DISTANCE, MeasureKind.NEAREST, MeasureKind.WITHIN)
SAME_IOU = 0.5  # boxes that share more are one


def box_of(message: Any) -> Box3D:
    """A GroundedBox message as our type."""
    at, size, turn = message.center.position, message.size, message.center.orientation
    return Box3D(
        np.array([at.x, at.y, at.z]),
        np.array([size.x, size.y, size.z]),
        yaw_rad=2 * math.atan2(turn.z, turn.w),
        label=message.label.removeprefix("the "),
        score=message.score,
    )


def boxes_of(objects: Sequence[Any] | None) -> list[Box3D] | None:
    """Those of SceneObject messages, under the objects' labels; None of None."""
    if objects is None:
        return None
    return [replace(box_of(each.box), label=each.label) for each in objects]


def is_measured(answer: Any) -> bool:
    return bool(answer.method == AnswerMethod.MEASURED)


def reply_of(answer: Any) -> Reply:
    """What of an Answer message is compared with the truth."""
    boxes = tuple(box_of(box) for box in answer.boxes)
    if not is_measured(answer):
        return Reply(answer.text, ErrorCode(answer.error_code), boxes)
    measured = answer.measurement
    return Reply(
        answer.text,
        ErrorCode(answer.error_code),
        boxes,
        word=measured.word,
        values=tuple(measured.values),
        uncertainty=tuple(measured.uncertainty),
        unit=measured.unit,
    )


def evidence_of(answer: Any, question: DemoQuestion) -> Evidence:
    """The boxes that an answer rests on, and lines between them where a length was measured."""
    places = tuple(box_of(box) for box in answer.places)
    sideways = question.kind == "relation"
    if not is_measured(answer):
        boxes = () if places else tuple(box_of(box) for box in answer.boxes)
        return Evidence(boxes, places, from_above=sideways)

    # From the first box to the others, which is where one stands where a side was asked.
    measured = answer.measurement
    boxes = tuple(box_of(box) for box in measured.boxes)
    joins: tuple[tuple[int, int], ...] = ()
    if measured.kind in JOINED:
        joins = tuple((0, i) for i in range(1, len(boxes)))
    if measured.kind == MeasureKind.DIRECTION and len(boxes) == 3:
        joins = (0, 1), (0, 2)
    label = ""
    if measured.kind == MeasureKind.DISTANCE and measured.values:
        label = f"{measured.values[0]:.2f} {measured.unit}"
    return Evidence(boxes, places, joins, label, from_above=sideways)


def given_answer(
    answer: Any, question: DemoQuestion, room: GeneratedRoom | None, tokens: str
) -> GivenAnswer:
    """One Answer message as the report shows it. room: the truth that it is judged by, None where
    nobody knows it; tokens: what it took, in words.
    """
    # What came back; of an error the first sentence, the rest is folded away.
    error, *more = re.split(r"(?<=[.?!]) ", answer.error_msg, maxsplit=1)
    if not answer.success:
        error = f"{ErrorCode(answer.error_code).name}: {error}"
    method = "by the model"
    if is_measured(answer):
        method = "measured"
    elif answer.places:
        often = "once" if len(answer.places) == 1 else f"{len(answer.places)} times"
        method = f"by the model, which pointed {often} first"
    elif answer.error_code == ErrorCode.UNKNOWN_KIND:
        method = "refused"

    # Whether it is right, and where its time went.
    right: bool | None = None
    note = ""
    if room is not None:
        right, note = judge(question, reply_of(answer), room)
    fields = answer.latency.get_fields_and_field_types()
    times = {name.removesuffix(LATENCY): getattr(answer.latency, name) for name in fields}
    return GivenAnswer(
        text=answer.text,
        error=error,
        method=method,
        right=right,
        note=note,
        details=[
            *more,
            *answer.measurement.assumptions,
            *([tokens] if answer.tokens.prompt else []),
        ],
        latency_ms={stage: ms for stage, ms in times.items() if not math.isnan(ms)},
        evidence=evidence_of(answer, question),
    )


def distinct(boxes: Sequence[Box3D]) -> list[Box3D]:
    """Boxes without those that lie on an earlier one."""
    kept: list[Box3D] = []
    for box in boxes:
        if all(iou_axis_aligned(box, other) < SAME_IOU for other in kept):
            kept.append(box)
    return kept


def match_objects(found: Sequence[Box3D], true: Sequence[Box3D]) -> list[FoundObject]:
    """Every found object with the true one that it lies on, best first, then what was missed.

    Each true box is taken once, from IoU RIGHT_IOU on.
    """
    # All pairs that share enough, those with the same name first.
    pairs = [
        (f.label == t.label, iou, i, j)
        for i, f in enumerate(found)
        for j, t in enumerate(true)
        if (iou := iou_axis_aligned(f, t)) >= RIGHT_IOU
    ]
    of_found: dict[int, tuple[int, float]] = {}
    taken: set[int] = set()
    for _, iou, i, j in sorted(pairs, reverse=True):
        if i not in of_found and j not in taken:
            of_found[i] = j, iou
            taken.add(j)

    # Matched, alone, missed.
    rows = [
        FoundObject(found[i].label, found[i], true[j].label, iou)
        for i, (j, iou) in of_found.items()
    ]
    rows += [FoundObject(f.label, f) for i, f in enumerate(found) if i not in of_found]
    rows += [FoundObject("", None, t.label) for j, t in enumerate(true) if j not in taken]
    return rows
