"""Parts of views: what a closer look at a scene, or at one place of it, is given.

A model sees the middle square of every view at a fixed size. A part fills that square, so that
small and far things get patches of their own, and what the camera resolves more finely than the
model is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ada3d_ros.geometry.sparse_points import project_to_frame
from ada3d_ros.geometry.visible_edges import is_visible
from ada3d_ros.types import Keyframe, RgbdFrame

Point = tuple[float, float, float]  # metres, world frame

QUARTER = 0.625  # side of each, of the middle square's: neighbours overlap, so that they cut little
QUARTERS = 4
AROUND = 0.75  # the same of the square around a place
MAX_AROUND = 4  # views around a place, the nearest
HIDDEN_M = 0.5  # a place may lie so far inside of what depth measures before it


def in_quarters(keyframes: Sequence[Keyframe]) -> tuple[Keyframe, ...]:
    """Four overlapping squares of the middle square of each view, with the geometry that is theirs,
    as keyframes of indices of their own: the same for the same keyframe.
    """
    return tuple(
        replace(keyframe, frame=quarter, index=QUARTERS * keyframe.index + i)
        for keyframe in keyframes
        for i, quarter in enumerate(_quarters(keyframe.frame))
    )


def around(keyframes: Sequence[Keyframe], place_m: Point) -> tuple[Keyframe, ...]:
    """A square around a place, moved so that it lies within the view, of each of the few nearest
    keyframes that show the place, in the order given; () where none does.
    """
    shown = []
    for i, keyframe in enumerate(keyframes):
        uv, z = project_to_frame(keyframe.frame, np.array([place_m]))
        if is_visible(keyframe.frame, uv, z, HIDDEN_M)[0]:
            shown.append((float(z[0]), i, uv[0].tolist()))
    nearest = sorted(shown)[:MAX_AROUND]
    return tuple(
        replace(keyframes[i], frame=_around(keyframes[i].frame, *at_px))
        for _, i, at_px in sorted(nearest, key=lambda each: each[1])
    )


def _around(frame: RgbdFrame, column: float, row: float) -> RgbdFrame:
    width, height = frame.intrinsics.width, frame.intrinsics.height
    side = max(round(AROUND * min(width, height)), 1)
    left, top = (
        min(max(round(at - side / 2), 0), size - side)
        for at, size in ((column, width), (row, height))
    )
    return _cut(frame, left, top, side)


def _quarters(frame: RgbdFrame) -> list[RgbdFrame]:
    """Row by row."""
    width, height = frame.intrinsics.width, frame.intrinsics.height
    square = min(width, height)
    side = max(round(QUARTER * square), 1)
    left, top, far = (width - square) // 2, (height - square) // 2, square - side
    return [_cut(frame, left + x, top + y, side) for y in (0, far) for x in (0, far)]


def _cut(frame: RgbdFrame, left: int, top: int, side: int) -> RgbdFrame:
    """The square whose first pixel is (left, top)."""
    rows, columns, camera = slice(top, top + side), slice(left, left + side), frame.intrinsics
    camera = replace(camera, cx=camera.cx - left, cy=camera.cy - top, width=side, height=side)
    return replace(
        frame,
        rgb=frame.rgb[rows, columns].copy(),
        depth_m=frame.depth_m[rows, columns].copy(),
        intrinsics=camera,
    )
