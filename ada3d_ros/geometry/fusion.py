"""Depth of many views fused into world voxels, and the box of the largest object; numpy float64.

A voxel counts as surface when enough views put a reading into it (`min_hits`, once per view) AND
its views agree (`min_agreement`): a view that measures a surface there supports it, a view that
measures something clearly behind it sees through it and votes against it, a view blocked by
something nearer has no vote. Hits alone do not notice a wrong pose: many blurred views still fill
voxels. Agreement does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from ada3d_ros.geometry.boxes import grow_box
from ada3d_ros.geometry.depth_support import (
    NEAR_M,
    Counts,
    Points,
    count_support,
    readings_in_box,
)
from ada3d_ros.geometry.sparse_points import project_to_frame
from ada3d_ros.geometry.voxel import voxel_coords, voxel_ids
from ada3d_ros.types import Box3D, RgbdFrame


@dataclass(frozen=True, slots=True)
class FusionSettings:
    """What counts as surface and as an object.

    The floor is the plane z = floor_z_m of the world frame.
    """

    voxel_size_m: float = 0.02
    stride_px: int = 2  # of rows and columns; 2 cm span 5 px at 2 m and 500 px focal length
    min_hits: int = 5  # views with a reading in the voxel
    min_agreement: float = 0.7  # supporting / (supporting + seen through)
    tolerance_m: float = 0.02  # along the optical axis, from a voxel's centre to its reading
    min_component_voxels: int = 100  # a smaller component is no object
    floor_z_m: float = 0.0
    floor_clearance_m: float = 0.05  # voxels below this height are floor
    top_quantile: float = 0.995  # of the component's heights


@dataclass(frozen=True, eq=False, slots=True)
class VoxelMap:
    """Occupied voxels in ascending x, y, z order.

    coords (N, 3) int64: centres at coords * voxel_size_m in the world; num_hits (N,): views with a
    reading in the voxel; num_support, num_seen_through (N,): views that measure a surface at the
    voxel, or clearly behind it.
    """

    coords: Counts
    num_hits: Counts
    num_support: Counts
    num_seen_through: Counts
    voxel_size_m: float

    @property
    def xyz_m(self) -> Points:
        """Voxel centres (N, 3) float64, metres, world."""
        return self.coords.astype(np.float64) * self.voxel_size_m

    @property
    def agreement(self) -> Points:
        """num_support / (num_support + num_seen_through), (N,) float64; 0 where no view looks."""
        return self.num_support / np.maximum(self.num_support + self.num_seen_through, 1)


def fuse_depth(
    frames: Sequence[RgbdFrame], region: Box3D, settings: FusionSettings = FusionSettings()
) -> VoxelMap | None:
    """The voxels inside `region` that at least min_hits frames have a reading in, with their votes.

    None if there are none.
    """
    # Each frame's voxels, once.
    size = settings.voxel_size_m
    per_frame = []
    for frame in frames:
        points = torch.from_numpy(readings_in_box(frame, region, settings.stride_px))
        per_frame.append(voxel_ids(voxel_coords(points, size))[1])
    if not per_frame:
        return None

    # Those that enough frames have.
    ids, coords = voxel_ids(torch.cat(per_frame))
    hits = torch.bincount(ids, minlength=len(coords))
    enough = hits >= settings.min_hits
    if not bool(enough.any()):
        return None

    # Their votes.
    kept = coords[enough].numpy()
    support, seen_through = _vote(frames, kept.astype(np.float64) * size, settings.tolerance_m)
    return VoxelMap(kept, hits[enough].numpy(), support, seen_through, size)


def measure_box(
    frames: Sequence[RgbdFrame],
    around: Box3D,
    margin_m: float = 0.25,
    settings: FusionSettings = FusionSettings(),
) -> Box3D | None:
    """The box of the largest object in `around` grown by margin_m, from the frames' depth alone.

    Label and score are those of `around`; support_points counts as count_support does. None where
    no component of agreed voxels is large enough.
    """
    # Voxels that the views agree on, above the floor.
    voxels = fuse_depth(frames, grow_box(around, margin_m), settings)
    if voxels is None:
        return None
    surface = (voxels.agreement >= settings.min_agreement) & (
        voxels.xyz_m[:, 2] > settings.floor_z_m + settings.floor_clearance_m
    )

    # The largest object among them, and its box.
    component = largest_component(voxels.coords[surface])
    if len(component) < settings.min_component_voxels:
        return None
    centres_m = component.astype(np.float64) * voxels.voxel_size_m
    box = Box3D(*fit_box(centres_m, settings), label=around.label, score=around.score)
    return dataclasses.replace(box, support_points=count_support(frames, box).num_points)


def largest_component(coords: Counts) -> Counts:
    """The largest connected component (M, 3) of voxels coords (N, 3) int64.

    Connected by a face, an edge or a corner; among equally large ones the first in ascending x, y,
    z order.
    """
    if len(coords) == 0:
        return coords
    shifted = coords - coords.min(axis=0)
    grid = np.zeros(shifted.max(axis=0) + 1, dtype=bool)
    grid[tuple(shifted.T)] = True
    labels, _ = ndimage.label(grid, structure=np.ones((3, 3, 3)))
    component = labels[tuple(shifted.T)]
    return coords[component == np.bincount(component).argmax()]


def fit_box(
    xyz_m: Points, settings: FusionSettings = FusionSettings()
) -> tuple[Points, Points, float]:
    """center_m (3,), size_m (3,), yaw_rad of the upright box of the voxels at xyz_m (N, 3).

    Footprint: smallest rectangle around the voxel centres, widened by half a voxel on each side; x
    is its longer side, yaw in (-pi/2, pi/2]. Height: from the floor to the top quantile of the
    heights.
    """
    # Footprint and yaw.
    middle = xyz_m[:, :2].mean(axis=0)  # OpenCV computes in float32: keep the numbers small
    (x, y), (width, depth), angle_deg = cv2.minAreaRect((xyz_m[:, :2] - middle).astype(np.float32))
    yaw_rad = float(np.deg2rad(angle_deg))
    if width < depth:
        width, depth, yaw_rad = depth, width, yaw_rad + np.pi / 2
    yaw_rad = float(np.pi / 2 - (np.pi / 2 - yaw_rad) % np.pi)

    # Height above the floor.
    height = float(np.quantile(xyz_m[:, 2], settings.top_quantile)) - settings.floor_z_m
    center_m = np.array([middle[0] + x, middle[1] + y, settings.floor_z_m + height / 2])
    size_m = np.array([width + settings.voxel_size_m, depth + settings.voxel_size_m, height])
    return center_m, size_m, yaw_rad


def _vote(frames: Sequence[RgbdFrame], xyz_m: Points, tolerance_m: float) -> tuple[Counts, Counts]:
    """Views that support, and views that see through, each world point (N, 3): two (N,) int64."""
    support = np.zeros(len(xyz_m), dtype=np.int64)
    seen_through = np.zeros(len(xyz_m), dtype=np.int64)
    for inside, behind_m in _measured_behind(frames, xyz_m):
        support[inside] += np.abs(behind_m) <= tolerance_m
        seen_through[inside] += behind_m > tolerance_m
    return support, seen_through


def _measured_behind(
    frames: Sequence[RgbdFrame], xyz_m: Points
) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]]:
    """Per frame: indices of the points in view, and how far behind each its reading lies (m)."""
    for frame in frames:
        uv_px, z_m = project_to_frame(frame, xyz_m)
        height, width = frame.depth_m.shape
        column, row = np.round(uv_px).T
        inside = np.flatnonzero(
            (z_m > NEAR_M) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        )
        reading_m = frame.depth_m[row[inside].astype(np.int64), column[inside].astype(np.int64)]
        yield inside, reading_m - z_m[inside]
