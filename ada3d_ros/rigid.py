"""What counts as a rigid transform: the one place that judges a pose matrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ada3d_ros.errors import PoseError

Matrix = npt.NDArray[np.float64]

MAX_ROTATION_ERROR = 1e-3  # of each number of R^T R; text files round to three digits and more
ROUNDING = 1e-12  # what float64 arithmetic leaves; nearer rotations stay as they are
MAX_ROW_ERROR = 1e-6
MAX_POSITION_M = 1e6  # from there on float32 points are coarser than 6 cm


def rigid_pose(matrix: npt.ArrayLike, name: str = "T_world_cam") -> Matrix:
    """The matrix (4, 4) as float64 with an orthonormal rotation; `name` says in errors what it is.

    Accepted: finite, R^T R = 1 within 1e-3, det R > 0, bottom row 0 0 0 1, at most 1e6 m from the
    origin. Raises PoseError.
    """
    # Sixteen finite numbers, the last four 0 0 0 1.
    T: Matrix = np.asarray(matrix, dtype=np.float64)
    if T.shape != (4, 4) or not np.isfinite(T).all():
        found = "numbers that are not finite" if T.shape == (4, 4) else f"shape {T.shape}"
        raise PoseError(f"{name} must be a finite (4, 4) matrix, got {found}.")
    if not T[:3, :3].any():
        raise PoseError(f"rotation of {name} is all zero: the pose was lost or never set.")
    if np.abs(T[3] - (0.0, 0.0, 0.0, 1.0)).max() > MAX_ROW_ERROR:
        raise PoseError(
            f"bottom row of {name} is {_shown(T[3])}, expected 0 0 0 1; is the matrix transposed?"
        )
    check_position(T[:3, 3])

    # A rotation, made exact where it was rounded.
    R = T[:3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        error = float(np.abs(R.T @ R - np.eye(3)).max())
        det = float(np.linalg.det(R))
    if not (error <= MAX_ROTATION_ERROR and det > 0):
        raise PoseError(f"rotation of {name} {_what_is_wrong(R, error, det)}")
    if error <= ROUNDING:
        return T
    U, _, Vt = np.linalg.svd(R)
    T = T.copy()
    T[:3, :3] = U @ Vt
    T[3] = 0.0, 0.0, 0.0, 1.0
    return T


def check_position(translation_m: Matrix) -> None:
    """Raises PoseError for a position (3,), metres, too far from the origin to be computed with."""
    if np.abs(translation_m).max() > MAX_POSITION_M:
        raise PoseError(
            f"position ({', '.join(f'{value:.6g}' for value in translation_m)}) m is more than"
            f" {MAX_POSITION_M:g} m from the origin: publish metres in a frame that begins near the"
            " robot (of UTM coordinates, take off those of the map's origin)."
        )


def _what_is_wrong(R: Matrix, error: float, det: float) -> str:
    """The rest of a sentence about a (3, 3) matrix that is no rotation."""
    with np.errstate(over="ignore", invalid="ignore"):
        gram = R.T @ R
        scale = float(np.sqrt(np.trace(gram) / 3))
        is_uniform = bool(np.abs(gram / scale**2 - np.eye(3)).max() < 1e-2)
    if is_uniform and abs(scale - 1.0) > MAX_ROTATION_ERROR / 2:
        mirrored = " and is mirrored" if det < 0 else ""
        return (
            f"has scale {scale:.4g}{mirrored}, allowed 1 within {MAX_ROTATION_ERROR}; divide the"
            " rotation by it, and check whether the translation is in metres."
        )
    if det < 0:
        return f"has determinant {det:.4g}: it is mirrored; a camera's axes are right-handed."
    return f"is not orthonormal: R^T R differs from 1 by {error:.2g}, allowed {MAX_ROTATION_ERROR}."


def _shown(values: Matrix) -> str:
    return " ".join(f"{value:g}" for value in values)
