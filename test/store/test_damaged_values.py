"""A store whose files can be read, but not all that is in them: damaged values, files of others, no
rights, no path.
"""

from __future__ import annotations

import errno
import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from ada3d_ros.errors import StoreError
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.store import scene_folder, segment
from ada3d_ros.store.command import main as scenes_command
from ada3d_ros.store.named_scenes import NamedScenes
from ada3d_ros.store.object_rows import began_ns
from test.support.stored import WORLD, assert_same_keyframe, save_scene

OBJECT = "INSERT INTO objects VALUES (0, 1, {described}, {kept}, NULL)"


@pytest.fixture
def saved(tmp_path: Path) -> SceneSnapshot:
    return save_scene(tmp_path)


def change(store: Path, statement: str) -> None:
    database = sqlite3.connect(store / "kitchen" / "index.db")
    with database:
        database.execute(statement)
    database.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE keyframes SET bytes = 'x'",
        "UPDATE keyframes SET segment = NULL",
        "UPDATE keyframes SET frame_id = NULL",
        "UPDATE keyframes SET stamp_ns = 'a' || stamp_ns",
        """UPDATE states SET value = replace(value, '"epoch": 0', '"epoch": 1e400')""",
        "DELETE FROM states WHERE name = 'scene'",
        OBJECT.format(described="NULL", kept="'{}'"),
        "INSERT INTO states VALUES ('kept:standing_questions', x'00')",
        "UPDATE states SET value = x'7b7d' WHERE name = 'scene'",
    ],
)
def test_an_index_with_other_values_is_made_again(
    tmp_path: Path, saved: SceneSnapshot, statement: str
) -> None:
    change(tmp_path, statement)
    store = NamedScenes(tmp_path)
    found = store.read("kitchen", WORLD)
    assert [k.index for k in found.scene.keyframes] == list(range(12))
    assert "told from the segments; objects, answers and standing questions" in found.notes[0]
    assert "told from the segments" in store.summary("kitchen").problem
    with store.open("kitchen", WORLD) as folder:
        assert len(folder.keys) == 12
    assert store.read("kitchen", WORLD).notes == ()


def test_a_column_more_changes_nothing(tmp_path: Path, saved: SceneSnapshot) -> None:
    change(tmp_path, "ALTER TABLE keyframes ADD COLUMN remark")
    found = NamedScenes(tmp_path).read("kitchen", WORLD)
    assert (len(found.scene.keyframes), found.notes) == (5, ())


def test_an_object_that_cannot_be_read_is_a_sentence(tmp_path: Path, saved: SceneSnapshot) -> None:
    change(tmp_path, OBJECT.format(described="'{'", kept="'{'"))
    store = NamedScenes(tmp_path)
    with pytest.raises(StoreError, match=r"index\.db: a row of the index is no JSON object"):
        store.history("kitchen")
    assert store.summary("kitchen").objects == 1  # counted, not read
    assert len(store.read("kitchen", WORLD).scene.keyframes) == 5
    assert began_ns("{") == began_ns('{"first_ns": 1e400}') == -1  # as none of ours


def test_an_answer_that_cannot_be_read_is_a_sentence(
    tmp_path: Path, saved: SceneSnapshot, capsys: pytest.CaptureFixture[str]
) -> None:
    change(tmp_path, "INSERT INTO answers (asked_ns, question) VALUES ('then', x'ff')")
    assert NamedScenes(tmp_path).summary("kitchen").answers == 1
    output = tmp_path / "out"
    assert scenes_command(["export", str(tmp_path), "kitchen", "-o", str(output)]) == 1
    assert "index.db is damaged: it has 'then'" in capsys.readouterr().err


def test_keyframes_that_the_index_does_not_have_are_told(
    tmp_path: Path, saved: SceneSnapshot
) -> None:
    change(tmp_path, "UPDATE keyframes SET stamp_ns = stamp_ns + 1")
    found = NamedScenes(tmp_path).read("kitchen", WORLD)
    assert found.scene.keyframes == ()
    assert found.notes[0].startswith("5 keyframes of the scene in use are not in the index")


def test_a_segment_under_two_names_is_one_keyframe(tmp_path: Path, saved: SceneSnapshot) -> None:
    folder = tmp_path / "kitchen" / "keyframes"
    newest = max(folder.glob("*.mcap"))
    shutil.copy(newest, folder / "0-copy.mcap")
    (tmp_path / "kitchen" / "index.db").unlink()
    found = NamedScenes(tmp_path).read("kitchen", WORLD)
    assert [k.index for k in found.scene.keyframes] == list(range(12))


def test_of_many_damaged_keyframes_few_are_told_at_once(
    tmp_path: Path, saved: SceneSnapshot
) -> None:
    for file in (tmp_path / "kitchen" / "keyframes").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    (tmp_path / "kitchen" / "index.db").unlink()
    store = NamedScenes(tmp_path)
    found = store.read("kitchen")
    assert len(found.notes) == 13
    for text in (found.note, store.summary("kitchen").problem):
        assert text.count("is left out") == 2  # the first is about the index
        assert text.endswith("(and 10 more; the log has all)")


