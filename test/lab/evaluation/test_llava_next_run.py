"""`ada3d eval vqa`, `image` and doctor with LLaVA-NeXT and llava-hf folders of random weights.

The answers mean nothing: what is held is that a checkpoint of each layout goes all the way, images
of any shape and kind among what is asked about, and that pruning counts what it keeps.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ada3d_ros.lab.evaluation.command import main
from ada3d_ros.lab.evaluation.field.images import image_frame
from ada3d_ros.lab.evaluation.pipelines import open_pipeline
from ada3d_ros.lab.evaluation.selection import RoomSelection, rooms_of
from ada3d_ros.lab.world.image_files import ImageFiles
from ada3d_ros.model.random_checkpoint import write_random_checkpoint
from ada3d_ros.types import Question, Scope
from test.support.checkpoints import SMALL_2D, SMALL_NEXT, convert
from test.support.llava_oracle import drawn

MODES = {"RGB": (90, 120), "L": (120, 90), "RGBA": (100, 100), "P": (40, 280), "1": (1, 1000)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint in each of the four layouts."""
    made = {}
    for name, config in (("llava1.5", SMALL_2D), ("llava_next", SMALL_NEXT)):
        made[name] = write_random_checkpoint(tmp_path_factory.mktemp(name), 5, config)
        made[f"{name} of transformers"] = convert(made[name], tmp_path_factory.mktemp("hf"))
    return made


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VQAv2 file about an image of every colour mode, of another shape each."""
    folder = tmp_path_factory.mktemp("vqa")
    questions, annotations = [], []
    for number, (mode, size) in enumerate(MODES.items(), 1):
        Image.fromarray(drawn(*size)).convert(mode).save(folder / f"{mode}.png")
        questions.append({"question_id": number, "image": f"{mode}.png", "text": "What is it?"})
        answers = [{"answer": "chair", "answer_id": i} for i in range(1, 11)]
        known = {"question_id": number, "answer_type": "other", "answers": answers}
        annotations.append(known)
    lines = "\n".join(map(json.dumps, questions))
    (folder / "questions.jsonl").write_text(lines)
    (folder / "annotations.json").write_text(json.dumps({"annotations": annotations}))
    return folder


LAYOUTS = [
    f"{name}{behind}" for name in ("llava1.5", "llava_next") for behind in ("", " of transformers")
]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_image_is_answered(
    folders: dict[str, Path], asked: Path, tmp_path: Path, name: str
) -> None:
    files = ["--questions", str(asked / "questions.jsonl"), "--images", str(asked)]
    files += ["--annotations", str(asked / "annotations.json"), "--out", str(tmp_path / "out")]
    more = ["--model", str(folders[name]), "--device", "cpu"]
    assert main(["vqa", *files, *more]) == 0
    results: dict[str, Any] = json.loads((tmp_path / "out/results.json").read_text())
    assert results["n"] == len(MODES)
    assert results["errors"] == {}
    lines = (tmp_path / "out/records.jsonl").read_text().splitlines()[1:]
    assert len({json.loads(line)["text"] for line in lines}) > 1  # of another image, others


@pytest.mark.parametrize("verb", ["mme", "mmbench", "mmvet"])
def test_the_other_benchmarks_about_images(
    folders: dict[str, Path], tmp_path: Path, verb: str
) -> None:
    made = tmp_path / "made"
    files = ImageFiles(made)
    for room in rooms_of(RoomSelection("val", 0, 1), 128):
        files.add_room(room.frames, room.graph, room.seen)
    files.write()
    image = sorted((made / "images").iterdir())[0].name
    known = {"imagename": image, "question": "What is it?", "answer": "x", "capability": ["rec"]}
    (made / "mm-vet.json").write_text(json.dumps({"v1_0": known, "v1_1": known}))
    options = {
        "mme": ["--questions", str(made / "mme"), "--images", str(made / "mme")],
        "mmbench": ["--questions", str(made / "mmbench.tsv")],
        "mmvet": ["--questions", str(made / "mm-vet.json"), "--images", str(made / "images")],
    }[verb]
    more = ["--model", str(folders["llava_next"]), "--device", "cpu", "--limit", "2"]
    more += ["--strategy", "pdrop", "--keep", "0.6", "--cache-mode", "paper"]
    assert main([verb, *options, *more, "--out", str(tmp_path / "out")]) == 0
    results: dict[str, Any] = json.loads((tmp_path / "out/results.json").read_text())
    assert results["n"] == 2
    assert results["errors"] == {}


def test_strategies_are_compared_on_views_of_rooms(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """56 x 56 px are fitted into 112 x 56: 16 patches of each of two levels, and four newlines."""
    file = tmp_path / "image.json"
    more = ["--scenes", "2", "--views", "1", "--split", "val", "--json", str(file)]
    more += ["--strategies", "pdrop,fastv,adatoken3d,voxel_dpp,geo_fps", "--keep", "0.6"]
    assert main(["image", "--model", str(folders["llava_next"]), "--device", "cpu", *more]) == 0
    rows = {row["strategy"]: row for row in json.loads(file.read_text())["rows"]}
    assert rows["none"]["tokens"] == 16 + 4 * (4 + 1)
    assert rows["none"]["keep_ratio_achieved"] == 1.0
    for name in ("pdrop", "fastv", "adatoken3d", "voxel_dpp", "geo_fps"):
        assert rows[name]["keep_ratio_achieved"] == pytest.approx(0.6, abs=0.03)
        assert rows[name]["unanswered"] == rows["none"]["unanswered"] == 0
        assert rows[name]["flop_share"] < 1.0


def test_a_question_about_a_scene_is_refused(folders: dict[str, Path]) -> None:
    pipeline = open_pipeline(folders["llava_next"], "none", None)
    pipeline.observe(image_frame(drawn(90, 120), 0))
    with pytest.raises(Exception, match=r"2D only .* ask with scope LATEST_IMAGE"):
        pipeline.ask(Question("What is it?", scope=Scope.SCENE, routed=False))


@pytest.mark.parametrize("verb", ["synthetic", "scene-pruning", "pruning-tables"])
def test_what_asks_about_scenes_refuses_a_2d_model(
    folders: dict[str, Path], verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--json", str(tmp_path / "rows.json")]
    for name in ("llava1.5", "llava_next"):
        assert main([verb, "--model", str(folders[name]), "--scenes", "1", *out]) == 2
        assert f"is {name}, which is 2D: it has no scene" in capsys.readouterr().err
