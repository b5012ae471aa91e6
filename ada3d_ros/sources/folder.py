"""Posed RGB-D folders as an iterable of RgbdFrame.

Layouts are in layouts.py; pixels are decoded by images.py.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.spatial.transform import Rotation

from ada3d_ros.errors import FrameError, FrameReason, SourceError
from ada3d_ros.geometry.camera import is_of_another_size, is_unusual, size_of_matrix
from ada3d_ros.geometry.camera_axes import (
    OPTICAL_IN,
    CameraAxes,
    axes_of,
    complaint_about,
    folder_cure,
)
from ada3d_ros.geometry.pose import pose_from_quaternion
from ada3d_ros.sources.images import decode_compressed_color, decode_grey16_png, depth_from_units
from ada3d_ros.sources.layouts import K_FILES, Entry, Matrix, list_folder
from ada3d_ros.types import Intrinsics, RgbdFrame

logger = logging.getLogger(__name__)

MIN_FRAMES = 5  # with a pose, to judge their axes
CAMERA_AXES = tuple(axes.value for axes in OPTICAL_IN)
FIRST_STAMP_NS = 1_000_000_000  # of folders without stamps; a zero stamp means "not set"
# Named rotations of --rotate-world. y-up: HoloLens, Unity-like, y up to z up; y-down: the first
# camera is the world, -y up to z up.
ROTATIONS_XYZW = {
    "none": (0.0, 0.0, 0.0, 1.0),
    "y-up": tuple(Rotation.from_euler("x", 90, degrees=True).as_quat()),
    "y-down": tuple(Rotation.from_euler("x", -90, degrees=True).as_quat()),
}


@dataclass(frozen=True, slots=True)
class FolderOptions:
    """How to read a folder. None: as the layout says.

    depth_scale: depth units per metre, 5000 for TUM, 1000 for millimetres; fps: frames per second
    where the folder has no stamps; intrinsics: fx fy cx cy, px, where it has no K file;
    rotate_world_xyzw: the folder's world to a z-up world; camera_axes: of its poses, one of
    CAMERA_AXES.
    """

    layout: str = "auto"
    depth_scale: float | None = None
    fps: float = 10.0
    intrinsics: tuple[float, float, float, float] | None = None
    rotate_world_xyzw: tuple[float, ...] = ROTATIONS_XYZW["none"]
    camera_axes: str = "optical"
    frame_id: str = "map"
    camera_frame_id: str = "camera_color_optical_frame"
    min_m: float = 0.0  # nearer readings become NaN
    max_m: float = 100.0


class FolderSource:
    """The frames of a folder in order; iterate as often as needed.

    `dropped` counts what the last pass left out. Poses that do not look optical, and a camera
    matrix that may be of another size, are logged once. Raises SourceError at construction for a
    folder, file or number that is missing or malformed, or a matrix that cannot be these images'.
    """

    def __init__(self, folder: str | Path, options: FolderOptions = FolderOptions()) -> None:
        # What the folder holds.
        self.folder, self.options = Path(folder), options
        self._listing = list_folder(self.folder, options.layout)
        self.layout = self._listing.layout
        scale = options.depth_scale
        self.depth_scale = self._listing.depth_scale if scale is None else scale
        if not self.depth_scale > 0 or not options.fps > 0:
            raise SourceError(
                f"depth_scale = {self.depth_scale} and fps = {options.fps} must both be above 0."
            )

        # Its cameras and its world.
        self._K_depth, self._K_color = self._matrices()
        self.size = self._check_matrices()
        self._T_up_world = pose_from_quaternion((0.0, 0.0, 0.0), options.rotate_world_xyzw)
        self._T_given_cam = pose_from_quaternion((0.0, 0.0, 0.0), self._optical_in_given())
        self._check_axes()
        self.dropped: Counter[FrameReason] = Counter()

    def __len__(self) -> int:
        """Frames listed; some may be dropped."""
        return len(self._listing.entries)

    def __iter__(self) -> Iterator[RgbdFrame]:
        self.dropped = Counter()
        if self._listing.num_unpaired:
            self.dropped[FrameReason.NO_DEPTH] = self._listing.num_unpaired
        for number, entry in enumerate(self._listing.entries):
            try:
                yield self._load(number, entry)
            except FrameError as error:
                self.dropped[error.reason] += 1

    def _matrices(self) -> tuple[Matrix, Matrix]:
        if self.options.intrinsics is not None:
            fx, fy, cx, cy = self.options.intrinsics
            K = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
            return K, K
        if self._listing.K_depth is None or self._listing.K_color is None:
            raise SourceError(
                f"{self.folder} has no camera matrix; give --intrinsics FX FY CX CY (px), or put"
                " K.txt there (3x3, or `fx fy cx cy`)."
            )
        return self._listing.K_depth, self._listing.K_color

    @property
    def resamples_color(self) -> bool:
        """Whether colour has a camera matrix of its own, and is resampled into the depth camera."""
        return self._K_color is not self._K_depth

    def _check_matrices(self) -> tuple[int, int]:
        """The size (width, height) of the depth images, px; (0, 0) where none can be read.

        Raises SourceError where a camera matrix is of another size.
        """
        entries = self._listing.entries
        size = _first_size([entry.depth for entry in entries])
        checks = [(self._K_depth, size, "depth")]
        if self.resamples_color:
            checks.append((self._K_color, _first_size([e.rgb for e in entries]), "color"))
        for K, (width, height), camera in checks:
            cx, cy = float(K[0, 2]), float(K[1, 2])
            if not width or not is_unusual(cx, cy, (width, height)):
                continue
            text = (
                f"{self._matrix_name(camera)} has cx = {cx:g}, cy = {cy:g}, the images are"
                f" {width}x{height}"
            )
            if is_of_another_size(cx, cy, (width, height)):
                raise SourceError(
                    f"{text}: the matrix belongs to another size ({size_of_matrix(cx, cy)}). Scale"
                    " it to the images, or give --intrinsics FX FY CX CY of their size."
                )
            logger.warning("%s: is it of another size (%s)?", text, size_of_matrix(cx, cy))
        return size

    def _matrix_name(self, camera: str) -> str:
        if self.options.intrinsics is not None:
            return "the camera matrix given (--intrinsics, or the YAML of --distortion)"
        if self.resamples_color:
            return str(self.folder / "intrinsic" / f"intrinsic_{camera}.txt")
        found = next((n for n in K_FILES if (self.folder / n).is_file()), "its camera matrix")
        return str(self.folder / found)

    def _optical_in_given(self) -> tuple[float, ...]:
        axes = self.options.camera_axes
        if axes not in CAMERA_AXES:
            raise SourceError(
                f"camera axes {axes!r} are not known; choose one of {', '.join(CAMERA_AXES)}."
            )
        return OPTICAL_IN[CameraAxes(axes)]

    def _posed(self, T_world_given: Matrix) -> Matrix:
        """T_world_cam (4, 4) of the optical frame in the z-up world."""
        return self._T_up_world @ T_world_given @ self._T_given_cam

    def _check_axes(self) -> None:
        """Log poses that are probably not of the optical frame."""
        poses = [
            self._posed(e.T_world_cam) for e in self._listing.entries if e.T_world_cam is not None
        ]
        axes = axes_of(np.stack(poses)) if len(poses) >= MIN_FRAMES else CameraAxes.UNKNOWN
        complaint = complaint_about(axes, len(poses))
        if not complaint:
            return
        cure = folder_cure(axes)
        if self.options.camera_axes != "optical" and axes in OPTICAL_IN:
            cure = f"camera axes {self.options.camera_axes} do not fit these poses"
        logger.warning("%s: %s; %s.", self.folder, complaint, cure)

    def _load(self, number: int, entry: Entry) -> RgbdFrame:
        # Pixels.
        if entry.T_world_cam is None:
            raise FrameError(FrameReason.NO_POSE, f"{entry.rgb} has no pose.")
        rgb = decode_compressed_color(_read(entry.rgb), "")
        raw = decode_grey16_png(_read(entry.depth))
        depth_m = depth_from_units(raw, self.depth_scale, self.options.min_m, self.options.max_m)
        height, width = depth_m.shape

        # As the depth camera has them.
        (fx, _, cx), (_, fy, cy) = self._K_depth[:2].tolist()
        return RgbdFrame(
            stamp_ns=self._stamp_ns(number, entry),
            rgb=self._registered(rgb, width, height, entry),
            depth_m=depth_m,
            intrinsics=Intrinsics(fx, fy, cx, cy, int(width), int(height)),
            T_world_cam=self._posed(entry.T_world_cam),
            frame_id=self.options.frame_id,
            camera_frame_id=self.options.camera_frame_id,
        )

    def _stamp_ns(self, number: int, entry: Entry) -> int:
        if entry.stamp_ns is not None:
            return entry.stamp_ns
        return FIRST_STAMP_NS + round(number * 1e9 / self.options.fps)

    def _registered(
        self, rgb: npt.NDArray[np.uint8], width: int, height: int, entry: Entry
    ) -> npt.NDArray[np.uint8]:
        """Colour resampled into the depth camera, both taken to be in one place.

        (ScanNet: they are 0 to 2 cm apart.) Raises FrameError (BAD_SIZE).
        """
        # One camera: nothing to resample.
        if self._K_color is self._K_depth:
            if rgb.shape[:2] != (height, width):
                raise FrameError(
                    FrameReason.BAD_SIZE,
                    f"{entry.rgb} is {rgb.shape[1]}x{rgb.shape[0]} px, its depth {width}x{height};"
                    " with one camera matrix they must be equal.",
                )
            return rgb

        # From colour's camera matrix to depth's.
        maps = cv2.initUndistortRectifyMap(
            self._K_color, np.zeros(5), np.eye(3), self._K_depth, (width, height), cv2.CV_32FC1
        )
        return np.asarray(cv2.remap(rgb, maps[0], maps[1], cv2.INTER_LINEAR), dtype=np.uint8)


def parse_rotation(text: str) -> tuple[float, ...]:
    """A rotation x, y, z, w from one of ROTATIONS_XYZW's names or four comma-separated numbers.

    Raises SourceError.
    """
    if text in ROTATIONS_XYZW:
        return ROTATIONS_XYZW[text]
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 4:
        raise SourceError(
            f"rotation {text!r}: expected {', '.join(ROTATIONS_XYZW)} or four numbers QX,QY,QZ,QW."
        )
    return values


def _first_size(images: list[Path]) -> tuple[int, int]:
    """Size (width, height) of the first image whose header can be read, (0, 0) without one."""
    for path in images:
        try:
            with Image.open(path) as image:
                return image.size
        except Exception:  # damaged files make the codecs raise almost anything; counted when read
            continue
    return 0, 0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error}") from None
