"""The index of one scene: an SQLite file that says which segments there are, and all that is no
image: the scene in use, its objects, the answers, what others keep with it.

Every change is one transaction, on the disk when it returns: a process that is killed leaves the
state of before or after it. `sqlite3 index.db` reads it.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ada3d_ros.errors import StoreError
from ada3d_ros.store.object_rows import ObjectRow, began_ns

FORMAT = 1  # of the index and the segments
NAME = "index.db"
KEYFRAME_COLUMNS = "stamp_ns, number, epoch, segment, bytes, frame_id, header"
KEYFRAME_KINDS = (int, int, int, str, int, str, str)
OBJECT_COLUMNS = "epoch, number, described, kept, points"
OBJECT_KINDS = (int, int, str, (str, type(None)), (bytes, type(None)))
ANSWER_KINDS = (int, str, str, str)
STATE_KINDS = (str, str)
NO_FOLDER = (errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG)
MAX_ANSWERS = 1000  # the newest are kept
# What a read-only connection says of a file whose writer was killed in the middle of a commit.
UNFINISHED = ("SQLITE_READONLY_ROLLBACK", "SQLITE_READONLY_RECOVERY")
MAX_HISTORY = 10_000  # objects that are no longer kept
WAIT_S = 2.0  # for another process that reads, or repairs
TABLES = """
CREATE TABLE keyframes (
    stamp_ns INTEGER, number INTEGER, epoch INTEGER, segment TEXT, bytes INTEGER, frame_id TEXT,
    header TEXT, PRIMARY KEY (stamp_ns, number)) WITHOUT ROWID;
CREATE TABLE objects (
    epoch INTEGER, number INTEGER, described TEXT, kept TEXT, points BLOB,
    PRIMARY KEY (epoch, number));
CREATE INDEX objects_kept ON objects (epoch, number) WHERE kept IS NOT NULL;
CREATE TABLE answers (
    id INTEGER PRIMARY KEY, asked_ns INTEGER, question TEXT, text TEXT, method TEXT);
