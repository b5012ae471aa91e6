"""Points of walls: those in an upright plane that goes on where other points are.

Numpy float64, world frame, gravity along z.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]

MAX_WALLS = 3
NUM_TRIES = 200  # planes through two points each that are tried for a wall
MAX_AROUND = 1000  # points that they are tried on
THICK_M = 0.04  # points that far from a plane are in it
MIN_APART_M = 0.2  # of the two points
MIN_POINTS, MIN_SHARE = 20, 0.2  # that a wall holds, and of all around


def on_walls(xyz_m: Points, around_m: Points) -> npt.NDArray[np.bool_]:
    """Which of the points (P, 3) lie in an upright plane that holds many of those around them
    (Q, 3); (P,) bool. Up to MAX_WALLS planes, the same ones each time (RANSAC, fixed seed).
    """
    on_any = np.zeros(len(xyz_m), dtype=bool)
    draw = np.random.default_rng(0)
    left = around_m[:, :2]
    left = left[:: max(-(-len(left) // MAX_AROUND), 1)]
    least = max(MIN_POINTS, MIN_SHARE * len(left))
    for _ in range(MAX_WALLS):
        if len(left) < least:
            break
        # Seen from above planes are lines: through two points each.
        first, second = left[draw.integers(len(left), size=(2, NUM_TRIES))]
        length_m = np.linalg.norm(second - first, axis=1)
        apart = length_m >= MIN_APART_M
        if not apart.any():
            break
        along = (second - first)[apart] / length_m[apart, None]
        normals = np.column_stack((-along[:, 1], along[:, 0]))
        offsets_m = (normals * first[apart]).sum(axis=1)

        # The one that holds most points, if they are many.
        held = np.abs(left @ normals.T - offsets_m) <= THICK_M
        best = int(held.sum(axis=0).argmax())
        if held[:, best].sum() < least:
            break
        on_any |= np.abs(xyz_m[:, :2] @ normals[best] - offsets_m[best]) <= THICK_M
        left = left[~held[:, best]]
    return on_any
