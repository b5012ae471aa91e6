"""Answer text to boxes: what is well formed is taken, nothing else; depth must agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ada3d_ros.geometry.boxes import corners, iou_axis_aligned
from ada3d_ros.grounding.from_text import (
    MAX_COORDINATE_M,
    MAX_EVIDENCE,
    MAX_EXTENT_M,
    MAX_YAW_RAD,
    boxes_near,
    check_support,
    parse_boxes,
)
from ada3d_ros.types import Box3D, GroundingMethod
from test.support.box_room import build_box_room

ROOM = build_box_room(num_views=6, width=160, height=120)


def numbers_of(box: Box3D) -> tuple[float, ...]:
    return (*box.center_m, *box.size_m, box.yaw_rad)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "It is localized at [-3.15, 2.905, 0.94, 0.601, 1.218, 1.938].",
            (-3.15, 2.905, 0.94, 0.601, 1.218, 1.938, 0),
        ),
        ("[1,2,3,4,5,6]", (1, 2, 3, 4, 5, 6, 0)),
        ("[ 1 ,\t2 ,\n3 , 4 , 5 , 6 ]", (1, 2, 3, 4, 5, 6, 0)),
        ("[1, 2, 3, 4, 5, 6, 0.5]", (1, 2, 3, 4, 5, 6, 0.5)),
        ("[1, 2, 3, 4, 5, 6, -1.57]", (1, 2, 3, 4, 5, 6, -1.57)),
        ("[+1, -2., .5, 4e-1, 5E0, 6.0]", (1, -2, 0.5, 0.4, 5, 6, 0)),
        ("[[1, 2, 3, 4, 5, 6]]", (1, 2, 3, 4, 5, 6, 0)),
        ("[1, 2 [1, 2, 3, 4, 5, 6]", (1, 2, 3, 4, 5, 6, 0)),
    ],
)
def test_a_well_formed_box(text: str, expected: tuple[float, ...]) -> None:
    (box,) = parse_boxes(text, label="the chair")
    assert numbers_of(box) == expected
    assert (box.label, box.method, box.support_points) == ("the chair", GroundingMethod.TEXT, 0)
    assert math.isnan(box.score)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I see no chair.",
        "[]",
        "[1, 2, 3]",
        "[1, 2, 3, 4, 5]",
        "[1, 2, 3, 4, 5, 6, 7, 8]",
        "[1, 2, 3, 4, 5, 6",
        "1, 2, 3, 4, 5, 6]",
        "(1, 2, 3, 4, 5, 6)",
        "[1; 2; 3; 4; 5; 6]",
        "[1, 2, 3, 4, 5, six]",
        "[1, 2, 3, 4, 5, ]",
        "[1, 2, 3, 4, 5, 6 m]",
        "[1, 2, 3, 4, 5, 0x6]",
        "[1, 2, 3, 4, 5, 1_0]",
        "[1, 2, 3, 4, 5, --6]",
        "[nan, 2, 3, 4, 5, 6]",
        "[1, 2, 3, 4, inf, 6]",
        "[1, 2, 3, 4, 5, 0]",
        "[1, 2, 3, 4, -5, 6]",
        "[1, 2, 3, 4, 5, -0.0]",
        "[1, 2, 3, 4, 5, 1e999]",
        "[1e999, 2, 3, 4, 5, 6]",
        "[-1e999, 2, 3, 4, 5, 6]",
        f"[{MAX_COORDINATE_M * 1.01}, 2, 3, 4, 5, 6]",
        f"[1, 2, 3, 4, 5, {MAX_EXTENT_M * 1.01}]",
        "[1, 2, 3, 4, 5, 6, 1e999]",  # became a box whose yaw is inf, and whose message raised
        "[1, 2, 3, 4, 5, 6, -1e999]",
        "[1, 2, 3, 4, 5, 6, 90]",  # degrees? Not guessed
        "[1, 2, 3, 4, 5, 6, nan]",
        "[" * 5000,
        "[" + "1, " * 5000 + "1]",
        "[1" + " " * 250 + ", 2, 3, 4, 5, 6]",
    ],
)
def test_what_is_not_a_box_is_passed_over(text: str) -> None:
    assert parse_boxes(text) == []
    ok = "[1, 2, 3, 4, 5, 6]"
    assert len(parse_boxes(f"{text} and {ok}")) == 1  # and hides no other


def test_several_boxes_keep_their_order_without_repeats() -> None:
    text = (
        "[1, 1, 1, 1, 1, 1], [2, 2, 2, 1, 1, 1], [1, 1, 1.0, 1, 1, 1e0] and [1, 1, 1, 1, 1, 1, 0.3]"
    )
    assert [box.center_m[0] for box in parse_boxes(text)] == [1, 2, 1]


def assert_usable(boxes: list[Box3D]) -> None:
    for box in boxes:
        assert np.isfinite(numbers_of(box)).all()
        assert (box.size_m > 0).all()
        assert (box.size_m <= MAX_EXTENT_M).all()
        assert (np.abs(box.center_m) <= MAX_COORDINATE_M).all()
        assert abs(box.yaw_rad) <= MAX_YAW_RAD
        assert np.isfinite(corners(box)).all()


NUMBER = st.one_of(
    st.floats().map(repr),
    st.floats(-5, 5).map(lambda x: f"{x:.3f}"),
    st.integers().map(str),
    st.sampled_from(
        [
            "1e999",
            "-1e999",
            "nan",
            "inf",
            "1e-320",
            "0",
            "-0",
            ".",
            "e",
            "+",
            "٣",
            "²",
            "1e",
            "0x1",
            "",
        ]
    ),
)
GROUP = st.lists(NUMBER, min_size=0, max_size=10).map(lambda parts: f"[{', '.join(parts)}]")
HOSTILE = st.lists(
    st.one_of(GROUP, st.text(max_size=30), st.text("[],.0123456789eE+- ", max_size=60)), max_size=8
)


@settings(max_examples=400, deadline=None)
@given(HOSTILE.map("".join))
def test_no_text_makes_a_box_that_cannot_be(text: str) -> None:
    assert_usable(parse_boxes(text))


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(*[st.floats(-9_999, 9_999)] * 3),
    st.tuples(*[st.floats(0.001, 49)] * 3),
    st.floats(-6, 6),
)
def test_every_plausible_box_is_read_back(
    center: tuple[float, ...], size: tuple[float, ...], yaw: float
) -> None:
    text = f"at [{', '.join(f'{value:.6f}' for value in (*center, *size, yaw))}]."
    (box,) = parse_boxes(text)
    np.testing.assert_allclose(numbers_of(box), (*center, *size, yaw), atol=1e-6)


def test_a_box_that_depth_supports_names_its_evidence() -> None:
    truth = ROOM.boxes[0]
    (kept,) = check_support([truth], ROOM.frames, 20)
    assert iou_axis_aligned(kept, truth) == pytest.approx(1.0)
    assert kept.support_points >= 20
    stamps = {frame.stamp_ns for frame in ROOM.frames}
    assert set(kept.evidence_stamps_ns) <= stamps
    assert len(kept.evidence_stamps_ns) == len(set(kept.evidence_stamps_ns)) <= MAX_EVIDENCE
    alone = [check_support([truth], [frame], 1) for frame in ROOM.frames]
    counts = {
        f.stamp_ns: boxes[0].support_points
        for f, boxes in zip(ROOM.frames, alone, strict=True)
        if boxes
    }
    assert kept.support_points == sum(counts.values())
    assert [counts[s] for s in kept.evidence_stamps_ns] == sorted(counts.values(), reverse=True)[
        :MAX_EVIDENCE
    ]


def test_a_box_in_thin_air_is_dropped_and_the_order_stays() -> None:
    air = Box3D(np.array([0.0, 0.0, 2.0]), np.array([0.2, 0.2, 0.2]), label="air")
    outside = Box3D(np.array([90.0, 0.0, 1.0]), np.array([1.0, 1.0, 1.0]), label="outside")
    kept = check_support([ROOM.boxes[1], air, outside, ROOM.boxes[0]], ROOM.frames, 20)
    assert [box.label for box in kept] == [ROOM.boxes[1].label, ROOM.boxes[0].label]
    everything = check_support([air, outside], ROOM.frames, 0)
    assert [box.support_points for box in everything] == [0, 0]
    assert all(box.evidence_stamps_ns == () for box in everything)
    assert check_support([ROOM.boxes[0]], [], 1) == []


def test_support_counts_to_the_point() -> None:
    (kept,) = check_support([ROOM.boxes[0]], ROOM.frames, 1)
    points = kept.support_points
    assert len(check_support([ROOM.boxes[0]], ROOM.frames, points)) == 1
    assert check_support([ROOM.boxes[0]], ROOM.frames, points + 1) == []


@settings(max_examples=60, deadline=None)
@given(HOSTILE.map("".join))
def test_hostile_text_through_the_depth_check(text: str) -> None:
    assert_usable(check_support(parse_boxes(text), ROOM.frames[:2], 1))


@pytest.mark.parametrize(
    "box",
    [
        Box3D(np.zeros(3), np.full(3, MAX_EXTENT_M)),  # around every camera
        Box3D(np.array([0.0, 0.0, 1.35]), np.array([1e-9, 1e-9, 1e-9])),
        Box3D(np.full(3, MAX_COORDINATE_M), np.ones(3), yaw_rad=MAX_YAW_RAD),
        Box3D(ROOM.frames[0].T_world_cam[:3, 3].copy(), np.full(3, 0.01)),  # at the camera's centre
    ],
    ids=["everything", "a point", "far away", "in the camera"],
)
def test_extreme_boxes_are_counted_without_trouble(box: Box3D) -> None:
    with np.errstate(all="raise"):
        kept = check_support([box], ROOM.frames, 0)
    assert kept[0].support_points >= 0


def test_a_written_box_counts_only_where_it_was_asked_for() -> None:
    guess = Box3D(
        np.array([1.0, 0.0, 0.5]),
        np.full(3, 0.6),
        label="lamp",
        score=0.4,
        method=GroundingMethod.RELEVANCE,
    )
    at_place = Box3D(
        np.array([1.4, 0.0, 0.5]), np.array([0.5, 0.5, 1.0]), method=GroundingMethod.TEXT
    )
    elsewhere = Box3D(
        np.array([4.0, 0.0, 0.5]), np.array([0.5, 0.5, 1.0]), method=GroundingMethod.TEXT
    )
    (found,) = boxes_near(guess, [elsewhere, at_place], (), 0, lambda: None)
    assert found.center_m.tolist() == at_place.center_m.tolist()
    assert (found.method, found.score, found.label) == (GroundingMethod.RELEVANCE, 0.4, "lamp")
    assert boxes_near(guess, [elsewhere], (), 0, lambda: None) == ()  # and depth shows nothing
