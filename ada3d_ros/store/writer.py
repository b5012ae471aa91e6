"""Saves a scene while it grows, on a thread of its own: who tells of it never waits for the disk.

What is told is bounded: the newest scene and list of objects, the answers since the last write, and
keyframes that left the scene before they were written. Where the disk is slower than the camera the
oldest of those are lost; how much waits and was lost is counted, and said.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from ada3d_ros.errors import StoreError
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.scene.objects import KeptObjects
from ada3d_ros.store.contents import Key, key_of
from ada3d_ros.store.scene_folder import SceneFolder
from ada3d_ros.store.scene_index import AnswerRow
from ada3d_ros.types import Keyframe

logger = logging.getLogger(__name__)

MAX_LEFT = 32  # keyframes that left the scene and wait to be written
MAX_ANSWERS = 200  # that wait
OBJECTS_EVERY_S = 2.0  # their list is written so often at most
RETRY_S = 5.0  # after the disk refused
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class WriterReport:
    """waiting: keyframes to be written; lost: those that no longer can be; problem: why nothing is
    written, '' while it is.
    """

    stored: int = 0
    waiting: int = 0
    lost: int = 0
    deleted: int = 0
    bytes: int = 0
    problem: str = ""


class SceneWriter:
    """Writes one scene into its folder, which it closes at the end.

    max_mb: of the segments, 0 = no limit. now: a clock in s. The `note_*` are for any thread.
    """

    def __init__(
        self,
        folder: SceneFolder,
        lossless: bool = False,
        max_mb: float = 0.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._lossless, self._max_bytes = folder, lossless, max_mb * MB
        self._now = now
        self._condition = threading.Condition()

        # What waits.
        self._scene: SceneSnapshot | None = None
        self._left: dict[Key, tuple[Keyframe, int]] = {}  # keyframes not in the scene, their epoch
        self._objects: KeptObjects | None = None
        self._answers: deque[AnswerRow] = deque(maxlen=MAX_ANSWERS)
        self._states: dict[str, str] = {}

        # What was done.
        self._stored = folder.keys
        self._writing: Key | None = None  # the keyframe that is written now, or was last
        self._written_scene: SceneSnapshot | None = None
        self._written_objects_s = -OBJECTS_EVERY_S
        self._told = self._done = 0  # news, and those of them that are on the disk
        self._hurry = self._stopping = False
        self._refused_s = -RETRY_S
        self._report = WriterReport(stored=len(self._stored), bytes=folder.bytes)
        self._thread = threading.Thread(target=self._run, name="ada3d-store", daemon=True)
        self._thread.start()

    # -- telling it

    def note_scene(self, scene: SceneSnapshot) -> None:
        """The scene has these keyframes now; call it after every one that is admitted."""
        with self._condition:
            before, self._scene = self._scene, scene
            if before is scene:
                return
            if before is not None:
                epoch, there = before.state.epoch, {id(each) for each in scene.keyframes}
                for each in before.keyframes:
                    if id(each) not in there and key_of(each) not in self._stored:
                        self._left[key_of(each)] = each, epoch
            while len(self._left) > MAX_LEFT:
                del self._left[next(key for key in self._left if key != self._writing)]
                self._report = replace(self._report, lost=self._report.lost + 1)
            self._notify()

    def note_objects(self, known: KeptObjects) -> None:
        with self._condition:
            self._objects = known
            self._notify()

    def note_answer(self, row: AnswerRow) -> None:
        with self._condition:
            self._answers.append(row)
            self._notify()

    def note_state(self, name: str, value: str) -> None:
        """Keep a text under a name with the scene."""
        with self._condition:
            self._states[name] = value
            self._notify()

    def _notify(self) -> None:
        self._told += 1
        self._condition.notify_all()

    @property
    def report(self) -> WriterReport:
        scene = self._scene
        keyframes = () if scene is None else scene.keyframes
        waiting = len(self._left) + sum(key_of(k) not in self._stored for k in keyframes)
        return replace(self._report, waiting=waiting)

    @property
    def is_lost(self) -> bool:
        """Whether its folder is another one now, or gone: nothing can be written any more."""
        return bool(self._report.problem) and not self._folder.is_there

    # -- its end

    def flush(self, timeout_s: float = 10.0) -> None:
        """Wait until all that was told is on the disk. Raises StoreError: what keeps it from that,
        or the time ran out.
        """
        with self._condition:
            wanted, self._hurry = self._told, True
            self._refused_s = -RETRY_S
            self._report = replace(self._report, problem="")
            self._condition.notify_all()
            self._condition.wait_for(
                lambda: self._done >= wanted or self._report.problem or self._stopping, timeout_s
            )
            if self._done >= wanted:
                return
        raise StoreError(
            self._report.problem
            or f"the scene at {self._folder.folder} was not on the disk after {timeout_s:g} s."
        )

    def close(self, timeout_s: float = 2.0) -> bool:
        """Write what waits, let go of the folder; False where that took too long."""
        try:
            self.flush(timeout_s)
        except StoreError as error:
            logger.warning("not all is saved: %s", error)
        return self.abandon(timeout_s)

    def abandon(self, timeout_s: float = 2.0) -> bool:
        """Let go of the folder, whatever waits; False where the disk still holds the writer."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # -- the thread

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(self._is_due, self._wait_s())
                if self._stopping:
                    break
                if not self._is_due():
                    continue
                told, self._hurry = self._told, False
            try:
                self._write()
            except Exception as error:  # the thread outlives it
                if not isinstance(error, StoreError):
                    logger.exception("the scene cannot be saved")
                self._refused(str(error) or repr(error))
                continue
            with self._condition:
                self._done = told
                self._report = replace(self._report, problem="")
                self._condition.notify_all()
        self._folder.close()

    def _is_due(self) -> bool:
        """Whether there is something to write now. Holds the lock."""
        if self._stopping or self._hurry:
            return True
        if self._now() - self._refused_s < RETRY_S or self._told == self._done:
            return False
        return bool(
            self._has_keyframes() or self._answers or self._states or self._objects_are_due()
        )

    def _has_keyframes(self) -> bool:
        return bool(self._left) or self._scene is not self._written_scene

    def _objects_are_due(self) -> bool:
        rested = self._now() - self._written_objects_s >= OBJECTS_EVERY_S
        return self._objects is not None and rested

    def _wait_s(self) -> float | None:
        """Until something that waits may be written; None: until there is news."""
        return None if self._told == self._done else 0.5

    def _refused(self, problem: str) -> None:
        with self._condition:
            if problem != self._report.problem:
                logger.warning("%s", problem)
            self._report = replace(self._report, problem=problem)
            self._refused_s = self._now()
            self._condition.notify_all()

    def _write(self) -> None:
        """All that waits. What was written is forgotten piece by piece: an error loses nothing."""
        self._write_small()  # first: they are soon done where the process ends
        folder = self._folder
        scene = self._scene
        while scene is not None:
            todo = self._next_keyframe(scene)
            if todo is None:
                break
            keyframe, epoch = todo
            self._writing = key_of(keyframe)
            folder.put_keyframe(keyframe, epoch, scene, self._lossless)
            with self._condition:
                self._stored |= {key_of(keyframe)}
                self._left.pop(key_of(keyframe), None)
            self._count(self._limited())
            scene = self._scene
        if scene is not None:
            folder.put_scene(scene)
            self._written_scene = scene

        # Objects.
        objects = self._objects
        if objects is not None:
            folder.put_objects(objects)
            self._written_objects_s = self._now()
            with self._condition:
                if self._objects is objects:
                    self._objects = None
        self._count(0)

    def _write_small(self) -> None:
        """Answers and states."""
        answers = list(self._answers)
        if answers:
            self._folder.put_answers(answers)
            with self._condition:
                for row in answers:
                    if self._answers and self._answers[0] is row:
                        self._answers.popleft()
        for name, value in list(self._states.items()):
            self._folder.put_state(name, value)
            with self._condition:
                if self._states.get(name) == value:
                    del self._states[name]

    def _next_keyframe(self, scene: SceneSnapshot) -> tuple[Keyframe, int] | None:
        """The oldest that is not stored, and its epoch."""
        with self._condition:
            for key, item in self._left.items():
                if key not in self._stored:
                    return item
            self._left.clear()
        for keyframe in scene.keyframes:
            if key_of(keyframe) not in self._stored:
                return keyframe, scene.state.epoch
        return None

    def _limited(self) -> int:
        """Keyframes deleted for room."""
        return self._folder.limit(round(self._max_bytes)) if self._max_bytes else 0

    def _count(self, deleted: int) -> None:
        with self._condition:
            self._report = replace(
                self._report,
                stored=len(self._folder.keys),
                bytes=self._folder.bytes,
                deleted=self._report.deleted + deleted,
            )
