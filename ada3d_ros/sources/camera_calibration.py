"""A lens as people have it at hand: coefficients, or the YAML that a calibration tool wrote."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ada3d_ros.errors import FrameError, SourceError
from ada3d_ros.geometry.camera import COEFFICIENT_COUNTS, SUPPORTED, distortion_of

HOW = (
    "give K1 K2 P1 P2 [K3 ...], a model's name before its coefficients (equidistant K1 K2 K3 K4),"
    " or a camera_info YAML"
)


@dataclass(frozen=True, slots=True)
class CameraCalibration:
    """Distortion as camera_info states it; where the source has them, intrinsics fx fy cx cy and
    size (width, height), px.
    """

    model: str
    D: tuple[float, ...]
    intrinsics: tuple[float, float, float, float] | None = None
    size: tuple[int, int] | None = None


def parse_distortion(words: Sequence[str]) -> CameraCalibration:
    """What `--distortion` was given: numbers, a model's name and numbers, or one YAML file.

    Raises SourceError.
    """
    # A file.
    parts = [part for word in words for part in word.split(",") if part]
    if len(words) == 1 and len(parts) == 1 and not _number(parts[0]) and words[0] not in _NAMES:
        return read_calibration(Path(words[0]))

    # Numbers, and which model they are of.
    model = parts.pop(0) if parts and parts[0] in _NAMES else ""
    wrong = next((part for part in parts if not _number(part)), None)
    if wrong is not None:
        raise SourceError(f"--distortion: {wrong!r} is not a finite number; {HOW}.")
    return _checked(model, tuple(map(float, parts)), "--distortion")


def read_calibration(path: Path) -> CameraCalibration:
    """A camera_info YAML: of camera_calibration (camera_matrix, distortion_coefficients), or a
    message as `ros2 topic echo --once` prints it (k, d). Raises SourceError.
    """
    # A mapping.
    try:
        tree: Any = next(iter(yaml.safe_load_all(path.read_text(encoding="utf-8"))), None)
    except OSError as error:
        raise SourceError(
            f"--distortion {path} cannot be read ({error.strerror}); {HOW}."
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise SourceError(f"--distortion {path} is not a camera_info YAML: {reason}.") from None
    if not isinstance(tree, dict):
        raise SourceError(f"--distortion {path} is not a camera_info YAML: no `name: value` in it.")

    # Its numbers, under the names of the file or of the message.
    D = _numbers(tree, ("distortion_coefficients", "d", "D"), path)
    K = _numbers(tree, ("camera_matrix", "k", "K"), path)
    size = _numbers(tree, ("image_width", "width"), path) + _numbers(
        tree, ("image_height", "height"), path
    )
    if K and len(K) != 9:
        raise SourceError(f"{path}: camera_matrix has {len(K)} numbers, expected 9.")
    checked = _checked(str(tree.get("distortion_model") or ""), D, str(path))
    return CameraCalibration(
        checked.model,
        checked.D,
        (K[0], K[4], K[2], K[5]) if K else None,
        (int(size[0]), int(size[1])) if len(size) == 2 and all(size) else None,
    )


_NAMES = tuple(COEFFICIENT_COUNTS)


def _number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _numbers(tree: dict[str, Any], names: tuple[str, ...], path: Path) -> tuple[float, ...]:
    """The numbers under the first of `names` that is there: one, a list, or the list in `data`."""
    name = next((name for name in names if name in tree), None)
    if name is None:
        return ()
    value = tree[name]
    value = value.get("data") if isinstance(value, dict) else value
    values = value if isinstance(value, list) else [value]
    if not all(_number(str(number)) for number in values):
        raise SourceError(f"{path}: {name} is not made of finite numbers.")
    return tuple(float(str(number)) for number in values)


def _checked(model: str, D: tuple[float, ...], source: str) -> CameraCalibration:
    """Raises SourceError where the model does not have so many coefficients."""
    model = model or next((m for m, counts in COEFFICIENT_COUNTS.items() if len(D) in counts), "")
    if not D or not model:
        raise SourceError(f"{source}: {len(D)} coefficients; {HOW}. Known: {SUPPORTED}.")
    try:
        distortion_of(model, D)
    except FrameError as error:
        raise SourceError(f"{source}: {error}") from None
    return CameraCalibration(model, D)
