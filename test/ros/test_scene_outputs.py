"""What shows the scene: values of the messages, and that nothing is made while nobody listens."""

from __future__ import annotations

import functools
import io
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("rclpy")

import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.action import ActionClient
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, PointCloud2
from sensor_msgs.msg import Image as ImageMsg
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from visualization_msgs.msg import Marker, MarkerArray

from ada3d_ros.action import AskScene
from ada3d_ros.config import KeyframeConfig
from ada3d_ros.create_pipeline import create_pipeline
from ada3d_ros.geometry.colour_cloud import CloudFuser
from ada3d_ros.geometry.pose import pose_from_quaternion
from ada3d_ros.msg import Answer, GroundedBox, KeyframeArray
from ada3d_ros.perception.detector import DetectorInfo, FrameDetections
from ada3d_ros.ros.annotated import ANSWER_RGB, annotate
from ada3d_ros.ros.conversions import box_to_msg, ns_to_time, time_to_ns
from ada3d_ros.ros.node import build_node
from ada3d_ros.ros.scene_messages import (
    ShownScene,
    cloud_to_msg,
    drawn_answer,
    frustum,
    keyframes_to_markers,
    keyframes_to_msg,
    pose_to_msg,
    thumbnail,
)
from ada3d_ros.scene.keyframes import KeyframeBuffer
from ada3d_ros.srv import QueryScene
from ada3d_ros.types import Box3D, RgbdFrame
from test.support.box_room import BoxRoom, build_box_room
from test.support.ros_harness import Harness, agent_of_its_own, free_domain, wait_until

ROOT = Path(__file__).resolve().parents[2]
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
NODE = "/ada3d_agent"


class Blind:
    """A detector that finds nothing."""

    info = DetectorInfo("blind.onnx", "picodet", ("cup",))

    def detect(self, frame: RgbdFrame) -> FrameDetections | None:
        return FrameDetections(())

    def find(self, frame: RgbdFrame, phrases: Sequence[str]) -> FrameDetections:
        return FrameDetections(())


@pytest.fixture(scope="module")
def room() -> BoxRoom:
    return build_box_room(seed=3, num_views=4)


@pytest.fixture(scope="module")
def scene(room: BoxRoom) -> ShownScene:
    buffer = KeyframeBuffer(KeyframeConfig())
    for frame in room.frames:
        assert buffer.offer(frame) is not None
    kept = buffer.snapshot()
    return ShownScene(kept.keyframes, kept.state)


def points_of(message: PointCloud2) -> tuple[np.ndarray, np.ndarray]:
    """xyz (N, 3) float32 and rgb (N, 3) uint8, read by the fields' offsets as a viewer does."""
    offset = {field.name: field.offset for field in message.fields}
    rows = np.frombuffer(bytes(message.data), np.uint8).reshape(-1, message.point_step)
    columns = [rows[:, offset[name] : offset[name] + 4].copy().view("<f4") for name in "xyz"]
    packed = rows[:, offset["rgb"] : offset["rgb"] + 4]
    return np.concatenate(columns, axis=1), packed[:, 2::-1]  # little-endian: blue first


# -- values


def test_a_cloud_is_packed_as_viewers_read_it(room: BoxRoom) -> None:
    cloud = CloudFuser(0.025, 4).update(room.frames)
    message = cloud_to_msg(cloud, Header(frame_id="map"))
    assert [field.name for field in message.fields] == ["x", "y", "z", "rgb"]
    assert all(field.datatype == field.FLOAT32 and field.count == 1 for field in message.fields)
    assert message.row_step == message.width * message.point_step == len(message.data)
    assert (message.height, message.is_bigendian, message.is_dense) == (1, False, True)
    xyz_m, rgb = points_of(message)
    assert np.array_equal(xyz_m, cloud.xyz_m.astype(np.float32))
    assert np.array_equal(rgb, cloud.rgb)


