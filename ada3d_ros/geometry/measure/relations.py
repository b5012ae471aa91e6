"""How things stand to each other: sides from a viewpoint, on, under and between; from boxes alone.

The sides are those of the generated rooms' questions (lab/world): left and right from 30 to 120
degrees of what one faces, behind from 150 on, in front up to 30. From 120 to 150 the nearer one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ada3d_ros.geometry.boxes import footprint_overlap_m2
from ada3d_ros.geometry.measure.distance import plan_distance_m
from ada3d_ros.types import Box3D, GroundingMethod

FRONT_DEG, BEHIND_DEG = 30.0, 135.0  # borders of the sides
UNSURE_DEG = 15.0  # an angle this near a border is said to be near it
NO_DIRECTION_M = 0.05  # centres this near each other on the floor plan have no direction
MIN_OVERLAP = 0.5  # of the footprint of what stands on a thing, or under it
SEEN_PART = 0.25  # of the height of a detector's box: seats of sofas are higher
TOUCH_M = 0.15  # between the bottom of a thing and the top of what it stands on
ON_FLOOR_M = 0.12  # a bottom this near the floor stands on it
BETWEEN_M = 0.6  # from the middle four fifths of the line of two things to what is between them
MIDDLE = 0.1, 0.9


@dataclass(frozen=True, slots=True)
class Side:
    """Where a thing is for a viewer. angle_deg: from what is faced, left positive, -180 to 180;
    other: the side across the nearest border, "" where that is UNSURE_DEG or more away.
    """

    word: str
    angle_deg: float
    other: str = ""


def side_of(at: Box3D, heading_rad: float, thing: Box3D) -> Side | None:
    """The side of `thing` for one who stands at `at` and faces heading_rad (about world z).

    None where the two are at one place on the floor plan.
    """
    if plan_distance_m(at, thing) < NO_DIRECTION_M:
        return None
    angle = math.degrees(_wrapped(bearing_rad(at, thing) - heading_rad))
    word = _side(angle)
    near = (angle - UNSURE_DEG, angle + UNSURE_DEG)
    others = [side for side in map(_side, near) if side != word]
    return Side(word, angle, others[0] if others else "")


def bearing_rad(at: Box3D, towards: Box3D) -> float:
    """The heading from one centre to another, about world z."""
    dx, dy = (towards.center_m - at.center_m)[:2]
    return math.atan2(dy, dx)


def _side(angle_deg: float) -> str:
    angle = (angle_deg + 180.0) % 360.0 - 180.0
    if abs(angle) <= FRONT_DEG:
        return "in front"
    if abs(angle) >= BEHIND_DEG:
        return "behind"
    return "left" if angle > 0 else "right"


def _wrapped(angle_rad: float) -> float:
    """In (-pi, pi]."""
    return math.pi - (math.pi - angle_rad) % (2 * math.pi)


def bottom_m(box: Box3D) -> float:
    return float(box.center_m[2] - box.size_m[2] / 2)


def top_m(box: Box3D) -> float:
    return float(box.center_m[2] + box.size_m[2] / 2)


def covered_share(thing: Box3D, by: Box3D) -> float:
    """Share of a thing's footprint that lies within another's; 0 for a footprint without area."""
    area = float(thing.size_m[0] * thing.size_m[1])
    return footprint_overlap_m2(thing, by) / area if area > 0.0 else 0.0


def stands_on(thing: Box3D, support: Box3D) -> bool:
    """Whether `thing` stands on `support`.

    At least half of its footprint lies over it, and its bottom is between the support's middle and
    TOUCH_M above its top: a support's box may reach up to the top of what stands on it. Of what a
    detector saw the lowest part is often hidden, and the middle then too high: its lower quarter.
    """
    if covered_share(thing, support) < MIN_OVERLAP:
        return False
    detected = support.method is GroundingMethod.DETECTOR
    least_m = bottom_m(support) + (SEEN_PART if detected else 0.5) * float(support.size_m[2])
    return least_m < bottom_m(thing) <= top_m(support) + TOUCH_M


def lies_under(thing: Box3D, above: Box3D) -> bool:
    """Whether `thing` is under `above`: that stands on it, or it stands lower within the other's
    footprint, as a box under a table.
    """
    if stands_on(above, thing):
        return True
    inside = covered_share(thing, above) >= MIN_OVERLAP and not stands_on(thing, above)
    return inside and top_m(thing) < top_m(above) and bottom_m(thing) < float(above.center_m[2])


def is_between(thing: Box3D, first: Box3D, second: Box3D) -> bool:
    """Whether a thing's centre is within BETWEEN_M of the middle four fifths of the line of two
    others' centres, on the floor plan.
    """
    return off_line_m(thing, first, second) <= BETWEEN_M


def off_line_m(thing: Box3D, first: Box3D, second: Box3D) -> float:
    """The distance of its centre from that part of the line."""
    start, line = first.center_m[:2], (second.center_m - first.center_m)[:2]
    offset = thing.center_m[:2] - start
    length2 = float(line @ line)
    along = float(offset @ line) / length2 if length2 > 0.0 else 0.0
    along = min(max(along, MIDDLE[0]), MIDDLE[1])
    return float(np.hypot(*(offset - along * line)))
