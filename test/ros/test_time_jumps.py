"""Jumps in time, resets and pauses: no frame of before a reset, or of a pause, enters the scene."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("ada3d_ros.msg")

from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402

import ada3d_ros.ros.intake  # noqa: E402
from ada3d_ros.msg import AgentStatus  # noqa: E402
from ada3d_ros.ros.conversions import ns_to_time  # noqa: E402
from test.support.ros_harness import TOPICS, Harness, frame_messages, wait_until  # noqa: E402

Start = Callable[..., Harness]
SECOND = 1_000_000_000
PARTS = tuple(TOPICS)  # pose, info, rgb, depth
ANYWHERE = 1_700_000_000  # s


class Camera:
    """Sends frames, or parts of them, and knows what the scene should hold."""

    def __init__(self, agent: Harness) -> None:
        self.agent = agent
        assert agent.ready()
        self.statuses = agent.collect(AgentStatus, "/ada3d_agent/status")

    def send(self, stamp_s: int, *parts: str) -> None:
        """Some messages of a frame (all, if none is named); they have arrived on return."""
        messages = frame_messages(stamp_s * SECOND, x_m=0.5 * (stamp_s % 100))
        for name in parts or PARTS:
            monitor = self.agent.node.inputs.monitors["camera_info" if name == "info" else name]
            before = monitor.received
            self.agent.publisher(TOPICS[name], type(messages[name])).publish(messages[name])
            assert wait_until(lambda m=monitor, n=before: m.received > n), name

    def admit(self, stamp_s: int) -> None:
        """Send a frame that must become the newest keyframe."""
        self.send(stamp_s)
        assert wait_until(lambda: self.scene[-1:] == [stamp_s]), self.agent.why_no_keyframe()

    @property
    def scene(self) -> list[int]:
        """Stamps of the keyframes, s."""
        keyframes = self.agent.node.pipeline.scene.keyframes
        return [keyframe.frame.stamp_ns // SECOND for keyframe in keyframes]

    @property
    def epoch(self) -> int:
        return self.agent.node.pipeline.scene_state().epoch

    def holds(self, *stamps_s: int) -> bool:
        return wait_until(lambda: self.scene == list(stamps_s))

    def said(self) -> bool:
        """Whether the newest status speaks of a jump."""
        count = len(self.statuses)
        assert wait_until(lambda: len(self.statuses) > count + 1)
        return "jumped" in self.statuses[-1].detail

    def set_clock(self, stamp_s: int) -> None:
        self.agent.publisher("/clock", Clock).publish(Clock(clock=ns_to_time(stamp_s * SECOND)))
        now = self.agent.node.get_clock().now
        assert wait_until(lambda: now().nanoseconds == stamp_s * SECOND)

    def pause(self, paused: bool) -> None:
        assert self.agent.call(SetBool, "set_paused", SetBool.Request(data=paused)).success

    def change(self, *labels: str) -> None:
        for label in labels:
            request = ChangeState.Request(transition=Transition(label=label))
            assert self.agent.call(ChangeState, "change_state", request).success, label

    def reset(self) -> None:
        assert self.agent.call(Trigger, "reset_scene").success


# -- forward


@pytest.mark.parametrize("step_s", [3601, 347_000_000])
def test_images_of_another_recording_begin_a_new_scene(
    start_agent: Start, capfd: pytest.CaptureFixture[str], step_s: int
) -> None:
    camera = Camera(start_agent())
    camera.admit(1_352_000_000)
    camera.admit(1_352_000_001)
    assert camera.holds(1_352_000_000, 1_352_000_001)
    later = 1_352_000_001 + step_s
    camera.admit(later)
    camera.admit(later + 1)
    assert camera.holds(later, later + 1)
    assert camera.epoch == 1
    assert camera.said()
    far = "4016 days" if step_s > 3601 else "3601 s"
    assert f"image stamps jumped forward by {far}, input.max_gap_sec or more: the scene" in (
        capfd.readouterr().err
    )


@pytest.mark.parametrize(
    ("max_gap_s", "step_s", "kept"),
    [
        (3600.0, 300, True),  # a pause of five minutes
        (3600.0, 3599, True),
        (3600.0, 3600, False),
        (10.0, 9, True),
        (10.0, 10, False),
        (0.0, 347_000_000, True),  # off
    ],
)
def test_how_long_a_pause_may_be(
    start_agent: Start, max_gap_s: float, step_s: int, kept: bool
) -> None:
    camera = Camera(start_agent(**{"input.max_gap_sec": max_gap_s}))
    camera.admit(ANYWHERE)
    camera.admit(ANYWHERE + step_s)
    later = ANYWHERE + step_s
    assert camera.holds(*([ANYWHERE, later] if kept else [later]))
    assert (camera.epoch, camera.said()) == ((0, False) if kept else (1, True))


@pytest.mark.parametrize(("waited_s", "kept"), [(28_000, True), (0, False)])
def test_a_camera_that_was_off_over_night_is_no_jump(
    start_agent: Start, waited_s: int, kept: bool
) -> None:
    """By the machine's own clock as much time has passed: it is the same place."""
    camera = Camera(start_agent())
    camera.admit(ANYWHERE)
    camera.agent.node.last_set_s -= waited_s
    morning = ANYWHERE + 28_800
    camera.admit(morning)
    assert camera.holds(*([ANYWHERE, morning] if kept else [morning]))


