"""Frames written by hand for lifting: things as rectangles of depth before a wall, and their boxes.

The camera is at the origin of a z-up world and looks along x: a pixel (u, v) at depth d lies at
(d, -(u - c) d / f, -(v - c) d / f).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ada3d_ros.perception.detector import Detection2D
from ada3d_ros.types import Intrinsics, Keyframe, KeyframeReason, RgbdFrame

SIDE, FOCAL_PX, MIDDLE = 160, 160.0, 79.5
CAMERA = Intrinsics(FOCAL_PX, FOCAL_PX, MIDDLE, MIDDLE, SIDE, SIDE)
LOOKING_ALONG_X = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]], float)
WALL_M = 4.0


@dataclass(frozen=True)
class Flat:
    """A rectangle that faces the camera: x of its plane, y and z of its middle, metres."""

    x: float
    y: float
    z: float
    width_m: float = 0.5
    height_m: float = 0.5
    rgb: tuple[int, int, int] = (200, 30, 35)
    label: str = "chair"
    score: float = 0.8

    @property
    def center_m(self) -> tuple[float, float, float]:
        return (self.x, self.y, self.z)

    def corners_px(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1, which may lie outside the picture."""
        half = np.array([self.width_m, self.height_m]) / 2
        middle = MIDDLE - FOCAL_PX * np.array([self.y, self.z]) / self.x
        low, high = (middle + sign * FOCAL_PX * half / self.x for sign in (-1, 1))
        return (float(low[0]), float(low[1]), float(high[0]), float(high[1]))

    def detection(self, grown_px: float = 0.0) -> Detection2D:
        x0, y0, x1, y1 = self.corners_px()
        low = np.clip([x0 - grown_px, y0 - grown_px], 0, SIDE).tolist()
        high = np.clip([x1 + grown_px, y1 + grown_px], 0, SIDE).tolist()
        return Detection2D((*low, *high), self.label, self.score)


def frame_of(
    things: Sequence[Flat], index: int = 0, wall_m: float = WALL_M, noise_m: float = 0.0
) -> RgbdFrame:
    """A picture of things, the nearer before the farther."""
    depth = np.full((SIDE, SIDE), wall_m, np.float32)
    rgb = np.full((SIDE, SIDE, 3), 128, np.uint8)
    for thing in sorted(things, key=lambda each: -each.x):
        x0, y0, x1, y1 = (round(v) for v in np.clip(thing.corners_px(), 0, SIDE))
        depth[y0:y1, x0:x1] = thing.x
        rgb[y0:y1, x0:x1] = thing.rgb
    depth += noise_m * np.random.default_rng(index).standard_normal(depth.shape)
    stamp = 100 * (index + 1)
    return RgbdFrame(stamp, rgb, depth.astype(np.float32), CAMERA, LOOKING_ALONG_X.copy(), "map")


def keyframe_of(frame: RgbdFrame, index: int) -> Keyframe:
    return Keyframe(frame, index, KeyframeReason.TIME)
