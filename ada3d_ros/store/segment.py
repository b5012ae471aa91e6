"""A segment: one keyframe as an mcap that ordinary tools play, and that holds all there is to it.

Topics as `ada3d make-bag` names them: colour as JPEG (or PNG, exact), depth as PNG of 16 bits where
its readings are whole millimetres or may be rounded to them, else as 32FC1; camera_info, and the
pose of the optical frame. KEYFRAME_TOPIC has the exact rest as JSON: what cannot be told from
messages (index, reason, scene epoch, pose in full precision), and checksums: of each image, and of
that JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.writer import WriterError

from ada3d_ros.errors import Ada3DError, InvalidRequestError, SourceError, StoreError
from ada3d_ros.sources.bag_reader import BagReader
from ada3d_ros.sources.bag_writer import (
    DEPTH_TOPIC,
    INFO_TOPIC,
    MESSAGE_TYPES,
    POSE_TOPIC,
    RGB_COMPRESSED_TOPIC,
    camera_info,
    image_message,
    message_header,
    new_message,
    pose_message,
)
from ada3d_ros.sources.topics import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE, POSE_STAMPED
from ada3d_ros.store.keyframe_bytes import (
    checked_header,
    checked_size,
    decode_color,
    decode_millimetres,
    encode_jpeg,
    encode_millimetres,
    encode_png,
    keyframe_header,
    keyframe_of,
)
from ada3d_ros.types import Keyframe

Depth = npt.NDArray[np.float32]

KEYFRAME_TOPIC = "/ada3d/keyframe"
DEPTH_COMPRESSED_TOPIC = f"{DEPTH_TOPIC}/compressed"
STRING = "std_msgs/msg/String"
SUFFIX = ".mcap"
HEADER_CRC = "header_crc32"  # of the rest of the JSON; older segments have none
JPEG, PNG = "JPEG", "PNG"
FIELDS = {  # of the JSON, beside those of a keyframe on the wire
    "scene_epoch": (int,),
    "color": (str,),
    "color_crc32": (int,),
    "depth_crc32": (int,),
}


@dataclass(frozen=True, eq=False, slots=True)
class StoredKeyframe:
    """A keyframe read back, and the epoch of the scene that it was admitted to."""

    keyframe: Keyframe
    epoch: int


def segment_name(keyframe: Keyframe) -> str:
    """Of its stamp and index: names sort by time, and no two keyframes of a scene have the same."""
    return f"{keyframe.frame.stamp_ns:020d}-{keyframe.index:08d}{SUFFIX}"


def write_segment(
    folder: Path, keyframe: Keyframe, epoch: int, lossless: bool
) -> tuple[dict[str, Any], int]:
    """Write a keyframe's segment into `folder`: whole and on the disk, or not there. Its JSON, and
    its bytes. Raises StoreError, or OSError where the disk is full or read-only.
    """
    name = segment_name(keyframe)
    beside = folder / f".{name}"  # what a process that was killed left behind goes
    shutil.rmtree(beside, ignore_errors=True)
    try:
        written, header = _write(beside, keyframe, epoch, lossless)
        make_durable(written)
        size = written.stat().st_size
        written.rename(folder / name)
        make_durable(folder)
    except WriterError as error:
        raise StoreError(f"the segment {folder / name} cannot be written: {error}.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return header, size


def make_durable(path: Path) -> None:
    """What a file holds, or which names a folder holds, survives a power cut from now on."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _write(
    beside: Path, keyframe: Keyframe, epoch: int, lossless: bool
) -> tuple[Path, dict[str, Any]]:
    """The mcap in the new folder `beside`, not yet on the disk, and its JSON."""
    # Images.
    frame = keyframe.frame
    color = encode_png(frame.rgb) if lossless else encode_jpeg(frame.rgb)
    millimetres = encode_millimetres(frame.depth_m)
    size = frame.depth_m.shape
    exact = not lossless or _same(decode_millimetres(millimetres, size), frame.depth_m)
    depth = millimetres if exact else frame.depth_m.tobytes()

    # The rest.
    header = keyframe_header(keyframe) | {
        "scene_epoch": epoch,
        "color": PNG if lossless else JPEG,
        "color_crc32": zlib.crc32(color),
        "depth_crc32": zlib.crc32(depth),
    }
    header[HEADER_CRC] = header_crc(header)
    stamp_ns = frame.stamp_ns
    depth_ns = stamp_ns if frame.depth_stamp_ns is None else frame.depth_stamp_ns
    here, depth_here = (message_header(ns, frame.camera_frame_id) for ns in (stamp_ns, depth_ns))
    form = "rgb8; png compressed bgr8" if lossless else "rgb8; jpeg compressed bgr8"
    messages = [
        (KEYFRAME_TOPIC, STRING, new_message(STRING, data=json.dumps(header))),
        (INFO_TOPIC, CAMERA_INFO, camera_info(here, frame)),
        (POSE_TOPIC, POSE_STAMPED, pose_message(stamp_ns, frame.frame_id, frame.T_world_cam)),
        (RGB_COMPRESSED_TOPIC, COMPRESSED_IMAGE, _compressed(here, form, color)),
    ]
    if exact:
        told = _compressed(depth_here, "16UC1; png compressed ", depth)
        messages.append((DEPTH_COMPRESSED_TOPIC, COMPRESSED_IMAGE, told))
    else:
        raw = image_message(depth_here, "32FC1", frame.depth_m)
        messages.append((DEPTH_TOPIC, IMAGE, raw))

    # One bag of one file.
    bag = Writer(beside, version=9, storage_plugin=StoragePlugin.MCAP)
    bag.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with bag:
        for topic, kind, message in messages:
            connection = bag.add_connection(topic, kind, typestore=MESSAGE_TYPES)
            bag.write(connection, stamp_ns, bytes(MESSAGE_TYPES.serialize_cdr(message, kind)))
    return beside / f"{beside.name}.mcap", header


