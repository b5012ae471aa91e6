"""Whether anything is at a place: an object that is known, or a surface near it that is not of the
room itself (floor, ceiling, walls).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ada3d_ros.errors import NotGroundedError
from ada3d_ros.geometry.boxes import grow_box, points_inside
from ada3d_ros.geometry.depth_support import world_points
from ada3d_ros.geometry.measure.checks import BOUNDS_READINGS, place_text
from ada3d_ros.geometry.measure.distance import surface_distance_m
from ada3d_ros.measures import SceneObject
from ada3d_ros.types import Box3D, RgbdFrame

Points = npt.NDArray[np.float64]

EMPTY_M = 0.45  # a place so far from all surfaces is empty, unless it is
ABOUT_BOX_M = 0.1  # in an object's box or so near it
PLANE_M = 0.1  # readings so near to floor, ceiling and walls are of them
LEAST_CEILING_M = 1.8  # above the floor
TOP = 0.999  # quantile of the readings' heights that a ceiling lies at


def require_something_at(
    point_m: Points, frames: Sequence[RgbdFrame], floor_z_m: float, objects: Sequence[SceneObject]
) -> None:
    """There must be something at a point (3,) in the world frame. Raises NotGroundedError, which
    says what is nearest.
    """
    # A thing that is known.
    if any(points_inside(point_m[None], grow_box(t.box, ABOUT_BOX_M))[0] for t in objects):
        return

    # A surface.
    points = _of_things(world_points(frames, BOUNDS_READINGS), floor_z_m)
    away_m = float(np.linalg.norm(points - point_m, axis=1).min()) if len(points) else math.inf
    if away_m <= EMPTY_M:
        return

    # Nothing: what is nearest?
    point = Box3D(point_m.copy(), np.zeros(3))
    apart = [(surface_distance_m(point, thing.box), f"the {thing.label}") for thing in objects]
    nearest_m, name = min(apart) if apart else (away_m, "a surface")
    told = "no depth shows a thing"
    if nearest_m < math.inf:
        told = f"the nearest thing is {name}, {nearest_m:.2f} m away"
    raise NotGroundedError(
        f"nothing is at {place_text(point_m)}: no surface of a thing was seen within {EMPTY_M:g} m"
        f" of it; {told}. Give a place on or in a thing, in metres in the world frame."
    )


def _of_things(points: Points, floor_z_m: float) -> Points:
    """The readings (P, 3) that are not of floor, ceiling or walls.

    Walls are taken to be where the readings end on the floor plan; of a room whose walls bend
    inwards some stay.
    """
    if not len(points):
        return points
    from scipy.spatial import ConvexHull, QhullError  # with the first such question

    is_thing = points[:, 2] > floor_z_m + PLANE_M
    top_m = float(np.quantile(points[:, 2], TOP))
    if top_m > floor_z_m + LEAST_CEILING_M:
        is_thing &= points[:, 2] < top_m - PLANE_M
    try:
        hull = ConvexHull(points[:, :2])
    except QhullError:  # on a line
        return points[is_thing]
    things = points[is_thing]
    inside_m = -(things[:, :2] @ hull.equations[:, :2].T + hull.equations[:, 2]).max(axis=1)
    return things[inside_m > PLANE_M]
