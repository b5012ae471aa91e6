"""The keyframe buffer: each threshold at its edge, eviction, stamps, and the recorded sequence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ada3d_ros.config import KeyframeConfig
from ada3d_ros.errors import FrameError, FrameReason
from ada3d_ros.geometry.pose import pose_from_quaternion
from ada3d_ros.scene.keyframes import KeyframeBuffer, visible_voxels
from ada3d_ros.sources.folder import FolderOptions, FolderSource
from ada3d_ros.types import Intrinsics, KeyframeReason, RgbdFrame
from test.support.box_room import build_box_room

SIZE = 8
CAMERA = Intrinsics(8.0, 8.0, 3.5, 3.5, SIZE, SIZE)
BY_MOTION = KeyframeConfig(
    min_translation_m=0.5, min_rotation_deg=20.0, max_interval_sec=0.0, max_views=20
)


def frame(stamp_s, x=0.0, yaw_deg=0.0, depth_m=2.0, frame_id="map"):
    T = pose_from_quaternion((x, 0, 1), Rotation.from_euler("y", yaw_deg, degrees=True).as_quat())
    depth = np.full((SIZE, SIZE), depth_m, np.float32)
    return RgbdFrame(
        round(stamp_s * 1e9), np.zeros((SIZE, SIZE, 3), np.uint8), depth, CAMERA, T, frame_id
    )


def test_each_threshold_is_inclusive_and_named():
    buffer = KeyframeBuffer(BY_MOTION)
    assert buffer.offer(frame(1)).reason is KeyframeReason.FIRST
    assert buffer.offer(frame(2, x=0.49, yaw_deg=19)) is None
    assert buffer.offer(frame(3, x=0.5)).reason is KeyframeReason.TRANSLATION
    assert buffer.offer(frame(4, x=0.4, yaw_deg=20.001)).reason is KeyframeReason.ROTATION
    assert buffer.offer(frame(5, x=0.4, yaw_deg=10)) is None
    assert [k.index for k in buffer.keyframes] == [0, 1, 2]
    assert buffer.version == 3


def test_rotation_is_compared_with_every_keyframe_near_by():
    """Turning back to a direction that is kept already adds nothing."""
    buffer = KeyframeBuffer(BY_MOTION)
    for stamp, yaw in enumerate((0, 30, 60), start=1):
        assert buffer.offer(frame(stamp, yaw_deg=yaw)) is not None
    assert buffer.offer(frame(9, yaw_deg=25)) is None
    assert buffer.offer(frame(10, x=5, yaw_deg=25)).reason is KeyframeReason.TRANSLATION


def test_time_since_the_last_admission():
    buffer = KeyframeBuffer(KeyframeConfig(max_interval_sec=5.0))
    buffer.offer(frame(1))
    assert buffer.offer(frame(5.9)) is None
    assert buffer.offer(frame(6)).reason is KeyframeReason.TIME
    assert buffer.offer(frame(10.9)) is None
    assert KeyframeBuffer(KeyframeConfig(max_interval_sec=0.0)).offer(frame(1)) is not None
    off = KeyframeBuffer(KeyframeConfig(max_interval_sec=0.0))
    off.offer(frame(1))
    assert off.offer(frame(1e6)) is None


def test_new_coverage_admits_a_view_that_did_not_move():
    buffer = KeyframeBuffer(KeyframeConfig(max_interval_sec=0.0, min_new_coverage=0.5))
    buffer.offer(frame(1, depth_m=2.0))
    assert buffer.offer(frame(2, depth_m=2.01)) is None
    assert buffer.offer(frame(3, depth_m=5.0)).reason is KeyframeReason.COVERAGE  # a door opened
    assert buffer.offer(frame(4, depth_m=np.nan)) is None


def test_a_full_buffer_evicts_what_others_see_too_and_never_the_newest():
    buffer = KeyframeBuffer(KeyframeConfig(max_views=3, max_interval_sec=1.0))
    for stamp, x in enumerate((0, 10, 20), start=1):
        buffer.offer(frame(stamp, x=x))
    buffer.offer(frame(4, x=20))  # the same view as the last: that one goes, being older
    assert [k.index for k in buffer.keyframes] == [0, 1, 3]
    buffer.offer(frame(5, x=30, depth_m=np.nan))  # sees nothing, yet the newest stays
    assert len(buffer) == 3
    assert buffer.keyframes[-1].index == 4


def test_a_standing_robot_renews_its_view_and_keeps_the_others():
    buffer = KeyframeBuffer(KeyframeConfig(max_views=4, max_interval_sec=1.0))
    for stamp, x in enumerate((0, 10, 20, 30), start=1):
        buffer.offer(frame(stamp, x=x))
    for stamp in range(5, 50):
        buffer.offer(frame(stamp, x=30))
    assert [k.frame.T_world_cam[0, 3] for k in buffer.keyframes] == [0, 10, 20, 30]
    assert buffer.keyframes[-1].frame.stamp_ns == 49_000_000_000


@pytest.mark.parametrize("stamp", [2, 1, -5])
def test_backward_and_equal_stamps_are_refused_and_change_nothing(stamp):
    buffer = KeyframeBuffer(BY_MOTION)
    buffer.offer(frame(1))
    buffer.offer(frame(2))  # not admitted, but its stamp counts
    with pytest.raises(FrameError, match="not newer") as caught:
        buffer.offer(frame(stamp, x=9))
    assert caught.value.reason is FrameReason.BACKWARD_STAMP
    assert buffer.version == 1


def test_another_world_frame_is_refused_until_reset():
    buffer = KeyframeBuffer(BY_MOTION)
    buffer.offer(frame(1))
    with pytest.raises(FrameError, match="'odom'") as caught:
        buffer.offer(frame(2, frame_id="odom"))
    assert caught.value.reason is FrameReason.FRAME_MISMATCH
    buffer.reset()
    assert buffer.offer(frame(1, frame_id="odom")).index == 1


def test_reset_starts_an_epoch_and_forgets_stamps():
    buffer = KeyframeBuffer(BY_MOTION)
    buffer.offer(frame(100))
    buffer.reset()
    assert (len(buffer), buffer.version, buffer.epoch) == (0, 2, 1)
    again = buffer.offer(frame(1))
    assert (again.index, again.reason, buffer.version) == (1, KeyframeReason.FIRST, 3)


def test_set_config_shrinks_at_once():
    buffer = KeyframeBuffer(BY_MOTION)
    for stamp in range(1, 6):
        buffer.offer(frame(stamp, x=stamp * 10))
    version = buffer.version
    buffer.set_config(KeyframeConfig(max_views=2))
    assert [k.index for k in buffer.keyframes] == [3, 4]
    assert buffer.version == version + 1
    buffer.set_config(KeyframeConfig(max_views=3))
    assert buffer.version == version + 1


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-3, 3), st.floats(0, 360), st.floats(0.5, 4)), max_size=40),
    st.integers(1, 6),
)
def test_invariants_and_determinism(moves, max_views):
    config = KeyframeConfig(max_views=max_views, max_interval_sec=3.0, min_new_coverage=0.3)
    first, second = KeyframeBuffer(config), KeyframeBuffer(config)
    for number, (x, yaw, depth) in enumerate(moves, start=1):
        before = first.version
        given_frame = frame(number, x, yaw, depth)
        admitted = first.offer(given_frame)
        second.offer(given_frame)
        assert first.version == before + (admitted is not None)
        assert len(first) <= max_views
        stamps = [k.frame.stamp_ns for k in first.keyframes]
        assert stamps == sorted(set(stamps))
        if admitted is not None:
            assert first.keyframes[-1] is admitted
    assert [k.index for k in first.keyframes] == [k.index for k in second.keyframes]


def test_eviction_keeps_most_of_a_room_covered():
    frames = build_box_room(seed=1, num_views=40, width=160, height=120).frames
    small, large = (KeyframeBuffer(KeyframeConfig(max_views=n)) for n in (8, 64))
    for f in frames:
        small.offer(f)
        large.offer(f)
    assert len(small) == 8 < len(large)
    covered = frozenset().union(*(visible_voxels(k.frame) for k in small.keyframes))
    all_seen = frozenset().union(*(visible_voxels(k.frame) for k in large.keyframes))
    newest = frozenset().union(*(visible_voxels(f) for f in frames[-8:]))
    assert len(covered) > 0.75 * len(all_seen)
    assert len(covered) > 1.2 * len(newest)  # what a plain ring buffer would keep


def test_the_recorded_sequence(shared_dir):
    source = FolderSource(
        shared_dir / "data" / "tum_fr3_cabinet",
        FolderOptions(intrinsics=(535.4, 539.2, 320.1, 247.6)),
    )
    default = KeyframeBuffer(KeyframeConfig())
    coarse = KeyframeBuffer(KeyframeConfig(min_translation_m=0.5, min_rotation_deg=30.0))
    admitted = sum(default.offer(f) is not None for f in source)
    for f in source:
        coarse.offer(f)
    assert len(default) == 20
    assert 20 <= admitted <= 58
    assert 5 <= len(coarse) < 20


def anchors(xs, config=BY_MOTION):
    buffer, found = KeyframeBuffer(config), []
    for stamp, x in enumerate(xs, start=1):
        buffer.offer(frame(stamp, x=x))
        found.append(buffer.snapshot().anchor_xy_m[0])
    return found


def test_the_anchor_stays_under_the_first_camera_while_the_robot_is_near():
    assert anchors([1.23, 5.0, 11.2, -8.7, 1.0]) == [1.2] * 5


def test_a_robot_that_drives_on_takes_the_anchor_along():
    """Amid its keyframes, and where these are too far apart under its camera."""
    wide = KeyframeConfig(max_views=20, min_translation_m=0.5, max_interval_sec=0.0)
    assert anchors([0, 4, 8, 12], wide) == [0.0, 0.0, 0.0, 6.0]
    assert anchors([0, 30], wide) == [0.0, 30.0]


def test_a_robot_that_goes_to_and_fro_moves_the_anchor_once():
    wide = KeyframeConfig(max_views=20, min_translation_m=0.5, max_interval_sec=0.0)
    found = anchors([0, 12, 1, 13, 2, 14], wide)
    assert found[1:] == [6.0] * 5


def test_an_anchor_is_forgotten_with_the_scene():
    buffer = KeyframeBuffer(BY_MOTION)
    buffer.offer(frame(1, x=7.0))
    buffer.reset()
    assert buffer.snapshot().anchor_xy_m == (0.0, 0.0)
    buffer.offer(frame(2, x=-3.0))
    assert buffer.snapshot().anchor_xy_m == (-3.0, 0.0)
