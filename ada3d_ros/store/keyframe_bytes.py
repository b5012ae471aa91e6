"""A keyframe as bytes: colour as JPEG, depth in millimetres as 16-bit PNG, the rest as JSON.

`ADA3DKF1`, the length of the JSON as 4 bytes (big endian), the JSON, the JPEG, the PNG. At 640x480
about 130 KiB. What comes from a socket is not trusted: sizes are checked before anything is
decoded.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from ada3d_ros.errors import Ada3DError, FrameError, InvalidRequestError
from ada3d_ros.store.json_form import from_json, is_int64, parsed_json, to_json
from ada3d_ros.types import Intrinsics, Keyframe, KeyframeReason, RgbdFrame

MAGIC = b"ADA3DKF1"
JPEG_QUALITY = 90  # not lower before accuracy is measured through the wire
PNG_LEVEL = 4  # an eighth fewer bytes than level 1 (docs/fleet.md)
MAX_SIDE_PX = 4096
MAX_HEADER_BYTES = 4096
MAX_BYTES = 32 << 20
MM, MAX_DEPTH_M = 1000.0, 65.535


def pack_keyframe(keyframe: Keyframe) -> bytes:
    """Depth that is not finite, below half a millimetre or beyond 65.535 m has no reading."""
    jpeg, png = encode_jpeg(keyframe.frame.rgb), encode_millimetres(keyframe.frame.depth_m)
    text = json.dumps(keyframe_header(keyframe) | {"jpeg_bytes": len(jpeg)}).encode()
    return MAGIC + struct.pack(">I", len(text)) + text + jpeg + png


def keyframe_header(keyframe: Keyframe) -> dict[str, Any]:
    """All of a keyframe but its images, exact."""
    frame = keyframe.frame
    return {
        "index": keyframe.index,
        "reason": keyframe.reason.value,
        "stamp_ns": frame.stamp_ns,
        "depth_stamp_ns": frame.depth_stamp_ns,
        "frame_id": frame.frame_id,
        "camera_frame_id": frame.camera_frame_id,
        "intrinsics": to_json(frame.intrinsics),
        "T_world_cam": frame.T_world_cam.tolist(),
    }


def encode_jpeg(rgb: npt.NDArray[np.uint8], quality: int = JPEG_QUALITY) -> bytes:
    """Colour (H, W, 3) RGB as a JPEG."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    return _encoded(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_png(rgb: npt.NDArray[np.uint8]) -> bytes:
    """Colour (H, W, 3) RGB, exact."""
    return _encoded(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])


def encode_millimetres(depth_m: npt.NDArray[np.float32]) -> bytes:
    """Depth (H, W) metres as a PNG of 16 bits; no reading as in `pack_keyframe`."""
    depth_mm = np.round(np.nan_to_num(depth_m, nan=0.0, posinf=0.0, neginf=0.0) * MM)
    depth_mm[(depth_mm < 0) | (depth_mm > MAX_DEPTH_M * MM)] = 0
    options = [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL]
    return _encoded(".png", depth_mm.astype(np.uint16), options)


def unpack_keyframe(
    data: bytes, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_SIDE_PX**2
) -> Keyframe:
    """Raises InvalidRequestError for bytes that are no keyframe, or only half of one, and for more
    bytes or pixels than are allowed.
    """
    if len(data) > max_bytes:
        raise InvalidRequestError(
            f"a keyframe of {len(data)} bytes; allowed: up to {max_bytes}. Send smaller images."
        )
    start = len(MAGIC) + 4
    if data[: len(MAGIC)] != MAGIC or len(data) < start:
        raise InvalidRequestError(f"the bytes are no keyframe: they do not begin with {MAGIC!r}.")
    (length,) = struct.unpack(">I", data[len(MAGIC) : start])
    if length > MAX_HEADER_BYTES or len(data) < start + length:
        raise InvalidRequestError(
            f"the keyframe's header has {length} bytes, of which {len(data) - start} came; allowed:"
            f" up to {MAX_HEADER_BYTES}, all of them."
        )
    header = checked_header(data[start : start + length], {"jpeg_bytes": (int,)})
    if header["jpeg_bytes"] < 0:
        raise InvalidRequestError("the keyframe's header has a negative size, jpeg_bytes.")
    size = checked_size(header, max_pixels)
    images, cut = data[start + length :], header["jpeg_bytes"]
    rgb = decode_color(images[:cut], "JPEG", size)
    return keyframe_of(header, rgb, decode_millimetres(images[cut:], size))


