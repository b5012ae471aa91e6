"""Coloured points of many frames, one a voxel; numpy alone.

Sums are integers: a frame that goes is taken out exactly, and what is left is bit for bit what the
other frames alone give, in whatever order they came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ada3d_ros.geometry.sparse_points import points_at
from ada3d_ros.types import RgbdFrame

Ints = npt.NDArray[np.int64]

AXIS_BITS = 21  # of a voxel's key: 26 km to each side of the origin at 2.5 cm
HALF = 1 << (AXIS_BITS - 1)
UNITS_PER_M = 1e6  # places within a voxel are summed in micrometres


@dataclass(frozen=True, eq=False, slots=True)
class VoxelSums:
    """keys (N,) int64, ascending: one a voxel. sums (N, 7) int64 of its readings: how many; red,
    green, blue; x, y, z from the voxel's centre, micrometres.
    """

    keys: Ints
    sums: Ints


NOTHING = VoxelSums(np.empty(0, np.int64), np.empty((0, 7), np.int64))


@dataclass(frozen=True, eq=False, slots=True)
class ColourCloud:
    """xyz_m (N, 3) float64 metres, world: the mean of a voxel's readings; rgb (N, 3) uint8."""

    xyz_m: npt.NDArray[np.float64]
    rgb: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.xyz_m)


class CloudFuser:
    """The coloured cloud of a set of frames, kept as frames come and go.

    voxel_m: side of the voxels; stride_px: of the rows and columns that are read. Readings farther
    than HALF voxels from the first frame's camera are left out.
    """

    def __init__(self, voxel_m: float, stride_px: int) -> None:
        self.voxel_m, self.stride_px = voxel_m, stride_px
        self.fused_frames = 0  # in all, for whoever counts the work
        self._held: dict[int, tuple[RgbdFrame, VoxelSums]] = {}  # by the frame's identity
        self._total = NOTHING
        self._origin = np.zeros(3, np.int64)

    def update(self, frames: Sequence[RgbdFrame]) -> ColourCloud:
        """The cloud of exactly these frames; only those that are new are read."""
        wanted = {id(frame): frame for frame in frames}
        for key in [key for key in self._held if key not in wanted]:
            _, sums = self._held.pop(key)
            self._total = _merged(self._total, sums, -1)
        if not self._held and frames:
            camera_m = frames[0].T_world_cam[:3, 3]
            self._origin = np.round(camera_m / self.voxel_m).astype(np.int64)
        for key, frame in wanted.items():
            if key not in self._held:
                sums = self._read(frame)
                self.fused_frames += 1
                self._held[key] = frame, sums  # the frame is held, so its identity stays its own
                self._total = _merged(self._total, sums, 1)
        return self._cloud()

    def _read(self, frame: RgbdFrame) -> VoxelSums:
        """One frame's voxels."""
        # Its readings.
        grid = slice(None, None, self.stride_px)
        xyz_m = points_at(frame, grid, grid)
        valid = np.isfinite(xyz_m).all(axis=-1)
        xyz_m, rgb = xyz_m[valid], frame.rgb[grid, grid][valid]

        # Their voxels, as one number each.
        voxel = np.round(xyz_m / self.voxel_m).astype(np.int64)
        inside_um = np.round((xyz_m - voxel * self.voxel_m) * UNITS_PER_M).astype(np.int64)
        shifted = voxel - self._origin + HALF
        near = ((shifted >= 0) & (shifted < 2 * HALF)).all(axis=1)
        shifted = shifted[near]
        keys = (shifted[:, 0] << 2 * AXIS_BITS) | (shifted[:, 1] << AXIS_BITS) | shifted[:, 2]
        if not len(keys):
            return NOTHING

        # Sums of each.
        values = np.column_stack((np.ones(len(keys), np.int64), rgb[near], inside_um[near]))
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        first = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
        return VoxelSums(keys[first], np.add.reduceat(values[order], first, axis=0))

    def _cloud(self) -> ColourCloud:
        keys, sums = self._total.keys, self._total.sums
        mask = 2 * HALF - 1
        shifted = np.column_stack((keys >> 2 * AXIS_BITS, keys >> AXIS_BITS & mask, keys & mask))
        center_m = (shifted - HALF + self._origin) * self.voxel_m
        mean = sums[:, 1:] / sums[:, :1]
        rgb = np.round(mean[:, :3]).astype(np.uint8)
        return ColourCloud(center_m + mean[:, 3:] / UNITS_PER_M, rgb)


def _merged(a: VoxelSums, b: VoxelSums, sign: int) -> VoxelSums:
    """a + b, or a - b; voxels without readings are gone."""
    keys = np.union1d(a.keys, b.keys)
    sums = np.zeros((len(keys), 7), np.int64)
    sums[np.searchsorted(keys, a.keys)] += a.sums
    sums[np.searchsorted(keys, b.keys)] += sign * b.sums
    some = sums[:, 0] > 0
    return VoxelSums(keys[some], sums[some])
