"""What docs/paper.md says in words is what its result files say in numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


def result(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return data


def rows(name: str) -> dict[str, dict[str, Any]]:
    return {row["strategy"]: row for row in result(name)["rows"]}


def test_early_layers_look_at_all_tokens_and_late_ones_at_few() -> None:
    found = result("paper_attention")["concentration"]["each_question"]
    for query in ("last", "answer"):
        *layers, _ = found[query]["least"]["mean"]
        assert max(layers[2:]) < min(layers[:2])


def test_the_last_prompt_token_looks_at_fewer_tokens_than_the_answer() -> None:
    found = result("paper_attention")["concentration"]["each_question"]
    last, answer = (np.array(found[query]["least"]["mean"]) for query in ("last", "answer"))
    assert (last < answer).all()


def test_over_all_questions_about_a_room_the_same_tokens_get_more() -> None:
    found = result("paper_attention")["concentration"]
    for query in ("last", "answer"):
        one = np.array(found["each_question"][query]["least"]["mean"])
        assert (np.array(found["all_questions_of_a_scene"][query]["least"]["mean"]) > one).all()


def test_the_mass_on_spatial_tokens_stays_high_to_the_end() -> None:
    *_, last = result("paper_attention")["contribution"]["S_sp"]["mean"]
    assert last > 0.7


def test_the_order_of_the_strategies_on_one_view() -> None:
    """voxel_dpp, PyramidDrop, AdaToken-3D, random, FastV, and the first loses nothing sure."""
    found = {name: row["metrics"]["all"] for name, row in rows("image_view").items()}
    order = ("voxel_dpp", "pdrop", "adatoken3d", "random", "fastv")
    points = [found[name]["points"] for name in order]
    assert points == sorted(points, reverse=True)
    low, high = found["voxel_dpp"]["points_interval"]
    assert low < 0 < high
    assert found["adatoken3d"]["points_interval"][0] > found["random"]["points_interval"][1]


@pytest.mark.parametrize("name", ["image_view", "image_2d"])
def test_300_questions_of_each_kind_at_one_budget(name: str) -> None:
    data = result(name)
    assert min(data["n"].values()) >= 300
    budgets = [r["keep_ratio_achieved"] for r in data["rows"] if 0 < r["keep_ratio"] < 1]
    assert np.ptp(budgets) < 0.01


def test_in_2d_existence_is_near_chance_and_colours_are_not() -> None:
    found = rows("image_2d")
    none, blind = found["none"]["metrics"], found["blind"]["metrics"]
    assert none["existence"]["value"] - blind["existence"]["value"] < 0.1
    for kind in ("color", "category"):
        assert none[kind]["interval"][0] > result("image_2d")["by_words"][kind]["majority"]


def test_the_order_of_the_strategies_in_2d() -> None:
    """AdaToken-3D and PyramidDrop above the unpruned model, the others below it."""
    found = {name: row["metrics"]["all"] for name, row in rows("image_2d").items()}
    order = ("adatoken3d", "pdrop", "voxel_dpp", "fastv", "random")
    points = [found[name]["points"] for name in order]
    assert points == sorted(points, reverse=True)
    for name in order:
        low, high = found[name]["points_interval"]
        assert low > 0 if name in ("adatoken3d", "pdrop") else high < 0


def test_what_rests_on_several_things_loses_and_most_that_rests_on_one_does_not() -> None:
    before, after = (result(f"embedded_level1_{name}")["metrics"] for name in ("floor", "pruned"))
    boxes = ("grounding_unique_acc25", "grounding_distractor_acc25")
    for name in ("existence", "color", "superlative", *boxes):
        assert after[name] >= before[name], name
    for name in ("category", "caption"):
        assert 0.02 < before[name] - after[name] < 0.06, name
    for name in ("between", "within", "on", "relation"):
        assert before[name] - after[name] > 0.05, name
