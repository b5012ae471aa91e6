"""What a scene's folder holds, whatever state a killed process or a damaged disk left it in.

The segments are the truth: one that the index does not know yet is taken in, one that is gone or
damaged is left out, and without a usable index all of it is told from the segments. Each of that is
a sentence. Writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ada3d_ros.errors import Ada3DError, StoreError
from ada3d_ros.scene.floor import Floor, level_places
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.scene.objects import KeptObjects
from ada3d_ros.store.object_rows import ObjectRow, memory_of
from ada3d_ros.store.scene_index import DamagedIndexError, KeyframeRow, SceneIndex
from ada3d_ros.store.segment import SUFFIX, read_header, read_segment
from ada3d_ros.types import Keyframe, SceneState

SEGMENTS = "keyframes"  # folder of the segments in a scene's folder
KEPT = "kept:"  # in the index, before the names of what others keep with the scene
# keyframes in use of a scene whose index is lost; keyframe.max_views is at most so
MAX_REBUILT = 64
MAX_NOTES = 3  # sentences at once
Key = tuple[int, int]  # stamp in ns and index of a keyframe


@dataclass(frozen=True, slots=True)
class SceneInUse:
    """A SceneSnapshot without its keyframes: they are named. floor None: to be estimated anew."""

    epoch: int = 0
    version: int = 0
    floor: Floor | None = None
    anchor_xy_m: tuple[float, float] = (0.0, 0.0)
    keyframes: tuple[Key, ...] = ()

    @classmethod
    def from_scene(cls, scene: SceneSnapshot) -> SceneInUse:
        keys = tuple(map(key_of, scene.keyframes))
        state = scene.state
        return cls(state.epoch, state.version, scene.floor, scene.anchor_xy_m, keys)

    def to_json(self) -> str:
        floor = self.floor
        said = {
            "epoch": self.epoch,
            "version": self.version,
            "floor": floor and [floor.z_m, floor.source, floor.num_views],
            "anchor_xy_m": self.anchor_xy_m,
            "keyframes": self.keyframes,
        }
        return json.dumps(said)

    @classmethod
    def from_json(cls, text: str) -> SceneInUse:
        """Raises DamagedIndexError."""
        try:
            said = json.loads(text)
            x, y = said["anchor_xy_m"]
            keys = tuple((int(stamp_ns), int(index)) for stamp_ns, index in said["keyframes"])
            floor = None
            if said["floor"] is not None:
                z_m, source, num_views = said["floor"]
                floor = Floor(float(z_m), str(source), int(num_views))
            return cls(int(said["epoch"]), int(said["version"]), floor, (float(x), float(y)), keys)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DamagedIndexError(f"the scene in the index cannot be read: {error!r}.") from None


@dataclass(slots=True)
class Contents:
    """rows: of the keyframes, by stamp; in_use: of the scene; states: texts that others keep with
    it, by key; rebuilt: the index was of no use; unknown: rows of segments that the index lacks;
    notes: sentences for people.
    """

    rows: list[KeyframeRow] = field(default_factory=list)
    in_use: SceneInUse = SceneInUse()
    objects: list[ObjectRow] = field(default_factory=list)
    told: str = ""
    states: dict[str, str] = field(default_factory=dict)
    rebuilt: bool = False
    unknown: list[KeyframeRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def frame_id(self) -> str:
        """World frame of its keyframes; '' where it has none."""
        return self.rows[-1].frame_id if self.rows else ""


@dataclass(frozen=True, eq=False, slots=True)
class SavedScene:
    """A scene read back: what a pipeline goes on with. in_store: keyframes, old ones included;
    states: texts that were kept with it, by key; notes: sentences on what is left out; missing: how
    many keyframes of the scene in use are.
    """

    name: str
    scene: SceneSnapshot
    objects: KeptObjects | None
    in_store: int
    states: Mapping[str, str]
    notes: tuple[str, ...] = ()
    missing: int = 0

    @property
    def note(self) -> str:
        """The notes in few words."""
        return few(self.notes)


def few(notes: Sequence[str]) -> str:
    """The first of many sentences, and how many more there are."""
    more = len(notes) - MAX_NOTES
    return " ".join([*notes[:MAX_NOTES], *[f"(and {more} more; the log has all)"] * (more > 0)])


def key_of(keyframe: Keyframe) -> Key:
    return keyframe.frame.stamp_ns, keyframe.index


def read_contents(folder: Path) -> Contents:
    """What there is. Raises StoreError for another version, or what cannot be read at all."""
    contents = Contents()
    try:
        with SceneIndex(folder) as index:
            contents.rows = index.keyframes()
            said = index.state("scene")
            if contents.rows and not said:
                raise DamagedIndexError(f"the index {index.path} names no scene in use.")
            contents.in_use = SceneInUse.from_json(said or _NOTHING)
            contents.told = index.state("objects")
            contents.objects = index.objects(contents.in_use.epoch)
            contents.states = index.states(KEPT)
    except DamagedIndexError as error:
        contents = Contents(rebuilt=True)
        contents.notes.append(
            f"{error} Scene and keyframes are told from the segments; objects, answers and standing"
            " questions of before are lost."
        )
    return _with_segments(contents, folder / SEGMENTS)


_NOTHING = SceneInUse(floor=Floor()).to_json()


def _with_segments(contents: Contents, folder: Path) -> Contents:
    """As the segments on the disk say."""
    try:
        files = {file.name for file in folder.iterdir() if _is_segment(file)}
    except FileNotFoundError:
        files = set()
    except OSError as error:
        raise StoreError(f"the segments in {folder} cannot be read: {error}.") from None

    # Gone, and new.
    known = {(row.stamp_ns, row.number) for row in contents.rows}
    unnamed = [key for key in contents.in_use.keyframes if key not in known]
    if unnamed:
        contents.notes.append(
            f"{len(unnamed)} keyframes of the scene in use are not in the index of {folder}."
        )
    gone = [row for row in contents.rows if row.segment not in files]
    if gone:
        names = ", ".join(row.segment for row in gone[:3])
        contents.notes.append(f"{len(gone)} keyframes are gone from {folder} ({names}).")
    contents.rows = [row for row in contents.rows if row.segment in files]
    for name in sorted(files - {row.segment for row in contents.rows}):
        try:
            contents.unknown.append(row_of(folder / name))
        except StoreError as error:
            contents.notes.append(str(error))
    contents.rows = sorted([*contents.rows, *contents.unknown])

    # Those that came after what the index says is in use.
    in_use = contents.in_use
    if contents.rebuilt:
        epoch = max((row.epoch for row in contents.rows), default=0)
        in_use = SceneInUse(epoch)
    keys = list(in_use.keyframes)
    for row in sorted(contents.unknown):
        last = keys[-1] if keys else (-1, -1)
        if row.epoch == in_use.epoch and row.stamp_ns > last[0] and row.number > last[1]:
            keys.append((row.stamp_ns, row.number))
    new = len(keys) - len(in_use.keyframes)
    if contents.rebuilt:
        keys = keys[-MAX_REBUILT:]
    contents.in_use = replace(in_use, version=in_use.version + new, keyframes=tuple(keys))
    return contents


def row_of(file: Path) -> KeyframeRow:
    """The index's row of a segment. Raises StoreError."""
    return row_from(read_header(file), file.name, file.stat().st_size)


