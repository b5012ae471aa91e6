"""The voxels of a scene as sums over its views, so that views can come and go without looking at
the others again.

Every view's patches are summed per voxel first, then the views' sums are added in the order the
views came. Taking a view out adds the others' sums of the voxels it touched anew in that order: bit
for bit what a table without it would hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ada3d_ros.geometry.voxel import sum_per_voxel, voxel_coords, voxel_ids


@dataclass(frozen=True, eq=False, slots=True)
class VoxelSums:
    """Sums per voxel, voxels in ascending x, y, z order: coords (N, 3) int64; features (N, C) and
    xyz_m (N, 3) float32; num_patches (N,) int64.
    """

    coords: torch.Tensor
    features: torch.Tensor
    xyz_m: torch.Tensor
    num_patches: torch.Tensor

    @classmethod
    def of_patches(
        cls, features: torch.Tensor, xyz_m: torch.Tensor, voxel_size_m: float
    ) -> VoxelSums:
        """Of patches: features (P, C), finite points xyz_m (P, 3)."""
        ids, coords = voxel_ids(voxel_coords(xyz_m, voxel_size_m))
        sums, counts = sum_per_voxel(features, ids, len(coords))
        return cls(coords, sums, sum_per_voxel(xyz_m, ids, len(coords))[0], counts)

    def __len__(self) -> int:
        return self.coords.shape[0]

    def at(self, rows: torch.Tensor) -> VoxelSums:
        """Of some voxels."""
        return VoxelSums(
            self.coords[rows], self.features[rows], self.xyz_m[rows], self.num_patches[rows]
        )

    def spread(self, coords: torch.Tensor, rows: torch.Tensor) -> VoxelSums:
        """The same sums at `rows` (N,) of more voxels `coords`, zeros elsewhere."""
        count = len(coords)
        return VoxelSums(
            coords,
            self.features.new_zeros(count, self.features.shape[1]).index_copy(
                0, rows, self.features
            ),
            self.xyz_m.new_zeros(count, 3).index_copy(0, rows, self.xyz_m),
            self.num_patches.new_zeros(count).index_copy(0, rows, self.num_patches),
        )

    def plus(self, other: VoxelSums, rows: torch.Tensor) -> VoxelSums:
        """With the sums of other voxels added at `rows`, each row once."""

        def added(mine: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
            return mine.index_copy(0, rows, mine[rows] + more)

        return VoxelSums(
            self.coords,
            added(self.features, other.features),
            added(self.xyz_m, other.xyz_m),
            added(self.num_patches, other.num_patches),
        )


def find_voxels(coords: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """For each of `wanted` (M, 3) int64 its row in `coords` (N, 3), which ascend and are distinct;
    -1 where it is not there.
    """
    if not len(coords) or not len(wanted):
        return torch.full((len(wanted),), -1, dtype=torch.int64, device=wanted.device)
    ids, occupied = voxel_ids(torch.cat((coords, wanted)))
    row_of = torch.full((len(occupied),), -1, dtype=torch.int64, device=wanted.device)
    row_of[ids[: len(coords)]] = torch.arange(len(coords), device=wanted.device)
    return row_of[ids[len(coords) :]]


class VoxelTable:
    """The sums of all views that are in. `revision` grows with every change; `changed` (N,) int64:
    each voxel's last one.
    """

    def __init__(self) -> None:
        self._views: dict[int, VoxelSums] = {}
        self._sums: VoxelSums | None = None
        self.changed = torch.zeros(0, dtype=torch.int64)
        self.revision = 0

    @property
    def views(self) -> tuple[int, ...]:
        """The names of the views that are in, in the order they came."""
        return tuple(self._views)

    @property
    def sums(self) -> VoxelSums:
        """Raises LookupError before the first view."""
        if self._sums is None:
            raise LookupError("no view is in the voxel table")
        return self._sums

    def of_views(self, names: Sequence[int]) -> VoxelTable:
        """A table of some of the views alone."""
        table = VoxelTable()
        for name in names:
            table.add(name, self._views[name])
        return table

    def add(self, name: int, view: VoxelSums) -> None:
        """Put a view in, behind those that are in."""
        assert name not in self._views, f"view {name} is in already"
        held = (
            view.at(torch.zeros(0, dtype=torch.int64, device=view.coords.device))
            if self._sums is None
            else self._sums
        )
        ids, coords = voxel_ids(torch.cat((held.coords, view.coords)))
        old, new = ids[: len(held)], ids[len(held) :]
        sums = held.spread(coords, old).plus(view, new)
        changed = (
            self.changed.to(coords.device)
            .new_zeros(len(coords))
            .index_copy(0, old, self.changed.to(coords.device))
            .index_fill(0, new, self.revision + 1)
        )
        self._take(self._views | {name: view}, sums, changed)

    def remove(self, name: int) -> None:
        """Take a view out; the voxels it touched are summed anew from the other views."""
        gone, held = self._views[name], self.sums
        views = {other: view for other, view in self._views.items() if other != name}
        touched = find_voxels(held.coords, gone.coords)
        fresh = held.at(touched)
        empty = fresh.at(torch.zeros(0, dtype=torch.int64, device=touched.device))
        fresh = empty.spread(fresh.coords, touched.new_zeros(0))
        for view in views.values():
            rows = find_voxels(fresh.coords, view.coords)
            mine = torch.nonzero(rows >= 0)[:, 0]
            fresh = fresh.plus(view.at(mine), rows[mine])
        summed = VoxelSums(
            held.coords,
            held.features.index_copy(0, touched, fresh.features),
            held.xyz_m.index_copy(0, touched, fresh.xyz_m),
            held.num_patches.index_copy(0, touched, fresh.num_patches),
        )
        kept = torch.nonzero(summed.num_patches > 0)[:, 0]
        changed = self.changed.index_fill(0, touched, self.revision + 1)[kept]
        self._take(views, summed.at(kept), changed)

    def _take(self, views: dict[int, VoxelSums], sums: VoxelSums, changed: torch.Tensor) -> None:
        """The next revision, all at once: where memory ended before, the last one stays whole."""
        self._views, self._sums, self.changed = views, sums, changed
        self.revision += 1
