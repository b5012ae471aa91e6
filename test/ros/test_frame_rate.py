"""How many frames are decoded: by time, and with a detector by motion as well."""

import numpy as np
import pytest

from ada3d_ros.config import AgentConfig, from_flat
from ada3d_ros.ros.frame_rate import FrameRate

STEP_NS = 1_000_000_000 // 30
WITH = from_flat({"model.path": "none", "detector.path": "a.onnx"})


def taken(config: AgentConfig, step_m: float, count: int = 60, late: int = 0) -> list[int]:
    """Which of the frames of a camera of 30 Hz go on; poses come `late` frames later."""
    rate, waiting, went = FrameRate(), [], []
    for index in range(count):
        due = rate.take_due(index * STEP_NS, config)
        if due or rate.may_be_taken(config):
            waiting.append((index, due))
        while waiting and waiting[0][0] <= index - late:
            number, was_due = waiting.pop(0)
            pose = np.eye(4)
            pose[0, 3] = step_m * number
            if was_due or rate.is_worth(number * STEP_NS, pose, config):
                rate.note_taken(number * STEP_NS, pose)
                went.append(number)
    return went


def test_a_camera_that_stands_still_is_held_to_the_rate() -> None:
    # 5 Hz with a slack of a tenth: every sixth frame of 30 Hz.
    assert taken(WITH, 0.0) == list(range(0, 60, 6))


@pytest.mark.parametrize("late", [0, 1, 2])
def test_a_detector_gets_more_of_a_camera_that_moves(late: int) -> None:
    # A quarter of keyframe.min_translation_m, 0.05 m, each frame; 15 Hz at most.
    went = taken(WITH, 0.06, late=late)
    assert 26 <= len(went) <= 32
    assert went == sorted(set(went))
    assert min(np.diff(went)) >= 2 or late


def test_without_one_or_without_objects_the_rate_holds() -> None:
    for flat in ({}, {"detector.path": "a.onnx", "objects.enabled": False}):
        assert taken(from_flat(flat), 0.06) == list(range(0, 60, 6))


def test_stamps_that_fall_back_begin_anew() -> None:
    rate = FrameRate()
    assert rate.take_due(10 * STEP_NS, WITH)
    assert not rate.take_due(12 * STEP_NS, WITH)
    assert rate.take_due(STEP_NS, WITH)
    rate.clear()
    assert rate.take_due(2 * STEP_NS, WITH)
