"""A store that is full, read-only, of another version or map, damaged, slow: a sentence each, and
what can be saved is.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ada3d_ros.errors import InvalidRequestError, StoreError, UnknownSceneError
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.store import scene_folder
from ada3d_ros.store.named_scenes import NamedScenes
from ada3d_ros.store.scene_folder import SceneFolder
from ada3d_ros.store.scene_index import AnswerRow
from ada3d_ros.store.writer import MAX_LEFT, RETRY_S, SceneWriter
from test.support.stored import WORLD, assert_same_keyframe, save_scene, scenes_of

FOREVER_S = 60.0


@pytest.fixture
def saved(tmp_path: Path) -> SceneSnapshot:
    return save_scene(tmp_path)


def segments(store: Path) -> list[Path]:
    return sorted((store / "kitchen" / "keyframes").glob("*.mcap"))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 0x40
    file.write_bytes(bytes(data))


def empty(file: Path) -> None:
    file.write_bytes(b"")


# -- damaged


@pytest.mark.parametrize("harm", [cut, flip, empty, Path.unlink], ids=lambda each: each.__name__)
def test_a_damaged_segment_is_left_out_and_named(
    tmp_path: Path, saved: SceneSnapshot, harm: Callable[[Path], None]
) -> None:
    newest = segments(tmp_path)[-1]
    harm(newest)
    store = NamedScenes(tmp_path)
    found = store.read("kitchen", WORLD)
    assert [k.index for k in found.scene.keyframes] == [k.index for k in saved.keyframes[:-1]]
    (note,) = found.notes
    assert newest.name in note
    for ours, theirs in zip(found.scene.keyframes, saved.keyframes, strict=False):
        assert_same_keyframe(ours, theirs)
    assert found.scene.state.version == saved.state.version + 1  # it is another scene


def overwritten(file: Path) -> None:
    file.write_bytes(b"this is no database, it is a text " * 300)


@pytest.mark.parametrize(
    "harm", [cut, overwritten, empty, Path.unlink], ids=lambda each: each.__name__
)
def test_a_damaged_index_is_made_again_from_the_segments(
    tmp_path: Path, saved: SceneSnapshot, harm: Callable[[Path], None]
) -> None:
    harm(tmp_path / "kitchen" / "index.db")
    store = NamedScenes(tmp_path)
    found = store.read("kitchen", WORLD)
    assert [k.index for k in found.scene.keyframes] == list(range(12))
    assert found.scene.state.epoch == saved.state.epoch
    assert found.scene.floor.source == saved.floor.source
    assert "told from the segments" in found.notes[0]

    # The next writer mends it.
    with store.open("kitchen", WORLD) as folder:
        assert "told from the segments" in folder.notes[0]
        assert len(folder.keys) == 12
    again = store.read("kitchen", WORLD)
    assert again.notes == ()
    assert len(again.scene.keyframes) == 12
    assert again.scene.floor == found.scene.floor
    assert again.scene.anchor_xy_m == saved.anchor_xy_m


def test_another_version_is_refused_and_left_as_it_is(tmp_path: Path, saved: SceneSnapshot) -> None:
    index = tmp_path / "kitchen" / "index.db"
    with sqlite3.connect(index) as db:
        db.execute("PRAGMA user_version = 7")
    before = index.read_bytes()
    store = NamedScenes(tmp_path)
    for opened in (lambda: store.read("kitchen"), lambda: store.open("kitchen", WORLD)):
        with pytest.raises(StoreError, match=r"is of format 7; this version .* format 1"):
            opened()
    assert index.read_bytes() == before
    assert "format 7" in store.summary("kitchen").problem


# -- what cannot be written


class BadDisk:
    """Makes fsync fail, as a disk does that is full or read-only."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error = 0
        fsync = os.fsync

        def failing(number: int) -> None:
            if self.error:
                raise OSError(self.error, os.strerror(self.error))
            fsync(number)

        monkeypatch.setattr(os, "fsync", failing)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "no room left for the store"),
        (errno.EROFS, "it is read-only for this process"),
        (errno.EIO, "fails: Input/output error"),
    ],
)
def test_what_the_disk_refuses_is_written_once_it_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, text: str
) -> None:
    disk, scenes = BadDisk(monkeypatch), scenes_of()
    clock = [0.0]
    writer = SceneWriter(NamedScenes(tmp_path).open("kitchen", WORLD), now=lambda: clock[0])
    writer.note_scene(scenes[0])
    writer.flush(FOREVER_S)

    disk.error = number
    for scene in scenes[1:5]:
        writer.note_scene(scene)
    writer.note_answer(AnswerRow(1, "What is there?", "a chair", "model"))
    with pytest.raises(StoreError, match=text):
        writer.flush(FOREVER_S)
    report = writer.report
    assert text in report.problem
    assert (report.stored, report.waiting) == (1, 4)

    disk.error = 0  # there is room again
    clock[0] += RETRY_S
    writer.flush(FOREVER_S)
    assert writer.report.problem == ""
    assert writer.close(FOREVER_S)
    found = NamedScenes(tmp_path).read("kitchen", WORLD)
    assert [k.index for k in found.scene.keyframes] == [k.index for k in scenes[4].keyframes]
    assert [row.text for row in NamedScenes(tmp_path).answers("kitchen")] == ["a chair"]