def test_keyframes_have_pose_camera_and_a_small_picture(scene: ShownScene) -> None:
    jpegs = {each.index: thumbnail(each.frame.rgb, 90) for each in scene.keyframes}
    message = keyframes_to_msg(scene, jpegs, "map")
    assert (message.header.frame_id, time_to_ns(message.header.stamp)) == (
        "map",
        scene.state.newest_ns,
    )
    assert (message.scene_epoch, message.scene_version) == scene.version
    for shown, keyframe in zip(message.keyframes, scene.keyframes, strict=True):
        frame = keyframe.frame
        camera = frame.intrinsics
        at, turn = shown.pose.position, shown.pose.orientation
        T = pose_from_quaternion(
            np.array([at.x, at.y, at.z]), np.array([turn.x, turn.y, turn.z, turn.w])
        )
        assert pytest.approx(frame.T_world_cam, abs=1e-12) == T
        assert (shown.id, time_to_ns(shown.stamp)) == (keyframe.index, frame.stamp_ns)
        assert (shown.width, shown.height) == (camera.width, camera.height)
        assert list(shown.intrinsics) == [camera.fx, camera.fy, camera.cx, camera.cy]
        with Image.open(io.BytesIO(bytes(shown.jpeg))) as picture:
            assert picture.size == (160, 120)
            small = np.asarray(picture.convert("RGB"), dtype=float)
        mean = frame.rgb.reshape(120, 2, 160, 2, 3).mean(axis=(1, 3))
        assert np.abs(small - mean).mean() < 4.0  # of 255; blue and red swapped would be 30 off


def test_a_narrow_picture_is_made_wide(scene: ShownScene) -> None:
    narrow = np.zeros((200, 50, 3), np.uint8)
    with Image.open(io.BytesIO(thumbnail(narrow, 80))) as picture:
        assert picture.size == (160, 640)


def test_a_frustum_ends_where_the_corners_of_the_image_look(scene: ShownScene) -> None:
    frame = scene.keyframes[1].frame
    camera = frame.intrinsics
    center, *corners = frustum(frame.intrinsics, frame.T_world_cam, 0.5)
    assert center == pytest.approx(frame.T_world_cam[:3, 3])
    wanted = [(-0.5, -0.5), (319.5, -0.5), (319.5, 239.5), (-0.5, 239.5)]
    for corner, pixel in zip(corners, wanted, strict=True):
        x, y, z = frame.T_world_cam[:3, :3].T @ (corner - center)
        assert z == pytest.approx(0.5)
        uv = (camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy)
        assert uv == pytest.approx(pixel, abs=1e-9)


def test_markers_are_pyramids_of_eight_lines(scene: ShownScene) -> None:
    markers = keyframes_to_markers(scene, 0.25, "map").markers
    assert markers[0].action == Marker.DELETEALL
    pyramids = markers[1:]
    assert [marker.id for marker in pyramids] == [0, 1, 2, 3]
    assert {(marker.type, len(marker.points)) for marker in pyramids} == {(Marker.LINE_LIST, 16)}
    assert len({(m.color.r, m.color.g) for m in pyramids}) == 2  # the newest has its own colour


# -- over DDS


@pytest.fixture(scope="module")
def agent(tiny_model: Path) -> Iterator[Harness]:
    parameters = {"cloud.min_period_sec": 0.1, "cloud.voxel_m": 0.025}
    with agent_of_its_own(tiny_model, **parameters) as harness:
        yield harness


def listen(
    agent: Harness, message_type: type, topic: str, qos: Any = LATCHED
) -> tuple[list[Any], Callable[[], None]]:
    """Messages as they come, and what ends the subscription."""
    received: list[Any] = []
    subscription = agent.peer.create_subscription(
        message_type, f"{NODE}/{topic}", received.append, qos
    )
    return received, lambda: agent.peer.destroy_subscription(subscription)


