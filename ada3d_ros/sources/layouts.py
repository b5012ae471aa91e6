"""Folder layouts of posed RGB-D data sets: which image, depth and pose files make one frame.

Reads no pixels. Depth units per metre are 5000 for the first two, 1000 for the others.

    tum      rgb.txt depth.txt groundtruth.txt, naming rgb/ and depth/ (TUM RGB-D SLAM Dataset)
    cabinet  raw_imgs/ depth_imgs/ truth_cam_poses.txt, in file order (CubeSLAM's TUM selection)
    scannet  color/ depth/ pose/ intrinsic/, one number per frame (ScanNet export)
    plain    rgb/ (or color/, images/), depth/, poses/ (or pose/) with a 4x4 text file per frame,
             K file
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ada3d_ros.errors import SourceError
from ada3d_ros.geometry.pose import PoseBuffer, pose_from_quaternion
from ada3d_ros.sources.association import pair_nearest

TUM_MAX_GAP_S = 0.02  # colour to depth, as the data set's own association tool
POSE_MAX_GAP_S = 0.2
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
K_FILES = ("K.txt", "intrinsics.txt", "intrinsic.txt", "camera_intrinsics.txt")
COLOR_FOLDERS = ("rgb", "color", "images")
POSE_FOLDERS = ("poses", "pose")

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class Entry:
    """Files of one frame. stamp_ns None: the layout has no stamps; T_world_cam None: no pose."""

    rgb: Path
    depth: Path
    T_world_cam: Matrix | None
    stamp_ns: int | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Listing:
    """A folder's frames in order. K_depth, K_color (3, 3) px, None where the folder does not say.

    They differ where depth was not registered to colour (ScanNet): colour is then resampled into
    the depth camera.
    """

    layout: str
    entries: tuple[Entry, ...]
    depth_scale: float
    K_depth: Matrix | None = None
    K_color: Matrix | None = None
    num_unpaired: int = 0  # colour images without depth within TUM_MAX_GAP_S


def list_folder(folder: Path, layout: str = "auto") -> Listing:
    """The frames of a folder; `auto` recognises the layout by its files.

    Raises SourceError naming what is missing.
    """
    # The layout's own listing.
    if not folder.is_dir():
        raise SourceError(f"no folder at {folder}.")
    if layout == "auto":
        layout = _recognise(folder)
    if layout not in LAYOUTS:
        raise SourceError(
            f"layout {layout!r} is not known; choose one of auto, {', '.join(LAYOUTS)}."
        )
    listing = LAYOUTS[layout](folder)

    # Its files exist.
    files = [path for entry in listing.entries for path in (entry.rgb, entry.depth)]
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise SourceError(
            f"{folder}: {len(missing)} image files are missing, the first is {missing[0]}."
        )
    if not listing.entries:
        raise SourceError(f"{folder} holds no frame of layout {layout!r}.")
    return listing


def _recognise(folder: Path) -> str:
    if (folder / "groundtruth.txt").is_file():
        return "tum"
    if (folder / "truth_cam_poses.txt").is_file():
        return "cabinet"
    if (folder / "intrinsic").is_dir() and (folder / "color").is_dir():
        return "scannet"
    if any((folder / name).is_dir() for name in POSE_FOLDERS):
        return "plain"
    raise SourceError(
        f"{folder} has none of the known layouts: tum (groundtruth.txt), cabinet"
        " (truth_cam_poses.txt), scannet (color/ intrinsic/), plain (rgb/ depth/ poses/). Name one"
        " with --layout to see what it lacks."
    )


def _tum(folder: Path) -> Listing:
    # Colour with the nearest depth.
    rgb, depth = (_stamped_files(folder, f"{name}.txt") for name in ("rgb", "depth"))
    rgb_ns, depth_ns = (np.array([s for s, _ in files], dtype=np.int64) for files in (rgb, depth))
    pairs = pair_nearest(rgb_ns, depth_ns, TUM_MAX_GAP_S)

    # The pose at colour's stamp.
    poses = PoseBuffer(max_poses=10_000_000)
    for stamp_ns, T_world_cam in _stamped_poses(folder / "groundtruth.txt"):
        poses.add(stamp_ns, T_world_cam)
    entries = []
    for i, j in pairs:
        stamp_ns, color_file = rgb[i]
        pose = poses.lookup(stamp_ns, POSE_MAX_GAP_S).T_world_child
        entries.append(Entry(color_file, depth[j][1], pose, stamp_ns))
    K = _folder_K(folder)
    return Listing("tum", tuple(entries), 5000.0, K, K, num_unpaired=len(rgb) - len(pairs))


def _cabinet(folder: Path) -> Listing:
    rgb, depth = _images(folder, ("raw_imgs",)), _images(folder, ("depth_imgs",))
    poses = _stamped_poses(folder / "truth_cam_poses.txt")
    _same_count(folder, rgb, depth, poses)
    entries = tuple(
        Entry(c, d, T, stamp_ns) for c, d, (stamp_ns, T) in zip(rgb, depth, poses, strict=True)
    )
    K = _folder_K(folder)
    return Listing("cabinet", entries, 5000.0, K, K)


def _scannet(folder: Path) -> Listing:
    rgb, depth = _images(folder, ("color",)), _images(folder, ("depth",))
    poses = _pose_files(folder)
    _same_count(folder, rgb, depth, poses)
    K_color = _read_K(folder / "intrinsic" / "intrinsic_color.txt")
    K_depth = _read_K(folder / "intrinsic" / "intrinsic_depth.txt")
    return Listing("scannet", _zip_entries(rgb, depth, poses), 1000.0, K_depth, K_color)


def _plain(folder: Path) -> Listing:
    rgb, depth = _images(folder, COLOR_FOLDERS), _images(folder, ("depth",))
    poses = _pose_files(folder)
    _same_count(folder, rgb, depth, poses)
    K = _folder_K(folder)
    return Listing("plain", _zip_entries(rgb, depth, poses), 1000.0, K, K)


LAYOUTS: dict[str, Callable[[Path], Listing]] = {
    "tum": _tum,
    "cabinet": _cabinet,
    "scannet": _scannet,
    "plain": _plain,
}


def _zip_entries(rgb: list[Path], depth: list[Path], poses: list[Path]) -> tuple[Entry, ...]:
    return tuple(Entry(c, d, _read_pose(p)) for c, d, p in zip(rgb, depth, poses, strict=True))


def _images(folder: Path, names: tuple[str, ...]) -> list[Path]:
    for name in names:
        if (folder / name).is_dir():
            files = (folder / name).iterdir()
            images = (path for path in files if path.suffix.lower() in IMAGE_SUFFIXES)
            return sorted(images, key=_by_number)
    raise SourceError(f"{folder} has no folder {' or '.join(f'{name}/' for name in names)}.")


def _pose_files(folder: Path) -> list[Path]:
    for name in POSE_FOLDERS:
        if (folder / name).is_dir():
            return sorted((folder / name).glob("*.txt"), key=_by_number)
    raise SourceError(
        f"{folder} has no folder {' or '.join(f'{name}/' for name in POSE_FOLDERS)} with 4x4 text"
        " files."
    )


def _by_number(path: Path) -> tuple[list[int], str]:
    """Sorts 9 before 10: ScanNet writes its frame numbers without leading zeros."""
    return [int(digits) for digits in re.findall(r"\d+", path.stem)], path.name


def _same_count(
    folder: Path, rgb: Iterable[object], depth: Iterable[object], poses: Iterable[object]
) -> None:
    counts = [len(list(items)) for items in (rgb, depth, poses)]
    if len(set(counts)) != 1:
        raise SourceError(
            f"{folder} has {counts[0]} colour images, {counts[1]} depth images and {counts[2]}"
            " poses."
        )


def _stamped_files(folder: Path, name: str) -> list[tuple[int, Path]]:
    rows = [line.split() for line in _lines(folder / name)]
    try:
        return [(_to_ns(stamp), folder / path) for stamp, path in rows]
    except ValueError:
        raise SourceError(f"{folder / name}: every line must be `timestamp filename`.") from None


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"cannot read {path}: {error}") from None
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _stamped_poses(path: Path) -> list[tuple[int, Matrix]]:
    """Stamps and T_world_cam of a file of `timestamp tx ty tz qx qy qz qw` lines."""
    poses = []
    for line in _lines(path):
        stamp, *numbers = line.split()
        try:
            values = [float(number) for number in numbers]
            poses.append((_to_ns(stamp), pose_from_quaternion(values[:3], values[3:])))
        except ValueError as error:  # PoseError is one
            raise SourceError(
                f"{path}: `{line.strip()}` is not `timestamp tx ty tz qx qy qz qw`: {error}"
            ) from None
    return poses


def _to_ns(seconds: str) -> int:
    """Nanoseconds of a decimal text, exactly: a float64 keeps too few digits. Raises ValueError."""
    whole, _, fraction = seconds.partition(".")
    return int(whole) * 1_000_000_000 + int(fraction[:9].ljust(9, "0"))


def _read_pose(path: Path) -> Matrix | None:
    """T_world_cam (4, 4); None where the file holds infinities, ScanNet's mark of a lost camera."""
    matrix = _read_matrix(path)
    if matrix.shape != (4, 4):
        raise SourceError(
            f"{path} holds {matrix.shape} numbers, expected a 4x4 camera-to-world matrix."
        )
    return matrix if np.isfinite(matrix).all() else None


def _folder_K(folder: Path) -> Matrix | None:
    found = [folder / name for name in K_FILES if (folder / name).is_file()]
    return _read_K(found[0]) if found else None


def _read_K(path: Path) -> Matrix:
    """K (3, 3) from a file of 3x3, 4x4 or the four numbers fx fy cx cy."""
    matrix = _read_matrix(path)
    if matrix.size == 4:
        fx, fy, cx, cy = matrix.ravel()
        return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    if matrix.shape not in ((3, 3), (4, 4)):
        raise SourceError(
            f"{path} holds {matrix.shape} numbers, expected K as 3x3, 4x4 or `fx fy cx cy`."
        )
    return matrix[:3, :3]


def _read_matrix(path: Path) -> Matrix:
    rows = [line.replace(",", " ").split() for line in _lines(path)]
    try:
        return np.array([[float(value) for value in row] for row in rows], dtype=np.float64)
    except ValueError:
        raise SourceError(f"{path} is not a matrix of numbers.") from None
