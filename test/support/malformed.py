"""Hypothesis strategies of camera messages as broken drivers, bridges and recorders send them.

Each draws a list of (input, content): the name of an input of `ros_harness.TOPICS` and either a
message whose fields were changed, or the CDR bytes of a message, damaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st
from rclpy.serialization import serialize_message

from test.support.ros_harness import TOPICS, frame_messages

SECOND_NS = 1_000_000_000
UINT32_MAX = 2**32 - 1

any_float = st.one_of(
    st.floats(width=64),
    st.sampled_from((0.0, -0.0, math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324)),
)
any_uint32 = st.one_of(
    st.integers(0, UINT32_MAX), st.sampled_from((0, 1, 119, 160, 161, 2**31, UINT32_MAX))
)
# ROS strings end at the first NUL and are UTF-8, which cannot hold surrogates
any_text = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40)
any_encoding = st.one_of(
    any_text,
    st.sampled_from(
        (
            *(
                "",
                "rgb8",
                "bgra8",
                "mono16",
                "16UC1",
                "32FC1",
                "64FC1",
                "8UC3",
                "8UC99",
                "bayer_rggb8",
            ),
            *("yuv422", "nv12", "RGB8", "16uc1", "16SC1", "rgb16", "jpeg", "compressedDepth"),
        )
    ),
)
any_model = st.one_of(
    any_text,
    st.sampled_from(("", "plumb_bob", "rational_polynomial", "equidistant", "fisheye", "double")),
)


def set_stamp(draw: st.DrawFn, message: Any) -> None:
    message.header.stamp.sec = draw(st.integers(-(2**31), 2**31 - 1))
    message.header.stamp.nanosec = draw(any_uint32)


def set_frame(draw: st.DrawFn, message: Any) -> None:
    message.header.frame_id = draw(any_text)


def set_size(draw: st.DrawFn, message: Any) -> None:
    message.height, message.width = draw(any_uint32), draw(any_uint32)


def set_step(draw: st.DrawFn, message: Any) -> None:
    message.step = draw(any_uint32)


def set_encoding(draw: st.DrawFn, message: Any) -> None:
    message.encoding = draw(any_encoding)


def set_endianness(draw: st.DrawFn, message: Any) -> None:
    message.is_bigendian = draw(st.integers(0, 255))


def cut_data(draw: st.DrawFn, message: Any) -> None:
    message.data = bytes(message.data)[: draw(st.integers(0, len(message.data)))]


def fill_data(draw: st.DrawFn, message: Any) -> None:
    """The same byte everywhere, also where a depth image then has no or odd readings."""
    message.data = bytes([draw(st.integers(0, 255))]) * len(message.data)


def set_matrix(draw: st.DrawFn, message: Any) -> None:
    k = [float(value) for value in message.k]
    for _ in range(draw(st.integers(1, 9))):
        k[draw(st.integers(0, 8))] = draw(any_float)
    message.k = k


def set_distortion(draw: st.DrawFn, message: Any) -> None:
    message.distortion_model = draw(any_model)
    message.d = draw(st.lists(any_float, max_size=20))


def set_roi(draw: st.DrawFn, message: Any) -> None:
    roi = message.roi
    roi.x_offset, roi.y_offset = draw(any_uint32), draw(any_uint32)
    roi.width, roi.height = draw(any_uint32), draw(any_uint32)
    roi.do_rectify = draw(st.booleans())


def set_binning(draw: st.DrawFn, message: Any) -> None:
    message.binning_x, message.binning_y = draw(any_uint32), draw(any_uint32)


def set_rectified_matrix(draw: st.DrawFn, message: Any) -> None:
    message.p = draw(st.lists(any_float, min_size=12, max_size=12))


def set_position(draw: st.DrawFn, message: Any) -> None:
    point = message.pose.position
    point.x, point.y, point.z = draw(any_float), draw(any_float), draw(any_float)


def set_orientation(draw: st.DrawFn, message: Any) -> None:
    q = message.pose.orientation
    q.x, q.y, q.z, q.w = (draw(any_float) for _ in range(4))


HEADER = (set_stamp, set_frame)
PIXELS = (set_size, set_step, set_encoding, set_endianness, cut_data, fill_data)
CHANGES: dict[str, tuple[Callable[[st.DrawFn, Any], None], ...]] = {
    "rgb": HEADER + PIXELS,
    "depth": HEADER + PIXELS,
    "info": (
        *HEADER,
        *(set_size, set_matrix, set_distortion, set_roi, set_binning, set_rectified_matrix),
    ),
    "pose": (*HEADER, set_position, set_orientation),
}


def damage(draw: st.DrawFn, content: bytes) -> bytes:
    """CDR bytes that are cut, longer, changed here and there, or hold a length of 2 GB."""
    kind = draw(st.sampled_from(("cut", "longer", "changed", "huge length")))
    if kind == "cut":
        return content[: draw(st.integers(0, len(content) - 1))]
    if kind == "longer":
        return content + draw(st.binary(min_size=1, max_size=64))

    damaged = bytearray(content)
    head = min(len(damaged), 400)  # header and fields stand before the pixels
    if kind == "huge length":
        start = 4 * draw(st.integers(1, head // 4 - 1))
        damaged[start : start + 4] = b"\xff\xff\xff\x7f"
    else:
        for _ in range(draw(st.integers(1, 8))):
            damaged[draw(st.integers(0, head - 1))] = draw(st.integers(0, 255))
    return bytes(damaged)


@st.composite
def malformed_messages(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """One (input, message or damaged bytes), alone, stamped within two minutes of the others."""
    name = draw(st.sampled_from(tuple(TOPICS)))
    message = frame_messages(draw(st.integers(1, 120 * 10)) * SECOND_NS // 10)[name]
    if draw(st.booleans()):
        return [(name, damage(draw, bytes(serialize_message(message))))]
    for change in draw(st.lists(st.sampled_from(CHANGES[name]), min_size=1, max_size=3)):
        change(draw, message)
    return [(name, message)]


@st.composite
def spoiled_frames(draw: st.DrawFn, stamps: Iterator[int]) -> list[tuple[str, Any]]:
    """All four messages of a frame, one of them spoiled in all but its stamp.

    So it finds its partners and gets as far as it can. stamps: ns of each frame, rising.
    """
    messages = frame_messages(next(stamps))
    name = draw(st.sampled_from(tuple(TOPICS)))
    changes = [change for change in CHANGES[name] if change is not set_stamp]
    for change in draw(st.lists(st.sampled_from(changes), min_size=1, max_size=3)):
        change(draw, messages[name])
    return list(messages.items())
