"""Writes RgbdFrames into a rosbag2 mcap, as an RGB-D camera and localisation would record them."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.writer import WriterError
from rosbags.typesys import Stores, get_typestore

from ada3d_ros.errors import SourceError
from ada3d_ros.geometry.pose import invert_pose, pose_from_quaternion, to_quaternion
from ada3d_ros.sources.topics import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE, POSE_STAMPED
from ada3d_ros.types import RgbdFrame

Matrix = npt.NDArray[np.float64]

RGB_TOPIC = "/camera/color/image_raw"
RGB_COMPRESSED_TOPIC = "/camera/color/image_raw/compressed"
DEPTH_TOPIC = "/camera/aligned_depth_to_color/image_raw"
INFO_TOPIC = "/camera/color/camera_info"
POSE_TOPIC = "/camera/pose"
BODY_FRAME = "camera_link"
TF_MESSAGE = "tf2_msgs/msg/TFMessage"

# REP 103: x forward to z forward.
T_BODY_OPTICAL = pose_from_quaternion((0.0, 0.0, 0.0), (-0.5, 0.5, -0.5, 0.5))
MAX_DEPTH_MM = 65535
FOREVER = QosTime(9223372036, 854775807)
LATCHED = Qos(
    QosHistory.KEEP_LAST,
    1,
    QosReliability.RELIABLE,
    QosDurability.TRANSIENT_LOCAL,
    FOREVER,
    FOREVER,
    QosLiveliness.AUTOMATIC,
    FOREVER,
    False,
)

_store = get_typestore(Stores.ROS2_JAZZY)


@dataclass(frozen=True, slots=True)
class BagOptions:
    """Colour as JPEG of jpeg_quality, or raw rgb8 (exact, about 20 times larger).

    distortion_model, D: of the images, as camera_info shall state it; the images stay as they are.
    """

    raw: bool = False
    jpeg_quality: int = 95
    overwrite: bool = False
    distortion_model: str = "plumb_bob"
    D: tuple[float, ...] = (0.0,) * 5


def write_bag(
    frames: Iterable[RgbdFrame], path: str | Path, options: BagOptions = BagOptions()
) -> int:
    """Writes the frames into a new bag folder and returns how many there were.

    Colour, depth (16UC1 millimetres: rounded to 1 mm, beyond 65.535 m none), camera_info, pose of
    the optical frame, /tf of the body frame and one /tf_static body to optical; everything stamped
    like the frame. Raises SourceError where the path exists (and overwrite is off), cannot be
    written, or no frame came; a bag without a frame is not left behind.
    """
    path, count = Path(path), 0
    _make_way(path, options.overwrite)

    # One static transform, then frame by frame.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            recorder = _Recorder(writer, options)
            for frame in frames:
                if count == 0:
                    recorder.write_static(frame)
                recorder.write(frame)
                count += 1
    except (OSError, WriterError) as error:
        raise SourceError(f"cannot write the bag {path}: {error}") from error

    # A bag without a frame goes again.
    if count == 0:
        shutil.rmtree(path)
        raise SourceError(f"no frame to write into {path}.")
    return count


def _make_way(path: Path, overwrite: bool) -> None:
    """Remove an older bag, nothing else. Raises SourceError where something stays in the way."""
    if not path.exists():
        return
    if not overwrite:
        raise SourceError(
            f"{path} exists already; choose another path, or overwrite it with --overwrite."
        )
    if not (path / "metadata.yaml").is_file():
        raise SourceError(f"{path} is not a bag (no metadata.yaml in it): it is not overwritten.")
    shutil.rmtree(path)


class _Recorder:
    """The bag's connections, and one frame's messages."""

    def __init__(self, writer: Writer, options: BagOptions) -> None:
        self._writer = writer
        self._options = options
        rgb = (RGB_TOPIC, IMAGE) if options.raw else (RGB_COMPRESSED_TOPIC, COMPRESSED_IMAGE)
        self._rgb = self._add(*rgb)
        self._depth = self._add(DEPTH_TOPIC, IMAGE)
        self._info = self._add(INFO_TOPIC, CAMERA_INFO)
        self._pose = self._add(POSE_TOPIC, POSE_STAMPED)
        self._tf = self._add("/tf", TF_MESSAGE)
        self._tf_static = self._add("/tf_static", TF_MESSAGE, (LATCHED,))

    def write_static(self, frame: RgbdFrame) -> None:
        transform = _transform(frame.stamp_ns, BODY_FRAME, frame.camera_frame_id, T_BODY_OPTICAL)
        self._write(self._tf_static, frame.stamp_ns, transform)

    def write(self, frame: RgbdFrame) -> None:
        # Where the camera is.
        stamp_ns, options = frame.stamp_ns, self._options
        T_world_body = frame.T_world_cam @ invert_pose(T_BODY_OPTICAL)
        transform = _transform(stamp_ns, frame.frame_id, BODY_FRAME, T_world_body)
        self._write(self._tf, stamp_ns, transform)
        self._write(self._pose, stamp_ns, _pose(frame))

        # What it recorded.
        header = _header(stamp_ns, frame.camera_frame_id)
        if options.raw:
            color = _image(header, "rgb8", frame.rgb)
        else:
            color = _jpeg(header, frame.rgb, options.jpeg_quality)
        info = camera_info(header, frame, options.distortion_model, options.D)
        self._write(self._info, stamp_ns, info)
        self._write(self._rgb, stamp_ns, color)
        self._write(self._depth, stamp_ns, _image(header, "16UC1", to_millimetres(frame.depth_m)))

    def _add(self, topic: str, kind: str, qos: tuple[Qos, ...] = ()) -> Connection:
        return self._writer.add_connection(topic, kind, typestore=_store, offered_qos_profiles=qos)

    def _write(self, connection: Connection, stamp_ns: int, message: Any) -> None:
        self._writer.write(connection, stamp_ns, _store.serialize_cdr(message, connection.msgtype))


def to_millimetres(depth_m: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """depth_m (H, W) float32 metres as uint16 millimetres, rounded.

    0 where NaN, negative or beyond 65.535 m.
    """
    mm = np.rint(depth_m.astype(np.float64) * 1000.0)
    valid = (mm >= 0) & (mm <= MAX_DEPTH_MM)  # false for NaN
    return np.where(valid, mm, 0).astype(np.uint16)


def _new(kind: str, **fields: Any) -> Any:
    return _store.types[kind](**fields)


def _header(stamp_ns: int, frame_id: str) -> Any:
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    stamp = _new("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)
    return _new("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)


def _vector(kind: str, values: Matrix) -> Any:
    return _new(f"geometry_msgs/msg/{kind}", **dict(zip("xyzw", map(float, values), strict=False)))


def _transform(stamp_ns: int, parent: str, child: str, T_parent_child: Matrix) -> Any:
    translation_m, quat = to_quaternion(T_parent_child)
    transform = _new(
        "geometry_msgs/msg/TransformStamped",
        header=_header(stamp_ns, parent),
        child_frame_id=child,
        transform=_new(
            "geometry_msgs/msg/Transform",
            translation=_vector("Vector3", translation_m),
            rotation=_vector("Quaternion", quat),
        ),
    )
    return _new(TF_MESSAGE, transforms=[transform])


def _pose(frame: RgbdFrame) -> Any:
    translation_m, quat = to_quaternion(frame.T_world_cam)
    pose = _new(
        "geometry_msgs/msg/Pose",
        position=_vector("Point", translation_m),
        orientation=_vector("Quaternion", quat),
    )
    return _new(POSE_STAMPED, header=_header(frame.stamp_ns, frame.frame_id), pose=pose)


def camera_info(
    header: Any, frame: RgbdFrame, model: str = "plumb_bob", D: tuple[float, ...] = (0.0,) * 5
) -> Any:
    """The CameraInfo of the frame's camera, by default without distortion: the whole image."""
    # Once rectified, with the same K and without a rotation: P holds K.
    K = frame.intrinsics.matrix
    region = _new(
        "sensor_msgs/msg/RegionOfInterest",
        x_offset=0,
        y_offset=0,
        height=0,
        width=0,
        do_rectify=False,
    )
    return _new(
        CAMERA_INFO,
        header=header,
        height=frame.intrinsics.height,
        width=frame.intrinsics.width,
        distortion_model=model,
        d=np.array(D, dtype=np.float64),
        k=K.ravel(),
        r=np.eye(3).ravel(),
        p=np.hstack((K, np.zeros((3, 1)))).ravel(),
        binning_x=0,
        binning_y=0,
        roi=region,
    )


def _image(header: Any, encoding: str, pixels: npt.NDArray[Any]) -> Any:
    little = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
    data = np.frombuffer(little.tobytes(), dtype=np.uint8)
    height, width = pixels.shape[:2]
    return _new(
        IMAGE,
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=data.size // height,
        data=data,
    )


def _jpeg(header: Any, rgb: npt.NDArray[np.uint8], quality: int) -> Any:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality)
    data = np.frombuffer(buffer.getvalue(), dtype=np.uint8)
    return _new(COMPRESSED_IMAGE, header=header, format="rgb8; jpeg compressed bgr8", data=data)
