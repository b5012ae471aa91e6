"""Settings of what the node publishes: boxes, markers, the coloured cloud, pictures, goals."""

from __future__ import annotations

from dataclasses import dataclass

from ada3d_ros.config.setting import setting


@dataclass(frozen=True, slots=True)
class BoxesConfig:
    min_score: float = setting(0.1, "boxes with a lower score are not published", low=0.0, high=1.0)
    max_count: int = setting(10, "boxes per answer at most", unit="boxes", low=1, high=100)
    min_support_points: int = setting(
        20, "valid depth points that a box must contain", unit="points", low=0, high=100000
    )


@dataclass(frozen=True, slots=True)
class MarkersConfig:
    lifetime_sec: float = setting(
        0.0, "RViz markers vanish after this; 0 = until replaced", unit="s", low=0.0, high=3600.0
    )
    frustum_m: float = setting(
        0.25,
        "length of the pyramids that show where keyframes were taken",
        unit="m",
        low=0.01,
        high=10.0,
    )


@dataclass(frozen=True, slots=True)
class CloudConfig:
    voxel_m: float = setting(
        0.025, "side of the voxels of ~/cloud, a point in each", unit="m", low=0.005, high=0.5
    )
    stride_px: int = setting(
        2, "every so many-th row and column of a keyframe is read", unit="px", low=1, high=32
    )
    min_period_sec: float = setting(
        1.0, "between two clouds, where the scene changes", unit="s", low=0.1, high=3600.0
    )


@dataclass(frozen=True, slots=True)
class PicturesConfig:
    jpeg_quality: int = setting(
        80, "of the JPEG pictures on ~/keyframes and ~/annotated/compressed", low=1, high=100
    )
    min_period_sec: float = setting(
        0.5, "between two pictures on ~/annotated/compressed", unit="s", low=0.1, high=3600.0
    )


@dataclass(frozen=True, slots=True)
class CameraPoseConfig:
    max_rate_hz: float = setting(10.0, "of ~/camera_pose", unit="Hz", low=0.1, high=100.0)


@dataclass(frozen=True, slots=True)
class GoalConfig:
    distance_m: float = setting(
        0.8, "from a box's side to where the robot's middle stands", unit="m", low=0.1, high=10.0
    )
    farther_m: float = setting(
        1.0,
        "so much farther off at most, where no floor is free at goal.distance_m",
        unit="m",
        low=0.0,
        high=10.0,
    )
    robot_radius_m: float = setting(
        0.3, "free floor around the robot's middle", unit="m", low=0.05, high=2.0
    )


@dataclass(frozen=True, slots=True)
class DiagnosticUpdaterConfig:
    period: float = setting(1.0, "between two diagnostics messages", unit="s", low=0.1, high=60.0)
    use_fqn: bool = setting(False, "task names carry the fully qualified node name", read_only=True)
