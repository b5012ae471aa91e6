"""Views in quarters: all of the middle square, each pixel where it was in the world."""

from __future__ import annotations

import numpy as np
import pytest

from ada3d_ros.geometry.sparse_points import points_at
from ada3d_ros.scene.cutouts import QUARTERS, in_quarters
from ada3d_ros.types import Keyframe, KeyframeReason, RgbdFrame
from test.support.box_room import build_box_room

WHOLE = slice(None)


@pytest.mark.parametrize(
    ("size", "side", "lefts", "tops"),
    [
        ((160, 120), 75, (20, 65), (0, 45)),
        ((120, 160), 75, (0, 45), (20, 65)),
        ((96, 96), 60, (0, 36), (0, 36)),
    ],
)
def test_quarters_show_the_same_world(
    size: tuple[int, int], side: int, lefts: tuple[int, int], tops: tuple[int, int]
) -> None:
    frame = build_box_room(num_views=1, width=size[0], height=size[1]).frames[0]
    quarters = [each.frame for each in in_quarters([keyframe(frame, 0)])]
    corners = [(left, top) for top in tops for left in lefts]
    for quarter, (left, top) in zip(quarters, corners, strict=True):
        rows, columns = slice(top, top + side), slice(left, left + side)
        np.testing.assert_array_equal(quarter.rgb, frame.rgb[rows, columns])
        np.testing.assert_array_equal(quarter.depth_m, frame.depth_m[rows, columns])
        np.testing.assert_allclose(
            points_at(quarter, WHOLE, WHOLE), points_at(frame, rows, columns), atol=1e-12
        )
        assert quarter.stamp_ns == frame.stamp_ns


def test_each_has_an_index_of_its_own() -> None:
    """The same whatever else is cut: what is encoded of it stays of use."""
    frames = build_box_room(num_views=3, width=64, height=48).frames
    of_all = in_quarters([keyframe(frame, 5 + i) for i, frame in enumerate(frames)])
    indices = [each.index for each in of_all]
    assert len(set(indices)) == 3 * QUARTERS
    assert [each.index for each in in_quarters([keyframe(frames[1], 6)])] == indices[4:8]


def keyframe(frame: RgbdFrame, index: int) -> Keyframe:
    return Keyframe(frame, index, KeyframeReason.FIRST)
