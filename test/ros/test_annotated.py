"""Boxes drawn over a picture: where they are, only what is seen, names that do not hide names."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("rclpy")

from ada3d_ros.geometry.boxes import corners
from ada3d_ros.geometry.sparse_points import project_to_frame
from ada3d_ros.ros.annotated import ANSWER_RGB, OBJECT_RGB, Drawn, annotate
from ada3d_ros.types import RgbdFrame
from test.support.box_room import BoxRoom, build_box_room
from test.support.measured import box


@pytest.fixture(scope="module")
def room() -> BoxRoom:
    return build_box_room(seed=3, num_views=4)


def drawn_px(frame: RgbdFrame, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """Columns and rows (N, 2) of the pixels that are not the frame's."""
    rows, columns = np.nonzero((picture != frame.rgb).any(axis=-1))
    return np.column_stack((columns, rows))


def test_lines_lie_on_the_boxes_edges(room: BoxRoom) -> None:
    frame, thing = room.frames[0], room.boxes[0]
    px = drawn_px(frame, annotate(frame, [Drawn(thing, "", ANSWER_RGB)]))
    assert len(px) > 100
    at = corners(thing)
    pairs = [(i, (i + 1) % 4) for i in range(4)]
    pairs += [(i + 4, j + 4) for i, j in pairs] + [(i, i + 4) for i in range(4)]
    share = np.linspace(0, 1, 400)[:, None]
    edges = np.concatenate([at[i] * (1 - share) + at[j] * share for i, j in pairs])
    uv, _ = project_to_frame(frame, edges)
    away = np.linalg.norm(px[:, None] - uv[None], axis=-1).min(axis=1)
    assert away.max() < 2.5


def test_what_the_view_does_not_show_is_not_drawn(room: BoxRoom) -> None:
    frame = room.frames[0]
    behind = frame.T_world_cam @ np.array([0.0, 0.0, -2.0, 1.0])
    beyond = frame.T_world_cam @ np.array([0.0, 0.0, 30.0, 1.0])
    hidden = [
        Drawn(box(at[:3].tolist(), [0.5, 0.5, 0.5], "crate"), "crate", ANSWER_RGB)
        for at in (behind, beyond)
    ]
    assert np.array_equal(annotate(frame, hidden), frame.rgb)
    assert np.array_equal(annotate(frame, []), frame.rgb)

    # Around the camera: some corners are behind it, and nothing is drawn wrong or raised.
    around = box(frame.T_world_cam[:3, 3].tolist(), [1.0, 1.0, 1.0])
    annotate(frame, [Drawn(around, "here", ANSWER_RGB)])


def test_names_stand_inside_the_picture_and_beside_each_other(room: BoxRoom) -> None:
    frame, thing = room.frames[0], room.boxes[0]
    bare = annotate(frame, [Drawn(thing, "", OBJECT_RGB)])
    named = annotate(frame, [Drawn(thing, "red box", OBJECT_RGB)])
    twice = annotate(frame, [Drawn(thing, "red box", OBJECT_RGB), Drawn(thing, "a", OBJECT_RGB)])
    first, both = (drawn_px(frame, picture) for picture in (named, twice))
    assert len(first) > len(drawn_px(frame, bare))
    assert not np.array_equal(named, twice)
    # The first name stays readable: its chip is as it was.
    only_name = (named != bare).any(axis=-1)
    assert np.array_equal(named[only_name], twice[only_name])
    assert len(both) > len(first)


def test_letters_that_the_font_lacks_are_marked(room: BoxRoom) -> None:
    frame, thing = room.frames[0], room.boxes[0]
    marked = annotate(frame, [Drawn(thing, "?", OBJECT_RGB)])
    assert np.array_equal(annotate(frame, [Drawn(thing, "\u6905", OBJECT_RGB)]), marked)


def test_a_tiny_picture_is_drawn_on_too(room: BoxRoom) -> None:
    frame = room.frames[0]
    camera = dataclasses.replace(
        frame.intrinsics, fx=25.6, fy=25.6, cx=15.5, cy=11.5, width=32, height=24
    )
    small = dataclasses.replace(
        frame,
        rgb=frame.rgb[::10, ::10].copy(),
        depth_m=frame.depth_m[::10, ::10].copy(),
        intrinsics=camera,
    )
    annotate(small, [Drawn(thing, thing.label, OBJECT_RGB) for thing in room.boxes])
