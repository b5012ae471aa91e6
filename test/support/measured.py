"""Boxes, objects and requests that measures are tested on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from ada3d_ros.geometry.measure import MeasuredScene, Referent, Resolved, measure
from ada3d_ros.measures import MeasureKind, Measurement, MeasureRequest, SceneObject
from ada3d_ros.types import Box3D

NO_DEPTH = MeasuredScene()

coordinate = st.floats(-3, 3, allow_nan=False)
extent = st.floats(0.05, 2.0, allow_nan=False)
any_boxes = st.builds(
    lambda c, s, yaw: Box3D(np.array(c), np.array(s), yaw, score=0.98, support_points=400),
    st.tuples(coordinate, coordinate, coordinate),
    st.tuples(extent, extent, extent),
    st.floats(-7, 7, allow_nan=False),
)


def box(
    center: Sequence[float],
    size: Sequence[float] = (0.5, 0.5, 0.5),
    label: str = "",
    yaw: float = 0.0,
    support: int = 400,
) -> Box3D:
    """A box of a score of .98 that 400 readings support."""
    values = np.array(center, dtype=np.float64), np.array(size, dtype=np.float64)
    return Box3D(*values, yaw, label, score=0.98, support_points=support)


def objects(*boxes: Box3D) -> tuple[SceneObject, ...]:
    return tuple(SceneObject(str(i), one.label, one) for i, one in enumerate(boxes))


def named(one: Box3D) -> Referent:
    return Referent(one.label, one)


def ask(
    kind: MeasureKind,
    of: Box3D | Referent | None = None,
    to: Box3D | Referent | None = None,
    third: Box3D | Referent | None = None,
    among: Sequence[Box3D] = (),
    scene: MeasuredScene = NO_DEPTH,
    **request: object,
) -> Measurement:
    """The measurement of boxes, which are named by their labels."""
    referents = (named(one) if isinstance(one, Box3D) else one for one in (of, to, third))
    things = Resolved(*referents, candidates=objects(*among))
    return measure(MeasureRequest(kind, **request), things, scene)  # type: ignore[arg-type]
