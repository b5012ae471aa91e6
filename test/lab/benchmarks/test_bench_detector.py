"""What a detector costs: every step of every keyframe is counted once, for each detector alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ada3d_ros.lab.benchmarks.detector import STEPS, main

pytest.importorskip("onnxruntime", reason="the extra [detect] is not installed")


def test_each_detector_looks_at_each_frame(
    shared_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = shared_dir / "data" / "detectors", tmp_path / "times.json"
    files = [str(folder / f) for f in ("picodet_s_416_coco.onnx", "yolox_nano.onnx")]
    more = ["--repetitions", "2", "--note", "busy", "--json", str(out)]
    assert main(["room:0", *files, *more]) == 0
    results = json.loads(out.read_text())
    n = results["n"]
    assert n == 2 * results["frames"] > 0
    assert results["note"] == "busy"
    assert [row["format"] for row in results["rows"]] == ["picodet", "yolox"]
    for row in results["rows"]:
        assert row["keyframes"] == n
        assert row["candidates"] % 2 == 0  # both passes see the same
        assert all(row[f"{step}_ms"]["n"] == n for step in STEPS)
        least = sum(row[f"{step}_ms"]["min"] for step in STEPS)
        assert 0 < least <= row["total_ms"]["min"] <= row["total_p95_ms"]
    assert "picodet_s_416_coco.onnx" in capsys.readouterr().out


def test_what_is_no_detector_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.onnx").write_bytes(b"")
    assert main(["room:0", str(tmp_path / "empty.onnx")]) == 2
    assert "ada3d bench-detector: " in capsys.readouterr().err
