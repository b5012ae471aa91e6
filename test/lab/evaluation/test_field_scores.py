"""Scores of whole benchmarks: the recorded evaluators' numbers, and conventions of IoU by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.evaluation.field.benchmark import Item, Record, Scoring
from ada3d_ros.lab.evaluation.field.json_files import Entry
from ada3d_ros.lab.evaluation.field.multi3drefer import MULTI3DREFER
from ada3d_ros.lab.evaluation.field.results import results_of, scored_items, table, worst
from ada3d_ros.lab.evaluation.field.scan2cap import SCAN2CAP, in_own_form
from ada3d_ros.lab.evaluation.field.scanqa import SCANQA
from ada3d_ros.lab.evaluation.field.scanrefer import SCANREFER, read_classes
from ada3d_ros.lab.evaluation.field.sqa3d import SQA3D_BENCHMARK
from ada3d_ros.lab.evaluation.text_scores import WITHOUT_JAVA, Tokens, text_scores

NO_WORDS = Scoring("none")
UNIT = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]


def moved(by: float) -> list[float]:
    """The unit cube, moved along x: IoU (1 - by) / (1 + by) with it."""
    return [by, *UNIT[1:]]


def answered(*boxes: list[float]) -> Record:
    return {"text": "", "boxes": [[*box, None] for box in boxes]}


@pytest.fixture(scope="module")
def recorded(golden_dir: Path) -> dict[str, Any]:
    """`items` and `scores` of the reference's evaluators."""
    cases: dict[str, Any] = json.loads((golden_dir / "metrics/cases.json").read_text("utf-8"))
    return cases


# -- words


def test_scanqa_is_scored_as_the_recorded_evaluator(recorded: dict[str, Any]) -> None:
    scored = [
        (Item(str(row["id"]), "s", "?", tuple(row["refs"])), {"text": row["pred"]})
        for row in recorded["items"]
    ]
    theirs = recorded["scores"]["scanqa_evaluator"]
    ours = SCANQA.score(scored, NO_WORDS)
    assert ours == {name: theirs[f"[scanqa] {name}"] for name in ("EM1", "EM1_refined")}


def test_sqa3d_is_scored_as_the_recorded_evaluator(recorded: dict[str, Any]) -> None:
    scored = [
        (
            Item(str(row["id"]), "s", "?", (row["refs"][0],), {"type": row["sqa3d_type"]}),
            {"text": row["pred"]},
        )
        for row in recorded["items"]
    ]
    theirs = recorded["scores"]["sqa3d_evaluator"]
    ours = SQA3D_BENCHMARK.score(scored, NO_WORDS)
    assert {f"[sqa3d] {name}" for name in ours} == set(theirs)
    for name, value in ours.items():
        assert value == pytest.approx(theirs[f"[sqa3d] {name}"], abs=1e-15), name


def test_cleaned_words_are_scored_as_the_recorded_evaluator(recorded: dict[str, Any]) -> None:
    pytest.importorskip("pycocoevalcap", reason="BLEU, ROUGE-L and CIDEr need pycocoevalcap")
    scored = [
        (Item(str(row["id"]), "s", "?", tuple(row["refs"])), {"text": row["pred"]})
        for row in recorded["items"]
    ]
    ours = SCANQA.score(scored, Scoring("blanks"))
    assert {"Bleu_1", "Bleu_4", "ROUGE_L", "CIDEr"} <= set(ours)
    assert "METEOR" not in ours
    assert 0.0 < ours["Bleu_4"] < ours["Bleu_1"] < 1.0


def test_an_answer_that_did_not_come_is_wrong_though_an_empty_one_is_refined() -> None:
    item = Item("a", "s", "?", ("brown",))
    none: Record = {"text": "", "error": "UNKNOWN_KIND"}
    assert SCANQA.score([(item, none)], NO_WORDS) == {"EM1": 0.0, "EM1_refined": 0.0}
    empty: Record = {"text": ""}
    assert SCANQA.score([(item, empty)], NO_WORDS)["EM1_refined"] == 1.0
    assert SCANQA.score([(item, empty)], Scoring("none", quirks=False))["EM1_refined"] == 0.0
    assert SCANQA.item_score(item, none) == SCANQA.item_score(item, empty) == 0.0
    assert SCANQA.item_score(item, {"text": "dark brown"}) == 0.5
    assert SCANQA.item_score(item, {"text": "Brown."}) == 1.0


