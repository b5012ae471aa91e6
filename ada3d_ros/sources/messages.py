"""Camera messages to an RgbdFrame: decode, compare, undistort.

By field names only, so that rosbags' and rclpy's messages both serve; imports neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ada3d_ros.config import DepthConfig
from ada3d_ros.errors import FrameError, FrameReason
from ada3d_ros.geometry.camera import undistort_color, undistort_depth
from ada3d_ros.geometry.pose import pose_from_quaternion
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
from ada3d_ros.types import Intrinsics, RgbdFrame


@dataclass(frozen=True, eq=False, slots=True)
class PosedSet:
    """Messages of one moment and the camera pose of that moment.

    T_world_cam (4, 4) float64: of the optical frame.
    """

    rgb: Any
    depth: Any
    info: Any
    stamp_ns: int
    T_world_cam: npt.NDArray[np.float64]


class ImageBridge(Protocol):
    """cv_bridge.CvBridge, as far as it is needed here: raw Image messages to arrays."""

    def imgmsg_to_cv2(
        self, img_msg: Any, desired_encoding: str = "passthrough"
    ) -> npt.NDArray[Any]: ...


def frame_of(
    messages: PosedSet, frame_id: str, config: DepthConfig, bridge: ImageBridge | None = None
) -> RgbdFrame:
    """One undistorted frame in the world frame `frame_id`, stamped like the colour image.

    Raises FrameError for every message that cannot be used: frames or sizes that differ, bad
    intrinsics or distortion, undecodable pixels, implausible units, too little valid depth.
    """
    # All three of one camera.
    info, camera = messages.info, messages.rgb.header.frame_id
    for name, message in (("depth", messages.depth), ("camera_info", info)):
        if message.header.frame_id != camera:
            raise FrameError(
                FrameReason.FRAME_MISMATCH,
                f"{name} is in frame {message.header.frame_id!r}, colour in {camera!r}: depth must"
                " be registered to colour (realsense: align_depth.enable:=true) and camera_info be"
                " the colour camera's.",
            )

    # Pixels of one size.
    intrinsics = intrinsics_of(info)
    rgb, depth_m = color_of(messages.rgb, bridge), depth_of(messages.depth, config, bridge)
    size = (intrinsics.height, intrinsics.width)
    if rgb.shape[:2] != size or depth_m.shape != size:
        raise FrameError(
            FrameReason.BAD_SIZE,
            f"depth is {depth_m.shape[1]}x{depth_m.shape[0]}, colour"
            f" {rgb.shape[1]}x{rgb.shape[0]}: both must be {size[1]}x{size[0]}, as camera_info says"
            " (realsense: align_depth.enable:=true).",
        )

    # A pinhole image with enough depth; depth first, which may be refused.
    model, D = info.distortion_model, [float(value) for value in info.d]
    depth_m = undistort_depth(depth_m, intrinsics, model, D)
    check_valid_fraction(depth_m, config.min_valid_fraction)
    rgb = undistort_color(rgb, intrinsics, model, D)
    stamp_ns = stamp_of(messages.rgb)
    return RgbdFrame(stamp_ns, rgb, depth_m, intrinsics, messages.T_world_cam, frame_id, camera)


# -- single messages


def stamp_of(message: Any) -> int:
    """header.stamp in ns."""
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


def intrinsics_of(info: Any) -> Intrinsics:
    """The pinhole camera of a CameraInfo (its K, not its P). Raises FrameError (BAD_INTRINSICS)."""
    k = [float(value) for value in info.k]
    return Intrinsics(k[0], k[4], k[2], k[5], int(info.width), int(info.height))


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