def row_from(header: Mapping[str, Any], segment: str, size: int) -> KeyframeRow:
    """Of a segment's JSON, its name and its bytes."""
    stamp_ns, number, epoch = header["stamp_ns"], header["index"], header["scene_epoch"]
    text = json.dumps(header)
    return KeyframeRow(stamp_ns, number, epoch, segment, size, header["frame_id"], text)


def _is_segment(file: Path) -> bool:
    return file.suffix == SUFFIX and not file.name.startswith(".") and file.is_file()


def read_scene(folder: Path) -> SavedScene:
    """The scene in use, its keyframes and objects. Raises StoreError as `read_contents`."""
    contents = read_contents(folder)
    in_use, notes = contents.in_use, list(contents.notes)
    segments = {(row.stamp_ns, row.number): row.segment for row in contents.rows}
    keyframes: list[Keyframe] = []
    for key in in_use.keyframes:
        if key not in segments:
            continue  # told of already
        try:
            keyframes.append(read_segment(folder / SEGMENTS / segments[key]).keyframe)
        except StoreError as error:
            notes.append(str(error))
    notes += _other_frames(keyframes, contents.frame_id)
    keyframes = [each for each in keyframes if each.frame.frame_id == contents.frame_id]

    stamps = [each.frame.stamp_ns for each in keyframes]
    version = in_use.version + (len(keyframes) != len(in_use.keyframes))
    state = SceneState(
        len(stamps), in_use.epoch, version, min(stamps, default=-1), max(stamps, default=-1)
    )
    scene = SceneSnapshot(
        tuple(keyframes), state, in_use.floor or _floor_of(keyframes), _anchor(in_use, keyframes)
    )
    objects = None
    if contents.told:
        try:
            objects = memory_of(contents.objects, contents.told)
        except Ada3DError as error:
            notes.append(f"{error} They are looked for again.")
    if objects is not None and objects.epoch != in_use.epoch:
        objects = None  # the scene began anew before they were looked for
    missing = len(in_use.keyframes) - len(keyframes)
    return SavedScene(
        folder.name, scene, objects, len(contents.rows), contents.states, tuple(notes), missing
    )


def _other_frames(keyframes: Sequence[Keyframe], frame_id: str) -> list[str]:
    others = sorted({k.frame.frame_id for k in keyframes} - {frame_id})
    return [f"keyframes posed in {others} are left out: the newest is in {frame_id!r}."] * any(
        others
    )


def _floor_of(keyframes: Sequence[Keyframe]) -> Floor:
    return Floor().updated([level_places(keyframe.frame) for keyframe in keyframes])


def _anchor(in_use: SceneInUse, keyframes: Sequence[Keyframe]) -> tuple[float, float]:
    if in_use.floor is not None or not keyframes:
        return in_use.anchor_xy_m
    x, y = keyframes[0].frame.T_world_cam[:2, 3]
    return round(float(x), 1), round(float(y), 1)
