"""What is read from a camera_info, and which of several holds for an image."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ada3d_ros.config import from_flat
from ada3d_ros.errors import FrameError, FrameReason
from ada3d_ros.geometry.camera_axes import CameraAxes
from ada3d_ros.sources.camera_info import camera_of, info_in_force
from ada3d_ros.sources.camera_watch import CameraWatch
from ada3d_ros.sources.messages import PosedSet, frame_of, pose_frame_fault
from ada3d_ros.types import Intrinsics, RgbdFrame

SIZE = (64, 48)
D = [-0.2, 0.1, 0.0, 0.0, 0.0]


def info(size=SIZE, matrix=(60.0, 60.0, 32.0, 24.0), roi=(0, 0, 0, 0), binning=(0, 0), **fields):
    """roi: x_offset, y_offset, width, height."""
    fx, fy, cx, cy = matrix
    region = dict(zip(("x_offset", "y_offset", "width", "height"), roi, strict=True))
    return SimpleNamespace(
        **{
            "header": SimpleNamespace(frame_id="camera", stamp=SimpleNamespace(sec=1, nanosec=0)),
            "width": size[0],
            "height": size[1],
            "k": [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
            "p": [58.0, 0.0, 31.0, 0.0, 0.0, 58.0, 23.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            "d": [],
            "distortion_model": "plumb_bob",
            "roi": SimpleNamespace(**region, do_rectify=False),
            "binning_x": binning[0],
            "binning_y": binning[1],
            **fields,
        }
    )


PLAIN = Intrinsics(60.0, 60.0, 32.0, 24.0, 64, 48)
SAME_CAMERA = {
    "whole image": info(),
    "binning of 1": info(binning=(1, 1)),
    "whole image as roi": info(roi=(0, 0, 64, 48)),
    "roi": info((128, 96), (60, 60, 72, 44), roi=(40, 20, 64, 48)),
    "roi, and its size as width and height": info(SIZE, (60, 60, 72, 44), roi=(40, 20, 64, 48)),
    "roi to the right and below": info((104, 68), (60, 60, 72, 44), roi=(40, 20, 0, 0)),
    "binned": info((128, 96), (120, 120, 64, 48), binning=(2, 2)),
    "binned, odd sides": info((129, 97), (120, 120, 64, 48), binning=(2, 2)),
    "binned by 4 and 1": info((256, 48), (240, 60, 128, 24), binning=(4, 1)),
    "roi, then binned": info((640, 480), (120, 120, 104, 88), (40, 40, 128, 96), (2, 2)),
}


@pytest.mark.parametrize("name", SAME_CAMERA)
def test_region_and_binning_give_the_camera_of_the_image(name):
    """K is of the whole sensor (REP 104): the offset goes off first, then binning divides."""
    camera = camera_of(SAME_CAMERA[name], SIZE)
    assert camera.intrinsics == PLAIN
    assert camera.model == "plumb_bob"


def test_a_rectified_image_has_P_and_no_lens():
    message = info((128, 96), d=D, roi=(0, 0, 0, 0), binning=(2, 2))
    camera = camera_of(message, SIZE, rectified=True)
    assert camera.intrinsics == Intrinsics(29.0, 29.0, 15.5, 11.5, 64, 48)
    assert camera.D == ()
    with pytest.raises(FrameError, match="P has fx=0") as caught:
        camera_of(info(p=[0.0] * 12), SIZE, rectified=True)
    assert caught.value.reason is FrameReason.BAD_INTRINSICS


@pytest.mark.parametrize(
    ("message", "words", "reason"),
    [
        (info((128, 96)), "width x height 128x96, roi 0x0 at 0,0, binning 1x1", "bad_size"),
        (info((128, 96), binning=(4, 4)), "binning 4x4, the image is 64x48", "bad_size"),
        (info(roi=(8, 8, 32, 24)), "roi 32x24 at 8,8", "bad_size"),
        (info(binning=(2, 2)), "binning 2x2", "bad_size"),
        (
            info(matrix=(450, 450, 240, 180)),
            r"cx = 240, cy = 180, the images are 64x48: .* another size \(about 480x360\)",
            "bad_intrinsics",
        ),
        (info(matrix=(120, 120, 64, 48)), "about 128x96", "bad_intrinsics"),
        (info(matrix=(115, 115, 61, 46)), "about 122x92", "bad_intrinsics"),
        (info(matrix=(10, 10, 5, 4)), "about 10x8", "bad_intrinsics"),
        (info(matrix=(60, 60, -3, 24)), "cx = -3", "bad_intrinsics"),
        (info(matrix=(60, 60, 9e307, 24)), "another size", "bad_intrinsics"),
        (
            info((128, 96), (60, 60, 32, 24), roi=(40, 20, 64, 48)),
            "cx = -8, cy = 4.* must be of the whole sensor",
            "bad_intrinsics",
        ),
        (info(matrix=(0, 0, 0, 0)), "not calibrated", "bad_intrinsics"),
        (info((0, 0)), "0x0", "bad_intrinsics"),
    ],
)
def test_what_cannot_be_this_image_is_refused_with_its_numbers(message, words, reason):
    with pytest.raises(FrameError, match=words) as caught:
        camera_of(message, SIZE)
    assert caught.value.reason.value == reason


sides = st.integers(0, 2**32 - 1) | st.integers(0, 200)
numbers = st.floats() | st.floats(-200, 200)


@settings(max_examples=300, deadline=None)
@given(
    size=st.tuples(sides, sides),
    roi=st.tuples(sides, sides, sides, sides),
    binning=st.tuples(sides, sides),
    matrix=st.tuples(numbers, numbers, numbers, numbers),
    p=st.lists(numbers, min_size=12, max_size=12),
    rectified=st.booleans(),
)
def test_any_camera_info_gives_a_camera_of_the_image_or_a_frame_error(
    size, roi, binning, matrix, p, rectified
):
    message = info(size, matrix, roi, binning, p=p)
    try:
        k = camera_of(message, SIZE, rectified).intrinsics
    except FrameError:
        return
    assert (k.width, k.height) == SIZE
    assert -0.5 <= k.cx <= 63.5
    assert -0.5 <= k.cy <= 47.5
    assert k.fx > 0


@pytest.mark.parametrize(
    ("stamp", "slop", "expected"),
    [(5, 0, 10), (10, 0, 10), (29, 0, 20), (29, 1, 30), (28, 1, 20), (30, 0, 30), (99, 2, 30)],
)
def test_the_newest_before_an_image_holds(stamp, slop, expected):
    """Or the first where none is before it; one within slop is the image's own."""
    infos = [(10, 10), (20, 20), (30, 30)]
    assert info_in_force(infos, stamp, slop) == expected
    assert info_in_force([], stamp, slop) is None


