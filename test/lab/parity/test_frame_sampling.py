"""Which frames of a recording are taken."""

import numpy as np
import pytest

from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.parity.frame_sampling import (
    CoverageRanking,
    coverage_candidates,
    pick_by_coverage,
    point_voxels,
    rank_by_coverage,
    spread_frames,
)


def cells(*numbers: int) -> np.ndarray:
    return np.array([[number, 0, 0] for number in numbers])


def test_spread_takes_the_first_and_the_last() -> None:
    assert spread_frames(11, 4) == [0, 3, 6, 10]
    assert spread_frames(5, 8) == [0, 0, 1, 1, 2, 2, 3, 4]
    assert spread_frames(9, 1) == [0]
    for total, wanted in ((0, 4), (4, 0)):
        with pytest.raises(ConfigError, match=f"{wanted} of {total} frames"):
            spread_frames(total, wanted)


def test_every_second_frame_is_ranked_where_there_are_enough() -> None:
    assert coverage_candidates(5) == [0, 1, 2, 3, 4]
    assert coverage_candidates(62) == list(range(62))
    assert coverage_candidates(64) == list(range(0, 64, 2))


def test_the_frame_that_adds_most_comes_next() -> None:
    seen = [cells(1, 2), cells(1, 2, 3, 9), cells(4), cells(1, 3)]
    ranking = rank_by_coverage(seen, cells(1, 2, 3, 4))  # 9 is not in the cloud
    assert ranking == CoverageRanking((1, 2, 0, 3), (3, 1, 0, 0), 4)
    assert rank_by_coverage(seen, cells(1, 2, 3, 4), limit=1).frames == (1,)


def test_points_of_one_voxel_count_once() -> None:
    points = np.array([[0.04, 0.0, 0.0], [-0.04, 0.0, 0.0], [0.06, 0.0, 0.0]], np.float32)
    assert point_voxels(points, 0.1).tolist() == [[0, 0, 0], [1, 0, 0]]


def test_picking_stops_at_the_share() -> None:
    ranking = CoverageRanking((30, 10, 20, 40), (60, 30, 6, 4), 100)
    assert pick_by_coverage(ranking, "mc", 32) == [10, 20, 30, 40]
    assert pick_by_coverage(ranking, "mc-ratio95", 32) == [10, 20, 30]
    assert pick_by_coverage(ranking, "mc-ratio90", 32) == [10, 30]
    assert pick_by_coverage(ranking, "mc-ratio90", 1) == [30]


def test_the_readmes_name_is_refused_instead_of_run_evenly_spread() -> None:
    with pytest.raises(ConfigError, match="'ratio90' is no way to cover; allowed: mc, mc-ratio95"):
        pick_by_coverage(CoverageRanking((0,), (1,), 1), "ratio90", 32)
