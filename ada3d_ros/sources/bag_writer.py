"""Writes RgbdFrames into a rosbag2 mcap, as an RGB-D camera and localisation would record them."""

from __future__ import annotations

import heapq
import io
import shutil
import tempfile
from collections.abc import Iterable, Sequence
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
MAX_DEPTH_MM = 65534  # 65535 marks a missing reading
REORDER_NS = 1_000_000_000  # a frame's own stamps are nearer to each other than this
STORAGE_SUFFIXES = (".mcap", ".db3")
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

MESSAGE_TYPES = get_typestore(Stores.ROS2_JAZZY)


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
    frames: Iterable[RgbdFrame],
    path: str | Path,
    options: BagOptions = BagOptions(),
    trajectory: Sequence[tuple[int, Matrix]] = (),
) -> int:
    """Writes the frames into a new bag folder and returns how many there were.

    Colour, depth (16UC1 millimetres: rounded to 1 mm, beyond 65.534 m none; with its own stamp
    where it has one), camera_info, pose of the optical frame, /tf of the body frame and one
    /tf_static body to optical; everything else stamped like the frame. trajectory: (stamp_ns,
    T_world_cam) in rising order, written instead of the frames' poses. Raises SourceError where the
    path exists (and overwrite is off), cannot be written, or no frame came; whatever fails, nothing
    is left behind and an older bag stays.
    """
    # Into a folder beside it, so that a bag is whole or not there.
    path = Path(path)
    _check_free(path, options.overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise SourceError(f"cannot write the bag {path}: {error}") from error
    try:
        # Frame by frame.
        with Writer(beside / path.name, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            recorder = _Recorder(writer, options, trajectory)
            for frame in frames:
                recorder.write(frame)
            recorder.finish()
        if recorder.num_frames == 0:
            raise SourceError(f"no frame to write into {path}.")

        # In the place of an older one.
        if path.exists():
            shutil.rmtree(path)
        (beside / path.name).rename(path)
    except (OSError, WriterError) as error:
        raise SourceError(f"cannot write the bag {path}: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return recorder.num_frames


def _check_free(path: Path, overwrite: bool) -> None:
    """Raises SourceError where something is at the path that must not be overwritten."""
    if not path.exists():
        return
    if not overwrite:
        raise SourceError(
            f"{path} exists already; choose another path, or overwrite it with --overwrite."
        )
    files = [file.name for file in path.iterdir()] if path.is_dir() else []
    is_half = bool(files) and all(name.endswith(STORAGE_SUFFIXES) for name in files)
    if not is_half and "metadata.yaml" not in files:
        raise SourceError(f"{path} is not a bag (no metadata.yaml in it): it is not overwritten.")


class _Recorder:
    """The bag's connections, and one frame's messages."""

    def __init__(
        self, writer: Writer, options: BagOptions, trajectory: Sequence[tuple[int, Matrix]]
    ) -> None:
        self._writer = writer
        self._options = options
        self.num_frames = 0
        self._has_trajectory = bool(trajectory)
        self._poses = list(reversed(trajectory))  # the next one is the last
        self._world = ""
        self._waiting: list[tuple[int, int, Connection, bytes]] = []  # a heap by stamp
        self._num_messages = 0
        rgb = (RGB_TOPIC, IMAGE) if options.raw else (RGB_COMPRESSED_TOPIC, COMPRESSED_IMAGE)
        self._rgb = self._add(*rgb)
        self._depth = self._add(DEPTH_TOPIC, IMAGE)
        self._info = self._add(INFO_TOPIC, CAMERA_INFO)
        self._pose = self._add(POSE_TOPIC, POSE_STAMPED)
        self._tf = self._add("/tf", TF_MESSAGE)
        self._tf_static = self._add("/tf_static", TF_MESSAGE, (LATCHED,))

    def write(self, frame: RgbdFrame) -> None:
        # Where the camera is.
        stamp_ns, options = frame.stamp_ns, self._options
        if self.num_frames == 0:
            self._write_static(frame)
        if not self._has_trajectory:
            self._poses.append((stamp_ns, frame.T_world_cam))
        self._write_poses(stamp_ns)

        # What it recorded.
        header = message_header(stamp_ns, frame.camera_frame_id)
        if options.raw:
            color = image_message(header, "rgb8", frame.rgb)
        else:
            color = _jpeg(header, frame.rgb, options.jpeg_quality)
        info = camera_info(header, frame, options.distortion_model, options.D)
        self._write(self._info, stamp_ns, info)
        self._write(self._rgb, stamp_ns, color)
        depth_ns = stamp_ns if frame.depth_stamp_ns is None else frame.depth_stamp_ns
        header = message_header(depth_ns, frame.camera_frame_id)
        self._write(
            self._depth, depth_ns, image_message(header, "16UC1", to_millimetres(frame.depth_m))
        )
        self.num_frames += 1
        self._flush(stamp_ns - REORDER_NS)

    def finish(self) -> None:
        """The rest of the trajectory, and what waits."""
        if self.num_frames:
            self._write_poses(None)
        self._flush(None)

    def _write_static(self, frame: RgbdFrame) -> None:
        first_ns = min([frame.stamp_ns, *(stamp_ns for stamp_ns, _ in self._poses[-1:])])
        self._world = frame.frame_id
        transform = _transform(first_ns, BODY_FRAME, frame.camera_frame_id, T_BODY_OPTICAL)
        self._write(self._tf_static, first_ns, transform)

    def _write_poses(self, until_ns: int | None) -> None:
        """The poses up to a stamp; None: all."""
        while self._poses and (until_ns is None or self._poses[-1][0] <= until_ns):
            stamp_ns, T_world_cam = self._poses.pop()
            T_world_body = T_world_cam @ invert_pose(T_BODY_OPTICAL)
            self._write(
                self._tf, stamp_ns, _transform(stamp_ns, self._world, BODY_FRAME, T_world_body)
            )
            self._write(self._pose, stamp_ns, pose_message(stamp_ns, self._world, T_world_cam))

    def _add(self, topic: str, kind: str, qos: tuple[Qos, ...] = ()) -> Connection:
        return self._writer.add_connection(
            topic, kind, typestore=MESSAGE_TYPES, offered_qos_profiles=qos
        )

    def _write(self, connection: Connection, stamp_ns: int, message: Any) -> None:
        data = bytes(MESSAGE_TYPES.serialize_cdr(message, connection.msgtype))
        heapq.heappush(self._waiting, (stamp_ns, self._num_messages, connection, data))
        self._num_messages += 1

    def _flush(self, until_ns: int | None) -> None:
        """Into the bag, in the order of stamps, what is older than a stamp; None: all."""
        while self._waiting and (until_ns is None or self._waiting[0][0] < until_ns):
            stamp_ns, _, connection, data = heapq.heappop(self._waiting)
            self._writer.write(connection, stamp_ns, data)


def to_millimetres(depth_m: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """depth_m (H, W) float32 metres as uint16 millimetres, rounded.

    0 where NaN, negative or beyond 65.534 m.
    """
    mm = np.rint(depth_m.astype(np.float64) * 1000.0)
    valid = (mm >= 0) & (mm <= MAX_DEPTH_MM)  # false for NaN
    return np.where(valid, mm, 0).astype(np.uint16)


def new_message(kind: str, **fields: Any) -> Any:
    return MESSAGE_TYPES.types[kind](**fields)


def message_header(stamp_ns: int, frame_id: str) -> Any:
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    stamp = new_message("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)
    return new_message("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)


def _vector(kind: str, values: Matrix) -> Any:
    return new_message(
        f"geometry_msgs/msg/{kind}", **dict(zip("xyzw", map(float, values), strict=False))
    )


def _transform(stamp_ns: int, parent: str, child: str, T_parent_child: Matrix) -> Any:
    translation_m, quat = to_quaternion(T_parent_child)
    transform = new_message(
        "geometry_msgs/msg/TransformStamped",
        header=message_header(stamp_ns, parent),
        child_frame_id=child,
        transform=new_message(
            "geometry_msgs/msg/Transform",
            translation=_vector("Vector3", translation_m),
            rotation=_vector("Quaternion", quat),
        ),
    )
    return new_message(TF_MESSAGE, transforms=[transform])


def pose_message(stamp_ns: int, frame_id: str, T_world_cam: Matrix) -> Any:
    translation_m, quat = to_quaternion(T_world_cam)
    pose = new_message(
        "geometry_msgs/msg/Pose",
        position=_vector("Point", translation_m),
        orientation=_vector("Quaternion", quat),
    )
    return new_message(POSE_STAMPED, header=message_header(stamp_ns, frame_id), pose=pose)


def camera_info(
    header: Any, frame: RgbdFrame, model: str = "plumb_bob", D: tuple[float, ...] = (0.0,) * 5
) -> Any:
    """The CameraInfo of the frame's camera, by default without distortion: the whole image."""
    # Once rectified, with the same K and without a rotation: P holds K.
    K = frame.intrinsics.matrix
    region = new_message(
        "sensor_msgs/msg/RegionOfInterest",
        x_offset=0,
        y_offset=0,
        height=0,
        width=0,
        do_rectify=False,
    )
    return new_message(
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


def image_message(header: Any, encoding: str, pixels: npt.NDArray[Any]) -> Any:
    little = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
    data = np.frombuffer(little.tobytes(), dtype=np.uint8)
    height, width = pixels.shape[:2]
    return new_message(
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
    return new_message(
        COMPRESSED_IMAGE, header=header, format="rgb8; jpeg compressed bgr8", data=data
    )
