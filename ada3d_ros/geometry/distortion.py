"""Undistortion of colour and depth to the same pinhole camera (new camera matrix = K, same size),
by OpenCV.

Takes distortion as ROS camera_info states it: a model name and its coefficients D. Depth registered
to a distorted colour image is distorted alike, so one rectification map serves both.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from ada3d_ros.errors import FrameError, FrameReason
from ada3d_ros.types import Intrinsics

COEFFICIENT_COUNTS: dict[str, tuple[int, ...]] = {
    "plumb_bob": (4, 5),
    "rational_polynomial": (8,),
    "equidistant": (4,),
}
SUPPORTED = "; ".join(
    f"{name} ({' or '.join(map(str, n))} coefficients)" for name, n in COEFFICIENT_COUNTS.items()
)

Maps = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def is_undistorted(model: str, D: Sequence[float]) -> bool:
    """Whether the image is a pinhole image already: D is empty or all zero, whatever the model is
    called.

    Raises FrameError (BAD_DISTORTION) for an unknown model, a wrong number of coefficients, or one
    not finite.
    """
    if not any(D):
        return True
    if model not in COEFFICIENT_COUNTS:
        raise FrameError(
            FrameReason.BAD_DISTORTION,
            f"camera_info distortion model {model!r} is not known; supported: {SUPPORTED}, or an"
            " undistorted image with an empty D.",
        )
    if len(D) not in COEFFICIENT_COUNTS[model] or not np.isfinite(D).all():
        raise FrameError(
            FrameReason.BAD_DISTORTION,
            f"camera_info has {len(D)} distortion coefficients {[float(d) for d in D]} for"
            f" {model!r}; supported: {SUPPORTED}, all finite.",
        )
    return False


@lru_cache(maxsize=8)
def _rectification_maps(intrinsics: Intrinsics, model: str, D: tuple[float, ...]) -> Maps:
    K, size = intrinsics.matrix, (intrinsics.width, intrinsics.height)
    coefficients = np.array(D, dtype=np.float64)
    if model == "equidistant":
        map_x, map_y = cv2.fisheye.initUndistortRectifyMap(
            K, coefficients, np.eye(3), K, size, cv2.CV_32FC1
        )
    else:
        map_x, map_y = cv2.initUndistortRectifyMap(
            K, coefficients, np.eye(3), K, size, cv2.CV_32FC1
        )
    return np.asarray(map_x, dtype=np.float32), np.asarray(map_y, dtype=np.float32)


def _maps_for(
    shape: tuple[int, ...], intrinsics: Intrinsics, model: str, D: Sequence[float]
) -> Maps:
    if shape[:2] != (intrinsics.height, intrinsics.width):
        raise FrameError(
            FrameReason.BAD_SIZE,
            f"image is {shape[1]}x{shape[0]} px but camera_info says"
            f" {intrinsics.width}x{intrinsics.height}.",
        )
    return _rectification_maps(intrinsics, model, tuple(float(d) for d in D))


def undistort_color(
    rgb: npt.NDArray[np.uint8], intrinsics: Intrinsics, model: str, D: Sequence[float]
) -> npt.NDArray[np.uint8]:
    """rgb (H, W, 3) uint8 as a pinhole image of the same K and size, bilinear; black where the lens
    saw nothing.

    Returns rgb itself where D is empty or zero. Raises FrameError (BAD_DISTORTION, BAD_SIZE).
    """
    if is_undistorted(model, D):
        return rgb
    map_x, map_y = _maps_for(rgb.shape, intrinsics, model, D)
    return np.asarray(cv2.remap(rgb, map_x, map_y, cv2.INTER_LINEAR), dtype=np.uint8)


def undistort_depth(
    depth_m: npt.NDArray[np.float32], intrinsics: Intrinsics, model: str, D: Sequence[float]
) -> npt.NDArray[np.float32]:
    """depth_m (H, W) float32 metres as a pinhole image of the same K and size.

    Nearest reading, never a mean of two surfaces; NaN stays NaN, and is what the lens did not see.
    Returns depth_m itself where D is empty or zero. Raises FrameError (BAD_DISTORTION, BAD_SIZE).
    """
    if is_undistorted(model, D):
        return depth_m
    map_x, map_y = _maps_for(depth_m.shape, intrinsics, model, D)
    nan = (float("nan"),) * 4
    out = cv2.remap(
        depth_m, map_x, map_y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=nan
    )
    return np.asarray(out, dtype=np.float32)