def test_answers_and_states_do_not_wait_for_keyframes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise StoreError("no keyframe is taken")

    monkeypatch.setattr(SceneFolder, "put_keyframe", refuse)
    store = NamedScenes(tmp_path)
    writer = SceneWriter(store.open("kitchen", WORLD))
    writer.note_scene(scenes_of()[0])
    writer.note_answer(AnswerRow(1, "What is there?", "a chair", "model"))
    writer.note_state("watched", "the lamp")
    with pytest.raises(StoreError, match="no keyframe is taken"):
        writer.flush(FOREVER_S)
    assert writer.abandon(FOREVER_S)
    assert store.read("kitchen").states == {"watched": "the lamp"}
    assert [row.text for row in store.answers("kitchen")] == ["a chair"]


def test_the_names_of_new_folders_survive_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(scene_folder, "make_durable", synced.append)
    store = tmp_path / "robot" / "scenes"
    NamedScenes(store).open("kitchen", WORLD).close()
    assert set(synced) == {tmp_path, store.parent, store, store / "kitchen"}
    synced.clear()
    NamedScenes(store).open("hall", WORLD).close()
    assert set(synced) == {store, store / "hall"}


def test_a_node_that_starts_in_the_middle_of_a_delete_keeps_its_scene(
    tmp_path: Path, saved: SceneSnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, rest = NamedScenes(tmp_path), tmp_path / ".deleted-attic-1"
    rest.mkdir()  # of a process that was killed in the middle
    rmtree, opened = shutil.rmtree, list[SceneFolder]()

    def slow(folder: Path, **options: Any) -> None:
        if "kitchen" in folder.name:
            opened.append(store.open("kitchen", WORLD))
        rmtree(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", slow)
    store.delete("kitchen")
    (mine,) = opened
    assert mine.keys == frozenset()
    mine.put_state("watched", "the lamp")
    mine.close()
    assert store.read("kitchen").states == {"watched": "the lamp"}
    assert [each.name for each in tmp_path.iterdir()] == ["kitchen"]


def test_a_full_index_is_no_damage(tmp_path: Path) -> None:
    scenes = scenes_of()
    with NamedScenes(tmp_path).open("kitchen", WORLD) as folder:
        folder.put_scene(scenes[0])
        with sqlite3.connect(tmp_path / "kitchen" / "index.db") as db:
            (pages,) = db.execute("PRAGMA page_count").fetchone()
        limited(folder, pages)
        with pytest.raises(StoreError, match="no room left"):
            folder.put_state("watches", "x" * 100_000)


def limited(folder: SceneFolder, pages: int) -> None:
    """Let the index grow no more."""
    (index,) = (each for name, each in vars(folder).items() if name == "_index")
    (db,) = (each for name, each in vars(index).items() if name == "_db")
    db.execute(f"PRAGMA max_page_count = {pages}")


def test_a_store_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    store = NamedScenes(tmp_path / "file")
    with pytest.raises(StoreError, match="the store at"):
        store.open("kitchen", WORLD)
    with pytest.raises(StoreError, match="the store at"):
        store.names()


def test_a_read_only_store_is_read(
    tmp_path: Path, saved: SceneSnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, mode: str = "r", **options: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(scene_folder.Path, "open", refuse)
    with pytest.raises(StoreError, match="read-only for this process"):
        NamedScenes(tmp_path).open("kitchen", WORLD)
    monkeypatch.undo()
    assert len(NamedScenes(tmp_path).read("kitchen", WORLD).scene.keyframes) == 5


# -- others


def test_one_process_writes_a_scene_others_read_it(tmp_path: Path, saved: SceneSnapshot) -> None:
    store = NamedScenes(tmp_path)
    with store.open("kitchen", WORLD):
        with pytest.raises(StoreError, match=f"another process .pid {os.getpid()}."):
            store.open("kitchen", WORLD)
        assert len(store.read("kitchen", WORLD).scene.keyframes) == 5
        store.open("hall", WORLD).close()
    store.open("kitchen", WORLD).close()


def test_another_world_frame_names_both(tmp_path: Path, saved: SceneSnapshot) -> None:
    store = NamedScenes(tmp_path)
    text = f"is posed in '{WORLD}', this node's world_frame is 'odom'"
    for opened in (lambda: store.read("kitchen", "odom"), lambda: store.open("kitchen", "odom")):
        with pytest.raises(StoreError, match=text):
            opened()


@pytest.mark.parametrize("name", ["", "a/b", "../up", ".", "x" * 300, "a b", "a\n"])
def test_a_name_is_a_folders_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequestError, match="allowed: 1 to 64 letters") as raised:
        NamedScenes(tmp_path).open(name, WORLD)
    assert len(str(raised.value)) < 250
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_scene_lists_those_there_are(tmp_path: Path, saved: SceneSnapshot) -> None:
    with pytest.raises(UnknownSceneError, match=r"no scene 'attic' .* it has kitchen"):
        NamedScenes(tmp_path).read("attic")
    with pytest.raises(UnknownSceneError, match="it has none yet"):
        NamedScenes(tmp_path / "new").read("attic")


# -- limits


def test_the_oldest_that_are_not_in_use_make_room(tmp_path: Path) -> None:
    scenes = scenes_of()
    size = save_and_weigh(tmp_path / "all")
    writer = SceneWriter(
        NamedScenes(tmp_path).open("kitchen", WORLD), lossless=True, max_mb=0.6 * size / 1e6
    )
    for scene in scenes:
        writer.note_scene(scene)
        writer.flush(FOREVER_S)
    report = writer.report
    assert writer.close(FOREVER_S)
    assert report.bytes <= 0.6 * size
    assert 0 < report.deleted == 12 - report.stored
    found = NamedScenes(tmp_path).read("kitchen", WORLD)
    assert found.notes == ()
    assert [k.index for k in found.scene.keyframes] == [k.index for k in scenes[-1].keyframes]


def save_and_weigh(store: Path) -> int:
    save_scene(store)
    return NamedScenes(store).summary("kitchen").bytes


def test_a_slow_disk_delays_nobody_and_what_is_lost_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, entered = threading.Event(), threading.Event()
    fsync = os.fsync

    def slow(number: int) -> None:
        entered.set()
        assert held.wait(FOREVER_S)
        fsync(number)

    writer = SceneWriter(NamedScenes(tmp_path).open("kitchen", WORLD))
    monkeypatch.setattr(os, "fsync", slow)
    one, *rest = scenes_of()
    writer.note_scene(one)
    assert entered.wait(FOREVER_S)
    for turn in range(6):  # 66 keyframes that come and go while one is written
        for scene in rest:
            writer.note_scene(renumbered(scene, turn))
    report = writer.report
    assert report.lost > 0
    assert report.waiting <= MAX_LEFT + 5
    held.set()
    writer.flush(FOREVER_S)
    assert writer.report.waiting == 0
    assert writer.report.stored + writer.report.lost == 1 + 6 * len(rest)
    assert writer.close(FOREVER_S)


def renumbered(scene: SceneSnapshot, turn: int) -> SceneSnapshot:
    """The same scene a while later: its newest keyframe alone, so that the one before goes."""
    newest = scene.keyframes[-1]
    later = replace(newest.frame, stamp_ns=newest.frame.stamp_ns + turn * 10**11)
    keyframe = replace(newest, frame=later, index=newest.index + 100 * turn)
    state = replace(scene.state, num_keyframes=1, version=scene.state.version + 100 * turn)
    return SceneSnapshot((keyframe,), state, scene.floor, scene.anchor_xy_m)
