"""Which frames of a recording the reference takes: evenly spread, or by what they cover.

A robot's frames are chosen by scene/keyframes.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ada3d_ros.errors import ConfigError

UNFORCED = 10  # frames that the reference's code takes unless a script forces a number
COVERAGE_FRAMES = 32
STRATEGIES = {"mc": 1.0, "mc-ratio95": 0.95, "mc-ratio90": 0.9}  # share to be covered

Voxels = npt.NDArray[np.int64]


def spread_frames(total: int, wanted: int) -> list[int]:
    """`wanted` indices from the first to the last of `total`; fewer frames are repeated.

    Raises ConfigError for none.
    """
    if total <= 0 or wanted <= 0:
        raise ConfigError(f"{wanted} of {total} frames: both must be above 0.")
    return np.linspace(0, total - 1, wanted, dtype=np.int64).tolist()


def coverage_candidates(total: int) -> list[int]:
    """The frames of `total` that are ranked by coverage: every second, or all where those are too
    few.
    """
    half = list(range(0, total, 2))
    return half if len(half) >= COVERAGE_FRAMES else list(range(total))


def point_voxels(xyz_m: npt.NDArray[np.float32], voxel_size_m: float) -> Voxels:
    """The voxels (N, 3) that points (..., 3) lie in, each once."""
    coords = np.round(xyz_m.reshape(-1, 3) / np.float32(voxel_size_m)).astype(np.int64)
    return np.unique(coords, axis=0)


@dataclass(frozen=True, slots=True)
class CoverageRanking:
    """Frames in the order they were taken, and the voxels that each added.

    total: voxels that all candidates see of the cloud.
    """

    frames: tuple[int, ...]
    new_voxels: tuple[int, ...]
    total: int


def rank_by_coverage(
    seen: Sequence[Voxels], cloud: Voxels, limit: int = COVERAGE_FRAMES
) -> CoverageRanking:
    """Frames taken one after the other, the one that adds the most voxels of `cloud` first.

    seen: the voxels of each candidate; of equals the first is taken, where the reference draws.
    """
    wanted = set(map(tuple, cloud.tolist()))
    left = [set(map(tuple, voxels.tolist())) & wanted for voxels in seen]
    total, candidates = len(set[tuple[int, ...]]().union(*left)), set(range(len(seen)))
    frames, counts = list[int](), list[int]()
    while candidates and len(frames) < limit:
        best = max(sorted(candidates), key=lambda index: len(left[index]))
        covered = left[best]
        frames.append(best)
        counts.append(len(covered))
        candidates.remove(best)
        left = [voxels - covered for voxels in left]
    return CoverageRanking(tuple(frames), tuple(counts), total)


def pick_by_coverage(ranking: CoverageRanking, strategy: str, limit: int) -> list[int]:
    """The first frames of a ranking, in time order, until a share of all voxels is covered.

    strategy: of STRATEGIES. Raises ConfigError for others: the reference takes those for even
    spreading without a word.
    """
    if strategy not in STRATEGIES:
        raise ConfigError(f"{strategy!r} is no way to cover; allowed: {', '.join(STRATEGIES)}.")
    taken = ranking.frames[:limit]
    if STRATEGIES[strategy] < 1.0:
        covered = np.cumsum(ranking.new_voxels[:limit])
        short = int((covered < STRATEGIES[strategy] * ranking.total).sum())
        taken = taken[: short + 1]
    return sorted(taken)