def test_nothing_is_made_until_somebody_listens_and_then_only_what_is_new(agent: Harness) -> None:
    outputs = agent.node.scene_outputs
    agent.publish_scene(3)
    before = agent.collect(Answer, f"{NODE}/answer")
    answer = agent.call(QueryScene, "query", QueryScene.Request(question="What is it?")).answer
    assert answer.success, answer.error_msg
    assert wait_until(lambda: len(before) == 1)
    outputs.update()
    assert not outputs.made
    assert outputs.worker is None  # not even a thread

    # The kept tokens come with the answer, where the wall is.
    kept = np.array([(p.x, p.y, p.z) for p in answer.kept_positions])
    assert len(kept) == answer.tokens.spatial_kept > 0
    assert np.abs(kept[:, 1] - 2.0).max() < 0.01

    # A listener gets the cloud of the three keyframes.
    clouds, stop = listen(agent, PointCloud2, "cloud")
    assert wait_until(lambda: bool(clouds))
    assert outputs.made == {"frames fused": 3}
    xyz_m, rgb = points_of(clouds[-1])
    assert clouds[-1].header.frame_id == "map"
    assert time_to_ns(clouds[-1].header.stamp) == 3_000_000_000
    assert xyz_m[:, 1] == pytest.approx(2.0, abs=1e-5)
    assert (rgb[:, 0] == rgb[:, 2]).all()
    assert len(np.unique(np.round(xyz_m / 0.025), axis=0)) == len(xyz_m)

    # A fourth keyframe: that one alone is read.
    agent.publish_frame(4_000_000_000, x_m=1.5)
    assert wait_until(lambda: time_to_ns(clouds[-1].header.stamp) == 4_000_000_000)
    assert outputs.made == {"frames fused": 4}
    assert len(points_of(clouds[-1])[0]) > len(xyz_m)

    # Pictures: of each keyframe once.
    keyframes, stop_keyframes = listen(agent, KeyframeArray, "keyframes")
    assert wait_until(lambda: bool(keyframes))
    assert [each.id for each in keyframes[-1].keyframes] == [0, 1, 2, 3]
    agent.publish_frame(5_000_000_000, x_m=2.0)
    assert wait_until(lambda: len(keyframes[-1].keyframes) == 5)
    assert outputs.made["thumbnails"] == 5
    markers, stop_markers = listen(agent, MarkerArray, "keyframe_markers")
    assert wait_until(lambda: bool(markers))
    assert len(markers[-1].markers) == 6
    center = markers[-1].markers[1].points[8]
    assert (center.x, center.y, center.z) == (0.0, 0.0, 1.0)

    # Nobody again: nothing is made, and the cloud's memory is given back.
    for end in (stop, stop_keyframes, stop_markers):
        end()
    assert wait_until(lambda: outputs.fuser is None)
    made = dict(outputs.made)
    agent.publish_frame(6_000_000_000, x_m=2.5)
    assert wait_until(lambda: agent.node.pipeline.scene_state().num_keyframes == 6)
    outputs.update()
    assert outputs.made == made


def test_a_reset_takes_back_what_was_shown(agent: Harness) -> None:
    if agent.node.pipeline.scene_state().num_keyframes == 0:
        agent.publish_scene(2, first_s=10)
    clouds, stop = listen(agent, PointCloud2, "cloud")
    keyframes, stop_keyframes = listen(agent, KeyframeArray, "keyframes")
    assert wait_until(lambda: bool(clouds and clouds[-1].width))
    assert wait_until(lambda: bool(keyframes and keyframes[-1].keyframes))
    assert agent.call(Trigger, "reset_scene").success
    assert wait_until(lambda: clouds[-1].width == 0)
    assert wait_until(lambda: not keyframes[-1].keyframes)
    epoch = agent.node.pipeline.scene_state().epoch
    agent.publish_scene(1, first_s=100)
    assert wait_until(lambda: clouds[-1].width > 0)
    assert wait_until(lambda: len(keyframes[-1].keyframes) == 1)
    assert keyframes[-1].scene_epoch == epoch
    stop()
    stop_keyframes()


def test_the_cameras_pose_is_that_of_the_newest_set(agent: Harness) -> None:
    poses, stop = listen(agent, PoseStamped, "camera_pose", 10)
    outputs = agent.node.scene_outputs
    assert wait_until(lambda: "~/camera_pose" in outputs.wanted)
    agent.publish_frame(200_000_000_000, x_m=7.25)
    assert wait_until(lambda: bool(poses))
    at, turn = poses[-1].pose.position, poses[-1].pose.orientation
    assert (at.x, at.y, at.z) == pytest.approx((7.25, 0.0, 1.0))
    assert (turn.x, turn.w) == pytest.approx((-(0.5**0.5), 0.5**0.5))
    assert (poses[-1].header.frame_id, time_to_ns(poses[-1].header.stamp)) == (
        "map",
        200_000_000_000,
    )
    stop()


