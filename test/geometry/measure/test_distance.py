"""Distances against scipy's minimisation over both boxes, and their invariants."""

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear
from scipy.spatial.transform import Rotation

from ada3d_ros.geometry.boxes import grow_box, points_inside, yaw_rotation
from ada3d_ros.geometry.measure.distance import (
    center_distance_m,
    plan_distance_m,
    surface_distance_m,
)
from ada3d_ros.types import Box3D
from test.support.measured import any_boxes, box


def minimised_distance_m(a: Box3D, b: Box3D) -> float:
    """Smallest |p - q| over p in a and q in b: least squares with bounds, in box coordinates."""
    matrix = np.hstack((yaw_rotation(a.yaw_rad), -yaw_rotation(b.yaw_rad)))
    half = np.concatenate((a.size_m, b.size_m)) / 2
    solution = lsq_linear(matrix, b.center_m - a.center_m, bounds=(-half, half), tol=1e-14)
    return float(np.sqrt(2 * solution.cost))


def moved(one: Box3D, turn_rad: float, by_m: tuple[float, float, float]) -> Box3D:
    center = Rotation.from_euler("z", turn_rad).apply(one.center_m.copy()) + by_m
    return dataclasses.replace(
        one, center_m=center, size_m=one.size_m.copy(), yaw_rad=one.yaw_rad + turn_rad
    )


@settings(max_examples=100, deadline=None)
@given(any_boxes, any_boxes)
def test_surface_distance_is_the_minimum_over_both_boxes(a: Box3D, b: Box3D) -> None:
    assert surface_distance_m(a, b) == pytest.approx(minimised_distance_m(a, b), abs=2e-5)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (box([0, 0, 0], [1, 1, 1]), box([3, 0, 0], [1, 1, 1]), 2.0),
        (box([0, 0, 0], [1, 1, 1]), box([3, 4, 0], [1, 1, 1]), np.hypot(2, 3)),
        (box([0, 0, 0], [1, 1, 1]), box([2, 2, 2], [1, 1, 1]), np.sqrt(3)),
        (box([0, 0, 0], [1, 1, 1]), box([3, 0, 0], [2, 2, 1], yaw=np.pi / 4), 2.5 - np.sqrt(2)),
        (box([0, 0, 0], [4, 4, 1]), box([1, 0, 0], [1, 1, 0.5]), 0.0),  # one within the other
        (box([0, 0, 0], [1, 1, 1]), box([1, 0, 0], [1, 1, 1]), 0.0),  # they touch
        (box([0, 0, 0], [1, 1, 1]), box([2, 0, 0], [0, 0, 0]), 1.5),  # to a point
        (box([0, 0, 0], [1, 1, 1]), box([0.2, 0.1, 0], [0, 0, 0]), 0.0),  # a point inside
        (box([1, 1, 0], [0, 0, 0]), box([4, 5, 12], [0, 0, 0]), 13.0),  # two points
        (box([1, 1, 0], [0, 0, 0]), box([1, 1, 0], [0, 0, 0]), 0.0),
        (box([0, 0, 0], [1, 1, 1]), box([0, 0, 2], [3, 3, 1]), 1.0),  # over it
    ],
)
def test_distances_by_hand(a: Box3D, b: Box3D, expected: float) -> None:
    assert surface_distance_m(a, b) == pytest.approx(expected, abs=1e-9)
    assert surface_distance_m(b, a) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(any_boxes, any_boxes, st.floats(-4, 4), st.floats(-9e3, 9e3), st.floats(-9e3, 9e3))
def test_distances_are_the_same_from_both_sides_and_in_any_world(
    a: Box3D, b: Box3D, turn_rad: float, x: float, y: float
) -> None:
    a_moved, b_moved = moved(a, turn_rad, (x, y, 5.0)), moved(b, turn_rad, (x, y, 5.0))
    for distance in (surface_distance_m, center_distance_m, plan_distance_m):
        assert distance(b, a) == pytest.approx(distance(a, b), abs=1e-9)
        assert distance(a_moved, b_moved) == pytest.approx(distance(a, b), abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(any_boxes, any_boxes, st.floats(0.01, 1.0))
def test_a_larger_box_is_not_farther(a: Box3D, b: Box3D, margin_m: float) -> None:
    before = surface_distance_m(a, b)
    assert surface_distance_m(grow_box(a, margin_m), b) <= before + 1e-9
    assert before <= center_distance_m(a, b) + 1e-9
    assert plan_distance_m(a, b) <= center_distance_m(a, b) + 1e-9


@settings(max_examples=60, deadline=None)
@given(any_boxes, any_boxes, st.integers(0, 2**31))
def test_no_sampled_pair_of_points_is_nearer(a: Box3D, b: Box3D, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = []
    for one in (a, b):
        local = rng.uniform(-0.5, 0.5, (40, 3)) * one.size_m
        points = local @ yaw_rotation(one.yaw_rad).T + one.center_m
        assume(points_inside(points, grow_box(one, 1e-9)).all())
        parts.append(points)
    gaps = np.linalg.norm(parts[0][:, None] - parts[1][None], axis=-1)
    assert surface_distance_m(a, b) <= gaps.min() + 1e-9
