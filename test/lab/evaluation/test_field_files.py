"""Official files as items, and files of answers: every form that is read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.evaluation.field.benchmark import Item
from ada3d_ros.lab.evaluation.field.command import page_of
from ada3d_ros.lab.evaluation.field.json_files import read_text_answers
from ada3d_ros.lab.evaluation.field.multi3drefer import MULTI3DREFER
from ada3d_ros.lab.evaluation.field.registry import BENCHMARKS, benchmark
from ada3d_ros.lab.evaluation.field.scan2cap import SCAN2CAP
from ada3d_ros.lab.evaluation.field.scanqa import SCANQA
from ada3d_ros.lab.evaluation.field.scanrefer import SCANREFER
from ada3d_ros.lab.evaluation.field.sqa3d import SQA3D_BENCHMARK, type_of
from test.support.sources import ROOT

BOX = [1.0, 2.0, 0.5, 0.4, 0.6, 1.0]


def written(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def scanqa_pair(folder: Path, **changes: Any) -> dict[str, Path]:
    questions = [
        {"question_id": "a", "video": "scannet/scene0001_00", "text": "What color is it?"},
        {"question_id": "b", "video": "scannet/scene0001_00", "text": "How many?"},
    ]
    answers = [
        {"question_id": "b", "text": ["2", "two"]},
        {"question_id": "a", "text": ["brown"]},
    ]
    return {
        "questions": written(folder / "q.json", changes.get("questions", questions)),
        "references": written(folder / "a.json", changes.get("answers", answers)),
    }


# -- what is read


def test_every_benchmark_says_what_it_reads() -> None:
    for name in BENCHMARKS:
        known = benchmark(name)
        assert known.name == name
        assert known.description
        assert any(file.required for file in known.files)


def test_the_page_that_the_help_names_has_its_files() -> None:
    for name in BENCHMARKS:
        page = (ROOT / "docs" / page_of(benchmark(name))).read_text(encoding="utf-8")
        _, _, files = page.partition("## The official files")
        table, _, _ = files.partition("\n## ")
        assert f"| {name}" in table.lower().replace("-", "").replace("vqav2", "vqa"), name


def test_llava3ds_scanqa_pair_is_joined_by_id(tmp_path: Path) -> None:
    first, second = SCANQA.read(scanqa_pair(tmp_path))
    assert first == Item("a", "scannet/scene0001_00", "What color is it?", ("brown",))
    assert second.references == ("2", "two")
    assert SCANQA.question(first).text == "What color is it?"


def test_scanqas_own_file_holds_both(tmp_path: Path) -> None:
    entry = {
        "scene_id": "scene0001_00",
        "question_id": "val-scene0001-0",
        "question": "Where is it?",
        "answers": ["on the table", "table"],
        "object_ids": [3],
        "object_names": ["lamp"],
    }
    (item,) = SCANQA.read({"questions": written(tmp_path / "q.json", [entry])})
    assert item.source == "scene0001_00"
    assert item.references == ("on the table", "table")


def test_sqa3d_has_a_type_and_one_answer(tmp_path: Path) -> None:
    question = {"question_id": 1, "video": "s", "text": "I stand here. What is behind me?"}
    answer = {"question_id": 1, "text": "a chair", "type": 0}
    files = {
        "questions": written(tmp_path / "q.json", [question]),
        "references": written(tmp_path / "a.json", [answer]),
    }
    (item,) = SQA3D_BENCHMARK.read(files)
    assert (item.id, item.references, item.extra["type"]) == ("1", ("a chair",), 0)


def test_sqa3ds_own_pair_puts_the_situation_before_the_question(tmp_path: Path) -> None:
    question = {
        "scene_id": "scene0002_00",
        "situation": "I am facing a window.",
        "alternative_situation": [],
        "question": "Which side is the bed on?",
        "question_id": 220602000000,
    }
    answer = {"question_id": 220602000000, "answers": [{"answer": "left"}]}
    files = {
        "questions": written(tmp_path / "q.json", {"info": {}, "questions": [question]}),
        "references": written(tmp_path / "a.json", {"annotations": [answer]}),
    }
    (item,) = SQA3D_BENCHMARK.read(files)
    assert item.text == "I am facing a window. Which side is the bed on?"
    assert (item.references, item.extra["type"]) == (("left",), 4)


@pytest.mark.parametrize(
    ("question", "kind"),
    [("What is it?", 0), ("is it?", 1), ("How many?", 2), ("Can I?", 3), ("Am I?", 5), ("", 5)],
)
def test_a_type_is_that_of_the_first_word(question: str, kind: int) -> None:
    assert type_of(question) == kind


def scan2cap_entry(name: str, caption: str, box: list[float], **more: Any) -> dict[str, Any]:
    asked = "<video>\nThe related object is located at <boxes>. Describe the object in detail."
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": caption}]
    return {"id": name, "video": "s", "conversations": turns, "target": {"boxes": [box]}} | more


def test_a_caption_is_asked_for_at_the_boxs_centre(tmp_path: Path) -> None:
    rows = [
        scan2cap_entry("0", "a red chair", BOX),
        scan2cap_entry("1", "the chair by the door", BOX),
        scan2cap_entry("2", "a lamp", [5.0, *BOX[1:]]),
    ]
    first, second, third = SCAN2CAP.read({"questions": written(tmp_path / "q.json", rows)})
    assert first.text == (
        "The related object is located at [1.000, 2.000, 0.500]. Describe the object in detail."
    )
    assert first.references == second.references == ("a red chair", "the chair by the door")
    assert third.references == ("a lamp",)
    assert first.extra["object"] == second.extra["object"] != third.extra["object"]
    assert first.extra["iou"] == 1.0


def test_a_box_of_nine_numbers_counts_by_its_first_six(tmp_path: Path) -> None:
    rows = [scan2cap_entry("0", "a chair", [*BOX, 0.1, 0.0, 0.0])]
    (item,) = SCAN2CAP.read({"questions": written(tmp_path / "q.json", rows)})
    assert item.extra["boxes"] == [BOX]


def test_captions_of_scanrefers_list_are_joined_by_object(tmp_path: Path) -> None:
    rows = [scan2cap_entry("0", "unused", BOX, object_id=4)]
    described = [
        {"scene_id": "s", "object_id": "4", "description": "one"},
        {"scene_id": "s", "object_id": "4", "description": "two"},
        {"scene_id": "s", "object_id": "4", "description": "one"},  # CIDEr averages over all
        {"scene_id": "s", "object_id": "5", "description": "other"},
    ]
    files = {
        "questions": written(tmp_path / "q.json", rows),
        "references": written(tmp_path / "r.json", described),
    }
    (item,) = SCAN2CAP.read(files)
    assert item.references == ("one", "two", "one")
    assert item.extra["object"] == "s|4"


def test_an_object_that_is_no_number_has_no_true_box(tmp_path: Path) -> None:
    rows = [scan2cap_entry("0", "a chair", BOX, object_id="four")]
    files = {"questions": written(tmp_path / "q.json", rows), "boxes": tmp_path}
    with pytest.raises(SourceError, match="entry 1: object_id is 'four'; a number is expected"):
        SCAN2CAP.read(files)


def test_an_object_of_multi3drefer_may_be_absent(tmp_path: Path) -> None:
    rows = [
        {"scene_id": "s", "object_ids": [], "ann_id": 0, "eval_type": "zt_w_d"},
        {"scene_id": "s", "object_ids": [1, 2], "ann_id": 1, "eval_type": "mt"},
    ]
    boxes = [{"boxes": []}, {"boxes": [BOX, BOX]}]
    rows = [row | {"description": "it"} | box for row, box in zip(rows, boxes, strict=True)]
    none, two = MULTI3DREFER.read({"phrases": written(tmp_path / "p.json", rows)})
    assert none.extra == {"boxes": [], "type": "zt_w_d"}
    assert len(two.extra["boxes"]) == 2
    assert none.id != two.id


# -- files of answers


def test_answers_are_read_in_every_form(tmp_path: Path) -> None:
    rows = [
        {"question_id": "a", "prompt": "p", "text": "brown", "answer_id": "x", "metadata": {}},
        {"question_id": "b", "text": "two"},
    ]
    as_list = written(tmp_path / "list.json", rows)
    as_lines = tmp_path / "lines.json"  # as LLaVA-3D names them
    as_lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ours = tmp_path / "records.jsonl"
    ours.write_text(
        '{"settings": {}}\n{"id": "a", "text": "brown"}\n{"id": "b", "text": "two"}\n{"id": "c'
    )
    for path in (as_list, as_lines, ours):
        records = read_text_answers(path)
        assert {name: record["text"] for name, record in records.items()} == {
            "a": "brown",
            "b": "two",
        }


def test_scanqas_own_answers_count_by_the_first_of_ten(tmp_path: Path) -> None:
    row = {"question_id": "a", "scene_id": "s", "answer_top10": ["brown", "red"]}
    assert SCANQA.read_answers(written(tmp_path / "a.json", [row])) == {"a": {"text": "brown"}}


def test_answered_boxes_are_sorted_by_score(tmp_path: Path) -> None:
    far = [9.0, *BOX[1:]]
    rows = [{"id": "a", "boxes": [[*far, 0.2], [*BOX, 0.9]]}, {"id": "b", "box": BOX}]
    records = SCANREFER.read_answers(written(tmp_path / "a.json", rows))
    assert records["a"]["boxes"] == [[*BOX, 0.9], [*far, 0.2]]
    assert records["b"]["boxes"] == [[*BOX, None]]


# -- what is refused


def refusal(call: Any, *arguments: Any) -> str:
    with pytest.raises(SourceError) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is not JSON"),
        ('[{"question_id": 1,', "line 1 is not JSON"),
        ("version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("[]", "has no entry"),
        ("[1, 2]", "no list of objects"),
        ('[{"scene": 3}]', "has no 'question_id', only scene. Is it the right file?"),
        ('[{"question_id": "a", "text": "x"}]', "has no 'video'"),
        ('[{"question_id": ["a"], "video": "s", "text": "x"}]', "a string is expected"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: str, told: str) -> None:
    files = scanqa_pair(tmp_path, answers=[{"question_id": "a", "text": ["x"]}])
    files["questions"].write_text(content)
    assert told in refusal(SCANQA.read, files)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    files = scanqa_pair(tmp_path) | {"questions": tmp_path / "none.json"}
    assert "none.json is not there" in refusal(SCANQA.read, files)


def test_questions_without_their_answers_are_refused(tmp_path: Path) -> None:
    files = scanqa_pair(tmp_path)
    assert "--references FILE" in refusal(SCANQA.read, {"questions": files["questions"]})
    files = scanqa_pair(tmp_path, answers=[{"question_id": "a", "text": ["x"]}])
    told = refusal(SCANQA.read, files)
    assert "no answer to 1 of 2 questions: 'b'" in told
    assert "same split" in told


def test_an_id_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    entry = {"question_id": "a", "video": "s", "text": "x"}
    files = scanqa_pair(tmp_path, questions=[entry, entry])
    assert "id 'a' is there twice" in refusal(SCANQA.read, files)
    rows = [{"question_id": "a", "text": "x"}] * 2
    told = refusal(read_text_answers, written(tmp_path / "twice.json", rows))
    assert "id 'a' is there twice (entry 1 before)" in told


def test_answers_of_another_form_are_refused(tmp_path: Path) -> None:
    rows = [{"question_id": "a", "text": 3}]
    assert "a string is expected" in refusal(read_text_answers, written(tmp_path / "a.json", rows))
    rows = [{"id": "a", "text": "here it is"}]
    told = refusal(SCANREFER.read_answers, written(tmp_path / "b.json", rows))
    assert "has no `boxes`" in told
    for boxes in ([[1, 2, 3]], [[*BOX[:5], "x"]], [[*BOX[:5], float("nan")]], ["no box"]):
        rows = [{"id": "a", "boxes": boxes}]  # type: ignore[dict-item]
        told = refusal(SCANREFER.read_answers, written(tmp_path / "c.json", rows))
        assert "a list of 6 finite numbers" in told


def test_objects_without_boxes_need_a_folder(tmp_path: Path) -> None:
    row = {"scene_id": "s", "object_id": "1", "object_name": "chair", "ann_id": "0"}
    path = written(tmp_path / "p.json", [row | {"description": "the chair"}])
    assert "--boxes FOLDER" in refusal(SCANREFER.read, {"phrases": path})


def test_a_type_that_is_none_is_refused(tmp_path: Path) -> None:
    question = {"question_id": "1", "video": "s", "text": "x"}
    questions = written(tmp_path / "q.json", [question])
    for kind in (6, -1, "what", True):
        answers = written(tmp_path / "a.json", [{"question_id": "1", "text": "y", "type": kind}])
        told = refusal(SQA3D_BENCHMARK.read, {"questions": questions, "references": answers})
        assert "a number from 0 to 5" in told
    row = {"scene_id": "s", "object_ids": [], "ann_id": 0, "eval_type": "zt", "description": "it"}
    told = refusal(MULTI3DREFER.read, {"phrases": written(tmp_path / "p.json", [row])})
    assert "zt_wo_d" in told


def test_a_prompt_with_more_places_than_boxes_is_refused(tmp_path: Path) -> None:
    entry = scan2cap_entry("0", "a chair", BOX)
    entry["conversations"][0]["value"] = "<boxes> and <boxes>"
    told = refusal(SCAN2CAP.read, {"questions": written(tmp_path / "q.json", [entry])})
    assert "without a box" in told
