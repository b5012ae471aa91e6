"""The voxels of a scene as sums over its views: views come and go without encoding the others anew.

Every view's patches are summed per voxel first, then the views' sums are added in the order the
views came. Taking a view out adds the others' sums of the voxels it touched anew in that order: bit
for bit what a table without it would hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ada3d_ros.geometry.voxel import sum_per_voxel, to_device, voxel_coords, voxel_ids


@dataclass(frozen=True, eq=False, slots=True)
class VoxelSums:
    """Sums per voxel, voxels in ascending x, y, z order.

    coords (N, 3) int64; features (N, C) and xyz_m (N, 3) float32; num_patches (N,) int64. All but
    the features are on the CPU, as is every index, so that no GPU has to be waited for.
    """

    coords: torch.Tensor
    features: torch.Tensor
    xyz_m: torch.Tensor
    num_patches: torch.Tensor

    @classmethod
    def from_patches(
        cls, features: torch.Tensor, xyz_m: torch.Tensor, voxel_size_m: float
    ) -> VoxelSums:
        """Of patches: features (P, C), finite points xyz_m (P, 3) on the CPU."""
        ids, coords = voxel_ids(voxel_coords(xyz_m, voxel_size_m))
        sums, counts = sum_per_voxel(features, ids, len(coords))
        return cls(coords, sums, sum_per_voxel(xyz_m, ids, len(coords))[0], counts)

    @classmethod
    def zeros(cls, coords: torch.Tensor, like: VoxelSums) -> VoxelSums:
        """Nothing yet in the voxels coords (N, 3); channels as in `like`."""
        count, channels = len(coords), like.features.shape[1]
        features, xyz_m = like.features.new_zeros(count, channels), like.xyz_m.new_zeros(count, 3)
        return cls(coords, features, xyz_m, like.num_patches.new_zeros(count))

    def __len__(self) -> int:
        return self.coords.shape[0]

    def at(self, index: torch.Tensor) -> VoxelSums:
        """Of the voxels at index (M,) alone."""
        features = self.features[to_device(index, self.features.device)]
        return VoxelSums(self.coords[index], features, self.xyz_m[index], self.num_patches[index])

    def put(self, index: torch.Tensor, other: VoxelSums) -> VoxelSums:
        """With other's sums in place of those at index (M,), each once."""
        return VoxelSums(
            self.coords,
            self.features.index_copy(0, to_device(index, self.features.device), other.features),
            self.xyz_m.index_copy(0, index, other.xyz_m),
            self.num_patches.index_copy(0, index, other.num_patches),
        )

    def plus(self, index: torch.Tensor, other: VoxelSums) -> VoxelSums:
        """With other's sums added to those at index (M,), each once."""
        mine = self.at(index)
        added = VoxelSums(
            mine.coords,
            mine.features + other.features,
            mine.xyz_m + other.xyz_m,
            mine.num_patches + other.num_patches,
        )
        return self.put(index, added)