def test_what_others_hide_in_the_folder_stays(tmp_path: Path, saved: SceneSnapshot) -> None:
    folder = tmp_path / "kitchen" / "keyframes"
    hidden = folder / ".nfs0000000001"  # a network file system; .DS_Store, .directory do the same
    hidden.write_bytes(b"x")
    left = folder / ".00000000000000000001-00000000.mcap"  # of a process that was killed
    left.mkdir()
    with NamedScenes(tmp_path).open("kitchen", WORLD) as opened:
        assert opened.notes == ()
    assert hidden.exists()
    assert not left.exists()


def test_a_pose_that_has_changed_on_the_disk_is_no_pose(
    tmp_path: Path, saved: SceneSnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = segment.keyframe_header

    def other(keyframe: object) -> dict[str, object]:
        said = header(keyframe)  # type: ignore[arg-type]
        said["T_world_cam"][0][3] += 1.0  # type: ignore[index]
        return said

    # A segment whose JSON is another one than its checksum was made of.
    keyframe, folder = saved.keyframes[-1], tmp_path / "kitchen" / "keyframes"
    whole = segment.header_crc(segment.read_header(folder / segment.segment_name(keyframe)))
    monkeypatch.setattr(segment, "keyframe_header", other)
    monkeypatch.setattr(segment, "header_crc", lambda header: whole)
    segment.write_segment(folder, keyframe, 0, lossless=True)
    monkeypatch.undo()
    found = NamedScenes(tmp_path).read("kitchen", WORLD)
    assert len(found.scene.keyframes) == 4
    assert "its pose, camera or stamps are not those that were written" in found.notes[0]


def test_a_segment_without_that_checksum_is_read(
    tmp_path: Path, saved: SceneSnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyframe, folder = saved.keyframes[-1], tmp_path / "kitchen" / "keyframes"
    dumps = json.dumps

    def without(value: object) -> str:
        assert isinstance(value, dict)
        return dumps({name: each for name, each in value.items() if name != segment.HEADER_CRC})

    monkeypatch.setattr(segment.json, "dumps", without)
    segment.write_segment(folder, keyframe, 0, lossless=True)
    monkeypatch.undo()
    file = folder / segment.segment_name(keyframe)
    assert segment.HEADER_CRC not in segment.read_header(file)
    assert_same_keyframe(segment.read_segment(file).keyframe, keyframe)


def test_a_scene_of_another_user_hides_no_other(
    tmp_path: Path, saved: SceneSnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tmp_path / "kitchen", tmp_path / "hall")
    exists = Path.exists

    def refused(self: Path) -> bool:
        if self.parent.name == "hall":
            raise PermissionError(13, "Permission denied", str(self))
        return exists(self)

    monkeypatch.setattr(Path, "exists", refused)
    store = NamedScenes(tmp_path)
    assert store.names() == ("hall", "kitchen")
    for asked in (store.has, store.read, store.delete, store.history):
        with pytest.raises(StoreError, match="hall may not be read by this process: give"):
            asked("hall")
    assert "may not be read" in store.summary("hall").problem
    assert len(store.read("kitchen", WORLD).scene.keyframes) == 5


def test_a_store_below_a_file_names_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for path in (file, file / "scenes"):
        with pytest.raises(StoreError, match=r"is no folder and none .* \(scene.autosave, scene.s"):
            NamedScenes(path).open("kitchen", WORLD)


def test_who_comes_second_takes_nothing_from_the_first(
    tmp_path: Path, saved: SceneSnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes make one scene at the same moment; one gets the lock, the other gets no room."""
    store, first = NamedScenes(tmp_path), []
    lock = scene_folder.locked

    def other_first(folder: Path) -> object:
        monkeypatch.undo()
        first.append(store.open("hall", WORLD))
        return lock(folder)

    monkeypatch.setattr(scene_folder, "locked", other_first)
    with pytest.raises(StoreError, match="is being written by another process"):
        store.open("hall", WORLD)
    first[0].put_state("a", "b")
    first[0].close()
    assert store.read("hall").states == {"a": "b"}


def test_a_folder_that_could_not_be_opened_is_no_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(scene_folder, "make_durable", full)
    with pytest.raises(StoreError, match="no room left"):
        NamedScenes(tmp_path / "new").open("hall", WORLD)
    assert NamedScenes(tmp_path / "new").names() == ()
    assert list((tmp_path / "new").iterdir()) == []


def test_a_disk_without_locks_is_not_another_process(
    tmp_path: Path, saved: SceneSnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(StoreError, match="fails: No locks available"):
        NamedScenes(tmp_path).open("kitchen", WORLD)


@pytest.mark.parametrize("path", ["~nobody-of-that-name/scenes", "a\0b"])
def test_what_is_no_path_is_a_sentence(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StoreError, match="is no folder of a store: "):
        NamedScenes(path)
    assert scenes_command(["list", path]) == 1
    assert "is no folder of a store" in capsys.readouterr().err
