"""A guessed box refined against depth: the connected surface that it mostly covers gives the faces.

Numpy float64. Boxes come out axis-aligned in the world (yaw 0), as ScanRefer's are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from ada3d_ros.geometry.boxes import grow_box, iou_axis_aligned, points_inside
from ada3d_ros.geometry.camera import unproject_depth
from ada3d_ros.types import Box3D, RgbdFrame

Points = npt.NDArray[np.float64]

MIN_EXTENT_M = 0.02


@dataclass(frozen=True, slots=True)
class RefineSettings:
    """How a surface is taken from the points around a guess."""

    margin_m: float = 0.3  # the guess is grown by this on every side
    floor_clearance_m: float = 0.05  # points this little above the floor are floor
    voxel_m: float = 0.08  # points in voxels that touch hang together
    trim: float = 0.01  # share of points beyond each face
    min_points: int = 15
    min_iou: float = 0.25  # with the guess; below it the guess stands
    floor_reach_m: float = 0.2  # a surface that ends this near the floor stands on it
    max_points: int = 60_000


def world_points(frames: Sequence[RgbdFrame], max_points: int) -> Points:
    """Valid depth readings of all frames as world points (P, 3) float64.

    Of every n-th row and column, so that about max_points readings are taken.
    """
    total = sum(frame.depth_m.size for frame in frames)
    stride = max(1, int(np.ceil(np.sqrt(total / max_points))))
    parts = []
    for frame in frames:
        K = frame.intrinsics.matrix
        K[:2] /= stride
        depth = torch.from_numpy(frame.depth_m[::stride, ::stride].astype(np.float64))
        pose = torch.from_numpy(frame.T_world_cam.copy())
        xyz = unproject_depth(depth, torch.from_numpy(K), pose).numpy().reshape(-1, 3)
        parts.append(xyz[np.isfinite(xyz).all(axis=1)])
    return np.concatenate(parts) if parts else np.empty((0, 3))


def floor_height_m(points: Points) -> float:
    """The height below which hardly anything lies: the 2 % quantile of z; 0 without points."""
    return float(np.quantile(points[:, 2], 0.02)) if len(points) else 0.0


def refine_box(
    points: Points, guess: Box3D, floor_z_m: float, settings: RefineSettings = RefineSettings()
) -> Box3D:
    """The box of the surface that `guess` covers best, or the guess itself where none fits it.

    points (P, 3): world_points of the scene. Label, score, method and evidence stay.
    """
    # Points around the guess, without the floor.
    near = points[points_inside(points, grow_box(guess, settings.margin_m))]
    near = near[near[:, 2] > floor_z_m + settings.floor_clearance_m]
    if len(near) < settings.min_points:
        return guess

    # The surface among them.
    surface = near[_best_component(near, guess, settings.voxel_m)]
    if len(surface) < settings.min_points:
        return guess

    # Its faces, trimmed; what nearly reaches the floor stands on it.
    low, high = np.quantile(surface, (settings.trim, 1 - settings.trim), axis=0)
    if low[2] - floor_z_m < settings.floor_reach_m:
        low[2] = floor_z_m
    box = Box3D(
        (low + high) / 2,
        np.maximum(high - low, MIN_EXTENT_M),
        label=guess.label,
        score=guess.score,
        method=guess.method,
        evidence_xyz_m=guess.evidence_xyz_m,
        evidence_weights=guess.evidence_weights,
    )
    return box if iou_axis_aligned(box, guess) >= settings.min_iou else guess


def _best_component(points: Points, guess: Box3D, voxel_m: float) -> npt.NDArray[np.bool_]:
    """Which points (P,) belong to the connected surface with the most weight near the guess."""
    # Connected components of occupied voxels.
    coords = np.floor((points - points.min(axis=0)) / voxel_m).astype(np.int64)
    grid = np.zeros(coords.max(axis=0) + 1, dtype=bool)
    grid[tuple(coords.T)] = True
    labels, _ = ndimage.label(grid, structure=np.ones((3, 3, 3)))
    component = labels[tuple(coords.T)]

    # A Gaussian around the guess's centre, of half its extents, weighs the points.
    offset = (points - guess.center_m) / np.maximum(guess.size_m / 2, 0.05)
    weight = np.exp(-0.5 * (offset**2).sum(axis=1))
    chosen: npt.NDArray[np.bool_] = component == np.bincount(component, weights=weight).argmax()
    return chosen
