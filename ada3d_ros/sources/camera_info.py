"""What a camera_info says of an image: its pinhole camera and lens, and from when on it holds.

By field names only, so that rosbags' and rclpy's messages both serve.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ada3d_ros.errors import FrameError, FrameReason
from ada3d_ros.geometry.camera import is_of_another_size, size_of_matrix
from ada3d_ros.types import Intrinsics

Size = tuple[int, int]  # width, height, px


@dataclass(frozen=True, slots=True)
class Camera:
    """The camera of one image: intrinsics of its own pixels, and its lens (D empty: none)."""

    intrinsics: Intrinsics
    model: str = ""
    D: tuple[float, ...] = ()


def info_in_force(infos: Sequence[tuple[int, Any]], stamp_ns: int, slop_ns: int) -> Any:
    """The message that holds for an image: of (stamp_ns, message), stamps rising, the nearest
    within slop_ns (inclusive), else the newest before the image, else the first of all.

    None where there is none. A camera_info holds until another comes; K hardly ever changes.
    """
    at = bisect.bisect_left(infos, stamp_ns, key=lambda item: item[0])
    beside = infos[max(at - 1, 0) : at + 1]
    near = min(beside, key=lambda item: abs(item[0] - stamp_ns), default=None)
    if near is None:
        return None
    return near[1] if abs(near[0] - stamp_ns) <= slop_ns else beside[0][1]


def camera_of(info: Any, size: Size, rectified: bool = False) -> Camera:
    """The camera of an image of `size` px that a CameraInfo describes.

    K and P are of the whole sensor: the region of interest is cut off, then binning divides.
    rectified: the image is, so P holds and there is no lens. Raises FrameError (BAD_INTRINSICS,
    BAD_SIZE).
    """
    # The matrix of the whole sensor.
    fx, fy, cx, cy = _whole_matrix(info, rectified)
    whole = Intrinsics(fx, fy, cx, cy, *_region(info))

    # The part of it that the image shows.
    bins, roi = _binning(info), info.roi
    if not any(_fits(size, region, bins) for region in _possible_regions(info)):
        raise FrameError(FrameReason.BAD_SIZE, f"{_sizes_text(info)}, the image is {_by(size)} px.")
    cx, cy = (cx - int(roi.x_offset)) / bins[0], (cy - int(roi.y_offset)) / bins[1]
    if is_of_another_size(cx, cy, size):
        raise FrameError(FrameReason.BAD_INTRINSICS, _outside_text(info, (cx, cy), size, rectified))
    intrinsics = Intrinsics(whole.fx / bins[0], whole.fy / bins[1], cx, cy, *size)

    # Its lens.
    if rectified:
        return Camera(intrinsics)
    return Camera(intrinsics, str(info.distortion_model), tuple(float(value) for value in info.d))


def describe_size(info: Any) -> str:
    """The size that a CameraInfo describes; where it is cut or binned, also what from."""
    bins = _binning(info)
    width, height = (side // by for side, by in zip(_region(info), bins, strict=True))
    whole = (width, height) == (int(info.width), int(info.height))
    return f"{width}x{height}" if whole else f"{width}x{height} ({_sizes_text(info)})"


def _whole_matrix(info: Any, rectified: bool) -> tuple[float, float, float, float]:
    if not rectified:
        k = [float(value) for value in info.k]
        return k[0], k[4], k[2], k[5]
    p = [float(value) for value in info.p]
    if not (p[0] > 0 and p[5] > 0):
        raise FrameError(
            FrameReason.BAD_INTRINSICS,
            f"camera.rectified is true, but camera_info P has fx={p[0]} fy={p[5]}: it holds no"
            " rectified camera. Publish its P, or set camera.rectified to false.",
        )
    return p[0], p[5], p[2], p[6]


def _binning(info: Any) -> tuple[int, int]:
    return max(int(info.binning_x), 1), max(int(info.binning_y), 1)


def _region(info: Any) -> Size:
    """Size of the region of interest, px of the sensor; all of it where none is set."""
    return int(info.roi.width) or int(info.width), int(info.roi.height) or int(info.height)


def _possible_regions(info: Any) -> list[Size]:
    """The region's size; where only its offset is set, also what is right of and below it."""
    width, height = _region(info)
    rest_x = 0 if info.roi.width else int(info.roi.x_offset)
    rest_y = 0 if info.roi.height else int(info.roi.y_offset)
    return [(width, height), (width - rest_x, height - rest_y)]


def _fits(size: Size, region: Size, bins: Size) -> bool:
    """Whether a region that is binned gives an image of that size, rounded either way."""
    return all(abs(s * b - r) < b for s, r, b in zip(size, region, bins, strict=True))


def _by(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"


def _sizes_text(info: Any) -> str:
    roi = info.roi
    offset = f" at {int(roi.x_offset)},{int(roi.y_offset)}"
    region = f"roi {_by((int(roi.width), int(roi.height)))}{offset}"
    whole = _by((int(info.width), int(info.height)))
    return f"camera_info: width x height {whole}, {region}, binning {_by(_binning(info))}"


def _outside_text(info: Any, centre: tuple[float, float], size: Size, rectified: bool) -> str:
    cx, cy = centre
    matrix, image = "P" if rectified else "K", _by(size)
    text = f"camera_info {matrix} has cx = {cx:g}, cy = {cy:g}, the images are {image}"
    if info.roi.x_offset or info.roi.y_offset or _binning(info) != (1, 1):
        return (
            f"{text} after roi and binning ({_sizes_text(info)}): {matrix} must be of the whole"
            " sensor; where it is of the image already, publish roi and binning as zeros."
        )
    return (
        f"{text}: the matrix belongs to another size ({size_of_matrix(cx, cy)}). Publish the"
        " camera_info of this image size."
    )
