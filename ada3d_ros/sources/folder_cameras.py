"""Which camera matrix a posed folder says its images have."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
from PIL import Image

from ada3d_ros.errors import SourceError
from ada3d_ros.sources.listing import Frames
from ada3d_ros.sources.text_files import Matrix, camera_matrix, read_camera_matrix

K_FILES = ("K.txt", "intrinsics.txt", "intrinsic.txt", "camera_intrinsics.txt")
# As the data sets' authors publish them: fx fy cx cy, and the size they are of.
SCENES7_K = ((585.0, 585.0, 320.0, 240.0), (640, 480))
REPLICA_K = ((600.0, 600.0, 599.5, 339.5), (1200, 680))
EXTRACT = "Extract its frames: mkdir rgb && ffmpeg -i rgb.mp4 -start_number 0 rgb/%06d.png"


def folder_camera(folder: Path) -> Matrix | None:
    """K (3, 3), px, of the first of K_FILES that is there. Raises SourceError."""
    found = [folder / name for name in K_FILES if (folder / name).is_file()]
    return read_camera_matrix(found[0]) if found else None


def published_camera(
    published: tuple[tuple[float, ...], tuple[int, int]], frames: Frames, name: str
) -> Matrix | None:
    """The data set's camera matrix if the images have its size; noted."""
    values, size = published
    try:
        with Image.open(frames.entries[0].depth) as image:
            fits = image.size == size
    except Exception:  # damaged files make the codecs raise almost anything; decoding says why
        fits = False
    if not fits:
        return None
    shown = " ".join(f"{value:g}" for value in values)
    frames.notes.append(f"no camera matrix in the folder: {shown} px, as published with {name}.")
    return camera_matrix(*values)


def camera_parameters(path: Path) -> tuple[Matrix, float]:
    """K and depth units per metre of NICE-SLAM's cam_params.json."""
    try:
        camera = json.loads(path.read_text(encoding="utf-8-sig"))["camera"]
        values = [float(camera[name]) for name in ("fx", "fy", "cx", "cy", "scale")]
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"{path} is not `camera` with fx, fy, cx, cy and scale: {error}"
        ) from None
    return camera_matrix(*values[:4]), values[4]


def scaled_camera(K: Matrix, size: tuple[int, int], to: tuple[int, int]) -> Matrix:
    """K (3, 3) of an image of `size` (width, height) for the same view at size `to`.

    Pixel centres lie at integers.
    """
    x, y = to[0] / size[0], to[1] / size[1]
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    return camera_matrix(fx * x, fy * y, (cx + 0.5) * x - 0.5, (cy + 0.5) * y - 0.5)


def image_size(path: Path) -> tuple[int, int]:
    """Width and height, px. Raises SourceError."""
    try:
        with Image.open(path) as image:
            return image.size
    except Exception as error:  # damaged files make the codecs raise almost anything
        raise SourceError(f"cannot read {path} as an image: {error}") from None


def video_size(path: Path) -> tuple[int, int]:
    """Width and height, px, of a video. Raises SourceError."""
    video = cv2.VideoCapture(str(path))
    size = (int(video.get(cv2.CAP_PROP_FRAME_WIDTH)), int(video.get(cv2.CAP_PROP_FRAME_HEIGHT)))
    video.release()
    if not all(size):
        raise SourceError(f"OpenCV cannot open {path} here. {EXTRACT}")
    return size
