"""Settings of the poses: how long they are waited for, and where the camera is on its body."""

from __future__ import annotations

from dataclasses import dataclass

from ada3d_ros.config.setting import setting


@dataclass(frozen=True, slots=True)
class PoseConfig:
    timeout_sec: float = setting(
        0.2,
        "how long a frame waits for its pose, and for the camera_info that is due, to arrive;"
        " five times as long for its pose while others come in",
        unit="s",
        low=0.0,
        high=2.0,
    )
    max_gap_sec: float = setting(
        0.2,
        "largest gap between two poses that an image stamp is interpolated over",
        unit="s",
        low=0.001,
        high=2.0,
    )


@dataclass(frozen=True, slots=True)
class TfConfig:
    timeout_sec: float = setting(
        0.2,
        "how long a frame waits for TF: with pose_source tf for its pose (five times as long while"
        " transforms come in that are older than it), else for the camera in the posed frame",
        unit="s",
        low=0.0,
        high=2.0,
    )


@dataclass(frozen=True, slots=True)
class ExtrinsicConfig:
    xyz: tuple[float, ...] = setting(
        (0.0, 0.0, 0.0),
        "camera optical frame in the pose's child frame, where TF has no static transform between"
        " the two",
        unit="m",
        length=3,
        low=-100.0,
        high=100.0,
        read_only=True,
    )
    quat_xyzw: tuple[float, ...] = setting(
        (0.0, 0.0, 0.0, 1.0),
        "rotation of the same; norm 1 +- 1e-3",
        length=4,
        low=-1.0,
        high=1.0,
        read_only=True,
    )
