"""Stamps inside serialised (CDR) messages, moved without deserialising where that is possible."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from rclpy.serialization import deserialize_message, serialize_message

from ada3d_ros.ros.conversions import ns_to_time
from ada3d_ros.sources.messages import header_stamp_ns

MAX_STAMP_NS = 2**31 * 1_000_000_000 - 1  # seconds are int32
ShiftStamps = Callable[[bytes, int], bytes]  # CDR bytes and nanoseconds -> CDR bytes


def starts_with_header(cls: Any) -> bool:
    """Whether the first field is a std_msgs/Header: its stamp has a fixed place in the bytes."""
    fields = list(cls.get_fields_and_field_types().values())
    return bool(fields) and fields[0] == "std_msgs/Header"


def stamp_shifter(cls: Any, type_name: str) -> ShiftStamps:
    """How the stamps of a message class are moved; what has none is passed on as it is."""
    if starts_with_header(cls):
        return shift_header_stamp
    if type_name == "tf2_msgs/msg/TFMessage":
        return lambda cdr, shift_ns: shift_transforms(cls, cdr, shift_ns)
    return lambda cdr, shift_ns: cdr


def shift_header_stamp(cdr: bytes, shift_ns: int) -> bytes:
    """CDR bytes with header.stamp moved by `shift_ns`, not below 0; a stamp of 0 stays.

    The stamp follows the 4-byte encapsulation header: int32 s, uint32 ns.
    """
    stamp_ns = header_stamp_ns(cdr)
    if stamp_ns == 0:
        return cdr  # not set: leave it visible as such
    order = "<" if cdr[1] & 1 else ">"
    stamp_ns = min(max(stamp_ns + shift_ns, 0), MAX_STAMP_NS)
    return cdr[:4] + struct.pack(f"{order}iI", *divmod(stamp_ns, 1_000_000_000)) + cdr[12:]


def shift_transforms(cls: Any, cdr: bytes, shift_ns: int) -> bytes:
    """The same for a TFMessage, whose stamps lie inside a list."""
    message = deserialize_message(cdr, cls)
    for transform in message.transforms:
        stamp = transform.header.stamp
        transform.header.stamp = ns_to_time(stamp.sec * 1_000_000_000 + stamp.nanosec + shift_ns)
    return bytes(serialize_message(message))
