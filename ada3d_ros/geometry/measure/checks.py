"""What cannot be measured is refused, with the value, the range and the way out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ada3d_ros.errors import InvalidRequestError, NotGroundedError
from ada3d_ros.geometry.boxes import iou_axis_aligned
from ada3d_ros.geometry.depth_support import count_support, world_points
from ada3d_ros.geometry.measure.distance import center_distance_m
from ada3d_ros.geometry.measure.lengths import format_length
from ada3d_ros.geometry.measure.request import MeasuredScene, Referent, Resolved
from ada3d_ros.measures import NUMBER, RADIUS_M, MeasureKind, MeasureRequest, SceneObject
from ada3d_ros.types import Box3D, RgbdFrame

MAX_COORDINATE_M = 10_000.0
OUTSIDE_M = 1.0  # a point this far beyond all that was seen is outside the room
SAME_IOU = 0.5  # two names of boxes that overlap so are of one thing
OVERLAP_IOU = 0.3  # an object that overlaps a named thing so is that thing
SAME_LABEL_M = 0.5  # and so is one of its name whose centre is this near
SAME_POINT_M = 0.01
BOUNDS_READINGS = 50_000  # that show how far the room reaches

# What each kind needs of `of`, `to` and `third`.
NEEDS: dict[MeasureKind, tuple[str, ...]] = {
    MeasureKind.DISTANCE: ("of", "to"),
    MeasureKind.SIZE: ("of",),
    MeasureKind.HEIGHT: ("of",),
    MeasureKind.NEAREST: ("to",),
    MeasureKind.WITHIN: ("to",),
    MeasureKind.DIRECTION: ("of", "to"),
    MeasureKind.ON: ("to",),
    MeasureKind.UNDER: ("to",),
    MeasureKind.BETWEEN: ("to", "third"),
    MeasureKind.FREE_FLOOR: ("to",),
    MeasureKind.WHERE: ("of",),
}
# Names of which two must not be of one thing: to face what is asked after is fine.
DIFFERENT = (("of", "to"), ("to", "third"))
NEEDS_OBJECT = (MeasureKind.SIZE, MeasureKind.HEIGHT, MeasureKind.ON, MeasureKind.UNDER)


def check_numbers(request: MeasureRequest) -> None:
    """Raises InvalidRequestError for k or a radius outside its range, and an unknown unit."""
    format_length(1.0, request.unit)
    if request.kind is MeasureKind.NEAREST and not NUMBER[0] <= request.k <= NUMBER[1]:
        raise InvalidRequestError(
            f"k = {request.k}: the number of nearest things is {NUMBER[0]} to {NUMBER[1]}."
        )
    radius_m, needed = request.radius_m, request.kind is MeasureKind.WITHIN
    if not needed and (request.kind is not MeasureKind.COUNT or math.isnan(radius_m)):
        return
    low, high = RADIUS_M
    if not low <= radius_m <= high:  # NaN, too
        raise InvalidRequestError(
            f"radius {radius_m:g} m: a radius is {low:g} to {high:g} m. Give one in this range, or"
            " count in the whole scene without a radius."
        )


def checked_things(request: MeasureRequest, things: Resolved, scene: MeasuredScene) -> Resolved:
    """The same with depth support counted, and without candidates that are gone or named.

    Raises InvalidRequestError for a missing or repeated name and a place outside the room,
    NotGroundedError for an object without depth.
    """
    # All that the kind needs is there.
    kind = request.kind
    needs = NEEDS.get(kind, ())
    if kind is MeasureKind.COUNT and not math.isnan(request.radius_m):
        needs = ("to",)
    for name in needs:
        if getattr(things, name) is None:
            raise InvalidRequestError(
                f"{kind.name} needs `{name}`: it takes {' and '.join(needs)}; name a thing, a point"
                " [x, y, z] or the robot."
            )

    # Each is somewhere, and depth shows it.
    checked = {name: _checked(getattr(things, name), kind, scene) for name in _NAMES}
    for first, second in DIFFERENT:
        _require_different(checked[first], checked[second])

    # Candidates are other objects that are still there.
    named = [referent for referent in checked.values() if referent is not None]
    rest = tuple(
        candidate
        for candidate in things.candidates
        if not candidate.is_gone and not any(is_same_thing(candidate, one) for one in named)
    )
    return Resolved(**checked, candidates=rest)


_NAMES = ("of", "to", "third")


def is_same_thing(candidate: SceneObject, named: Referent) -> bool:
    """Whether an object is what a name resolved to."""
    if not named.is_object:
        return False
    if iou_axis_aligned(candidate.box, named.box) >= OVERLAP_IOU:
        return True
    alike = candidate.label in (named.label, named.box.label)
    return alike and center_distance_m(candidate.box, named.box) <= SAME_LABEL_M


def _checked(referent: Referent | None, kind: MeasureKind, scene: MeasuredScene) -> Referent | None:
    if referent is None:
        return None
    _require_finite(referent)
    if not referent.is_object:
        if kind in NEEDS_OBJECT:
            raise InvalidRequestError(
                f"{kind.name} is of a thing, not of the point {referent.name}."
            )
        require_in_room(referent.box.center_m, scene.frames)
        return referent
    return replace(referent, box=supported(referent.box, referent.name, scene))


def supported(box: Box3D, name: str, scene: MeasuredScene) -> Box3D:
    """The box with its depth readings counted. Raises NotGroundedError where it holds none."""
    if box.support_points > 0:
        return box
    num_points = count_support(scene.frames, box).num_points
    if not num_points:
        raise NotGroundedError(
            f"no depth reading lies in the box of {name}: nothing can be measured of it. Look at"
            " it once more, from 1 to 4 m."
        )
    return replace(box, center_m=box.center_m.copy(), support_points=num_points)


def _require_finite(referent: Referent) -> None:
    box = referent.box
    values = (*box.center_m.tolist(), *box.size_m.tolist(), box.yaw_rad)
    if not all(math.isfinite(value) for value in values):
        raise InvalidRequestError(
            f"{referent.name} has no place: its box is {values}; all numbers must be finite."
        )
    if float(np.abs(box.center_m).max()) > MAX_COORDINATE_M or box.size_m.min() < 0.0:
        raise InvalidRequestError(
            f"{referent.name}: coordinates within +-{MAX_COORDINATE_M:g} m and sizes from 0 on."
        )


def require_in_room(point_m: npt.NDArray[np.float64], frames: Sequence[RgbdFrame]) -> None:
    """A point (3,) in the world frame must lie within OUTSIDE_M of what the frames saw; the robot's
    own place, too. Raises InvalidRequestError.
    """
    points = world_points(frames, BOUNDS_READINGS)
    if not len(points):
        return
    points = np.concatenate((points, [frame.T_world_cam[:3, 3] for frame in frames]))
    low, high = points.min(axis=0) - OUTSIDE_M, points.max(axis=0) + OUTSIDE_M
    if bool((point_m < low).any() or (point_m > high).any()):
        raise InvalidRequestError(
            f"the point {place_text(point_m)} lies outside the room: what was seen reaches from"
            f" {place_text(low)} to {place_text(high)}, {OUTSIDE_M:g} m around it included. Give a"
            " point in there, in metres in the world frame."
        )


def place_text(xyz_m: npt.NDArray[np.float64]) -> str:
    """`[x, y, z]` of a point (3,), to centimetres."""
    return "[" + ", ".join(f"{value:.2f}" for value in xyz_m) + "]"


def _require_different(first: Referent | None, second: Referent | None) -> None:
    if first is None or second is None:
        return
    if first.is_object and second.is_object:
        same = iou_axis_aligned(first.box, second.box) >= SAME_IOU
    else:
        same = center_distance_m(first.box, second.box) <= SAME_POINT_M
    if same:
        raise InvalidRequestError(
            f"{first.name} and {second.name} are one thing, at {place_text(first.box.center_m)}:"
            " name two different ones, by colour, or by a place [x, y, z]."
        )