# -- frames


def posed(rgb="camera", depth="camera", camera_info="camera", message=None):
    def header(frame_id):
        return SimpleNamespace(frame_id=frame_id, stamp=SimpleNamespace(sec=1, nanosec=0))

    color = np.full((48, 64, 3), 90, np.uint8)
    millimetres = np.full((48, 64), 2000, np.uint16)

    def image(frame_id, pixels, encoding):
        return SimpleNamespace(
            header=header(frame_id), height=48, width=64, encoding=encoding, is_bigendian=0,
            step=pixels.strides[0], data=pixels.tobytes(),
        )  # fmt: skip

    message = message or info()
    message.header = header(camera_info)
    return PosedSet(
        image(rgb, color, "rgb8"), image(depth, millimetres, "16UC1"), message, 10**9, np.eye(4),
        ("/rgb/image", "/depth/image", "/rgb/camera_info"),
    )  # fmt: skip


@pytest.mark.parametrize("odd", ["rgb", "depth", "camera_info"])
def test_a_leading_slash_is_no_other_frame(odd):
    frame = frame_of(posed(**{odd: "/camera"}), from_flat({"world_frame": "/map"}))
    assert (frame.camera_frame_id, frame.frame_id) == ("camera", "map")


MISMATCHES = [
    ({"depth": "ir"}, r"depth \(/depth/image\) is in frame 'ir'.*registered to colour", True),
    ({"camera_info": "ir"}, r"camera_info \(/rgb/camera_info\) is in frame 'ir'.*remap", False),
    ({"rgb": "ir"}, r"colour \(/rgb/image\) is in frame 'ir'.*colour is of another", False),
    ({"rgb": "a", "depth": "b"}, "'a'.*'b'.*'camera'.*one camera", True),
    ({"depth": ""}, r"publisher of depth \(/depth/image\) leaves header.frame_id empty", False),
    ({"camera_info": "/"}, r"publisher of camera_info .* leaves header.frame_id empty", False),
]


@pytest.mark.parametrize(("frames", "words", "speaks_of_registration"), MISMATCHES)
def test_the_odd_frame_is_named(frames, words, speaks_of_registration):
    with pytest.raises(FrameError, match=words) as caught:
        frame_of(posed(**frames), from_flat({}))
    assert caught.value.reason is FrameReason.FRAME_MISMATCH
    assert ("registered" in str(caught.value)) is speaks_of_registration


def pose(frame_id, **fields):
    return SimpleNamespace(header=SimpleNamespace(frame_id=frame_id), **fields)


