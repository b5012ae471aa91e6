"""Views cut into quarters: what a closer look at a scene is given.

A model sees the middle square of every view at a fixed size. A quarter fills that square, so that
small and far things get patches of their own, and what the camera resolves more finely than the
model is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ada3d_ros.types import Keyframe, RgbdFrame

QUARTER = 0.625  # side of each, of the middle square's: neighbours overlap, so that they cut little
QUARTERS = 4


def in_quarters(keyframes: Sequence[Keyframe]) -> tuple[Keyframe, ...]:
    """Four overlapping squares of the middle square of each view, with the geometry that is theirs,
    as keyframes of indices of their own: the same for the same keyframe.
    """
    return tuple(
        replace(keyframe, frame=quarter, index=QUARTERS * keyframe.index + i)
        for keyframe in keyframes
        for i, quarter in enumerate(_quarters(keyframe.frame))
    )


def _quarters(frame: RgbdFrame) -> list[RgbdFrame]:
    """Row by row."""
    width, height = frame.intrinsics.width, frame.intrinsics.height
    square = min(width, height)
    side = max(round(QUARTER * square), 1)
    left, top, far = (width - square) // 2, (height - square) // 2, square - side
    return [
        _cut(frame, left + x, top + y, side) for y in (0, far) for x in (0, far)
    ]


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
