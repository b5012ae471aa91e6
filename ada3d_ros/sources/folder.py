"""Posed RGB-D folders as an iterable of RgbdFrame.

Layouts are in layouts.py; pixels are decoded by images.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.spatial.transform import Rotation

from ada3d_ros.errors import FrameError, FrameReason, PoseError, SourceError
from ada3d_ros.geometry.camera import is_of_another_size, is_unusual, size_of_matrix
from ada3d_ros.geometry.camera_axes import (
    OPTICAL_IN,
    CameraAxes,
    axes_of,
    complaint_about,
    folder_cure,
)
from ada3d_ros.geometry.pose import pose_from_quaternion
from ada3d_ros.sources.dropped import Dropped
from ada3d_ros.sources.folder_cameras import EXTRACT, K_FILES
from ada3d_ros.sources.images import (
    NO_READING,
    decode_compressed_color,
    decode_grey,
    decode_grey16_png,
    depth_from_units,
)
from ada3d_ros.sources.layouts import list_folder
from ada3d_ros.sources.listing import Entry
from ada3d_ros.sources.text_files import Matrix, camera_matrix
from ada3d_ros.types import Intrinsics, RgbdFrame

logger = logging.getLogger(__name__)

MIN_FPS, MAX_FPS = 1e-3, 1e5
MIN_FRAMES = 5  # with a pose, to judge their axes
MATRIX_FILES = {  # of layouts with a camera matrix for depth and one for colour
    "scannet": {c: (f"intrinsic/intrinsic_{c}.txt",) for c in ("depth", "color")},
    "posed": {"depth": ("depth_intrinsic.txt",), "color": ("intrinsic.txt",)},
    "stray": dict.fromkeys(("depth", "color"), ("camera_matrix.csv",)),
}
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
    CAMERA_AXES; stamp_unit: auto, s, ms, us or ns; max_frames: of these, so many at most, picked as
    `spread` does.
    """

    layout: str = "auto"
    depth_scale: float | None = None
    fps: float = 10.0
    intrinsics: tuple[float, float, float, float] | None = None
    rotate_world_xyzw: tuple[float, ...] | None = None
    camera_axes: str = "optical"
    frame_id: str = "map"
    camera_frame_id: str = "camera_color_optical_frame"
    min_m: float = 0.0  # nearer readings become NaN
    max_m: float = 100.0
    stamp_unit: str = "auto"
    max_frames: int | None = None


