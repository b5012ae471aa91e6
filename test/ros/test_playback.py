"""When messages of a bag are played: gaps, messages of another time, clocks of their own."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy")

from ada3d_ros.ros.playback import FEW, LOOK_AHEAD, StampClocks, Turns, mark_apart

SECOND = 1_000_000_000
START_NS = 1_700_000_000 * SECOND
MINUTE_NS, HOUR_NS, DAY_NS = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND


def message(topic: str, bag_ns: int) -> Any:
    return SimpleNamespace(topic=topic), bag_ns, b""


def part(count: int, start_ns: int = START_NS, topic: str = "/a") -> list[Any]:
    return [message(topic, start_ns + index * SECOND // 10) for index in range(count)]


def apart(messages: list[Any]) -> list[int]:
    """Places of those that stand apart; all messages come out, in order."""
    marked = list(mark_apart(iter(messages)))
    assert [m for m, _ in marked] == messages
    return [place for place, (_, is_apart) in enumerate(marked) if is_apart]


@pytest.mark.parametrize("count", [1, 3, FEW])
@pytest.mark.parametrize("rest", [FEW + 1, 10 * LOOK_AHEAD])
def test_the_first_messages_at_time_zero_stand_apart(count: int, rest: int) -> None:
    assert apart(part(count, 0) + part(rest)) == list(range(count))


@pytest.mark.parametrize("place", [1, 5, 100, 199, 200])
@pytest.mark.parametrize("at_ns", [0, START_NS - HOUR_NS, START_NS + HOUR_NS, START_NS * 2])
def test_one_message_of_another_time_stands_apart_wherever_it_is(place: int, at_ns: int) -> None:
    messages = part(200)
    messages.insert(place, message("/b", at_ns))
    assert apart(messages) == [place]


@pytest.mark.parametrize("gap_ns", [61 * SECOND, HOUR_NS, 400 * DAY_NS])
@pytest.mark.parametrize(("before", "after"), [(100, 100), (4, 100), (100, 30), (30, 30), (1, 1)])
def test_parts_of_a_recording_do_not(before: int, after: int, gap_ns: int) -> None:
    few = min(before, after) <= (FEW if gap_ns > DAY_NS else 3) and before != after
    if not few:
        first = part(before)
        assert apart(first + part(after, first[-1][1] + gap_ns)) == []


@pytest.mark.parametrize("count", [0, 1, 2, FEW, LOOK_AHEAD, LOOK_AHEAD + 1, 500])
def test_a_recording_without_gaps(count: int) -> None:
    assert apart(part(count)) == []


def test_any_recording_comes_out_whole() -> None:
    rng = random.Random(7)
    for _ in range(200):
        now_ns, messages = 0, []
        for _ in range(rng.randrange(150)):
            now_ns += rng.choice([SECOND, SECOND, SECOND, 2 * MINUTE_NS, -HOUR_NS, 2 * DAY_NS])
            messages.append(message("/a", now_ns))
        apart(messages)


def test_turns_tell_what_is_cut() -> None:
    """A message at time 0, half a minute (kept), then a pause of ten minutes."""
    messages = [message("/tf_static", 0), *part(50), *part(50, START_NS + 30 * SECOND, "/b")]
    messages += part(50, START_NS + 630 * SECOND)
    turns = Turns(iter(messages))
    said = [(t.gap_ns, t.after, t.pause_ns) for t in turns if t.gap_ns or t.pause_ns]
    pause_ns = messages[101][1] - messages[100][1]
    assert said == [(START_NS, "/tf_static", 0), (pause_ns, "/b", pause_ns)]
    assert (turns.first_ns, turns.last_ns) == (START_NS, messages[-1][1])
    assert turns.clock_first_ns == START_NS


def test_turns_beside_a_message_of_another_time() -> None:
    """The recording goes on behind it: only the way there is said, and nothing is cut."""
    messages = part(100)
    messages.insert(50, message("/b", 0))
    turns = list(Turns(iter(messages)))
    assert [(i, t.apart, t.after) for i, t in enumerate(turns) if t.gap_ns] == [(50, True, "/a")]
    assert not any(t.pause_ns for t in turns)


def test_bag_times_that_go_on_with_another_clock() -> None:
    turns = Turns(iter([*part(100, 0), *part(100)]))
    assert not any(turn.apart for turn in turns)
    assert (turns.first_ns, turns.clock_first_ns) == (0, START_NS)


@pytest.mark.parametrize("lead_ns", [0, -40_000_000, SECOND - START_NS, 7 * HOUR_NS])
def test_stamps_of_one_clock_keep_their_distances(lead_ns: int) -> None:
    clocks = StampClocks()
    for index in range(50):
        bag_ns = START_NS + index * SECOND // 10
        for late_ns in (0, 3_000_000, 40_000_000):  # logged after the stamp
            stamp_ns = bag_ns + lead_ns - late_ns
            assert clocks.bag_time_of(stamp_ns, bag_ns) == bag_ns - late_ns


def test_a_stamp_of_no_clock_is_of_its_bag_time() -> None:
    """So no message is restamped far from now, and memory stays small."""
    clocks = StampClocks()
    assert clocks.bag_time_of(START_NS, START_NS) == START_NS
    for index in range(1, 1000):
        assert clocks.bag_time_of(START_NS + index * HOUR_NS, START_NS) == START_NS
    assert clocks.bag_time_of(START_NS + 5, START_NS) == START_NS + 5  # the first is still known
    assert len(clocks) <= 16
