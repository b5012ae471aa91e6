"""Which axes the poses of a camera have: optical, those of a body or OpenGL's; from poses alone.

    optical  x right, y down, z forward (REP 103; what everything else here expects)
    body     x forward, y left, z up (base_link, camera_link)
    opengl   x right, y up, z backward (phone scanners, neural rendering)

In a world with z up an optical camera looks straight up in every frame only where its poses are
those of a body. Poses in a world that is not z up are told apart where the camera turns enough.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

Matrix = npt.NDArray[np.float64]

MIN_MEAN_UP = 0.7  # mean height of the z axis' direction from which on it "points up"
MIN_UP = 0.3  # the same of a y axis, in nearly every frame
NEARLY_ALL = 0.9
MIN_VERTICAL = 0.85  # of a camera's down axis along the world's y
MAX_RESULTANT = 0.95  # of the viewing directions: beyond it the camera hardly turned (+-30 degrees)


class CameraAxes(StrEnum):
    """What the poses look like; the last two are optical cameras in a world that is not z up."""

    OPTICAL = "optical"
    BODY = "body"
    OPENGL = "opengl"
    UNKNOWN = "unknown"  # also: a camera that looks down at a table
    WORLD_Y_UP = "world y up"
    WORLD_Y_DOWN = "world y down"  # also: OpenGL axes in a world with y up


# Rotation of the optical frame in the frame that a pose is of: T_world_optical = T_world_given @ T.
OPTICAL_IN: dict[CameraAxes, tuple[float, float, float, float]] = {
    CameraAxes.OPTICAL: (0.0, 0.0, 0.0, 1.0),
    CameraAxes.BODY: (-0.5, 0.5, -0.5, 0.5),
    CameraAxes.OPENGL: (1.0, 0.0, 0.0, 0.0),
}

_LOOK = {
    CameraAxes.BODY: (
        "the camera looks straight up in nearly all of {n} frames (its z axis points up): the poses"
        " are probably those of a body frame (x forward, z up), not of the optical frame (z"
        " forward, y down)"
    ),
    CameraAxes.OPENGL: (
        "the camera's y axis points up in nearly all of {n} frames: the poses probably have OpenGL"
        " axes (y up, z backward), not optical ones (y down, z forward); a camera mounted upside"
        " down looks the same"
    ),
    CameraAxes.WORLD_Y_UP: (
        "the camera's down axis lies along the world's -y in nearly all of {n} frames: the world is"
        " probably y up, but z must be up"
    ),
    CameraAxes.WORLD_Y_DOWN: (
        "the camera's down axis lies along the world's +y in nearly all of {n} frames: the world is"
        " probably that of the first camera (y down), or y up with OpenGL cameras; z must be up"
    ),
}
_FOLDER_CURES = {
    CameraAxes.BODY: "ada3d make-bag with --camera-axes body turns them",
    CameraAxes.OPENGL: "ada3d make-bag with --camera-axes opengl turns them",
    CameraAxes.WORLD_Y_UP: "ada3d make-bag with --rotate-world y-up turns it",
    CameraAxes.WORLD_Y_DOWN: (
        "ada3d make-bag with --rotate-world y-down turns it, or --rotate-world y-up with"
        " --camera-axes opengl"
    ),
}


def axes_of(T_world_cam: Matrix) -> CameraAxes:
    """What the poses T_world_cam (n, 4, 4), n >= 1, look like."""
    # How far each axis points up, and the world's y component of the camera's down axis.
    rotations = T_world_cam[:, :3, :3]
    y_up, z_up, down_y = rotations[:, 2, 1], rotations[:, 2, 2], rotations[:, 1, 1]

    # A world that is not z up: the camera turns about the world's y.
    resultant = float(np.linalg.norm(rotations[:, :, 2].mean(axis=0)))
    if resultant < MAX_RESULTANT and abs(y_up.mean()) < MIN_UP:
        if down_y.mean() < -MIN_VERTICAL:
            return CameraAxes.WORLD_Y_UP
        if down_y.mean() > max(MIN_VERTICAL, z_up.mean()):
            return CameraAxes.WORLD_Y_DOWN

    # Other axes than the optical ones.
    if (y_up > MIN_UP).mean() >= NEARLY_ALL:
        return CameraAxes.OPENGL
    if z_up.mean() > MIN_MEAN_UP:
        return CameraAxes.BODY
    return CameraAxes.OPTICAL if y_up.mean() < -MIN_UP else CameraAxes.UNKNOWN


def complaint_about(axes: CameraAxes, num_frames: int) -> str:
    """What is odd about `axes`, without a cure and a full stop; empty where nothing is."""
    return _LOOK[axes].format(n=num_frames) if axes in _LOOK else ""


def folder_cure(axes: CameraAxes) -> str:
    """How poses of a folder are turned."""
    return _FOLDER_CURES[axes]


def settings_cure(axes: CameraAxes, extrinsic_xyzw: tuple[float, ...]) -> str:
    """How a setting of the node turns the poses; `extrinsic_xyzw` is in force already."""
    if axes not in OPTICAL_IN:
        return "publish the poses in a world with z up (REP 103)"
    turned = Rotation.from_quat(extrinsic_xyzw) * Rotation.from_quat(OPTICAL_IN[axes])
    quat = turned.as_quat()
    quat = quat if quat[3] > -1e-9 else -quat
    numbers = ", ".join(f"{0.0 if abs(q) < 1e-9 else q:.6g}" for q in quat)
    return f"set extrinsic.quat_xyzw: [{numbers}]"
