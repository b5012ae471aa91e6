"""The nearest-stamp synchroniser: properties on random streams, real stamps, loops, and callback
errors.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ada3d_ros.errors import FrameReason
from ada3d_ros.ros.filters import SimpleFilter
from ada3d_ros.ros.sync import NearestStampMatcher, NearestStampSynchronizer

MS = 1_000_000
Pairs = list[tuple[int, int]]


def matcher(slop_ms: float = 20, queue_size: int = 30, **hooks: Any) -> NearestStampMatcher:
    return NearestStampMatcher(2, int(slop_ms * MS), queue_size, (FrameReason.NO_DEPTH,), **hooks)


def feed(m: NearestStampMatcher, arrivals: list[tuple[int, int]]) -> Pairs:
    """Messages are their own stamps; arrivals are (input, stamp)."""
    return [match for index, stamp in arrivals for match in m.add(index, stamp, stamp)]


def in_order(a: list[int], b: list[int]) -> list[tuple[int, int]]:
    return sorted([(0, s) for s in a] + [(1, s) for s in b], key=lambda item: item[1])


def test_identical_stamps_match_at_zero_slop() -> None:
    assert feed(matcher(slop_ms=0), in_order([10 * MS, 43 * MS], [10 * MS, 43 * MS])) == [
        (10 * MS, 10 * MS),
        (43 * MS, 43 * MS),
    ]


@pytest.mark.parametrize(("gap_ms", "matches"), [(20, True), (21, False)])
def test_slop_is_inclusive(gap_ms: int, matches: bool) -> None:
    base = 1000 * MS
    result = feed(
        matcher(slop_ms=20),
        [(0, base), (1, base + gap_ms * MS), (0, base + 500 * MS), (1, base + 500 * MS)],
    )
    assert ((base, base + gap_ms * MS) in result) is matches


def test_waits_for_the_nearer_partner() -> None:
    """A greedy matcher takes the partner at -15 ms that came first; the nearest is at +5 ms."""
    base = 1000 * MS
    assert feed(matcher(), [(1, base - 15 * MS), (0, base), (1, base + 5 * MS)]) == [
        (base, base + 5 * MS)
    ]


def test_a_partner_goes_to_the_anchor_nearest_to_it() -> None:
    base = 1000 * MS
    arrivals = [(0, base), (0, base + 14 * MS), (1, base + 12 * MS), (1, base + 40 * MS)]
    assert feed(matcher(), arrivals) == [(base + 14 * MS, base + 12 * MS)]


def test_unmatched_anchor_is_counted_once() -> None:
    drops: list[FrameReason] = []
    m = matcher(on_drop=drops.append)
    feed(m, [(0, 1000 * MS), (1, 1100 * MS), (0, 1100 * MS)])
    assert drops == [FrameReason.NO_DEPTH]
    assert m.smallest_miss_ns == 100 * MS


def test_depth_that_never_comes_does_not_grow_the_queue() -> None:
    drops: list[FrameReason] = []
    feed(matcher(queue_size=5, on_drop=drops.append), [(0, i * 33 * MS) for i in range(1, 101)])
    assert drops == [FrameReason.NO_DEPTH] * 95


def test_real_stamps_pair_as_the_nearest_do(shared_dir: Path) -> None:
    """freiburg1: 723 colour and 722 depth stamps at 30 Hz that differ; nearest pair median 12.0 ms,
    maximum 19.8 ms.
    """
    folder = shared_dir / "data" / "tum_fr1_stamps"
    colour, depth = (
        [
            round(float(line.split()[0]) * 1e6) * 1000
            for line in (folder / name).read_text().splitlines()
            if not line.startswith("#")
        ]
        for name in ("full_rgb.txt", "full_depth.txt")
    )
    drops: list[FrameReason] = []
    pairs = feed(matcher(slop_ms=20, on_drop=drops.append), in_order(colour, depth))
    gaps_ms = np.array([abs(a - b) for a, b in pairs]) / MS
    assert len(pairs) + len(drops) >= len(colour) - 1  # only the last may still wait
    assert len(pairs) >= 700  # the data set's own association finds 694, the best assignment 721
    assert np.median(gaps_ms) == pytest.approx(12.0, abs=0.3)
    assert gaps_ms.max() <= 20.0
    partner = {b: a for a, b in pairs}
    for (
        a,
        b,
    ) in (
        pairs
    ):  # a nearer depth image was not free: an earlier colour image had it, or one nearer to it
        for nearer in (d for d in depth if abs(d - a) < abs(b - a)):
            assert partner[nearer] < a or abs(partner[nearer] - nearer) <= abs(a - nearer)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_properties_on_random_streams(data: st.DataObject) -> None:
    """Whatever the stamps and the order of arrival: within slop, each used once, colour stamps
    rising, bounded queues.
    """
    stamps = st.lists(
        st.integers(1, 480), min_size=0, max_size=60, unique=True
    )  # too near together for a time jump
    a, b = (sorted(s * MS for s in data.draw(stamps)) for _ in range(2))
    arrivals = in_order(a, b)
    jitter = data.draw(st.lists(st.integers(0, 6), min_size=len(arrivals), max_size=len(arrivals)))
    arrivals = [
        item
        for _, item in sorted(
            zip([i + j for i, j in enumerate(jitter)], arrivals, strict=True), key=lambda p: p[0]
        )
    ]
    slop_ms, queue_size = data.draw(st.integers(0, 60)), data.draw(st.integers(2, 40))
    m = matcher(slop_ms=slop_ms, queue_size=queue_size)
    pairs = feed(m, arrivals)
    assert all(abs(x - y) <= slop_ms * MS for x, y in pairs)
    assert len({x for x, _ in pairs}) == len({y for _, y in pairs}) == len(pairs)
    assert [x for x, _ in pairs] == sorted(x for x, _ in pairs)
    assert max(m.waiting) <= queue_size


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(5, 12))
def test_nearest_wins_on_regular_streams(seed: int, offset_ms: int) -> None:
    """Two 30 Hz streams with jitter below half a period: every interior colour image gets its
    nearest depth image.
    """
    rng = np.random.default_rng(seed)
    a = (np.arange(40) * 33 * MS + rng.integers(-1, 2, 40) * MS + 1000 * MS).tolist()
    b = (np.arange(40) * 33 * MS + rng.integers(-1, 2, 40) * MS + (1000 + offset_ms) * MS).tolist()
    pairs = dict(feed(matcher(slop_ms=25), in_order(a, b)))
    for stamp in a[1:-1]:
        assert pairs[stamp] == min(b, key=lambda other, s=stamp: abs(other - s))


@pytest.mark.parametrize("order", ["in order", "depth far behind"])
def test_a_bag_loop_goes_on_matching(order: str) -> None:
    """The stock synchroniser matched 0 of 300 frames after a loop with a full queue."""
    jumps: list[tuple[int, int]] = []
    m = matcher(queue_size=10, on_jump=lambda old, new: jumps.append((old, new)))
    one_pass = [s * 33 * MS for s in range(100, 200)]
    arrivals = in_order(one_pass, one_pass)
    if order == "depth far behind":
        arrivals = (
            [(0, s) for s in one_pass[:8]]
            + [(1, s) for s in one_pass[:8]]
            + in_order(one_pass[8:], one_pass[8:])
        )
    assert len(feed(m, arrivals)) == 100
    assert len(feed(m, arrivals)) == 100
    assert len(jumps) == 1
    assert jumps[0][0] == one_pass[-1]


def test_one_input_jumping_back_is_a_glitch() -> None:
    drops: list[FrameReason] = []
    m = matcher(
        on_drop=drops.append,
        on_jump=lambda old, new: pytest.fail("no jump: only one input fell back"),
    )
    feed(m, in_order([5000 * MS], [5000 * MS]))
    feed(m, [(0, 100 * MS)])
    assert feed(m, in_order([5033 * MS], [5033 * MS])) == [(5033 * MS, 5033 * MS)]
    assert drops == [FrameReason.BACKWARD_STAMP]


def message(stamp_ns: int) -> Any:
    return SimpleNamespace(
        header=SimpleNamespace(
            stamp=SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        )
    )


def test_a_callback_error_does_not_lock_the_synchroniser() -> None:
    """With the stock one the next message blocks for ever."""
    sources, drops, seen = [SimpleFilter(), SimpleFilter()], [], []
    sync = NearestStampSynchronizer(sources, matcher(), drops.append)

    def callback(rgb: Any, depth: Any) -> None:
        seen.append(rgb)
        if len(seen) == 1:
            raise RuntimeError("planted")

    sync.registerCallback(callback)
    sources[0].signalMessage(message(1000 * MS))
    with pytest.raises(RuntimeError, match="planted"):
        sources[1].signalMessage(message(1000 * MS))
    for source in sources:
        source.signalMessage(message(1033 * MS))
    assert len(seen) == 2


def test_zero_stamps_are_counted_not_matched() -> None:
    sources, drops = [SimpleFilter(), SimpleFilter()], []
    sync = NearestStampSynchronizer(sources, matcher(), drops.append)
    sync.registerCallback(lambda *_: pytest.fail("a zero stamp was matched"))
    for source in sources:
        source.signalMessage(message(0))
    assert drops == [FrameReason.ZERO_STAMP] * 2
