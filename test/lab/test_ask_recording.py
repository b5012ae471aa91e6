"""Questions about a bag or a folder without a node: what is printed, and the exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ada3d_ros.cli import main
from ada3d_ros.lab.world.generated import GeneratedRoom, generate_room
from ada3d_ros.sources.bag_writer import BagOptions, write_bag
from test.support.scripted_detector import ScriptedDetector


@pytest.fixture(scope="module")
def room() -> GeneratedRoom:
    return generate_room(5, side_px=96, split="val")


@pytest.fixture(scope="module")
def bag(room: GeneratedRoom, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bags") / "room"
    write_bag(room.frames, path, BagOptions(raw=True))
    return path


@pytest.fixture(scope="module")
def folder(room: GeneratedRoom, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a posed folder of the layout `plain`."""
    path = tmp_path_factory.mktemp("folders") / "room"
    for name in ("rgb", "depth", "poses"):
        (path / name).mkdir(parents=True)
    for number, frame in enumerate(room.frames):
        depth_mm = np.nan_to_num(frame.depth_m * 1000).round().astype(np.uint16)
        Image.fromarray(frame.rgb).save(path / "rgb" / f"{number:03d}.png")
        Image.fromarray(depth_mm).save(path / "depth" / f"{number:03d}.png")
        np.savetxt(path / "poses" / f"{number:03d}.txt", frame.T_world_cam)
    np.savetxt(path / "K.txt", room.frames[0].intrinsics.matrix)
    return path


@pytest.fixture
def scripted(room: GeneratedRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of the detector that --detector names."""

    def opened(*settings: Any) -> ScriptedDetector:
        return ScriptedDetector(room.boxes)

    monkeypatch.setattr("ada3d_ros.perception.open_detector.open_detector", opened)


@pytest.mark.parametrize("kind", ["bag", "folder"])
@pytest.mark.usefixtures("scripted")
def test_a_recording_is_asked_about(
    kind: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(request.getfixturevalue(kind))
    asked = ["How many sofas are there?", "What color is the table?"]
    code = main(["ask-recording", path, *asked, "--ground", "the crate", "--detector", "scripted"])
    out, err = capsys.readouterr()
    assert code == 0, out + err
    assert err.startswith("8 frames, ")
    assert "> How many sofas are there?\nThere are 2" in out
    assert "> What color is the table?\nThe table is purple." in out
    (crate,) = [line for line in out.splitlines() if "'the crate'" in line]
    assert crate.startswith("  box of the detector 'the crate': centre (")
    assert crate.endswith(" m in 'map', score 0.90")
    assert "  assumed: Counted in what has been seen so far." in out


@pytest.mark.usefixtures("scripted")
def test_a_folder_whose_images_have_a_lens(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that bends nothing: the answer is that of the images as they are."""
    lens = ["--distortion", "0", "0", "0", "0"]
    asked = ["How many sofas are there?", "--detector", "scripted", *lens]
    assert main(["ask-recording", str(folder), *asked]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("> How many sofas are there?\nThere are 2")
    assert "wrote 8 frames" in err


@pytest.mark.usefixtures("scripted")
def test_what_is_not_answered_has_its_reason(bag: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The questions behind it are asked all the same."""
    asked = ["Why is the sofa green?", "Is there a table?"]
    assert main(["ask-recording", str(bag), *asked, "--detector", "scripted"]) == 1
    out = capsys.readouterr().out
    assert "\nUNKNOWN_KIND: 'Why is the sofa green?' is not answered: no language model" in out
    assert "> Is there a table?\nYes: the purple table.\n" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["/no/bag", "Why?", "--detector", "scripted"], "/no/bag is not there: name a rosbag2"),
        (["BAG", "Why?", "--detector", "topic"], "only the node has topics"),
        (["BAG", "Why?", "--detector", "/no/file.onnx"], "/no/file.onnx does not exist"),
        (["BAG", "Why?", "--model", "none"], "--model is none and --detector is empty"),
        (["FOLDER", "Why?", "--detector", "x", "--distortion", "1", "2"], "--distortion"),
    ],
)
def test_what_keeps_it_from_answering_at_all(
    arguments: list[str], told: str, bag: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"BAG": str(bag), "FOLDER": str(folder)}
    assert main(["ask-recording", *(places.get(word, word) for word in arguments)]) == 2
    assert told in capsys.readouterr().err


def test_a_recording_without_a_question(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["ask-recording", "bag", "--detector", "scripted"])
    assert left.value.code == 2
    assert "name a QUESTION, or a PHRASE with --ground" in capsys.readouterr().err