def caption(name: str, text: str, *references: str, iou: float = 1.0) -> tuple[Item, Record]:
    """Of the object `name`, once for each call."""
    item = Item(f"{name} {text}", "s", "?", references, {"iou": iou, "object": name})
    return item, {"text": text}


def test_a_caption_at_a_wrong_box_counts_as_empty_without_quirks() -> None:
    pytest.importorskip("pycocoevalcap", reason="CIDEr needs pycocoevalcap")
    scored = [
        caption("a", "a red chair", "a red chair"),
        caption("b", "the green lamp", "the green lamp", iou=0.4),
    ]
    scores = SCAN2CAP.score(scored, Scoring("blanks", quirks=False))
    assert scores["CIDEr@.50"] == pytest.approx(scores["CIDEr@.25"] / 2)
    assert scores["ROUGE_L@.50"] == pytest.approx(0.5)
    assert scores["ROUGE_L@.25"] == pytest.approx(1.0)
    assert scores["EM1"] == 1.0
    assert [SCAN2CAP.item_score(*each) for each in scored] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("A red chair.", "sos a red chair . eos"),
        ("Near the door, left\nof it", "sos near the door , left of it eos"),
        ("1.5 m", "sos 1 . 5 m eos"),
        ("", "sos eos"),
    ],
)
def test_the_form_of_scan2caps_evaluator(text: str, form: str) -> None:
    assert in_own_form(text) == form


def test_scan2caps_own_form_by_hand() -> None:
    """What was not given shares `sos` and `eos` with its references; an object counts once."""
    pytest.importorskip("pycocoevalcap", reason="BLEU and CIDEr need pycocoevalcap")
    scored = [
        caption("a", "A red chair.", "a red chair", "a red chair.", "a seat"),
        caption("a", "again", "a red chair", "a red chair.", "a seat"),  # counts not
        caption("b", "the lamp", "the green lamp", iou=0.4),
    ]
    scores = SCAN2CAP.score(scored, Scoring("blanks"))
    # BLEU-1: 6 of 6 words of the first; `sos eos` of a reference of 5: 2 of 2, too short in all.
    assert scores["Bleu_1@.50"] == pytest.approx(math.exp(1 - 11 / 8), abs=1e-8)
    # ROUGE-L of the second: precision 1, recall 2 / 5.
    beta, recall = 1.2, 2 / 5
    assert scores["ROUGE_L@.50"] == pytest.approx(
        (1.0 + (1 + beta**2) * recall / (recall + beta**2)) / 2
    )
    assert scores["CIDEr@.25"] > scores["CIDEr@.50"] > 0.0
    assert scores["EM1"] == pytest.approx(1 / 3)  # of all entries, as LLaVA-3D lists them
    (told,) = SCAN2CAP.remarks(scored, Scoring("blanks"))
    assert told.endswith(
        "one caption for each of 2 objects; 1 entries that ask about one again are left out"
    )
    assert SCAN2CAP.remarks(scored, Scoring(quirks=False)) == []
    assert SCAN2CAP.remarks(scored[1:], Scoring()) == []

    # An answer that did not come is one that was not given.
    lost = [(scored[0][0], {"text": "", "error": "TIMEOUT"}), scored[2]]
    assert SCAN2CAP.score(lost, Scoring("blanks"))["Bleu_1@.50"] == pytest.approx(
        math.exp(1 - 9 / 4),
        abs=1e-8,  # the nearest of its references, `sos a seat eos`, and 5
    )


def test_scan2caps_own_form_is_pycocoevalcaps_of_its_texts(recorded: dict[str, Any]) -> None:
    """Of the recorded cases, each an object with all its references."""
    pytest.importorskip("pycocoevalcap", reason="BLEU and CIDEr need pycocoevalcap")
    rows = recorded["items"]
    scored = [caption(str(row["id"]), row["pred"], *row["refs"]) for row in rows]
    ours = SCAN2CAP.score(scored, Scoring("blanks"))
    wrapped = [[f"sos {text} eos" for text in (row["pred"], *row["refs"])] for row in rows]
    spaced = [
        [text.lower().replace(".", " . ").replace(",", " , ") for text in each] for each in wrapped
    ]
    theirs = text_scores(
        [each[0] for each in spaced], [each[1:] for each in spaced], Tokens.BLANKS, WITHOUT_JAVA
    )
    assert {name: ours[f"{name}@.50"] for name in WITHOUT_JAVA} == theirs.overall


