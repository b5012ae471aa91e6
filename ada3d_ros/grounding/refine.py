"""A guessed box refined against depth: the connected surface that it mostly covers gives the faces.

Numpy float64. Boxes come out axis-aligned in the world (yaw 0), as ScanRefer's are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ada3d_ros.geometry.boxes import grow_box, iou_axis_aligned, points_inside
from ada3d_ros.grounding.walls import without_walls, without_walls_over
from ada3d_ros.types import Box3D

Points = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

MIN_EXTENT_M = 0.02
LEVEL_BAND_M = 0.03  # half the height of a band of points that make a level


@dataclass(frozen=True, slots=True)
class RefineSettings:
    """How a surface is taken from the points around a guess."""

    margin_m: float = 0.3  # the guess is grown by this on every side
    floor_clearance_m: float = 0.05  # points this little above the floor are floor
    voxel_m: float = 0.08  # points in voxels that touch hang together
    trim: float = 0.003  # share of points beyond each face
    min_points: int = 15
    min_iou: float = 0.15  # with the guess; below it the guess stands
    passes: int = 2  # a surface that reached out of the first guess's surroundings is followed
    floor_reach_m: float = 0.2  # a surface that ends this near the floor stands on it
    max_points: int = 250_000
    support_below_m: float = 0.25  # a level this far under the guess at most may support it,
    support_share: float = 0.25  # if so many of the points there lie in it,
    support_clearance_m: float = 0.03  # then points this little above it are of it
    support_reach_m: float = 0.1  # and a surface that ends this near it stands on it
    wall_growth: float = 2.5  # a surface so many times as large as the guess may hold a wall
    piece_share: float = 0.9  # a surface with so many of its points in the guess is of the thing,
    piece_margin_m: float = 0.05  # or this near to it


def floor_height_m(points: Points) -> float:
    """The height below which hardly anything lies: the 2 % quantile of z; 0 without points."""
    return float(np.quantile(points[:, 2], 0.02)) if len(points) else 0.0


def refine_box(
    points: Points, guess: Box3D, floor_z_m: float, settings: RefineSettings = RefineSettings()
) -> Box3D:
    """The box of the surface that `guess` covers best, or the guess itself where none fits it.

    points (P, 3): surface_points of the scene. Label, score, method and evidence stay.
    """
    box = _refine_above(points, guess, floor_z_m, settings)
    growth = box.size_m.prod() / max(guess.size_m.prod(), 1e-9)
    if box is not guess and growth < settings.wall_growth:
        return box

    # A thing at a wall hangs together with it: once more without the walls around it, and without
    # those that go on over it.
    beside, around = _around(points, guess, floor_z_m, settings)
    without = without_walls(around, guess), without_walls_over(around, guess, beside)
    alone = (_refine_above(rest, guess, floor_z_m, settings) for rest in without)
    fitting = [each for each in (box, *alone) if each is not guess]
    if fitting:
        return max(fitting, key=lambda each: iou_axis_aligned(each, guess))

    # A small thing hangs together with what it stands on: once more without that.
    level_m = _support_level_m(points, guess, settings)
    if level_m is None or level_m <= floor_z_m + settings.support_reach_m:
        return guess
    on_level = replace(
        settings,
        floor_clearance_m=settings.support_clearance_m,
        floor_reach_m=settings.support_reach_m,
    )
    return _refine_above(points, guess, level_m, on_level)


def _around(
    points: Points, guess: Box3D, floor_z_m: float, settings: RefineSettings
) -> tuple[Points, Points]:
    """The points around a guess on the floor plan, without the floor; those at its height."""
    around = grow_box(guess, 2 * settings.margin_m)
    beside = points
    for axis in (0, 1):
        away_m = np.abs(beside[:, axis] - guess.center_m[axis])
        beside = beside[away_m <= around.size_m[axis] / 2]
    beside = beside[beside[:, 2] > floor_z_m + settings.floor_clearance_m]
    return beside, beside[points_inside(beside, around)]


def _refine_above(
    points: Points, guess: Box3D, floor_z_m: float, settings: RefineSettings
) -> Box3D:
    """All passes of refine_box above one level."""
    box = guess
    for _ in range(settings.passes):
        refined = _box_of_surface(points, box, floor_z_m, settings)
        if refined is box:
            break
        box = refined
    return box


def _support_level_m(points: Points, guess: Box3D, settings: RefineSettings) -> float | None:
    """The height of the level surface that a guess seems to stand on; None where there is none."""
    # The heights of the points around its lower half, and below it.
    low_m = guess.center_m[2] - guess.size_m[2] / 2 - settings.support_below_m
    high_m = guess.center_m[2] + LEVEL_BAND_M
    near = points[points_inside(points, grow_box(guess, settings.support_below_m))]
    heights_m = near[(near[:, 2] > low_m) & (near[:, 2] < high_m), 2]
    if len(heights_m) < settings.min_points:
        return None

    # The fullest band among them, bands overlapping by half.
    counts, edges = np.histogram(heights_m, np.arange(low_m, high_m + LEVEL_BAND_M, LEVEL_BAND_M))
    pairs = counts[:-1] + counts[1:]
    fullest = int(pairs.argmax())
    if pairs[fullest] < settings.support_share * len(heights_m):
        return None
    in_band = (heights_m >= edges[fullest]) & (heights_m < edges[fullest + 2])
    return float(np.median(heights_m[in_band]))


def _box_of_surface(
    points: Points, guess: Box3D, floor_z_m: float, settings: RefineSettings
) -> Box3D:
    """One pass of refine_box."""
    # Points around the guess, without the floor. Most fall to one cheap comparison.
    around = grow_box(guess, settings.margin_m)
    reach_m = np.hypot(*around.size_m[:2]) / 2
    near = points[np.abs(points[:, 0] - guess.center_m[0]) <= reach_m]
    near = near[points_inside(near, around)]
    near = near[near[:, 2] > floor_z_m + settings.floor_clearance_m]
    if len(near) < settings.min_points:
        return guess

    # The surface among them; with its pieces, where these fit the guess better.
    part, labels = _best_component(near, guess, settings.voxel_m)
    boxes = [
        _box_around(near[mask], guess, floor_z_m, settings)
        for mask in (labels == part, _with_pieces(near, part, labels, guess, settings))
        if mask.sum() >= settings.min_points
    ]
    fits = [box for box in boxes if iou_axis_aligned(box, guess) >= settings.min_iou]
    return max(fits, key=lambda box: iou_axis_aligned(box, guess), default=guess)


def _box_around(surface: Points, guess: Box3D, floor_z_m: float, settings: RefineSettings) -> Box3D:
    """The guess with the faces of a surface (P, 3), P > 0."""
    # Its faces, trimmed; what nearly reaches the floor stands on it.
    low, high = np.quantile(surface, (settings.trim, 1 - settings.trim), axis=0)
    if low[2] - floor_z_m < settings.floor_reach_m:
        low[2] = floor_z_m
    size_m = np.maximum(high - low, MIN_EXTENT_M)
    return replace(guess, center_m=(low + high) / 2, size_m=size_m, yaw_rad=0.0)


def _with_pieces(
    points: Points, part: int, labels: Labels, guess: Box3D, settings: RefineSettings
) -> npt.NDArray[np.bool_]:
    """Which points (P,) are of one part, or of connected surfaces that lie in the guess nearly
    whole: the foot of a lamp whose rod no reading shows.
    """
    inside = points_inside(points, grow_box(guess, settings.piece_margin_m))
    within = np.bincount(labels, weights=inside) >= settings.piece_share * np.bincount(labels)
    within[part] = True
    return within[labels]


def _best_component(points: Points, guess: Box3D, voxel_m: float) -> tuple[int, Labels]:
    """The connected surface with the most weight near the guess, and each point's surface (P,)."""
    # Connected components of occupied voxels.
    coords = np.floor((points - points.min(axis=0)) / voxel_m).astype(np.int64)
    grid = np.zeros(coords.max(axis=0) + 1, dtype=bool)
    grid[tuple(coords.T)] = True
    labels, _ = ndimage.label(grid, structure=np.ones((3, 3, 3)))
    component = labels[tuple(coords.T)]

    # A Gaussian around the guess's centre, of half its extents, weighs the points.
    offset = (points - guess.center_m) / np.maximum(guess.size_m / 2, 0.05)
    weight = np.exp(-0.5 * (offset**2).sum(axis=1))
    return int(np.bincount(component, weights=weight).argmax()), component
