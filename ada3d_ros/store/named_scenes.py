"""A store: a folder of named scenes, one folder each."""

from __future__ import annotations

import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from ada3d_ros.config.scene import SCENE_NAME, check_scene_name
from ada3d_ros.errors import InvalidRequestError, StoreError, UnknownSceneError
from ada3d_ros.measures import SceneObject
from ada3d_ros.store.contents import SEGMENTS, SavedScene, few, read_contents, read_scene
from ada3d_ros.store.object_rows import described_of
from ada3d_ros.store.scene_folder import SceneFolder, check_world_frame, locked
from ada3d_ros.store.scene_index import (
    NAME,
    AnswerRow,
    DamagedIndexError,
    SceneIndex,
    os_sentence,
    unreadable,
)

MAX_LISTED = 20  # names in a sentence
DELETED = ".deleted-"  # before the names of folders that are being deleted


@dataclass(frozen=True, slots=True)
class SceneSummary:
    """One scene of a store, in numbers. keyframes: in the store; in_use: of the scene as it was
    left; objects that ever were; newest_ns: -1 without a keyframe. problem: a sentence where it
    cannot be read.
    """

    name: str
    keyframes: int = 0
    in_use: int = 0
    objects: int = 0
    answers: int = 0
    bytes: int = 0
    newest_ns: int = -1
    frame_id: str = ""
    problem: str = ""


class NamedScenes:
    """The scenes in a folder, which need not exist yet. Raises StoreError where it is no path."""

    def __init__(self, path: str | Path) -> None:
        try:
            self.path = Path(path).expanduser().absolute()
        except RuntimeError as error:  # ~ of nobody
            raise StoreError(f"{str(path)!r} is no folder of a store: {error}") from None
        if "\0" in str(path):
            raise StoreError(f"{str(path)!r} is no folder of a store: it has a NUL.")

    def names(self) -> tuple[str, ...]:
        """In the order of the alphabet. Raises StoreError where the folder is none."""
        try:
            found = [each for each in self.path.iterdir() if _may_be_scene(each)]
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise StoreError(_not_read(self.path, error)) from None
        return tuple(sorted(each.name for each in found))

    def has(self, name: str) -> bool:
        """Raises InvalidRequestError; StoreError where that may not be looked up."""
        folder = self.path / check_scene_name(name)
        try:
            return _is_scene(folder)
        except OSError as error:
            raise StoreError(_not_read(folder, error)) from None

    def folder(self, name: str) -> Path:
        """Of a scene that is there. Raises UnknownSceneError, InvalidRequestError, StoreError."""
        if not self.has(name):
            names = self.names()
            listed = ", ".join(names[:MAX_LISTED]) + ", ..." * (len(names) > MAX_LISTED)
            there = f"it has {listed}" if names else "it has none yet (~/save_scene makes one)"
            raise UnknownSceneError(f"no scene {name!r} in the store {self.path}: {there}.")
        return self.path / name

    def read(self, name: str, world_frame: str = "") -> SavedScene:
        """A scene as it was left. world_frame: that it must be posed in; '' = any. Raises as
        `folder`, StoreError where it cannot be read.
        """
        folder = self.folder(name)
        if world_frame:
            check_world_frame(folder, read_contents(folder).frame_id, world_frame)
        return read_scene(folder)

    def open(self, name: str, world_frame: str) -> SceneFolder:
        """A scene to be written, made where it is not there. Raises InvalidRequestError,
        StoreError.
        """
        return SceneFolder(self.path / check_scene_name(name), world_frame)

    def history(self, name: str) -> list[SceneObject]:
        """All objects that a scene ever kept, those that it keeps now too. Raises StoreError."""
        with SceneIndex(self.folder(name)) as index:
            rows = index.objects()
        try:
            return [described_of(row) for row in rows]
        except InvalidRequestError as error:
            raise DamagedIndexError(f"objects in the index {index.path}: {error}") from None

    def answers(self, name: str) -> list[AnswerRow]:
        """The newest answers about a scene, oldest first."""
        with SceneIndex(self.folder(name)) as index:
            return index.answers()

    def written_ns(self, name: str) -> int:
        """When a scene was last written, ns; 0 where that is not known."""
        try:
            return (self.folder(name) / NAME).stat().st_mtime_ns
        except OSError:
            return 0

    def summary(self, name: str) -> SceneSummary:
        """One that cannot be read has its `problem`, the rest 0."""
        try:
            folder = self.folder(name)
            contents = read_contents(folder)
            objects = answers = 0
            if not contents.rebuilt:
                with SceneIndex(folder) as index:
                    objects, answers = index.counts()
        except StoreError as error:
            return SceneSummary(name, problem=str(error))
        newest_ns = contents.rows[-1].stamp_ns if contents.rows else -1
        size = sum(row.bytes for row in contents.rows)
        problem = few(contents.notes)
        counts = len(contents.rows), len(contents.in_use.keyframes), objects, answers
        return SceneSummary(name, *counts, size, newest_ns, contents.frame_id, problem)

    def delete(self, name: str) -> None:
        """For ever. Raises UnknownSceneError; StoreError while a node writes it."""
        folder = self.folder(name)
        for rest in self.path.glob(f"{DELETED}*"):  # of a process that was killed in the middle
            shutil.rmtree(rest, ignore_errors=True)
        # Out of the way first: a node that starts meanwhile makes a new folder of the name.
        gone = folder.with_name(f"{DELETED}{name}-{time.time_ns()}")
        try:
            with locked(folder):
                folder.rename(gone)
            shutil.rmtree(gone)
        except OSError as error:
            raise StoreError(os_sentence(folder, error)) from None


def _not_read(path: Path, error: OSError) -> str:
    return unreadable(path) if isinstance(error, PermissionError) else os_sentence(path, error)


def _may_be_scene(folder: Path) -> bool:
    """Also one of another user, that this process may not look into."""
    try:
        return _is_scene(folder)
    except PermissionError:
        if not os.access(folder.parent, os.X_OK):
            raise
        return True


def _is_scene(folder: Path) -> bool:
    if not re.fullmatch(SCENE_NAME, folder.name) or not folder.is_dir():
        return False
    return (folder / NAME).exists() or (folder / SEGMENTS).is_dir()
