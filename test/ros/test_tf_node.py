"""Poses from TF over DDS: chains at the image's stamp, waiting, every kind of bad TF, the mount."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("tf2_msgs.msg", reason="tf2_msgs is not importable: run `make setup`")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from rclpy.parameter import Parameter
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from ada3d_ros.config import from_flat
from ada3d_ros.geometry.pose import Transform, pose_from_quaternion
from ada3d_ros.geometry.stamped import PoseReason
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.ros import transform_messages
from ada3d_ros.ros.conversions import ns_to_time
from ada3d_ros.ros.node import build_node
from ada3d_ros.ros.replay import Player, ReplayOptions
from ada3d_ros.ros.static_transforms import QOS
from ada3d_ros.sources.bag import BagSource
from ada3d_ros.srv import GetModelInfo, QueryScene
from test.support.ros_harness import TOPICS, Harness, NodeLog, frame_messages, wait_until

SECOND = 1_000_000_000
CAM = "camera_color_optical_frame"
OPTICAL = (-0.5, 0.5, -0.5, 0.5)  # of a camera that looks where its body does


def yaw(degrees: float) -> tuple[float, ...]:
    return tuple(map(float, Rotation.from_euler("z", degrees, degrees=True).as_quat()))


MOUNT = Transform((0.2, 0.05, 1.0), OPTICAL)
ODOM = Transform((3.0, -1.0, 0.0), yaw(90.0))


def base(x_m: float) -> Transform:
    return Transform((float(x_m), 0.0, 0.0), yaw(10.0))


def placed(parent: str, child: str, stamp_ns: int, where: Transform) -> TransformStamped:
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id, message.header.stamp = parent, ns_to_time(stamp_ns)
    t, q = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z = map(float, where.translation_m)
    q.x, q.y, q.z, q.w = map(float, where.quat_xyzw)
    return message


class Robot:
    """What a robot publishes: /tf_static once, /tf and images as they are asked for."""

    def __init__(self, agent: Harness, mount: bool = True) -> None:
        self.agent = agent
        assert agent.ready()
        self._diagnostics = agent.collect(DiagnosticArray, "/diagnostics")
        self.static_publisher = agent.peer.create_publisher(TFMessage, "/tf_static", QOS)
        if mount:
            self.static(("base_link", CAM, MOUNT))
        for topic, kind in (("/rgb/image", Image), ("/depth/image", Image)):
            agent.publisher(topic, kind)
        agent.publisher("/rgb/camera_info", CameraInfo)

    def static(self, *links: tuple[str, str, Transform]) -> None:
        message = TFMessage(transforms=[placed(p, c, 0, where) for p, c, where in links])
        self.static_publisher.publish(message)

    def tf(self, stamp_ns: int, *links: tuple[str, str, Transform]) -> None:
        message = TFMessage(transforms=[placed(p, c, stamp_ns, where) for p, c, where in links])
        self.agent.publisher("/tf", TFMessage).publish(message)

    def drive(self, stamp_ns: int, x_m: float) -> None:
        self.tf(stamp_ns, ("map", "odom", ODOM), ("odom", "base_link", base(x_m)))

    def see(self, stamp_ns: int, **others: Any) -> None:
        """Images without a PoseStamped."""
        messages = frame_messages(stamp_ns) | {"pose": None} | others
        for name, topic in TOPICS.items():
            if messages[name] is not None:
                self.agent.publisher(topic, type(messages[name])).publish(messages[name])

    @property
    def keyframes(self) -> list[Any]:
        return list(self.agent.node.pipeline.scene.keyframes)

    def keeps(self, count: int) -> None:
        assert wait_until(lambda: len(self.keyframes) == count), (
            f"{self.agent.why_no_keyframe()} {self.agent.drops()} {self.reasons()}"
        )

    def reasons(self) -> dict[str, int]:
        return {reason.value: n for reason, n in self.agent.node.inputs.no_pose.items()}

    def why(self) -> str:
        return self.agent.node.state_and_detail()[1]

    def diagnosed(self, key: str, words: str) -> str:
        """A value of the task Synchronization, "" where its message does not say `words`."""
        statuses = [status for array in self._diagnostics[-1:] for status in array.status]
        for status in statuses:
            if status.name.endswith("Synchronization") and words in status.message:
                return next(pair.value for pair in status.values if pair.key == key)
        return ""

    def ask(self) -> Any:
        request = QueryScene.Request(question="What is there?")
        return self.agent.call(QueryScene, "query", request).answer

    def drives_on(self, from_s: int = 50) -> None:
        """Two frames 0.5 m apart become keyframes, and a question is answered."""
        count = len(self.keyframes)
        for index in range(2):
            stamp_ns = (from_s + index) * SECOND
            self.drive(stamp_ns, 20.0 + index)
            self.see(stamp_ns)
            self.keeps(count + 1 + index)
        answer = self.ask()
        assert answer.success, answer.error_msg
        assert self.agent.node.inference.internal_errors == 0, self.agent.node.inference.last_error


def in_map(x_m: float) -> np.ndarray:
    return ODOM.matrix() @ base(x_m).matrix() @ MOUNT.matrix()


@pytest.fixture
def robot(start_agent: Callable[..., Harness]) -> Robot:
    return Robot(start_agent(pose_source="tf"))


# -- chains, and waiting


def test_the_camera_is_where_tf_has_it_at_the_images_stamp(robot: Robot) -> None:
    """Half way between two samples, though newer ones are there."""
    for stamp_ns, x_m in ((SECOND, 1.0), (1_100_000_000, 2.0), (1_200_000_000, 7.0)):
        robot.drive(stamp_ns, x_m)
    robot.see(1_050_000_000)
    robot.keeps(1)
    np.testing.assert_allclose(robot.keyframes[0].frame.T_world_cam, in_map(1.5), atol=1e-9)
    assert robot.keyframes[0].frame.frame_id == "map"
    robot.drives_on()
    assert robot.agent.drops() == {}


def test_a_frame_waits_for_its_transform_and_nothing_waits_for_the_frame(
    start_agent: Callable[..., Harness],
) -> None:
    robot = Robot(start_agent(**{"pose_source": "tf", "tf.timeout_sec": 2.0}))
    robot.drive(SECOND, 0.0)
    robot.see(1_080_000_000)
    inputs = robot.agent.node.inputs
    assert wait_until(lambda: inputs.waiting_for_pose == 1)
    start = time.monotonic()
    robot.agent.call(GetModelInfo, "get_model_info")
    assert time.monotonic() - start < 1.0
    assert (inputs.waiting_for_pose, robot.keyframes) == (1, [])
    robot.drive(1_160_000_000, 1.0)
    robot.keeps(1)
    np.testing.assert_allclose(robot.keyframes[0].frame.T_world_cam, in_map(0.5), atol=1e-9)
    assert inputs.waiting_for_pose == 0


def test_a_static_transform_that_comes_late(start_agent: Callable[..., Harness]) -> None:
    robot = Robot(start_agent(**{"pose_source": "tf", "tf.timeout_sec": 2.0}), mount=False)
    robot.drive(SECOND, 0.0)
    robot.see(SECOND)
    assert wait_until(lambda: robot.agent.node.inputs.waiting_for_pose == 1)
    robot.static(("base_link", CAM, MOUNT))
    robot.keeps(1)


# -- what is wrong with TF: counted by reason, said everywhere, and the node serves on


def late(robot: Robot) -> None:
    robot.drive(9 * SECOND, 0.0)


def early(robot: Robot) -> None:
    robot.drive(11 * SECOND, 0.0)
    robot.drive(12 * SECOND, 0.0)


def apart(robot: Robot) -> None:
    robot.drive(9_500_000_000, 0.0)
    robot.drive(10_500_000_000, 0.0)
    robot.drive(10_600_000_000, 0.0)


def no_world(robot: Robot) -> None:
    robot.tf(10 * SECOND, ("odom", "base_link", base(0.0)))


def no_link(robot: Robot) -> None:
    robot.tf(10 * SECOND, ("map", "odom", ODOM))


def loop(robot: Robot) -> None:
    robot.tf(10 * SECOND, ("base_link", "odom", ODOM), ("odom", "base_link", base(0.0)))
    robot.tf(10 * SECOND, ("map", "elsewhere", ODOM))


def two_parents(robot: Robot) -> None:
    both = ("odom", "base_link", base(0.0)), ("map", "base_link", base(5.0))
    robot.tf(10 * SECOND, ("map", "odom", ODOM), *both)


def not_finite(robot: Robot) -> None:
    bad = Transform((0.0, 0.0, 0.0), (0.0, float("nan"), 0.0, 1.0))
    robot.tf(10 * SECOND, ("map", "odom", ODOM), ("odom", "base_link", bad))


def not_unit(robot: Robot) -> None:
    bad = Transform((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.5))
    robot.tf(10 * SECOND, ("map", "odom", ODOM), ("odom", "base_link", bad))


def all_zero(robot: Robot) -> None:
    bad = Transform((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0))
    robot.tf(10 * SECOND, ("map", "odom", ODOM), ("odom", "base_link", bad))


def nowhere(robot: Robot) -> None:
    bad = Transform((float("inf"), 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))
    robot.tf(10 * SECOND, ("map", "odom", ODOM), ("odom", "base_link", bad))


def too_far(robot: Robot) -> None:
    bad = Transform((0.0, 0.0, 1e7), (0.0, 0.0, 0.0, 1.0))
    robot.tf(10 * SECOND, ("map", "odom", ODOM), ("odom", "base_link", bad))


def loop_of_the_camera(robot: Robot) -> None:
    robot.tf(10 * SECOND, (CAM, "base_link", MOUNT))
    robot.tf(10 * SECOND, ("map", "odom", ODOM))


def new_parent(robot: Robot) -> None:
    """The base was in odom, and is in a lift now whose place nobody tells."""
    robot.drive(8 * SECOND, 0.0)
    robot.tf(9_900_000_000, ("lift", "base_link", base(0.0)))
    robot.tf(10 * SECOND, ("lift", "base_link", base(0.0)), ("map", "odom", ODOM))


FAULTS: dict[str, tuple[Callable[[Robot], None], str, str]] = {
    "late": (late, "after", "'base_link' is 1.000 s older than the image"),
    "early": (early, "before", "the image is 1.000 s older than the oldest transform"),
    "gap": (apart, "gap", "1.000 s apart, allowed 0.2 s (pose.max_gap_sec)"),
    "no world": (no_world, "unknown_frame", "TF has no frame 'map'"),
    "no link": (no_link, "not_connected", f"TF does not connect '{CAM}' (below 'base_link')"),
    "loop": (loop, "loop", "form a loop: 'base_link' -> 'odom' -> 'base_link'"),
    "two parents": (two_parents, "two_parents", "'base_link' in 'odom' and 'map' at once"),
    "NaN": (not_finite, "not_connected", "'odom' -> 'base_link': quaternion (x, y, z, w) = [0.0"),
    "not unit": (not_unit, "not_connected", "has norm 0.5000"),
    "zero": (all_zero, "not_connected", "all zero: the pose was never set"),
    "inf": (nowhere, "not_connected", "translation [inf, 0.0, 0.0] m is not finite"),
    "too far": (too_far, "not_connected", "is more than 1e+06 m from the origin"),
    "camera loop": (loop_of_the_camera, "loop", f"form a loop: '{CAM}' -> 'base_link' -> '{CAM}'"),
    "new parent": (new_parent, "not_connected", "(below 'lift') with 'map'"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_bad_tf(robot: Robot, capfd: pytest.CaptureFixture[str], name: str) -> None:
    """In the log, the status, the diagnostics and the answer; later transforms mend it."""
    spoil, reason, words = FAULTS[name]
    log = NodeLog(capfd)
    spoil(robot)
    robot.see(10 * SECOND)
    assert wait_until(lambda: robot.reasons() == {reason: 1}), robot.reasons()
    assert (robot.keyframes, robot.agent.drops()["no_pose"]) == ([], 1)
    assert words in robot.why()
    answer = robot.ask()
    assert not answer.success
    assert words in answer.error_msg
    assert log.said(words), log.text
    assert wait_until(lambda: robot.diagnosed(f"no_pose.{reason}", words) == "1")
    robot.drives_on()


def test_names_as_long_as_a_message_are_cut_in_sentences(
    robot: Robot, capfd: pytest.CaptureFixture[str]
) -> None:
    log = NodeLog(capfd)
    robot.tf(10 * SECOND, ("p" * 100_000, "", ODOM), ("map", "odom", ODOM))
    image = frame_messages(10 * SECOND)
    for name in ("rgb", "depth", "info"):
        image[name].header.frame_id = "Z" * 50_000
    robot.see(10 * SECOND, **{name: image[name] for name in ("rgb", "depth", "info")})
    assert wait_until(lambda: robot.agent.drops() == {"no_pose": 1}), robot.agent.drops()
    for words in ("leaves a frame unnamed", "'map', 'odom'."):
        assert log.said(words, " ... "), log.text
    assert max(map(len, log.text.splitlines())) < 1500
    assert len(robot.why()) < 1500
    assert len(robot.ask().error_msg) < 1500
    robot.drives_on()


def told_everywhere(robot: Robot, log: NodeLog, words: str) -> None:
    """Log, status, diagnostics and answer."""
    assert wait_until(lambda: robot.agent.drops() == {"no_pose": 1}), robot.agent.drops()
    assert log.said(words), log.text
    assert words in robot.why()
    assert words in robot.ask().error_msg
    assert wait_until(lambda: robot.diagnosed("dropped.no_pose", words) == "1")


def test_a_bad_static_transform_is_told(
    start_agent: Callable[..., Harness], capfd: pytest.CaptureFixture[str]
) -> None:
    robot, log = Robot(start_agent(pose_source="tf"), mount=False), NodeLog(capfd)
    robot.static(("base_link", CAM, Transform((0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 0.0))))
    robot.drive(10 * SECOND, 0.0)
    robot.see(10 * SECOND)
    told_everywhere(robot, log, f"TF: 'base_link' -> '{CAM}': quaternion (x, y, z, w) = [0.0, 0.0,")
    robot.static(("base_link", CAM, MOUNT))
    robot.drives_on()


@pytest.mark.parametrize(
    ("links", "words"),
    [
        (((CAM, "map", MOUNT), ("map", CAM, MOUNT)), "form a loop"),
        ((("map", CAM, MOUNT), ("wall", CAM, MOUNT)), "in 'map' and 'wall' at once"),
    ],
)
def test_static_transforms_alone_that_contradict_themselves(
    start_agent: Callable[..., Harness],
    capfd: pytest.CaptureFixture[str],
    links: tuple[tuple[str, str, Transform], ...],
    words: str,
) -> None:
    """That nothing comes on /tf is not what is wrong."""
    robot, log = Robot(start_agent(pose_source="tf"), mount=False), NodeLog(capfd)
    robot.static(*links)
    assert knows(robot, CAM)
    robot.see(SECOND)
    told_everywhere(robot, log, words)
    assert "nothing received on /tf" not in robot.why()


def knows(robot: Robot, frame: str) -> bool:
    """Whether the node has a transform of the frame by now."""
    inputs = robot.agent.node.inputs

    def asked() -> Any:
        return inputs.poses.lookup(SECOND, frame, inputs.config)

    return wait_until(lambda: asked().reason is not PoseReason.UNKNOWN_FRAME)


OTHER_MOUNT = Transform((0.2, 0.05, 4.0), OPTICAL)


def two_places(robot: Robot, log: NodeLog, used: str) -> None:
    """The mount came again, 3 m higher: told everywhere, until the scene begins anew."""
    words = f"static 'base_link' -> '{CAM}' came with two values, 3.000 m and 0.0 deg apart: {used}"
    assert wait_until(lambda: words in robot.why()), robot.why()
    assert log.said(words)
    assert any(words in str(fault) for fault in robot.agent.node.health.faults())
    answer = robot.ask()
    assert answer.success, answer.error_msg
    assert robot.agent.call(Trigger, "reset_scene").success
    assert words not in robot.why()


def test_a_static_transform_that_comes_with_two_values(
    robot: Robot, capfd: pytest.CaptureFixture[str]
) -> None:
    log = NodeLog(capfd)
    robot.drives_on()
    robot.static(("base_link", CAM, OTHER_MOUNT))
    two_places(robot, log, "the later one is used")
    robot.drive(60 * SECOND, 9.0)
    robot.see(60 * SECOND)
    robot.keeps(1)
    expected = ODOM.matrix() @ base(9.0).matrix() @ OTHER_MOUNT.matrix()
    np.testing.assert_allclose(robot.keyframes[0].frame.T_world_cam, expected, atol=1e-9)


def test_the_same_static_transform_again_is_none_with_two_values(robot: Robot) -> None:
    robot.drives_on()
    again = Transform((0.2, 0.0501, 1.0), tuple(-value for value in OPTICAL))
    robot.static(("base_link", CAM, again), ("base_link", "lidar", MOUNT))
    assert knows(robot, "lidar")
    assert robot.agent.node.inputs.poses.warning == ""


def test_without_any_tf_the_topic_is_named(start_agent: Callable[..., Harness]) -> None:
    robot = Robot(start_agent(pose_source="tf"), mount=False)
    robot.see(SECOND)
    assert wait_until(lambda: robot.reasons() == {"unknown_frame": 1})
    assert "nothing received on /tf (TFMessage)" in robot.why()


def test_a_camera_on_the_wall(start_agent: Callable[..., Harness]) -> None:
    """Static transforms alone: nothing is missing on /tf."""
    robot = Robot(start_agent(pose_source="tf"), mount=False)
    robot.static(("map", CAM, MOUNT))
    robot.see(SECOND)
    robot.keeps(1)
    np.testing.assert_allclose(robot.keyframes[0].frame.T_world_cam, MOUNT.matrix(), atol=1e-9)
    assert not [fault for fault in robot.agent.node.health.faults() if "/tf" in str(fault)]


def test_time_that_falls_back_begins_anew(robot: Robot) -> None:
    """A bag that loops: transforms of the pass before must not pose the next."""
    robot.drive(99 * SECOND, 1.0)
    robot.see(99 * SECOND)
    robot.keeps(1)
    robot.drive(5 * SECOND, 4.0)
    robot.drive(5_100_000_000, 5.0)
    robot.see(5_050_000_000)
    assert wait_until(lambda: robot.agent.node.pipeline.scene_state().epoch == 1)
    robot.keeps(1)
    np.testing.assert_allclose(robot.keyframes[0].frame.T_world_cam, in_map(4.5), atol=1e-9)
    robot.drives_on()


def test_tf_of_wheels_and_arms_does_no_harm(robot: Robot) -> None:
    """Bad transforms of frames that carry no camera are told, and used for nothing."""
    bad = Transform((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0))
    robot.tf(SECOND, ("base_link", "wheel", bad), ("", "arm", base(0.0)), ("x", "x", base(0.0)))
    robot.drives_on()
    assert robot.agent.drops() == {}


# -- the camera on a body whose pose comes by topic


def odometry(stamp_ns: int, where: Transform, child: str = "base_link") -> Odometry:
    message = Odometry(child_frame_id=child)
    message.header.stamp, message.header.frame_id = ns_to_time(stamp_ns), "map"
    p, q = message.pose.pose.position, message.pose.pose.orientation
    p.x, p.y, p.z = map(float, where.translation_m)
    q.x, q.y, q.z, q.w = map(float, where.quat_xyzw)
    return message


def send_odometry(robot: Robot, stamp_ns: int, x_m: float) -> None:
    robot.agent.publisher("/odom", Odometry).publish(odometry(stamp_ns, base(x_m)))
    robot.see(stamp_ns)


def test_odometry_of_a_body_and_the_mount_of_tf(
    start_agent: Callable[..., Harness], capfd: pytest.CaptureFixture[str]
) -> None:
    """Read once: a static transform that changes later moves no camera."""
    robot = Robot(start_agent(**{"pose_source": "odom", "extrinsic.xyz": [9.0, 9.0, 9.0]}))
    send_odometry(robot, SECOND, 1.0)
    robot.keeps(1)
    expected = base(1.0).matrix() @ MOUNT.matrix()
    np.testing.assert_allclose(robot.keyframes[0].frame.T_world_cam, expected, atol=1e-9)
    assert NodeLog(capfd).said(f"TF has '{CAM}' in 'base_link': extrinsic.* is not used")
    robot.static(("base_link", CAM, Transform((7.0, 7.0, 7.0), OPTICAL)))
    send_odometry(robot, 2 * SECOND, 3.0)
    robot.keeps(2)
    expected = base(3.0).matrix() @ MOUNT.matrix()
    np.testing.assert_allclose(robot.keyframes[1].frame.T_world_cam, expected, atol=1e-9)


def test_a_pose_of_a_body_and_the_mount_of_tf(start_agent: Callable[..., Harness]) -> None:
    robot = Robot(start_agent(pose_child_frame="base_link"))
    pose = frame_messages(SECOND, x_m=2.0)["pose"]
    robot.see(SECOND, pose=pose)
    robot.keeps(1)
    p, q = pose.pose.position, pose.pose.orientation
    T = pose_from_quaternion((p.x, p.y, p.z), (q.x, q.y, q.z, q.w))
    got = robot.keyframes[0].frame.T_world_cam
    np.testing.assert_allclose(got, T @ MOUNT.matrix(), atol=1e-9)


def test_extrinsic_serves_where_tf_has_no_answer(start_agent: Callable[..., Harness]) -> None:
    xyz, quat = [0.1, 0.0, 0.4], list(OPTICAL)
    parameters = {"pose_source": "odom", "extrinsic.xyz": xyz, "extrinsic.quat_xyzw": quat}
    robot = Robot(start_agent(**parameters), mount=False)
    robot.static(("base_link", "lidar", MOUNT))
    send_odometry(robot, SECOND, 1.0)
    robot.keeps(1)
    expected = base(1.0).matrix() @ pose_from_quaternion(xyz, quat)
    np.testing.assert_allclose(robot.keyframes[0].frame.T_world_cam, expected, atol=1e-9)


def test_no_mount_is_guessed_where_tf_is_published(start_agent: Callable[..., Harness]) -> None:
    robot = Robot(start_agent(pose_source="odom"), mount=False)
    robot.static(("base_link", "lidar", MOUNT))
    send_odometry(robot, SECOND, 1.0)
    assert wait_until(lambda: robot.reasons() == {"unknown_frame": 1}), robot.reasons()
    words = f"The pose is of 'base_link', the image of '{CAM}': publish the static transform"
    assert words in robot.why()
    robot.static(("base_link", CAM, MOUNT))
    send_odometry(robot, 2 * SECOND, 2.0)
    robot.keeps(1)


def test_tf_to_a_body_and_extrinsic_from_there(start_agent: Callable[..., Harness]) -> None:
    xyz, quat = [0.1, 0.0, 0.4], list(OPTICAL)
    parameters = {
        "pose_child_frame": "base_link",
        "extrinsic.xyz": xyz,
        "extrinsic.quat_xyzw": quat,
    }
    robot = Robot(start_agent(pose_source="tf", **parameters), mount=False)
    robot.drive(SECOND, 1.0)
    robot.see(SECOND)
    robot.keeps(1)
    expected = ODOM.matrix() @ base(1.0).matrix() @ pose_from_quaternion(xyz, quat)
    np.testing.assert_allclose(robot.keyframes[0].frame.T_world_cam, expected, atol=1e-9)


def test_a_mount_that_comes_with_two_values(
    start_agent: Callable[..., Harness], capfd: pytest.CaptureFixture[str]
) -> None:
    """Read once in a scene: the next one has the later."""
    robot, log = Robot(start_agent(pose_source="odom")), NodeLog(capfd)
    send_odometry(robot, SECOND, 1.0)
    robot.keeps(1)
    robot.static(("base_link", CAM, OTHER_MOUNT))
    two_places(robot, log, "the first is used until the scene begins anew")
    send_odometry(robot, 2 * SECOND, 3.0)
    robot.keeps(1)
    expected = base(3.0).matrix() @ OTHER_MOUNT.matrix()
    np.testing.assert_allclose(robot.keyframes[0].frame.T_world_cam, expected, atol=1e-9)


# -- without the message, and the recorded bag


def test_without_tf2_msgs_configure_says_what_to_install(
    ros_context: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transform_messages, "find_spec", lambda name: None)
    values = {"model.path": str(tiny_model), "pose_source": "tf", "autostart": True}
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    node = build_node(Ada3DPipeline, context=ros_context, parameter_overrides=overrides)
    try:
        assert node.load_error.startswith("pose_source is 'tf', and tf2_msgs is not installed")
        assert "make setup), or set pose_source to pose or odom." in node.load_error
    finally:
        node.destroy_node()


def test_the_cabinets_tf_gives_the_scene_of_its_poses(
    start_agent: Callable[..., Harness], ros_context: Any, shared_dir: Path
) -> None:
    """Played over DDS; every keyframe's points lie within 1 mm of where PoseStamped puts them."""
    bag = shared_dir / "data" / "tum_fr3_cabinet_ros2bag"
    camera = from_flat({"pose_source": "pose"})
    by_pose = {frame.stamp_ns: frame for frame in BagSource(bag, config=camera)}
    remaps = {
        "rgb/image/compressed": "/camera/color/image_raw/compressed",
        "rgb/camera_info": "/camera/color/camera_info",
        "depth/image": "/camera/aligned_depth_to_color/image_raw",
    }
    arguments = ["--ros-args", *(w for a, b in remaps.items() for w in ("-r", f"{a}:={b}"))]
    overrides = {"pose_source": "tf", "rgb_transport": "compressed", "keyframe.max_views": 64}
    agent = start_agent(cli_args=arguments, **overrides)
    assert agent.ready()

    player = Player(bag, ReplayOptions(rate=4.0, clock=False, wait_s=30.0), context=ros_context)
    assert {"/tf", "/tf_static"} <= set(player.topics)
    thread = threading.Thread(target=player.play, daemon=True)
    try:
        assert player.wait_for_subscribers()
        thread.start()
        thread.join(60.0)
        assert wait_until(lambda: agent.node.inputs.sets >= 50), agent.why_no_keyframe()
        kept = list(agent.node.pipeline.scene.keyframes)
    finally:
        player.destroy_node()
    assert len(kept) >= 10, (agent.why_no_keyframe(), agent.drops())
    assert agent.drops().get("no_pose", 0) == 0
    for keyframe in kept:
        frame = by_pose[keyframe.frame.stamp_ns]
        moved = (keyframe.frame.T_world_cam - frame.T_world_cam) @ _seen(frame)
        assert np.linalg.norm(moved[:3], axis=0).max() < 1e-3


def _seen(frame: Any) -> np.ndarray:
    """All that a frame sees, (4, N) metres in the optical frame."""
    depth_m = np.asarray(frame.depth_m)
    v, u = np.nonzero(np.isfinite(depth_m))
    z, k = depth_m[v, u], frame.intrinsics
    return np.stack([(u - k.cx) / k.fx * z, (v - k.cy) / k.fy * z, z, np.ones_like(z)])
