"""Suite `batch` of `ada3d bench` at a tiny shape: what its rows say; no time is judged here."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ada3d_ros.lab.benchmarks import batch as bench_batch
from ada3d_ros.lab.benchmarks.batch import COUNTS, BatchBench, run_shape
from ada3d_ros.lab.benchmarks.models import make_model, make_scene
from ada3d_ros.lab.benchmarks.shapes import BenchShape
from ada3d_ros.lab.benchmarks.transformers_baseline import TransformersRival

TINY = BenchShape("tiny", 128, 3, 176, (60, 120), low_precision=False)


def test_every_number_of_questions_gets_a_row(
    make_options: Callable[..., argparse.Namespace],
    check_head: Callable[[dict[str, Any], str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = run_shape(TINY, make_options(), torch.device("cpu"))
    check_head(results, "batch")
    sizes = [(row["N"], row["questions"]) for row in results["rows"]]
    assert sizes == [(n, b) for n in (60, 120) for b in COUNTS]
    for row in results["rows"]:
        assert row["same_ids"] == 1.0
        assert row["logits_error"] < 2e-6
        assert row["ratio"].n == row["together_ms"].n == row["alone_ms"].n == 2
        assert row["ratio_to_transformers"].n == row["transformers_ms"].n == 2
        assert row["ratio"].min > 0
    assert "time per question" in capsys.readouterr().out


@torch.inference_mode()
def test_transformers_answers_as_ours_does() -> None:
    decoder, _ = make_model(TINY, torch.device("cpu"), torch.float32)
    scene = make_scene(60, TINY.hidden, torch.device("cpu"), torch.float32, 0)
    bench = BatchBench(decoder, TransformersRival(decoder), scene, 0)
    alone = bench.answer_alone()
    for _ in range(2):  # the scene is what it was
        assert bench.answer_by_transformers() == list(alone[0].token_ids)


def test_the_verb_writes_the_suites_json(
    run_verb: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_batch, "COUNTS", (1, 2))
    data = run_verb("batch", TINY)
    assert (data["n"], [row["questions"] for row in data["rows"]]) == (1, [1, 2, 1, 2])
