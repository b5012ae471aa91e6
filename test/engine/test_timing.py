"""Clocks of stages: each second once, on a clock that the test moves."""

from __future__ import annotations

import math

import pytest
import torch

from ada3d_ros.engine.timing import EventTimer, StageClock

CPU = torch.device("cpu")


class MovedClock:
    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now


def test_a_stage_entered_twice_adds_up_and_others_stay_nan() -> None:
    now = MovedClock()
    clock = StageClock(CPU, now)
    for _ in range(2):
        with clock.stage("vision_s"):
            now.now += 2.0
        now.now += 1.0
    clock.record("rank_s", 0.5)
    timings = clock.timings()
    assert (timings.vision_s, timings.rank_s, timings.total_s) == (4.0, 0.5, 6.0)
    assert math.isnan(timings.spatial_s)


def test_a_stage_inside_another_raises_and_neither_is_lost() -> None:
    now = MovedClock()
    clock = StageClock(CPU, now)
    with clock.stage("postprocess_s"):
        now.now += 1.0
        with pytest.raises(RuntimeError, match="spatial_s inside stage postprocess_s"):
            with clock.stage("spatial_s"):
                pass
        now.now += 1.0
    with clock.stage("spatial_s"):
        now.now += 4.0
    assert (clock.timings().postprocess_s, clock.timings().spatial_s) == (2.0, 4.0)


def test_a_stage_that_fails_is_counted_and_closed() -> None:
    now = MovedClock()
    clock = StageClock(CPU, now)

    def fail() -> None:
        with clock.stage("vision_s"):
            now.now += 3.0
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    with clock.stage("prefill_s"):
        now.now += 1.0
    assert (clock.timings().vision_s, clock.timings().prefill_s) == (3.0, 1.0)


def test_a_fork_has_what_was_and_goes_on_alone() -> None:
    now = MovedClock()
    clock = StageClock(CPU, now)
    with clock.stage("prefill_s"):
        now.now += 1.0
    one, other = clock.fork(), clock.fork()
    with one.stage("postprocess_s"):
        now.now += 2.0
    with other.stage("postprocess_s"):
        now.now += 4.0
    assert (one.timings().prefill_s, other.timings().prefill_s) == (1.0, 1.0)
    assert (one.timings().postprocess_s, other.timings().postprocess_s) == (2.0, 4.0)
    assert math.isnan(clock.timings().postprocess_s)
    assert other.timings().total_s == 7.0


def test_intervals_add_up_and_only_their_shares_count() -> None:
    now = MovedClock()
    timer = EventTimer(CPU, now)
    for seconds, share in ((1.0, 1.0), (2.0, 0.5), (8.0, 0.0)):
        timer.start()
        now.now += seconds
        timer.stop(share)
        now.now += 100.0
    assert timer.total_s() == 2.0
