"""Posed RGB-D folders as an iterable of RgbdFrame.

Layouts are in layouts.py; pixels are decoded by images.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from ada3d_ros.errors import FrameError, FrameReason, SourceError
from ada3d_ros.geometry.pose import pose_from_quaternion
from ada3d_ros.sources.images import decode_compressed_color, decode_grey16_png, depth_from_units
from ada3d_ros.sources.layouts import Entry, Matrix, list_folder
from ada3d_ros.types import Intrinsics, RgbdFrame

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
    rotate_world_xyzw: the folder's world to a z-up world.
    """

    layout: str = "auto"
    depth_scale: float | None = None
    fps: float = 10.0
    intrinsics: tuple[float, float, float, float] | None = None
    rotate_world_xyzw: tuple[float, ...] = ROTATIONS_XYZW["none"]
    frame_id: str = "map"
    camera_frame_id: str = "camera_color_optical_frame"
    min_m: float = 0.0  # nearer readings become NaN
    max_m: float = 100.0


class FolderSource:
    """The frames of a folder in order; iterate as often as needed.

    `dropped` counts what the last pass left out. Raises SourceError at construction for a folder,
    file or number that is missing or malformed.
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
        self._T_up_world = pose_from_quaternion((0.0, 0.0, 0.0), options.rotate_world_xyzw)
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
            T_world_cam=self._T_up_world @ entry.T_world_cam,
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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error}") from None
