"""The places that a model pointed at before it spoke, as boxes: evidence of its answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ada3d_ros.engine.places import Place
from ada3d_ros.engine.query_context import QueryContext
from ada3d_ros.engine.streaming import stop_asked
from ada3d_ros.engine.token_selection import SceneContext
from ada3d_ros.geometry.near_readings import surface_points
from ada3d_ros.grounding.refine import RefineSettings, floor_height_m, refine_box
from ada3d_ros.model.backbone import Origin
from ada3d_ros.types import Box3D, GroundingMethod

MAX_POINTS = 60_000  # depth readings of the scene: an answer waits for them, as none does for a box


def boxes_of_places(
    query: QueryContext, context: SceneContext, places: Sequence[Place]
) -> tuple[Box3D, ...]:
    """A box for each place, in the same order, in the world frame: refined against depth where
    boxes are wanted and time allows, else the grounding head's own.

    None is dropped, since their order says what they are; depth readings in them are not counted.
    """
    boxes = [_box_of(place, query.origin_m) for place in places]
    if not boxes or not query.question.want_boxes:
        return tuple(boxes)
    settings = RefineSettings(max_points=MAX_POINTS)
    points = surface_points(context.scene.frames, settings.max_points)
    floor_z_m = floor_height_m(points)
    for i, guess in enumerate(boxes):
        if stop_asked(query.hooks) is not None:
            break
        boxes[i] = refine_box(points, guess, floor_z_m, settings)
    return tuple(boxes)


def _box_of(place: Place, origin_m: Origin) -> Box3D:
    """The head's box of a place, in the world frame; origin_m: of the model's world."""
    x_m, y_m, z_m = origin_m
    return Box3D(
        np.array(place.center_m) + np.array(origin_m),
        np.array(place.size_m),
        score=place.share,
        method=GroundingMethod.HEAD,
        evidence_xyz_m=tuple((x + x_m, y + y_m, z + z_m) for x, y, z in place.evidence_xyz_m),
        evidence_weights=place.evidence_weights,
    )
