"""Poses: quaternions against scipy, refusals, and the pose buffer's three answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ada3d_ros.errors import PoseError
from ada3d_ros.geometry.pose import (
    PoseBuffer,
    PoseStatus,
    interpolate_pose,
    invert_pose,
    pose_from_quaternion,
    rotation_angle_rad,
    to_quaternion,
)

unit = st.floats(-1, 1, allow_nan=False)
quaternions = st.tuples(unit, unit, unit, unit).filter(lambda q: np.linalg.norm(q) > 0.1)
vectors = st.tuples(*[st.floats(-100, 100, allow_nan=False)] * 3)


def pose_at(x, yaw_deg=0.0):
    return pose_from_quaternion(
        (x, 0.0, 0.0), Rotation.from_euler("z", yaw_deg, degrees=True).as_quat()
    )


@given(vectors, quaternions)
def test_quaternion_round_trip(translation, quat):
    quat = np.array(quat) / np.linalg.norm(quat)
    T = pose_from_quaternion(translation, quat)
    translation_back, quat_back = to_quaternion(T)
    np.testing.assert_array_equal(translation_back, translation)
    assert min(np.abs(quat_back - quat).max(), np.abs(quat_back + quat).max()) < 1e-9
    assert quat_back[3] >= 0
    np.testing.assert_allclose(invert_pose(T) @ T, np.eye(4), atol=1e-12)


def test_a_known_rotation_keeps_the_ros_order():
    quarter_turn = (0, 0, np.sqrt(0.5), np.sqrt(0.5))  # x, y, z, w: 90 degrees about z
    T = pose_from_quaternion((1, 2, 3), quarter_turn)
    np.testing.assert_allclose(T @ [1, 0, 0, 1], [1, 3, 3, 1], atol=1e-12)


@pytest.mark.parametrize("norm", [0.951, 1.049])
def test_a_rounded_quaternion_is_normalised(norm):
    T = pose_from_quaternion((0, 0, 0), (0, 0, 0, norm))
    np.testing.assert_allclose(T, np.eye(4), atol=1e-12)


@pytest.mark.parametrize(
    ("translation", "quat", "words"),
    [
        ((0, 0, 0), (0, 0, 0, 0), "all zero"),
        ((0, 0, 0), (0, 0, 0, 0.94), "norm 0.94"),
        ((0, 0, 0), (0, 0, 0, 1.06), "norm 1.06"),
        ((0, 0, 0), (0, 0, np.nan, 1), "not finite"),
        ((np.inf, 0, 0), (0, 0, 0, 1), "not finite"),
        ((0, 0), (0, 0, 0, 1), "needs 3"),
    ],
)
def test_bad_poses_are_refused_with_the_value(translation, quat, words):
    with pytest.raises(PoseError, match=words):
        pose_from_quaternion(translation, quat)


def test_interpolation_is_half_way_and_takes_the_short_arc():
    T = interpolate_pose(pose_at(0, 170), pose_at(2, -170), 0.5)
    np.testing.assert_allclose(T, pose_at(1, 180), atol=1e-12)
    assert np.rad2deg(rotation_angle_rad(pose_at(0, 170), pose_at(0, -170))) == pytest.approx(20)


def test_lookup_interpolates_and_hits_exact_stamps():
    buffer = PoseBuffer()
    for i in (0, 2, 1, 3):  # out of order
        buffer.add(i * 100_000_000, pose_at(float(i), 10.0 * i))
    found = buffer.lookup(150_000_000, max_gap_s=0.1)  # the gap limit is inclusive
    assert found.status is PoseStatus.FOUND
    np.testing.assert_allclose(found.pose, pose_at(1.5, 15.0), atol=1e-12)
    exact = buffer.lookup(300_000_000, max_gap_s=0.0)  # no gap needed
    assert exact.status is PoseStatus.FOUND


def test_not_yet_and_never_differ():
    buffer = PoseBuffer()
    assert buffer.lookup(5, 1.0).status is PoseStatus.NOT_YET
    buffer.add(1_000_000_000, pose_at(0))
    buffer.add(1_500_000_000, pose_at(1))
    late = buffer.lookup(1_600_000_000, 1.0)
    assert late.status is PoseStatus.NOT_YET
    assert "0.100 s" in late.why
    assert buffer.lookup(900_000_000, 1.0).status is PoseStatus.NEVER
    gap = buffer.lookup(1_200_000_000, 0.49)
    assert gap.status is PoseStatus.NEVER
    assert gap.pose is None
    assert "0.500 s apart" in gap.why


def test_a_second_pose_of_one_stamp_replaces_the_first():
    buffer = PoseBuffer()
    buffer.add(1, pose_at(0))
    buffer.add(1, pose_at(7))
    assert len(buffer) == 1
    assert buffer.lookup(1, 0.0).pose[0, 3] == 7


def test_a_full_buffer_survives_a_bag_loop():
    """Forgetting the oldest STAMP would throw away every pose after the loop, for ever."""
    buffer = PoseBuffer(max_poses=10)
    for stamp in range(1000, 1010):
        buffer.add(stamp, pose_at(0))
    for stamp in range(10):
        buffer.add(stamp, pose_at(stamp))
    assert len(buffer) == 10
    assert buffer.lookup(5, 1.0).pose[0, 3] == 5
    buffer.clear()
    assert len(buffer) == 0
    assert buffer.lookup(5, 1.0).status is PoseStatus.NOT_YET


@given(st.lists(st.integers(0, 50), max_size=80), st.integers(0, 50), st.integers(0, 10))
def test_lookup_agrees_with_a_plain_search(stamps, asked, gap):
    buffer = PoseBuffer(max_poses=20)
    arrivals: dict[int, float] = {}
    for i, stamp in enumerate(stamps):
        buffer.add(stamp, pose_at(float(i)))
        arrivals.pop(stamp, None)
        arrivals[stamp] = float(i)
        if len(arrivals) > 20:
            del arrivals[next(iter(arrivals))]
    before, after = [s for s in arrivals if s <= asked], [s for s in arrivals if s >= asked]
    result = buffer.lookup(asked, gap * 1e-9)
    if asked in arrivals or (before and after and min(after) - max(before) <= gap):
        assert result.status is PoseStatus.FOUND
        expected = np.interp(asked, sorted(arrivals), [arrivals[s] for s in sorted(arrivals)])
        assert result.pose[0, 3] == pytest.approx(expected)
    else:
        assert result.status is (PoseStatus.NOT_YET if not after else PoseStatus.NEVER)


def test_a_matrix_that_is_no_pose_is_refused():
    with pytest.raises(PoseError, match="4, 4"):
        PoseBuffer().add(0, np.full((4, 4), np.nan))
