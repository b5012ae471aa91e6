"""The prefix cache in numbers. Imports nothing that a pipeline without a model does not need."""

from __future__ import annotations

from dataclasses import dataclass

from ada3d_ros.types import NAN


@dataclass(frozen=True, slots=True)
class CacheReport:
    """The prefix cache in numbers, for diagnostics. staleness as in `Answer`; building: tokens that
    wait in the pending prefix.
    """

    version: int = 0
    spatial: int = 0
    keyframes: int = 0
    staleness: float = NAN
    kv_bytes: int = 0
    building: int = 0
    builds: int = 0
    appends: int = 0