CREATE TABLE states (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
"""


class KeyframeRow(NamedTuple):
    """Where a keyframe is, and what it is; header: its JSON, pose and intrinsics among it."""

    stamp_ns: int
    number: int
    epoch: int
    segment: str
    bytes: int
    frame_id: str
    header: str


class AnswerRow(NamedTuple):
    """One answered question; asked_ns on the node's clock; method: measured, or model."""

    asked_ns: int
    question: str
    text: str
    method: str


class DamagedIndexError(StoreError):
    """The index is no SQLite file any more, or not whole: it can be made again from segments."""


class SceneIndex:
    """The index at `folder`; close it, or use it as a context manager.

    write: make it where there is none. Raises StoreError for another version, a disk that is full
    or read-only; DamagedIndexError.
    """

    def __init__(self, folder: Path, write: bool = False) -> None:
        self.path, self._was_opened = folder / NAME, False
        if not write and not self.path.exists():
            raise DamagedIndexError(f"the index {self.path} is gone.")
        self._connect("rwc" if write else "ro")
        try:
            with self._told():
                try:
                    self._open(write)
                except sqlite3.OperationalError as error:
                    if getattr(error, "sqlite_errorname", "") not in UNFINISHED:
                        raise
                    # Its writer was killed while it wrote: SQLite takes that back, where it may.
                    self._db.close()
                    self._connect("rw")
                    self._open(write)
        except BaseException:
            self._db.close()
            raise
        self._was_opened = True

    def _connect(self, mode: str) -> None:
        with self._told():
            self._db = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={mode}",
                uri=True,
                timeout=WAIT_S,
                isolation_level=None,  # transactions are begun here
                check_same_thread=False,
            )

    def __enter__(self) -> SceneIndex:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def _open(self, write: bool) -> None:
        if write:
            self._db.execute("PRAGMA synchronous = EXTRA")  # the folder, too
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables and version == 0 and write:
            self._db.executescript(f"BEGIN;{TABLES}PRAGMA user_version = {FORMAT};COMMIT;")
        elif not tables and version == 0:
            raise DamagedIndexError(f"the index {self.path} is empty.")
        elif version != FORMAT:
            raise StoreError(
                f"the scene at {self.path.parent} is of format {version}; this version of ada3d_ros"
                f" reads and writes format {FORMAT}. Read it with the version that wrote it (`ada3d"
                " scenes export`), or save under another name (scene.name)."
            )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's errors as ours."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._error(error) from error

    def _error(self, error: sqlite3.Error) -> StoreError:
        text, name = str(error), getattr(error, "sqlite_errorname", "")
        if name.startswith("SQLITE_FULL"):
            return StoreError(no_room(self.path))
        is_gone = self._was_opened and not os.path.exists(self.path)
        if is_gone or name == "SQLITE_READONLY_DBMOVED":
            return StoreError(gone(self.path.parent))
        if name.startswith(("SQLITE_READONLY", "SQLITE_PERM")):
            return StoreError(read_only(self.path))
        if name.startswith(("SQLITE_CANTOPEN", "SQLITE_IOERR")):
            return StoreError(f"the index {self.path} cannot be opened: {text}. Check that disk.")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return StoreError(f"the index {self.path} is being written by another process.")
        return DamagedIndexError(f"the index {self.path} is damaged: {text}.")

    # -- reading

    def keyframes(self) -> list[KeyframeRow]:
        """By stamp."""
        with self._told():
            rows = self._db.execute(
                f"SELECT {KEYFRAME_COLUMNS} FROM keyframes ORDER BY stamp_ns, number"
            )
            return [KeyframeRow(*self._checked(row, KEYFRAME_KINDS)) for row in rows]

    def objects(self, epoch: int | None = None) -> list[ObjectRow]:
        """Those that the scene of this epoch goes on with; None: all that ever were."""
        what = f"SELECT {OBJECT_COLUMNS} FROM objects"
        with self._told():
            if epoch is None:
                rows = self._db.execute(f"{what} ORDER BY epoch, number")
            else:
                rows = self._db.execute(
                    f"{what} WHERE epoch = ? AND kept IS NOT NULL ORDER BY number", (epoch,)
                )
            return [ObjectRow(*self._checked(row, OBJECT_KINDS)) for row in rows]

    def _checked(self, row: tuple[Any, ...], kinds: tuple[Any, ...]) -> tuple[Any, ...]:
        """The row; SQLite keeps any type in any column. Raises DamagedIndexError."""
        for value, allowed in zip(row, kinds, strict=True):
            if not isinstance(value, allowed):
                raise DamagedIndexError(f"the index {self.path} is damaged: it has {value!r:.60}.")
        return row

    def answers(self) -> list[AnswerRow]:
        """Oldest first."""
        with self._told():
            rows = self._db.execute(
                "SELECT asked_ns, question, text, method FROM answers ORDER BY id"
            )
            return [AnswerRow(*self._checked(row, ANSWER_KINDS)) for row in rows]

    def state(self, name: str) -> str:
        """What was kept under a name; '' where nothing was."""
        with self._told():
            found = self._db.execute("SELECT name, value FROM states WHERE name = ?", (name,))
            row = found.fetchone()
            return "" if row is None else str(self._checked(row, STATE_KINDS)[1])

    def states(self, prefix: str) -> dict[str, str]:
        """What was kept under names that begin so, by the rest of the name."""
        with self._told():
            rows = self._db.execute("SELECT name, value FROM states ORDER BY name")
            checked = [self._checked(row, STATE_KINDS) for row in rows]
            return {n.removeprefix(prefix): v for n, v in checked if n.startswith(prefix)}

    def counts(self) -> tuple[int, int]:
        """How many objects ever were, and answers are kept."""
        query = "SELECT (SELECT count(*) FROM objects), (SELECT count(*) FROM answers)"
        with self._told():
            objects, answers = self._db.execute(query).fetchone()
            return int(objects), int(answers)

    # -- writing

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite may have rolled back itself
                    self._db.execute("ROLLBACK")
                raise

    def put_keyframes(self, rows: Sequence[KeyframeRow], state: str = "") -> None:
        """Take in keyframes, and the scene as it is in use with them ('' = as it was)."""
        with self._transaction() as db:
            db.executemany(
                f"INSERT OR REPLACE INTO keyframes ({KEYFRAME_COLUMNS})"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
            if state:
                _put_state(db, "scene", state)

    def drop_keyframes(self, segments: Iterable[str]) -> None:
        with self._transaction() as db:
            db.executemany("DELETE FROM keyframes WHERE segment = ?", [(s,) for s in segments])

    def put_objects(
        self, rows: Sequence[ObjectRow], epoch: int, numbers: Iterable[int], told: str
    ) -> None:
        """Take in objects that changed. numbers: all that the scene of this epoch goes on with;
        the others become history, of which the newest MAX_HISTORY stay. Those that go on from
        another epoch, as after a scene was loaded, are moved.
        """
        alive = set(numbers)
        began = {row.number: began_ns(row.kept) for row in rows}
        with self._transaction() as db:
            db.executemany(
                f"INSERT OR REPLACE INTO objects ({OBJECT_COLUMNS}) VALUES (?, ?, ?, ?, ?)", rows
            )
            found = db.execute("SELECT epoch, number, kept FROM objects WHERE kept IS NOT NULL")
            past = [row for row in found.fetchall() if row[0] != epoch or row[1] not in alive]
            moved = [r[:2] for r in past if r[0] != epoch and began.get(r[1]) == began_ns(r[2])]
            gone = [r[:2] for r in past if r[:2] not in moved]
            db.executemany("DELETE FROM objects WHERE epoch = ? AND number = ?", moved)
            db.executemany(
                "UPDATE objects SET kept = NULL, points = NULL WHERE epoch = ? AND number = ?", gone
            )
            if gone:
                db.execute(
                    "DELETE FROM objects WHERE kept IS NULL AND rowid NOT IN (SELECT rowid FROM"
                    " objects WHERE kept IS NULL ORDER BY rowid DESC LIMIT ?)",
                    (MAX_HISTORY,),
                )
            _put_state(db, "objects", told)

    def put_answers(self, rows: Sequence[AnswerRow]) -> None:
        """Take in answers; the newest MAX_ANSWERS stay."""
        with self._transaction() as db:
            db.executemany(
                "INSERT INTO answers (asked_ns, question, text, method) VALUES (?, ?, ?, ?)", rows
            )
            db.execute(
                "DELETE FROM answers WHERE id <= (SELECT max(id) FROM answers) - ?", (MAX_ANSWERS,)
            )

    def put_state(self, name: str, value: str) -> None:
        with self._transaction() as db:
            _put_state(db, name, value)


def _put_state(db: sqlite3.Connection, name: str, value: str) -> None:
    db.execute("INSERT OR REPLACE INTO states VALUES (?, ?)", (name, value))


def no_room(path: Path) -> str:
    """The sentence for a disk that is full."""
    return (
        f"no room left for the store at {path}: what comes now is not saved until there is. Make"
        " room on that disk, lower scene.max_mb, or delete scenes (`ada3d scenes delete`)."
    )


def read_only(path: Path) -> str:
    """The sentence for one that cannot be written."""
    return (
        f"the store at {path} cannot be written, it is read-only for this process: nothing is"
        " saved. Mount it writable, give its folder to the user that runs the node, or name another"
        " one (scene.autosave, scene.store)."
    )


def gone(path: Path) -> str:
    """The sentence for one that was taken away while it was written."""
    return (
        f"the store at {path} is gone: its folder was moved or deleted, or its disk taken out. What"
        " comes now is not saved until there is a folder again."
    )


def unreadable(path: Path) -> str:
    """The sentence for one that may not even be looked into."""
    return (
        f"the store at {path} may not be read by this process: give its folder to the user that"
        " runs it."
    )


def os_sentence(path: Path, error: OSError) -> str:
    """What an error of the operating system means for a store that is written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return no_room(path)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return read_only(path)
    if error.errno in NO_FOLDER:
        return (
            f"the store at {path} is no folder and none can be made there ({error.strerror}): name"
            " another one (scene.autosave, scene.store)."
        )
    return f"the store at {path} fails: {error.strerror or error}. Check that disk."
