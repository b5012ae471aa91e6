"""From files and poses to frames: what belongs together, and why the rest does not.

Paired by the stamps or numbers of the names, or by a list of stamps; by rank only where the names
have no number in common and there are as many of each, and then it is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ada3d_ros.errors import FrameError, FrameReason, SourceError
from ada3d_ros.geometry.pose import PoseBuffer
from ada3d_ros.sources.association import pair_nearest
from ada3d_ros.sources.file_names import Key, NamedFiles
from ada3d_ros.sources.pose_files import Pose, PoseRows
from ada3d_ros.sources.text_files import Matrix

COLOR_TO_DEPTH_S = 0.02  # as the association tool of the TUM data set
POSE_MAX_GAP_S = 0.2
ROUNDED_NS = 1_000_000  # stamps of two files that were rounded differently are nearer than this
MAX_POSES = 10_000_000
MAX_NAMES = 4  # that a sentence lists
NO_UNIT_S = 1_000_000_000

Stamped = tuple[int, Path]


@dataclass(frozen=True, eq=False, slots=True)
class Entry:
    """Files of one frame and its pose (4, 4).

    stamp_ns None: the layout has no stamps, `number` counts the frames, lost ones too.
    video_frame: rgb is a video, this is the frame's place in it. confidence: an image of 0, 1, 2
    beside depth; 0 is no reading.
    """

    rgb: Path
    depth: Path
    T_world_cam: Matrix
    stamp_ns: int | None = None
    depth_stamp_ns: int | None = None
    number: int = 0
    video_frame: int | None = None
    confidence: Path | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Listing:
    """A folder's frames in order. K_depth, K_color (3, 3) px, None where the folder does not say.

    They differ where depth was not registered to colour (ScanNet): colour is then resampled into
    the depth camera. left_out: one per colour image without partner or pose. trajectory: all
    stamped poses where they are denser than the images. rotate_world: a name of
    folder.ROTATIONS_XYZW that turns this layout's worlds to z up. notes: sentences to print.
    """

    layout: str
    entries: tuple[Entry, ...]
    depth_scale: float
    K_depth: Matrix | None = None
    K_color: Matrix | None = None
    left_out: tuple[FrameError, ...] = ()
    trajectory: tuple[tuple[int, Matrix], ...] = ()
    rotate_world: str = "none"
    notes: tuple[str, ...] = field(default=())


@dataclass(slots=True)
class Frames:
    """What pairing found so far."""

    entries: list[Entry] = field(default_factory=list)
    left_out: list[FrameError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    trajectory: list[tuple[int, Matrix]] = field(default_factory=list)

    def listing(
        self, layout: str, depth_scale: float, K_depth: Matrix | None, K_color: Matrix | None
    ) -> Listing:
        """Raises SourceError where every frame's pose is bad: that is no accident of one frame."""
        bad = [error for error in self.left_out if error.reason is FrameReason.BAD_POSE]
        if bad and not self.entries and len(bad) == len(self.left_out):
            raise SourceError(f"none of the {len(bad)} poses can be used, first: {bad[0]}")
        dense = len(self.trajectory) > len(self.entries)
        return Listing(
            layout,
            tuple(self.entries),
            depth_scale,
            K_depth,
            K_color,
            tuple(self.left_out),
            tuple(self.trajectory) if dense else (),
            notes=tuple(self.notes),
        )


# -- by stamps