class FolderSource:
    """The frames of a folder in order; iterate as often as needed.

    `dropped` counts what the last pass left out; `notes` are sentences about how the folder was
    read; `trajectory` holds all stamped poses (stamp_ns, T_world_cam) where they are denser than
    the images. Poses that do not look optical, and a camera matrix that may be of another size, are
    logged once. Raises SourceError at construction for a folder, file or number that is missing or
    malformed, or a matrix that cannot be these images', and at the end of a pass without a frame.
    """

    def __init__(self, folder: str | Path, options: FolderOptions = FolderOptions()) -> None:
        # What the folder holds.
        self.folder, self.options = Path(folder), options
        self._listing = list_folder(self.folder, options.layout, options.stamp_unit)
        self.layout = self._listing.layout
        scale = options.depth_scale
        self.depth_scale = self._listing.depth_scale if scale is None else scale
        if not 0 < self.depth_scale < np.inf or not MIN_FPS <= options.fps <= MAX_FPS:
            raise SourceError(
                f"depth_scale = {self.depth_scale} must be above 0 and finite, fps = {options.fps}"
                f" within {MIN_FPS:g} to {MAX_FPS:g}."
            )

        # Its cameras and its world.
        self._K_depth, self._K_color = self._matrices()
        self.size = self._check_matrices()
        turn = options.rotate_world_xyzw or ROTATIONS_XYZW[self._listing.rotate_world]
        self._T_up_world = pose_from_quaternion((0.0, 0.0, 0.0), turn)
        self._T_given_cam = pose_from_quaternion((0.0, 0.0, 0.0), self._optical_in_given())
        self._check_axes()
        self.notes = self._listing.notes
        self.trajectory = [(s, self._posed(T)) for s, T in self._listing.trajectory]
        self.dropped = Dropped()
        entries, most = self._listing.entries, options.max_frames
        kept = tuple(entries[i] for i in spread(len(entries), most or len(entries)))
        self._listing = replace(self._listing, entries=kept)

    def __len__(self) -> int:
        """Frames listed; some may be dropped."""
        return len(self._listing.entries)

    def __iter__(self) -> Iterator[RgbdFrame]:
        # What has no partner or no pose.
        self.dropped = Dropped()
        for problem in self._listing.left_out:
            self.dropped.note(problem)

        # Frame by frame.
        video, count = _Video(), 0
        for entry in self._listing.entries:
            try:
                frame = self._load(entry, video)
            except (FrameError, PoseError) as error:
                self.dropped.note(error)
                continue
            yield frame
            count += 1
        if count == 0:
            raise SourceError(
                f"{self.folder}: no frame can be used: {'; '.join(self.dropped.lines())}"
            )

    def _matrices(self) -> tuple[Matrix, Matrix]:
        # As given, or as the folder says.
        given = self.options.intrinsics
        K = None if given is None else camera_matrix(*given)
        K_depth = self._listing.K_depth if K is None else K
        K_color = self._listing.K_color if K is None else K
        if K_depth is None or K_color is None:
            raise SourceError(
                f"{self.folder} has no camera matrix; give --intrinsics FX FY CX CY (px), or put"
                " K.txt there (3x3, or `fx fy cx cy`)."
            )

        # Cameras that can be.
        for K in (K_depth, K_color):
            (fx, _, cx), (_, fy, cy) = K[:2].tolist()
            if not np.isfinite(K).all() or fx <= 0 or fy <= 0:
                raise SourceError(
                    f"camera matrix of {self.folder} has fx={fx:g} fy={fy:g} cx={cx:g} cy={cy:g}:"
                    " all must be finite, fx and fy above 0 px; give --intrinsics FX FY CX CY."
                )
        return K_depth, K_color

    @property
    def resamples_color(self) -> bool:
        """Whether colour has a camera matrix of its own, and is resampled into the depth camera."""
        return not np.array_equal(self._K_color, self._K_depth)

    def _check_matrices(self) -> tuple[int, int]:
        """The size (width, height) of the depth images, px; (0, 0) where none can be read.

        Raises SourceError where a camera matrix is of another size.
        """
        entries = self._listing.entries
        size = _first_size([entry.depth for entry in entries])
        checks = [(self._K_color, _first_size([entry.rgb for entry in entries]), "color")]
        if self.resamples_color:  # else depth of another size is refused frame by frame
            checks.append((self._K_depth, size, "depth"))
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
        names = MATRIX_FILES.get(self.layout, {camera: K_FILES})[camera]
        found = next((n for n in names if (self.folder / n).is_file()), "its camera matrix")
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

    def _load(self, entry: Entry, video: _Video) -> RgbdFrame:
        # Pixels.
        with _naming(entry.rgb):
            if entry.video_frame is not None:
                rgb = video.frame(entry.rgb, entry.video_frame)
            else:
                rgb = decode_compressed_color(_read(entry.rgb), "")
        with _naming(entry.depth):
            depth_m = self._depth_m(entry)
        height, width = depth_m.shape

        # As the depth camera has them.
        (fx, _, cx), (_, fy, cy) = self._K_depth[:2].tolist()
        return RgbdFrame(
            stamp_ns=self._stamp_ns(entry),
            rgb=self._registered(rgb, width, height, entry),
            depth_m=depth_m,
            intrinsics=Intrinsics(fx, fy, cx, cy, int(width), int(height)),
            T_world_cam=self._posed(entry.T_world_cam),
            frame_id=self.options.frame_id,
            camera_frame_id=self.options.camera_frame_id,
            depth_stamp_ns=entry.depth_stamp_ns,
        )

    def _depth_m(self, entry: Entry) -> npt.NDArray[np.float32]:
        """Depth (H, W) in metres, NaN where there is no reading or no confidence in it."""
        raw = decode_grey16_png(_read(entry.depth))
        if entry.confidence is not None:
            confidence = decode_grey(_read(entry.confidence))
            if confidence.shape != raw.shape:
                raise FrameError(
                    FrameReason.BAD_SIZE,
                    f"{entry.confidence.name} is not as large as the depth image.",
                )
            raw = np.where(confidence > 0, raw, 0).astype(np.uint16)
        depth_m = depth_from_units(raw, self.depth_scale, self.options.min_m, self.options.max_m)
        if not np.isfinite(depth_m).any():
            raise FrameError(
                FrameReason.LOW_VALID_DEPTH,
                f"no pixel is a reading: all are 0, {NO_READING}, without confidence or outside"
                f" {self.options.min_m:g} to {self.options.max_m:g} m.",
            )
        return depth_m

    def _stamp_ns(self, entry: Entry) -> int:
        if entry.stamp_ns is not None:
            return entry.stamp_ns
        return FIRST_STAMP_NS + round(entry.number * 1e9 / self.options.fps)

    def _registered(
        self, rgb: npt.NDArray[np.uint8], width: int, height: int, entry: Entry
    ) -> npt.NDArray[np.uint8]:
        """Colour resampled into the depth camera, both taken to be in one place.

        (ScanNet: they are 0 to 2 cm apart.) Raises FrameError (BAD_SIZE).
        """
        # One camera: nothing to resample.
        if not self.resamples_color:
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


def spread(count: int, most: int) -> range:
    """Which of `count` frames are looked at where `most` are wanted: every (count // most)-th from
    the first on, as LLaVA-3D takes them; all where there are no more.
    """
    step = max(count // max(most, 1), 1)
    return range(0, min(count, most * step), step)


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
    if len(values) != 4 or not np.isfinite(values).all():
        raise SourceError(
            f"rotation {text!r}: expected {', '.join(ROTATIONS_XYZW)} or four finite numbers"
            " QX,QY,QZ,QW."
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


class _Video:
    """A video's frames, read in order."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._capture: cv2.VideoCapture | None = None
        self._next = 0

    def frame(self, path: Path, place: int) -> npt.NDArray[np.uint8]:
        """rgb (H, W, 3) of the frame at `place`. Raises FrameError (CORRUPT)."""
        # The video from its beginning, as the camera saw it: turned by no flag.
        if self._capture is None or path != self._path or place < self._next:
            self._path, self._next = path, 0
            self._capture = cv2.VideoCapture(str(path))
            self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)

        # On to the frame.
        while self._next < place and self._capture.grab():
            self._next += 1
        found, bgr = self._capture.read() if self._next == place else (False, None)
        self._next += 1
        if not found or bgr is None:
            raise FrameError(
                FrameReason.CORRUPT, f"frame {place} cannot be decoded by OpenCV here. {EXTRACT}"
            )
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of decoding begin with the file's name."""
    try:
        yield
    except FrameError as error:
        raise FrameError(error.reason, f"{path.parent.name}/{path.name}: {error}") from None
