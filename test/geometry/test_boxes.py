"""Box maths against independent oracles: half-space intersection volumes and invariants."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.spatial import ConvexHull, HalfspaceIntersection

from ada3d_ros.geometry.boxes import (
    corners,
    grow_box,
    iou_axis_aligned,
    iou_oriented,
    points_inside,
    yaw_rotation,
)
from ada3d_ros.types import Box3D

coordinate = st.floats(-1.5, 1.5, allow_nan=False)
extent = st.floats(0.2, 3.0, allow_nan=False)
boxes = st.builds(
    lambda c, s, yaw: Box3D(np.array(c), np.array(s), yaw),
    st.tuples(coordinate, coordinate, coordinate),
    st.tuples(extent, extent, extent),
    st.floats(-7, 7, allow_nan=False),
)


def half_spaces(box):
    """A x + b <= 0 for the six faces."""
    R = yaw_rotation(box.yaw_rad)
    normals = np.concatenate((R.T, -R.T))
    return np.column_stack((normals, -(normals @ box.center_m) - np.tile(box.size_m / 2, 2)))


def volume_of_intersection(a, b):
    spaces = np.concatenate((half_spaces(a), half_spaces(b)))
    # the point deepest inside: maximise r with A x + b + r <= 0
    result = linprog(
        [0, 0, 0, -1],
        A_ub=np.column_stack((spaces[:, :3], np.ones(12))),
        b_ub=-spaces[:, 3],
        bounds=[(None, None)] * 4,
    )
    if result.x[3] < 1e-7:
        return 0.0
    return ConvexHull(HalfspaceIntersection(spaces, result.x[:3]).intersections).volume


@settings(max_examples=150, deadline=None)
@given(boxes, boxes)
def test_oriented_iou_equals_half_space_volume(a, b):
    shared = volume_of_intersection(a, b)
    expected = shared / (a.size_m.prod() + b.size_m.prod() - shared)
    assert iou_oriented(a, b) == pytest.approx(expected, abs=1e-6)


@given(boxes, boxes)
def test_iou_is_symmetric_and_bounded(a, b):
    for iou in (iou_oriented, iou_axis_aligned):
        assert iou(a, b) == pytest.approx(iou(b, a), abs=1e-9)
        assert 0.0 <= iou(a, b) <= 1.0
        assert iou(a, a) == pytest.approx(1.0)


@given(boxes, st.tuples(coordinate, coordinate, coordinate), st.integers(-4, 4))
def test_iou_ignores_where_the_world_begins_and_quarter_turns(box, shift, quarters):
    far = Box3D(box.center_m + np.array(shift) + 1e4, box.size_m, box.yaw_rad)
    near = Box3D(box.center_m + np.array(shift), box.size_m, box.yaw_rad)
    moved = Box3D(box.center_m + 1e4, box.size_m, box.yaw_rad)
    assert iou_oriented(far, moved) == pytest.approx(iou_oriented(near, box), abs=1e-7)
    size = box.size_m[[1, 0, 2]] if quarters % 2 else box.size_m
    turned = Box3D(box.center_m, size, box.yaw_rad + quarters * np.pi / 2)
    assert iou_oriented(box, turned) == pytest.approx(1.0, abs=1e-9)


def test_known_values():
    a = Box3D(np.zeros(3), np.full(3, 2.0))
    shifted = Box3D(np.array([1.0, 0, 0]), np.full(3, 2.0))
    assert iou_oriented(a, shifted) == pytest.approx(1 / 3)
    assert iou_axis_aligned(a, shifted) == pytest.approx(1 / 3)
    # A 2 x 2 square and the same turned by 45 degrees share this area.
    octagon = 8 * (np.sqrt(2) - 1)
    turned = Box3D(np.zeros(3), np.full(3, 2.0), np.pi / 4)
    assert iou_oriented(a, turned) == pytest.approx(octagon / (8 - octagon))
    assert iou_axis_aligned(a, turned) == pytest.approx(0.5)  # its bounds are 2.83 x 2.83 x 2
    assert iou_oriented(a, Box3D(np.array([2.0, 0, 0]), np.full(3, 2.0))) == 0.0  # they touch
    assert iou_oriented(a, Box3D(np.array([0, 0, 5.0]), np.full(3, 2.0))) == 0.0
    assert iou_oriented(Box3D(np.zeros(3), np.zeros(3)), Box3D(np.zeros(3), np.zeros(3))) == 0.0


def test_corner_order():
    box = Box3D(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]))
    expected = [
        [0, 0, 0],
        [2, 0, 0],
        [2, 4, 0],
        [0, 4, 0],
        [0, 0, 6],
        [2, 0, 6],
        [2, 4, 6],
        [0, 4, 6],
    ]
    np.testing.assert_allclose(corners(box), expected)
    turned = Box3D(np.zeros(3), np.array([2.0, 4.0, 6.0]), np.pi / 2)
    np.testing.assert_allclose(corners(turned)[0], [2, -1, -3], atol=1e-12)


@given(boxes)
def test_inside(box):
    inner, outer = corners(grow_box(box, -0.01)), corners(grow_box(box, 0.01))
    assert points_inside(inner, box).all()
    assert not points_inside(outer, box).any()
    assert points_inside(np.array([box.center_m, [np.nan] * 3]), box).tolist() == [True, False]
