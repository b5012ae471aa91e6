"""Suite `batch` of `ada3d bench` at a tiny shape: what its rows say; no time is judged here."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from ada3d_ros.lab.benchmarks import batch as bench_batch
from ada3d_ros.lab.benchmarks import bench
from ada3d_ros.lab.benchmarks.batch import COUNTS, run_shape
from ada3d_ros.lab.benchmarks.models import SHAPES, BenchShape

CPU = torch.device("cpu")
TINY = BenchShape("tiny", 128, 3, 176, (60, 120), low_precision=False)


def test_every_number_of_questions_gets_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    options = argparse.Namespace(repetitions=2, precision="fp32", seed=0)
    results = run_shape(TINY, options, CPU)
    assert {name: results[name] for name in ("suite", "shape", "n", "random_weights", "dtype")} == {
        "suite": "batch",
        "shape": "tiny",
        "n": 2,
        "random_weights": True,
        "dtype": "float32",
    }
    assert [(row["N"], row["questions"]) for row in results["rows"]] == [
        (n, b) for n in (60, 120) for b in COUNTS
    ]
    for row in results["rows"]:
        assert row["same_ids"] == 1.0
        assert row["logits_error"] < 2e-6
        assert row["ratio"].n == row["together_ms"].n == row["alone_ms"].n == 2
        assert row["ratio"].min > 0
    assert "time per question" in capsys.readouterr().out


def test_the_verb_writes_the_suites_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SHAPES, "C", TINY)
    monkeypatch.setattr(bench_batch, "COUNTS", (1, 2))
    file = tmp_path / "batch.json"
    arguments = [
        "--suite",
        "batch",
        "--shape",
        "C",
        "--repetitions",
        "1",
        "--device",
        "cpu",
        "--json",
        str(file),
    ]
    assert bench.main(arguments) == 0
    data = json.loads(file.read_text())
    assert (data["suite"], data["n"], [row["questions"] for row in data["rows"]]) == (
        "batch",
        1,
        [1, 2, 1, 2],
    )
    assert "commit" in data["provenance"]
    assert "wrote" in capsys.readouterr().out


def test_7b_is_refused_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--suite", "batch", "--shape", "7B", "--device", "cpu"]) == 2
    assert "shape 7B is for a CUDA GPU" in capsys.readouterr().err
