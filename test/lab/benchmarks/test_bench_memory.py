"""Suite `memory` of `ada3d bench`: what fits agrees with the plan, and the check has its rows.

No time is judged here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ada3d_ros.lab.benchmarks.memory import (
    SIZES_GIB,
    TABLES,
    fit_rows,
    largest_scene,
    plan_7b,
    run_shape,
)
from ada3d_ros.lab.benchmarks.peak_memory import peak_bytes
from ada3d_ros.lab.benchmarks.shapes import BenchShape
from ada3d_ros.model.weight_format import WEIGHTS

CPU = torch.device("cpu")
TINY = BenchShape("tiny", 128, 3, 192, (120,), low_precision=False)


@pytest.mark.parametrize("backbone", TABLES)
def test_what_fits_is_what_the_plan_says(backbone: str) -> None:
    rows, spatial = fit_rows(backbone), TABLES[backbone].spatial
    assert [(r["weights"], r["kv"], r["prune"]) for r in rows] == [
        (w, kv, prune) for w in WEIGHTS for kv in ("bf16", "int8") for prune in ("none", "build")
    ]
    for r in rows:
        totals = [r["plans"][str(n)]["total"] for n in spatial]
        assert totals == sorted(totals)
        for size in SIZES_GIB:
            assert r["fits"][str(size)] == {
                str(n): total <= size * 2**30 for n, total in zip(spatial, totals, strict=True)
            }
            assert all(
                r["fits"][str(size)][str(n)] == (n <= r["largest"][str(size)]) for n in spatial
            )


@pytest.mark.parametrize("size", SIZES_GIB)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("backbone", TABLES)
def test_the_largest_scene_is_the_largest(weights: str, size: int, backbone: str) -> None:
    memory, sizes = size * 2**30, TABLES[backbone]

    def total(spatial: int) -> int:
        return plan_7b(weights, "model", "build", spatial, backbone).total

    found = largest_scene(weights, "model", "build", memory, backbone)
    assert 0 <= found <= sizes.largest
    assert found % sizes.step == 0
    assert found == 0 or total(found) <= memory
    assert found == sizes.largest or total(found + sizes.step) > memory
    assert largest_scene(weights, "model", "none", memory, backbone) <= found


def test_a_token_of_video3dllm_takes_a_ninth_of_the_cache() -> None:
    """56 KiB in all layers, two copies of the scene."""
    few, many = (
        plan_7b("full", "model", "none", frames * 210, "video3dllm").kv_cache for frames in (10, 11)
    )
    assert many - few == 2 * 210 * 56 * 1024
    llava = [plan_7b("full", "model", "none", spatial).kv_cache for spatial in (1000, 1210)]
    assert llava[1] - llava[0] == 2 * 210 * 512 * 1024


def test_every_kind_of_weights_gets_a_row(
    make_options: Callable[..., argparse.Namespace],
    check_head: Callable[[dict[str, Any], str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = run_shape(TINY, make_options(), CPU)
    check_head(results, "memory")
    rows = {r["weights"]: r for r in results["rows"]}
    assert tuple(rows) == WEIGHTS
    for r in rows.values():
        assert r["weight_bytes"] == r["predicted_weight_bytes"]
        peak = r["prefill_peak_bytes"]
        assert peak <= r["predicted_prefill_bytes"] <= 1.25 * peak
        assert r["decode_ratio"].n == r["prefill_ratio"].n == r["decode_ms"].n == 2
    assert rows["full"]["logits_error"] == 0.0
    assert 0 < rows["int8"]["logits_error"] < rows["int4"]["logits_error"] < 0.5
    sizes = [rows[weights]["weight_bytes"] for weights in ("int4", "int8", "full")]
    assert sizes == sorted(set(sizes))
    printed = capsys.readouterr().out
    assert "LLaVA-3D-7B" in printed
    assert "decode ratio" in printed


def test_the_other_backbones_shape_is_checked(
    make_options: Callable[..., argparse.Namespace], capsys: pytest.CaptureFixture[str]
) -> None:
    shape = BenchShape(
        *("tiny", 128, 3, 192, (120,)),
        low_precision=False,
        head_dim=32,
        backbone="video3dllm",
        num_kv_heads=1,
    )
    rows = run_shape(shape, make_options(), CPU)["rows"]
    for r in rows:
        assert r["weight_bytes"] == r["predicted_weight_bytes"]
        assert r["prefill_peak_bytes"] <= r["predicted_prefill_bytes"]
    assert "Video-3D-LLM-7B" in capsys.readouterr().out


def test_the_verb_knows_the_suite(run_verb: Callable[..., dict[str, Any]]) -> None:
    data = run_verb("memory", TINY)
    assert (data["n"], len(data["rows"]), len(data["fits"]["rows"])) == (1, 3, 12)


def test_peaks_are_counted_tensor_by_tensor() -> None:
    """Of 1000 float32: what is alive together counts, what was there before and views do not."""
    before = torch.ones(1000)

    def chain() -> None:
        doubled = before * 2  # 4000
        view = doubled[10:]
        tripled = view + 1  # 4000 + 3960
        del doubled, view
        _ = tripled + 1  # 3960 * 2

    assert peak_bytes(chain, CPU) == 7960
    assert peak_bytes(lambda: before[3:].view(-1), CPU) == 0
