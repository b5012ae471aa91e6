"""VQAv2: files, the official normalisation, the accuracy of ten people's answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.evaluation.field.benchmark import Files, Item, Scoring
from ada3d_ros.lab.evaluation.field.images import SHORT_PROMPT
from ada3d_ros.lab.evaluation.field.vqa import VQA_V2, normalised, vqa_accuracy


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def annotation(question: int, answers: list[str], kind: str = "other") -> dict[str, Any]:
    people = [{"answer": text, "answer_id": number} for number, text in enumerate(answers, 1)]
    return {"question_id": question, "answer_type": kind, "answers": people}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    questions = [
        {"image_id": 42, "question": "What color is the sofa?", "question_id": 42000},
        {"image_id": 42, "question": "How many chairs?", "question_id": 42001},
    ]
    annotations = [  # in another order
        annotation(42001, ["2"] * 2 + ["3"] * 8, "number"),
        annotation(42000, ["red"] * 3 + ["dark red"] * 7),
    ]
    return {
        "questions": write(
            tmp_path / "q.json", {"data_subtype": "val2014", "questions": questions}
        ),
        "annotations": write(tmp_path / "a.json", {"annotations": annotations}),
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The Red Chair.", "red chair"),
        ("two", "2"),
        ("none", "0"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("couldntve", "couldntve"),  # both missing: theirs knows no such word
        ("somebody'd", "somebodyd"),
        ("3.5", "3.5"),
        ("yes. no.", "yes no"),
        ("red/blue", "red blue"),
        ("red/ blue", "red blue"),
        ("well-lit", "well lit"),
        ("$1,000 (cash)", "$1000 cash"),  # a number with a comma: all marks vanish
        ("a-b 1,000", "ab 1000"),
        ("a , b", "b"),  # an article alone
        ("it's", "it's"),
        ("", ""),
    ],
)
def test_normalisation(text: str, found: str) -> None:
    assert normalised(text) == found


def test_more_periods_than_their_replacements() -> None:
    assert normalised("." * 40) == "." * 8


@pytest.mark.parametrize(
    ("answer", "references", "accuracy"),
    [
        # Three of ten: for each of the three two others said so, for the seven three.
        ("red", ["red"] * 3 + ["dark red"] * 7, (3 * 2 / 3 + 7 * 1.0) / 10),
        ("red", ["red"] + ["blue"] * 9, 9 * (1 / 3) / 10),
        ("red", ["red"] * 2 + ["blue"] * 8, (2 * (1 / 3) + 8 * (2 / 3)) / 10),
        ("red", ["red"] * 4 + ["blue"] * 6, 1.0),
        ("green", ["red"] * 4 + ["blue"] * 6, 0.0),
        ("The red.", ["red"] * 9 + ["blue"], 1.0),
        ("Red", ["red"] * 10, 0.0),  # all ten agree: nothing is normalised
        ("red\n", ["red"] * 10, 1.0),
    ],
)
def test_accuracy_by_hand(answer: str, references: list[str], accuracy: float) -> None:
    assert vqa_accuracy(answer, references) == pytest.approx(accuracy)


def test_the_files_and_the_score(files: Files, tmp_path: Path) -> None:
    items = VQA_V2.read(files)
    assert [item.id for item in items] == ["42000", "42001"]
    assert items[0].source == "COCO_val2014_000000000042.jpg"
    assert items[0].references == ("red",) * 3 + ("dark red",) * 7
    assert VQA_V2.question(items[0]).text == f"What color is the sofa?\n{SHORT_PROMPT}"

    results = [
        {"question_id": 42000, "answer": "Red"},
        {"question_id": 42001, "answer": "two"},
    ]
    answers = VQA_V2.read_answers(write(tmp_path / "results.json", results))
    scores = VQA_V2.score([(item, answers[item.id]) for item in items], Scoring())
    assert scores == pytest.approx(
        {"accuracy": (90 + 60) / 2, "accuracy_number": 60.0, "accuracy_other": 90.0}
    )


def test_no_answer_is_wrong(files: Files) -> None:
    item = VQA_V2.read(files)[0]
    assert VQA_V2.item_score(item, {"text": "red", "error": "TIMEOUT"}) == 0.0


def test_llavas_lines(files: dict[str, Path], tmp_path: Path) -> None:
    lines = tmp_path / "llava.jsonl"
    row = {"question_id": 42000, "image": "COCO_val2014_000000000042.jpg"}
    lines.write_text(json.dumps(row | {"text": f"What color?\n{SHORT_PROMPT}"}) + "\n")
    (item,) = VQA_V2.read(files | {"questions": lines})
    assert (item.source, item.text) == ("COCO_val2014_000000000042.jpg", "What color?")
    assert VQA_V2.question(item).text == f"What color?\n{SHORT_PROMPT}"


def test_bad_files(files: dict[str, Path], tmp_path: Path) -> None:
    def refused(match: str, **changed: Any) -> None:
        given = {name: write(tmp_path / f"{name}2.json", value) for name, value in changed.items()}
        with pytest.raises(SourceError, match=match):
            VQA_V2.read(files | given)

    question = {"image_id": 1, "question": "?", "question_id": 42000}
    refused("no answers to 1 of 1 questions: '7'", questions=[question | {"question_id": 7}])
    refused("'42000' is there twice", questions={"data_subtype": "v", "questions": [question] * 2})
    refused("entry 1: does not say which file", questions=[question])
    refused(
        "list of what ten people", annotations=[annotation(42000, ["x"]), annotation(42001, [])]
    )
    refused(
        "objects with 'answer'",
        annotations=[
            {"question_id": 42000, "answers": ["red", "blue"]},
            annotation(42001, ["a", "b"]),
        ],
    )
    twice = [annotation(42000, ["a"] * 10)] * 2
    refused("'42000' is there twice", annotations=twice)


def test_a_question_alone_is_scored() -> None:
    item = Item("1", "a.jpg", "?", ("yes",) * 10, {"answer_type": ""})
    assert VQA_V2.score([(item, {"text": "yes"})], Scoring()) == {"accuracy": 100.0}
