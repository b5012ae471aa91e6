"""Suite `scene-update` of `ada3d bench` at a tiny shape: what its rows say.

No time is judged here.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ada3d_ros.errors import ModelError
from ada3d_ros.lab.benchmarks import bench
from ada3d_ros.lab.benchmarks.bench import Timing
from ada3d_ros.lab.benchmarks.models import SYSTEM_TEXT, VIEWS, make_model
from ada3d_ros.lab.benchmarks.scene_update import (
    NEW_VOXELS,
    STEPS,
    UpdateBench,
    percentiles,
    require_same,
    run_shape,
)
from ada3d_ros.lab.benchmarks.shapes import SHAPES, BenchShape
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


def test_every_scene_size_gets_a_row(
    make_options: Callable[..., argparse.Namespace],
    check_head: Callable[[dict[str, Any], str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = run_shape(TINY, make_options(), CPU)
    check_head(results, "scene-update")
    assert results["target_ms"] is None
    assert [(row["N"], row["new_voxels"], row["touched_voxels"]) for row in results["rows"]] == [
        (60, NEW_VOXELS, 9),
        (80, NEW_VOXELS, 12),
    ]
    for row in results["rows"]:
        assert set(row["steps"]) == set(STEPS)
        # An old view's voxels are seen by others too: none goes with it.
        assert row["voxels_after"] == row["N"] + NEW_VOXELS
        assert row["append_ratio"].n == row["append_pruned_ratio"].n == 2
        assert row["target_met"] is None
        assert row["table_exact"] is True
    printed = capsys.readouterr().out
    assert "vision tower: 1 of 2 layers of 32, 140 px, 100 patches a view" in printed
    assert "not judged on a CPU" in printed


@torch.inference_mode()
def test_a_keyframe_brings_what_it_says_and_leaves_the_scene_as_it_was() -> None:
    """New voxels are appended to a prefix that the next keyframe starts from unchanged."""
    bench = UpdateBench(model(), 60, 2, seed=0)
    assert len(bench.base_table.sums) == 60
    before = {name: prefix.next_position for name, prefix in bench.base_prefixes.items()}
    held = {name: prefix.lengths for name, prefix in bench.base_prefixes.items()}

    times, table, appended = bench.update(1)
    assert set(times) == set(STEPS)
    assert appended == NEW_VOXELS
    assert table.views == (*(name for name in range(VIEWS) if name != 1), VIEWS + 1)

    # What the keyframe sees: the new voxels and 15 % of the old ones.
    view = bench.encode_keyframe(VIEWS + 1)
    known = find_voxels(bench.base_table.sums.coords, view.coords) >= 0
    assert (len(view), int(known.sum())) == (NEW_VOXELS + 9, 9)

    # The next keyframe starts from the same scene.
    assert len(bench.base_table.views) == VIEWS
    for name, prefix in bench.base_prefixes.items():
        assert prefix.ready
        assert prefix.next_position == before[name]
        prefix.crop()
        assert prefix.cache.lengths == held[name]
    assert set(held["append"]) == {SYSTEM_TEXT + 60}
    assert sum(held["append_pruned"]) < 3 * SYSTEM_TEXT + 0.45 * 3 * 60


@torch.inference_mode()
def test_a_table_that_differs_by_a_bit_is_refused() -> None:
    bench = UpdateBench(model(), 60, 1, seed=0)
    base, changed = bench.base_table, VoxelTable()
    for name in base.views:
        view = bench.encode_keyframe(name)
        if name == 3:
            view = dataclasses.replace(view, features=view.features * (1 + 2**-20))
        changed.add(name, view)
    require_same(base, base.of_views(base.views))
    with pytest.raises(ModelError, match="features differs"):
        require_same(base, changed)
    with pytest.raises(ModelError, match="coords differs"):
        require_same(base, bench.build_table([VIEWS]))


def test_percentiles_are_of_process_time_on_a_cpu() -> None:
    found = percentiles([Timing(9.0, 0.001 * n) for n in range(1, 22)], CPU)
    assert found["p50_ms"] == pytest.approx(11.0)
    assert found["p95_ms"] == pytest.approx(20.0)
    assert found["ms"].n == 21


def test_the_verb_writes_the_suites_json(run_verb: Callable[..., dict[str, Any]]) -> None:
    data = run_verb("scene-update", TINY)
    assert (data["n"], [row["N"] for row in data["rows"]]) == (1, [60, 80])


def test_a_view_that_cannot_show_so_many_voxels_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = dataclasses.replace(VISION, image_size=56)
    monkeypatch.setitem(SHAPES, "C", dataclasses.replace(TINY, vision=small))
    assert bench.main(["--suite", "scene-update", "--shape", "C", "--device", "cpu"]) == 2
    assert (
        "a view of 16 patches is too small for 85 new and 9 old voxels" in capsys.readouterr().err
    )
