"""Lenses: which camera matrices are likely, undistortion by OpenCV.

Undistortion keeps the camera matrix K and the size. Depth registered to a distorted colour image is
distorted alike, so one rectification map serves both.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from ada3d_ros.errors import FrameError, FrameReason
from ada3d_ros.types import Intrinsics

# Distortion as ROS camera_info states it: the model's name, and how many coefficients D it has. Of
# the rational model OpenCV knows longer forms: 12 with a thin prism, 14 with a tilted sensor too.
COEFFICIENT_COUNTS: dict[str, tuple[int, ...]] = {
    "plumb_bob": (4, 5),
    "rational_polynomial": (8, 12, 14),
    "equidistant": (4,),
}
SUPPORTED = "; ".join(
    f"{name} ({' or '.join(map(str, n))} coefficients)" for name, n in COEFFICIENT_COUNTS.items()
)
# A principal point outside of this part of a side is unusual: K may be of another image size.
USUAL_PART = (0.25, 0.75)
CORNER_PART = 0.1
SOLVED_PX = 0.5  # an undistorted point that leads back to its pixel this closely is one

Maps = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def size_of_matrix(cx: float, cy: float) -> str:
    """The image size that a principal point, px, lies in the middle of, in words."""
    return f"about {2 * cx:.0f}x{2 * cy:.0f}" if min(cx, cy) > 0 else "no size fits it"


def is_of_another_size(cx: float, cy: float, size: tuple[int, int]) -> bool:
    """Whether a principal point, px, cannot be that of an image of `size` (width, height): outside
    of it, or at the same end of both sides, as K of an image twice as large has it.
    """
    outside = any(not -0.5 <= c <= side - 0.5 for c, side in zip((cx, cy), size, strict=True))
    parts = (cx / size[0], cy / size[1])
    return outside or min(parts) > 1 - CORNER_PART or max(parts) < CORNER_PART


def is_unusual(cx: float, cy: float, size: tuple[int, int]) -> bool:
    """Whether a principal point, px, lies so far from the middle of an image of `size` (width,
    height) that K may be of another size: in the outer quarter of a side, or nearly so on both.
    """
    low, high = USUAL_PART
    parts = (cx / size[0], cy / size[1])
    near = 0.05
    both_low = all(part < low + near for part in parts)
    both_high = all(part > high - near for part in parts)
    return both_low or both_high or any(not low <= part <= high for part in parts)


# -- undistortion


def distortion_of(model: str, D: Sequence[float]) -> tuple[float, ...]:
    """The coefficients that count: () for a pinhole image, whatever the model; else the shortest
    form of the model behind which D holds zeros alone (some drivers fill up with zeros).

    Raises FrameError (BAD_DISTORTION) for an unknown model, a number of coefficients that the model
    does not have, or one not finite.
    """
    if not any(D):
        return ()
    if model not in COEFFICIENT_COUNTS:
        raise FrameError(
            FrameReason.BAD_DISTORTION,
            f"camera_info distortion model {model!r} is not known; supported: {SUPPORTED}, or an"
            " undistorted image with an empty D.",
        )
    counts = COEFFICIENT_COUNTS[model]
    fitting = [n for n in counts if n <= len(D) and not any(D[n:])]
    if not fitting or not np.isfinite(D).all():
        raise FrameError(
            FrameReason.BAD_DISTORTION,
            f"camera_info has {len(D)} distortion coefficients {[float(d) for d in D]} for"
            f" {model!r}, which has {' or '.join(map(str, counts))}; supported: {SUPPORTED}, all"
            " finite, zeros may follow. Publish the model and coefficients of the calibration, or"
            " rectified images with camera.rectified: true.",
        )
    return tuple(float(d) for d in D[: fitting[0]])


def undistort_color(
    rgb: npt.NDArray[np.uint8], intrinsics: Intrinsics, model: str, D: Sequence[float]
) -> npt.NDArray[np.uint8]:
    """rgb (H, W, 3) uint8 as a pinhole image of the same K and size, bilinear.

    Black where the lens saw nothing; rgb itself where D is empty or zero. Raises FrameError
    (BAD_DISTORTION, BAD_SIZE).
    """
    coefficients = distortion_of(model, D)
    if not coefficients:
        return rgb
    map_x, map_y = _maps_for(rgb.shape, intrinsics, model, coefficients)
    return np.asarray(cv2.remap(rgb, map_x, map_y, cv2.INTER_LINEAR), dtype=np.uint8)


def undistort_depth(
    depth_m: npt.NDArray[np.float32], intrinsics: Intrinsics, model: str, D: Sequence[float]
) -> npt.NDArray[np.float32]:
    """depth_m (H, W) float32 metres as a pinhole image of the same K and size.

    Nearest reading, never a mean of two surfaces; NaN stays NaN, and is what the lens did not see.
    Returns depth_m itself where D is empty or zero. Raises FrameError (BAD_DISTORTION, BAD_SIZE).
    """
    coefficients = distortion_of(model, D)
    if not coefficients:
        return depth_m
    map_x, map_y = _maps_for(depth_m.shape, intrinsics, model, coefficients)
    nan = (float("nan"),) * 4
    out = cv2.remap(
        depth_m, map_x, map_y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=nan
    )
    return np.asarray(out, dtype=np.float32)


def undistort_points(
    points_px: npt.NDArray[np.float64], intrinsics: Intrinsics, model: str, D: Sequence[float]
) -> npt.NDArray[np.float64]:
    """Where pixels (N, 2) of an image as taken lie in the undistorted one of the same K, (N, 2).

    NaN where the lens model has no answer: far outside of what it was calibrated for. Returns
    points_px itself where D is empty or zero. Raises FrameError (BAD_DISTORTION).
    """
    coefficients = np.array(distortion_of(model, D), dtype=np.float64)
    if not coefficients.size or not len(points_px):
        return points_px
    K, points = intrinsics.matrix, points_px.reshape(-1, 1, 2)
    criteria = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 50, 1e-9)
    if model == "equidistant":
        found = cv2.fisheye.undistortPoints(points, K, coefficients, P=K, criteria=criteria)
    else:
        found = cv2.undistortPointsIter(points, K, coefficients, np.eye(3), K, criteria)
    found = np.asarray(found, dtype=np.float64).reshape(-1, 2)

    # It is solved step by step: what does not lead back is no solution.
    rays = np.column_stack([(found - K[:2, 2]) / K[[0, 1], [0, 1]], np.ones(len(found))])
    zero = np.zeros(3)
    if model == "equidistant":
        again, _ = cv2.fisheye.projectPoints(rays[:, None], zero, zero, K, coefficients)
    else:
        again, _ = cv2.projectPoints(rays, zero, zero, K, coefficients)
    missed_px = np.abs(np.asarray(again).reshape(-1, 2) - points_px).max(axis=1)
    return np.where((missed_px <= SOLVED_PX)[:, None], found, np.nan)


def _maps_for(
    shape: tuple[int, ...], intrinsics: Intrinsics, model: str, D: tuple[float, ...]
) -> Maps:
    if shape[:2] != (intrinsics.height, intrinsics.width):
        raise FrameError(
            FrameReason.BAD_SIZE,
            f"image is {shape[1]}x{shape[0]} px but camera_info says"
            f" {intrinsics.width}x{intrinsics.height}.",
        )
    return _rectification_maps(intrinsics, model, D)


@lru_cache(maxsize=8)
def _rectification_maps(intrinsics: Intrinsics, model: str, D: tuple[float, ...]) -> Maps:
    K, size = intrinsics.matrix, (intrinsics.width, intrinsics.height)
    lens = cv2.fisheye if model == "equidistant" else cv2
    coefficients = np.array(D, dtype=np.float64)
    maps = lens.initUndistortRectifyMap(K, coefficients, np.eye(3), K, size, cv2.CV_32FC1)
    return np.asarray(maps[0], dtype=np.float32), np.asarray(maps[1], dtype=np.float32)
