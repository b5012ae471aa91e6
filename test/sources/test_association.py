"""Pairing of recorded stamps: against the definition, and on real stamps that differ."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ada3d_ros.sources.association import pair_nearest

stamps = st.lists(st.integers(0, 60), max_size=25, unique=True).map(
    lambda s: np.array(sorted(s), dtype=np.int64)
)


@given(stamps, stamps, st.integers(0, 10))
def test_pairs_are_near_one_to_one_and_leave_no_free_pair(a, b, gap):
    pairs = pair_nearest(a, b, gap * 1e-9)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert all(abs(a[i] - b[j]) <= gap for i, j in pairs)
    gap_of_a = {i: abs(a[i] - b[j]) for i, j in pairs}
    gap_of_b = {j: abs(a[i] - b[j]) for i, j in pairs}
    for i in range(len(a)):
        for j in range(len(b)):
            distance = abs(a[i] - b[j])
            # Whoever could do better together is kept apart by someone at least as near.
            if distance <= gap:
                assert min(gap_of_a.get(i, 99), gap_of_b.get(j, 99)) <= distance


def test_empty_and_zero_slop():
    none = np.array([], dtype=np.int64)
    assert pair_nearest(none, none, 1.0) == []
    same = np.array([1, 2, 3], dtype=np.int64)
    assert pair_nearest(same, same, 0.0) == [(0, 0), (1, 1), (2, 2)]


def read_stamps(path, column=0):
    """Nanoseconds; the files hold microseconds as decimal seconds."""
    lines = [
        line.split() for line in path.read_text().splitlines() if line and not line.startswith("#")
    ]
    return [int(line[column].replace(".", "")) * 1000 for line in lines]


def test_real_stamps_pair_as_the_data_sets_own_tool_pairs_them(shared_dir):
    folder = shared_dir / "data" / "tum_fr1_stamps"
    rgb, depth = read_stamps(folder / "full_rgb.txt"), read_stamps(folder / "full_depth.txt")
    expected = set(
        zip(
            read_stamps(folder / "full_rgbd_assoc.txt"),
            read_stamps(folder / "full_rgbd_assoc.txt", column=2),
            strict=True,
        )
    )
    pairs = pair_nearest(np.array(rgb), np.array(depth), 0.02)
    assert {(rgb[i], depth[j]) for i, j in pairs} == expected
    assert len(expected) == 694
