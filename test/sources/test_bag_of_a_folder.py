"""What make-bag writes: stamps, poses at their full rate, a whole bag or none, commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from ada3d_ros.errors import SourceError
from ada3d_ros.sources import bag_writer
from ada3d_ros.sources.bag import BagSource
from ada3d_ros.sources.bag_writer import BagOptions, write_bag
from ada3d_ros.sources.folder import FolderOptions, FolderSource, parse_rotation
from ada3d_ros.sources.make_bag import main
from test.support.posed_folders import (
    FIRST_NS,
    QUATERNION,
    N,
    all_of,
    save_text,
    told_by,
    write_plain,
    write_tum,
)

EVERY = all_of(*range(N))
STAMPS_NS = [FIRST_NS + 100_000_000 * i for i in range(N)]
ROOT = Path(__file__).resolve().parents[2]


def messages(bag):
    """(topic, bag time, header stamp or transform's) of every message, in order."""
    found = []
    with AnyReader([bag], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        for connection, time_ns, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            header = message.transforms[0].header if "tf" in connection.topic else message.header
            stamp_ns = header.stamp.sec * 10**9 + header.stamp.nanosec
            found.append((connection.topic, time_ns, stamp_ns))
    return found


def stamps_of(bag, topic):
    return [stamp_ns for name, _, stamp_ns in messages(bag) if name == topic]


def dense_tum(folder, rate_hz=100):
    """Images at 10 Hz whose depth has stamps of its own; poses at 100 Hz, before and after too."""
    write_tum(folder, depth_stamp=lambda i: f"{1305031102.108 + 0.1 * i:.3f}")
    steps = range(-rate_hz // 10, rate_hz + 1)
    stamps = [FIRST_NS + step * 10**9 // rate_hz for step in steps]
    # A path that no straight line between two images follows.
    rows = [
        f"{s // 10**9}.{s % 10**9:09d} {(s - FIRST_NS) * 3e-9:.6f}"
        f" {np.sin((s - FIRST_NS) * 60e-9):.6f} 1.2 {QUATERNION}"
        for s in stamps
    ]
    save_text(folder / "groundtruth.txt", *rows)
    return stamps


def test_depth_keeps_its_own_stamps_and_poses_their_rate(tmp_path):
    poses_ns = dense_tum(tmp_path / "in")
    assert main([str(tmp_path / "in"), "-o", str(tmp_path / "bag")]) == 0
    bag = tmp_path / "bag"
    assert stamps_of(bag, bag_writer.RGB_COMPRESSED_TOPIC) == STAMPS_NS
    assert stamps_of(bag, bag_writer.DEPTH_TOPIC) == [s + 8_000_000 for s in STAMPS_NS]
    assert stamps_of(bag, bag_writer.INFO_TOPIC) == STAMPS_NS
    assert stamps_of(bag, bag_writer.POSE_TOPIC) == poses_ns
    assert stamps_of(bag, "/tf") == poses_ns
    times = [time_ns for _, time_ns, _ in messages(bag)]
    assert times == sorted(times)
    assert all(time_ns == stamp_ns for _, time_ns, stamp_ns in messages(bag))
    assert messages(bag)[0][0] == "/tf_static"


def test_poses_between_images_are_those_of_the_trajectory(tmp_path):
    """Images of another camera, 50 ms later, find the pose of their moment."""
    dense_tum(tmp_path / "in")
    source = FolderSource(tmp_path / "in")
    write_bag(source, tmp_path / "bag", BagOptions(), source.trajectory)
    frames = list(source)
    read = BagSource(tmp_path / "bag")
    assert [told_by(frame) for frame in read] == [told_by(frame) for frame in frames] == EVERY
    for got, want in zip(read, frames, strict=True):
        np.testing.assert_allclose(got.T_world_cam, want.T_world_cam, atol=1e-9)
    with AnyReader([tmp_path / "bag"]) as reader:
        connections = [c for c in reader.connections if c.topic == bag_writer.POSE_TOPIC]
        for connection, time_ns, data in reader.messages(connections):
            y = reader.deserialize(data, connection.msgtype).pose.position.y
            assert y == pytest.approx(np.sin((time_ns - FIRST_NS) * 60e-9), abs=1e-6)


def test_a_turned_world_turns_the_trajectory_too(tmp_path):
    dense_tum(tmp_path / "in")
    turned = FolderSource(tmp_path / "in", FolderOptions(rotate_world_xyzw=parse_rotation("y-up")))
    poses, frame = dict(turned.trajectory), next(iter(turned))
    np.testing.assert_allclose(poses[frame.stamp_ns], frame.T_world_cam, atol=1e-9)


def test_poses_rarer_than_images_are_interpolated_at_each_image(tmp_path):
    write_tum(tmp_path / "in")
    path = tmp_path / "in" / "groundtruth.txt"
    path.write_text("\n".join(path.read_text().splitlines()[1::2]))  # images 0, 2, 4
    source = FolderSource(tmp_path / "in")
    assert source.trajectory == []
    assert main([str(tmp_path / "in"), "-o", str(tmp_path / "bag")]) == 0
    assert stamps_of(tmp_path / "bag", bag_writer.POSE_TOPIC) == STAMPS_NS[:5]
    assert [told_by(frame) for frame in BagSource(tmp_path / "bag")] == EVERY[:5]


# -- a whole bag, or none


def failing(frames, error):
    yield from list(frames)[:3]
    raise error


@pytest.mark.parametrize("error", [SourceError("broken"), ValueError("odd"), KeyboardInterrupt()])
def test_whatever_fails_leaves_no_half_bag_and_the_old_one_in_place(tmp_path, error):
    source = FolderSource(write_plain(tmp_path / "in"))
    with pytest.raises(type(error)):
        write_bag(failing(source, error), tmp_path / "bag")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    write_bag(source, tmp_path / "bag")
    with pytest.raises(type(error)):
        write_bag(failing(source, error), tmp_path / "bag", BagOptions(overwrite=True))
    assert [told_by(frame) for frame in BagSource(tmp_path / "bag")] == EVERY
    assert {path.name for path in tmp_path.iterdir()} == {"in", "bag"}


def test_a_half_bag_of_a_killed_writer_can_be_overwritten(tmp_path, capsys):
    write_plain(tmp_path / "in")
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "bag.mcap").write_bytes(b"half")
    arguments = [str(tmp_path / "in"), "-o", str(tmp_path / "bag")]
    assert main(arguments) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    assert len(list(BagSource(tmp_path / "bag"))) == N
    (tmp_path / "bag" / "metadata.yaml").unlink()
    (tmp_path / "bag" / "notes.txt").write_text("mine")
    assert main([*arguments, "--overwrite"]) == 1
    assert "is not overwritten" in capsys.readouterr().err


# -- what it says


def test_what_was_left_out_is_said(tmp_path, capsys):
    write_plain(tmp_path / "in")
    np.savetxt(tmp_path / "in" / "poses" / "3.txt", np.zeros((4, 4)))
    image = tmp_path / "in" / "rgb" / "1.png"
    image.write_bytes(image.read_bytes()[:50])
    assert main([str(tmp_path / "in"), "-o", str(tmp_path / "bag")]) == 0
    said = capsys.readouterr().out
    assert "left out: bad_pose 1, first: rotation of 3.txt is all zero" in said
    assert "left out: corrupt 1, first: rgb/1.png: " in said
    assert "wrote 4 frames" in said


def launch_arguments():
    """Arguments of the two launch files, as they declare them."""
    text = "".join(
        (ROOT / "launch" / f"{name}.launch.py").read_text() for name in ("agent", "replay")
    )
    return set(re.findall(r"\b(?:argument|DeclareLaunchArgument)\(\s*\"(\w+)\"", text))


@pytest.mark.parametrize("options", [(), ("--raw",), ("--frame-id", "odom")])
def test_the_last_line_launches_this_very_bag(tmp_path, capsys, options):
    folder, bag = write_plain(tmp_path / "in"), tmp_path / "my bag"
    assert main([str(folder), "-o", str(bag), *options]) == 0
    last = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert last[:4] == ["ros2", "launch", "ada3d_ros", "replay.launch.py"]
    given = dict(item.split(":=", 1) for item in last[4:])
    assert set(given) <= launch_arguments()
    assert Path(given["bag"]) == bag.resolve()
    topics = {topic for topic, _, _ in messages(bag)}
    compressed = given["rgb_transport"] == "compressed"
    assert compressed == ("--raw" not in options)
    assert given["rgb_topic"] + ("/compressed" if compressed else "") in topics
    assert {given[f"{name}_topic"] for name in ("depth", "camera_info", "pose")} <= topics
    assert given["world_frame"] == ("odom" if "odom" in options else "map")
