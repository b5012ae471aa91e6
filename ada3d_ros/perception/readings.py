"""The depth readings in a box of a picture and around it, on a grid. Numpy float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ada3d_ros.types import RgbdFrame

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

GRID = 64  # readings taken along each side of a box at most
MIN_SIDE_PX = 4.0
MIN_FINE = 24  # readings along a side
RING_SHARE, MIN_RING_PX = 0.15, 6.0  # the surroundings of a box, of its sides


@dataclass(frozen=True, eq=False, slots=True)
class Window:
    """A grid of readings: rows (R,) and columns (C,) in px; depth_m and height_m in the world, both
    (R, C), NaN without a reading; inside (R, C): the ones in the box, the others lie around it.
    """

    rows: Ints
    columns: Ints
    depth_m: Array
    height_m: Array
    inside: Mask

    @property
    def is_coarse(self) -> bool:
        """Whether the box has too few readings along a side to tell where in it a thing ends."""
        return min(int(self.inside.any(axis=axis).sum()) for axis in (0, 1)) < MIN_FINE

    def points(self, frame: RgbdFrame, chosen: Mask) -> Array:
        """World points (P, 3) of the chosen (R, C) readings, row by row."""
        row, column = np.nonzero(chosen)
        camera, z = frame.intrinsics, self.depth_m[chosen]
        x = (self.columns[column] - camera.cx) / camera.fx * z
        y = (self.rows[row] - camera.cy) / camera.fy * z
        T = frame.T_world_cam
        world: Array = np.stack((x, y, z), axis=-1) @ T[:3, :3].T + T[:3, 3]
        return world

    def at(self, of: Window, chosen: Mask) -> Mask:
        """Which of these readings (R, C) lie at chosen ones of another window of the picture."""
        found = np.zeros(self.depth_m.shape, dtype=bool)
        places = []
        for own, other in ((self.rows, of.rows), (self.columns, of.columns)):
            step = int(other[1] - other[0]) if len(other) > 1 else 1
            place = (own - other[0] + step // 2) // step
            places.append((np.flatnonzero((place >= 0) & (place < len(other))), place))
        (rows, row), (columns, column) = places
        found[np.ix_(rows, columns)] = chosen[np.ix_(row[rows], column[columns])]
        return found

    def on_every_second(self, count: int) -> int:
        """How many of `count` readings of the grid there are on every second row and column."""
        steps = [int(a[1] - a[0]) if len(a) > 1 else 1 for a in (self.rows, self.columns)]
        return max(1, round(count * steps[0] * steps[1] / 4))


def read_window(frame: RgbdFrame, box_px: tuple[float, ...]) -> Window | None:
    """The grid of a box and its surroundings; None where the box is too small."""
    height, width = frame.depth_m.shape
    x0, y0, x1, y1 = (float(v) for v in box_px)
    x0, x1 = max(x0, 0.0), min(x1, float(width))
    y0, y1 = max(y0, 0.0), min(y1, float(height))
    if not (x1 - x0 >= MIN_SIDE_PX and y1 - y0 >= MIN_SIDE_PX):  # NaN too
        return None
    rows, in_rows = _steps(y0, y1, height)
    columns, in_columns = _steps(x0, x1, width)
    depth_m = frame.depth_m[np.ix_(rows, columns)].astype(np.float64)
    depth_m[~(np.isfinite(depth_m) & (depth_m > 0))] = np.nan
    camera, T = frame.intrinsics, frame.T_world_cam
    across = T[2, 0] * (columns - camera.cx) / camera.fx
    down = T[2, 1] * (rows - camera.cy) / camera.fy
    height_m = (across + down[:, None] + T[2, 2]) * depth_m + T[2, 3]
    return Window(rows, columns, depth_m, height_m, in_rows[:, None] & in_columns)


def _steps(start: float, stop: float, size: int) -> tuple[Ints, Mask]:
    """Pixels from `start` to `stop` and around them within a picture, and which lie between."""
    first, last = int(np.ceil(start)), int(np.floor(stop - 1e-9))
    step = max(1, -(-(last - first + 1) // GRID))
    around = int(np.ceil(max(RING_SHARE * (stop - start), MIN_RING_PX) / step)) * step
    taken = np.arange(first - around, last + around + 1, step)
    taken = taken[(taken >= 0) & (taken < size)]
    return taken, (taken >= first) & (taken <= last)
