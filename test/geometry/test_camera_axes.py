"""Axes of camera poses, from cameras that are built here out of their viewing direction."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ada3d_ros.geometry.camera_axes import (
    OPTICAL_IN,
    CameraAxes,
    axes_of,
    complaint_about,
    folder_cure,
    settings_cure,
)

RNG = np.random.default_rng(7)
Y_UP = Rotation.from_euler("x", -90, degrees=True).as_matrix()  # of a z-up world's coordinates
Y_DOWN = Rotation.from_euler("x", 90, degrees=True).as_matrix()


def optical(yaw_deg, pitch_deg=0.0, roll_deg=0.0):
    """Optical poses (n, 4, 4) in a z-up world; pitch above 0 looks up."""
    yaw, pitch, roll = np.broadcast_arrays(np.asarray(yaw_deg, float), pitch_deg, roll_deg)
    body = Rotation.from_euler(
        "ZYX", np.stack((yaw, -pitch, roll), -1).reshape(-1, 3), degrees=True
    )
    T = np.tile(np.eye(4), (body.as_matrix().shape[0], 1, 1))
    T[:, :3, :3] = body.as_matrix() @ Rotation.from_quat(OPTICAL_IN[CameraAxes.BODY]).as_matrix()
    return T


def in_axes(T, axes):
    """The poses of the same camera in other axes."""
    T = T.copy()
    T[:, :3, :3] = T[:, :3, :3] @ Rotation.from_quat(OPTICAL_IN[axes]).as_matrix().T
    return T


def in_world(T, rotation):
    T = T.copy()
    T[:, :3, :3] = rotation @ T[:, :3, :3]
    return T


ROOM = optical(np.linspace(0, 345, 24), RNG.uniform(-40, 15, 24), RNG.uniform(-8, 8, 24))
LEVEL = optical(np.zeros(24))
TABLE = optical(RNG.uniform(-60, 60, 24), RNG.uniform(-88, -65, 24))
CEILING = optical(RNG.uniform(0, 360, 24), 85.0)


def test_the_cameras_of_this_test_are_optical():
    """Level: x right, y down, z along the world's x."""
    np.testing.assert_allclose(LEVEL[0, :3, :3], [[0, 0, 1], [-1, 0, 0], [0, -1, 0]], atol=1e-12)


@pytest.mark.parametrize("poses", [ROOM, LEVEL, ROOM[:1]], ids=["room", "level", "one"])
@pytest.mark.parametrize("axes", OPTICAL_IN)
def test_each_kind_of_axes_is_told(poses, axes):
    assert axes_of(in_axes(poses, axes)) is axes


@pytest.mark.parametrize("yaw_deg", [0.0, 90.0, -40.0])
def test_a_body_that_drives_straight_on_is_told(yaw_deg):
    assert axes_of(in_axes(optical(np.full(20, yaw_deg)), CameraAxes.BODY)) is CameraAxes.BODY


@pytest.mark.parametrize("num_up", range(12))
def test_a_camera_that_looks_up_now_and_then_is_no_body(num_up):
    poses = np.concatenate((CEILING[:num_up], ROOM[num_up:]))
    assert complaint_about(axes_of(poses), len(poses)) == ""


@pytest.mark.parametrize("poses", [TABLE, optical(np.zeros(24), -89.0)], ids=["turning", "still"])
def test_a_camera_above_a_table_is_no_body_and_no_world(poses):
    assert complaint_about(axes_of(poses), len(poses)) == ""


@pytest.mark.parametrize(
    ("world", "axes"), [(Y_UP, CameraAxes.WORLD_Y_UP), (Y_DOWN, CameraAxes.WORLD_Y_DOWN)]
)
def test_a_world_that_is_not_z_up_is_told(world, axes):
    poses = in_world(ROOM, world)
    assert axes_of(poses) is axes
    assert axes_of(in_world(poses, world.T)) is CameraAxes.OPTICAL
    assert "--rotate-world" in folder_cure(axes)
    assert "z up" in settings_cure(axes, (0.0, 0.0, 0.0, 1.0))


def test_opengl_cameras_in_a_world_with_y_up_get_both_cures():
    """Phone scanners: y of the camera and of the world point up."""
    axes = axes_of(in_world(in_axes(ROOM, CameraAxes.OPENGL), Y_UP))
    assert "--camera-axes opengl" in folder_cure(axes)
    assert "--rotate-world y-up" in folder_cure(axes)


@pytest.mark.parametrize("extrinsic", [(0, 0, 0, 1), (-0.5, 0.5, -0.5, 0.5), (0.6, 0, 0, 0.8)])
@pytest.mark.parametrize("axes", [CameraAxes.BODY, CameraAxes.OPENGL])
def test_the_setting_that_is_named_makes_the_poses_optical(axes, extrinsic):
    """Also where an extrinsic is in force: the poses are those behind it."""
    seen = in_axes(ROOM, axes)[:, :3, :3]
    of_child = seen @ Rotation.from_quat(extrinsic).as_matrix().T
    cure = settings_cure(axes, extrinsic)
    assert cure.startswith("set extrinsic.quat_xyzw: [")
    numbers = [float(n) for n in cure.partition("[")[2].strip("]").split(",")]
    turned = of_child @ Rotation.from_quat(numbers).as_matrix()
    np.testing.assert_allclose(turned, ROOM[:, :3, :3], atol=1e-5)


def test_the_cures_are_those_of_the_docs():
    still = (0.0, 0.0, 0.0, 1.0)
    assert "[-0.5, 0.5, -0.5, 0.5]" in settings_cure(CameraAxes.BODY, still)
    assert "[1, 0, 0, 0]" in settings_cure(CameraAxes.OPENGL, still)
    assert "--camera-axes body" in folder_cure(CameraAxes.BODY)
    assert "--camera-axes opengl" in folder_cure(CameraAxes.OPENGL)