def find_voxels(coords: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """For each of `wanted` (M, 3) int64 its index in `coords` (N, 3), or -1; (M,) int64.

    coords ascend and are distinct.
    """
    if not len(coords) or not len(wanted):
        return torch.full((len(wanted),), -1, dtype=torch.int64, device=wanted.device)
    ids, occupied = voxel_ids(torch.cat((coords, wanted)))
    index_of = torch.full((len(occupied),), -1, dtype=torch.int64, device=wanted.device)
    index_of[ids[: len(coords)]] = torch.arange(len(coords), device=wanted.device)
    return index_of[ids[len(coords) :]]


def ascending_order(coords: torch.Tensor) -> torch.Tensor:
    """The order (N,) that sorts distinct voxels (N, 3) by x, then y, then z."""
    order = torch.arange(len(coords), device=coords.device)
    for axis in (2, 1, 0):
        order = order[torch.sort(coords[order, axis], stable=True).indices]
    return order


@dataclass(eq=False, slots=True)
class HeldVoxels:
    """The voxels of a prefix: coords (V, 3) int64 ascending, and the table's revision (V,) at each.

    in_order: in voxel order, nothing was appended.
    """

    coords: torch.Tensor
    revisions: torch.Tensor
    in_order: bool = True
    # The table's revision, and what came of it.
    known: tuple[int, float] | None = field(default=None, init=False)

    def __len__(self) -> int:
        return len(self.coords)


class VoxelTable:
    """The sums of all views that are in.

    `revision` grows with every change; `changed` (N,) int64: each voxel's last one.
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

    @property
    def num_tokens(self) -> int:
        return 0 if self._sums is None else len(self._sums)

    def hold(self) -> HeldVoxels:
        return HeldVoxels(self.sums.coords, torch.full_like(self.changed, self.revision))

    def new_voxels(self, held: HeldVoxels) -> tuple[torch.Tensor, HeldVoxels]:
        """The voxels (n,) int64 that are in and not held, and what is held with them: voxels held
        already stay as they were.
        """
        now = self.sums.coords
        new = torch.nonzero(find_voxels(held.coords, now) < 0)[:, 0]
        # Kept in ascending order, as find_voxels needs them.
        joined = torch.cat((held.coords, now[new]))
        order = ascending_order(joined)
        revisions = torch.cat((held.revisions, self.changed[new]))
        in_order = held.in_order and not len(new)
        return new, HeldVoxels(joined[order], revisions[order], in_order)

    @torch.inference_mode()
    def stale_share(self, held: HeldVoxels) -> float:
        if held.known is None or held.known[0] != self.revision:
            held.known = self.revision, self._count_stale(held)
        return held.known[1]

    def without_gone(self, held: HeldVoxels) -> None:
        """A voxel's mean is of many views: none can be cut out of a prefix."""

    def _count_stale(self, held: HeldVoxels) -> float:
        now = self.sums.coords
        index = find_voxels(held.coords, now)
        known = index >= 0
        changed = self.changed > torch.where(known, held.revisions[index.clamp(min=0)], -1)
        vanished = len(held) - int(known.sum())
        return (int(changed.sum()) + vanished) / max(len(now) + vanished, 1)

    def of_views(self, names: Sequence[int]) -> VoxelTable:
        """A table of some of the views alone."""
        table = VoxelTable()
        for name in names:
            table.add(name, self._views[name])
        return table

    def add(self, name: int, view: VoxelSums) -> None:
        """Put a view in, after those that are in."""
        assert name not in self._views, f"view {name} is in already"

        # All voxels, and where those held before and those of the view stand among them.
        held = VoxelSums.zeros(view.coords[:0], view) if self._sums is None else self._sums
        ids, coords = voxel_ids(torch.cat((held.coords, view.coords)))
        old, new = ids[: len(held)], ids[len(held) :]

        # The sums held before, the view's added.
        sums = VoxelSums.zeros(coords, held).put(old, held).plus(new, view)
        changed = self.changed.new_zeros(len(coords)).index_copy(0, old, self.changed)
        self._take(self._views | {name: view}, sums, changed.index_fill(0, new, self.revision + 1))

    def remove(self, name: int) -> None:
        """Take a view out; the voxels it touched are summed anew from the other views."""
        # The voxels it touched, empty.
        gone, held = self._views[name], self.sums
        views = {other: view for other, view in self._views.items() if other != name}
        touched = find_voxels(held.coords, gone.coords)
        fresh = VoxelSums.zeros(held.coords[touched], held)

        # The other views' sums of them, in the order they came.
        for view in views.values():
            index = find_voxels(fresh.coords, view.coords)
            shared = torch.nonzero(index >= 0)[:, 0]
            fresh = fresh.plus(index[shared], view.at(shared))

        # Voxels that no view is in any more go.
        sums = held.put(touched, fresh)
        kept = torch.nonzero(sums.num_patches > 0)[:, 0]
        changed = self.changed.index_fill(0, touched, self.revision + 1)[kept]
        self._take(views, sums.at(kept), changed)

    def _take(self, views: dict[int, VoxelSums], sums: VoxelSums, changed: torch.Tensor) -> None:
        """The next revision, all at once: where memory ended before, the last one stays whole."""
        self._views, self._sums, self.changed = views, sums, changed
        self.revision += 1