@pytest.mark.parametrize(
    ("message", "settings", "words"),
    [
        (pose("map"), {}, ""),
        (pose("/map"), {}, ""),
        (pose("map"), {"world_frame": "/map"}, ""),
        (pose("//map"), {"world_frame": "/map"}, ""),
        (pose("odom"), {}, "'odom', world_frame is 'map'.* Set world_frame"),
        (pose(""), {}, "leaves header.frame_id empty"),
        (pose("/"), {}, "leaves header.frame_id empty"),
        (pose("map", child_frame_id="/base"), {"pose_child_frame": "base"}, ""),
        (pose("map", child_frame_id="base"), {"pose_child_frame": "/base"}, ""),
        (pose("map", child_frame_id="anything"), {}, ""),
        (pose("map", child_frame_id="cam"), {"pose_child_frame": "base"}, "'cam'.*'base'"),
        (pose("map", child_frame_id=""), {"pose_child_frame": "base"}, "child_frame_id empty"),
    ],
)
def test_poses_of_another_frame_are_told(message, settings, words):
    import re

    fault = pose_frame_fault(message, "/pose", from_flat(settings))
    assert bool(fault) is bool(words)
    assert re.search(words, fault)
    if "empty" in words:
        assert "Set world_frame" not in fault  # it cannot be empty


# -- what is odd though it can be used


def watch(settings=(), topic="/rgb/image_raw", T_world_cam=None, **fields):
    """A watch after one frame, and what it said."""
    said = []
    message = info(**fields)
    watched = CameraWatch(from_flat(dict(settings)), said.append)
    look(watched, message, topic, T_world_cam)
    return watched, said, message


def look(watched, message, topic="/rgb/image_raw", T_world_cam=None):
    intrinsics = camera_of(message, SIZE).intrinsics
    frame = RgbdFrame(
        1, np.zeros((48, 64, 3), np.uint8), np.ones((48, 64), np.float32), intrinsics,
        np.eye(4) if T_world_cam is None else T_world_cam, "map",
    )  # fmt: skip
    messages = PosedSet(None, None, message, 1, frame.T_world_cam, (topic, "/depth", "/info"))
    watched.note(frame, messages)
    watched.judge_poses()


@pytest.mark.parametrize(
    ("topic", "d", "settings", "odd"),
    [
        ("/camera/image_rect_color", D, {}, True),
        ("/image_rect", D, {}, True),
        ("/camera/color/image_rect_raw/compressed", D, {}, True),
        ("/camera/image_rect_color", [0.0] * 5, {}, False),
        ("/camera/image_rect_color", D, {"camera.rectified": True}, False),
        ("/camera/image_raw", D, {}, False),
        ("/image_rect/image_raw", D, {}, False),
    ],
)
def test_a_topic_named_rectified_beside_a_lens_is_told_once(topic, d, settings, odd):
    watched, said, message = watch(settings, topic, d=d)
    look(watched, message, topic)
    assert len(said) == odd
    assert watched.complaints == tuple(said)
    assert not odd or "camera.rectified: true" in said[0]


@pytest.mark.parametrize(
    ("matrix", "odd"),
    [
        ((60, 60, 32, 24), False),
        ((60, 60, 45, 20), False),
        ((60, 60, 16, 24), False),
        ((60, 60, 15, 24), True),
        ((60, 60, 32, 40), True),
        ((30, 30, 16, 12), True),  # of half the size
        ((90, 90, 48, 36), True),  # of one and a half
    ],
)
def test_a_principal_point_far_from_the_middle_is_told_once(matrix, odd):
    watched, said, message = watch(matrix=matrix)
    look(watched, message)
    assert len(said) == odd
    assert not odd or f"about {2 * matrix[2]}x{2 * matrix[3]}" in said[0]
    look(watched, info())
    assert watched.complaints == ()  # as soon as it is mended


LEVEL = np.eye(4)
LEVEL[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]


def feed_poses(poses):
    said = []
    watched = CameraWatch(from_flat({}), said.append)
    said_at = 0
    for number, T in enumerate(poses, start=1):
        look(watched, info(), T_world_cam=T.copy())
        said_at = said_at or (number if said else 0)
    return watched, said, said_at


def test_a_body_frame_is_told_at_the_twentieth_frame_and_once():
    watched, said, said_at = feed_poses([np.eye(4)] * 70)
    assert (len(said), said_at) == (1, 20)
    assert "[-0.5, 0.5, -0.5, 0.5]" in said[0]
    assert (len(watched.complaints), watched.axes) == (1, CameraAxes.BODY)
    watched.clear()
    assert (watched.complaints, watched.axes) == ((), CameraAxes.UNKNOWN)


@pytest.mark.parametrize("order", ["first", "last", "mixed"])
@pytest.mark.parametrize("num_up", [0, 5, 19])
def test_a_camera_that_looks_up_now_and_then_is_not_told(num_up, order):
    poses = [np.eye(4)] * num_up + [LEVEL] * (40 - num_up)
    if order == "last":
        poses.reverse()
    if order == "mixed":
        poses = [poses[i] for i in np.random.default_rng(3).permutation(40)]
    assert feed_poses(poses)[1] == []


def test_poses_that_are_mended_are_told_no_more():
    watched, said, _ = feed_poses([np.eye(4)] * 20 + [LEVEL] * 60)
    assert len(said) == 1
    assert watched.complaints == ()
