"""camera_info in a stream: sent once, latched, rarely, late, changing, of another clock; poses of
other axes. First the rule alone, then a node over real DDS.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo

from ada3d_ros.ros.camera_infos import CameraInfos
from ada3d_ros.ros.conversions import ns_to_time
from ada3d_ros.ros.diagnostics import WARN
from test.support.ros_harness import (
    FOCAL_PX,
    HEIGHT,
    WIDTH,
    Harness,
    NodeLog,
    frame_messages,
    wait_until,
)

SECOND = 1_000_000_000
MS = 1_000_000
SLOP = 20 * MS
Start = Callable[..., Harness]


def fed(*stamps_ns: int, images_ns: int = -1) -> CameraInfos:
    """Messages are their own stamps."""
    infos = CameraInfos()
    for stamp_ns in stamps_ns:
        infos.add(stamp_ns, stamp_ns, images_ns)
    return infos


def test_one_message_holds_for_good_and_is_not_waited_for() -> None:
    infos = fed(10 * SECOND)
    for stamp_s in (9, 10, 11, 5000):
        assert not infos.is_due(stamp_s * SECOND, SLOP)
        assert infos.for_image(stamp_s * SECOND, SLOP) == 10 * SECOND
    infos.clear()  # a reset of the scene
    assert infos.for_image(SECOND, SLOP) == 10 * SECOND


def test_before_the_first_every_image_waits() -> None:
    infos = CameraInfos()
    assert infos.is_due(SECOND, SLOP)
    assert infos.for_image(SECOND, SLOP) is None
    assert math.isnan(infos.lag_s)


def test_where_they_come_regularly_an_image_waits_for_its_own() -> None:
    infos = fed(SECOND, 2 * SECOND, 3 * SECOND)
    assert not infos.is_due(3 * SECOND, SLOP)  # it is there
    assert not infos.is_due(3 * SECOND + SECOND // 2, SLOP)  # none is due yet
    assert infos.is_due(4 * SECOND, SLOP)
    assert infos.is_due(9 * SECOND, SLOP)  # a jump ahead: its own may be of another camera
    infos.add(4 * SECOND, 4 * SECOND, 4 * SECOND)
    assert infos.for_image(4 * SECOND, SLOP) == 4 * SECOND
    assert infos.lag_s == 0.0


def test_images_do_not_wait_in_vain_for_ever() -> None:
    infos = fed(SECOND, 2 * SECOND, 3 * SECOND)
    waited = []
    for stamp_s in range(4, 10):
        waited.append(infos.is_due(stamp_s * SECOND, SLOP))
        assert infos.for_image(stamp_s * SECOND, SLOP) == 3 * SECOND
    assert waited == [True] * 3 + [False] * 3
    infos.add(10 * SECOND, 10 * SECOND, 10 * SECOND)
    infos.for_image(10 * SECOND, SLOP)
    assert infos.is_due(11 * SECOND, SLOP)


def test_after_a_jump_back_those_of_before_do_not_hold() -> None:
    infos = fed(*(s * SECOND for s in range(100, 110)))
    infos.add(5 * SECOND, 5 * SECOND, 109 * SECOND)
    infos.clear(5 * SECOND)
    assert infos.for_image(5 * SECOND, SLOP) == 5 * SECOND
    assert infos.for_image(7 * SECOND, SLOP) == 5 * SECOND
    assert infos.is_due(6 * SECOND, SLOP)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("ahead_s", [1, 3600, 315_360_000])
def test_a_stamp_ahead_is_told_and_used_for_nothing(ahead_s: int, count: int) -> None:
    infos, leads = CameraInfos(), []
    for i in range(40):
        stamp_ns = (1000 + i) * SECOND // 5
        shift_ns = ahead_s * SECOND if 10 <= i < 10 + count else 0
        leads += infos.add(stamp_ns + shift_ns, stamp_ns + shift_ns, stamp_ns)
        used = infos.for_image(stamp_ns, SLOP)
        assert used == (stamp_ns if not shift_ns else 1009 * SECOND // 5)
    assert leads == [ahead_s * SECOND] * count


@pytest.mark.parametrize("jump_s", [3600, -150])
def test_a_jump_of_all_inputs_is_no_wrong_stamp(jump_s: int) -> None:
    infos, leads, images_ns = CameraInfos(), [], -1
    for i in range(40):
        stamp_ns = (1000 + i) * SECOND // 5 + (jump_s * SECOND if i >= 20 else 0)
        leads += infos.add(stamp_ns, stamp_ns, images_ns)
        images_ns = stamp_ns
        assert infos.for_image(stamp_ns, SLOP) == stamp_ns
    assert leads == []
    assert infos.lag_s == 0.0


@pytest.mark.parametrize("lead_s", [-1000, 500])
def test_of_another_clock_the_newest_is_used(lead_s: int) -> None:
    infos = CameraInfos()
    for i in range(200):
        image_ns = (10_000 + i) * SECOND // 5
        stamp_ns = image_ns + lead_s * SECOND
        infos.add(stamp_ns, stamp_ns, image_ns)
        used = infos.for_image(image_ns, SLOP)
    assert used == stamp_ns  # K may have changed
    assert infos.lag_s == -lead_s
    assert not infos.is_due(image_ns + SECOND // 5, SLOP)


def test_a_message_without_a_stamp_holds_where_no_other_does() -> None:
    infos = CameraInfos()
    infos.add(0, "unstamped", SECOND)
    assert infos.for_image(5 * SECOND, SLOP) == "unstamped"
    infos.add(4 * SECOND, "stamped", SECOND)
    assert infos.for_image(5 * SECOND, SLOP) == "stamped"


def test_it_keeps_a_bounded_number_of_messages() -> None:
    infos, rng = CameraInfos(), np.random.default_rng(0)
    for i in range(2000):
        infos.add(int(rng.integers(1, 10**15)), i, int(rng.integers(-1, 10**15)))
    assert len(infos) <= 50


# -- the node


def scene_of(agent: Harness) -> list[tuple[int, float]]:
    """Second and focal length of each keyframe."""
    frames = [keyframe.frame for keyframe in agent.node.pipeline.scene.keyframes]
    return [(frame.stamp_ns // SECOND, frame.intrinsics.fx) for frame in frames]


def send(agent: Harness, second: int, info: Any = None, **changes: Any) -> None:
    agent.publish_frame(second * SECOND, x_m=0.5 * second, info=info, **changes)


def admit(agent: Harness, second: int, **changes: Any) -> None:
    send(agent, second, **changes)
    assert wait_until(lambda: second in dict(scene_of(agent))), (
        agent.why_no_keyframe(),
        agent.drops(),
    )


def info_at(second: int, fx: float = FOCAL_PX) -> CameraInfo:
    message = frame_messages(second * SECOND)["info"]
    message.k = [fx, 0.0, WIDTH / 2, 0.0, fx, HEIGHT / 2, 0.0, 0.0, 1.0]
    return message


def test_a_camera_info_that_comes_once_holds_for_all_frames(start_agent: Start) -> None:
    agent = start_agent()
    assert agent.ready()
    admit(agent, 1, info=info_at(1))
    for second in range(2, 9):
        admit(agent, second)
    assert len(scene_of(agent)) == 8
    assert agent.drops() == {}

    # and after a reset too
    agent.node.inputs.clear()
    admit(agent, 9)


@pytest.mark.parametrize("stamped", [True, False])
def test_a_latched_camera_info_of_before_the_start_arrives(
    start_agent: Start, stamped: bool
) -> None:
    agent = start_agent()
    assert agent.ready()
    agent.node.trigger_deactivate()
    latched = QoSProfile(
        depth=1,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
        reliability=ReliabilityPolicy.RELIABLE,
    )
    topic = "/rgb/camera_info"
    publisher = agent.peer.create_publisher(CameraInfo, topic, latched)
    message = info_at(1, fx=111.0)
    if not stamped:
        message.header.stamp = ns_to_time(0)
    publisher.publish(message)
    agent.node.trigger_activate()
    monitor = agent.node.inputs.monitors["camera_info"]
    assert wait_until(lambda: monitor.received == 1)
    admit(agent, 2)
    assert scene_of(agent) == [(2, 111.0)]

    # a camera that does not latch joins: it is heard as well
    for second in itertools.count(3):
        send(agent, second, info=info_at(second, fx=122.0))
        if wait_until(lambda: 122.0 in dict(scene_of(agent)).values(), 1.0):
            break
        assert second < 20, (agent.why_no_keyframe(), monitor)
    assert monitor.qos_incompatible == 0


def test_frames_before_the_first_camera_info_are_counted_and_later_ones_taken(
    start_agent: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    agent = start_agent(**{"pose.timeout_sec": 1.0})
    assert agent.ready()
    send(agent, 1)
    assert wait_until(lambda: agent.drops() == {"no_info": 1}), agent.drops()
    log = NodeLog(capfd)
    assert log.said("nothing received on /rgb/camera_info"), log.text
    agent.publisher("/rgb/camera_info", CameraInfo).publish(info_at(5))
    assert wait_until(lambda: agent.node.inputs.monitors["camera_info"].received == 1)
    admit(agent, 2)  # older than the first: it holds for it


def test_a_camera_info_that_comes_after_its_images_is_theirs(start_agent: Start) -> None:
    agent = start_agent(**{"pose.timeout_sec": 2.0})
    assert agent.ready()
    publisher = agent.publisher("/rgb/camera_info", CameraInfo)
    inputs = agent.node.inputs
    for second in range(1, 7):
        send(agent, second)
        assert wait_until(lambda n=second: inputs.sets == n)
        publisher.publish(info_at(second, fx=100.0 + second))
        assert wait_until(lambda n=second: n in dict(scene_of(agent))), agent.drops()
    assert [focal for _, focal in scene_of(agent)][-4:] == [103.0, 104.0, 105.0, 106.0]


def test_a_camera_info_that_comes_rarely_and_changes(start_agent: Start) -> None:
    """Every fifth image has one: each holds until the next."""
    agent = start_agent()
    assert agent.ready()
    publisher = agent.publisher("/rgb/camera_info", CameraInfo)
    monitor = agent.node.inputs.monitors["camera_info"]
    for second in range(1, 16):
        if second % 5 == 1:  # before its image: nobody can know yet that one is due
            publisher.publish(info_at(second, fx=100.0 + second))
            assert wait_until(lambda n=second // 5 + 1: monitor.received == n)
        admit(agent, second)
    expected = [(s, 100.0 + (s - 1) // 5 * 5 + 1) for s in range(1, 16)]
    assert scene_of(agent) == expected
    assert agent.drops() == {}


def test_camera_info_of_another_clock_is_used_and_said(start_agent: Start) -> None:
    agent = start_agent()
    assert agent.ready()
    for second in range(1_000_000, 1_000_006):
        admit(agent, second, info=info_at(second - 999_995))
    # the image is not waited for, so the newest may be that of the image before
    assert agent.node.inputs.infos.lag_s in (999_995.0, 999_996.0)
    text = r"/rgb/camera_info is 99999[56]\.0 s behind colour and depth"
    assert any(re.search(text, str(fault)) for fault in agent.node.health.faults())


def test_a_region_of_interest_reaches_the_scene(start_agent: Start) -> None:
    agent = start_agent()
    assert agent.ready()
    message = info_at(1)
    message.width, message.height = WIDTH + 100, HEIGHT + 100
    message.roi.x_offset, message.roi.y_offset = 40, 20
    message.roi.width, message.roi.height = WIDTH, HEIGHT
    message.k[2], message.k[5] = WIDTH / 2 + 40, HEIGHT / 2 + 20
    admit(agent, 1, info=message)
    k = agent.node.pipeline.scene.keyframes[-1].frame.intrinsics
    assert (k.fx, k.cx, k.cy) == (FOCAL_PX, WIDTH / 2, HEIGHT / 2)


def test_rectified_images_have_P_and_keep_their_pixels(start_agent: Start) -> None:
    agent = start_agent(**{"camera.rectified": True})
    assert agent.ready()
    message = info_at(1)
    message.d = [-0.3, 0.1, 0.0, 0.0, 0.0]
    message.p = [99.0, 0.0, 70.0, 0.0, 0.0, 98.0, 50.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    admit(agent, 1, info=message)
    frame = agent.node.pipeline.scene.keyframes[-1].frame
    k = frame.intrinsics
    assert (k.fx, k.fy, k.cx, k.cy) == (99.0, 98.0, 70.0, 50.0)
    sent = np.frombuffer(frame_messages(1)["rgb"].data, np.uint8).reshape(frame.rgb.shape)
    np.testing.assert_array_equal(frame.rgb, sent)


# of the optical frame, as in frame_messages, in other axes
OPTICAL = Rotation.from_quat([-(0.5**0.5), 0.0, 0.0, 0.5**0.5])
GIVEN = {
    "body": (-0.5, 0.5, -0.5, 0.5),
    "opengl": (1.0, 0.0, 0.0, 0.0),
}


def pose_in(second: int, cure: tuple[float, ...]) -> Any:
    message = frame_messages(second * SECOND, x_m=0.5 * second)["pose"]
    quat = (OPTICAL * Rotation.from_quat(cure).inv()).as_quat()
    q = message.pose.orientation
    q.x, q.y, q.z, q.w = map(float, quat)
    return message


@pytest.mark.parametrize("cured", [False, True], ids=["as it is", "cured"])
@pytest.mark.parametrize("axes", GIVEN)
def test_poses_of_other_axes_are_told_within_twenty_frames(
    start_agent: Start, capfd: pytest.CaptureFixture[str], axes: str, cured: bool
) -> None:
    """A body frame was taken without a word, OpenGL's with the cure of a body frame."""
    agent = start_agent(**({"extrinsic.quat_xyzw": list(GIVEN[axes])} if cured else {}))
    assert agent.ready()
    for second in range(1, 21):
        admit(agent, second, info=info_at(second), pose=pose_in(second, GIVEN[axes]))
    intake = agent.node.intake
    assert wait_until(lambda: intake.frames == 20 and bool(intake.watch.complaints) is not cured)
    log = NodeLog(capfd)
    if cured:
        T_world_cam = agent.node.pipeline.scene.keyframes[-1].frame.T_world_cam
        assert T_world_cam[2, 1] == pytest.approx(-1.0, abs=1e-6)  # y down
        assert agent.node.health.faults() == []
        assert log.lines("extrinsic.quat_xyzw") == []
        return
    numbers = ", ".join(f"{n:g}" for n in GIVEN[axes])
    assert log.said("extrinsic.quat_xyzw"), log.text
    (line,) = log.lines("extrinsic.quat_xyzw")
    assert len(intake.watch.complaints) == 1
    assert f"extrinsic.quat_xyzw: [{numbers}]" in line
    assert line.endswith(intake.watch.complaints[0])

    # the same in diagnostics
    reports = agent.collect(DiagnosticArray, "/diagnostics")

    def said() -> list[str]:
        return [s.message for report in list(reports) for s in report.status if s.level == WARN]

    assert wait_until(lambda: intake.watch.complaints[0] in said()), said()
