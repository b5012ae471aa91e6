"""Frames that wait for a detector: which are taken, which goes, in which order they are had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ada3d_ros.config import KeyframeConfig
from ada3d_ros.perception.frame_queue import MAX_WAITING, RECENT_S, FrameQueue
from ada3d_ros.types import Intrinsics, RgbdFrame

CONFIG = KeyframeConfig(min_translation_m=0.2, min_rotation_deg=10.0)
FIRST = RgbdFrame(
    stamp_ns=0,
    rgb=np.zeros((2, 2, 3), np.uint8),
    depth_m=np.ones((2, 2), np.float32),
    intrinsics=Intrinsics(2.0, 2.0, 0.5, 0.5, 2, 2),
    T_world_cam=np.eye(4),
    frame_id="map",
)


def frame(stamp_ns: int, x_m: float = 0.0, turned_deg: float = 0.0) -> RgbdFrame:
    angle, pose = np.deg2rad(turned_deg), np.eye(4)
    pose[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    pose[0, 3] = x_m
    return replace(FIRST, stamp_ns=stamp_ns, T_world_cam=pose)


def filled(stamps: Sequence[int], epoch: int = 0) -> FrameQueue:
    queue = FrameQueue()
    for stamp in stamps:
        assert queue.offer(frame(stamp), True, epoch, CONFIG)
    return queue


def stamps_of(queue: FrameQueue) -> list[int]:
    return [each.frame.stamp_ns for each in queue.waiting]


@pytest.mark.parametrize(
    ("x_m", "turned_deg", "taken"),
    [
        (0.0, 0.0, False),
        (0.049, 2.4, False),
        (0.051, 0.0, True),
        (-0.051, 0.0, True),
        (0.0, 2.6, True),
        (0.0, -2.6, True),
    ],
)
def test_a_quarter_of_a_keyframe_s_way_is_enough(
    x_m: float, turned_deg: float, taken: bool
) -> None:
    queue = filled([0])
    assert queue.offer(frame(1, x_m, turned_deg), False, 0, CONFIG) is taken
    assert stamps_of(queue) == ([0, 1] if taken else [0])


def test_it_is_the_way_from_the_last_that_was_taken() -> None:
    queue = filled([0])
    taken = [queue.offer(frame(i, 0.02 * i), False, 0, CONFIG) for i in range(1, 8)]
    assert taken == [False, False, True, False, False, True, False]
    assert queue.offer(frame(9, 0.14), True, 0, CONFIG)  # a keyframe is taken at any rate
    assert stamps_of(queue) == [0, 3, 6, 9]


def test_the_oldest_goes_where_there_are_too_many() -> None:
    queue = filled(range(MAX_WAITING))
    assert queue.is_full
    assert (queue.dropped, queue.unmatched) == (0, 0)
    taken = queue.take(0)
    assert taken is not None
    assert taken.frame.stamp_ns == 0
    queue.put_off(taken)
    assert stamps_of(queue) == list(range(MAX_WAITING))
    for stamp in (8, 9):
        queue.offer(frame(stamp), True, 0, CONFIG)
    assert (queue.unmatched, queue.dropped) == (1, 1)
    assert stamps_of(queue) == list(range(2, 10))


def test_what_was_put_off_comes_again_with_the_next_round() -> None:
    queue = filled([0, 1, 2])
    for expected in (0, 1):
        taken = queue.take(0)
        assert taken is not None
        assert taken.frame.stamp_ns == expected
        queue.put_off(taken)
    last = queue.take(0)
    assert last is not None
    assert last.frame.stamp_ns == 2
    assert queue.take(0) is None
    queue.begin_round()
    again = queue.take(0)
    assert again is not None
    assert again.asked
    assert again.frame.stamp_ns == 0


def test_frames_of_other_scenes() -> None:
    queue = filled([0, 1])
    for stamp in (2, 3):
        queue.offer(frame(stamp), True, 1, CONFIG)
    taken = queue.take(1)
    assert taken is not None
    assert taken.frame.stamp_ns == 2
    assert stamps_of(queue) == [3]
    assert queue.take(0) is None  # a step that began before the reset finds nothing
    assert stamps_of(queue) == [3]
    assert (queue.dropped, queue.unmatched) == (0, 0)
    queue.clear()
    assert len(queue) == 0
    assert queue.offer(frame(4), False, 1, CONFIG)  # the first of all


def test_keyframes_of_before_the_first_frame_come_first() -> None:
    queue = filled([5, 6])
    queue.add_earlier([frame(stamp) for stamp in (1, 3, 5, 6)], 0)
    assert stamps_of(queue) == [1, 3, 5, 6]
    queue.add_earlier([frame(stamp) for stamp in (1, 3)], 0)
    assert stamps_of(queue) == [1, 3, 5, 6]
    empty = FrameQueue()
    empty.add_earlier([frame(1)], 0)
    assert stamps_of(empty) == [1]


@pytest.mark.parametrize("looked_at", [False, True])
def test_a_keyframe_that_a_step_saw_before_it_was_offered_is_taken_once(looked_at: bool) -> None:
    """It is in the scene a moment before it is offered to the queue."""
    queue, both = FrameQueue(), [frame(1), frame(3)]
    queue.add_earlier(both, 0)
    if looked_at:
        assert [queue.take(0), queue.take(0)] != [None, None]
    assert not queue.offer(both[1], True, 0, CONFIG)
    assert stamps_of(queue) == ([] if looked_at else [1, 3])
    assert queue.offer(frame(4), True, 0, CONFIG)  # the next is another one
    assert stamps_of(queue)[-1] == 4


def test_frames_are_in_the_order_in_which_they_came() -> None:
    """Also where the clock fell back between them."""
    queue = filled([7, 8, 2])
    queue.add_earlier([frame(5)], 0)
    first = queue.take(0)
    assert first is not None
    assert first.frame.stamp_ns == 5
    second = queue.take(0)
    assert second is not None
    for taken in (second, first):
        queue.put_off(taken)
    assert stamps_of(queue) == [5, 7, 8, 2]
    numbers = [each.number for each in queue.waiting]
    assert numbers == sorted(set(numbers))


def test_what_went_unseen_is_forgotten_after_a_while() -> None:
    now = [0.0]
    queue = FrameQueue(lambda: now[0])
    for stamp in range(MAX_WAITING + 3):
        queue.offer(frame(stamp), True, 0, CONFIG)
    assert queue.recent() == (3, 3)
    now[0] = RECENT_S / 2
    for _ in range(2):
        assert queue.take(0) is not None
        queue.note_seen()
    assert queue.recent() == (5, 3)
    now[0] = RECENT_S
    assert queue.recent() == (2, 0)
    now[0] = 2 * RECENT_S
    assert queue.recent() == (0, 0)
    assert queue.dropped == 3  # of all time
