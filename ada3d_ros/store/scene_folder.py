"""One scene of a store, open for writing: by one process at a time.

A keyframe's segment is on the disk before the index names it. Whatever moment a process is killed
at, all keyframes are there but perhaps the last, and none is half there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ada3d_ros.errors import StoreError
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.scene.objects import KeptObject, KeptObjects
from ada3d_ros.store.contents import (
    KEPT,
    SEGMENTS,
    Key,
    SceneInUse,
    key_of,
    read_contents,
    row_from,
)
from ada3d_ros.store.object_rows import row_of as object_row
from ada3d_ros.store.object_rows import told_of
from ada3d_ros.store.scene_index import (
    NAME,
    AnswerRow,
    KeyframeRow,
    SceneIndex,
    gone,
    os_sentence,
)
from ada3d_ros.store.segment import SUFFIX, make_durable, segment_name, write_segment
from ada3d_ros.types import Keyframe

LOCK = "lock"


class SceneFolder:
    """The folder of one scene, made where there is none; close it, or use it as a context manager.

    notes: sentences on what was found damaged and mended. Raises StoreError: another process has it
    open, another version, another world frame than world_frame, no room, read-only.
    """

    def __init__(self, folder: Path, world_frame: str) -> None:
        self.folder = folder
        self.notes: tuple[str, ...] = ()
        self._rows: dict[Key, KeyframeRow] = {}
        self._in_use = SceneInUse()
        self._objects: dict[int, KeptObject] = {}  # as they were written last
        self._objects_epoch = -1
        self._opened_as: os.stat_result | None = None  # of the index, once it is open
        with self._told():
            above = [each for each in folder.parents if not each.exists()]  # made now
            folder.parent.mkdir(parents=True, exist_ok=True)
            is_new = _made(folder)
            self._lock = locked(folder)
        try:
            with self._told():
                for each in above:
                    make_durable(each.parent)
                (folder / SEGMENTS).mkdir(exist_ok=True)
                self._index = self._opened(world_frame)
                self._opened_as = (folder / NAME).stat()
        except BaseException:
            if is_new:  # else it would look like a scene
                shutil.rmtree(folder, ignore_errors=True)
            self._lock.close()
            raise

    def __enter__(self) -> SceneFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have it."""
        self._index.close()
        self._lock.close()

    # -- what is there

    @property
    def is_there(self) -> bool:
        """Whether the folder is still the one that was opened: it may be moved, or its disk out."""
        try:
            now = (self.folder / NAME).stat()
        except OSError:
            return False
        return self._opened_as is None or os.path.samestat(self._opened_as, now)

    @property
    def keys(self) -> frozenset[Key]:
        """Stamp and index of the keyframes in the store."""
        return frozenset(self._rows)

    @property
    def bytes(self) -> int:
        """Of the segments."""
        return sum(row.bytes for row in self._rows.values())

    # -- taking in

    def put_keyframe(
        self, keyframe: Keyframe, epoch: int, scene: SceneSnapshot, lossless: bool
    ) -> None:
        """Write one keyframe of this epoch, and which ones the scene is made of now, as far as they
        are stored. One that is there already is not written again. Raises StoreError.
        """
        key = key_of(keyframe)
        if key in self._rows:
            return
        with self._told():
            name, folder = segment_name(keyframe), self.folder / SEGMENTS
            header, size = write_segment(folder, keyframe, epoch, lossless)
            row = row_from(header, name, size)
            self._index.put_keyframes([row], self._now_in_use(scene, {*self._rows, key}))
        self._rows[key] = row
        self._in_use = SceneInUse.from_scene(scene)

    def put_scene(self, scene: SceneSnapshot) -> None:
        """Which keyframes the scene is made of, where that changed without a new one."""
        if SceneInUse.from_scene(scene) == self._in_use:
            return
        with self._told():
            self._index.put_state("scene", self._now_in_use(scene, set(self._rows)))
        self._in_use = SceneInUse.from_scene(scene)

    @staticmethod
    def _now_in_use(scene: SceneSnapshot, stored: set[Key]) -> str:
        now = SceneInUse.from_scene(scene)
        keys = tuple(key for key in now.keyframes if key in stored)
        return SceneInUse(now.epoch, now.version, now.floor, now.anchor_xy_m, keys).to_json()

    def put_objects(self, known: KeptObjects) -> None:
        """The objects as they are known now; those that are gone from the list become history."""
        old = self._objects if self._objects_epoch == known.epoch else {}
        new = {each.number: each for each in known.kept}
        changed = [each for number, each in new.items() if old.get(number) is not each]
        rows = [object_row(known.epoch, each) for each in changed]
        with self._told():
            self._index.put_objects(rows, known.epoch, new, told_of(known))
        self._objects, self._objects_epoch = new, known.epoch

    def put_answers(self, rows: Sequence[AnswerRow]) -> None:
        with self._told():
            self._index.put_answers(rows)

    def put_state(self, key: str, value: str) -> None:
        """Keep a text with the scene."""
        with self._told():
            self._index.put_state(f"{KEPT}{key}", value)

    def limit(self, max_bytes: int) -> int:
        """Delete the oldest keyframes that are not in use until the segments fit; how many went."""
        surplus, in_use, gone = self.bytes - max_bytes, set(self._in_use.keyframes), list[Key]()
        for key, row in sorted(self._rows.items()):
            if surplus <= 0:
                break
            if key not in in_use:
                surplus -= row.bytes
                gone.append(key)
        with self._told():
            self._index.drop_keyframes([self._rows[key].segment for key in gone])
            for key in gone:
                (self.folder / SEGMENTS / self._rows.pop(key).segment).unlink(missing_ok=True)
        return len(gone)

    # -- opening

    def _opened(self, world_frame: str) -> SceneIndex:
        # What a process that was killed left behind.
        segments = self.folder / SEGMENTS
        for rest in segments.glob(f".*{SUFFIX}"):  # not what a file system or a desktop hides there
            shutil.rmtree(rest)

        # What is there; the index is made anew where it is of no use.
        is_new = not (self.folder / NAME).exists() and not any(segments.iterdir())
        if not is_new:
            contents = read_contents(self.folder)
            check_world_frame(self.folder, contents.frame_id, world_frame)
            if contents.rebuilt:
                self._set_index_aside()
            self.notes = tuple(contents.notes)
            self._in_use = contents.in_use
            self._rows = {(row.stamp_ns, row.number): row for row in contents.rows}
        index = SceneIndex(self.folder, write=True)
        try:
            if is_new:
                make_durable(self.folder)
                make_durable(self.folder.parent)
            elif contents.unknown or contents.rebuilt:
                index.put_keyframes(contents.unknown, contents.in_use.to_json())
        except BaseException:
            index.close()
            raise
        return index

    def _set_index_aside(self) -> None:
        index = self.folder / NAME
        for end in ("", "-journal"):
            file = index.with_name(NAME + end)
            if file.exists():
                file.rename(file.with_name(f"{file.name}.damaged-{time.time_ns()}"))

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the operating system as ours."""
        try:
            yield
        except OSError as error:
            if self._opened_as is not None and not self.is_there:
                raise StoreError(gone(self.folder)) from error
            raise StoreError(os_sentence(self.folder, error)) from error


def _made(folder: Path) -> bool:
    """Whether the folder was not there, and is now. Raises OSError."""
    try:
        folder.mkdir()
    except FileExistsError:
        if folder.is_dir():
            return False
        raise
    return True


def locked(folder: Path) -> IO[str]:
    """The lock of a scene's folder, held until it is closed or the process ends. Raises StoreError
    where another process has it, OSError.
    """
    lock = (folder / LOCK).open("a+", encoding="ascii", errors="replace")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if not isinstance(error, BlockingIOError):  # a disk that has no locks
            lock.close()
            raise
        lock.seek(0)
        who = lock.read().strip() or "unknown"
        lock.close()
        raise StoreError(
            f"the scene at {folder} is being written by another process (pid {who}): two nodes"
            " cannot share one. Give this one another scene.name, or another store."
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def check_world_frame(folder: Path, found: str, wanted: str) -> None:
    """Raises StoreError where a scene's keyframes are posed in another world frame."""
    if found and found != wanted:
        raise StoreError(
            f"the scene at {folder} is posed in {found!r}, this node's world_frame is {wanted!r}:"
            " its places would mean something else here. Set world_frame to the same, or give this"
            " world's scene another name (scene.name)."
        )