def header_crc(header: Mapping[str, Any]) -> int:
    """Of a segment's JSON without the checksum itself: pose, intrinsics, stamps."""
    rest = {name: value for name, value in header.items() if name != HEADER_CRC}
    return zlib.crc32(json.dumps(rest).encode("ascii"))


def _same(a: Depth, b: Depth) -> bool:
    """Bit by bit, but for which NaN says that there is no reading."""
    return bool(np.array_equal(a, b, equal_nan=True))


def _compressed(header: Any, form: str, data: bytes) -> Any:
    pixels = np.frombuffer(data, dtype=np.uint8)
    return new_message(COMPRESSED_IMAGE, header=header, format=form, data=pixels)


def read_segment(path: Path) -> StoredKeyframe:
    """The keyframe of a segment. Raises StoreError for a file that is none, or is damaged."""
    header, messages = _read(path, images=True)
    try:
        size = checked_size(header)
        color = bytes(_taken(messages, RGB_COMPRESSED_TOPIC).data)
        rgb = decode_color(color, header["color"], size)
        if DEPTH_TOPIC in messages:
            depth = bytes(messages[DEPTH_TOPIC].data)
            depth_m = np.frombuffer(depth, dtype="<f4").astype(np.float32).reshape(size)
        else:
            depth = bytes(_taken(messages, DEPTH_COMPRESSED_TOPIC).data)
            depth_m = decode_millimetres(depth, size)
        if (zlib.crc32(color), zlib.crc32(depth)) != (header["color_crc32"], header["depth_crc32"]):
            raise InvalidRequestError("its images are not those that were written.")
        return StoredKeyframe(keyframe_of(header, rgb, depth_m), header["scene_epoch"])
    except (Ada3DError, ValueError) as error:
        raise StoreError(_damaged(path, error)) from None


def read_header(path: Path) -> Mapping[str, Any]:
    """What a segment's JSON says, its images not looked at. Raises StoreError."""
    return _read(path, images=False)[0]


def _read(path: Path, images: bool) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The checked JSON, and the messages by topic: all, or without images."""
    try:
        with BagReader(path) as bag:
            topics = [c for c in bag.connections if images or c.topic == KEYFRAME_TOPIC]
            messages = {
                connection.topic: MESSAGE_TYPES.deserialize_cdr(data, connection.msgtype)
                for connection, _, data in bag.messages(topics)
            }
        header = checked_header(_taken(messages, KEYFRAME_TOPIC).data, FIELDS)
        if header.get(HEADER_CRC, crc := header_crc(header)) != crc:
            raise InvalidRequestError("its pose, camera or stamps are not those that were written.")
        if header["color"] not in (JPEG, PNG):
            raise InvalidRequestError(f"its colour is coded as {header['color']!r}.")
        return header, messages
    except SourceError as error:
        raise StoreError(_damaged(path, error)) from None
    except Exception as error:  # a damaged message makes the reader raise almost anything
        raise StoreError(_damaged(path, error)) from None


def _taken(messages: Mapping[str, Any], topic: str) -> Any:
    if topic not in messages:
        raise InvalidRequestError(f"it has no message on {topic}.")
    return messages[topic]


def _damaged(path: Path, error: Exception) -> str:
    return f"the keyframe {path} is left out, it is damaged: {' '.join(str(error).split())}"
