"""The weightless main job: recorded depth and poses alone give the measured box.

Only the right units, frames, pose direction and stamps do. And exact answers on the generated room.
"""

import itertools
import json

import numpy as np
import pytest

from ada3d_ros.geometry.boxes import iou_oriented, points_inside
from ada3d_ros.geometry.fusion import (
    count_support,
    fit_box,
    fuse_depth,
    largest_component,
    measure_box,
)
from ada3d_ros.geometry.pose import invert_pose, pose_from_quaternion
from ada3d_ros.sources.folder import FolderOptions, FolderSource
from ada3d_ros.types import Box3D, RgbdFrame
from test.support.box_room import build_box_room

T_OPTICAL_BODY = pose_from_quaternion((0, 0, 0), (0.5, -0.5, 0.5, 0.5))


def changed(frame, T_world_cam=None, depth_m=None):
    return RgbdFrame(
        frame.stamp_ns,
        frame.rgb,
        frame.depth_m if depth_m is None else depth_m,
        frame.intrinsics,
        frame.T_world_cam if T_world_cam is None else T_world_cam,
        frame.frame_id,
    )


@pytest.fixture(scope="module")
def cabinet_frames(shared_dir):
    options = FolderOptions(intrinsics=(535.4, 539.2, 320.1, 247.6), min_m=0.1, max_m=10.0)
    return list(FolderSource(shared_dir / "data" / "tum_fr3_cabinet", options))


@pytest.fixture(scope="module")
def cabinet(shared_dir):
    measured = json.loads(
        (shared_dir / "data" / "tum_fr3_cabinet" / "box_measured_from_depth.json").read_text()
    )
    return Box3D(
        np.array(measured["center_m"]),
        np.array(measured["size_m"]),
        measured["yaw_rad"],
        label=measured["label"],
    )


@pytest.fixture(scope="module")
def room():
    return build_box_room(seed=0)


def test_the_cabinet_is_where_it_was_measured(cabinet_frames, cabinet):
    box = measure_box(cabinet_frames, cabinet)
    assert box is not None
    assert iou_oriented(box, cabinet) >= 0.93
    assert np.abs(box.center_m - cabinet.center_m).max() < 0.02
    assert box.label == "cabinet"
    assert box.support_points > 100_000


MUTATIONS = {
    "millimetres read as metres": lambda fs: [
        changed(f, depth_m=f.depth_m * np.float32(1000)) for f in fs
    ],
    "metres read as millimetres": lambda fs: [
        changed(f, depth_m=f.depth_m / np.float32(1000)) for f in fs
    ],
    "optical pose read as body": lambda fs: [
        changed(f, T_world_cam=f.T_world_cam @ T_OPTICAL_BODY) for f in fs
    ],
    "body pose read as optical": lambda fs: [
        changed(f, T_world_cam=f.T_world_cam @ invert_pose(T_OPTICAL_BODY)) for f in fs
    ],
    "pose inverted": lambda fs: [changed(f, T_world_cam=invert_pose(f.T_world_cam)) for f in fs],
    "depth one stamp late": lambda fs: [
        changed(g, depth_m=f.depth_m) for f, g in itertools.pairwise(fs)
    ],
    "depth one stamp early": lambda fs: [
        changed(f, depth_m=g.depth_m) for f, g in itertools.pairwise(fs)
    ],
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_wrong_geometry_loses_the_cabinet(cabinet_frames, cabinet, mutation):
    box = measure_box(MUTATIONS[mutation](cabinet_frames), cabinet)
    assert box is None or iou_oriented(box, cabinet) < 0.5


def test_boxes_of_the_generated_room(room):
    for truth in room.boxes:
        box = measure_box(room.frames, truth, margin_m=0.05)
        assert box is not None
        assert iou_oriented(box, truth) > 0.85  # voxels of 2 cm on boxes of 30 to 90 cm


def test_support_counts_every_reading_inside_and_no_other(room):
    box = room.boxes[0]
    support = count_support(room.frames, box, stride_px=1)
    for frame, count in zip(room.frames, support.per_frame, strict=True):
        v, u = np.mgrid[:240, :320]
        K = frame.intrinsics
        z = frame.depth_m.astype(float)
        points = np.stack(((u - K.cx) / K.fx * z, (v - K.cy) / K.fy * z, z), axis=-1).reshape(-1, 3)
        world = points @ frame.T_world_cam[:3, :3].T + frame.T_world_cam[:3, 3]
        expected = points_inside(world, box).sum()
        assert count == pytest.approx(expected, abs=3)  # a face is a matter of rounding
    assert support.num_points == support.per_frame.sum() > 1000
    sparse = count_support(room.frames, box, stride_px=4)
    assert sparse.num_points == pytest.approx(support.num_points / 16, rel=0.1)
    assert (count_support(room.frames, box, stride_px=4).per_frame == sparse.per_frame).all()


def test_no_support_outside_the_room_behind_or_without_depth(room):
    nowhere = Box3D(np.array([0.0, 0.0, 50.0]), np.ones(3))
    assert count_support(room.frames, nowhere).num_points == 0
    blind = [changed(f, depth_m=np.full_like(f.depth_m, np.nan)) for f in room.frames[:6]]
    assert count_support(blind, room.boxes[0]).num_points == 0
    assert fuse_depth(blind, room.boxes[0]) is None
    assert measure_box([], room.boxes[0]) is None
    everything = Box3D(np.zeros(3), np.full(3, 100.0))  # also behind the cameras
    assert count_support(room.frames[:1], everything, stride_px=1).num_points == 320 * 240


def test_a_voxel_counts_once_per_view(room):
    voxels = fuse_depth(room.frames, room.boxes[0])
    assert voxels.num_hits.max() <= len(room.frames)
    assert voxels.num_hits.min() >= 5
    assert (voxels.num_support + voxels.num_seen_through <= len(room.frames)).all()
    assert (np.diff(np.lexsort(voxels.coords.T[::-1])) == 1).all()  # ascending x, y, z


def test_largest_component_joins_corners():
    coords = np.array([[0, 0, 0], [1, 1, 1], [2, 2, 2], [5, 5, 5], [5, 5, 6]])
    np.testing.assert_array_equal(largest_component(coords), coords[:3])
    assert len(largest_component(np.empty((0, 3), np.int64))) == 0


@pytest.mark.parametrize("yaw", [-1.5, -0.6, 0.0, 0.3, 1.2, np.pi / 2])
def test_fit_finds_a_turned_box(yaw):
    grid = np.stack(
        np.meshgrid(
            np.linspace(-0.5, 0.5, 60), np.linspace(-0.2, 0.2, 30), np.linspace(0, 0.8, 40)
        ),
        -1,
    )
    points = grid.reshape(-1, 3)
    c, s = np.cos(yaw), np.sin(yaw)
    turned = points @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T + [30.0, -20.0, 0]
    center, size, found = fit_box(turned)
    np.testing.assert_allclose(size, [1.02, 0.42, 0.8], atol=5e-3)
    np.testing.assert_allclose(center, [30, -20, 0.4], atol=5e-3)
    assert np.sin(found - yaw) == pytest.approx(0, abs=1e-3)
    assert -np.pi / 2 < found <= np.pi / 2
