"""Bags: what is written is read back, as from the recorded folder; bad messages are counted."""

import json

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation

from ada3d_ros.config import from_flat, load_config
from ada3d_ros.errors import FrameReason, SourceError
from ada3d_ros.geometry.pose import pose_from_quaternion
from ada3d_ros.lab.evaluation.scenes import open_frames
from ada3d_ros.lab.world.generated import generate_room
from ada3d_ros.sources import bag_writer
from ada3d_ros.sources.bag import BagSource
from ada3d_ros.sources.bag_writer import BagOptions, to_millimetres, write_bag
from ada3d_ros.sources.folder import FolderOptions, FolderSource
from ada3d_ros.sources.make_bag import main
from ada3d_ros.sources.topics import BagTopics, detect_topics
from test.support.box_room import build_box_room

STORE = get_typestore(Stores.ROS2_JAZZY)
FRAMES = build_box_room(num_views=5, width=64, height=48).frames


def message(kind, **fields):
    return STORE.types[kind](**fields)


def header(stamp_ns, frame_id):
    stamp = message("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return message("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)


def image(stamp_ns, pixels, encoding, frame_id="cam"):
    return message(
        "sensor_msgs/msg/Image",
        header=header(stamp_ns, frame_id),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=pixels.strides[0],
        data=np.frombuffer(pixels.tobytes(), np.uint8),
    )