def test_a_scene_that_is_kept_over_a_jump_is_spoken_of(start_agent: Start) -> None:
    camera = Camera(start_agent(reset_on_time_jump=False))
    camera.admit(ANYWHERE)
    camera.admit(ANYWHERE + 4000)
    assert camera.holds(ANYWHERE, ANYWHERE + 4000)
    assert camera.epoch == 0
    assert camera.said()
    assert "Call ~/reset_scene" in camera.statuses[-1].detail
    camera.reset()
    assert not camera.said()


def test_a_jump_is_of_the_scene_that_cleanup_ended(start_agent: Start) -> None:
    """The next model's scene has the number of the first one."""
    camera = Camera(start_agent(reset_on_time_jump=False))
    camera.admit(ANYWHERE)
    camera.admit(ANYWHERE + 4000)
    assert camera.said()
    camera.change("deactivate", "cleanup", "configure", "activate")
    assert camera.agent.ready()
    assert camera.epoch == 0
    assert not camera.said()


@pytest.mark.parametrize("max_age_s", [0.0, 1.0])
def test_a_clock_that_jumps_ahead_begins_a_new_scene(start_agent: Start, max_age_s: float) -> None:
    camera = Camera(start_agent(use_sim_time=True, **{"input.max_age_sec": max_age_s}))
    camera.set_clock(ANYWHERE)
    camera.admit(ANYWHERE)
    camera.set_clock(ANYWHERE + 300)
    camera.send(ANYWHERE + 300)
    assert camera.holds(ANYWHERE, ANYWHERE + 300)

    # before the first frame of the other recording; which begins no second one
    camera.set_clock(ANYWHERE + 4000)
    assert camera.holds()
    camera.send(ANYWHERE + 4000)
    assert camera.holds(ANYWHERE + 4000)
    assert camera.epoch == 1
    assert camera.said()


@pytest.mark.parametrize("max_age_s", [0.0, 1.0])
def test_the_first_clock_is_no_jump(start_agent: Start, max_age_s: float) -> None:
    """From 0, not set, to now; also where frames were there before it."""
    camera = Camera(start_agent(use_sim_time=True, **{"input.max_age_sec": max_age_s}))
    camera.admit(ANYWHERE)
    camera.set_clock(ANYWHERE)
    camera.send(ANYWHERE + 1)
    assert camera.holds(ANYWHERE, ANYWHERE + 1)
    assert (camera.epoch, camera.said()) == (0, False)


