"""The generated room: depth agrees between views and with the boxes; the seed decides all."""

import numpy as np
import pytest
import torch

from ada3d_ros.geometry.boxes import corners, grow_box, points_inside
from ada3d_ros.geometry.unproject import project_points, unproject_depth
from test.support.box_room import ROOM_SIZE_M, build_box_room


@pytest.fixture(scope="module")
def room():
    return build_box_room(seed=3, num_views=6)


def world_points(frame):
    arrays = frame.depth_m, frame.intrinsics.matrix, frame.T_world_cam
    depth, K, T = (torch.from_numpy(array.astype(np.float64)) for array in arrays)
    return unproject_depth(depth, K, T).numpy().reshape(-1, 3)


def test_every_reading_lies_on_a_wall_or_on_a_box(room):
    half = np.array(ROOM_SIZE_M) / 2
    for frame in room.frames:
        points = world_points(frame)
        to_wall = (half - np.abs(points - [0, 0, half[2]])).min(axis=1)
        assert to_wall.min() > -1e-5
        on_box = np.zeros(len(points), bool)
        for box in room.boxes:
            assert not points_inside(points, grow_box(box, -1e-4)).any()
            on_box |= points_inside(points, grow_box(box, 1e-4))
        assert (on_box | (to_wall < 1e-4)).all()
        assert 0.02 < on_box.mean() < 0.7


def test_views_agree_on_depth(room):
    points = world_points(room.frames[0])[::97]
    other = room.frames[1]
    K, T = torch.from_numpy(other.intrinsics.matrix), torch.from_numpy(other.T_world_cam.copy())
    uv, z = project_points(torch.from_numpy(points), K, T)
    u, v = np.round(uv.numpy()).astype(int).T
    seen = (z.numpy() > 0) & (u >= 0) & (u < 320) & (v >= 0) & (v < 240)
    difference = other.depth_m[v[seen], u[seen]] - z.numpy()[seen]
    assert seen.sum() > 100
    assert np.median(np.abs(difference)) < 0.01
    assert (difference < 0.1).mean() > 0.9  # nothing is seen through; occluders may stand in front


def test_poses_are_optical_in_a_z_up_world(room):
    for frame in room.frames:
        assert frame.T_world_cam[2, 1] < -0.5  # the camera's y points down
        np.testing.assert_allclose(np.linalg.det(frame.T_world_cam[:3, :3]), 1.0)
    for box in room.boxes:
        assert corners(box)[:, 2].min() == pytest.approx(0.0)


def test_boxes_have_their_colour(room):
    red = room.boxes[0]
    assert red.label == "red box"
    frame = room.frames[0]
    pixels = frame.rgb.reshape(-1, 3)[points_inside(world_points(frame), grow_box(red, 1e-4))]
    assert len(pixels) > 50
    assert (pixels[:, 0] > 2 * pixels[:, 1]).mean() > 0.9


def test_the_seed_decides_everything(room):
    again, other = build_box_room(seed=3, num_views=6), build_box_room(seed=4, num_views=1)
    for a, b in zip(room.frames, again.frames, strict=True):
        np.testing.assert_array_equal(a.rgb, b.rgb)
        np.testing.assert_array_equal(a.depth_m, b.depth_m)
    assert not np.array_equal(other.boxes[0].center_m, room.boxes[0].center_m)
    with pytest.raises(ValueError, match="0 to 6"):
        build_box_room(num_boxes=7)
