"""Whether keyframes still see an object where it was: surface points of it against their depth.

A keyframe that measures a surface at most of the points that it sees supports the object, one that
measures clearly behind most of them sees through it, and one that is blocked, looks elsewhere or
has no depth there says nothing. A wall or a neighbour behind a thing is soon taken for its surface,
so that a keyframe which sees through a good part of it, or through the place of what is known to be
there, counts too, beside one that sees through most. Numpy float64, world frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import numpy.typing as npt

from ada3d_ros.geometry.boxes import grow_box, points_inside
from ada3d_ros.geometry.free_space import is_seen_empty
from ada3d_ros.geometry.sparse_points import project_to_frame
from ada3d_ros.geometry.walls import on_walls
from ada3d_ros.types import Box3D, Keyframe, RgbdFrame

Points = npt.NDArray[np.float64]

ABOUT_BOX_M, AROUND_M = 0.05, 0.5  # how far around an object's box others are looked at
MIN_OWN_POINTS = 15  # that an object is judged by, where there are so many
EVIDENCE_FROM = 0.3  # share of a box's height from which on points tell it from what it stands on,
EVIDENCE_FROM_M = 0.1  # and at least so high, as tolerance is at 1 m
MAX_POINTS = 160  # kept of an object
TOLERANCE_M = 0.08  # between a point and what is measured there,
TOLERANCE_SHARE = 0.02  # and this share of its distance
MIN_DECIDED = 6  # points that a keyframe must see, or see through, to say anything
MIN_DECIDED_SHARE = 0.15  # the same as a share of all points
PARTLY = 0.4  # share of the decided points that are seen through where a keyframe supports no more
GONE_VIEWS = 2  # keyframes that must see through an object that is gone, one of them through most


class Sight(Enum):
    """What one keyframe says about an object."""

    NOTHING = 0
    SUPPORTS = 1
    SEES_THROUGH = 2
    PARTLY_THROUGH = 3


@dataclass(frozen=True, eq=False, slots=True)
class Evidence:
    """What keyframes say about one object, in the order of their indices.

    xyz_m (P, 3): points of its surface. first_ns, last_ns: stamps of the first and the last
    keyframe that supports it, -1 without one; last_index: of that keyframe; through_ns, partly_ns:
    stamps of the keyframes after it that see through the object, and of those that do in part.
    """

    xyz_m: Points
    first_ns: int = -1
    last_ns: int = -1
    last_index: int = -1
    through_ns: tuple[int, ...] = ()
    partly_ns: tuple[int, ...] = ()

    @property
    def gone_ns(self) -> int:
        """Stamp of the keyframe that showed that it is gone; -1 while it is there."""
        both = sorted(self.through_ns + self.partly_ns)
        if not self.through_ns or len(both) < GONE_VIEWS:
            return -1
        return max(self.through_ns[0], both[GONE_VIEWS - 1])

    def after(self, keyframe: Keyframe, sight: Sight) -> Evidence:
        """With what a later keyframe says."""
        stamp = keyframe.frame.stamp_ns
        if sight is Sight.SUPPORTS:
            first = self.first_ns if self.first_ns >= 0 else stamp
            return Evidence(self.xyz_m, first, stamp, keyframe.index)
        if sight is Sight.NOTHING or self.last_index < 0:
            return self
        if sight is Sight.SEES_THROUGH:
            return replace(self, through_ns=(*self.through_ns, stamp)[:GONE_VIEWS])
        return replace(self, partly_ns=(*self.partly_ns, stamp)[:GONE_VIEWS])


def gather_evidence(
    kept: Sequence[Evidence], keyframes: Sequence[Keyframe]
) -> tuple[Evidence, ...]:
    """What is known of each object once it was looked for in more keyframes, in their order."""
    known = list(kept)
    for keyframe in keyframes:
        sights = sights_of(keyframe.frame, [each.xyz_m for each in known])
        known = [each.after(keyframe, sight) for each, sight in zip(known, sights, strict=True)]
    return tuple(known)


def telling_points(points: Points, box: Box3D, others: Sequence[Box3D]) -> Points:
    """Points (P, 3) of the scene that show whether what the box encloses is there: those above what
    it stands on, in no other object's box and on no wall, as far as there are such.
    """
    inside = points[points_inside(points, box)]
    foot_m, height_m = box.center_m[2] - box.size_m[2] / 2, box.size_m[2]
    bottom_m = foot_m + EVIDENCE_FROM * height_m
    upper = inside
    for least_m in (bottom_m, max(bottom_m, foot_m + EVIDENCE_FROM_M)):
        higher = inside[inside[:, 2] >= least_m]
        upper = higher if len(higher) >= MIN_OWN_POINTS else upper
    shared = np.zeros(len(upper), dtype=bool)
    for other in others:
        shared |= points_inside(upper, other)
    own = upper[~shared]
    own = own if len(own) >= MIN_OWN_POINTS else upper

    # A wall that the box reaches into goes on outside it.
    around = points[points_inside(points, grow_box(box, AROUND_M)) & (points[:, 2] >= bottom_m)]
    for other in (grow_box(box, ABOUT_BOX_M), *others):
        around = around[~points_inside(around, other)]
    apart = own[~on_walls(own, around)]
    return spread_points(apart if len(apart) >= MIN_OWN_POINTS else own)


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
    return [
        _sight_of(frame, points, there, behind)
        for points, there, behind in zip(objects, num_supported, num_through, strict=True)
    ]


def _sight_of(frame: RgbdFrame, points: Points, there: int, behind: int) -> Sight:
    """Of one object, of whose points so many have a surface, and so many are seen through."""
    decided = there + behind
    if decided < max(MIN_DECIDED, MIN_DECIDED_SHARE * len(points)):
        if not len(points) or there > 0:
            return Sight.NOTHING
        # Its points are hidden; what of its place is not may be seen to be empty.
        low_m, high_m = points.min(axis=0), points.max(axis=0)
        is_empty = is_seen_empty(frame, low_m, high_m, TOLERANCE_M, MIN_DECIDED)
        return Sight.PARTLY_THROUGH if is_empty else Sight.NOTHING
    if behind > there:
        return Sight.SEES_THROUGH
    return Sight.PARTLY_THROUGH if behind >= PARTLY * decided else Sight.SUPPORTS


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
