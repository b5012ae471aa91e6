"""A stored scene for others: as a posed RGB-D folder that `ada3d make-bag` reads, or as a bag."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ada3d_ros.errors import StoreError
from ada3d_ros.sources.bag_writer import BagOptions, write_bag
from ada3d_ros.store.contents import SEGMENTS, read_contents
from ada3d_ros.store.json_form import to_json
from ada3d_ros.store.keyframe_bytes import encode_millimetres, encode_png
from ada3d_ros.store.named_scenes import NamedScenes
from ada3d_ros.store.scene_index import os_sentence
from ada3d_ros.store.segment import read_segment
from ada3d_ros.types import RgbdFrame

SECOND_NS = 1_000_000_000


def export_folder(store: NamedScenes, name: str, output: Path) -> tuple[int, list[str]]:
    """Write all keyframes of a scene into a new folder: rgb/, depth/ (PNG, millimetres), poses/
    (4x4, camera to world), K.txt, and objects.json, answers.json. How many, and what was left out.

    Raises StoreError where the folder is not empty, cannot be written, or the cameras differ.
    """
    folder = store.folder(name)
    notes: list[str] = []
    count, camera = 0, None
    try:
        if output.exists() and any(output.iterdir()):
            raise StoreError(f"{output} is not empty: name a new folder.")
        for kind in ("rgb", "depth", "poses"):
            (output / kind).mkdir(parents=True, exist_ok=True)
        for frame in frames_of(folder, notes):
            if camera not in (None, frame.intrinsics):
                raise StoreError(
                    f"the keyframes of {name!r} are of several cameras, a folder has one K.txt:"
                    " export a bag (--bag)."
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
        answers = [row._asdict() for row in store.answers(name)]
        _write_json(output / "answers.json", answers)
    except OSError as error:
        raise StoreError(os_sentence(output, error)) from None
    return count, notes


def export_bag(store: NamedScenes, name: str, output: Path, raw: bool) -> tuple[int, list[str]]:
    """Write all keyframes of a scene as a rosbag2; raw: colour as rgb8, else as JPEG. How many, and
    what was left out. Raises SourceError, StoreError.
    """
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
