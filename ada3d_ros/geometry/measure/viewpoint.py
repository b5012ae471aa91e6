"""On which side a thing is: left, right, behind or in front, for one who stands and faces."""

from __future__ import annotations

import math

from ada3d_ros.errors import InvalidRequestError
from ada3d_ros.geometry.measure import uncertainty
from ada3d_ros.geometry.measure.distance import plan_distance_m
from ada3d_ros.geometry.measure.metric import doubts
from ada3d_ros.geometry.measure.relations import NO_DIRECTION_M, bearing_rad, side_of
from ada3d_ros.geometry.measure.request import MeasuredScene, Referent, Resolved, given
from ada3d_ros.geometry.measure.uncertainty import half_width_m
from ada3d_ros.measures import LEFT_RIGHT, MeasureKind, Measurement, MeasureRequest
from ada3d_ros.types import Box3D

DEGREES = "deg"
PHRASES = {
    "left": "on the left",
    "right": "on the right",
    "behind": "behind",
    "in front": "in front",
}


def direction(request: MeasureRequest, things: Resolved, scene: MeasuredScene) -> Measurement:
    """The side of `of` for one who stands at `to` and faces `third`, or where the robot does; with
    attribute "left_right" left or right of that direction alone.
    """
    # Where one stands, and which way one faces.
    thing, at = given(things.of), given(things.to)
    heading, facing, assumptions = _heading(at, things.third, scene)
    side = side_of(at.box, heading, thing.box)
    if side is None:
        raise InvalidRequestError(
            f"{thing.name} is within {NO_DIRECTION_M:g} m of where one stands, {at.name}: it has no"
            " side. Name another place to stand at."
        )

    # How sure the angle is, and whether it is near a border.
    faced = () if things.third is None else (things.third.box,)
    half = angle_half_width_deg(at.box, thing.box, *faced)
    word, degrees = side.word, abs(side.angle_deg)
    if request.attribute == LEFT_RIGHT:
        word = "left" if side.angle_deg > 0.0 else "right"
        if min(degrees, 180.0 - degrees) <= half:
            assumptions.append(f"At {degrees:.0f} degrees left or right is not sure.")
    elif side.other:
        assumptions.append(f"At {degrees:.0f} degrees it is near the border to {side.other!r}.")
    sentence = (
        f"{thing.name[:1].upper() + thing.name[1:]} is {PHRASES[word]}, seen from"
        f" {at.name}{facing}."
    )
    return Measurement(
        MeasureKind.DIRECTION,
        (side.angle_deg,),
        DEGREES,
        (half,),
        word=word,
        sentence=sentence,
        boxes=(at.box, *faced, thing.box),
        assumptions=(*assumptions, *doubts(thing, at)),
    )


def _heading(
    at: Referent, third: Referent | None, scene: MeasuredScene
) -> tuple[float, str, list[str]]:
    """Heading, what is faced in words, and what was assumed."""
    if third is not None:
        if plan_distance_m(at.box, third.box) < NO_DIRECTION_M:
            raise InvalidRequestError(
                f"{at.name} and {third.name} are at one place: name something else to face."
            )
        return bearing_rad(at.box, third.box), f" facing {third.name}", []
    if math.isfinite(at.heading_rad):
        return at.heading_rad, " as it stands", []
    robot = scene.robot
    if robot is not None and math.isfinite(robot.heading_rad):
        return robot.heading_rad, "", ["One faces where the robot does."]
    raise InvalidRequestError(
        f"left and right of {at.name} depend on where one looks: say what one faces, as in"
        " 'standing at the table, facing the door'."
    )


def angle_half_width_deg(at: Box3D, thing: Box3D, *faced: Box3D) -> float:
    """Of the angle between two bearings, 180 at most."""
    total = 0.0
    for other in (thing, *faced):
        half_m = half_width_m(uncertainty.PLAN, at, other)
        total = math.hypot(total, math.atan2(half_m, plan_distance_m(at, other)))
    return min(math.degrees(total), 180.0)
