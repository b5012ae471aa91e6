"""A named thing's box fitted to the depth readings in it: faces where surfaces are, turned with it.

Grounded boxes are made to hold an object: their faces are its outermost readings, noise included,
along the world's axes. Distances want the surfaces themselves (decision 0081).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ada3d_ros.geometry.boxes import grow_box
from ada3d_ros.geometry.depth_support import readings_in_box
from ada3d_ros.geometry.near_readings import near_readings
from ada3d_ros.types import Box3D, RgbdFrame

Points = npt.NDArray[np.float64]

MARGIN_M = 0.03  # readings this far outside the box belong to it
FLOOR_CLEARANCE_M = 0.05  # readings this little above the floor are floor
MIN_POINTS = 15
MAX_READINGS = 250_000  # of the scene; more are passed over by a stride
TRIM = 0.02  # share of readings beyond each side of the footprint
STEP_DEG = 3.0  # of the yaws that are tried
MIN_GAIN = 0.9  # a turned footprint has to be this much smaller than one along the box


def fit_to_depth(box: Box3D, frames: Sequence[RgbdFrame], floor_z_m: float) -> Box3D:
    """The box with its footprint fitted to the readings in it: the smallest upright rectangle that
    leaves TRIM of them beyond each side. Heights stay; with fewer than MIN_POINTS the whole box.
    """
    # Readings in the box, without the floor.
    total = sum(frame.depth_m.size for frame in frames)
    stride = max(1, math.ceil(math.sqrt(total / MAX_READINGS)))
    around = grow_box(box, MARGIN_M)
    parts = [readings_in_box(frame, around, stride) for frame in frames]
    points = near_readings(frames, parts)
    xy_m = points[points[:, 2] > floor_z_m + FLOOR_CLEARANCE_M, :2] - box.center_m[:2]
    if len(xy_m) < MIN_POINTS:
        return box

    # Their extent at every yaw of a quarter turn, from the box's own on.
    yaw = box.yaw_rad + np.deg2rad(np.arange(0.0, 90.0, STEP_DEG))
    axes = np.stack((np.stack((np.cos(yaw), np.sin(yaw))), np.stack((-np.sin(yaw), np.cos(yaw)))))
    along = np.einsum("pk,akn->apn", xy_m, axes)  # (2 axes, P points, N yaws)
    low, high = np.quantile(along, (TRIM, 1.0 - TRIM), axis=1)
    area = (high - low).prod(axis=0)

    # The smallest, where it is much smaller.
    best = int(area.argmin())
    best = best if area[best] < MIN_GAIN * area[0] else 0
    middle = axes[:, :, best].T @ ((low + high)[:, best] / 2)
    return dataclasses.replace(
        box,
        center_m=np.array([*(box.center_m[:2] + middle), box.center_m[2]]),
        size_m=np.array([*(high - low)[:, best], box.size_m[2]]),
        yaw_rad=float(yaw[best]),
    )