def frames_by_stamp(
    color: Sequence[Stamped], depth: Sequence[Stamped], poses: Sequence[tuple[int, Matrix]]
) -> Frames:
    """Every colour image with the nearest depth, each used once, and the pose at its stamp."""
    # Rising stamps; of two images of one stamp the first counts.
    frames = Frames()
    color, depth = _rising(color, "colour", frames), _rising(depth, "depth", frames)
    color_ns, depth_ns = (np.array([s for s, _ in files], np.int64) for files in (color, depth))
    partner = dict(pair_nearest(color_ns, depth_ns, COLOR_TO_DEPTH_S))
    known = _with_rounded_ends(dict(poses), [stamp_ns for stamp_ns, _ in color])
    buffer = PoseBuffer(MAX_POSES)
    for stamp_ns, T in known.items():
        buffer.add(stamp_ns, T)

    # Frame by frame.
    for i, (stamp_ns, path) in enumerate(color):
        if i not in partner:
            frames.left_out.append(_without_depth(path, stamp_ns, depth_ns))
            continue
        pose = buffer.lookup(stamp_ns, POSE_MAX_GAP_S)
        if pose.pose is None:
            text = f"{path.name} has no pose: {pose.why}"
            frames.left_out.append(FrameError(FrameReason.NO_POSE, text))
            continue
        depth_stamp_ns, depth_path = depth[partner[i]]
        entry = Entry(path, depth_path, pose.pose, stamp_ns, depth_stamp_ns, i)
        frames.entries.append(entry)
    frames.trajectory = sorted(known.items(), key=lambda item: item[0])
    used = set(partner.values())
    rest = {"depth": [path for j, (_, path) in enumerate(depth) if j not in used]}
    _note_rest(frames, {"colour": [color[i][1] for i in range(len(color)) if i not in partner]})
    _note_rest(frames, rest)
    return frames


def _with_rounded_ends(poses: dict[int, Matrix], stamps_ns: Sequence[int]) -> dict[int, Matrix]:
    """The poses, the first and last also at an image's stamp that only rounding puts outside."""
    if poses:
        first, last = min(poses), max(poses)
        for stamp_ns in stamps_ns:
            if first - ROUNDED_NS <= stamp_ns < first:
                poses[stamp_ns] = poses[first]
            if last < stamp_ns <= last + ROUNDED_NS:
                poses[stamp_ns] = poses[last]
    return poses


def _rising(files: Sequence[Stamped], what: str, frames: Frames) -> list[Stamped]:
    """Sorted by stamp, one file a stamp; what is left out is noted."""
    first: dict[int, Path] = {}
    twice = []
    for stamp_ns, path in files:
        if first.setdefault(stamp_ns, path) is not path:
            twice.append(path)
    for path in twice:
        text = f"{path.name} has the stamp of the {what} image before it."
        if what == "colour":
            frames.left_out.append(FrameError(FrameReason.BACKWARD_STAMP, text))
        else:
            frames.notes.append(text)
    return sorted(first.items())


def _without_depth(path: Path, stamp_ns: int, depth_ns: np.ndarray) -> FrameError:
    text = f"{path.name} has no depth image of its own within {COLOR_TO_DEPTH_S} s"
    if len(depth_ns):
        text += f"; the nearest is {np.abs(depth_ns - stamp_ns).min() / 1e9:.3g} s away"
    return FrameError(FrameReason.NO_DEPTH, f"{text}.")


# -- by names


def frames_by_name(
    color: NamedFiles, depth: NamedFiles, poses: NamedFiles, read: Mapping[Path, Pose]
) -> Frames:
    """Colour, depth and pose files by the stamps or numbers in their names.

    Raises SourceError where the names say nothing and the counts differ.
    """
    # All three by stamps of their own.
    if color.stamps_ns and depth.stamps_ns and poses.stamps_ns:
        good = [
            (stamp_ns, T)
            for stamp_ns, path in zip(poses.stamps_ns, poses.paths, strict=True)
            if not isinstance(T := read[path], FrameError)
        ]
        frames = frames_by_stamp(_stamped(color), _stamped(depth), good)
        _note_poses(frames, [read[path] for path in poses.paths])
        return frames

    # By numbers, or by rank.
    notes: list[str] = []
    depth_of = _pair_images(color, depth, notes)
    pose_of = _partners(color, poses, notes)
    found = {path: read[pose_of[path]] for path in color.paths if path in pose_of}
    frames = _frames_of_pairs((color, depth), depth_of, found, _numbers_of(color, depth, poses))
    frames.notes += notes
    for files, partners in ((depth, depth_of), (poses, pose_of)):
        used = set(partners.values())
        _note_rest(frames, {files.what: [path for path in files.paths if path not in used]})
    _note_poses(frames, [read[path] for path in poses.paths])
    return frames