@pytest.mark.parametrize("step_s", [4000, -4000])
@pytest.mark.parametrize("late", PARTS)
def test_a_frame_that_waits_during_a_jump_stays_out(
    start_agent: Start, late: str, step_s: int
) -> None:
    """All but one message of it came before the jump, the last one after."""
    camera = Camera(start_agent(**{"pose.timeout_sec": 2.0}))
    camera.admit(ANYWHERE)
    camera.send(ANYWHERE + 1, *(name for name in PARTS if name != late))
    later = ANYWHERE + step_s
    camera.send(later)
    camera.admit(later + 1)
    camera.send(ANYWHERE + 1, late)
    camera.send(later + 2)
    camera.admit(later + 3)
    assert min(camera.scene) >= later
    assert max(camera.scene) <= later + 3
    assert camera.epoch == 1


# -- resets


@pytest.mark.parametrize("late", PARTS)
def test_a_frame_that_waits_during_a_reset_stays_out(start_agent: Start, late: str) -> None:
    camera = Camera(start_agent(**{"pose.timeout_sec": 2.0}))
    camera.admit(ANYWHERE)
    camera.send(ANYWHERE + 1, *(name for name in PARTS if name != late))
    camera.reset()
    camera.send(ANYWHERE + 1, late)
    camera.admit(ANYWHERE + 2)
    camera.admit(ANYWHERE + 3)
    assert camera.holds(ANYWHERE + 2, ANYWHERE + 3)


def test_frames_in_the_hands_of_the_decoder_stay_out_of_the_new_scene(
    start_agent: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is being decoded at the reset, another waits behind it."""
    decoding, go_on = threading.Event(), threading.Event()
    real = ada3d_ros.ros.intake.frame_of

    def slow(*args: Any) -> Any:
        frame = real(*args)
        if frame.stamp_ns == (ANYWHERE + 1) * SECOND:
            decoding.set()
            assert go_on.wait(20.0)
        return frame

    monkeypatch.setattr(ada3d_ros.ros.intake, "frame_of", slow)
    camera = Camera(start_agent())
    camera.admit(ANYWHERE)
    camera.send(ANYWHERE + 1)
    assert decoding.wait(20.0)
    camera.send(ANYWHERE + 2)
    assert wait_until(lambda: camera.agent.node.inputs.sets == 3)
    camera.reset()
    go_on.set()
    assert wait_until(lambda: camera.agent.drops().get("superseded", 0) == 2), camera.agent.drops()
    assert camera.holds()
    camera.send(ANYWHERE + 3)
    assert camera.holds(ANYWHERE + 3)


# -- pauses


@pytest.mark.parametrize("late", [*PARTS, "nothing"])
def test_a_frame_of_a_pause_stays_out(start_agent: Start, late: str) -> None:
    """Also one whose last message comes after it."""
    camera = Camera(start_agent(**{"pose.timeout_sec": 2.0}))
    camera.admit(ANYWHERE)
    camera.pause(True)
    camera.send(ANYWHERE + 1, *(name for name in PARTS if name != late))
    camera.pause(False)
    if late != "nothing":
        camera.send(ANYWHERE + 1, late)
    camera.admit(ANYWHERE + 2)
    camera.admit(ANYWHERE + 3)
    assert camera.holds(ANYWHERE, ANYWHERE + 2, ANYWHERE + 3)


def test_an_hour_of_pausing_is_no_jump_if_frames_went_on(start_agent: Start) -> None:
    camera = Camera(start_agent(**{"input.max_gap_sec": 10.0}))
    camera.admit(ANYWHERE)
    camera.pause(True)
    for second in (6, 12, 18):
        camera.send(ANYWHERE + second)
    assert wait_until(lambda: camera.agent.node.inputs.sets == 4)
    camera.pause(False)
    camera.send(ANYWHERE + 24)
    assert camera.holds(ANYWHERE, ANYWHERE + 24)
    assert camera.epoch == 0


@pytest.mark.parametrize("step_s", [4000, -4000])
def test_a_jump_during_a_pause_is_noticed_after_it(start_agent: Start, step_s: int) -> None:
    camera = Camera(start_agent())
    camera.admit(ANYWHERE)
    camera.pause(True)
    camera.send(ANYWHERE + step_s)
    camera.pause(False)
    camera.send(ANYWHERE + step_s + 1)
    assert camera.holds(ANYWHERE + step_s + 1)
    assert camera.epoch == 1
