"""How each layout of layouts.py is read: its files, its poses, its camera.

Reads no pixels. Names that begin with a dot are companions of a file manager, not data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from ada3d_ros.errors import FrameError, FrameReason, SourceError
from ada3d_ros.sources.file_names import NamedFiles, name_files
from ada3d_ros.sources.folder_cameras import (
    EXTRACT,
    REPLICA_K,
    SCENES7_K,
    camera_parameters,
    folder_camera,
    image_size,
    published_camera,
    scaled_camera,
    video_size,
)
from ada3d_ros.sources.listing import (
    Entry,
    Frames,
    Listing,
    frames_by_name,
    frames_by_stamp,
    frames_of_list,
)
from ada3d_ros.sources.pose_files import (
    read_odometry,
    read_pose_file,
    read_pose_list,
    read_stamped_poses,
)
from ada3d_ros.sources.text_files import (
    Matrix,
    read_camera_matrix,
    read_named_rows,
    stamps_to_ns,
)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
COLOR_FOLDERS = ("rgb", "color", "images")
POSE_FOLDERS = ("poses", "pose")
POSE_LISTS = (
    "poses.txt",
    "pose.txt",
    "traj.txt",
    "trajectory.txt",
    "camera_poses.txt",
    "CameraTrajectory.txt",
)
MAX_FRAME_DIGITS = 18


# -- layouts


def _tum(folder: Path, unit: str) -> Listing:
    named = {name: _stamped_files(folder, f"{name}.txt", unit) for name in ("rgb", "depth")}
    poses = read_stamped_poses(folder / "groundtruth.txt", unit)
    (rgb, rgb_notes), (depth, depth_notes) = named["rgb"], named["depth"]
    frames = frames_by_stamp(rgb, depth, poses.stamped())
    frames.notes = [*rgb_notes, *depth_notes, *poses.notes, *frames.notes]
    K = folder_camera(folder)
    return frames.listing("tum", 5000.0, K, K)


def _cabinet(folder: Path, unit: str) -> Listing:
    color, depth, notes = _color_and_depth(folder, ("raw_imgs",), ("depth_imgs",), unit)
    frames = frames_of_list(color, depth, read_stamped_poses(folder / "truth_cam_poses.txt", unit))
    frames.notes += notes
    K = folder_camera(folder)
    return frames.listing("cabinet", 5000.0, K, K)


def _scannet(folder: Path, unit: str) -> Listing:
    frames = _with_pose_files(folder, ("color",), unit)
    K_color = read_camera_matrix(folder / "intrinsic" / "intrinsic_color.txt")
    K_depth = read_camera_matrix(folder / "intrinsic" / "intrinsic_depth.txt")
    return frames.listing("scannet", 1000.0, K_depth, K_color)


def _plain(folder: Path, unit: str) -> Listing:
    frames = _with_pose_files(folder, COLOR_FOLDERS, unit)
    K = folder_camera(folder)
    return frames.listing("plain", 1000.0, K, K)


def _list(folder: Path, unit: str) -> Listing:
    path = pose_list_in(folder)
    if path is None:
        raise SourceError(f"{folder} has no file with the poses: {', '.join(POSE_LISTS)}.")
    color, depth, notes = _color_and_depth(folder, COLOR_FOLDERS, ("depth",), unit)
    frames = frames_of_list(color, depth, read_pose_list(path, unit))
    frames.notes += notes
    K = folder_camera(folder)
    return frames.listing("list", 1000.0, K, K)


def _posed(folder: Path, unit: str) -> Listing:
    # Whatever has a number; the rest are camera matrices.
    numbered = [path for path in visible_in(folder) if any(c.isdigit() for c in path.stem)]
    groups = {
        what: [path for path in numbered if path.suffix.lower() in suffixes]
        for what, suffixes in (
            ("colour", (".jpg", ".jpeg")),
            ("depth", (".png",)),
            ("pose", (".txt",)),
        )
    }
    frames = _grouped(folder, groups, unit)

    # One camera, or two.
    K_color = folder_camera(folder)
    K_depth: Matrix | None = K_color
    depth_file = folder / "depth_intrinsic.txt"
    if depth_file.is_file():
        K_depth = read_camera_matrix(depth_file)
    return frames.listing("posed", 1000.0, K_depth, K_color)


def _7scenes(folder: Path, unit: str) -> Listing:
    groups = {
        "colour": matching(folder, "*.color.png", "*.color.jpg"),
        "depth": matching(folder, "*.depth.png"),
        "pose": matching(folder, "*.pose.txt"),
    }
    frames = _grouped(folder, groups, unit)
    K = folder_camera(folder)
    K = published_camera(SCENES7_K, frames, "7-Scenes") if K is None else K
    return frames.listing("7scenes", 1000.0, K, K)


def _replica(folder: Path, unit: str) -> Listing:
    # Images and poses.
    results = folder / "results"
    groups = {
        "colour": matching(results, "frame*.jpg", "frame*.png"),
        "depth": matching(results, "depth*.png"),
    }
    named, notes = name_files(groups, unit)
    frames = frames_of_list(
        named["colour"], named["depth"], read_pose_list(folder / "traj.txt", unit)
    )
    frames.notes += notes

    # The camera: beside the scene or above it.
    for path in (folder / "cam_params.json", folder.parent / "cam_params.json"):
        if path.is_file():
            K_given, scale = camera_parameters(path)
            return frames.listing("replica", scale, K_given, K_given)
    K = folder_camera(folder)
    K = published_camera(REPLICA_K, frames, "Replica") if K is None else K
    return frames.listing("replica", 6553.5, K, K)


def _stray(folder: Path, unit: str) -> Listing:
    # Colour: extracted frames, or the video.
    poses = read_odometry(folder / "odometry.csv", unit)
    video = folder / "rgb.mp4"
    groups = {
        "depth": _images(folder, ("depth",), (".png",)),
        "confidence": matching(folder / "confidence", "*.png"),
    }
    if any((folder / name).is_dir() for name in COLOR_FOLDERS):
        groups["colour"] = _images(folder, COLOR_FOLDERS)
    elif not video.is_file():
        raise SourceError(f"{folder} has neither rgb.mp4 nor a folder rgb/ with its frames.")
    named, notes = name_files(groups, unit)
    depth, confidence, color = (
        {int(key[0]): path for key, path in files.by_key().items()} if files else {}
        for files in (named["depth"], named["confidence"], named.get("colour"))
    )

    if color and depth and min(color) == min(depth) + 1 and max(color) == max(depth) + 1:
        raise SourceError(
            f"{folder}: colour is numbered from {min(color)}, depth from {min(depth)}. {EXTRACT}"
        )

    # A row a frame.
    frames = Frames(notes=[*notes, *poses.notes])
    for row, pose, stamp_ns in zip(poses.rows, poses.poses, poses.stamps_ns or (), strict=True):
        if not row.cells[1].isdecimal() or len(row.cells[1]) > MAX_FRAME_DIGITS:
            raise row.error(f"`{row.cells[1]}` is not a frame number.")
        number = int(row.cells[1])
        place = None if "colour" in groups else number
        rgb = color.get(number) if place is None else video
        if isinstance(pose, FrameError):
            frames.left_out.append(pose)
        elif rgb is None or number not in depth:
            text = f"{row.path.name} line {row.line}: frame {number} has no colour or depth image."
            frames.left_out.append(FrameError(FrameReason.NO_DEPTH, text))
        else:
            files = (rgb, depth[number], pose, stamp_ns, None, number, place)
            frames.entries.append(Entry(*files, confidence.get(number)))
    frames.notes.append("the app's world is y up: turned to z up; depth of confidence 0 left out.")

    # Colour's matrix, and depth's for the smaller image of the same view.
    K_color = read_camera_matrix(folder / "camera_matrix.csv")
    K_depth = K_color
    if frames.entries:
        first = frames.entries[0]
        color_size = video_size(first.rgb) if first.rgb == video else image_size(first.rgb)
        K_depth = scaled_camera(K_color, color_size, image_size(first.depth))
    return replace(frames.listing("stray", 1000.0, K_depth, K_color), rotate_world="y-up")


LAYOUTS: dict[str, Callable[[Path, str], Listing]] = {
    "tum": _tum,
    "cabinet": _cabinet,
    "scannet": _scannet,
    "plain": _plain,
    "list": _list,
    "posed": _posed,
    "7scenes": _7scenes,
    "replica": _replica,
    "stray": _stray,
}


# -- files


def _with_pose_files(folder: Path, colors: tuple[str, ...], unit: str) -> Frames:
    groups = {
        "colour": _images(folder, colors),
        "depth": _images(folder, ("depth",), (".png",)),
        "pose": _pose_files(folder),
    }
    return _grouped(folder, groups, unit)


def _grouped(folder: Path, groups: dict[str, list[Path]], unit: str) -> Frames:
    """Frames of colour, depth and pose files."""
    empty = [what for what, paths in groups.items() if not paths]
    if empty:
        counts = ", ".join(f"{len(paths)} {what}" for what, paths in groups.items())
        raise SourceError(f"{folder} holds no frame: {counts} files.")
    named, notes = name_files(groups, unit)
    read = {path: read_pose_file(path) for path in named["pose"].paths}
    frames = frames_by_name(named["colour"], named["depth"], named["pose"], read)
    frames.notes = [*notes, *frames.notes]
    return frames


def _color_and_depth(
    folder: Path, colors: tuple[str, ...], depths: tuple[str, ...], unit: str
) -> tuple[NamedFiles, NamedFiles, list[str]]:
    groups = {"colour": _images(folder, colors), "depth": _images(folder, depths, (".png",))}
    if not all(groups.values()):
        counts = " and ".join(f"{len(paths)} {what}" for what, paths in groups.items())
        raise SourceError(f"{folder} holds no frame: {counts} images.")
    named, notes = name_files(groups, unit)
    return named["colour"], named["depth"], notes


def visible_in(folder: Path) -> list[Path]:
    """What lies in a folder, without companion files of file managers."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def suffixes_in(folder: Path) -> str:
    """`6 .jpg, 6 .png`; empty for none."""
    counts = Counter(path.suffix or path.name for path in visible_in(folder) if path.is_file())
    return ", ".join(f"{n} {suffix}" for suffix, n in sorted(counts.items())[:8])


