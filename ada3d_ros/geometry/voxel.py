"""Voxel ids and mean pooling on torch tensors.

Voxel centres lie at multiples of the voxel size: id = round-half-to-even(xyz / size), as in
LLaVA-3D (`llava/model/multimodal_encoder/unproject.py`, `voxelize`). Order is ascending x, then y,
then z. How many voxels there are depends on the points, and a GPU would have to wait for its host
to know it: points and ids belong on the CPU, the values that are pooled wherever they are.
"""

import math

import torch

MAX_KEY = 2**62


def voxel_coords(xyz_m: torch.Tensor, voxel_size_m: float) -> torch.Tensor:
    """Integer voxel coordinates, (..., 3) int64, of world points (..., 3).

    Not for NaN points: mask them before.
    """
    return torch.round(xyz_m / voxel_size_m).to(torch.int64)


def voxel_ids(coords: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Dense ids of voxel coordinates (P, 3) int64.

    Returns ids (P,) int64 in 0..N-1 and the N occupied voxels' coordinates (N, 3) int64 in id
    order.
    """
    if coords.shape[0] == 0:
        return coords.new_zeros(0), coords

    # One number per voxel, which ascends with x, then y, then z.
    low = coords.min(dim=0).values
    shifted = coords - low
    extent = shifted.max(dim=0).values + 1
    if math.prod(extent.tolist()) > MAX_KEY:
        return _ids_of_far_voxels(coords)
    keys = (shifted[:, 0] * extent[1] + shifted[:, 1]) * extent[2] + shifted[:, 2]
    unique, ids = torch.unique(keys, return_inverse=True)

    # The numbers that occur, back as coordinates.
    x, y = unique // (extent[1] * extent[2]), unique // extent[2] % extent[1]
    return ids, torch.stack((x, y, unique % extent[2]), dim=-1) + low


def _ids_of_far_voxels(coords: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """voxel_ids of voxels so far apart that one number does not hold three coordinates."""
    values, ranks = zip(
        *(torch.unique(axis, return_inverse=True) for axis in coords.T), strict=True
    )
    ids, occupied = voxel_ids(torch.stack(ranks, dim=-1))
    return ids, torch.stack([v[r] for v, r in zip(values, occupied.T, strict=True)], dim=-1)


def sum_per_voxel(
    values: torch.Tensor, ids: torch.Tensor, num_voxels: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of values (P, C) per voxel in float32, (N, C) where values are, and counts (N,) int64
    where ids are.

    Each in the order of its patches and without atomics: the same bits every time, on a GPU too,
    which waits for nothing where the ids are on the CPU.
    """
    counts = torch.bincount(ids, minlength=num_voxels)
    if not len(ids):
        return values.new_zeros(num_voxels, values.shape[1], dtype=torch.float32), counts
    by_voxel = values.float()[to_device(torch.sort(ids, stable=True).indices, values.device)]
    # unsafe: counts are counts, which torch would look through and wait for.
    lengths = to_device(counts, values.device)
    sums = torch.segment_reduce(by_voxel, "sum", lengths=lengths, initial=0.0, unsafe=True)
    return sums, counts


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on `device`; a copy to a GPU that nobody waits for (CUDA takes what pageable
    memory holds before it returns).
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


def pool_mean(
    values: torch.Tensor, ids: torch.Tensor, num_voxels: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of values (P, C) per voxel, summed in float32 in patch order.

    Returns means (N, C) in values' dtype and counts (N,) int64.
    """
    sums, counts = sum_per_voxel(values, ids, num_voxels)
    return (sums / to_device(counts, values.device)[:, None]).to(values.dtype), counts
