"""Transforms as they are recorded and sent: the cabinet's /tf against its PoseStamped; bad ones."""

from __future__ import annotations

import argparse
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import Writer

from ada3d_ros.config import from_flat
from ada3d_ros.errors import FrameReason, PoseError
from ada3d_ros.geometry.transforms import TransformBuffer
from ada3d_ros.lab.recording_demo import open_recording
from ada3d_ros.sources.bag import STORE, BagSource
from ada3d_ros.sources.bag_reader import BagReader
from ada3d_ros.sources.messages import pose_of, stamp_of
from ada3d_ros.sources.tf_messages import TF_STATIC, newest_stamp_ns, placed

REACH_M = 10.0  # how far from the camera depth reaches


def test_the_cabinets_tf_gives_its_poses_within_a_millimetre(shared_dir):
    """At all its stamps, and for whatever the camera sees within ten metres."""
    buffer, poses = TransformBuffer(), {}
    with BagReader(shared_dir / "data" / "tum_fr3_cabinet_ros2bag") as reader:
        for connection, _, data in reader.messages(reader.connections):
            if "tf" in connection.topic:
                for transform in STORE.deserialize_cdr(data, connection.msgtype).transforms:
                    parent, child, stamp_ns, where = placed(transform)
                    static = connection.topic == TF_STATIC
                    buffer.add(parent, child, stamp_ns, where, static)
            elif connection.topic == "/camera/pose":
                message = STORE.deserialize_cdr(data, connection.msgtype)
                poses[stamp_of(message)] = message.header.frame_id, pose_of(message)
            elif connection.topic.endswith("camera_info"):
                optical = STORE.deserialize_cdr(data, connection.msgtype).header.frame_id
    assert len(poses) == 58
    seen = np.array([[x, y, REACH_M, 1.0] for x in (-6.0, 6.0) for y in (-5.0, 5.0)]).T
    worst_m = 0.0
    for stamp_ns, (world, T) in poses.items():
        found = buffer.lookup(world, optical, stamp_ns, 0.2)
        assert found.pose is not None, found.why
        apart = np.linalg.norm(((found.pose - T) @ seen)[:3], axis=0).max()
        worst_m = max(worst_m, float(apart))
    assert worst_m < 1e-3


def test_a_bag_without_poses_is_read_by_its_tf(shared_dir, tmp_path):
    """The cabinet's copy without /camera/pose gives the same frames."""
    bag = shared_dir / "data" / "tum_fr3_cabinet_ros2bag"
    with BagReader(bag) as reader, Writer(tmp_path / "bag", version=9) as writer:
        kept = [c for c in reader.connections if c.topic != "/camera/pose"]
        out = {c.topic: writer.add_connection(c.topic, c.msgtype, typestore=STORE) for c in kept}
        for connection, bag_ns, data in reader.messages(kept):
            writer.write(out[connection.topic], bag_ns, data)
    expected, source = list(BagSource(bag)), BagSource(tmp_path / "bag")
    assert source.topics.pose == "/tf"
    found = list(source)
    assert [f.stamp_ns for f in found] == [f.stamp_ns for f in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.T_world_cam, other.T_world_cam, atol=1e-6)
    assert source.dropped == {}

    recording = open_recording(argparse.Namespace(bag=tmp_path / "bag"))
    assert recording.settings["pose_source"] == "tf"
    assert recording.remaps["/tf"] == "/tf"
    assert recording.config.world_frame == "map"

    elsewhere = BagSource(tmp_path / "bag", config=from_flat({"world_frame": "earth"}))
    assert list(elsewhere) == []
    assert "TF has no frame 'earth'" in elsewhere.dropped.first[FrameReason.NO_POSE]


def transform(parent: str = "map", child: str = "cam", **numbers: float) -> Any:
    values = dict.fromkeys(("x", "y", "z", "qx", "qy", "qz"), 0.0) | {"qw": 1.0} | numbers
    return SimpleNamespace(
        header=SimpleNamespace(frame_id=parent, stamp=SimpleNamespace(sec=1, nanosec=5)),
        child_frame_id=child,
        transform=SimpleNamespace(
            translation=SimpleNamespace(**{a: values[a] for a in "xyz"}),
            rotation=SimpleNamespace(**{a: values[f"q{a}"] for a in "xyzw"}),
        ),
    )


def test_a_transform_with_the_slashes_of_old_drivers():
    found = placed(transform("/map", "/cam", x=2.0))
    assert found[:3] == ("map", "cam", 1_000_000_005)
    assert found.where.matrix()[0, 3] == 2.0


BAD = {
    "NaN position": ({"y": math.nan}, "'map' -> 'cam': translation"),
    "infinite position": ({"z": math.inf}, "is not finite"),
    "far position": ({"x": 2e6}, "more than 1e\\+06 m from the origin"),
    "NaN quaternion": ({"qz": math.nan}, "quaternion .* is not finite"),
    "zero quaternion": ({"qw": 0.0}, "all zero: the pose was never set"),
    "long quaternion": ({"qw": 1.5}, "has norm 1.5000"),
    "huge quaternion": ({"qw": 1e300}, "has norm"),
}


@pytest.mark.parametrize("name", BAD)
def test_numbers_that_place_nothing(name):
    numbers, words = BAD[name]
    with pytest.raises(PoseError, match=words):
        placed(transform(**numbers))


@pytest.mark.parametrize(
    ("names", "words"),
    [(("", "cam"), "unnamed"), (("map", "/"), "unnamed"), (("cam", "/cam"), "placed in itself")],
)
def test_names_that_place_nothing(names, words):
    with pytest.raises(PoseError, match=words):
        placed(transform(*names))


def test_a_rounded_quaternion_is_taken():
    assert placed(transform(qw=1.02)).where.matrix()[0, 0] == pytest.approx(1.0)


def test_the_newest_stamp_of_a_message():
    assert newest_stamp_ns(SimpleNamespace(transforms=[])) == 0
    assert newest_stamp_ns(SimpleNamespace(transforms=[transform()])) == 1_000_000_005
