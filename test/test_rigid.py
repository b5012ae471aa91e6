"""One place judges a pose matrix; every source of poses asks it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ada3d_ros.errors import PoseError
from ada3d_ros.geometry.pose import PoseBuffer
from ada3d_ros.rigid import rigid_pose
from ada3d_ros.types import RgbdFrame
from test.support.box_room import build_box_room

R = Rotation.from_euler("xyz", (20, -50, 130), degrees=True).as_matrix()


def transform(rotation, row=(0.0, 0.0, 0.0, 1.0)):
    T = np.eye(4)
    T[:3, :3], T[:3, 3], T[3] = rotation, (1.0, -2.0, 0.5), row
    return T


BAD = {
    "all zero": (np.zeros((4, 4)), "rotation of cam.txt is all zero"),
    "not finite": (np.full((4, 4), np.nan), r"cam.txt must be a finite \(4, 4\) matrix"),
    "another shape": (np.eye(3), r"got shape \(3, 3\)"),
    "scaled": (transform(1.5 * R), r"rotation of cam.txt has scale 1\.5, allowed"),
    "a little too large": (transform(1.001 * R), r"has scale 1\.001"),
    "mirrored": (transform(R @ np.diag([1, 1, -1])), r"has determinant -1: it is mirrored"),
    "two axes exchanged": (transform(R[:, [1, 0, 2]]), "mirrored"),
    "scaled and mirrored": (transform(-0.5 * R), r"has scale 0\.5 and is mirrored"),
    "sheared": (transform(R @ [[1, 0.1, 0], [0, 1, 0], [0, 0, 1]]), "is not orthonormal"),
    "rank two": (transform(R @ np.diag([1, 1, 0])), "rotation of cam.txt"),
    "transposed": (transform(R).T, "bottom row of cam.txt is 1 -2 0.5 1, expected 0 0 0 1"),
    "perspective": (transform(R, (0, 0, 0, 2)), "bottom row"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_rigid_is_refused_with_what_is_wrong(name):
    matrix, words = BAD[name]
    with pytest.raises(PoseError, match=words):
        rigid_pose(matrix, "cam.txt")


@pytest.mark.parametrize("name", BAD)
def test_frames_and_the_pose_buffer_refuse_it_too(name):
    matrix, _ = BAD[name]
    frame = build_box_room(num_views=1, width=16, height=12).frames[0]
    with pytest.raises(PoseError):
        RgbdFrame(1, frame.rgb, frame.depth_m, frame.intrinsics, matrix, "map")
    with pytest.raises(PoseError):
        PoseBuffer().add(1, matrix)


@given(st.lists(st.floats(-180, 180), min_size=3, max_size=3), st.integers(3, 9))
def test_a_rotation_as_text_files_round_it_is_made_exact(angles, digits):
    exact = transform(Rotation.from_euler("xyz", angles, degrees=True).as_matrix())
    error = 3.5 * 0.5 * 10.0**-digits  # of R^T R: three products of rounded numbers
    rounded = np.round(exact, digits)
    if error > 1e-3 and np.abs(rounded[:3, :3].T @ rounded[:3, :3] - np.eye(3)).max() > 1e-3:
        return
    T = rigid_pose(rounded)
    np.testing.assert_allclose(T[:3, :3].T @ T[:3, :3], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(T, exact, atol=3 * 10.0**-digits)


def test_an_exact_pose_stays_as_it_is():
    T = transform(R)
    assert rigid_pose(T) is T
