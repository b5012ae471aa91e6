"""A stored scene for others: as a posed RGB-D folder that `ada3d make-bag` reads, or as a bag."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from ada3d_ros.errors import StoreError
from ada3d_ros.sources.bag_writer import BagOptions, write_bag
from ada3d_ros.store.contents import SEGMENTS, read_contents
from ada3d_ros.store.json_form import to_json
from ada3d_ros.store.keyframe_bytes import encode_millimetres, encode_png
from ada3d_ros.store.named_scenes import NamedScenes
from ada3d_ros.store.segment import read_segment
from ada3d_ros.types import RgbdFrame

SECOND_NS = 1_000_000_000
FOLDERS = ("rgb", "depth", "poses")
FILES = ("K.txt", "objects.json", "answers.json")


def export_folder(store: NamedScenes, name: str, output: Path) -> tuple[int, list[str]]:
    """Write all keyframes of a scene into a new folder: rgb/, depth/ (PNG, millimetres), poses/
    (4x4, camera to world), K.txt, and objects.json, answers.json. How many, and what was left out.

    Raises StoreError where the folder is not empty, cannot be written, or the cameras differ; then
    it is left as it was.
    """
    folder = store.folder(name)
    try:
        is_new = not output.exists()
        if not is_new and any(output.iterdir()):
            raise StoreError(f"{output} is not empty: name a new folder.")
    except OSError as error:
        raise StoreError(_not_written(output, error)) from None
    try:
        return _export(store, name, folder, output)
    except BaseException as error:
        _take_back(output, is_new)
        if isinstance(error, OSError):
            raise StoreError(_not_written(output, error)) from None
        raise


def _export(store: NamedScenes, name: str, folder: Path, output: Path) -> tuple[int, list[str]]:
    """Into an empty folder. Raises OSError, StoreError."""
    notes: list[str] = []
    count, camera = 0, None
    for kind in FOLDERS:
        (output / kind).mkdir(parents=True)
    for frame in frames_of(folder, notes):
        if camera not in (None, frame.intrinsics):
            raise StoreError(
                f"the keyframes of {name!r} are of several cameras, a folder has one K.txt: export"
                " a bag (--bag)."
            )
        camera, stamp = frame.intrinsics, _in_seconds(frame.stamp_ns)
        (output / "rgb" / f"{stamp}.png").write_bytes(encode_png(frame.rgb))
        (output / "depth" / f"{stamp}.png").write_bytes(encode_millimetres(frame.depth_m))
        pose = "\n".join(" ".join(map(repr, row)) for row in frame.T_world_cam.tolist())
        (output / "poses" / f"{stamp}.txt").write_text(pose + "\n", encoding="ascii")
        count += 1
    if camera is not None:
        np.savetxt(output / "K.txt", camera.matrix, fmt="%.17g")
    _write_json(output / "objects.json", [to_json(each) for each in store.history(name)])
    _write_json(output / "answers.json", [row._asdict() for row in store.answers(name)])
    return count, notes


def _take_back(output: Path, is_new: bool) -> None:
    """What was written so far; the folder itself where it was not there."""
    if is_new:
        shutil.rmtree(output, ignore_errors=True)
        return
    for name in FOLDERS:
        shutil.rmtree(output / name, ignore_errors=True)
    for name in FILES:
        with suppress(OSError):
            (output / name).unlink()


def _not_written(output: Path, error: OSError) -> str:
    return (
        f"{output} cannot be written: {error.strerror or error}. Make room on that disk, or name"
        " another folder."
    )


def export_bag(store: NamedScenes, name: str, output: Path, raw: bool) -> tuple[int, list[str]]:
    """Write all keyframes of a scene as a rosbag2; raw: colour as rgb8, else as JPEG. How many, and
    what was left out. Raises SourceError, StoreError.
    """
    if os.path.lexists(output):
        raise StoreError(f"{output} exists already: name a new folder.")
    notes: list[str] = []
    count = write_bag(frames_of(store.folder(name), notes), output, BagOptions(raw=raw))
    return count, notes


def frames_of(folder: Path, notes: list[str]) -> Iterator[RgbdFrame]:
    """The frames of all keyframes by stamp, each stamp once; what is left out goes to `notes`."""
    contents = read_contents(folder)
    notes += contents.notes
    last_ns = -1
    for row in contents.rows:
        if row.stamp_ns == last_ns:
            continue  # the same image, admitted again after a reset
        try:
            frame = read_segment(folder / SEGMENTS / row.segment).keyframe.frame
        except StoreError as error:
            notes.append(str(error))
            continue
        last_ns = row.stamp_ns
        yield frame


def _in_seconds(stamp_ns: int) -> str:
    """As `ada3d make-bag` reads it from a file's name, exact to 1 ns."""
    return f"{stamp_ns // SECOND_NS}.{stamp_ns % SECOND_NS:09d}"


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
