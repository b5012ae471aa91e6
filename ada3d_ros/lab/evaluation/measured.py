"""What is measured in a room beside its questions: distances between named things, and the list of
objects that is kept with the scene.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ada3d_ros.errors import Ada3DError
from ada3d_ros.geometry.measure.distance import surface_distance_m
from ada3d_ros.lab.evaluation.answers import hits
from ada3d_ros.lab.evaluation.metrics import mean_relative_accuracy
from ada3d_ros.lab.evaluation.objects import match_inventory
from ada3d_ros.lab.evaluation.selection import Room
from ada3d_ros.lab.evaluation.tally import Tally
from ada3d_ros.measures import SceneObject
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Answer, AnswerMethod, Box3D, Question

PAIRS = 3  # of things whose distance a room is asked about, at most
MIN_DISTANCE_M = 0.1  # nearer things touch, and a relative error says nothing
DISTANCE = "How far is the {0} from the {1}?"

Pair = tuple[int, int]


def pairs_of(room: Room) -> list[Pair]:
    """Things that colour and category name alone, two by two, each once; not those that touch."""
    labels = [box.label for box in room.boxes.values()]
    named = [number for number, box in room.boxes.items() if labels.count(box.label) == 1]
    pairs = zip(named[::2], named[1::2], strict=False)
    return [pair for pair in pairs if true_distance_m(room, pair) >= MIN_DISTANCE_M][:PAIRS]


def true_distance_m(room: Room, pair: Pair) -> float:
    """Between the surfaces of the boxes that the things were drawn as, with their yaw."""
    return surface_distance_m(*(room.solids[number] for number in pair))


def count_distances(pipeline: Ada3DPipeline, room: Room, tally: Tally) -> None:
    """The distances of the loaded room's pairs, asked as a user asks, into the tally."""
    for pair in pairs_of(room):
        text = DISTANCE.format(*(room.boxes[number].label for number in pair))
        try:
            outcome: Answer | Exception = pipeline.ask(Question(text, want_boxes=False))
        except Ada3DError as error:
            outcome = error
        answer, boxes = tally.reply(outcome), [room.boxes[number] for number in pair]
        count_distance(answer, boxes, true_distance_m(room, pair), tally)


def count_distance(
    answer: Answer | None, boxes: Sequence[Box3D], true_m: float, tally: Tally
) -> None:
    """One answer into the tally; boxes: the true ones of both things.

    distance_grounded: a number came, and both boxes that it rests on are right; distance_mra: of
    all pairs, 0 where no number came; distance_median_error_m: of the grounded;
    distance_coverage90: of all numbers, whether the true one lies within the stated uncertainty.
    """
    measurement = None if answer is None else answer.measurement
    measured = answer is not None and answer.method is AnswerMethod.MEASURED
    if measurement is None or not measured or not measurement.values:
        tally.add("distance_grounded", 0.0)
        tally.add("distance_mra", 0.0)
        return
    value_m, used = measurement.values[0], measurement.boxes
    error_m = abs(value_m - true_m)
    grounded = len(used) == 2 and all(map(hits, used, boxes))
    tally.add("distance_grounded", float(grounded))
    tally.add("distance_mra", mean_relative_accuracy(value_m, true_m))
    if grounded:
        tally.add("distance_median_error_m", error_m)
    covered = bool(measurement.uncertainty) and error_m <= measurement.uncertainty[0]
    tally.add("distance_coverage90", float(covered))


def count_objects(found: Sequence[SceneObject], boxes: Mapping[int, Box3D], tally: Tally) -> None:
    """The listed objects against the true boxes, one to one at an IoU of .25, into the tally: which
    of the true are listed, which of the listed are true, which of the matched have the right name.
    """
    count = match_inventory(found, boxes)
    for name, part, whole in (
        ("inventory_recall25", count.placed, count.true),
        ("inventory_precision25", count.placed, count.found),
        ("inventory_named", count.named, count.placed),
    ):
        for i in range(whole):
            tally.add(name, float(i < part))
