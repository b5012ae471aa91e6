"""Errors, factors and coverage of stated uncertainties, from rooms whose boxes are known."""

import dataclasses

import numpy as np
import pytest

from ada3d_ros.geometry.measure import uncertainty
from ada3d_ros.lab.evaluation.selection import Room, RoomSelection, rooms_of
from ada3d_ros.lab.evaluation.uncertainty import Errors, is_free, measure_room, named_alone
from ada3d_ros.types import Box3D


@pytest.fixture(scope="module")
def room() -> Room:
    return next(rooms_of(RoomSelection("val", scenes=1), 96))


def as_grounded(box: Box3D, by_m: float = 0.0) -> Box3D:
    """A true box as if a model had found it, moved along x."""
    moved = box.center_m + np.array([by_m, 0.0, 0.0])
    return dataclasses.replace(box, center_m=moved, score=1.0, support_points=400)


def test_true_boxes_are_measured_truly(room: Room) -> None:
    found = {number: as_grounded(room.boxes[number]) for number in named_alone(room)}
    errors = Errors()
    measure_room(room, found, 0.0, errors)
    pairs = len(found) * (len(found) - 1) // 2
    summary = errors.summary()
    assert summary["pairs"] == pairs > 5
    assert summary["both_found"] == 1.0
    assert summary["median_error_m"] < 0.05
    assert summary["mra"] > 0.85
    assert summary["rectangles_free"] == 1.0
    assert [error for error, _ in errors.by_kind["CENTERS"]] == pytest.approx([0.0] * pairs)
    assert errors.coverage("PLAN") == 1.0


def test_a_shift_of_all_things_but_one_is_the_error_of_its_distances(room: Room) -> None:
    first, *others = named_alone(room)
    found: dict[int, Box3D | None] = {n: as_grounded(room.boxes[n], 0.2) for n in others}
    found[first] = None  # not found
    errors = Errors()
    measure_room(room, found, 0.0, errors)
    assert [error for error, _ in errors.by_kind["PLACE"]] == pytest.approx([0.2] * len(others))
    assert [error for error, _ in errors.by_kind["PLAN"]] == pytest.approx(
        [0.0] * len(errors.by_kind["PLAN"]), abs=1e-9
    )
    pairs = len(found) * (len(found) - 1) // 2
    assert errors.summary()["both_found"] == pytest.approx(1 - len(others) / pairs)


def test_factor_and_coverage_by_hand() -> None:
    errors = Errors()
    scale = 0.1
    errors.by_kind["PLAN"] = [(0.01 * i, scale) for i in range(101)]
    assert errors.factor("PLAN") == pytest.approx(9.3)
    covered = np.floor(uncertainty.PLAN.model * scale / 0.01) + 1
    assert errors.coverage("PLAN") == pytest.approx(covered / 101)
    assert errors.half_width_m("PLAN") == pytest.approx(uncertainty.PLAN.model * scale)


def test_a_rectangle_under_a_thing_is_not_free(room: Room) -> None:
    solid = next(iter(room.solids.values()))
    under = Box3D(np.array([*solid.center_m[:2], 0.0]), np.array([0.3, 0.3, 0.0]))
    away = Box3D(np.array([30.0, 0.0, 0.0]), np.array([0.3, 0.3, 0.0]))
    assert not is_free(under, room)
    assert is_free(away, room)
