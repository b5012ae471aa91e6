"""The coloured cloud against a room whose surfaces and colours are known exactly."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ada3d_ros.geometry.boxes import grow_box, points_inside, yaw_rotation
from ada3d_ros.geometry.colour_cloud import CloudFuser
from ada3d_ros.types import Box3D, RgbdFrame
from test.support.box_room import PALETTE, ROOM_SIZE_M, BoxRoom, build_box_room

VOXEL_M = 0.025


@pytest.fixture(scope="module")
def room() -> BoxRoom:
    return build_box_room(seed=3, num_views=6)


def off_surfaces_m(xyz_m: np.ndarray, boxes: tuple[Box3D, ...]) -> np.ndarray:
    """How far each point (N, 3) is from the nearest wall, floor, ceiling or box face, metres."""
    low = np.array([-ROOM_SIZE_M[0] / 2, -ROOM_SIZE_M[1] / 2, 0.0])
    nearest = np.minimum(np.abs(xyz_m - low), np.abs(low + ROOM_SIZE_M - xyz_m)).min(axis=1)
    for box in boxes:
        outside = np.abs((xyz_m - box.center_m) @ yaw_rotation(box.yaw_rad)) - box.size_m / 2
        away = np.where(
            (outside > 0).any(axis=1),
            np.linalg.norm(np.maximum(outside, 0), axis=1),
            -outside.max(axis=1),
        )
        nearest = np.minimum(nearest, away)
    return nearest


def test_points_lie_on_the_rooms_surfaces(room: BoxRoom) -> None:
    cloud = CloudFuser(VOXEL_M, 2).update(room.frames)
    assert len(cloud) > 20_000
    off_m = off_surfaces_m(cloud.xyz_m, room.boxes)
    # A voxel on a flat face has its points on it; one at an edge holds two faces.
    assert np.quantile(off_m, 0.9) < 1e-4
    assert off_m.max() < VOXEL_M


def test_one_point_a_voxel_and_within_it(room: BoxRoom) -> None:
    for voxel_m in (0.02, 0.05):
        xyz_m = CloudFuser(voxel_m, 3).update(room.frames).xyz_m
        # A mean of readings lies in the cube that they lie in; micrometres are rounded.
        cells = np.round(xyz_m / voxel_m).astype(np.int64)
        on_edge = np.abs(np.abs(xyz_m / voxel_m - cells) - 0.5) < 1e-4
        assert len(np.unique(cells[~on_edge.any(axis=1)], axis=0)) == (~on_edge.any(axis=1)).sum()


def test_colours_are_those_of_the_things(room: BoxRoom) -> None:
    cloud = CloudFuser(VOXEL_M, 1).update(room.frames)
    for box in room.boxes:
        middle = dataclasses.replace(box, size_m=box.size_m * (0.6, 0.6, 1.0))
        top = points_inside(cloud.xyz_m, grow_box(middle, 1e-3))
        top &= cloud.xyz_m[:, 2] > box.center_m[2] + box.size_m[2] / 2 - 1e-3
        assert top.sum() > 30
        colour = np.array(PALETTE[box.label.split()[0]])
        # Shading changes the brightness, not the colour.
        seen = cloud.rgb[top].astype(float)
        shade = seen.max(axis=1, keepdims=True) / colour.max()
        assert np.abs(seen - colour * shade).max() <= 4


def test_frames_come_and_go_exactly(room: BoxRoom) -> None:
    fuser = CloudFuser(VOXEL_M, 2)
    fuser.update(room.frames[:4])
    fuser.update(room.frames[1:6])
    assert fuser.fused_frames == 6  # no frame twice
    kept = fuser.update(room.frames[2:5])
    other = CloudFuser(VOXEL_M, 2)
    other.update(room.frames[:1])  # the same origin
    other.update(room.frames[:1] + room.frames[2:3])
    fresh = other.update(room.frames[2:5][::-1])
    assert np.array_equal(kept.xyz_m, fresh.xyz_m)
    assert np.array_equal(kept.rgb, fresh.rgb)
    assert len(fuser.update(())) == 0


def test_it_does_not_matter_where_the_world_begins(room: BoxRoom) -> None:
    # A whole number of voxels away, as far as poses may be.
    shift_m = np.array([999_000.0, -500_000.0, 25.0])

    def moved(frame: RgbdFrame) -> RgbdFrame:
        T = frame.T_world_cam.copy()
        T[:3, 3] += shift_m
        return dataclasses.replace(frame, T_world_cam=T)

    near = CloudFuser(VOXEL_M, 4).update(room.frames[:2])
    far = CloudFuser(VOXEL_M, 4).update([moved(frame) for frame in room.frames[:2]])
    assert len(far) == pytest.approx(len(near), rel=1e-3)
    assert off_surfaces_m(far.xyz_m - shift_m, room.boxes).max() < VOXEL_M


def test_readings_that_are_none_give_no_point(room: BoxRoom) -> None:
    frame = room.frames[0]
    blind = dataclasses.replace(frame, depth_m=np.full_like(frame.depth_m, np.nan))
    fuser = CloudFuser(VOXEL_M, 2)
    assert len(fuser.update([blind])) == 0
    assert len(fuser.update([blind, frame])) == len(CloudFuser(VOXEL_M, 2).update([frame]))