def test_feedback_tells_whose_answer_comes(agent: Harness) -> None:
    if agent.node.pipeline.scene_state().num_keyframes == 0:
        agent.publish_scene(1, first_s=300)
    client = ActionClient(agent.peer, AskScene, f"{NODE}/ask_scene")
    assert client.wait_for_server(30.0)
    told: list[Any] = []
    sent = client.send_goal_async(
        AskScene.Goal(question="What is it?"), lambda one: told.append(one.feedback)
    )
    assert wait_until(sent.done, 30.0)
    result = sent.result().get_result_async()
    assert wait_until(result.done, 30.0)
    answer = result.result().result.answer
    assert answer.request_id > 0
    assert told
    assert {one.request_id for one in told} == {answer.request_id}
    client.destroy()


# -- ~/annotated/compressed and ~/goal


def camera_messages(frame: RgbdFrame, stamp_ns: int) -> dict[str, Any]:
    """A frame as the camera and the pose source send it."""
    camera, stamp = frame.intrinsics, ns_to_time(stamp_ns)
    messages = {
        "rgb": ImageMsg(encoding="rgb8", step=3 * camera.width, data=frame.rgb.tobytes()),
        "depth": ImageMsg(encoding="32FC1", step=4 * camera.width, data=frame.depth_m.tobytes()),
        "info": CameraInfo(distortion_model="plumb_bob", d=[0.0] * 5),
    }
    K = [camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0]
    messages["info"].k = K
    for message in messages.values():
        message.height, message.width = camera.height, camera.width
        message.header.stamp, message.header.frame_id = stamp, "camera_color_optical_frame"
    pose = PoseStamped(header=Header(stamp=stamp, frame_id="map"))
    pose.pose = pose_to_msg(frame.T_world_cam)
    return messages | {"pose": pose}


@pytest.fixture(scope="module")
def shown_room(agent: Harness, room: BoxRoom) -> int:
    """The drawn room as the agent's scene; the stamp of its newest keyframe."""
    assert agent.call(Trigger, "reset_scene").success
    stamp_ns = 500_000_000_000
    for number, frame in enumerate(room.frames):
        stamp_ns += 1_000_000_000
        agent.publish_frame(stamp_ns, **camera_messages(frame, stamp_ns))
        wanted = number + 1
        assert wait_until(
            lambda n=wanted: agent.node.pipeline.scene_state().num_keyframes == n, 30.0
        ), agent.why_no_keyframe()
    return stamp_ns


def answer_about(thing: Box3D, request_id: int) -> Answer:
    return Answer(
        header=Header(frame_id="map"),
        request_id=request_id,
        success=True,
        boxes=[box_to_msg(thing)],
    )


def test_the_picture_has_the_answers_boxes(agent: Harness, room: BoxRoom, shown_room: int) -> None:
    outputs = agent.node.scene_outputs
    made = outputs.made["pictures"]
    outputs.note_answer(answer_about(room.boxes[0], 1001))
    assert outputs.made["pictures"] == made
    pictures, stop = listen(agent, CompressedImage, "annotated/compressed", 10)
    assert wait_until(lambda: bool(pictures))
    newest = pictures[-1]
    assert (newest.format, newest.header.frame_id) == ("jpeg", "camera_color_optical_frame")
    assert time_to_ns(newest.header.stamp) == shown_room
    with Image.open(io.BytesIO(bytes(newest.data))) as picture:
        seen = np.asarray(picture.convert("RGB"), dtype=float)
    frame = room.frames[-1]
    drawn = annotate(frame, [drawn_answer(box_to_msg(room.boxes[0]))])
    assert np.abs(seen - drawn).mean() < 4.0
    # The chip behind the name is of the colour of answers.
    solid = (drawn == ANSWER_RGB).all(axis=-1)
    assert np.abs(seen[solid] - ANSWER_RGB).mean() < 30.0

    # Another answer, another picture; who comes later gets it too.
    count = len(pictures)
    outputs.note_answer(answer_about(room.boxes[1], 1002))
    assert wait_until(lambda: len(pictures) > count)
    again, stop_again = listen(agent, CompressedImage, "annotated/compressed", 10)
    assert wait_until(lambda: bool(again))
    stop()
    stop_again()


