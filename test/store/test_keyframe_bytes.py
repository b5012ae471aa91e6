"""Keyframes on the wire: small, as they were to the millimetre, and nothing else is taken."""

from __future__ import annotations

import json
import struct
from contextlib import suppress

import cv2
import numpy as np
import pytest

from ada3d_ros.errors import InvalidRequestError
from ada3d_ros.store.keyframe_bytes import MAGIC, pack_keyframe, unpack_keyframe
from ada3d_ros.types import Intrinsics, Keyframe, KeyframeReason, RgbdFrame

WIDTH, HEIGHT = 64, 48


def make_keyframe(seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> Keyframe:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    rgb = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    depth = random.uniform(0.3, 9.0, (height, width)).astype(np.float32)
    depth[:5] = np.nan
    pose = np.eye(4)
    pose[:3, 3] = 1.23456789, -2.5, 0.75
    camera = Intrinsics(60.0, 61.0, 31.5, 23.5, width, height)
    frame = RgbdFrame(1_790_000_000_123_456_789, rgb, depth, camera, pose, "map", "optical", 7)
    return Keyframe(frame, 12, KeyframeReason.ROTATION)


def test_a_keyframe_comes_back_as_it_was_to_the_millimetre() -> None:
    sent = make_keyframe()
    back = unpack_keyframe(pack_keyframe(sent))
    assert (back.index, back.reason) == (12, KeyframeReason.ROTATION)
    ours, theirs = back.frame, sent.frame
    assert ours.stamp_ns == theirs.stamp_ns
    assert ours.depth_stamp_ns == 7
    assert (ours.frame_id, ours.camera_frame_id) == ("map", "optical")
    assert ours.intrinsics == theirs.intrinsics
    assert np.array_equal(ours.T_world_cam, theirs.T_world_cam)
    assert np.array_equal(np.isnan(ours.depth_m), np.isnan(theirs.depth_m))
    assert np.nanmax(np.abs(ours.depth_m - theirs.depth_m)) <= 0.5e-3 + np.spacing(np.float32(9.0))
    assert np.abs(ours.rgb.astype(int) - theirs.rgb).mean() < 4.0


def test_packing_what_was_unpacked_changes_no_depth() -> None:
    once = unpack_keyframe(pack_keyframe(make_keyframe()))
    twice = unpack_keyframe(pack_keyframe(once))
    assert np.array_equal(once.frame.depth_m, twice.frame.depth_m, equal_nan=True)


def test_depth_out_of_what_sixteen_bits_hold_is_no_reading() -> None:
    keyframe = make_keyframe()
    depth = keyframe.frame.depth_m.copy()
    depth[10, :4] = 65.535, 65.6, -1.0, np.inf
    frame = RgbdFrame(1, keyframe.frame.rgb, depth, keyframe.frame.intrinsics, np.eye(4), "map")
    back = unpack_keyframe(pack_keyframe(Keyframe(frame, 0, KeyframeReason.FIRST)))
    assert back.frame.depth_m[10, 0] == pytest.approx(65.535)
    assert np.isnan(back.frame.depth_m[10, 1:4]).all()


def changed_header(data: bytes, **fields: object) -> bytes:
    start = len(MAGIC) + 4
    (length,) = struct.unpack(">I", data[len(MAGIC) : start])
    header = json.loads(data[start : start + length]) | fields
    text = json.dumps(header).encode()
    return MAGIC + struct.pack(">I", len(text)) + text + data[start + length :]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.3, 0.6, 0.9, 0.999])
def test_a_part_of_a_keyframe_is_refused(share: float) -> None:
    data = pack_keyframe(make_keyframe())
    with pytest.raises(InvalidRequestError):
        unpack_keyframe(data[: int(share * len(data))])


@pytest.mark.parametrize("seed", range(40))
def test_bytes_that_were_changed_raise_nothing_else(seed: int) -> None:
    random = np.random.default_rng(seed)
    data = bytearray(pack_keyframe(make_keyframe()))
    for place in random.integers(0, 700, 8):  # the header, where every byte has a meaning
        data[place] = int(random.integers(0, 256))
    with suppress(InvalidRequestError):
        unpack_keyframe(bytes(data))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"stamp_ns": 0}, "a stamp that is not set"),
        ({"stamp_ns": "now"}, "stamp_ns = 'now'"),
        ({"index": True}, "index = True"),
        ({"reason": "magic"}, "'magic' is not a valid"),
        ({"T_world_cam": [[1, 0], [0, 1]]}, "does not fit"),
        ({"T_world_cam": [["a"] * 4] * 4}, "does not fit"),
        ({"T_world_cam": np.diag([1.0, 1.0, 3.0, 1.0]).tolist()}, "does not fit"),
        ({"intrinsics": {}}, "intrinsics lacks 'fx'"),
        ({"jpeg_bytes": -1}, "negative"),
    ],
)
def test_a_header_that_lies_is_named(fields: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        unpack_keyframe(changed_header(pack_keyframe(make_keyframe()), **fields))
    assert says in str(raised.value)


def test_images_must_have_the_camera_s_size() -> None:
    camera = {"fx": 60, "fy": 60, "cx": 1.0, "cy": 1.0, "width": 20, "height": 10}
    with pytest.raises(InvalidRequestError, match="is 64x48 px, its camera 20x10"):
        unpack_keyframe(changed_header(pack_keyframe(make_keyframe()), intrinsics=camera))


def test_a_large_image_in_few_bytes_is_refused_before_it_is_decoded() -> None:
    camera = {"fx": 60, "fy": 60, "cx": 1.0, "cy": 1.0, "width": 5000, "height": 5000}
    with pytest.raises(InvalidRequestError, match="allowed: up to 4096"):
        unpack_keyframe(changed_header(pack_keyframe(make_keyframe()), intrinsics=camera))
