"""`ada3d scenes`: what a store holds, a scene as others read it, and its end."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from ada3d_ros.sources.bag import BagSource
from ada3d_ros.sources.folder import FolderOptions, FolderSource
from ada3d_ros.sources.make_bag import main as make_bag
from ada3d_ros.store import export
from ada3d_ros.store.command import main
from ada3d_ros.store.named_scenes import NamedScenes
from ada3d_ros.store.segment import segment_name
from test.support.stored import FRAMES, WORLD, save_scene


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    save_scene(folder)
    return folder


def test_list(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_scene(store, "hall-2", lossless=False)
    assert main(["list", str(store)]) == 0
    hall, kitchen = capsys.readouterr().out.splitlines()
    assert hall.startswith("hall-2   5 of 12 keyframes in use, 0 objects, 0 answers, ")
    assert kitchen.startswith("kitchen  5 of 12 keyframes in use")
    assert kitchen.endswith(f"{WORLD}, newest 1970-01-01 00:00:03 UTC")
    assert main(["list", str(store / "hall-2")]) == 1
    told = f"{store / 'hall-2'} is one scene: name the store that holds it, {store}."
    assert told in capsys.readouterr().err
    (store / "empty").mkdir()
    assert main(["list", str(store / "empty")]) == 0
    assert "holds no scene" in capsys.readouterr().out
    assert main(["list", str(store / "none")]) == 1
    assert f"there is no folder {store / 'none'}" in capsys.readouterr().err


def test_an_exported_folder_is_what_was_seen(store: Path, tmp_path: Path) -> None:
    output = tmp_path / "frames"
    assert main(["export", str(store), "kitchen", "-o", str(output)]) == 0
    source = FolderSource(output, FolderOptions(frame_id=WORLD))
    frames = list(source)
    assert [frame.stamp_ns for frame in frames] == [frame.stamp_ns for frame in FRAMES]
    for ours, theirs in zip(frames, FRAMES, strict=True):
        assert (ours.rgb == theirs.rgb).all()
        assert np.allclose(ours.T_world_cam, theirs.T_world_cam, atol=1e-9)
        assert np.allclose(ours.depth_m, theirs.depth_m, atol=0.00051, equal_nan=True)
        assert ours.intrinsics == theirs.intrinsics
    assert json.loads((output / "objects.json").read_text()) == []
    assert main(["export", str(store), "kitchen", "-o", str(output)]) == 1  # not over it

    bag = tmp_path / "bag"
    assert make_bag([str(output), "-o", str(bag)]) == 0
    assert [frame.stamp_ns for frame in BagSource(bag)] == [frame.stamp_ns for frame in FRAMES]


def test_an_exported_bag_and_a_segment_are_bags(store: Path, tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    assert main(["export", str(store), "kitchen", "-o", str(bag), "--bag", "--raw"]) == 0
    frames = list(BagSource(bag))
    assert len(frames) == 12
    assert (frames[3].rgb == FRAMES[3].rgb).all()

    newest = NamedScenes(store).read("kitchen").scene.keyframes[-1]
    (frame,) = BagSource(store / "kitchen" / "keyframes" / segment_name(newest))
    assert frame.stamp_ns == newest.frame.stamp_ns
    assert (frame.rgb == newest.frame.rgb).all()
    assert np.allclose(frame.T_world_cam, newest.frame.T_world_cam, atol=1e-9)
    assert np.allclose(frame.depth_m, newest.frame.depth_m, equal_nan=True)


@pytest.mark.parametrize("was_there", [False, True])
def test_an_export_that_fails_leaves_nothing(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    was_there: bool,
) -> None:
    output = tmp_path / "frames"
    if was_there:
        output.mkdir()
    written: list[object] = []

    def full(rgb: object) -> bytes:
        written.append(rgb)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return b"x"

    monkeypatch.setattr(export, "encode_png", full)
    command = ["export", str(store), "kitchen", "-o", str(output)]
    assert main(command) == 1
    told = capsys.readouterr().err
    assert f"{output} cannot be written: No space left on device. Make room" in told
    assert output.exists() == was_there
    assert not was_there or list(output.iterdir()) == []
    monkeypatch.undo()
    assert main(command) == 0


@pytest.mark.parametrize("options", [[], ["--bag"]])
def test_an_export_to_no_folder_is_a_sentence(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for output in (file, file / "below"):
        assert main(["export", str(store), "kitchen", "-o", str(output), *options]) == 1
        told = capsys.readouterr().err
        assert str(output) in told
        assert "--overwrite" not in told
        assert "store at" not in told
    assert file.read_text() == "mine"


def test_delete_asks_first(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["delete", str(store), "kitchen"]) == 1
    assert "say --yes" in capsys.readouterr().err
    assert NamedScenes(store).names() == ("kitchen",)
    with NamedScenes(store).open("kitchen", WORLD):  # a node writes it
        assert main(["delete", str(store), "kitchen", "--yes"]) == 1
    assert "another process" in capsys.readouterr().err
    assert main(["delete", str(store), "kitchen", "--yes"]) == 0
    assert NamedScenes(store).names() == ()
    assert main(["delete", str(store), "kitchen", "--yes"]) == 1
    assert "no scene 'kitchen'" in capsys.readouterr().err


@pytest.mark.parametrize("args", [["export", "s", "kitchen"], ["delete", "s"], ["show", "s"]])
def test_usage(args: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == 2
