"""A process that saves a scene is killed: at most its last keyframe is lost, none is half there."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.store.named_scenes import NamedScenes
from ada3d_ros.store.scene_folder import SceneFolder
from test.support.stored import WORLD, assert_same_keyframe, scenes_of

SCENES = scenes_of()[:4]
MOMENTS = 20


def put_all(folder: SceneFolder, scenes: list[SceneSnapshot]) -> None:
    for scene in scenes:
        folder.put_keyframe(scene.keyframes[-1], scene.state.epoch, scene, lossless=True)


def write_until(store: Path, call: int, done: int) -> None:
    """In a child: save three scenes, then die by SIGKILL at this C call of saving the fourth."""
    with NamedScenes(store).open("kitchen", WORLD) as folder:
        put_all(folder, SCENES[:3])
        os.write(done, b"3")
        calls = 0

        def count(frame: FrameType, event: str, argument: Any) -> None:
            nonlocal calls
            if event != "c_call":
                return
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(count)
        put_all(folder, SCENES[3:])
        sys.setprofile(None)
        os.write(done, str(calls).encode())


def run_child(store: Path, call: int) -> tuple[int, bytes]:
    """How it ended (the signal, 0 without one), and what it told."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        end = "false"
        try:
            os.close(reading)
            write_until(store, call, writing)
            end = "true"
        finally:
            os.execlp(end, end)  # nothing of pytest's runs in the child
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        text = told.read()
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, text


@pytest.fixture(scope="module")
def num_calls(tmp_path_factory: pytest.TempPathFactory) -> int:
    """C calls of saving one keyframe: files, images, SQLite."""
    ended, told = run_child(tmp_path_factory.mktemp("whole"), -1)
    assert ended == 0
    return int(told[1:])


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_killed_at_a_random_moment_it_loses_at_most_the_last_keyframe(
    tmp_path: Path, num_calls: int, moment: int
) -> None:
    assert num_calls > 200
    call = random.Random(moment).randint(1, num_calls)
    ended, told = run_child(tmp_path, call)
    assert (ended, told) == (signal.SIGKILL, b"3")

    # Read as it lies there, and by the next writer.
    store = NamedScenes(tmp_path)
    saved = store.read("kitchen", WORLD)
    found = len(saved.scene.keyframes)
    assert found in (3, 4)
    assert saved.notes == ()
    for ours, theirs in zip(saved.scene.keyframes, SCENES[3].keyframes, strict=False):
        assert_same_keyframe(ours, theirs)
    with store.open("kitchen", WORLD) as folder:
        assert folder.notes == ()
        assert len(folder.keys) == found
        put_all(folder, SCENES[3:])
    again = store.read("kitchen", WORLD)
    assert again.in_store == 4
    assert again.scene.state == SCENES[3].state
    assert [each.index for each in again.scene.keyframes] == [0, 1, 2, 3]
    left = {file.name for file in (tmp_path / "kitchen").rglob("*") if file.name.startswith(".")}
    assert left == set()


def commit_until_killed(folder: Path, ready: int) -> None:
    """In a child: commits that spill into the journal, as long ones do, until the process dies in
    the middle of one.
    """
    database = sqlite3.connect(folder / "index.db", isolation_level=None)
    for setting in ("synchronous = EXTRA", "cache_size = 1", "cache_spill = 1"):
        database.execute(f"PRAGMA {setting}")
    database.execute("BEGIN IMMEDIATE")
    for number in range(300):
        database.execute(
            "INSERT OR REPLACE INTO states VALUES (?, ?)", (f"kept:x{number}", "z" * 3000)
        )
    os.write(ready, b"!")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_in_the_middle_of_a_commit_is_taken_back(tmp_path: Path) -> None:
    """SQLite rolls such a file back where it may write; a read-only connection may not."""
    with NamedScenes(tmp_path).open("kitchen", WORLD) as folder:
        put_all(folder, SCENES[:3])
    ready, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        commit_until_killed(tmp_path / "kitchen", write_end)
        os.abort()
    os.close(write_end)
    assert os.read(ready, 1) == b"!"
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    os.close(ready)
    assert (tmp_path / "kitchen" / "index.db-journal").stat().st_size > 0

    # Whoever comes first, a reader or the next writer, finds the scene as it was.
    saved = NamedScenes(tmp_path).read("kitchen", WORLD)
    assert saved.scene.state.num_keyframes == 3
    assert "x1" not in NamedScenes(tmp_path).read("kitchen").states
    with NamedScenes(tmp_path).open("kitchen", WORLD) as folder:
        assert folder.notes == ()
        assert len(folder.keys) == 3
