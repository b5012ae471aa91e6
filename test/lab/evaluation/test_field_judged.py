"""Benchmarks that a large model judges (MM-Vet, OpenEQA, MMScan): given judgements, by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.evaluation.command import main
from ada3d_ros.lab.evaluation.field.benchmark import Benchmark, Item, Record, Scoring
from ada3d_ros.lab.evaluation.field.mmscan import MM_SCAN, bare, scored_text
from ada3d_ros.lab.evaluation.field.mmvet import MM_VET
from ada3d_ros.lab.evaluation.field.openeqa import OPEN_EQA
from ada3d_ros.lab.evaluation.selection import RoomSelection, rooms_of
from ada3d_ros.lab.world.export import export_scene
from ada3d_ros.types import Scope

WITHOUT_WORDS = Scoring(tokens="none")


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def read(
    benchmark: Benchmark, folder: Path, questions: Any, judgements: Any = None
) -> dict[str, Item]:
    files = {"questions": write(folder / "questions.json", questions)}
    if judgements is not None:
        files["judgements"] = write(folder / "judgements.json", judgements)
    return {item.id: item for item in benchmark.read(files)}


def score(
    benchmark: Benchmark, items: dict[str, Item], records: dict[str, Record]
) -> dict[str, float]:
    return benchmark.score([(items[name], records[name]) for name in items], WITHOUT_WORDS)


# -- MM-Vet

VET = {
    f"v1_{number}": {
        "imagename": f"v1_{number}.png",
        "question": "What is x?",
        "answer": "1<OR>one",
        "imagesource": "here",
        "capability": needs,
    }
    for number, needs in enumerate([["ocr", "math"], ["rec"], ["math", "ocr"]])
}


def test_mmvet_by_hand(tmp_path: Path) -> None:
    """Two runs of the evaluator: totals 60 and 40 of a hundred."""
    grades = {"v1_0": [1.0, 0.6], "v1_1": [0.2, 0.0], "v1_2": [0.6, 0.6]}
    judged = {n: {"model": ["m"] * 2, "content": ["c"] * 2, "score": s} for n, s in grades.items()}
    items = read(MM_VET, tmp_path, VET, judged)
    assert items["v1_0"].source == "v1_0.png"
    assert MM_VET.question(items["v1_0"]).text == "What is x?"  # nothing around it
    assert MM_VET.question(items["v1_0"]).scope is Scope.LATEST_IMAGE
    records: dict[str, Record] = {name: {"text": "1"} for name in VET}
    assert score(MM_VET, items, records) == pytest.approx(
        {
            "total": 50.0,
            "total_std": 10.0,
            "math": 70.0,
            "ocr": 70.0,
            "rec": 10.0,
            "needs_math_ocr": 70.0,
            "needs_rec": 10.0,
        }
    )
    assert MM_VET.item_score(items["v1_0"], records["v1_0"]) == pytest.approx(0.8)

    # What got no answer is worth nothing, whatever the file says of it.
    records["v1_0"] = {"text": "", "error": "TIMEOUT"}
    found = score(MM_VET, items, records)
    assert found["math"] == pytest.approx(30.0)
    assert found["total"] == pytest.approx(100 * (0.8 / 3 + 0.6 / 3) / 2)


def test_mmvet_takes_a_score_alone(tmp_path: Path) -> None:
    items = read(MM_VET, tmp_path, VET, {"v1_0": 1, "v1_1": 0.5, "v1_2": 0})
    assert score(MM_VET, items, {name: {"text": "1"} for name in VET})["total"] == 50.0


def test_mmvet_without_judgements_is_no_number(tmp_path: Path) -> None:
    items = read(MM_VET, tmp_path, VET)
    assert score(MM_VET, items, {name: {"text": "1"} for name in VET}) == {}
    assert math.isnan(MM_VET.item_score(items["v1_0"], {"text": "1"}))


def test_mmvets_answers(tmp_path: Path) -> None:
    official = MM_VET.read_answers(write(tmp_path / "results.json", {"v1_0": "1", "v1_1": "two"}))
    assert official == {"v1_0": {"text": "1"}, "v1_1": {"text": "two"}}
    lines = tmp_path / "llava.jsonl"
    rows = [{"question_id": number, "text": str(number)} for number in range(2)]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert {n: r["text"] for n, r in MM_VET.read_answers(lines).items()} == {
        "v1_0": "0",
        "v1_1": "1",
    }


@pytest.mark.parametrize(
    ("judgements", "match"),
    [
        (
            {"v1_0": 1.2, "v1_1": 0, "v1_2": 0},
            "'v1_0': 1.2 is not within 0 to 1; a score of 0 to 1",
        ),
        ({"v1_0": "1", "v1_1": 0, "v1_2": 0}, "'v1_0': '1' is no number"),
        ({"v1_0": True, "v1_1": 0, "v1_2": 0}, "True is no number"),
        ({"v1_0": {"score": []}, "v1_1": 0, "v1_2": 0}, "there is no score"),
        ({"v1_0": {"grade": 1}, "v1_1": 0, "v1_2": 0}, "None is no number"),
        ({"v1_0": 1, "v1_1": 0}, "no judgement of 1 of 3 questions: 'v1_2'"),
        ({"v1_0": 1, "v1_1": 0, "v1_2": 0, "v1_9": 1}, "judges 'v1_9', which no question"),
        ({"v1_0": [1, 0], "v1_1": 0, "v1_2": 0}, "1 score.s. of 'v1_2' and 2 of 'v1_0'"),
        ([1, 0, 0], "one JSON object"),
        ({}, "one JSON object"),
    ],
)
def test_bad_judgements(judgements: Any, match: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=match):
        read(MM_VET, tmp_path, VET, judgements)


def test_a_question_judged_twice(tmp_path: Path) -> None:
    questions, judged = write(tmp_path / "q.json", VET), tmp_path / "j.json"
    judged.write_text('{"v1_0": 1, "v1_1": 0, "v1_2": 0, "v1_0": 0}')
    with pytest.raises(SourceError, match="'v1_0' is there twice; leave one"):
        MM_VET.read({"questions": questions, "judgements": judged})


# -- OpenEQA


def eqa(name: str, episode: str, category: str, **more: Any) -> dict[str, Any]:
    return {
        "question_id": name,
        "question": "What is on the sofa?",
        "answer": "a cushion",
        "category": category,
        "episode_history": episode,
        **more,
    }


EQA = [
    eqa("a", "scannet-v0/002-scannet-scene0709_00", "object recognition"),
    eqa("b", "hm3d-v0/000-hm3d-BFRyYbPCCPE", "object recognition", extra_answers=["pillow"]),
    eqa("c", "scannet-v0/003-scannet-scene0762_00", "spatial understanding"),
]


def test_openeqa_by_hand(tmp_path: Path) -> None:
    """Marks 5, 2 and 0: 100, 25 and, the evaluator's mark for no answer, 0."""
    items = read(OPEN_EQA, tmp_path, EQA, {"a": 5, "b": 2, "c": 0})
    assert [item.source for item in items.values()] == [
        "scene0709_00",
        "hm3d-v0/000-hm3d-BFRyYbPCCPE",
        "scene0762_00",
    ]
    assert items["b"].references == ("a cushion", "pillow")
    assert OPEN_EQA.question(items["a"]).text == "What is on the sofa?"
    records: dict[str, Record] = {name: {"text": "pillow"} for name in items}
    assert score(OPEN_EQA, items, records) == pytest.approx(
        {
            "llm_match": 125 / 3,
            "category: object recognition": 62.5,
            "category: spatial understanding": 0.0,
            "source: scannet-v0": 50.0,
            "source: hm3d-v0": 25.0,
        }
    )
    records["a"] = {"text": "", "error": "TIMEOUT"}
    assert score(OPEN_EQA, items, records)["llm_match"] == pytest.approx(25 / 3)