# -- boxes


def scanrefer_item(name: str, unique: bool) -> Item:
    return Item(name, "s", "it", (), {"boxes": [UNIT], "unique": unique})


def test_scanrefer_counts_the_best_box_at_its_threshold_inclusive() -> None:
    at_half = moved(1 / 3)  # IoU 0.5 but for rounding
    assert SCANREFER.item_score(scanrefer_item("a", True), answered(at_half)) == pytest.approx(0.5)
    scored = [
        (scanrefer_item("a", True), answered(UNIT)),
        (
            scanrefer_item("b", False),
            answered(moved(0.5), UNIT),
        ),  # IoU 1/3; the second is not asked
        (scanrefer_item("c", False), answered()),
        (scanrefer_item("d", False), {"text": "", "error": "NOT_GROUNDED"}),
    ]
    scores = SCANREFER.score(scored, NO_WORDS)
    assert scores["overall_acc25"] == 0.5
    assert scores["overall_acc50"] == 0.25
    assert scores["unique_acc50"] == 1.0
    assert scores["multiple_acc25"] == pytest.approx(1 / 3)
    assert scores["multiple_acc50"] == 0.0


def unique_of(rows: list[dict[str, Any]], tmp_path: Path, labels: str = "") -> list[bool]:
    path = tmp_path / "p.json"
    path.write_text(json.dumps([{"box": UNIT, "description": "it"} | row for row in rows]))
    files = {"phrases": path}
    if labels:
        files["labels"] = tmp_path / "labels.tsv"
        files["labels"].write_text(labels)
    return [bool(item.extra["unique"]) for item in SCANREFER.read(files)]


def described(name: str, number: int, ann: int = 0, scene: str = "s") -> dict[str, Any]:
    return {
        "scene_id": scene,
        "object_id": str(number),
        "object_name": name,
        "ann_id": str(ann),
    }


def test_unique_is_the_only_described_object_of_its_class(tmp_path: Path) -> None:
    rows = [
        described("office_chair", 1, 0),
        described("office_chair", 1, 1),
        described("chair", 2),
        described("lamp", 3),
        described("chair", 4, scene="t"),
    ]
    assert unique_of(rows, tmp_path) == [True, True, True, True, True]
    labels = "raw_category\tnyu40class\noffice chair\tchair\nchair\tchair\nlamp\tlamp\n"
    assert unique_of(rows, tmp_path, labels) == [False, False, False, True, True]


def test_classes_outside_the_seventeen_are_one(tmp_path: Path) -> None:
    labels = "raw_category\tnyu40class\nlamp\tlamp\npillow\tpillow\n"
    rows = [described("lamp", 1), described("pillow", 2), described("unheard of", 3)]
    assert unique_of(rows, tmp_path, labels) == [False, False, False]
    # ScanRefer's list of 18 ends with "others" where ScanNet's has "otherfurniture".
    furniture = labels + "rack\totherfurniture\n"
    rows = [described("lamp", 1), described("rack", 2), described("chair", 3)]
    assert unique_of(rows[1:2], tmp_path, furniture) == [True]
    assert unique_of(rows[:2], tmp_path, furniture) == [False, False]


def test_an_entry_that_says_what_it_is_is_believed(tmp_path: Path) -> None:
    rows = [
        described("chair", 1) | {"eval_type": "multiple"},
        described("lamp", 2) | {"unique": False},
    ]
    assert unique_of(rows, tmp_path) == [False, False]
    with pytest.raises(SourceError, match="true or false"):
        unique_of([described("chair", 1) | {"unique": "perhaps"}], tmp_path)


def test_a_table_of_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.tsv"
    path.write_text("id,name\n1,chair\n")
    with pytest.raises(SourceError, match="raw_category and nyu40class"):
        read_classes(path)


def multi(true: list[list[float]], kind: str = "mt") -> Item:
    return Item("a", "s", "it", (), {"boxes": true, "type": kind})


