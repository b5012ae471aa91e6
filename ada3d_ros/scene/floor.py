"""How high the floor lies in the world, from the depth of the kept keyframes; gravity is along z.

Each keyframe gives the places where it sees a level surface from above. The floor is the lowest
large level of them under which little is seen. The height in force moves rarely, since all that was
made of the scene is made anew then (docs/decisions/0050-floor-at-zero.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ada3d_ros.geometry.sparse_points import sparse_points
from ada3d_ros.types import RgbdFrame

GRID = 48  # readings taken along each side of the image
MIN_UP = 0.9  # z of a unit normal from which on a surface is level: within 26 degrees
CELL_M = 0.1  # areas are counted in cells of this side
BAND_M = 0.1  # heights that belong to one level
MIN_AREA_M2 = 1.5  # of a floor; less may be a table
MIN_SHARE = 0.3  # of the largest level's area
MIN_READINGS = 0.1  # of the fullest level's readings: reflections under a floor are fewer
ROOM_AREA_M2 = 4.0  # from here on no table
MAX_BELOW = 0.05, 0.25  # share of all readings under a floor, smaller than that and larger
HOLD_M = 0.05  # an estimate this near 0, or the height in force, changes nothing
HOLD_AT_FIRST_M = 0.02  # the same, where the scene has twice the views of the last change
STEP_M = 0.01  # estimates are rounded to this


@dataclass(frozen=True, slots=True)
class Floor:
    """z_m: of the floor in the world, 0 where nothing is known; source: `given` by the setting,
    `estimated` from depth, or `unknown`; num_views: of the scene when it was last changed.
    """

    z_m: float = 0.0
    source: str = "unknown"
    num_views: int = 0

    @property
    def known(self) -> bool:
        return self.source != "unknown"

    @classmethod
    def from_setting(cls, floor_z: str) -> Floor:
        """What the setting `world.floor_z` says: `auto`, or metres as text."""
        return cls() if floor_z == "auto" else cls(float(floor_z), "given")

    def updated(self, views: Sequence[LevelPlaces]) -> Floor:
        """The floor in force once the scene is made of these views."""
        # What they show.
        found = None if self.source == "given" else estimate_floor_m(views)
        if found is None:
            return self
        found = 0.0 if abs(found) <= HOLD_M + 1e-6 else found

        # Whether it is far enough from what is in force.
        hold_m = HOLD_AT_FIRST_M if len(views) >= 2 * self.num_views else HOLD_M
        if abs(found - self.z_m) <= hold_m + 1e-6:
            return replace(self, source="estimated")
        return Floor(found, "estimated", len(views))


@dataclass(frozen=True, eq=False, slots=True)
class LevelPlaces:
    """Where one frame sees level surfaces from above.

    xyz_m (P, 3) float64 world; all_z_m (Q,) float64 sorted: the heights of all its readings.
    """

    xyz_m: npt.NDArray[np.float64]
    all_z_m: npt.NDArray[np.float64]


def level_places(frame: RgbdFrame) -> LevelPlaces:
    """Of a sparse grid of the frame's readings."""
    # World points (H, W, 3) of the grid, NaN where there is no reading.
    xyz_m = sparse_points(frame, GRID)

    # The surface's normal at each inner point, from its neighbours.
    along, down = xyz_m[1:-1, 2:] - xyz_m[1:-1, :-2], xyz_m[2:, 1:-1] - xyz_m[:-2, 1:-1]
    normal = np.cross(along, down)
    with np.errstate(invalid="ignore", divide="ignore"):
        up = np.abs(normal[..., 2]) / np.linalg.norm(normal, axis=-1)
        level = (up >= MIN_UP) & (xyz_m[1:-1, 1:-1, 2] < frame.T_world_cam[2, 3])  # seen from above
    every = xyz_m[..., 2]
    return LevelPlaces(xyz_m[1:-1, 1:-1][level], np.sort(every[np.isfinite(every)]))


def estimate_floor_m(views: Sequence[LevelPlaces]) -> float | None:
    """The height of the lowest large level surface, rounded to STEP_M; None where there is none, or
    where much lies below it.
    """
    if not views:
        return None
    xyz_m = np.concatenate([view.xyz_m for view in views])
    if not len(xyz_m):
        return None

    # The area of each band of heights, bands overlapping by half.
    cell = np.round(xyz_m[:, :2] / CELL_M).astype(np.int64)
    cell -= cell.min(axis=0)
    place = cell[:, 0] * (cell[:, 1].max() + 1) + cell[:, 1]
    areas: dict[int, float] = {}
    readings: dict[int, int] = {}
    for half in (0, 1):
        band = np.floor(xyz_m[:, 2] / BAND_M + half / 2).astype(np.int64)
        lowest_band = band.min()
        seen = np.unique((band - lowest_band) * (place.max() + 1) + place)
        numbers, counts = np.unique(seen // (place.max() + 1) + lowest_band, return_counts=True)
        areas |= dict(zip((2 * numbers - half).tolist(), counts * CELL_M**2, strict=True))
        numbers, counts = np.unique(band, return_counts=True)
        readings |= dict(zip((2 * numbers - half).tolist(), counts.tolist(), strict=True))

    # The lowest large one; of the bands that overlap it the fullest.
    least = max(MIN_AREA_M2, MIN_SHARE * max(areas.values()))
    few = MIN_READINGS * max(readings.values())
    large = [band for band, area in areas.items() if area >= least and readings[band] >= few]
    if not large:
        return None
    lowest = min(large)
    best = max((lowest, lowest + 1, lowest + 2), key=lambda number: areas.get(number, 0.0))
    bottom = best * BAND_M / 2
    inside = (xyz_m[:, 2] >= bottom) & (xyz_m[:, 2] < bottom + BAND_M)
    z_m = float(np.median(xyz_m[inside, 2]))

    # A floor has little under it.
    below = sum(int(np.searchsorted(view.all_z_m, z_m - BAND_M)) for view in views)
    total = sum(len(view.all_z_m) for view in views)
    allowed = MAX_BELOW[int(areas[best] >= ROOM_AREA_M2)]
    return None if below > allowed * total else round(round(z_m / STEP_M) * STEP_M, 9)


def stand_on_floor(
    frames: Sequence[RgbdFrame], floor_z_m: float, beside_m: tuple[float, float] = (0.0, 0.0)
) -> Sequence[RgbdFrame]:
    """The same frames in a world whose origin lies at (*beside_m, floor_z_m) of theirs; the very
    same ones where that is the origin.
    """
    origin_m = (*beside_m, floor_z_m)
    if not any(origin_m):
        return frames
    moved = []
    for frame in frames:
        T = frame.T_world_cam.copy()
        T[:3, 3] -= origin_m
        moved.append(replace(frame, T_world_cam=T))
    return moved
