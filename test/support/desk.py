"""The photographed desk of ../shared, as pinhole images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ada3d_ros.geometry.camera import undistort_color, undistort_depth
from ada3d_ros.sources.folder import FolderOptions, FolderSource
from ada3d_ros.types import RgbdFrame

INTRINSICS = (517.3, 516.5, 318.6, 255.3)
DISTORTION = (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)  # plumb_bob
DETECTOR = "data/detectors/picodet_s_416_coco.onnx"
# By eye, as ../shared/data/README.md has it.
THERE = ("chair", "desk", "monitor", "keyboard", "cup", "book", "person")
NOT_THERE = (
    *("sofa", "plant", "backpack", "sink", "bed", "refrigerator", "microwave", "oven", "toilet"),
    *("clock", "bottle", "computer mouse"),
)
# Between the keyboard's nearest reading and one of the monitor, in metres: read off the depth of
# the first frame inside outlines drawn by hand; of its panel, and of the foot that it stands on.
KEYBOARD_TO_PANEL_M = 0.154
KEYBOARD_TO_FOOT_M = 0.072


def desk_frames(shared_dir: Path) -> list[RgbdFrame]:
    """All 60; skips where the folder or the detector is absent."""
    folder = shared_dir / "data" / "tum_fr1_rpy"
    for path in (folder, shared_dir / DETECTOR):
        if not path.exists():
            pytest.skip(f"no recorded data: {path} is absent")
    return [_pinhole(f) for f in FolderSource(folder, FolderOptions(intrinsics=INTRINSICS))]


def _pinhole(frame: RgbdFrame) -> RgbdFrame:
    lens = frame.intrinsics, "plumb_bob", DISTORTION
    return replace(
        frame,
        rgb=undistort_color(frame.rgb, *lens),
        depth_m=undistort_depth(frame.depth_m, *lens),
    )