def f1_of(true: list[list[float]], *found: list[float]) -> tuple[float, float]:
    scores = MULTI3DREFER.score([(multi(true), answered(*found))], NO_WORDS)
    return scores["overall_f1_25"], scores["overall_f1_50"]


def test_multi3drefer_matches_boxes_one_to_one() -> None:
    far = moved(10.0)
    assert f1_of([UNIT, far], UNIT, far) == (1.0, 1.0)
    assert f1_of([UNIT, far], far) == pytest.approx((2 / 3, 2 / 3))
    assert f1_of([UNIT], UNIT, UNIT) == pytest.approx((2 / 3, 2 / 3))  # one of them is too many
    assert f1_of([UNIT, far], moved(0.5), far) == pytest.approx((1.0, 0.5))
    # The sum of the IoUs decides, not the best pair: a with 1 and b with 0.
    assert f1_of([UNIT, moved(0.2)], moved(0.1), moved(-0.4)) == pytest.approx((1.0, 0.5))


def test_a_description_of_nothing_is_right_without_a_box() -> None:
    assert f1_of([]) == (1.0, 1.0)
    assert f1_of([], UNIT) == (0.0, 0.0)
    assert f1_of([UNIT]) == (0.0, 0.0)
    scores = MULTI3DREFER.score([(multi([]), {"text": "", "error": "TIMEOUT"})], NO_WORDS)
    assert scores["overall_f1_25"] == 0.0


def test_multi3drefer_has_numbers_by_type() -> None:
    scored = [(multi([], "zt_w_d"), answered()), (multi([UNIT], "st_w_d"), answered())]
    scores = MULTI3DREFER.score(scored, NO_WORDS)
    assert (scores["zt_w_d_f1_25"], scores["st_w_d_f1_25"]) == (1.0, 0.0)
    assert scores["overall_f1_50"] == 0.5
    assert math.isnan(scores["mt_f1_50"])


# -- results


def item(name: str, source: str, text: str = "yes") -> Item:
    return Item(name, source, "?", (text,))


def test_results_have_an_interval_over_scenes_and_count_what_did_not_come() -> None:
    scored: list[tuple[Item, Record]] = [
        (item(str(i), f"scene{i // 2}"), {"text": "yes" if i % 2 else "no"}) for i in range(8)
    ]
    scored[1] = (scored[1][0], {"text": "", "error": "TIMEOUT"})
    results = results_of(SCANQA, scored, NO_WORDS)
    assert (results["n"], results["scenes"], results["errors"]) == (8, 4, {"TIMEOUT": 1})
    assert results["score"]["mean"] == pytest.approx(3 / 8)
    low, high = results["score"]["ci95"]
    assert 0.0 <= low < 3 / 8 < high <= 0.5
    told = table(results | {"left_out": 2})
    assert "1 TIMEOUT" in told
    assert "PARTIAL: 2 items" in told


def test_the_worst_come_first_and_right_ones_never() -> None:
    records: list[Record] = [{"text": "yes"}, {"text": "yes sir"}, {"text": "no"}]
    scored = [(item(str(i), "s"), record) for i, record in enumerate(records)]
    assert [found.id for found, _, _ in worst(SCANQA, scored, 5)] == ["2", "1"]
    assert [found.id for found, _, _ in worst(SCANQA, scored, 1)] == ["2"]


def test_records_of_other_questions_and_missing_ones_are_refused(tmp_path: Path) -> None:
    items = [item("a", "s"), item("b", "s")]
    with pytest.raises(SourceError, match=r"answers 1 questions that .* do not ask: 'c'"):
        scored_items(items, {"c": {"text": "x"}}, True, tmp_path)
    with pytest.raises(SourceError, match=r"no answer to 1 of 2 questions: 'b'.*--partial"):
        scored_items(items, {"a": {"text": "x"}}, False, tmp_path)
    assert len(scored_items(items, {"a": {"text": "x"}}, True, tmp_path)) == 1
    with pytest.raises(SourceError, match="none of the 2"):
        scored_items(items, {}, True, tmp_path)


def test_an_entrys_numbers_are_checked(tmp_path: Path) -> None:
    entry = Entry(tmp_path / "x.json", 3, {"box": [1, 2]})
    with pytest.raises(SourceError, match=r"x.json entry 3: \[1, 2\] should be a list of 6"):
        entry.numbers(entry.value("box"), 6)
