"""Measures over boxes and fused depth: pure functions, without model, text or ROS.

`measure` is the one entry. Metres, world frame, z up. docs/measures.md says what each kind means.
"""

from __future__ import annotations

from collections.abc import Callable

from ada3d_ros.errors import InvalidRequestError
from ada3d_ros.geometry.measure import metric, search
from ada3d_ros.geometry.measure.checks import check_numbers, checked_things, require_in_room
from ada3d_ros.geometry.measure.empty_place import require_something_at
from ada3d_ros.geometry.measure.request import MeasuredScene, Referent, Resolved
from ada3d_ros.geometry.measure.viewpoint import direction
from ada3d_ros.measures import MeasureKind, Measurement, MeasureRequest

__all__ = [
    "MeasuredScene",
    "Referent",
    "Resolved",
    "measure",
    "require_in_room",
    "require_something_at",
]

Kind = Callable[[MeasureRequest, Resolved, MeasuredScene], Measurement]

KINDS: dict[MeasureKind, Kind] = {
    MeasureKind.DISTANCE: metric.distance,
    MeasureKind.SIZE: metric.size,
    MeasureKind.HEIGHT: metric.height,
    MeasureKind.NEAREST: search.nearest,
    MeasureKind.WITHIN: search.within,
    MeasureKind.COUNT: search.count,
    MeasureKind.DIRECTION: direction,
    MeasureKind.ON: search.on,
    MeasureKind.UNDER: search.under,
    MeasureKind.BETWEEN: search.between,
    MeasureKind.FREE_FLOOR: metric.free_floor,
    MeasureKind.EXISTS: search.exists,
    MeasureKind.LARGEST: search.largest,
    MeasureKind.TALLEST: search.tallest,
    MeasureKind.WHERE: metric.where,
}


def measure(request: MeasureRequest, things: Resolved, scene: MeasuredScene) -> Measurement:
    """The request's answer. Raises InvalidRequestError (a number outside its range, one thing
    twice, a missing thing) and NotGroundedError (no object, no depth in a box, no free floor).
    """
    kind = KINDS.get(request.kind)
    if kind is None:
        names = ", ".join(known.name for known in KINDS)
        raise InvalidRequestError(f"kind {request.kind.name} is not measured; one of {names}.")
    check_numbers(request)
    return kind(request, checked_things(request, things, scene), scene)
