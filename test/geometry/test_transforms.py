"""The buffer of transforms: chains against scipy's RigidTransform, times as tf2 documents them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from ada3d_ros.geometry.pose import Transform, pose_from_quaternion
from ada3d_ros.geometry.stamped import PoseReason, PoseStatus
from ada3d_ros.geometry.transforms import TransformBuffer

SECOND = 1_000_000_000
IDENTITY = Transform((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))


def at(x: float = 0.0, yaw_deg: float = 0.0) -> Transform:
    quat = Rotation.from_euler("z", yaw_deg, degrees=True).as_quat()
    return Transform((x, 0.0, 0.0), tuple(float(v) for v in quat))


def robot() -> TransformBuffer:
    """map -> odom -> base (moving, 10 Hz from 1 s to 2 s), base -> cam (static)."""
    buffer = TransformBuffer()
    buffer.add("base", "cam", 0, at(0.5), static=True)
    for tick in range(11):
        stamp_ns = SECOND + tick * SECOND // 10
        buffer.add("map", "odom", stamp_ns, at(10.0, 90.0), static=False)
        buffer.add("odom", "base", stamp_ns, at(0.1 * tick), static=False)
    return buffer


numbers = st.floats(-50.0, 50.0)
quats = st.lists(st.floats(-1.0, 1.0), min_size=4, max_size=4).filter(
    lambda q: np.linalg.norm(q) > 0.1
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.lists(numbers, min_size=3, max_size=3), quats), min_size=6, max_size=6)
)
def test_a_chain_is_the_product_of_its_transforms(links):
    """w -> a -> b -> c and w -> d -> e: from c to e as scipy multiplies and inverts them."""
    rigid = pytest.importorskip("scipy.spatial.transform", reason="scipy")
    if not hasattr(rigid, "RigidTransform"):
        pytest.skip("scipy has no RigidTransform before 1.16")
    buffer, by_name = TransformBuffer(), {}
    names = [("w", "a"), ("a", "b"), ("b", "c"), ("w", "d"), ("d", "e"), ("e", "f")]
    for (parent, child), (translation, quat) in zip(names, links, strict=True):
        unit = np.array(quat) / np.linalg.norm(quat)
        buffer.add(parent, child, 5, Transform(translation, unit), static=child in "ad")
        by_name[child] = rigid.RigidTransform.from_components(translation, Rotation.from_quat(unit))
    expected = (by_name["d"] * by_name["e"]).inv() * by_name["a"] * by_name["b"] * by_name["c"]
    found = buffer.lookup("e", "c", 5, 0.2)
    assert found.status is PoseStatus.FOUND
    np.testing.assert_allclose(found.pose, expected.as_matrix(), atol=1e-9)
    back = buffer.lookup("c", "e", 5, 0.2)
    np.testing.assert_allclose(back.pose, expected.inv().as_matrix(), atol=1e-9)


def test_every_link_is_interpolated_at_the_stamp():
    """Each by itself, as tf2 does: not the chain's ends."""
    buffer = TransformBuffer()
    for stamp_ns, x, yaw in ((0, 0.0, 0.0), (100, 1.0, 90.0)):
        buffer.add("map", "odom", stamp_ns, at(x, yaw), static=False)
        buffer.add("odom", "base", stamp_ns, at(2.0 * x, -yaw), static=False)
    slerp = Slerp([0, 100], Rotation.from_euler("z", [[0.0], [90.0]], degrees=True))
    outer, inner = np.eye(4), np.eye(4)
    outer[:3, :3], outer[0, 3] = slerp(25).as_matrix(), 0.25
    inner[:3, :3], inner[0, 3] = slerp(25).inv().as_matrix(), 0.5
    found = buffer.lookup("map", "base", 25, 1.0)
    np.testing.assert_allclose(found.pose, outer @ inner, atol=1e-12)


def test_the_camera_of_a_robot():
    found = robot().lookup("map", "cam", 1_250_000_000, 0.2)
    # 10 m east, turned left: 0.25 m driven and the camera 0.5 m ahead lie on y
    np.testing.assert_allclose(found.pose[:3, 3], (10.0, 0.75, 0.0), atol=1e-12)


CASES = {
    "at the first stamp": ("map", "base", SECOND, None, ""),
    "at the last stamp": ("map", "base", 2 * SECOND, None, ""),
    "the frame itself": ("cam", "cam", 99 * SECOND, None, ""),
    "static alone, at any time": ("base", "cam", 99 * SECOND, None, ""),
    "static alone, the other way": ("cam", "base", 0, None, ""),
    "after the newest": ("map", "cam", 2 * SECOND + 40_000_000, PoseReason.AFTER, "0.040 s older"),
    "before the oldest": ("map", "cam", SECOND - 1_000_000, PoseReason.BEFORE, "0.001 s older"),
    "a frame that is not there": (
        *("map", "lidar", SECOND, PoseReason.UNKNOWN_FRAME),
        "TF has no frame 'lidar'; it has 'base', 'cam', 'map', 'odom'.",
    ),
    "a world that is not there": ("world", "cam", SECOND, PoseReason.UNKNOWN_FRAME, "'world'"),
}


@pytest.mark.parametrize("case", CASES)
def test_times_and_frames(case):
    target, source, stamp_ns, reason, words = CASES[case]
    found = robot().lookup(target, source, stamp_ns, 0.2)
    assert (found.reason, found.pose is None) == (reason, reason is not None)
    assert words in found.why
    waits = reason is not PoseReason.BEFORE
    if reason:
        assert found.status is (PoseStatus.NOT_YET if waits else PoseStatus.NEVER)


