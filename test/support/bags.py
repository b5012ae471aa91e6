"""Small recordings for tests: rosbag2 folders by rosbags, and plain mcap files with any channel."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

SECOND = 10**9
WIDTH, HEIGHT = 64, 48
START_NS = 1_700_000_000 * SECOND
STORE = get_typestore(Stores.ROS2_JAZZY)
RGB, DEPTH, INFO, POSE = "/rgb/image", "/depth/image", "/rgb/camera_info", "/pose"
TYPES = {
    POSE: "geometry_msgs/msg/PoseStamped",
    INFO: "sensor_msgs/msg/CameraInfo",
    RGB: "sensor_msgs/msg/Image",
    DEPTH: "sensor_msgs/msg/Image",
}
Row = tuple[str, int, bytes]  # topic, bag time, CDR bytes


def header(stamp_ns: int, frame_id: str = "camera") -> Any:
    stamp = STORE.types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, SECOND))
    return STORE.types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


def message_of(topic: str, stamp_ns: int, number: int) -> bytes:
    """Frame `number` of a camera that moves along x before a wall, as one topic has it."""
    new = {name.rpartition("/")[2]: kind for name, kind in STORE.types.items()}
    if topic == POSE:
        pose = new["Pose"](
            position=new["Point"](x=0.3 * number, y=0.0, z=1.2),
            orientation=new["Quaternion"](x=-0.5, y=0.5, z=-0.5, w=0.5),
        )
        message = new["PoseStamped"](header=header(stamp_ns, "map"), pose=pose)
    elif topic == INFO:
        K = np.array([[60.0, 0.0, WIDTH / 2], [0.0, 60.0, HEIGHT / 2], [0.0, 0.0, 1.0]])
        region = new["RegionOfInterest"](0, 0, 0, 0, False)
        P = np.hstack((K, np.zeros((3, 1)))).ravel()
        size, model = (HEIGHT, WIDTH), ("plumb_bob", np.zeros(5))
        message = new["CameraInfo"](
            header(stamp_ns), *size, *model, K.ravel(), np.eye(3).ravel(), P, 0, 0, region
        )
    else:
        color = np.full((HEIGHT, WIDTH, 3), 10 + 20 * number % 240, np.uint8)
        depth = np.full((HEIGHT, WIDTH), 3000 - 100 * (number % 20), np.uint16)
        pixels, encoding = (color, "rgb8") if topic == RGB else (depth, "16UC1")
        data = np.frombuffer(pixels.tobytes(), np.uint8)
        message = new["Image"](
            header(stamp_ns), HEIGHT, WIDTH, encoding, 0, pixels.strides[0], data
        )
    return bytes(STORE.serialize_cdr(message, TYPES[topic]))


def rows(
    count: int = 6, hz: float = 10.0, start_ns: int = START_NS, stamps_ahead_ns: int = 0
) -> list[Row]:
    """Frames, poses first; their stamps lead the bag's time by `stamps_ahead_ns`."""
    return [
        (topic, bag_ns, message_of(topic, bag_ns + stamps_ahead_ns, number))
        for number in range(count)
        for bag_ns in [start_ns + round(number * SECOND / hz)]
        for topic in TYPES
    ]


def record(
    folder: Path,
    recorded: Sequence[Row],
    storage: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode = CompressionMode.NONE,
) -> Path:
    """A rosbag2 folder."""
    writer = Writer(folder, version=9, storage_plugin=storage)
    writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        connections = {
            topic: writer.add_connection(topic, kind, typestore=STORE)
            for topic, kind in TYPES.items()
        }
        for topic, bag_ns, data in recorded:
            writer.write(connections[topic], bag_ns, data)
    return folder


# -- a plain mcap file: no chunks, no summary


def _text(value: str) -> bytes:
    return struct.pack("<I", len(value.encode())) + value.encode()


def _record(kind: int, body: bytes) -> bytes:
    return struct.pack("<BQ", kind, len(body)) + body


def write_mcap(
    path: Path,
    recorded: Sequence[Row],
    foreign: Iterable[tuple[str, str, str, str, bytes]] = (),
    types: dict[str, str] = TYPES,
    profile: str = "ros2",
) -> Path:
    """`foreign` channels, one message each: topic, schema name ('' = no schema), schema encoding,
    message encoding, schema data.
    """
    # Channels.
    out = [b"\x89MCAP0\r\n", _record(1, _text(profile) + _text("test"))]
    channels = [
        (topic, kind, "ros2msg", "cdr", STORE.generate_msgdef(kind, ros_version=2)[0].encode())
        for topic, kind in types.items()
    ]
    foreign = list(foreign)
    numbers: dict[str, int] = {}
    for number, (topic, schema, schema_encoding, encoding, data) in enumerate(
        [*channels, *foreign], start=1
    ):
        if schema:
            content = _text(schema) + _text(schema_encoding) + struct.pack("<I", len(data)) + data
            out.append(_record(3, struct.pack("<H", number) + content))
        content = _text(topic) + _text(encoding) + struct.pack("<I", 0)
        out.append(_record(4, struct.pack("<HH", number, number if schema else 0) + content))
        numbers.setdefault(topic, number)

    # Messages, the foreign ones first.
    first_ns = recorded[0][1]
    sent = [(len(channels) + i, first_ns, b'{"a": 1}') for i in range(1, len(foreign) + 1)]
    sent += [(numbers[topic], bag_ns, data) for topic, bag_ns, data in recorded]
    for number, bag_ns, data in sent:
        stamps = struct.pack("<HIQQ", number, 0, bag_ns, bag_ns)
        out.append(_record(5, stamps + data))
    out += [_record(15, bytes(4)), _record(2, bytes(20)), b"\x89MCAP0\r\n"]
    path.write_bytes(b"".join(out))
    return path
