"""What an answer says, and whether it points at what it is about.

A model's answer says its text, a measured one its value: never its sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from ada3d_ros.geometry.boxes import iou_axis_aligned, points_inside
from ada3d_ros.lab.world.room_question import NUMBERS, RoomQuestion
from ada3d_ros.lab.world.rooms import CATEGORIES, COLORS
from ada3d_ros.types import Answer, AnswerMethod, Box3D

MIN_IOU = 0.25  # of a place with the object that it is meant to be, where its centre lies outside


def said(answer: Answer | None, truth: str) -> str:
    """What an answer comes to, to be compared with the true one; "" where there is none.

    A measured name ("red chair") counts by the part that was asked for, which is of the kind that
    the true answer is of: its colour or its category.
    """
    if answer is None:
        return ""
    measurement = answer.measurement
    if answer.method is not AnswerMethod.MEASURED or measurement is None:
        return answer.text
    if truth in NUMBERS and measurement.values:
        number = round(measurement.values[0])
        return NUMBERS[number] if 0 <= number < len(NUMBERS) else str(number)
    for words in (COLORS, CATEGORIES):
        parts = [part for part in measurement.word.split() if part in words]
        if truth in words and len(parts) == 1:
            return parts[0]
    return measurement.word


def evidence_of(answer: Answer) -> tuple[Box3D, ...]:
    """What the answer itself points at: the places of a model, the boxes of a measurement."""
    if answer.method is AnswerMethod.MEASURED and answer.measurement is not None:
        return answer.measurement.boxes
    return answer.places


def is_grounded(
    places: Sequence[Box3D], question: RoomQuestion, boxes: Mapping[int, Box3D]
) -> bool:
    """Whether the places are the objects that the question is about (`RoomQuestion.places`): as
    many, each one of them, none twice. One suffices to say that there is one: there the first place
    counts.

    boxes: the true ones by object number.
    """
    wanted = question.places
    if question.kind == "existence":
        return bool(places) and any(hits(places[0], boxes[i]) for i in question.evidence)
    if not wanted or len(places) != len(wanted):
        return False
    hit = np.array([[hits(place, boxes[number]) for number in wanted] for place in places])
    rows, columns = linear_sum_assignment(hit, maximize=True)
    return bool(hit[rows, columns].all())


def hits(place: Box3D, true: Box3D) -> bool:
    """Whether a place is the object of the true box: its centre inside, or an IoU of MIN_IOU."""
    inside = bool(points_inside(place.center_m[None], true)[0])
    return inside or iou_axis_aligned(place, true) >= MIN_IOU
