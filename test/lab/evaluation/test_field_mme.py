"""MME: the release's folder, answers of all forms, acc and acc+ by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.evaluation.field.benchmark import Scoring
from ada3d_ros.lab.evaluation.field.images import SHORT_PROMPT
from ada3d_ros.lab.evaluation.field.mme import GROUPS, MME_BENCHMARK, SUBTASKS, yes_or_no

THEIRS = "Please answer yes or no."


def add_image(folder: Path, subtask: str, stem: str, split: bool = False) -> None:
    """An image and its two questions, the first with yes."""
    texts = folder / subtask / ("questions_answers_YN" if split else "")
    images = folder / subtask / ("images" if split else "")
    texts.mkdir(parents=True, exist_ok=True)
    images.mkdir(parents=True, exist_ok=True)
    (images / f"{stem}.jpg").write_bytes(b"image")
    rows = f"Is it a {stem}? {THEIRS}\tYes\nIs it a cow? {THEIRS}\tNo\n\n"
    (texts / f"{stem}.txt").write_text(rows, encoding="utf-8")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "MME_Benchmark_release_version"
    for stem in ("dog", "cat"):
        add_image(folder, "existence", stem)
    add_image(folder, "artwork", "10002", split=True)
    add_image(folder, "code_reasoning", "0001")
    return folder


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("No, it is not.", "no"),
        (" yes", "yes"),
        ("There is", "other"),
        ("It is: yes", "other"),  # beyond the first four letters
        ("Nobody", "no"),  # theirs
        ("", "other"),
    ],
)
def test_yes_or_no(answer: str, found: str) -> None:
    assert yes_or_no(answer) == found


def test_there_are_fourteen_subtasks() -> None:
    assert [len(GROUPS[name]) for name in ("perception", "cognition")] == [10, 4]
    assert len(set(SUBTASKS)) == 14


def test_the_release(release: Path) -> None:
    items = MME_BENCHMARK.read({"questions": release})
    assert [item.id for item in items][:2] == [
        "existence/cat: Is it a cat?",
        "existence/cat: Is it a cow?",
    ]
    assert [item.source for item in items][4:6] == ["artwork/images/10002.jpg"] * 2
    assert [item.references for item in items][:2] == [("yes",), ("no",)]
    assert MME_BENCHMARK.question(items[0]).text == f"Is it a cat?\n{SHORT_PROMPT}"


SAID = {  # both right; one right; none; both, one of them with more words
    "existence/dog": ("Yes", "No"),
    "existence/cat": ("Yes", "Yes"),
    "artwork/10002": ("maybe", "Yes"),
    "code_reasoning/0001": ("Yes, it is", "no"),
}
BY_HAND = {
    "existence": 75.0 + 50.0,
    "existence_acc": 75.0,
    "existence_acc_plus": 50.0,
    "artwork": 0.0,
    "artwork_acc": 0.0,
    "artwork_acc_plus": 0.0,
    "perception_of_2": 125.0,
    "code_reasoning": 200.0,
    "code_reasoning_acc": 100.0,
    "code_reasoning_acc_plus": 100.0,
    "cognition_of_1": 200.0,
}


def ours(folder: Path) -> Path:
    rows = [
        {"id": f"{picture}: Is it a {word}?", "text": text}
        for picture, both in SAID.items()
        for word, text in zip((picture.split("/")[1], "cow"), both, strict=True)
    ]
    path = folder / "records.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [{"settings": {}}, *rows]))
    return path


def official(folder: Path) -> Path:
    results = folder / "Your_Results"
    results.mkdir()
    for picture, both in SAID.items():
        subtask, stem = picture.split("/")
        with (results / f"{subtask}.txt").open("a", encoding="utf-8") as file:
            file.write(f"{stem}.jpg\tIs it a {stem}? {THEIRS}\tYes\t{both[0]}\n")
            file.write(f"{stem}.jpg\tIs it a cow? {THEIRS}\tNo\t{both[1]}\n")
    return results


def llavas(folder: Path) -> Path:
    path = folder / "llava.jsonl"
    rows = [
        {
            "question_id": f"{picture}.jpg",
            "prompt": f"Is it a {word}?\n{SHORT_PROMPT}",
            "text": text,
        }
        for picture, both in SAID.items()
        for word, text in zip((picture.split("/")[1], "cow"), both, strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    return path


@pytest.mark.parametrize("write", [ours, official, llavas])
def test_answers_and_scores_by_hand(write: object, release: Path, tmp_path: Path) -> None:
    items = MME_BENCHMARK.read({"questions": release})
    answers = MME_BENCHMARK.read_answers(write(tmp_path))  # type: ignore[operator]
    assert set(answers) == {item.id for item in items}
    scores = MME_BENCHMARK.score([(item, answers[item.id]) for item in items], Scoring())
    assert scores == BY_HAND


def test_all_subtasks_make_a_sum(tmp_path: Path) -> None:
    for subtask in SUBTASKS:
        add_image(tmp_path, subtask, "dog")
    items = MME_BENCHMARK.read({"questions": tmp_path})
    scores = MME_BENCHMARK.score(
        [(item, {"text": item.references[0]}) for item in items], Scoring()
    )
    assert scores["perception"] == 2000.0
    assert scores["cognition"] == 800.0
    always = MME_BENCHMARK.score([(item, {"text": "yes"}) for item in items], Scoring())
    assert always["perception"] == 500.0  # half of the questions, no image


def test_no_answer_is_wrong(release: Path) -> None:
    item = MME_BENCHMARK.read({"questions": release})[0]
    assert MME_BENCHMARK.item_score(item, {"text": "yes"}) == 1.0
    assert MME_BENCHMARK.item_score(item, {"text": "yes", "error": "TIMEOUT"}) == 0.0


def test_bad_releases(release: Path, tmp_path: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(SourceError, match=match):
            MME_BENCHMARK.read({"questions": release})

    text = release / "existence/dog.txt"
    text.write_text("Is it a dog?\tYes\n")
    refused(r"dog\.txt has 1 questions")
    text.write_text("Is it a dog? Yes\nIs it?\tNo\n")
    refused(r"dog\.txt line 1 has 1 parts")
    text.write_text("Is it a dog?\tYes\nIs it a cow?\tmaybe\n")
    refused("'maybe' is neither Yes nor No")
    text.write_text("Is it a dog?\tYes\nIs it a dog?\tNo\n")
    refused("'existence/dog: Is it a dog\\?' is there twice")
    text.write_bytes(b"\xff\xff\t\n")
    refused("cannot be read as text")
    text.write_text("Is it a dog?\tYes\nIs it a cow?\tNo\n")
    (release / "existence/dog.jpg").unlink()
    refused(r"has no image dog \(\.jpg")
    with pytest.raises(SourceError, match="no folder of a subtask"):
        MME_BENCHMARK.read({"questions": tmp_path})


def test_bad_answers(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has no text of a subtask"):
        MME_BENCHMARK.read_answers(tmp_path)
    (tmp_path / "existence.txt").write_text("a.jpg\tIs it?\tYes\tno\n" * 2)
    with pytest.raises(SourceError, match=r"'existence/a: Is it\?' twice"):
        MME_BENCHMARK.read_answers(tmp_path)
    (tmp_path / "existence.txt").write_text("a.jpg\tIs it?\tYes\n")
    with pytest.raises(SourceError, match="line 1 has 3 parts between tabs; 4"):
        MME_BENCHMARK.read_answers(tmp_path)
    lines = tmp_path / "a.jsonl"
    row = {"question_id": "existence/a.jpg", "prompt": "Is it?", "text": "no"}
    lines.write_text((json.dumps(row) + "\n") * 2)
    with pytest.raises(SourceError, match="again; leave one"):
        MME_BENCHMARK.read_answers(lines)
    lines.write_text(json.dumps(row | {"question_id": "7"}) + "\n")
    with pytest.raises(SourceError, match="question_id is '7'; a subtask's image"):
        MME_BENCHMARK.read_answers(lines)
