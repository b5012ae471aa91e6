"""Stamps inside serialised (CDR) messages, moved without deserialising where that is possible."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from rclpy.serialization import deserialize_message, serialize_message

from ada3d_ros.ros.conversions import ns_to_time
from ada3d_ros.sources.messages import header_stamp_ns

MAX_STAMP_NS = 2**31 * 1_000_000_000 - 1  # seconds are int32


class StampCodec(NamedTuple):
    """How the stamps of one message type are read and moved.

    first_ns: CDR bytes -> its first stamp in ns, 0 where it has none. shift: CDR bytes and
    nanoseconds -> CDR bytes with every stamp moved.
    """

    first_ns: Callable[[bytes], int]
    shift: Callable[[bytes, int], bytes]


def starts_with_header(cls: Any) -> bool:
    """Whether the first field is a std_msgs/Header: its stamp has a fixed place in the bytes."""
    fields = list(cls.get_fields_and_field_types().values())
    return bool(fields) and fields[0] == "std_msgs/Header"


def stamp_codec(cls: Any, type_name: str) -> StampCodec:
    """For a message class; what has no stamps is passed on as it is."""
    if starts_with_header(cls):
        return StampCodec(header_stamp_ns, shift_header_stamp)
    if type_name == "tf2_msgs/msg/TFMessage":
        return StampCodec(
            first_transform_ns, lambda cdr, shift_ns: shift_transforms(cls, cdr, shift_ns)
        )
    return StampCodec(lambda cdr: 0, lambda cdr, shift_ns: cdr)


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


def first_transform_ns(cdr: bytes) -> int:
    """The stamp of the first transform of a TFMessage; 0 without one.

    The number of transforms (uint32) lies between encapsulation header and the first of them.
    """
    empty = cdr[4:8] == bytes(4)
    return 0 if empty else header_stamp_ns(cdr[:4] + cdr[8:])


def shift_transforms(cls: Any, cdr: bytes, shift_ns: int) -> bytes:
    """The same for a TFMessage, whose stamps lie inside a list; damaged bytes stay as they are."""
    try:
        message = deserialize_message(cdr, cls)
    except Exception:  # rclpy's own, of the middleware
        return cdr
    for transform in message.transforms:
        stamp = transform.header.stamp
        stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
        if stamp_ns:  # else not set: leave it visible as such
            moved_ns = min(max(stamp_ns + shift_ns, 0), MAX_STAMP_NS)
            transform.header.stamp = ns_to_time(moved_ns)
    return bytes(serialize_message(message))
