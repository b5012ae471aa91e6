"""tools/gpu_check.sh with a stand-in for Python: what is run, what a failing or hanging step costs,
what is left out when it is called again; tools/gpu_table.py on the files of real suites.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ada3d_ros.lab.benchmarks import decode as bench_decode
from ada3d_ros.lab.benchmarks import default as bench_default
from ada3d_ros.lab.benchmarks import device as bench_device
from ada3d_ros.lab.benchmarks.bench import run_suite
from ada3d_ros.lab.benchmarks.shapes import SHAPES, BenchShape
from ada3d_ros.lab.benchmarks.spread import plain
from ada3d_ros.lab.results import ResultFile
from test.support.sources import ROOT, load

SCRIPT = ROOT / "tools" / "gpu_check.sh"
STEPS = ["device", "tests", "same", "default", "scene-update", "decode", "memory", "batch"]
FILES = {"tests.txt"} | {f"{s.replace('-', '_')}.json" for s in STEPS if s != "tests"}
# Notes each suite it is asked for; fails or hangs in those named; else writes a complete file.
STAND_IN = """#!/bin/bash
case "$*" in
  *tools/write_stamp*) exit 0 ;;
  "-c import importlib.util"*) echo "$ABSENT"; exit 0 ;;
  *tools/gpu_table*) exec "$REAL" "$@" ;;
  "-m pytest"*) echo tests >>"$NOTES"; echo "11 passed in 1.00s"; exit "${TESTS:-0}" ;;
esac
while [ $# -gt 0 ]; do
  case "$1" in --suite) suite=$2 ;; --json) file=$2 ;; esac
  shift
done
echo "$suite" >>"$NOTES"
made='"provenance": {"device": "cpu", "commit": "abc"}, "rows": [], "n": 1'
if [[ " $FAILING " == *" $suite "* ]]; then echo "no memory"; exit 3; fi
if [[ " $HANGING " == *" $suite "* ]]; then
  printf '{\\n "complete": false, %s}' "$made" >"$file"; sleep 600
fi
printf '{\\n "complete": true, %s, "ratios": {}, "ms": {}, "box_tolerance_m": 1}' "$made" >"$file"
"""


def check(folder: Path, **changes: str) -> tuple[list[str], str]:
    """The steps that were run and what the script printed."""
    stand_in, notes = folder / "python", folder / "notes"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    notes.write_text("")
    env = os.environ | {
        "OUT": str(folder / "out"),
        "GPU_CHECK_PYTHON": str(stand_in),
        "REAL": sys.executable,
        "NOTES": str(notes),
        "FAILING": "",
        "HANGING": "",
        "ABSENT": "",
    }
    done = subprocess.run(
        ["bash", str(SCRIPT)], env=env | changes, capture_output=True, text=True, timeout=60
    )
    return notes.read_text().split(), done.stdout


def test_a_step_that_fails_or_hangs_costs_only_itself_and_is_run_again(tmp_path: Path) -> None:
    ran, printed = check(tmp_path, FAILING="same memory", HANGING="decode", GPU_CHECK_SECONDS="7")
    assert ran[:6] == STEPS[:6]
    assert "== same: exit status 3" in printed
    assert "no memory" in printed
    assert "== decode: stopped after its" in printed
    table = printed.split("\n\n")[-1]
    assert "INCOMPLETE" in table
    assert "11 passed in 1.00s" in table

    # Once more: what is complete stays.
    again, printed = check(tmp_path)
    assert again == [s for s in STEPS if s in ("same", "decode", "memory") or s not in ran]
    assert "== device: done before" in printed
    assert {file.name for file in (tmp_path / "out").iterdir()} == FILES
    assert len(FILES) == 8
    assert "INCOMPLETE" not in printed
    assert check(tmp_path)[0] == []


def test_tests_that_failed_or_were_skipped_are_not_done(tmp_path: Path) -> None:
    for status in ("1", "5"):
        ran, printed = check(tmp_path, TESTS=status)
        assert "tests" in ran
        assert "MISSED" in printed


def test_packages_that_are_missing_are_said_first(tmp_path: Path) -> None:
    ran, printed = check(tmp_path, ABSENT="PIL cv2")
    first = printed.splitlines()[0]
    assert first.startswith("not installed here: PIL cv2. Steps that need it will say so")
    assert "pip install torch transformers" in first
    assert ran == STEPS
    assert "not installed" not in check(tmp_path)[1]


def test_the_table_reads_what_the_suites_write(
    tmp_path: Path,
    make_options: Callable[..., argparse.Namespace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny = BenchShape("T", 128, 4, 64, (60,), low_precision=False, vocab=200)
    monkeypatch.setitem(SHAPES, "C", tiny)
    monkeypatch.setattr(bench_default, "LEAST_S", 0.0)
    monkeypatch.setattr(bench_decode, "TOKENS", 3)
    monkeypatch.setitem(bench_decode.READ_BYTES, "cpu", 2**12)
    monkeypatch.setitem(bench_device.COPY_BYTES, "cpu", 2**12)
    monkeypatch.setitem(bench_device.SIDE, "cpu", 8)
    options = make_options(shape="C", repetitions=1)
    for suite in ("device", "default", "decode", "memory", "batch"):
        found = run_suite(suite, options, torch.device("cpu"))
        ResultFile(tmp_path / f"{suite}.json", "cpu").write(plain(found))
    table = load(ROOT / "tools" / "gpu_table.py")
    lines = table.main(tmp_path).splitlines()
    for named in (
        "copy",
        "memory",
        "launches of a step",
        "warm_30_over_transformers_cached",
        "ordinary, full: over the floor",
        "int8: decode step over full",
        "8 together, per question",
        "8 together, over transformers alone",
    ):
        assert any(named in line for line in lines), named
    assert sum("no result" in line for line in lines) == 3  # tests, same, scene_update
    assert tuple(step.replace("-", "_") for step in STEPS) == table.STEPS


def test_a_probe_that_fails_costs_only_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict[str, object]:
        raise RuntimeError("CUDA error:\n out of memory")

    saved: list[str] = []
    rows = bench_device.Rows({}, lambda found: saved.append(json.dumps(found)))
    bench_device.run_probes({"a": broken, "b": lambda: {"value": 1}}, rows)
    assert rows.rows == [
        {"name": "a", "error": "RuntimeError: CUDA error: out of memory"},
        {"name": "b", "value": 1},
    ]
    assert len(saved) == 2
