"""Which raw boxes are kept, by value."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ada3d_ros.perception.select_boxes import (
    BOX_OUTSIDE,
    BOX_WITHOUT_EXTENT,
    MASK_SIZE,
    NAN_BOX,
    NAN_SCORE,
    SCORE_OUTSIDE,
    select_boxes,
)

SIZE = (640, 480)
BOX = (10.0, 20.0, 110.0, 220.0)


@pytest.mark.parametrize(
    ("box", "score", "reason"),
    [
        (BOX, math.nan, NAN_SCORE),
        (BOX, 1.2, SCORE_OUTSIDE),
        (BOX, -0.2, SCORE_OUTSIDE),
        ((10.0, math.nan, 110.0, 220.0), 0.9, NAN_BOX),
        ((10.0, -math.inf, 110.0, 220.0), 0.9, NAN_BOX),
        ((700.0, 20.0, 800.0, 220.0), 0.9, BOX_OUTSIDE),
        ((10.0, -50.0, 110.0, 0.0), 0.9, BOX_OUTSIDE),
        ((110.0, 20.0, 10.0, 220.0), 0.9, BOX_WITHOUT_EXTENT),
        ((639.5, 20.0, 700.0, 220.0), 0.9, BOX_WITHOUT_EXTENT),
    ],
)
def test_a_wrong_box_is_refused_and_counted_the_others_stay(
    box: tuple[float, ...], score: float, reason: str
) -> None:
    found = select_boxes([box, (200, 200, 300, 300)], [score, 0.8], ["cup", "tv"], SIZE, 0.5)
    assert [d.label for d in found.detections] == ["tv"]
    assert found.refused == {reason: 1}


def test_boxes_are_clipped_and_best_first() -> None:
    boxes = [(-10, -20, 100, 100), (600, 400, 700, 500)]
    found = select_boxes(boxes, [0.5, 1.0005], ["cup", "tv"], SIZE, 0.5)
    assert [d.box_px for d in found.detections] == [(600, 400, 640, 480), (0, 0, 100, 100)]
    assert [d.score for d in found.detections] == [1.0, 0.5]
    assert found.refused == {}


def test_of_one_thing_the_best_stays_of_two_both() -> None:
    boxes = [BOX, (12, 22, 112, 222), BOX, (115, 20, 215, 220)]
    found = select_boxes(boxes, [0.6, 0.7, 0.65, 0.55], ["cup", "cup", "vase", "cup"], SIZE, 0.5)
    assert [(d.label, d.score) for d in found.detections] == [
        ("cup", 0.7),
        ("vase", 0.65),
        ("cup", 0.55),
    ]


def test_masks_stay_with_their_boxes_those_of_another_size_do_not() -> None:
    right, wrong = np.ones((480, 640), bool), np.ones((640, 480), bool)
    boxes = [BOX, (200, 20, 300, 220), (400, 20, 500, 220)]
    found = select_boxes(boxes, [0.6, 0.7, 0.8], ["a", "b", "c"], SIZE, 0.5, [right, wrong, None])
    assert [(d.label, d.mask is right) for d in found.detections] == [("c", False), ("a", True)]
    assert found.refused == {MASK_SIZE: 1}


def test_below_the_threshold_nothing_is_said() -> None:
    found = select_boxes([(700, 0, 800, 10)], [0.4], ["cup"], SIZE, 0.5)
    assert (found.detections, found.refused) == ((), {})
    assert select_boxes([], [], [], SIZE, 0.5).detections == ()


def test_the_suppression_agrees_with_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(5)
    corner, extent = rng.uniform(0, 300, (200, 2)), rng.uniform(40, 160, (200, 2))
    scores = rng.uniform(0.3, 1, 200)
    theirs = cv2.dnn.NMSBoxes(np.hstack([corner, extent]).tolist(), scores.tolist(), 0.5, 0.6)
    boxes = np.hstack([corner, corner + extent])
    ours = select_boxes(boxes, scores, ["cup"] * 200, SIZE, 0.5).detections
    expected = [float(scores[i]) for i in np.array(theirs).reshape(-1)]
    assert len(expected) > 20
    assert [d.score for d in ours] == pytest.approx(expected)
