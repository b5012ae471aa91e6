"""Random numbers as a pure function of (key, stream), whatever batch or device a room is made in.

A 32-bit mixer (the finaliser of MurmurHash3) over int64 tensors. Splits occupy different bits of
the key, so that training, validation and test rooms cannot coincide.
"""

from __future__ import annotations

import torch

from ada3d_ros.errors import ConfigError

SPLITS = ("train", "val", "test")
MAX_SEED = 2**40
_MASK = 0xFFFFFFFF


def room_keys(split: str, seeds: torch.Tensor) -> torch.Tensor:
    """Keys (B,) int64 of rooms: the split in the bits above 40, the seed below.

    Raises ConfigError for an unknown split or a seed outside [0, 2**40).
    """
    if split not in SPLITS:
        raise ConfigError(f"split = {split!r}; allowed: {', '.join(SPLITS)}.")
    if bool(((seeds < 0) | (seeds >= MAX_SEED)).any()):
        raise ConfigError(f"a seed lies outside [0, {MAX_SEED}): {seeds.tolist()[:8]}.")
    return seeds.to(torch.int64) + (SPLITS.index(split) << 40)


def _mix(value: torch.Tensor) -> torch.Tensor:
    value = value & _MASK
    for factor in (0x85EBCA6B, 0xC2B2AE35):
        value = value ^ (value >> 16)
        low, high = value & 0xFFFF, value >> 16  # 32-bit product without overflow of 63 bits
        value = (low * factor + ((high * factor & 0xFFFF) << 16)) & _MASK
    return value ^ (value >> 16)


def uniform(keys: torch.Tensor, stream: int, *shape: int) -> torch.Tensor:
    """(B, *shape) float32 in [0, 1) for keys (B,) int64.

    Another `stream` gives independent numbers.
    """
    count = 1
    for size in shape:
        count *= size
    index = torch.arange(count, dtype=torch.int64, device=keys.device)
    base = _mix(_mix(keys) ^ _mix((keys >> 32) + 0x9E3779B9) + 0x1B873593 * (stream + 1))
    bits = _mix(base[:, None] ^ _mix(index * 2 + 1 + (stream << 20))[None])
    return ((bits >> 8).to(torch.float32) / 2**24).reshape(keys.shape[0], *shape)


def normal(keys: torch.Tensor, stream: int, *shape: int) -> torch.Tensor:
    """(B, *shape) float32, standard normal (Box-Muller)."""
    radius = (-2.0 * torch.log1p(-uniform(keys, stream, *shape))).sqrt()
    return radius * torch.cos(2.0 * torch.pi * uniform(keys, stream + 500, *shape))
