"""Folder layouts of posed RGB-D data sets: which image, depth and pose files make one frame.

Reads no pixels. Depth units per metre are 5000 for the first two, 6553.5 for replica, 1000 for the
others. Names that begin with a dot are companions of a file manager, not data.

    tum      rgb.txt depth.txt groundtruth.txt, naming rgb/ and depth/ (TUM RGB-D SLAM Dataset)
    cabinet  raw_imgs/ depth_imgs/ truth_cam_poses.txt (CubeSLAM's TUM selection)
    scannet  color/ depth/ pose/ intrinsic/, one number per frame (ScanNet export)
    plain    rgb/ (or color/, images/), depth/, poses/ (or pose/) with a 4x4 text file per frame,
             K file
    list     rgb/ (or color/, images/), depth/, one file with all poses (POSE_LISTS), K file
    posed    00000.jpg 00000.png 00000.txt ... in one folder, intrinsic.txt (LLaVA-3D's
             posed_images)
    7scenes  frame-000000.color.png .depth.png .pose.txt ... in one folder (7-Scenes)
    replica  results/frame000000.jpg, results/depth000000.png, traj.txt (Replica as NICE-SLAM
             renders it)
    stray    rgb.mp4 or rgb/, depth/, confidence/, odometry.csv, camera_matrix.csv (Stray Scanner)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ada3d_ros.errors import FrameError, FrameReason, SourceError
from ada3d_ros.sources.data_sets import (
    COLOR_FOLDERS,
    LAYOUTS,
    POSE_FOLDERS,
    matching,
    pose_list_in,
    suffixes_in,
    visible_in,
)
from ada3d_ros.sources.listing import Entry, Listing
from ada3d_ros.sources.text_files import MAX_STAMP_S, STAMP_UNITS

SECOND_NS = 1_000_000_000


def list_folder(folder: Path, layout: str = "auto", stamp_unit: str = "auto") -> Listing:
    """The frames of a folder; `auto` recognises the layout by its files.

    stamp_unit: of all stamps in it, as text_files.stamps_to_ns. Raises SourceError naming what is
    missing.
    """
    # The layout's own listing.
    if stamp_unit not in ("auto", *STAMP_UNITS):
        raise SourceError(
            f"stamp unit {stamp_unit!r}: choose one of auto, {', '.join(STAMP_UNITS)}."
        )
    try:
        if not folder.is_dir():
            raise SourceError(f"no folder at {folder}.")
        layout = _recognise(folder) if layout == "auto" else layout
        if layout not in LAYOUTS:
            raise SourceError(
                f"layout {layout!r} is not known; choose one of auto, {', '.join(LAYOUTS)}."
            )
        listing = LAYOUTS[layout](folder, stamp_unit)
        files = [path for entry in listing.entries for path in (entry.rgb, entry.depth)]
        missing = [path for path in files if not path.is_file()]
    except OSError as error:
        raise SourceError(f"cannot read {folder}: {error}") from None

    # Its files exist, and its stamps are above zero.
    if missing:
        raise SourceError(
            f"{folder}: {len(missing)} image files are missing, the first is {missing[0]}."
        )
    if not listing.entries and not listing.left_out:
        raise SourceError(f"{folder} holds no frame of layout {layout!r}.")
    return _above_zero(_rising(listing))


def _rising(listing: Listing) -> Listing:
    """Without the frames that are stamped no later than one before them, as a row written twice."""
    entries: list[Entry] = []
    left_out = list(listing.left_out)
    for entry in listing.entries:
        newest_ns = entries[-1].stamp_ns if entries else None
        if entry.stamp_ns is None or newest_ns is None or entry.stamp_ns > newest_ns:
            entries.append(entry)
            continue
        text = f"{entry.rgb.name}, frame {entry.number}, is stamped no later than the one before."
        left_out.append(FrameError(FrameReason.BACKWARD_STAMP, text))
    return replace(listing, entries=tuple(entries), left_out=tuple(left_out))


def _above_zero(listing: Listing) -> Listing:
    """Stamps moved by whole seconds where one is not above zero, which means `not set`."""
    # The first stamp of all, and the last.
    stamps = [s for e in listing.entries for s in (e.stamp_ns, e.depth_stamp_ns) if s is not None]
    stamps += [stamp_ns for stamp_ns, _ in listing.trajectory]
    first_ns = min(stamps, default=1)
    shift_ns = 0 if first_ns > 0 else (1 - first_ns // SECOND_NS) * SECOND_NS
    if max(stamps, default=1) + shift_ns > MAX_STAMP_S * SECOND_NS:
        raise SourceError(
            f"stamps run from {first_ns / 1e9:g} to {max(stamps) / 1e9:g} s, more than a ROS stamp"
            " holds; is one of them damaged?"
        )
    if shift_ns == 0:
        return listing

    # All of them, moved alike.
    def moved(stamp_ns: int | None) -> int | None:
        return None if stamp_ns is None else stamp_ns + shift_ns

    entries = tuple(
        replace(e, stamp_ns=moved(e.stamp_ns), depth_stamp_ns=moved(e.depth_stamp_ns))
        for e in listing.entries
    )
    note = (
        f"stamps begin at {first_ns / 1e9:g} s, but a ROS stamp of zero means `not set` and none is"
        f" negative: {shift_ns // SECOND_NS} s were added to all."
    )
    trajectory = tuple((s + shift_ns, T) for s, T in listing.trajectory)
    return replace(listing, entries=entries, trajectory=trajectory, notes=(*listing.notes, note))


# -- recognition


def _recognise(folder: Path) -> str:
    for layout, marks in MARKS.items():
        if all(mark(folder) for mark in marks.values()):
            return layout
    raise SourceError(
        f"{folder} has none of the known layouts. Found: {_found(folder)}.{_nearest(folder)} Known:"
        " tum (groundtruth.txt), cabinet (truth_cam_poses.txt), scannet (color/ intrinsic/), plain"
        " (rgb/ depth/ poses/), list (rgb/ depth/ poses.txt), posed (.jpg .png .txt in one folder),"
        " 7scenes, replica, stray. Name one with --layout to see what it lacks."
    )


def _file(name: str) -> Callable[[Path], bool]:
    return lambda folder: (folder / name).is_file()


def _folder(*names: str) -> Callable[[Path], bool]:
    return lambda folder: any((folder / name).is_dir() for name in names)


def _files(*patterns: str) -> Callable[[Path], bool]:
    return lambda folder: any(matching(folder, *patterns))


MARKS: dict[str, dict[str, Callable[[Path], bool]]] = {
    "tum": {"groundtruth.txt": _file("groundtruth.txt")},
    "cabinet": {"truth_cam_poses.txt": _file("truth_cam_poses.txt")},
    "stray": {"odometry.csv": _file("odometry.csv"), "depth/": _folder("depth")},
    "replica": {"traj.txt": _file("traj.txt"), "results/": _folder("results")},
    "scannet": {"intrinsic/": _folder("intrinsic"), "color/": _folder("color")},
    "7scenes": {
        "*.color.png": _files("*.color.png", "*.color.jpg"),
        "*.pose.txt": _files("*.pose.txt"),
    },
    "plain": {"poses/": _folder(*POSE_FOLDERS)},
    "list": {
        "rgb/": _folder(*COLOR_FOLDERS),
        "poses.txt": lambda folder: pose_list_in(folder) is not None,
    },
    "posed": {
        "*.jpg": _files("*.jpg", "*.jpeg"),
        "*.png": _files("*.png"),
        "*.txt with numbers in their names": _files("*[0-9].txt"),
    },
}


# What else belongs to a layout: it tells which is nearest to a folder that has none.
FURTHER: dict[str, dict[str, Callable[[Path], bool]]] = {
    "tum": {"rgb.txt": _file("rgb.txt"), "depth.txt": _file("depth.txt")},
    "cabinet": {"raw_imgs/": _folder("raw_imgs"), "depth_imgs/": _folder("depth_imgs")},
    "stray": {"camera_matrix.csv": _file("camera_matrix.csv")},
    "scannet": {"depth/": _folder("depth"), "pose/": _folder("pose")},
    "7scenes": {"*.depth.png": _files("*.depth.png")},
    "plain": {"rgb/": _folder(*COLOR_FOLDERS), "depth/": _folder("depth")},
    "list": {"depth/": _folder("depth")},
}


def _nearest(folder: Path) -> str:
    """A sentence with the layout of which most is there; empty where nothing of any is."""
    parts = {layout: marks | FURTHER.get(layout, {}) for layout, marks in MARKS.items()}
    lacking = {
        layout: [name for name, mark in marks.items() if not mark(folder)]
        for layout, marks in parts.items()
    }
    layout = max(parts, key=lambda n: (len(parts[n]) - len(lacking[n]), -len(lacking[n])))
    if len(lacking[layout]) == len(parts[layout]):
        return ""
    return f" Nearest is {layout}, which lacks {' and '.join(lacking[layout])}."


def _found(folder: Path) -> str:
    """What lies in the folder: `6 .jpg, 6 .png in one folder; depth/ with 6 .npy`."""
    parts = [f"{suffixes_in(folder)} in one folder"] if suffixes_in(folder) else []
    for inner in sorted(path for path in visible_in(folder) if path.is_dir())[:8]:
        parts.append(f"{inner.name}/ with {suffixes_in(inner) or 'no files'}")
    return "; ".join(parts) or "nothing"