def test_openeqa_without_judgements_is_no_number(tmp_path: Path) -> None:
    items = read(OPEN_EQA, tmp_path, EQA)
    assert score(OPEN_EQA, items, {name: {"text": ""} for name in items}) == {}
    answers: list[dict[str, Any]] = [{"question_id": "a", "answer": "pillow"}]
    answers.append({"question_id": "b", "answer": None})
    assert OPEN_EQA.read_answers(write(tmp_path / "a.json", answers)) == {
        "a": {"text": "pillow"},
        "b": {"text": "", "error": "NO_ANSWER"},
    }


@pytest.mark.parametrize("mark", [6, -1, 2.5, "5", None, math.inf])
def test_marks_that_are_none(mark: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"'a': .*a whole number 1 to 5 is expected"):
        read(OPEN_EQA, tmp_path, EQA, {"a": mark, "b": 1, "c": 1})


def test_openeqas_bad_files(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="'a' is there twice"):
        read(OPEN_EQA, tmp_path, [EQA[0], EQA[0]])
    with pytest.raises(SourceError, match="entry 1: has no 'episode_history'"):
        read(OPEN_EQA, tmp_path, [{**EQA[0], "episode_history": None}])


def test_openeqa_from_scenes_to_a_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The embedded model answers about a drawn room; the marks are made up here."""
    room = next(rooms_of(RoomSelection("val", 0, 1), 96))
    export_scene(room.frames, tmp_path / "scenes/scene0709_00")
    color, category = next(iter(room.boxes.values())).label.split()
    asked = {"question": f"Is there a {color} {category}?", "answer": "yes"}
    entries = [eqa(name, EQA[0]["episode_history"], "existence") | asked for name in "ab"]
    files = ["openeqa", "--questions", str(write(tmp_path / "q.json", entries))]
    out = tmp_path / "out"
    scenes = ["--scenes", str(tmp_path / "scenes"), "--out", str(out), "--device", "cpu"]
    assert main([*files, *scenes]) == 0
    results = json.loads((out / "results.json").read_text())
    assert (results["n"], results["metrics"]) == (2, {})

    # Judged, its records are scored; marks of other questions are refused.
    marks = ["--judgements", str(write(tmp_path / "marks.json", {"a": 4, "b": 1}))]
    answers = ["--answers", str(out / "records.jsonl"), "--json", str(tmp_path / "judged.json")]
    assert main([*files, *answers, *marks]) == 0
    judged = json.loads((tmp_path / "judged.json").read_text())
    assert judged["metrics"]["llm_match"] == pytest.approx(37.5)
    marks[1] = str(write(tmp_path / "others.json", {"a": 4, "b": 1, "c": 5}))
    capsys.readouterr()
    assert main([*files, *answers, *marks]) == 2
    assert "judges 'c', which no question is called" in capsys.readouterr().err


# -- MMScan


def scan(name: str, answers: list[str], **more: Any) -> dict[str, Any]:
    question = {"scan_id": "scene0000_00", "question": "What is this?", "answers": answers}
    return {"ID": name, "sub_class": "x", **question, **more}


SCAN = {
    "train": [],
    "val": [
        scan(
            "QA_Single_Attribute__1", ["A red chair."], input_bboxes=[[1, 2, 0.5, 1, 1, 1, 0, 0, 0]]
        ),
        scan("QA_Space_OO__2", ["yes", "no"], input_bboxes=None),
        scan("Something__3", ["left"]),
    ],
}
POINTS = {"All key points": ["a", "b", "c"], "Correct Number": 2, "Wrong/Missing Number": "1"}


def test_mmscan_by_hand(tmp_path: Path) -> None:
    items = read(MM_SCAN, tmp_path, SCAN, {"QA_Single_Attribute__1": POINTS, "QA_Space_OO__2": 0.5})
    first = items["QA_Single_Attribute__1"]
    assert MM_SCAN.question(first).text == "What is this? [1.000, 2.000, 0.500]"
    assert MM_SCAN.question(items["Something__3"]).text == "What is this?"
    assert [item.extra["class"] for item in items.values()] == ["STa", "OOs", "other"]
    records: dict[str, Record] = {
        "QA_Single_Attribute__1": {"text": "A red chair"},  # exact once cleaned
        "QA_Space_OO__2": {"text": "no:"},  # refined: a mark more
        "Something__3": {"text": "right"},
    }
    assert score(MM_SCAN, items, records) == pytest.approx(
        {
            "EM": 1 / 3,
            "EM_refined": 2 / 3,
            "judged": 2 / 3,
            "gpt": 100 * (2 / 3 + 1 / 2) / 2,
            "gpt_OOs": 50.0,
            "gpt_STa": 200 / 3,
        }
    )
    assert MM_SCAN.item_score(first, records[first.id]) == pytest.approx(2 / 3)
    records[first.id]["error"] = "TIMEOUT"
    assert score(MM_SCAN, items, records)["gpt_STa"] == 0.0
    assert score(MM_SCAN, items, records)["EM"] == 0.0


def test_mmscan_without_judgements(tmp_path: Path) -> None:
    items = read(MM_SCAN, tmp_path, SCAN)
    found = score(MM_SCAN, items, {name: {"text": "left"} for name in items})
    assert found == pytest.approx({"EM": 1 / 3, "EM_refined": 1 / 3})
    assert MM_SCAN.item_score(items["Something__3"], {"text": "the left"}) == 1.0
    assert MM_SCAN.item_score(items["Something__3"], {"text": "left:"}) == 0.5


def test_mmscans_words(tmp_path: Path) -> None:
    pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed")
    items = read(MM_SCAN, tmp_path, SCAN)
    scored = [(item, {"text": item.references[0]}) for item in items.values()]
    found = MM_SCAN.score(scored, Scoring(tokens="blanks"))
    assert found["EM"] == 1.0
    assert found["Bleu_1"] == pytest.approx(1.0, abs=1e-8)
    assert found["ROUGE_L"] == 1.0


def test_llava3ds_list_and_answers(tmp_path: Path) -> None:
    entry = {
        "prompt_id": "EQ__1",
        "video": "scannet/scene0000_00",
        "conversations": [
            {"from": "human", "value": "<video>\nHow do these differ: <boxes>?"},
            {"from": "gpt", "value": ["one is red"]},
        ],
        "target": {"boxes": [[1, 2, 3, 1, 1, 1], [4, 5, 6.0004, 1, 1, 1, 0, 0, 0]]},
    }
    (item,) = read(MM_SCAN, tmp_path, [entry]).values()
    assert item.text == "How do these differ: [1.000, 2.000, 3.000], [4.000, 5.000, 6.000]?"
    assert (item.id, item.source, item.references) == (
        "EQ__1",
        "scannet/scene0000_00",
        ("one is red",),
    )
    answers = write(tmp_path / "a.json", {"EQ__1": {"question": "?", "pred": ["red"], "gt": ["x"]}})
    assert {n: r["text"] for n, r in MM_SCAN.read_answers(answers).items()} == {"EQ__1": "red"}
    listed = write(tmp_path / "b.json", [{"ID": "EQ__1", "pred": ["red"]}])
    assert {n: r["text"] for n, r in MM_SCAN.read_answers(listed).items()} == {"EQ__1": "red"}
    with pytest.raises(SourceError, match="the prompt has <boxes>, and there is no box"):
        read(MM_SCAN, tmp_path, [{**entry, "target": None}])


@pytest.mark.parametrize(
    ("judgement", "match"),
    [
        (POINTS | {"Correct Number": 3}, "lists 3 key points and counts 4"),
        (POINTS | {"Correct Number": -2}, "'Correct Number' is -2, no count"),
        ({"Correct Number": 0, "Wrong/Missing Number": 0}, "counts no key point"),
        ({"Correct Number": 1}, "'Wrong/Missing Number' is None"),
        (1.5, "1.5 is not within 0 to 1"),
    ],
)
def test_mmscans_bad_judgements(judgement: Any, match: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=match):
        read(MM_SCAN, tmp_path, SCAN, {"Something__3": judgement})


def test_mmscans_bad_files(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="finite numbers"):
        read(MM_SCAN, tmp_path, [scan("EQ__1", ["x"], input_bboxes=[[1, 2]])])
    with pytest.raises(SourceError, match="a list is expected"):
        read(MM_SCAN, tmp_path, [scan("EQ__1", ["x"], input_bboxes="none")])
    with pytest.raises(SourceError, match="a question and an answer"):
        read(MM_SCAN, tmp_path, [{"ID": "EQ__1", "video": "s", "conversations": []}])


def test_what_is_compared() -> None:
    assert scored_text("ASSISTANT: The  red\n chair.</s>") == "red chair"
    assert len(scored_text("x" * 2000)) == 1024
    assert bare("The chair's a red-brown one!") == "chairs redbrown one"