def _frames_of_pairs(
    images: tuple[NamedFiles, NamedFiles],
    depth_of: Mapping[Path, Path],
    pose_of: Mapping[Path, Pose],
    numbers: Mapping[Path, int],
) -> Frames:
    """Frames of colour files with their depth and pose; stamped by their names where those say."""
    frames = Frames()
    color = images[0]
    stamps = {path: s for files in images for s, path in _stamped(files)}
    mark = "name" if color.keys is None else "number"
    alone = []
    for path in color.paths:
        # Its partners.
        if path not in depth_of:
            text = f"{path.name} has no depth image with its {mark}."
            frames.left_out.append(FrameError(FrameReason.NO_DEPTH, text))
            alone.append(path)
            continue
        pose = pose_of.get(path)
        if pose is None:
            text = f"{path.name} has no pose with its {mark}."
            frames.left_out.append(FrameError(FrameReason.NO_POSE, text))
            alone.append(path)
            continue
        if isinstance(pose, FrameError):
            frames.left_out.append(FrameError(pose.reason, str(pose)))
            continue

        # The frame.
        depth = depth_of[path]
        stamp_ns, depth_ns = stamps.get(path), stamps.get(depth) if path in stamps else None
        frames.entries.append(Entry(path, depth, pose, stamp_ns, depth_ns, numbers.get(path, 0)))
    _note_rest(frames, {"colour": alone})
    return frames


def _numbers_of(color: NamedFiles, *others: NamedFiles) -> dict[Path, int]:
    """Every colour file's place among all frames of which anything is left."""
    if color.keys is None:
        return {path: number for number, path in enumerate(color.paths)}
    keys: set[Key] = set(color.keys)
    for files in others:
        if files.keys is not None and keys & set(files.keys):
            keys |= set(files.keys)
    place = {key: number for number, key in enumerate(sorted(keys))}
    return {path: place[key] for key, path in color.by_key().items()}


def _pair_images(color: NamedFiles, depth: NamedFiles, notes: list[str]) -> dict[Path, Path]:
    """Depth by colour file: by stamps where both names have them, else by number or rank."""
    if not (color.stamps_ns and depth.stamps_ns):
        return _partners(color, depth, notes)
    a, b = (np.array(files.stamps_ns, np.int64) for files in (color, depth))
    return {color.paths[i]: depth.paths[j] for i, j in pair_nearest(a, b, COLOR_TO_DEPTH_S)}


def _partners(color: NamedFiles, other: NamedFiles, notes: list[str]) -> dict[Path, Path]:
    """The other file of each colour file: of its number, its name, or its place.

    Raises SourceError where names have nothing in common and counts differ.
    """
    # By number.
    if color.keys is not None and other.keys is not None:
        theirs = other.by_key()
        pairs = {path: theirs[key] for key, path in color.by_key().items() if key in theirs}
        if pairs:
            return pairs

    # By the whole name.
    named = {path.stem: path for path in other.paths}
    pairs = {path: named[path.stem] for path in color.paths if path.stem in named}
    if pairs:
        return pairs

    # By rank.
    counts = f"{len(color.paths)} colour and {len(other.paths)} {other.what} files"
    if len(color.paths) != len(other.paths) or not color.paths:
        names = " and ".join(files.paths[0].name for files in (color, other) if files.paths)
        raise SourceError(
            f"{counts} have no number or stamp in common in their names (first: {names}), so they"
            " cannot be paired; give the files of one frame the same number."
        )
    notes.append(f"{counts} have no number in common in their names: paired in the order of names.")
    return dict(zip(color.paths, other.paths, strict=True))


def _stamped(files: NamedFiles) -> list[Stamped]:
    return list(zip(files.stamps_ns, files.paths, strict=True)) if files.stamps_ns else []


# -- with a list of poses