def odometry(stamp_ns, T, frame_id="map"):
    t, q = T[:3, 3], Rotation.from_matrix(T[:3, :3]).as_quat()
    pose = message(
        "geometry_msgs/msg/Pose",
        position=message("geometry_msgs/msg/Point", x=t[0], y=t[1], z=t[2]),
        orientation=message("geometry_msgs/msg/Quaternion", x=q[0], y=q[1], z=q[2], w=q[3]),
    )
    zero = message("geometry_msgs/msg/Vector3", x=0.0, y=0.0, z=0.0)
    twist = message("geometry_msgs/msg/Twist", linear=zero, angular=zero)
    return message(
        "nav_msgs/msg/Odometry",
        header=header(stamp_ns, frame_id),
        child_frame_id="base_link",
        pose=message("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=np.zeros(36)),
        twist=message(
            "geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=np.zeros(36)
        ),
    )


def info(stamp_ns, frame, frame_id="cam"):
    return bag_writer.camera_info(header(stamp_ns, frame_id), frame)


def record(path, messages, storage=StoragePlugin.MCAP):
    """messages: (topic, type, log time, message)."""
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connections = {
            t: writer.add_connection(t, k, typestore=STORE)
            for t, k in dict.fromkeys((m[0], m[1]) for m in messages)
        }
        for topic, kind, log_ns, content in messages:
            data = content if isinstance(content, bytes) else STORE.serialize_cdr(content, kind)
            writer.write(connections[topic], log_ns, data)


IMAGE, INFO, ODOM = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo", "nav_msgs/msg/Odometry"


def base_messages(T_child_cam=None, depth_delay_ns=0):
    T_child_cam = np.eye(4) if T_child_cam is None else T_child_cam
    out = []
    for f in FRAMES:
        s = f.stamp_ns
        out += [
            ("/odom", ODOM, s, odometry(s, f.T_world_cam @ np.linalg.inv(T_child_cam))),
            ("/cam/rgb/camera_info", INFO, s, info(s, f)),
            ("/cam/rgb/image", IMAGE, s, image(s, f.rgb, "rgb8")),
            (
                "/cam/depth/image",
                IMAGE,
                s + 50_000_000,
                image(s + depth_delay_ns, to_millimetres(f.depth_m), "16UC1"),
            ),
        ]
    return out


def assert_same_frames(read, frames, exact_color=True):
    assert len(read) == len(frames)
    for got, want in zip(read, frames, strict=True):
        assert got.stamp_ns == want.stamp_ns
        assert got.intrinsics == want.intrinsics
        assert got.frame_id == want.frame_id
        np.testing.assert_allclose(got.T_world_cam, want.T_world_cam, atol=1e-9)
        np.testing.assert_array_equal(np.isnan(got.depth_m), np.isnan(want.depth_m))
        np.testing.assert_allclose(got.depth_m, want.depth_m, atol=1e-3)
        if exact_color:
            np.testing.assert_array_equal(got.rgb, want.rgb)
        else:
            assert np.abs(got.rgb.astype(int) - want.rgb).mean() < 6  # fine stripes in a small JPEG


@pytest.mark.parametrize("raw", [True, False])
def test_round_trip(tmp_path, raw):
    assert write_bag(FRAMES, tmp_path / "bag", BagOptions(raw=raw)) == len(FRAMES)
    source = BagSource(tmp_path / "bag")
    assert_same_frames(list(source), FRAMES, exact_color=raw)
    assert_same_frames(list(source), FRAMES, exact_color=raw)  # a second pass
    assert source.dropped == {}
    topic = "/camera/color/image_raw"
    assert source.topics.rgb == (topic if raw else f"{topic}/compressed")


def test_holes_in_depth_survive_the_bag(tmp_path):
    frame = FRAMES[0]
    depth = frame.depth_m.copy()
    depth[:10] = np.nan
    holed = type(frame)(
        frame.stamp_ns, frame.rgb, depth, frame.intrinsics, frame.T_world_cam, "map", "cam"
    )
    write_bag([holed], tmp_path / "bag", BagOptions(raw=True))
    assert_same_frames(list(BagSource(tmp_path / "bag")), [holed])


def test_the_recorded_bag_is_the_recorded_folder(shared_dir):
    data = shared_dir / "data"
    folder = FolderSource(
        data / "tum_fr3_cabinet",
        FolderOptions(intrinsics=(535.4, 539.2, 320.1, 247.6), min_m=0.1, max_m=9.99),
    )
    bag = BagSource(data / "tum_fr3_cabinet_ros2bag", config=from_flat({"depth.max_m": 9.99}))
    count = 0
    for a, b in zip(bag, folder, strict=True):
        np.testing.assert_array_equal(a.rgb, b.rgb)
        assert a.stamp_ns == b.stamp_ns
        np.testing.assert_allclose(a.T_world_cam, b.T_world_cam, atol=1e-9)
        both = ~np.isnan(a.depth_m) & ~np.isnan(b.depth_m)
        one_is_nan = np.isnan(a.depth_m) != np.isnan(b.depth_m)
        assert one_is_nan.mean() < 1e-3  # rounding at the limits of range
        assert np.abs(a.depth_m[both] - b.depth_m[both]).max() < 1e-3
        count += 1
    assert count == 58
    assert bag.dropped == {}


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_odometry_with_extrinsic_and_depth_stamps_that_differ(tmp_path, storage):
    extrinsic = {"extrinsic.xyz": (0.1, 0.2, 0.3), "extrinsic.quat_xyzw": (-0.5, 0.5, -0.5, 0.5)}
    T = pose_from_quaternion(*extrinsic.values())
    record(tmp_path / "bag", base_messages(T, depth_delay_ns=15_000_000), storage)
    source = BagSource(tmp_path / "bag", config=from_flat(extrinsic))
    assert_same_frames(list(source), FRAMES)
    strict = BagSource(tmp_path / "bag", config=from_flat({**extrinsic, "sync.slop_sec": 0.014}))
    assert list(strict) == []
    assert strict.dropped == {FrameReason.NO_DEPTH: 5}


def spoil(messages, topic, number, change):
    at = [i for i, m in enumerate(messages) if m[0] == topic][number]
    change(messages, at)


def replace(content):
    def change(messages, at):
        messages[at] = (*messages[at][:3], content)

    return change


S0, S2 = FRAMES[0].stamp_ns, FRAMES[2].stamp_ns
SHAPE = FRAMES[0].depth_m.shape
RGB, DEPTH, CAMERA_INFO = "/cam/rgb/image", "/cam/depth/image", "/cam/rgb/camera_info"
FAULTS = [
    (RGB, replace(image(0, FRAMES[2].rgb, "rgb8")), FrameReason.ZERO_STAMP),
    (RGB, replace(image(S0, FRAMES[2].rgb, "rgb8")), FrameReason.BACKWARD_STAMP),
    (RGB, replace(image(S2, to_millimetres(FRAMES[2].depth_m), "16UC1")), FrameReason.BAD_ENCODING),
    (RGB, replace(image(S2, FRAMES[2].rgb[:20], "rgb8")), FrameReason.BAD_SIZE),
    (RGB, replace(b"\x00\x01\x00\x00short"), FrameReason.CORRUPT),
    (DEPTH, lambda messages, at: messages.pop(at), FrameReason.NO_DEPTH),
    (
        DEPTH,
        replace(image(S2, to_millimetres(FRAMES[2].depth_m), "16UC1", "depth_cam")),
        FrameReason.FRAME_MISMATCH,
    ),
    (DEPTH, replace(image(S2, np.zeros(SHAPE, np.uint16), "16UC1")), FrameReason.LOW_VALID_DEPTH),
    (DEPTH, replace(image(S2, np.full(SHAPE, 2, np.uint16), "16UC1")), FrameReason.BAD_UNITS),
    ("/odom", replace(odometry(S2, FRAMES[2].T_world_cam, "odom")), FrameReason.FRAME_MISMATCH),
]


@pytest.mark.parametrize(("topic", "change", "reason"), FAULTS)
def test_a_bad_message_is_counted_and_costs_one_frame(tmp_path, topic, change, reason):
    messages = base_messages()
    spoil(messages, topic, 2, change)
    record(tmp_path / "bag", messages)
    source = BagSource(tmp_path / "bag", config=from_flat({"pose.max_gap_sec": 0.1}))
    assert_same_frames(list(source), [f for i, f in enumerate(FRAMES) if i != 2])
    assert source.dropped[reason] == 1


def test_bad_intrinsics_distortion_and_poses(tmp_path):
    messages = base_messages()
    for number, change in enumerate(("k", "model")):
        at = [i for i, m in enumerate(messages) if m[0] == CAMERA_INFO][number]
        content = messages[at][3]
        if change == "k":
            content.k = np.zeros(9)
        else:
            content.distortion_model, content.d = "fancy", np.ones(3)
    spoil(messages, "/odom", 2, lambda ms, at: setattr(ms[at][3].pose.pose.orientation, "w", 9.0))
    record(tmp_path / "bag", messages)
    source = BagSource(tmp_path / "bag", config=from_flat({"pose.max_gap_sec": 0.1}))
    assert_same_frames(list(source), FRAMES[3:])
    assert source.dropped == {
        FrameReason.BAD_INTRINSICS: 1,
        FrameReason.BAD_DISTORTION: 1,
        FrameReason.BAD_POSE: 1,
        FrameReason.NO_POSE: 1,
    }


def infos_of(messages):
    return [i for i, m in enumerate(messages) if m[0] == CAMERA_INFO]


@pytest.mark.parametrize("kept", [0, 2, 4], ids=["first", "after the first images", "last"])
@pytest.mark.parametrize("stamped", [True, False])
def test_one_camera_info_holds_for_the_whole_bag(tmp_path, kept, stamped):
    """A driver that sends it once, latched: one frame was read."""
    messages = base_messages()
    places = infos_of(messages)
    if not stamped:
        messages[places[kept]][3].header.stamp.sec = 0
        messages[places[kept]][3].header.stamp.nanosec = 0
    messages = [m for i, m in enumerate(messages) if i not in places or i == places[kept]]
    record(tmp_path / "bag", messages)
    source = BagSource(tmp_path / "bag")
    assert_same_frames(list(source), FRAMES)
    assert source.dropped == {}


def test_a_camera_info_holds_until_another_comes(tmp_path):
    messages = base_messages()
    places = infos_of(messages)
    for number, place in enumerate(places):
        messages[place][3].k[0] = 60.0 + number
    messages = [m for i, m in enumerate(messages) if i not in (places[0], places[2], places[4])]
    record(tmp_path / "bag", messages)
    focal = [frame.intrinsics.fx for frame in BagSource(tmp_path / "bag")]
    assert focal == [61.0, 61.0, 61.0, 63.0, 63.0]


def test_a_bag_without_camera_info_loses_every_frame_under_its_reason(tmp_path):
    messages = base_messages()
    places = infos_of(messages)
    messages = [m for i, m in enumerate(messages) if i not in places[1:]]
    messages[places[0]] = (*messages[places[0]][:3], b"\x00\x01\x00\x00short")
    record(tmp_path / "bag", messages)
    source = BagSource(tmp_path / "bag")
    assert list(source) == []
    assert source.dropped == {FrameReason.NO_INFO: 5, FrameReason.CORRUPT: 1}


def test_a_region_of_interest_and_binning_are_read(tmp_path):
    messages = base_messages()
    for place in infos_of(messages):
        content = messages[place][3]
        content.k[2], content.k[5] = content.k[2] + 40, content.k[5] + 20
        content.k[:6] *= 2
        content.width, content.height, content.binning_x, content.binning_y = 256, 192, 2, 2
        content.roi.x_offset, content.roi.y_offset = 80, 40
        content.roi.width, content.roi.height = 128, 96
    record(tmp_path / "bag", messages)
    assert_same_frames(list(BagSource(tmp_path / "bag")), FRAMES)


def test_rectified_images_are_not_undistorted_again(tmp_path):
    messages = base_messages()
    for place in infos_of(messages):
        messages[place][3].d = np.array([-0.3, 0.1, 0.0, 0.0, 0.0])
    record(tmp_path / "bag", messages)
    rectified = BagSource(tmp_path / "bag", config=from_flat({"camera.rectified": True}))
    assert_same_frames(list(rectified), FRAMES)
    raw = next(iter(BagSource(tmp_path / "bag")))
    assert np.abs(raw.rgb.astype(int) - FRAMES[0].rgb).max() > 5


def test_a_parameter_file_makes_calibrate_and_analyze_read_rectified_images(tmp_path):
    messages = base_messages()
    for place in infos_of(messages):
        content = messages[place][3]
        content.d = np.array([-0.3, 0.1, 0.0, 0.0, 0.0])
        content.p[0], content.p[5], content.p[2], content.p[6] = 58.0, 57.0, 31.0, 23.0
    record(tmp_path / "bag", messages)
    file = tmp_path / "agent.yaml"
    file.write_text("/**:\n  ros__parameters:\n    camera: {rectified: true}\n")
    for frame in open_frames(str(tmp_path / "bag"), load_config(file)):
        k = frame.intrinsics
        assert (k.fx, k.fy, k.cx, k.cy) == (58.0, 57.0, 31.0, 23.0)
        np.testing.assert_array_equal(frame.rgb, FRAMES[0].rgb)
        break


@pytest.mark.parametrize("topic", [RGB, DEPTH, CAMERA_INFO, "/odom"])
def test_leading_slashes_of_frames_are_not_compared(tmp_path, topic):
    messages = base_messages()
    for name, _, _, content in messages:
        if name == topic:
            content.header.frame_id = "/" + content.header.frame_id
    record(tmp_path / "bag", messages)
    source = BagSource(tmp_path / "bag", config=from_flat({"world_frame": "/map"}))
    assert_same_frames(list(source), FRAMES)
    assert source.dropped == {}


def test_odometry_of_another_child_is_refused_as_the_node_does(tmp_path):
    record(tmp_path / "bag", base_messages())
    assert (
        len(list(BagSource(tmp_path / "bag", config=from_flat({"pose_child_frame": "/base_link"}))))
        == 5
    )
    with pytest.raises(SourceError, match="child_frame_id 'base_link', pose_child_frame is 'cam'"):
        list(BagSource(tmp_path / "bag", config=from_flat({"pose_child_frame": "cam"})))


def test_poses_without_a_frame_are_named(tmp_path):
    messages = base_messages()
    for name, _, _, content in messages:
        if name == "/odom":
            content.header.frame_id = ""
    record(tmp_path / "bag", messages)
    with pytest.raises(SourceError, match=r"/odom leaves header\.frame_id empty") as caught:
        list(BagSource(tmp_path / "bag"))
    assert "Set world_frame" not in str(caught.value)


def test_a_foreign_world_frame_is_named(tmp_path):
    record(tmp_path / "bag", base_messages())
    with pytest.raises(SourceError, match=r"/odom is in frame 'map', world_frame is 'odom'"):
        list(BagSource(tmp_path / "bag", config=from_flat({"world_frame": "odom"})))


def test_a_missing_or_broken_bag_is_named(tmp_path):
    with pytest.raises(SourceError, match="no bag at"):
        BagSource(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"metadata\.yaml"):
        BagSource(tmp_path)
    write_bag(FRAMES, tmp_path / "bag")
    file = next((tmp_path / "bag").glob("*.mcap"))
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(SourceError):
        list(BagSource(tmp_path / "bag"))


CAM = "sensor_msgs/msg/Image"
POSE = "geometry_msgs/msg/PoseStamped"
REALSENSE = {
    "/camera/color/image_raw": CAM,
    "/camera/color/image_raw/compressed": "sensor_msgs/msg/CompressedImage",
    "/camera/depth/image_rect_raw": CAM,
    "/camera/aligned_depth_to_color/image_raw": CAM,
    "/camera/infra1/image_rect_raw": CAM,
    "/camera/color/camera_info": INFO,
    "/camera/depth/camera_info": INFO,
    "/camera/aligned_depth_to_color/camera_info": INFO,
    "/pose": POSE,
}


def test_topics_are_detected_and_doubt_is_refused():
    found = detect_topics(REALSENSE)
    assert found == BagTopics(
        "/camera/color/image_raw",
        "/camera/aligned_depth_to_color/image_raw",
        "/camera/color/camera_info",
        "/pose",
    )
    with pytest.raises(SourceError, match=r"pose topic: 2 fit \(/odom, /pose\)"):
        detect_topics({**REALSENSE, "/odom": ODOM})
    assert detect_topics({**REALSENSE, "/odom": ODOM}, BagTopics(pose="/odom")).pose == "/odom"
    with pytest.raises(SourceError, match="none fits"):
        detect_topics({k: v for k, v in REALSENSE.items() if k != "/pose"})
    with pytest.raises(SourceError, match="'/nope' is not in the bag"):
        detect_topics(REALSENSE, BagTopics(rgb="/nope"))


def test_make_bag_of_a_generated_room(tmp_path, capsys):
    out = tmp_path / "deep" / "room"
    arguments = ["--synthetic", "--seed", "2", "--side", "64", "-o", str(out), "--raw"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    room = generate_room(2, 1, 64)
    assert f"wrote 8 frames and {len(room.boxes)} true boxes" in captured.out
    assert "8/8 frames" in captured.err
    assert_same_frames(list(BagSource(out)), room.frames)
    boxes = json.loads((out / "boxes.json").read_text())["boxes"]
    assert boxes[0]["center_m"] == room.boxes[0].center_m.tolist()
    assert main(arguments) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0


def test_make_bag_of_a_folder(tmp_path, shared_dir, capsys):
    folder = shared_dir / "data" / "tum_fr3_cabinet"
    intrinsics = ["--intrinsics", "535.4", "539.2", "320.1", "247.6"]
    assert main([str(folder), "-o", str(tmp_path / "bag"), *intrinsics]) == 0
    assert "layout cabinet, 58 frames, 5000 depth units per metre" in capsys.readouterr().out
    config = from_flat({"depth.min_m": 0.0, "depth.max_m": 70.0})
    read = list(BagSource(tmp_path / "bag", config=config))
    source = FolderSource(folder, FolderOptions(intrinsics=(535.4, 539.2, 320.1, 247.6)))
    assert_same_frames(read, list(source), exact_color=False)


def test_make_bag_says_what_is_wrong(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere"), "-o", str(tmp_path / "bag")]) == 1
    assert "no folder at" in capsys.readouterr().err
    assert not (tmp_path / "bag").exists()
    for wrong in ([], ["--synthetic", str(tmp_path)], ["--synthetic", "--jpeg-quality", "0"]):
        with pytest.raises(SystemExit) as caught:
            main([*wrong, "-o", str(tmp_path / "bag")])
        assert caught.value.code == 2
    with pytest.raises(SystemExit):
        main(["--help"])
    help_text = capsys.readouterr().out
    assert all(
        option in help_text
        for option in ("--layout", "--depth-scale", "--fps", "--rotate-world", "--raw")
    )


def test_nothing_is_left_of_a_bag_without_frames(tmp_path):
    with pytest.raises(SourceError, match="no frame"):
        write_bag([], tmp_path / "bag")
    assert not (tmp_path / "bag").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(SourceError, match="not overwritten"):
        write_bag(FRAMES, tmp_path / "mine", BagOptions(overwrite=True))
