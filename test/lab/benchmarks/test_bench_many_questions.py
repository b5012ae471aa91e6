"""Suite `many-questions` of `ada3d bench` at a tiny shape: what its rows say.

No time is judged here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ada3d_ros.lab.benchmarks import many_questions as bench_many_questions
from ada3d_ros.lab.benchmarks.bench import Timing
from ada3d_ros.lab.benchmarks.many_questions import (
    BASE,
    BUILT,
    COLD,
    FULL,
    RIVALS,
    WARM,
    PlaceQuestions,
    questions_per_scene,
    run_shape,
)
from ada3d_ros.lab.benchmarks.models import make_model, make_scene
from ada3d_ros.lab.benchmarks.shapes import SHAPES, BenchShape
from ada3d_ros.lab.benchmarks.transformers_baseline import TransformersRival

CPU = torch.device("cpu")
TINY = BenchShape("tiny", 128, 6, 176, (60, 120, 130), low_precision=False)
HERE = ("transformers dynamic", "transformers static")  # of RIVALS, on a CPU


def test_every_variant_gets_a_row(
    make_options: Callable[..., argparse.Namespace],
    check_head: Callable[[dict[str, Any], str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bench_many_questions, "QUESTIONS", 7)
    results = run_shape(TINY, make_options(), CPU)
    check_head(results, "many-questions")
    assert (results["scenes"], results["questions_per_scene"], results["questions"]) == (2, 7, 14)
    assert results["scaled_from"] == FULL
    assert (results["cold_sampled"]["every"], results["cold_sampled"]["questions"]) == (5, 4)
    rows = {row["variant"]: row for row in results["rows"]}
    assert list(rows) == [*COLD, *WARM, *HERE]
    assert set(results["absent"]) == {RIVALS[name] for name in RIVALS if name not in HERE}
    for variant, row in rows.items():
        assert row["N"] == 120
        assert row["ratio"].n == 2
        assert row["question_ms"]["n"] == (4 if variant in COLD else 14)
        assert row["build_ms"].n == (0 if variant in COLD else 2)
        assert (row["target_met"] is None) == (variant not in WARM)
    assert rows[BASE]["ratio"].max == 1.0
    for variant in ("warm unpruned", *HERE):  # one computation
        assert rows[variant]["same_ids"] == 1.0
    assert rows[BUILT]["keep_ratio_achieved"] == pytest.approx(0.41, abs=0.02)
    for variant in ("cold pruned", "warm selected"):
        assert rows[variant]["keep_ratio_achieved"] == pytest.approx(0.37, abs=0.02)
    assert rows["warm unpruned"]["keep_ratio_achieved"] == 1.0
    printed = capsys.readouterr().out
    assert "scaled down: 2 scenes and 14 questions of 32 and 1000" in printed
    assert "cold is measured on every 5th question" in printed


@torch.inference_mode()
def test_totals_count_the_scene_once_and_scale_what_was_sampled() -> None:
    decoder, _ = make_model(TINY, CPU, torch.float32)
    scene = make_scene(60, TINY.hidden, CPU, torch.float32, 0)
    place = PlaceQuestions(decoder, scene, 10, 0, TransformersRival(decoder), HERE)
    place.times[BASE] = [Timing(9.0, 2.0), Timing(9.0, 4.0)]
    place.times["warm unpruned"] = [Timing(9.0, 0.5)] * 10
    place.builds["warm unpruned"] = Timing(9.0, 3.0)
    assert place.total_s(BASE) == 30.0
    assert place.total_s("warm unpruned") == 8.0
    place.times[HERE[0]] = [Timing(9.0, 0.5)] * 10
    place.builds[HERE[0]] = Timing(9.0, 4.0)
    assert place.total_s(HERE[0]) == 9.0


@torch.inference_mode()
def test_what_each_variant_runs_on() -> None:
    decoder, _ = make_model(TINY, CPU, torch.float32)
    scene = make_scene(120, TINY.hidden, CPU, torch.float32, 0)
    place = PlaceQuestions(decoder, scene, 2, 0, TransformersRival(decoder), HERE)
    for variant in (*WARM, *HERE):
        place.build(variant)
    held = {name: sum(prefix.lengths) for name, prefix in place.prefixes.items()}
    assert held["warm unpruned"] == held["warm selected"] == 6 * (120 + 36)
    assert held[BUILT] < 0.6 * held["warm unpruned"]
    for variant in (*WARM, *HERE):  # asked twice, the scene is what it was
        place.answer(variant, 0)
        first = list(place.answers[variant][0])
        place.answer(variant, 1)
        place.answer(variant, 0)
        assert list(place.answers[variant][0]) == first
    place.free()
    assert not place.prefixes
    assert not place.held


def test_1000_questions_are_spread_over_32_scenes_where_there_is_a_gpu() -> None:
    cuda = torch.device("cuda")
    asked = questions_per_scene(SHAPES["7B"], None, cuda)
    assert (len(asked), sum(asked), min(asked), max(asked)) == (32, 1000, 31, 32)
    assert questions_per_scene(SHAPES["7B"], 3, cuda) == [31, 31, 31]
    assert questions_per_scene(SHAPES["C"], None, CPU) == [31] * 5


def test_the_verb_writes_the_suites_json(
    run_verb: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_many_questions, "QUESTIONS", 3)
    data = run_verb("many-questions", TINY)
    assert (data["n"], [row["variant"] for row in data["rows"]]) == (1, [*COLD, *WARM, *HERE])
