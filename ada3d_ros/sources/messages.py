"""Camera messages to an RgbdFrame: decode, compare, undistort.

By field names only, so that rosbags' and rclpy's messages both serve; imports neither.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ada3d_ros.config import AgentConfig, DepthConfig
from ada3d_ros.errors import FrameError, FrameReason
from ada3d_ros.geometry.camera import undistort_color, undistort_depth
from ada3d_ros.geometry.pose import pose_from_quaternion
from ada3d_ros.sources.camera_info import camera_of, describe_size
from ada3d_ros.sources.images import (
    RawImage,
    check_valid_fraction,
    color_pixels,
    decode_color,
    decode_compressed_color,
    decode_compressed_depth,
    decode_depth,
    depth_in_metres,
    depth_pixels,
)
from ada3d_ros.types import RgbdFrame


@dataclass(frozen=True, eq=False, slots=True)
class PosedSet:
    """Messages of one moment and the camera pose of that moment.

    T_world_cam (4, 4) float64: of the optical frame. topics: of colour, depth and camera_info.
    """

    rgb: Any
    depth: Any
    info: Any
    stamp_ns: int
    T_world_cam: npt.NDArray[np.float64]
    topics: tuple[str, str, str]


class ImageBridge(Protocol):
    """cv_bridge.CvBridge, as far as it is needed here: raw Image messages to arrays."""

    def imgmsg_to_cv2(
        self, img_msg: Any, desired_encoding: str = "passthrough"
    ) -> npt.NDArray[Any]: ...


def frame_of(
    messages: PosedSet, config: AgentConfig, bridge: ImageBridge | None = None
) -> RgbdFrame:
    """One undistorted frame in `world_frame`, stamped like the colour image.

    Raises FrameError for every message that cannot be used: frames or sizes that differ, bad
    intrinsics or distortion, undecodable pixels, implausible units, too little valid depth.
    """
    # All three of one camera.
    camera_frame, info = _camera_frame(messages), messages.info

    # Pixels of one size.
    rgb, depth_m = color_of(messages.rgb, bridge), depth_of(messages.depth, config.depth, bridge)
    height, width = rgb.shape[:2]
    if depth_m.shape != (height, width):
        raise FrameError(
            FrameReason.BAD_SIZE,
            f"depth is {depth_m.shape[1]}x{depth_m.shape[0]}, colour {width}x{height}: they must be"
            f" equal, align depth to colour (realsense: align_depth.enable:=true). {_INFO} is of"
            f" {describe_size(info)}.",
        )
    camera = camera_of(info, (width, height), config.camera.rectified)

    # A pinhole image with enough depth; depth first, which may be refused.
    intrinsics, lens = camera.intrinsics, (camera.model, camera.D)
    depth_m = undistort_depth(depth_m, intrinsics, *lens)
    check_valid_fraction(depth_m, config.depth.min_valid_fraction)
    rgb = undistort_color(rgb, intrinsics, *lens)
    stamp_ns, world = stamp_of(messages.rgb), config.world_frame
    return RgbdFrame(stamp_ns, rgb, depth_m, intrinsics, messages.T_world_cam, world, camera_frame)


# -- frame names


def frame_name(frame_id: str) -> str:
    """A frame's name as it is compared: old drivers write a slash before it."""
    return frame_id.lstrip("/")


def pose_frame_fault(message: Any, topic: str, config: AgentConfig) -> str:
    """Why a PoseStamped or Odometry is not of our camera in our world, a sentence; empty: it is."""
    found, world = frame_name(message.header.frame_id), config.world_frame
    if not found:
        return (
            f"{topic} leaves header.frame_id empty: pose not used. Its publisher must name the"
            f" frame that the poses are in (world_frame is {world!r})."
        )
    if found != world:
        return (
            f"{topic} is in frame {found!r}, world_frame is {world!r}: pose not used. Set"
            " world_frame to the frame of the pose."
        )

    # Odometry names the frame it moves, too.
    wanted = config.pose_child_frame
    child = frame_name(getattr(message, "child_frame_id", wanted))
    if not wanted or child == wanted:
        return ""
    named = f"has child_frame_id {child!r}" if child else "leaves child_frame_id empty"
    return (
        f"{topic} {named}, pose_child_frame is {wanted!r}: pose not used. Set pose_child_frame to"
        " the frame that is posed, or to nothing for any."
    )


_COLOR, _DEPTH, _INFO = "colour", "depth", "camera_info"


