"""`ada3d bench`: what is run in which order, what the rows say; no time is judged here."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from ada3d_ros.geometry.voxel import voxel_coords, voxel_ids
from ada3d_ros.lab.benchmarks import bench
from ada3d_ros.lab.benchmarks.bench import Timing, interleaved, ratio_of
from ada3d_ros.lab.benchmarks.models import make_camera, make_model, make_scene
from ada3d_ros.lab.benchmarks.pruning import run_shape
from ada3d_ros.lab.benchmarks.shapes import SHAPES, VIDEO3D_SHAPES, BenchShape
from ada3d_ros.lab.benchmarks.spread import Spread, plain
from ada3d_ros.model.config import VisionConfig
from ada3d_ros.model.spatial import pool_spatial_tokens
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.model.video3dllm.config import QWEN2_7B

CPU = torch.device("cpu")
VISION = VisionConfig(
    hidden_size=1024,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    image_size=56,
)
TINY = BenchShape("tiny", 128, 6, 176, (120,), low_precision=False, vision=VISION)
QWEN_TINY = BenchShape(
    *("tiny", 112, 6, 160, (120,)),
    low_precision=False,
    head_dim=16,
    backbone="video3dllm",
    num_kv_heads=1,
)


def test_variants_take_turns_and_the_order_reverses() -> None:
    ran: list[str] = []
    variants = {name: lambda n=name: ran.append(n) for name in "abc"}
    times = interleaved(variants, 3, CPU, warm_ups=1)
    assert "".join(ran) == "abc" + "abc" + "cba" + "abc"
    # The warm-up does not count.
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_ratios_are_taken_repetition_by_repetition() -> None:
    """The machine became ten times slower in the second repetition; the ratio does not see it."""
    baseline = [Timing(1.0, 1.0), Timing(10.0, 10.0), Timing(1.0, 1.0)]
    times = [Timing(9.0, 0.5), Timing(9.0, 5.0), Timing(9.0, 0.4)]
    assert ratio_of(times, baseline, CPU) == Spread(0.5, 0.4, 0.5, 3)
    assert str(Spread(0.5, 0.4, 0.5, 3)) == "0.500 [0.400-0.500]"
    assert math.isnan(Spread.from_values([]).median)


def test_json_has_no_nan() -> None:
    text = json.dumps(
        plain({"a": Spread.from_values([]), "b": [1 / 3, float("inf")], "c": "x", "d": True}),
        allow_nan=False,
    )
    assert json.loads(text) == {
        "a": {"median": None, "min": None, "max": None, "n": 0},
        "b": [1 / 3, None],
        "c": "x",
        "d": True,
    }


def test_every_strategy_gets_a_row(
    make_options: Callable[..., argparse.Namespace],
    check_head: Callable[[dict[str, Any], str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = run_shape(TINY, make_options(), CPU)
    check_head(results, "pruning")
    assert results["threads"] == torch.get_num_threads()
    rows = {row["strategy"]: row for row in results["rows"]}
    assert set(rows) == {
        "none",
        "random",
        "uniform",
        "coarse_voxels",
        "geo_fps",
        "cond_dpp",
        "voxel_dpp",
        "kitoke",
        "holitom",
        "condensed_grid",
        "adatoken3d",
        "fastv",
        "pdrop",
        "logistic",
        "adatoken3d_plus",
        "voxel_dpp+adatoken3d",
    }
    assert results["not_run"] == []

    # Measuring information beside a pass that does not.
    (information,) = results["information"]
    assert (information["N"], information["stride"], information["ratio"].n) == (120, 10, 2)
    assert 0 < information["flop_share"] < 0.1

    # The baseline against itself.
    whole = rows["none"]
    assert (whole["prefill_ratio"], whole["flop_ratio"]) == (Spread(1.0, 1.0, 1.0, 2), 1.0)
    assert (whole["kv_ratio"], whole["coverage_0.5m"], whole["kept_last_layer"]) == (1.0, 1.0, 120)
    assert whole["position_bias"] == pytest.approx(0.5)

    # Each strategy; those inside the language model rank, those before it choose.
    in_llm = {"adatoken3d", "fastv", "pdrop", "logistic"}
    both = {"voxel_dpp+adatoken3d", "adatoken3d_plus"}
    for name, row in rows.items():
        if name == "none":
            continue
        tolerance = 0.09 if name == "coarse_voxels" else 0.02
        assert row["keep_ratio_achieved"] == pytest.approx(0.5, abs=tolerance), name
        assert 0.5 < row["flop_ratio"] < 0.8  # 60 of 180 tokens are text
        assert row["kv_ratio"] == pytest.approx((row["keep_ratio_achieved"] * 120 + 60) / 180)
        assert 0.0 < row["coverage_0.5m"] <= 1.0
        assert row["first_token_ratio"].n == row["prefill_ratio"].n == row["decode_ratio"].n == 2
        assert row["selection_ms"].n == (0 if name in in_llm else 2), name
        assert (row["rank_share"].median > 0) == (name in in_llm | both), name
    assert "adatoken3d" in capsys.readouterr().out


def test_what_cannot_be_met_is_said_and_not_run(
    make_options: Callable[..., argparse.Namespace], capsys: pytest.CaptureFixture[str]
) -> None:
    results = run_shape(TINY, make_options(keep_ratio="0.2", strategy="fastv,voxel_dpp"), CPU)
    assert [item["strategy"] for item in results["not_run"]] == ["fastv"]
    assert "cannot be met on this decoder" in results["not_run"][0]["why"]
    assert [row["strategy"] for row in results["rows"]] == ["none", "voxel_dpp"]
    assert "not run: fastv at keep ratio 0.2" in capsys.readouterr().out


@pytest.mark.parametrize("count", [290, 595, 850, 1659, 2560, 9000])
def test_scenes_have_the_voxels_they_say(count: int) -> None:
    """Distinct voxels in the model's order; pooling the camera's patches finds exactly those."""
    scene = make_scene(count, 64, CPU, torch.float32, seed=3)
    coords = voxel_coords(scene.candidates.xyz_m, scene.candidates.voxel_size_m)
    ids, occupied = voxel_ids(coords)
    assert len(occupied) == count
    assert ids.tolist() == list(range(count))

    # In the prompt they stand between system text and question.
    prompt = scene.prompt()
    assert prompt.spatial_span == (36, 36 + count)
    assert len(prompt.positions) == count + 60

    # Pooling the camera's patches gives the same places.
    camera = make_camera(VisionConfig(), scene, 0)
    _, model = make_model(TINY, CPU, torch.float32)
    assert model is not None
    tokens = pool_spatial_tokens(
        torch.zeros(20, 576, 1024), camera.patch_xyz, model.position_embedding, 0.2
    )
    assert tokens.features.shape[0] == count
    assert torch.allclose(tokens.xyz_m, scene.candidates.xyz_m, atol=1e-5)


def test_shapes_are_those_of_the_study() -> None:
    """d, m and N of A, B, C; 7B is LLaVA-3D's."""
    assert [(s.hidden, s.layers, s.intermediate, s.spatial[-1]) for s in SHAPES.values()] == [
        (1024, 8, 2752, 2560),
        (1024, 32, 2752, 595),
        (512, 32, 1376, 290),
        (4096, 4, 11008, 1659),
        (4096, 32, 11008, 2560),
        (192, 4, 512, 480),
    ]
    assert [s.config.head_dim for s in SHAPES.values()] == [128] * 5 + [64]


