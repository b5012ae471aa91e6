"""Suite `scene-update` of `ada3d bench` at a tiny shape: what its rows say; no time is judged here."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import pytest
import torch

from ada3d_ros.errors import ModelError
from ada3d_ros.lab.benchmarks import bench
from ada3d_ros.lab.benchmarks.bench import Timing
from ada3d_ros.lab.benchmarks.models import SHAPES, SYSTEM_TEXT, VIEWS, BenchShape, make_model
from ada3d_ros.lab.benchmarks.scene_update import (
    NEW_VOXELS,
    STEPS,
    _Keyframes,
    milliseconds,
    require_same,
    run_shape,
)
from ada3d_ros.model.config import VisionConfig
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.scene.voxel_table import VoxelTable, find_voxels

CPU = torch.device("cpu")
VISION = VisionConfig(
    hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=140
)
TINY = BenchShape("tiny", 128, 3, 176, (60, 80), low_precision=False, vision=VISION)


def model() -> Llava3D:
    torch.manual_seed(0)
    made = make_model(TINY, CPU, torch.float32)[1]
    assert made is not None
    return made


def test_every_scene_size_gets_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    options = argparse.Namespace(repetitions=2, precision="fp32", seed=0)
    results = run_shape(TINY, options, CPU)
    assert {
        name: results[name]
        for name in ("suite", "shape", "n", "random_weights", "dtype", "target_ms")
    } == {
        "suite": "scene-update",
        "shape": "tiny",
        "n": 2,
        "random_weights": True,
        "dtype": "float32",
        "target_ms": None,
    }
    assert [(row["N"], row["new_voxels"], row["touched_voxels"]) for row in results["rows"]] == [
        (60, NEW_VOXELS, 9),
        (80, NEW_VOXELS, 12),
    ]
    for row in results["rows"]:
        assert set(row["steps"]) == set(STEPS)
        assert (
            row["voxels_after"] == row["N"] + NEW_VOXELS
        )  # an old view's voxels are seen by others too
        assert row["append_ratio"].n == 2
        assert row["target_met"] is None
        assert row["table_exact"] is True
    printed = capsys.readouterr().out
    assert "vision tower: 1 of 2 layers of 32, 140 px, 100 patches a view" in printed
    assert "not judged on a CPU" in printed


@torch.inference_mode()
def test_a_keyframe_brings_what_it_says_and_leaves_the_scene_as_it_was() -> None:
    """The prefix with the new voxels behind is the old one in front, and the next keyframe starts
    from the old one.
    """
    frames = _Keyframes(model(), 60, 2, seed=0)
    assert len(frames.base.sums) == 60
    before = frames.front.next_position
    times, table, appended = frames.keyframe(1)
    assert set(times) == set(STEPS)
    assert appended == NEW_VOXELS
    assert table.views == (*(name for name in range(VIEWS) if name != 1), VIEWS + 1)
    view = frames.look(VIEWS + 1)
    known = find_voxels(frames.base.sums.coords, view.coords) >= 0
    assert (len(view), int(known.sum())) == (NEW_VOXELS + 9, 9)
    assert (frames.front.ready, frames.front.next_position, len(frames.base.views)) == (
        True,
        before,
        VIEWS,
    )
    frames.front.crop()
    assert set(frames.front.cache.lengths) == {SYSTEM_TEXT + 60}


@torch.inference_mode()
def test_a_table_that_differs_by_a_bit_is_refused() -> None:
    frames = _Keyframes(model(), 60, 1, seed=0)
    changed = VoxelTable()
    for name in frames.base.views:
        view = frames.look(name)
        if name == 3:
            view = dataclasses.replace(view, features=view.features * (1 + 2**-20))
        changed.add(name, view)
    require_same(frames.base, frames.base.of_views(frames.base.views))
    with pytest.raises(ModelError, match="features differs"):
        require_same(frames.base, changed)
    with pytest.raises(ModelError, match="coords differs"):
        require_same(frames.base, frames.table_of([VIEWS]))


def test_percentiles_are_of_process_time_on_a_cpu() -> None:
    found = milliseconds([Timing(9.0, 0.001 * n) for n in range(1, 22)], CPU)
    assert found["p50_ms"] == pytest.approx(11.0)
    assert found["p95_ms"] == pytest.approx(20.0)
    assert found["ms"].n == 21


def test_the_verb_writes_the_suites_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SHAPES, "C", TINY)
    file = tmp_path / "update.json"
    arguments = [
        "--suite",
        "scene-update",
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
    assert (data["suite"], data["n"], [row["N"] for row in data["rows"]]) == (
        "scene-update",
        1,
        [60, 80],
    )
    assert "commit" in data["provenance"]
    assert "wrote" in capsys.readouterr().out


def test_7b_is_refused_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--suite", "scene-update", "--shape", "7B", "--device", "cpu"]) == 2
    assert "shape 7B is for a CUDA GPU" in capsys.readouterr().err


def test_a_view_that_cannot_show_so_many_voxels_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = dataclasses.replace(VISION, image_size=56)
    monkeypatch.setitem(SHAPES, "C", dataclasses.replace(TINY, vision=small))
    assert bench.main(["--suite", "scene-update", "--shape", "C", "--device", "cpu"]) == 2
    assert (
        "a view of 16 patches is too small for 85 new and 9 old voxels" in capsys.readouterr().err
    )