def _camera_frame(messages: PosedSet) -> str:
    """The optical frame of a set. Raises FrameError (FRAME_MISMATCH) that names the odd message."""
    # One name for all.
    parts = (messages.rgb, messages.depth, messages.info)
    color, depth, info = (frame_name(part.header.frame_id) for part in parts)
    if color == depth == info:
        return color

    # Who says what.
    names = dict(zip((_COLOR, _DEPTH, _INFO), (color, depth, info), strict=True))
    topics = dict(zip(names, messages.topics, strict=True))
    said = ", ".join(
        f"{name} ({topics[name]}) is in frame {frame!r}" for name, frame in names.items()
    )

    # What to do about the odd one.
    unnamed = [f"{name} ({topics[name]})" for name, frame in names.items() if not frame]
    if unnamed:
        cure = (
            f"the publisher of {' and '.join(unnamed)} leaves header.frame_id empty; set it there"
        )
    elif color == info:
        cure = "depth must be registered to colour (realsense: align_depth.enable:=true)"
    elif color == depth:
        cure = "camera_info must be the colour camera's; remap rgb/camera_info to it"
    elif depth == info:
        cure = "colour is of another camera than both; remap rgb/image to theirs"
    else:
        cure = (
            "all must be of one camera: depth registered to colour, and the colour camera's"
            " camera_info"
        )
    raise FrameError(FrameReason.FRAME_MISMATCH, f"{said}: {cure}.")


# -- single messages


def stamp_of(message: Any) -> int:
    """header.stamp in ns."""
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


def header_stamp_ns(cdr: bytes) -> int:
    """header.stamp of a message whose first field is a Header, in ns."""
    if len(cdr) < 12:  # damaged
        return 0
    sec, nanosec = struct.unpack_from("<iI" if cdr[1] & 1 else ">iI", cdr, 4)
    return int(sec) * 1_000_000_000 + int(nanosec)


def header_frame_id(cdr: bytes) -> str:
    """header.frame_id of such a message; "" where it is damaged."""
    if len(cdr) < 16:
        return ""
    (length,) = struct.unpack_from("<I" if cdr[1] & 1 else ">I", cdr, 12)
    return cdr[16 : 16 + length].split(b"\0")[0].decode("utf-8", "replace")


def pose_of(message: Any) -> npt.NDArray[np.float64]:
    """T (4, 4) of a PoseStamped or Odometry: its child frame to its header's frame.

    Raises PoseError.
    """
    pose = message.pose.pose if hasattr(message, "child_frame_id") else message.pose
    p, q = pose.position, pose.orientation
    return pose_from_quaternion((p.x, p.y, p.z), (q.x, q.y, q.z, q.w))


def color_of(message: Any, bridge: ImageBridge | None = None) -> npt.NDArray[np.uint8]:
    """rgb (H, W, 3) uint8 RGB of an Image or CompressedImage. Raises FrameError.

    A raw image is checked here, then converted by `bridge` (a distribution's cv_bridge), or by
    OpenCV where there is none. Compressed images never go through it: it takes a truncated JPEG for
    a whole one.
    """
    if not hasattr(message, "encoding"):
        return decode_compressed_color(message.data, message.format)
    image = _raw(message)
    if bridge is None:
        return decode_color(image)
    color_pixels(image)
    return np.array(_bridged(bridge, message, "rgb8"), dtype=np.uint8)


def depth_of(
    message: Any, config: DepthConfig, bridge: ImageBridge | None = None
) -> npt.NDArray[np.float32]:
    """depth_m (H, W) float32 metres, NaN invalid, of an Image or a compressedDepth CompressedImage.

    Raises FrameError.
    """
    if not hasattr(message, "encoding"):
        return decode_compressed_depth(message.data, message.format, config)
    image = _raw(message)
    if bridge is None:
        return decode_depth(image, config)
    depth_pixels(image)
    return depth_in_metres(_bridged(bridge, message, "passthrough"), message.encoding, config)


def _raw(message: Any) -> RawImage:
    m = message
    return RawImage(m.height, m.width, m.encoding, m.is_bigendian, m.step, m.data)


def _bridged(bridge: ImageBridge, message: Any, desired: str) -> npt.NDArray[Any]:
    try:
        return bridge.imgmsg_to_cv2(message, desired)
    except Exception as error:  # CvBridgeError, and whatever the converter below it raises
        raise FrameError(
            FrameReason.CORRUPT, f"cv_bridge cannot convert a {message.encoding} image: {error}"
        ) from error