def checked_size(header: Mapping[str, Any], max_pixels: int = MAX_SIDE_PX**2) -> tuple[int, int]:
    """Height and width of the images, px. Raises InvalidRequestError where they are too large, and
    for intrinsics of no camera.
    """
    try:
        intrinsics = from_json(Intrinsics, header["intrinsics"], "intrinsics")
    except FrameError as error:
        raise InvalidRequestError(f"the keyframe's header does not fit: {error}") from None
    size = intrinsics.height, intrinsics.width
    if max(size) > MAX_SIDE_PX:
        raise InvalidRequestError(
            f"images of {intrinsics.width}x{intrinsics.height} px; allowed: up to {MAX_SIDE_PX}."
        )
    if size[0] * size[1] > max_pixels:
        raise InvalidRequestError(
            f"images of {size[0] * size[1]} pixels; allowed: up to {max_pixels}."
        )
    return size


def decode_color(data: bytes, kind: str, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """RGB (H, W, 3) of a JPEG or PNG of this (height, width). Raises InvalidRequestError."""
    bgr = _decoded(data, cv2.IMREAD_COLOR, kind, size)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def decode_millimetres(data: bytes, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Metres (H, W) of a PNG of millimetres, NaN where it is 0. Raises InvalidRequestError."""
    depth_mm = _decoded(data, cv2.IMREAD_UNCHANGED, "PNG", size)
    if depth_mm.dtype != np.uint16 or depth_mm.ndim != 2:
        raise InvalidRequestError("the keyframe's depth is not one channel of 16 bits.")
    depth_m = depth_mm.astype(np.float32) / np.float32(MM)
    depth_m[depth_mm == 0] = np.nan
    return depth_m


def keyframe_of(
    header: Mapping[str, Any], rgb: npt.NDArray[np.uint8], depth_m: npt.NDArray[np.float32]
) -> Keyframe:
    """The keyframe of a checked header and its images. Raises InvalidRequestError."""
    try:
        frame = RgbdFrame(
            stamp_ns=header["stamp_ns"],
            rgb=rgb,
            depth_m=depth_m,
            intrinsics=from_json(Intrinsics, header["intrinsics"], "intrinsics"),
            T_world_cam=np.array(header["T_world_cam"], dtype=np.float64),
            frame_id=header["frame_id"],
            camera_frame_id=header["camera_frame_id"],
            depth_stamp_ns=header["depth_stamp_ns"],
        )
        return Keyframe(frame, header["index"], KeyframeReason(header["reason"]))
    except (Ada3DError, ValueError, TypeError, OverflowError) as error:
        raise InvalidRequestError(f"the keyframe's header does not fit: {error}") from None


def checked_header(
    text: bytes | str, more: Mapping[str, tuple[type, ...]] = MappingProxyType({})
) -> Mapping[str, Any]:
    """The header with its fields and their types checked; more: those beside `keyframe_header`'s.

    Raises InvalidRequestError.
    """
    kinds: dict[str, tuple[type, ...]] = {
        "index": (int,),
        "reason": (str,),
        "stamp_ns": (int,),
        "depth_stamp_ns": (int, type(None)),
        "frame_id": (str,),
        "camera_frame_id": (str,),
        "intrinsics": (dict,),
        "T_world_cam": (list,),
        **more,
    }
    header = parsed_json(text, "the keyframe's header")
    if not isinstance(header, dict):
        raise InvalidRequestError("the keyframe's header is no JSON object.")
    for name, allowed in kinds.items():
        value = header.get(name)
        is_huge = isinstance(value, int) and not is_int64(value)  # or true, which is an int, too
        if not isinstance(value, allowed) or is_huge:
            raise InvalidRequestError(f"the keyframe's header has {name} = {value!r:.60}.")
    if header["stamp_ns"] <= 0 or header["index"] < 0:
        raise InvalidRequestError(
            "the keyframe's header has a negative index, or a stamp that is not set."
        )
    return header


def _encoded(kind: str, pixels: npt.NDArray[Any], options: list[int]) -> bytes:
    done, data = cv2.imencode(kind, pixels, options)
    assert done, kind
    return data.tobytes()


def _decoded(data: bytes, flags: int, what: str, size: tuple[int, int]) -> npt.NDArray[Any]:
    """An image of this (height, width), which its own header must say before it is decoded. Raises
    InvalidRequestError.
    """
    try:
        with Image.open(io.BytesIO(data), formats=[what]) as header:
            found = header.size
    except Image.DecompressionBombError:
        raise InvalidRequestError(
            f"the keyframe's {what} is far larger than its camera, {size[1]}x{size[0]} px."
        ) from None
    except (OSError, ValueError, SyntaxError):
        raise InvalidRequestError(f"the keyframe's {what} cannot be read.") from None
    if found != size[::-1]:
        raise InvalidRequestError(
            f"the keyframe's {what} is {found[0]}x{found[1]} px, its camera {size[1]}x{size[0]}."
        )
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if _is_whole(data, what) else None
    if image is None:
        raise InvalidRequestError(f"the keyframe's {what} is cut short: send it again.")
    return image


def _is_whole(data: bytes, what: str) -> bool:
    """OpenCV fills what is missing of a cut JPEG with grey."""
    return data.endswith(b"\xff\xd9") if what == "JPEG" else b"IEND" in data[-12:]
