"""What the tests of all suites of `ada3d bench` share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ada3d_ros.lab.benchmarks import bench
from ada3d_ros.lab.benchmarks.shapes import SHAPES, BenchShape


@pytest.fixture
def make_options() -> Callable[..., argparse.Namespace]:
    """Options of the command line as a suite gets them: two repetitions in float32."""

    def make(**changes: object) -> argparse.Namespace:
        values = {
            "backbone": "llava3d",
            "repetitions": 2,
            "strategy": "",
            "keep_ratio": "0.5",
            "precision": "fp32",
            "spatial": None,
            "seed": 0,
            "stride": 10,
        }
        return argparse.Namespace(**(values | changes))

    return make


@pytest.fixture
def run_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """The JSON that `ada3d bench --suite NAME` writes on a CPU with this shape in place of C."""

    def run(suite: str, shape: BenchShape, *more: str) -> dict[str, Any]:
        monkeypatch.setitem(SHAPES, "C", shape)
        file = tmp_path / "bench.json"
        fixed = ["--suite", suite, "--shape", "C", "--device", "cpu", "--json", str(file)]
        assert bench.main([*fixed, "--repetitions", "1", *more]) == 0
        assert "wrote" in capsys.readouterr().out
        data: dict[str, Any] = json.loads(file.read_text())
        assert {"commit", "versions", "device", "seed", "processor"} <= set(data["provenance"])
        assert data["provenance"]["device"] == "cpu"
        assert data["suite"] == suite
        return data

    return run


@pytest.fixture
def check_head() -> Callable[[dict[str, Any], str], None]:
    """What every suite's results begin with, of two repetitions in float32."""

    def check(results: dict[str, Any], suite: str) -> None:
        head = {name: results[name] for name in ("suite", "shape", "n", "random_weights", "dtype")}
        assert head == {
            "suite": suite,
            "shape": "tiny",
            "n": 2,
            "random_weights": True,
            "dtype": "float32",
        }

    return check
