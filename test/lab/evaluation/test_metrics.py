"""Answer cleaning and exact match as the reference has them; accuracy at an IoU as ScanRefer's."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from ada3d_ros.lab.evaluation.metrics import (
    clean_answer,
    exact_match,
    is_found,
    scanqa_scores,
    scanrefer_scores,
    sqa3d_scores,
)


@pytest.fixture(scope="module")
def recorded(golden_dir: Path) -> dict[str, Any]:
    """`items` and `scores` of the reference's evaluators."""
    text = (golden_dir / "metrics/cases.json").read_text(encoding="utf-8")
    cases: dict[str, Any] = json.loads(text)
    assert len(cases["items"]) == cases["n"] > 0
    return cases


def test_cleaned_texts_are_the_recorded_ones(recorded: dict[str, Any]) -> None:
    for item in recorded["items"]:
        assert clean_answer(item["pred"]) == item["clean_pred"], item["id"]
        assert [clean_answer(text) for text in item["refs"]] == item["clean_refs"], item["id"]


def test_matches_are_the_recorded_ones(recorded: dict[str, Any]) -> None:
    for item in recorded["items"]:
        name, matches = item["id"], exact_match(item["pred"], item["refs"])
        assert matches == (item["em"], item["em_refined"]), name
        assert list(exact_match(item["pred"], item["refs"][:1])) == item["sqa3d_em"], name


def test_a_blank_before_a_final_newline_is_none() -> None:
    assert exact_match("three\n", ["3 \n"]) == (True, True)


def test_scores_over_all_items_are_the_evaluators(recorded: dict[str, Any]) -> None:
    items, scores = recorded["items"], recorded["scores"]
    predictions = [item["pred"] for item in items]
    for name, value in scanqa_scores(predictions, [item["refs"] for item in items]).items():
        assert value == scores["scanqa_evaluator"][f"[scanqa] {name}"], name
    ours = sqa3d_scores(
        predictions, [item["refs"][0] for item in items], [item["sqa3d_type"] for item in items]
    )
    assert {f"[sqa3d] {name}" for name in ours} == set(scores["sqa3d_evaluator"])
    for name, value in ours.items():
        assert value == pytest.approx(scores["sqa3d_evaluator"][f"[sqa3d] {name}"], abs=1e-15), name


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  The  red chair. ", "red chair"),
        ("3 chairs", "three chairs"),
        ("3 \n", "three\n"),
        ("  3   \n", "three\n"),
        ("3 \n\n", "three \n\n"),
        ("3 \n ", "three \n"),
        ("21", "21"),
        ("none", "zero"),
        ("A TV, on the letf", "TV, on left"),
        ("1.5", "fifteen"),
        ("walk backwards", "walk backward"),
        ("theatre", "theatre"),
        ("an  orange  sofa", "orange sofa"),
        ("", ""),
    ],
)
def test_cleaning_rule_by_rule(text: str, cleaned: str) -> None:
    assert clean_answer(text) == cleaned


def test_refined_match_takes_parts_and_the_empty_text() -> None:
    assert exact_match("red chair", ["a chair", "sofa"]) == (False, True)
    assert exact_match("arm chair", ["armchair"]) == (False, True)
    assert exact_match("", ["yes"]) == (False, True)  # theirs, kept
    assert exact_match("bed", ["sofa"]) == (False, False)


def test_accuracy_at_an_iou_by_hand() -> None:
    scores = scanrefer_scores([0.25, 0.6, 0.0, 0.249999], [True, False, False, False])
    assert scores == pytest.approx(
        {
            "overall_acc25": 0.5,
            "overall_acc50": 0.25,
            "unique_acc25": 1.0,
            "unique_acc50": 0.0,
            "multiple_acc25": 1 / 3,
            "multiple_acc50": 1 / 3,
        }
    )
    assert is_found(0.5, 50)
    assert not is_found(0.4999, 50)


def test_nothing_asked_is_no_number() -> None:
    assert all(math.isnan(value) for value in scanqa_scores([], []).values())
    assert math.isnan(scanrefer_scores([1.0], [True])["multiple_acc25"])
    with pytest.raises(ValueError, match="zip"):
        scanqa_scores(["yes"], [])
    with pytest.raises(ValueError, match="zip"):
        scanrefer_scores([0.5], [])
    with pytest.raises(ValueError, match="zip"):
        sqa3d_scores(["yes"], ["yes"], [])
