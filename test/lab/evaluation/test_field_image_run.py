"""`ada3d eval vqa`, `mme` and `mmbench` on the embedded model, about rendered views.

It was taught rooms, not single images, and not LLaVA's prompts: what is held here is that the verbs
run and count right, not how good it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ada3d_ros.lab.evaluation.command import main
from ada3d_ros.lab.evaluation.field.mme import yes_or_no
from ada3d_ros.lab.evaluation.selection import RoomSelection, rooms_of
from ada3d_ros.lab.world.image_files import ImageFiles

FEW = 12  # questions that are asked


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("images")
    files = ImageFiles(made)
    for room in rooms_of(RoomSelection("val", 0, 1), 128):
        files.add_room(room.frames, room.graph, room.seen)
    files.write()
    return made


def run(folder: Path, out: Path, verb: str, *options: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The results, and the answers by item id."""
    files = {
        "vqa": ("--questions", "vqa_questions.json", "--annotations", "vqa_annotations.json"),
        "mme": ("--questions", "mme"),
        "mmbench": ("--questions", "mmbench.tsv"),
    }[verb]
    images = {"vqa": ("--images", "images"), "mme": ("--images", "mme"), "mmbench": ()}[verb]
    paths = [word if word.startswith("--") else str(folder / word) for word in (*files, *images)]
    asked = [verb, *paths, "--out", str(out), "--limit", str(FEW), "--device", "cpu", *options]
    assert main(asked) == 0
    rows = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()][1:]
    results: dict[str, Any] = json.loads((out / "results.json").read_text())
    assert results["n"] == len(rows) == FEW
    assert results["errors"] == {}
    return results, {row["id"]: row["text"] for row in rows}


def test_vqa(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All ten say the same: an answer is right where it is that very text."""
    results, answers = run(folder, tmp_path / "bare", "vqa", "--bare")
    known = json.loads((folder / "vqa_annotations.json").read_text())["annotations"]
    true = {str(each["question_id"]): each["answers"][0]["answer"] for each in known}
    right = [text == true[name] for name, text in answers.items()]
    assert sum(right) > 0
    assert results["metrics"]["accuracy"] == pytest.approx(100 * sum(right) / FEW)

    # Its records alone give the same, and nothing is asked again.
    capsys.readouterr()
    again = tmp_path / "again.json"
    files = ["--questions", str(folder / "vqa_questions.json")]
    files += ["--annotations", str(folder / "vqa_annotations.json")]
    scored = ["--answers", str(tmp_path / "bare/records.jsonl"), "--limit", str(FEW)]
    assert main(["vqa", *files, *scored, "--json", str(again)]) == 0
    assert json.loads(again.read_text())["metrics"] == results["metrics"]

    # With the prompt it is another question.
    _, prompted = run(folder, tmp_path / "prompted", "vqa")
    assert prompted != answers


def test_mme(folder: Path, tmp_path: Path) -> None:
    results, answers = run(folder, tmp_path, "mme")
    questions = sorted((folder / "mme/existence").glob("*.txt"))[: FEW // 2]
    right = []
    for file in questions:
        for line in file.read_text().splitlines():
            question, true = line.replace(" Please answer yes or no.", "").split("\t")
            said = yes_or_no(answers[f"existence/{file.stem}: {question}"])
            right.append(said == true.lower())
    assert results["metrics"]["existence_acc"] == pytest.approx(100 * sum(right) / FEW)
    pairs = list(zip(right[::2], right[1::2], strict=True))
    both = sum(first and second for first, second in pairs)
    assert results["metrics"]["existence_acc_plus"] == pytest.approx(100 * both / len(pairs))


def test_mmbench_needs_no_folder_of_images(folder: Path, tmp_path: Path) -> None:
    results, answers = run(folder, tmp_path, "mmbench")
    assert len(answers) == FEW
    assert results["scenes"] == FEW // 4  # four rotations of each
    assert 0.0 <= results["metrics"]["accuracy"] <= results["metrics"]["accuracy_one_round"]


def test_a_missing_image_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--questions", str(folder / "vqa_questions.json")]
    files += ["--annotations", str(folder / "vqa_annotations.json")]
    files += ["--images", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["vqa", *files]) == 2
    told = capsys.readouterr().err
    assert "COCO_generated_000000000001.jpg" in told
    assert len(told.splitlines()) == 1
