"""Sides, on, under and between, against the generated rooms' own rules and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ada3d_ros.geometry.boxes import footprint_overlap_m2, points_inside
from ada3d_ros.geometry.measure.relations import (
    bearing_rad,
    covered_share,
    is_between,
    lies_under,
    off_line_m,
    side_of,
    stands_on,
)
from ada3d_ros.lab.world import relations
from ada3d_ros.lab.world.graph import Graph, Thing
from ada3d_ros.types import Box3D
from test.support.measured import any_boxes, box

place = st.tuples(st.floats(-3, 3), st.floats(-3, 3))


def thing(number: int, xy: tuple[float, float]) -> Thing:
    return Thing(number, "chair", "red", (*xy, 0.4), (0.4, 0.4, 0.8))


@settings(max_examples=200, deadline=None)
@given(place, place, place)
def test_sides_are_those_of_the_generated_questions(
    at: tuple[float, float], facing: tuple[float, float], third: tuple[float, float]
) -> None:
    places = [box([*xy, 0.4]) for xy in (at, facing, third)]
    if math.dist(at, facing) < 0.8 or math.dist(at, third) < 0.8:
        return
    side = side_of(places[0], bearing_rad(places[0], places[1]), places[2])
    expected = relations.direction(*(thing(i, xy) for i, xy in enumerate((at, facing, third))))
    assert side is not None
    if expected:
        assert side.word == expected
    elif abs(side.angle_deg) <= 30:
        assert side.word == "in front"
    else:  # between the questions' sectors: the nearer one, and it is said
        assert side.word == ("behind" if abs(side.angle_deg) >= 135 else side.word)
        assert side.other


@pytest.mark.parametrize(
    ("angle_deg", "word", "other"),
    [
        (0, "in front", ""),
        (-14, "in front", ""),
        (20, "in front", "left"),
        (40, "left", "in front"),
        (90, "left", ""),
        (-90, "right", ""),
        (125, "left", "behind"),
        (-140, "behind", "right"),
        (180, "behind", ""),
        (-170, "behind", ""),
    ],
)
def test_every_angle_has_a_side(angle_deg: float, word: str, other: str) -> None:
    heading = 2.1
    bearing = heading + math.radians(angle_deg)
    at = box([5.0, -3.0, 0.0])
    seen = box([5.0 + 2 * math.cos(bearing), -3.0 + 2 * math.sin(bearing), 1.0])
    side = side_of(at, heading, seen)
    assert side is not None
    assert (side.word, side.other) == (word, other)
    assert (side.angle_deg - angle_deg) % 360 == pytest.approx(0, abs=1e-9) or (
        side.angle_deg - angle_deg
    ) % 360 == pytest.approx(360, abs=1e-9)


def test_what_is_where_one_stands_has_no_side() -> None:
    assert side_of(box([1, 1, 0]), 0.0, box([1.02, 1.0, 2.0])) is None


@settings(max_examples=40, deadline=None)
@given(any_boxes, any_boxes)
def test_shared_footprint_is_the_sampled_one(a: Box3D, b: Box3D) -> None:
    side = np.linspace(-0.5, 0.5, 61) * 0.98
    local = np.stack(np.meshgrid(side * a.size_m[0], side * a.size_m[1]), -1).reshape(-1, 2)
    c, s = math.cos(a.yaw_rad), math.sin(a.yaw_rad)
    xy = local @ np.array([[c, s], [-s, c]]) + a.center_m[:2]
    flat = Box3D(np.array([*b.center_m[:2], 0.0]), np.array([*b.size_m[:2], 1.0]), b.yaw_rad)
    inside = points_inside(np.column_stack((xy, np.zeros(len(xy)))), flat)
    assert covered_share(a, b) == pytest.approx(inside.mean(), abs=0.05)
    assert footprint_overlap_m2(a, b) == pytest.approx(footprint_overlap_m2(b, a), abs=1e-9)


TABLE = box([0, 0, 0.4], [1.2, 0.8, 0.8], "table")


@pytest.mark.parametrize(
    ("what", "center", "size", "is_on", "is_under"),
    [
        ("on its top", [0.2, 0.1, 0.95], [0.3, 0.3, 0.3], True, False),
        ("on it, 10 cm too high", [0.2, 0.1, 1.05], [0.3, 0.3, 0.3], True, False),
        ("within a box that reaches up to its top", [0, 0, 0.65], [0.3, 0.3, 0.3], True, False),
        ("hanging over it", [0, 0, 2.0], [0.3, 0.3, 0.3], False, False),
        ("mostly beside it", [0.7, 0, 0.95], [0.3, 0.3, 0.3], False, False),
        ("beneath it", [0.1, 0, 0.15], [0.3, 0.3, 0.3], False, True),
        ("pushed half in", [0.55, 0, 0.5], [0.5, 0.5, 1.0], False, False),
        ("what it stands on", [0, 0, -0.05], [3.0, 3.0, 0.1], False, True),
    ],
)
def test_what_is_on_and_under_a_table(
    what: str, center: list[float], size: list[float], is_on: bool, is_under: bool
) -> None:
    one = box(center, size)
    assert (stands_on(one, TABLE), lies_under(one, TABLE)) == (is_on, is_under), what


def test_on_and_under_agree_with_the_generated_rooms() -> None:
    things = (
        Thing(0, "table", "red", (0.0, 0.0, 0.35), (1.2, 0.8, 0.7)),
        Thing(1, "ball", "blue", (0.3, -0.1, 0.85), (0.3, 0.3, 0.3)),
        Thing(2, "chair", "white", (1.2, 0.0, 0.45), (0.5, 0.5, 0.9)),
    )
    graph = Graph(things)
    boxes = [box(t.center_m, t.extents_m) for t in things]
    for i, one in enumerate(things):
        support = relations.support_of(graph, one)
        for j, other in enumerate(things):
            if i != j:
                assert stands_on(boxes[i], boxes[j]) == (support is other)
                assert lies_under(boxes[j], boxes[i]) == (support is other)


@settings(max_examples=100, deadline=None)
@given(place, place, place)
def test_between_is_measured_as_in_the_generated_questions(
    a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]
) -> None:
    if math.dist(a, b) < 0.1:
        return
    first, second, one = (thing(i, xy) for i, xy in enumerate((a, b, c)))
    boxes = [box(t.center_m) for t in (one, first, second)]
    assert off_line_m(*boxes) == pytest.approx(relations.off_line_m(first, second, one), abs=1e-9)
    assert is_between(*boxes) == (off_line_m(*boxes) <= 0.6)
    assert off_line_m(boxes[0], boxes[2], boxes[1]) == pytest.approx(off_line_m(*boxes), abs=1e-9)