def matching(folder: Path, *patterns: str) -> list[Path]:
    """Files whose name, in small letters, fits a pattern; none where there is no such folder."""
    if not folder.is_dir():
        return []
    files = [path for path in visible_in(folder) if path.is_file()]
    return [path for path in files if any(fnmatch(path.name.lower(), p) for p in patterns)]


def _images(
    folder: Path, names: tuple[str, ...], preferred: Sequence[str] = IMAGE_SUFFIXES
) -> list[Path]:
    """Image files of the first of these folders; other kinds only where none is preferred."""
    for name in names:
        if (folder / name).is_dir():
            visible = [path for path in visible_in(folder / name) if path.is_file()]
            for suffixes in (preferred, IMAGE_SUFFIXES):
                images = [path for path in visible if path.suffix.lower() in suffixes]
                if images:
                    return images
            if visible:
                kinds = "16-bit .png" if ".jpg" not in preferred else ".jpg or .png"
                found = suffixes_in(folder / name)
                raise SourceError(f"{folder / name} holds {found}; images must be {kinds} files.")
            return []
    raise SourceError(f"{folder} has no folder {_or(f'{name}/' for name in names)}.")


def _pose_files(folder: Path) -> list[Path]:
    for name in POSE_FOLDERS:
        if (folder / name).is_dir():
            found = matching(folder / name, "*.txt")
            if not found and visible_in(folder / name):
                kinds = suffixes_in(folder / name)
                raise SourceError(f"{folder / name} holds {kinds}; poses must be 4x4 .txt files.")
            return found
    names = _or(f"{name}/" for name in POSE_FOLDERS)
    raise SourceError(f"{folder} has no folder {names} with 4x4 text files.")


def _or(names: Iterable[str]) -> str:
    return " or ".join(names)


def pose_list_in(folder: Path) -> Path | None:
    """The file with all poses, None where there is none."""
    return next((folder / name for name in POSE_LISTS if (folder / name).is_file()), None)


def _stamped_files(folder: Path, name: str, unit: str) -> tuple[list[tuple[int, Path]], list[str]]:
    rows = read_named_rows(folder / name)
    stamps_ns, note = stamps_to_ns(rows, unit)
    paths = [folder / row.cells[1].replace("\\", "/") for row in rows]
    return list(zip(stamps_ns, paths, strict=True)), [note] if note else []