def test_a_goal_comes_with_an_answer_that_has_a_box(
    agent: Harness, room: BoxRoom, shown_room: int
) -> None:
    outputs, thing = agent.node.scene_outputs, room.boxes[0]
    outputs.note_answer(answer_about(thing, 2000))
    assert outputs.made["goals looked for"] == 0  # nobody listens
    goals, stop = listen(agent, PoseStamped, "goal", 10)
    assert wait_until(lambda: "~/goal" in outputs.wanted)
    outputs.note_answer(answer_about(thing, 2001))
    assert wait_until(lambda: len(goals) == 1)
    at, turn = goals[0].pose.position, goals[0].pose.orientation
    assert goals[0].header.frame_id == "map"
    assert (goals[0].header.stamp.sec, goals[0].header.stamp.nanosec) == (0, 0)  # TF's newest
    assert (at.z, turn.x, turn.y) == (0.0, 0.0, 0.0)
    yaw_rad = 2 * math.atan2(turn.z, turn.w)
    wanted = math.atan2(thing.center_m[1] - at.y, thing.center_m[0] - at.x)
    assert math.remainder(yaw_rad - wanted, 2 * math.pi) == pytest.approx(0.0, abs=1e-9)
    assert wait_until(lambda: "request 2001" in outputs.goal_text)

    # Where there is no floor: none, and why.
    far = replace(thing, center_m=np.array([50.0, 0.0, 0.5]), label="far box")
    outputs.note_answer(answer_about(far, 2002))
    assert wait_until(lambda: "no floor was seen" in outputs.goal_text)
    assert "the far box" in outputs.goal_text
    assert outputs.report()["outputs.goal"] == outputs.goal_text
    failed = answer_about(thing, 2003)
    failed.success = False
    outputs.note_answer(failed)
    assert len(goals) == 1
    stop()


def test_nobody_is_counted_when_the_context_has_ended(tiny_model: Path) -> None:
    """A thread may still take a keyframe in, or answer, while the process ends: no error of it."""
    with free_domain() as domain:
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain)
        node = build_node(context=context)
        rclpy.try_shutdown(context=context)
        node.scene_outputs.update()
        node.scene_outputs.note_answer(Answer(success=True, boxes=[GroundedBox()]))
        assert node.scene_outputs.wanted == frozenset()
        assert node.inference.internal_errors == 0
        node.destroy_node()


# -- without a model here


@pytest.mark.parametrize(
    "settings",
    [
        {"model.path": "none", "detector.path": "handed in"},
        {"model.path": "", "model.remote": "http://127.0.0.1:9"},
    ],
    ids=["a detector alone", "a server that is away"],
)
def test_a_scene_is_shown_whoever_answers(settings: dict[str, Any], room: BoxRoom) -> None:
    detector = Blind() if "detector.path" in settings else None
    factory = functools.partial(create_pipeline, detector=detector)
    with agent_of_its_own(Path(), factory, **settings) as agent:
        clouds, _ = listen(agent, PointCloud2, "cloud")
        keyframes, _ = listen(agent, KeyframeArray, "keyframes")
        pictures, _ = listen(agent, CompressedImage, "annotated/compressed", 10)
        goals, _ = listen(agent, PoseStamped, "goal", 10)
        for number, frame in enumerate(room.frames, start=1):
            stamp_ns = number * 1_000_000_000
            agent.publish_frame(stamp_ns, **camera_messages(frame, stamp_ns))
            assert wait_until(
                lambda n=number: agent.node.pipeline.scene_state().num_keyframes == n, 30.0
            ), agent.why_no_keyframe()
        assert wait_until(lambda: bool(clouds and clouds[-1].width > 10_000))
        assert wait_until(lambda: bool(keyframes and len(keyframes[-1].keyframes) == 4))
        assert wait_until(lambda: bool(pictures))
        assert wait_until(lambda: "~/goal" in agent.node.scene_outputs.wanted)
        agent.node.scene_outputs.note_answer(answer_about(room.boxes[0], 1))
        assert wait_until(lambda: bool(goals)), agent.node.scene_outputs.goal_text


NO_TORCH = """
import sys
import numpy as np
import ada3d_ros.ros.scene_outputs
from ada3d_ros.geometry.standing_place import standing_place
from ada3d_ros.ros.scene_messages import ShownScene, keyframes_to_msg, picture_to_msg
from ada3d_ros.geometry.colour_cloud import CloudFuser
from test.support.box_room import build_box_room
room = build_box_room(seed=1, num_views=4)
standing_place(room.frames, room.boxes[0], 0.0, (2.0, 0.0))
CloudFuser(0.03, 2).update(room.frames)
picture_to_msg(room.frames[0], [], 80)
print("torch" in sys.modules)
"""


def test_the_scene_is_shown_without_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False"]