def test_one_sample_alone_serves_its_own_stamp():
    buffer = TransformBuffer()
    buffer.add("map", "cam", 7, IDENTITY, static=False)
    assert buffer.lookup("map", "cam", 7, 0.2).status is PoseStatus.FOUND
    assert buffer.lookup("map", "cam", 8, 0.2).reason is PoseReason.AFTER
    assert buffer.lookup("map", "cam", 6, 0.2).reason is PoseReason.BEFORE


def test_a_wide_gap_names_the_transform():
    buffer = TransformBuffer()
    for stamp_ns in (0, SECOND):
        buffer.add("map", "odom", stamp_ns, IDENTITY, static=False)
    buffer.add("odom", "cam", 0, IDENTITY, static=True)
    found = buffer.lookup("map", "cam", SECOND // 2, 0.2)
    assert (found.reason, found.status) == (PoseReason.GAP, PoseStatus.NEVER)
    expected = "the transforms 'map' -> 'odom' around the image are 1.000 s apart, allowed 0.2 s"
    assert expected in found.why
    assert buffer.lookup("map", "cam", SECOND // 2, 1.0).status is PoseStatus.FOUND


def test_trees_that_do_not_meet():
    buffer = robot()
    buffer.add("table", "cup", 0, IDENTITY, static=True)
    found = buffer.lookup("map", "cup", SECOND, 0.2)
    assert (found.reason, found.status) == (PoseReason.NOT_CONNECTED, PoseStatus.NOT_YET)
    assert "'cup' (below 'table') with 'map'" in found.why


@pytest.mark.parametrize("static", [True, False])
def test_a_loop_is_told_with_its_frames(static):
    buffer = TransformBuffer()
    for parent, child in (("a", "b"), ("b", "c"), ("c", "a"), ("c", "cam")):
        buffer.add(parent, child, 5, IDENTITY, static=static)
    buffer.add("map", "room", 5, IDENTITY, static=static)
    for target in ("room", "map", "a"):
        found = buffer.lookup(target, "cam", 5, 0.2)
        assert (found.reason, found.pose) == (PoseReason.LOOP, None)
        assert "'c' -> 'b' -> 'a' -> 'c'" in found.why
    assert buffer.lookup("cam", "room", 5, 0.2).reason is PoseReason.LOOP


@pytest.mark.parametrize("static", [True, False])
def test_two_parents_at_once_are_refused(static):
    buffer = robot()
    for stamp_ns in (SECOND, 2 * SECOND):
        buffer.add("elsewhere", "base", stamp_ns, IDENTITY, static=static)
    found = buffer.lookup("map", "cam", 1_500_000_000, 2.0)
    assert (found.reason, found.pose) == (PoseReason.TWO_PARENTS, None)
    assert "'base' in 'odom' and 'elsewhere' at once" in found.why
    assert buffer.lookup("base", "cam", 1_500_000_000, 0.2).status is PoseStatus.FOUND


def test_a_frame_that_moves_to_another_parent():
    """Each time has one parent; between the two there is none."""
    buffer = TransformBuffer()
    for tick in range(20):
        parent = "left" if tick < 10 else "right"
        buffer.add(parent, "cup", tick * 100_000_000, at(float(tick)), static=False)
    buffer.add("left", "right", 0, at(100.0), static=True)
    assert buffer.lookup("left", "cup", 450_000_000, 0.2).pose[0, 3] == pytest.approx(4.5)
    assert buffer.lookup("left", "cup", 1_450_000_000, 0.2).pose[0, 3] == pytest.approx(114.5)
    assert buffer.lookup("left", "cup", 950_000_000, 0.2).pose is None


def test_a_stamp_that_falls_back_forgets_what_came_before():
    buffer = robot()
    assert buffer.add("odom", "base", 400_000_000, at(7.0), static=False) == pytest.approx(1.6)
    assert buffer.lookup("odom", "base", 1_500_000_000, 2.0).reason is PoseReason.AFTER
    assert buffer.lookup("odom", "base", 400_000_000, 0.2).pose[0, 3] == 7.0
    # out of order by less is no jump
    assert buffer.add("map", "odom", 1_990_000_000, at(10.0), static=False) == 0.0
    assert buffer.lookup("map", "odom", 1_500_000_000, 0.2).status is PoseStatus.FOUND


def test_clearing_keeps_what_is_static():
    buffer = robot()
    buffer.clear()
    assert buffer.lookup("base", "cam", SECOND, 0.2).status is PoseStatus.FOUND
    found = buffer.lookup("map", "cam", SECOND, 0.2)
    assert (found.reason, found.status) == (PoseReason.AFTER, PoseStatus.NOT_YET)
    assert "no transform 'odom' -> 'base' since time fell back" in found.why


def test_a_static_transform_is_replaced_by_the_next():
    buffer = TransformBuffer()
    buffer.add("base", "cam", 0, at(1.0), static=True)
    buffer.add("base", "cam", 0, at(2.0), static=True)
    assert buffer.lookup("base", "cam", 0, 0.2).pose[0, 3] == 2.0


def test_memory_is_bounded():
    buffer = TransformBuffer(max_samples=10)
    for tick in range(1000):
        buffer.add("map", "cam", tick, at(float(tick)), static=False)
    assert buffer.lookup("map", "cam", 989, 0.2).reason is PoseReason.BEFORE
    assert buffer.lookup("map", "cam", 990, 0.2).pose[0, 3] == 990.0


def test_a_pose_is_that_of_its_numbers():
    where = at(3.0, 30.0)
    np.testing.assert_array_equal(where.matrix(), pose_from_quaternion(*where))
