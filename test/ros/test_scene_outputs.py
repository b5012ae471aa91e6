"""What shows the scene: values of the messages, and that nothing is made while nobody listens."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("rclpy")

from geometry_msgs.msg import PoseStamped
from rclpy.action import ActionClient
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from visualization_msgs.msg import Marker, MarkerArray

from ada3d_ros.action import AskScene
from ada3d_ros.config import KeyframeConfig
from ada3d_ros.geometry.colour_cloud import CloudFuser
from ada3d_ros.geometry.pose import pose_from_quaternion
from ada3d_ros.msg import Answer, KeyframeArray
from ada3d_ros.ros.conversions import time_to_ns
from ada3d_ros.ros.scene_messages import (
    ShownScene,
    cloud_to_msg,
    frustum,
    keyframes_to_markers,
    keyframes_to_msg,
    thumbnail,
)
from ada3d_ros.scene.keyframes import KeyframeBuffer
from ada3d_ros.srv import QueryScene
from test.support.box_room import BoxRoom, build_box_room
from test.support.ros_harness import Harness, agent_of_its_own, wait_until

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
NODE = "/ada3d_agent"


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
    parameters = {"cloud.min_period_sec": 0.1, "pruning.strategy": "none"}
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