def frames_of_list(color: NamedFiles, depth: NamedFiles, rows: PoseRows) -> Frames:
    """Colour and depth files with the poses of one file: by stamp, by number, or by row.

    Raises SourceError where it cannot be told which row belongs to which image.
    """
    # By the stamps of both.
    if color.stamps_ns and depth.stamps_ns and rows.stamps_ns:
        frames = frames_by_stamp(_stamped(color), _stamped(depth), rows.stamped())
        frames.notes += rows.notes
        return frames

    # Row by row.
    notes: list[str] = []
    depth_of = _pair_images(color, depth, notes)
    row_of = _rows_of_images(color, depth, rows, notes)
    poses = {path: rows.poses[row] for path, row in row_of.items()}
    frames = _frames_of_pairs((color, depth), depth_of, poses, _numbers_of(color, depth))
    if rows.stamps_ns is not None and not _first_column_counts(rows) and not color.stamps_ns:
        stamps = rows.stamps_ns
        frames.entries = [replace(e, stamp_ns=stamps[row_of[e.rgb]]) for e in frames.entries]
    frames.notes += [*notes, *rows.notes]
    used = set(depth_of.values())
    _note_rest(frames, {"depth": [path for path in depth.paths if path not in used]})
    return frames


def _rows_of_images(
    color: NamedFiles, depth: NamedFiles, rows: PoseRows, notes: list[str]
) -> dict[Path, int]:
    """The place of the row of each colour file."""
    # By a frame number in the first column.
    count = len(rows.poses)
    keys = color.keys if color.stamps_ns is None else None
    if keys is not None and rows.stamps_ns is not None and _first_column_counts(rows):
        places = _rows_by_number(rows)
        found = {path: places[int(k[0])] for k, path in color.by_key().items() if k[0] in places}
        if found:
            return found

    # By the number in the name, from 0 or from 1.
    if keys is not None and all(len(key) == 1 for key in keys):
        numbers = [int(key[0]) for key in {*keys, *(depth.keys or ())} if len(key) == 1]
        for first in (0, 1):
            other = 1 - first
            if min(numbers) >= first and max(numbers) - first < count:
                if min(numbers) >= other and max(numbers) - other < count:
                    break
                if count != len(set(numbers)):
                    notes.append(f"the first row of {rows.path.name} is the pose of image {first}.")
                return {path: int(key[0]) - first for key, path in color.by_key().items()}

    # By rank.
    if len(color.paths) == count:
        notes.append(f"poses of {rows.path.name} and colour images are paired in their order.")
        return {path: row for row, path in enumerate(color.paths)}
    raise SourceError(
        f"{rows.path} has {count} poses for {len(color.paths)} colour images"
        f" ({color.paths[0].name} to {color.paths[-1].name}); which row is whose cannot be told."
        " Number the images from 0, or write each image's number or stamp before its row."
    )


def _rows_by_number(rows: PoseRows) -> dict[int, int]:
    """Frame number -> place of its row. Raises SourceError for a number that is there twice."""
    places: dict[int, int] = {}
    for row, stamp_ns in zip(rows.rows, rows.stamps_ns or (), strict=True):
        number = stamp_ns // NO_UNIT_S
        if number in places:
            before = rows.rows[places[number]].line
            raise row.error(f"frame {number} has a pose in line {before} already; leave one there.")
        places[number] = len(places)
    return places


def _first_column_counts(rows: PoseRows) -> bool:
    """Whether the first column holds frame numbers: whole, and too small for a date."""
    stamps = rows.stamps_ns or ()
    whole = all(stamp_ns % NO_UNIT_S == 0 for stamp_ns in stamps)
    return whole and max(stamps, default=0) < 900_000_000 * NO_UNIT_S


# -- sentences


def _note_rest(frames: Frames, rest: Mapping[str, Sequence[Path]]) -> None:
    for what, paths in rest.items():
        if paths:
            names = ", ".join(path.name for path in paths[:MAX_NAMES])
            more = ", ..." if len(paths) > MAX_NAMES else ""
            frames.notes.append(f"{len(paths)} {what} without partner: {names}{more}")


def _note_poses(frames: Frames, poses: Iterable[Pose]) -> None:
    poses = list(poses)
    bad = [pose for pose in poses if isinstance(pose, FrameError)]
    if bad:
        frames.notes.append(f"{len(bad)} of {len(poses)} poses not usable, first: {bad[0]}")
