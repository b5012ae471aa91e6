"""Distances and the list of objects, scored against answers that are known by hand."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from scipy.optimize import minimize

from ada3d_ros.errors import NotGroundedError
from ada3d_ros.geometry.boxes import corners, yaw_rotation
from ada3d_ros.lab.evaluation.measured import (
    MIN_DISTANCE_M,
    PAIRS,
    count_distance,
    count_distances,
    count_objects,
    pairs_of,
    true_distance_m,
)
from ada3d_ros.lab.evaluation.metrics import mean_relative_accuracy
from ada3d_ros.lab.evaluation.selection import Room, RoomSelection, rooms_of
from ada3d_ros.lab.evaluation.tally import Tally, summary
from ada3d_ros.measures import MeasureKind, Measurement, SceneObject
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Answer, AnswerMethod, Box3D, Question, StopReason
from ada3d_ros.usage import StageTimings, TokenUsage


def box(x: float, label: str = "", size: float = 1.0) -> Box3D:
    return Box3D(np.array([x, 0.0, 0.5]), np.full(3, size), label=label)


def measured(value_m: float, half_width_m: float, *boxes: Box3D) -> Answer:
    measurement = Measurement(MeasureKind.DISTANCE, (value_m,), "m", (half_width_m,), boxes=boxes)
    head = "?", "", (), 0, "map", (0,), StopReason.EOS, TokenUsage(), StageTimings()
    return Answer(*head, method=AnswerMethod.MEASURED, measurement=measurement)


def opened() -> Tally:
    tally = Tally()
    tally.next_room()
    return tally


@pytest.mark.parametrize(
    ("value", "accuracy"), [(2.0, 1.0), (2.09, 1.0), (1.76, 0.8), (2.99, 0.1), (3.0, 0.0), (0, 0.0)]
)
def test_relative_accuracy_counts_the_levels_that_an_error_keeps(
    value: float, accuracy: float
) -> None:
    """Of 2 m: an error of 4.5 % keeps all ten, of 12 % those to .85, of 49.5 % the first alone."""
    assert mean_relative_accuracy(value, 2.0) == pytest.approx(accuracy)


def test_distances_come_to_what_is_known_by_hand() -> None:
    tally, true = opened(), [box(0.0), box(3.0)]
    count_distance(measured(2.02, 0.05, box(0.1), box(3.1)), true, 2.0, tally)  # right
    count_distance(measured(1.76, 0.10, box(0.0), box(2.9)), true, 2.0, tally)  # too sure
    count_distance(measured(5.00, 0.10, box(0.0), box(6.0)), true, 2.0, tally)  # another thing
    count_distance(None, true, 2.0, tally)  # refused
    model = Answer("?", "two", (), 0, "", (), StopReason.EOS, TokenUsage(), StageTimings())
    count_distance(model, true, 2.0, tally)  # a word is no distance
    metrics = summary(tally)["metrics"]
    assert metrics["distance_grounded"] == pytest.approx(2 / 5)
    assert metrics["distance_mra"] == pytest.approx((1.0 + 0.8) / 5)
    assert metrics["distance_median_error_m"] == pytest.approx((0.02 + 0.24) / 2)
    assert metrics["distance_coverage90"] == pytest.approx(1 / 3)
    details = summary(tally)["details"]
    numbers = {name: details[name]["n"] for name in details if name.startswith("distance")}
    assert list(numbers.values()) == [5, 5, 2, 3]


def test_objects_come_to_what_is_known_by_hand() -> None:
    true = {number: box(3.0 * number, label) for number, label in enumerate(["a", "b", "c", "d"])}
    listed = [
        SceneObject("1", "a", box(0.2, "a")),
        SceneObject("2", "x", box(3.0, "x")),  # another name
        SceneObject("3", "a", box(0.3, "a")),  # the first again
        SceneObject("4", "c", box(6.9, "c")),  # IoU .05
        SceneObject("5", "e", box(40.0, "e")),
    ]
    tally = opened()
    count_objects(listed, true, tally)
    metrics = summary(tally)["metrics"]
    assert metrics["inventory_recall25"] == 2 / 4
    assert metrics["inventory_precision25"] == 2 / 5
    assert metrics["inventory_named"] == 1 / 2
    count_objects([], true, tally)
    assert summary(tally)["metrics"]["inventory_recall25"] == 2 / 8
    assert summary(tally)["details"]["inventory_precision25"]["n"] == 5


@pytest.fixture(scope="module")
def rooms() -> list[Room]:
    return list(rooms_of(RoomSelection(scenes=4, level=2), None))


def test_solids_are_what_the_boxes_enclose(rooms: list[Room]) -> None:
    turned = 0
    for room in rooms:
        assert set(room.solids) == set(room.boxes)
        for number, solid in room.solids.items():
            around = np.ptp(corners(solid), axis=0)
            assert around == pytest.approx(room.boxes[number].size_m, abs=1e-5)
            assert solid.center_m == pytest.approx(room.boxes[number].center_m)
            turned += abs(np.sin(2 * solid.yaw_rad)) > 0.1
    assert turned > 10


def slowly(a: Box3D, b: Box3D) -> float:
    """The smallest distance of two points, one in each box, as scipy finds it."""

    def points(unit: np.ndarray) -> list[np.ndarray]:
        return [
            box.center_m + yaw_rotation(box.yaw_rad) @ (part * box.size_m / 2)
            for box, part in zip((a, b), unit.reshape(2, 3), strict=True)
        ]

    def squared(unit: np.ndarray) -> float:
        first, second = points(unit)
        return float(np.sum((first - second) ** 2))

    found = minimize(squared, np.zeros(6), bounds=[(-1.0, 1.0)] * 6, tol=1e-14)
    return float(np.sqrt(found.fun))


def test_pairs_are_named_alone_and_apart_as_drawn(rooms: list[Room]) -> None:
    for room in rooms:
        pairs = pairs_of(room)
        assert 0 < len(pairs) <= PAIRS
        used = [number for pair in pairs for number in pair]
        assert len(set(used)) == len(used)
        labels = [box.label for box in room.boxes.values()]
        assert all(labels.count(room.boxes[number].label) == 1 for number in used)
        for first, second in pairs:
            distance_m = true_distance_m(room, (first, second))
            expected = slowly(room.solids[first], room.solids[second])
            assert distance_m == pytest.approx(expected, abs=1e-4)
            assert distance_m >= MIN_DISTANCE_M


def test_a_distance_is_asked_as_a_user_asks_and_a_refusal_is_a_miss(rooms: list[Room]) -> None:
    room, asked = rooms[0], list[str]()
    (first, second), *others = pairs_of(room)
    boxes = room.boxes[first], room.boxes[second]

    def ask(question: Question) -> Answer:
        asked.append(question.text)
        if len(asked) == 1:
            return measured(true_distance_m(room, (first, second)), 0.0, *boxes)
        raise NotGroundedError("no such thing")

    tally, pipeline = opened(), cast(Ada3DPipeline, SimpleNamespace(ask=cast(Callable, ask)))
    count_distances(pipeline, room, tally)
    assert asked[0] == f"How far is the {boxes[0].label} from the {boxes[1].label}?"
    assert tally.right["distance_grounded"] == [1.0] + [0.0] * len(others)
    assert tally.refused["NotGrounded"] == len(others) > 0
