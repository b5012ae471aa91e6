"""Which parts of a box's edges a view shows: in the image, and nothing that depth measures before
them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ada3d_ros.geometry.boxes import corners
from ada3d_ros.geometry.sparse_points import project_to_frame
from ada3d_ros.types import Box3D, RgbdFrame

Points = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MIN_DEPTH_M = 0.05  # what is nearer to the image plane is not drawn
HIDDEN_M = 0.12  # an edge this far behind what depth measures is hidden
SAMPLES = 40  # along an edge
# Of geometry.boxes.corners: bottom, top, and what joins them.
EDGES = [(i, (i + 1) % 4) for i in range(4)]
EDGES += [(i + 4, j + 4) for i, j in EDGES] + [(i, i + 4) for i in range(4)]


def visible_edges(frame: RgbdFrame, box: Box3D) -> list[Points]:
    """Lines (2, 2), px: the parts of the box's edges that nothing in the depth picture hides."""
    lines = []
    shares = np.linspace(0.0, 1.0, SAMPLES)[:, None]
    at = corners(box)
    for i, j in EDGES:
        uv, z = project_to_frame(frame, at[i] * (1 - shares) + at[j] * shares)
        visible = is_visible(frame, uv, z, HIDDEN_M)
        # Runs of visible samples.
        edges = np.flatnonzero(np.diff(np.concatenate(([0], visible.astype(np.int8), [0]))))
        for start, stop in edges.reshape(-1, 2):
            if stop - start > 1:
                lines.append(np.stack((uv[start], uv[stop - 1])))
    return lines


def is_visible(frame: RgbdFrame, uv: Points, z: Points, hidden_m: float) -> Bools:
    """(N,) bool: in the image, and depth there is not clearly nearer; no reading hides nothing."""
    column, row = np.round(np.nan_to_num(uv, nan=-1.0)).T
    width, height = frame.intrinsics.width, frame.intrinsics.height
    inside = (column >= 0) & (row >= 0) & (column < width) & (row < height) & (z > MIN_DEPTH_M)
    reading = np.full(len(uv), np.nan)
    reading[inside] = frame.depth_m[row[inside].astype(int), column[inside].astype(int)]
    visible: Bools = inside & ~(reading < z - hidden_m)
    return visible
