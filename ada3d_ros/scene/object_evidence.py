"""Whether keyframes still see an object where it was: surface points of it against their depth.

A keyframe that measures a surface at enough of the points supports the object, one that measures
clearly behind them sees through it, and one that is blocked, looks elsewhere or has no depth there
says nothing. Numpy float64, world frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from ada3d_ros.geometry.sparse_points import project_to_frame
from ada3d_ros.types import Keyframe, RgbdFrame

Points = npt.NDArray[np.float64]

MAX_POINTS = 160  # kept of an object
TOLERANCE_M = 0.08  # between a point and what is measured there,
TOLERANCE_SHARE = 0.02  # and this share of its distance
MIN_DECIDED = 6  # points that a keyframe must see, or see through, to say anything
MIN_DECIDED_SHARE = 0.15  # the same as a share of all points
GONE_VIEWS = 2  # keyframes that must see through an object that is gone


class Sight(Enum):
    """What one keyframe says about an object."""

    NOTHING = 0
    SUPPORTS = 1
    SEES_THROUGH = 2


@dataclass(frozen=True, eq=False, slots=True)
class Evidence:
    """What keyframes say about one object, in the order of their indices.

    xyz_m (P, 3): points of its surface. first_ns, last_ns: stamps of the first and the last
    keyframe that supports it, -1 without one; last_index: of that keyframe; through_ns: stamps of
    the keyframes after it that see through the object.
    """

    xyz_m: Points
    first_ns: int = -1
    last_ns: int = -1
    last_index: int = -1
    through_ns: tuple[int, ...] = ()

    @property
    def gone_ns(self) -> int:
        """Stamp of the keyframe that showed that it is gone; -1 while it is there."""
        return self.through_ns[GONE_VIEWS - 1] if len(self.through_ns) >= GONE_VIEWS else -1

    def after(self, keyframe: Keyframe, sight: Sight) -> Evidence:
        """With what a later keyframe says."""
        stamp = keyframe.frame.stamp_ns
        if sight is Sight.SUPPORTS:
            first = self.first_ns if self.first_ns >= 0 else stamp
            return Evidence(self.xyz_m, first, stamp, keyframe.index)
        if sight is Sight.SEES_THROUGH and self.last_index >= 0:
            through = (*self.through_ns, stamp)[:GONE_VIEWS]
            return Evidence(self.xyz_m, self.first_ns, self.last_ns, self.last_index, through)
        return self


def gather_evidence(
    kept: Sequence[Evidence], keyframes: Sequence[Keyframe]
) -> tuple[Evidence, ...]:
    """What is known of each object once it was looked for in more keyframes, in their order."""
    known = list(kept)
    for keyframe in keyframes:
        sights = sights_of(keyframe.frame, [each.xyz_m for each in known])
        known = [each.after(keyframe, sight) for each, sight in zip(known, sights, strict=True)]
    return tuple(known)


def spread_points(xyz_m: Points, max_points: int = MAX_POINTS) -> Points:
    """At most max_points of the points (P, 3), evenly spread over their order."""
    count = min(len(xyz_m), max_points)
    return xyz_m[np.arange(count) * len(xyz_m) // max(count, 1)]


def sights_of(frame: RgbdFrame, objects: Sequence[Points]) -> list[Sight]:
    """What a frame says about each object, given by points (P_i, 3) of its surface."""
    if not objects:
        return []
    # Of each point: whether a surface is measured at it, or only behind it.
    owner = np.repeat(np.arange(len(objects)), [len(points) for points in objects])
    supported, through = _measure(frame, np.concatenate(objects))
    num_supported = np.bincount(owner[supported], minlength=len(objects))
    num_through = np.bincount(owner[through], minlength=len(objects))

    # Of each object: what most of its points say, where enough say anything.
    sights = []
    for points, there, behind in zip(objects, num_supported, num_through, strict=True):
        decided = there + behind
        if decided < max(MIN_DECIDED, MIN_DECIDED_SHARE * len(points)) or there == behind:
            sights.append(Sight.NOTHING)
        else:
            sights.append(Sight.SUPPORTS if there > behind else Sight.SEES_THROUGH)
    return sights


def _measure(
    frame: RgbdFrame, xyz_m: Points
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which points (P, 3) the frame measures a surface at, and which it sees through, (P,) each.

    At a point's pixel and those around it, so that thin parts are not missed by half a pixel.
    """
    from ada3d_ros.geometry.depth_support import NEAR_M  # loads torch

    # The pixels around each point that is in view.
    uv_px, z_m = project_to_frame(frame, xyz_m)
    height, width = frame.depth_m.shape
    finite = np.isfinite(uv_px).all(axis=1) & (z_m > NEAR_M)
    column, row = np.round(np.where(finite[:, None], uv_px, -1.0)).astype(np.int64).T
    inside = finite & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    steps = np.arange(-1, 2)
    rows = np.clip(row[:, None, None] + steps[:, None], 0, height - 1)
    columns = np.clip(column[:, None, None] + steps, 0, width - 1)

    # How far behind the point each of them measures; no reading says nothing.
    behind_m = frame.depth_m[rows, columns].astype(np.float64) - z_m[:, None, None]
    tolerance = (TOLERANCE_M + TOLERANCE_SHARE * z_m)[:, None, None]
    with np.errstate(invalid="ignore"):
        surface = (np.abs(behind_m) <= tolerance).any(axis=(1, 2))
        blocked = (behind_m < -tolerance).any(axis=(1, 2))
        behind = behind_m[:, 1, 1] > tolerance[:, 0, 0]
    return inside & surface, inside & behind & ~surface & ~blocked