def test_shapes_of_the_other_backbone_are_qwen2s() -> None:
    """A quarter and an eighth of Qwen2-7B in every size, its groups of 7, its biases."""
    assert [
        (s.hidden, s.layers, s.intermediate, s.spatial[-1]) for s in VIDEO3D_SHAPES.values()
    ] == [
        (896, 7, 4736, 3136),
        (896, 28, 4736, 1568),
        (448, 28, 2368, 784),
        (3584, 4, 18944, 1568),
        (3584, 28, 18944, 6272),
    ]
    for shape in VIDEO3D_SHAPES.values():
        config = shape.config
        assert config.num_heads == 7 * config.num_kv_heads
        assert (config.qkv_bias, config.rope_theta, config.rms_norm_eps) == (True, 1e6, 1e-6)
        assert shape.model_config.backbone == "video3dllm"
    whole = VIDEO3D_SHAPES["7B"].config
    assert whole == replace(QWEN2_7B, max_positions=7296, eos_ids=(), bos_id=1)


def test_the_verb_runs_the_other_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(VIDEO3D_SHAPES, "C", QWEN_TINY)
    file = tmp_path / "bench.json"
    fixed = ["--shape", "C", "--device", "cpu", "--repetitions", "1", "--json", str(file)]
    fixed += ["--backbone", "video3dllm", "--keep-ratio", "0.5", "--strategy", "adatoken3d,fastv"]
    assert bench.main(["--suite", "pruning", *fixed]) == 0
    data = json.loads(file.read_text())
    assert (data["backbone"], data["sizes"]["kv_heads"], len(data["rows"])) == ("video3dllm", 1, 3)
    for suite in bench.OF_LLAVA3D:
        assert bench.main(["--suite", suite, *fixed]) == 2
        assert f"--suite {suite} measures LLaVA-3D alone" in capsys.readouterr().err
    assert bench.main([*fixed, "--shape", "embedded"]) == 2
    assert "--shape embedded: not one of --backbone video3dllm" in capsys.readouterr().err


def test_the_embedded_shape_is_the_embedded_models() -> None:
    """Its own weights; no token ends an answer."""
    shape = SHAPES["embedded"]
    decoder, model = make_model(shape, CPU, torch.float32)
    assert model is None
    assert decoder.config == replace(shape.config, max_positions=4096)
    assert decoder.config.eos_ids == ()
    file = embedded_model_path() / "model.safetensors"
    with safe_open(file, "pt") as stored:
        expected = stored.get_tensor("model.layers.2.mlp.down_proj.weight").float()
    assert torch.equal(decoder.state_dict()["layers.2.mlp.down_proj.weight"], expected)


def test_the_verb_writes_json_with_provenance(run_verb: Callable[..., dict[str, Any]]) -> None:
    data = run_verb("pruning", TINY, "--keep-ratio", "0.5", "--strategy", "adatoken3d")
    assert (data["n"], len(data["rows"])) == (1, 2)


@pytest.mark.parametrize("suite", bench.SUITES)
def test_7b_is_refused_on_a_cpu(suite: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--suite", suite, "--shape", "7B", "--device", "cpu"]) == 2
    assert "shape 7B is for a CUDA GPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cuda:42"], "CUDA device"),
        (["--repetitions", "0", "--device", "cpu"], "--repetitions 0: at least 1 is needed"),
        (["--strategy", "fastw", "--device", "cpu"], "did you mean 'fastv'?"),
        (["--keep-ratio", "much", "--device", "cpu"], "--keep-ratio 'much'"),
        (["--spatial", "0", "--device", "cpu"], "--spatial 0: at least 1 token"),
    ],
)
def test_what_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(arguments) == 2
    assert message in capsys.readouterr().err
