"""Suite `cold-warm` of `ada3d bench` on a tiny shape: what the JSON holds, and what is refused."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch

from ada3d_ros.engine.prefill import PrefillOutput
from ada3d_ros.errors import ModelError
from ada3d_ros.lab.benchmarks import cold_warm as bench_cold_warm
from ada3d_ros.lab.benchmarks.models import BenchSettings, make_model
from ada3d_ros.lab.benchmarks.shapes import BenchShape

TINY = BenchShape("T", 256, 8, 320, (40,), low_precision=False)
NEEDED = (
    "warm_ttft_over_cold",
    "pruned_prefill_over_full",
    "flop_ratio",
    "warm_total_over_transformers_cold",
    "warm_total_over_transformers_cached",
)


def test_the_json_has_what_is_asked(run_verb: Callable[..., dict[str, Any]]) -> None:
    data = run_verb("cold-warm", TINY, "--repetitions", "2")
    for name in NEEDED:
        assert data["ratios"][name] > 0
    for name, spread in data["spread"].items():
        assert spread["min"] <= data["ratios"][name] == spread["median"] <= spread["max"]
        assert spread["n"] == 2
    assert data["ratios"]["flop_ratio"] < 1
    assert data["checks"]["warm_logits_error"] <= 2e-6
    assert 0 < data["checks"]["int8_kv_logits_error"] < 0.05
    assert data["random_weights"]
    assert set(data["targets"]) == {"pruned_prefill_over_full"}  # shape T has no other aim
    assert data["complete"]
    assert "warm_total_over_transformers_compiled" not in data["ratios"]
    assert "on CUDA only" in data["absent"]["compiled"]


def test_a_cache_that_is_off_is_refused(
    make_options: Callable[..., argparse.Namespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = bench_cold_warm.prefill_question

    def wrong(prefix: object, question: torch.Tensor, *args: object) -> object:
        return real(prefix, 1.01 * question + 0.05, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(bench_cold_warm, "prefill_question", wrong)
    with pytest.raises(ModelError, match="off the full prompt"):
        bench_cold_warm.run_shape(TINY, make_options(), torch.device("cpu"))


def test_each_row_is_what_its_name_says(
    make_options: Callable[..., argparse.Namespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cold ones pass the whole prompt, warm ones the question; pruned ones keep what they should;
    the rows with all tokens of an answer end with them.
    """
    device = torch.device("cpu")
    settings = BenchSettings.from_options(TINY, make_options(), device, cpu_repetitions=1)
    decoder, model = make_model(TINY, device, torch.float32)
    bench = bench_cold_warm.ColdWarmBench(decoder, model, settings.make_scene(40), 0)
    passed: list[int] = []
    outputs: list[PrefillOutput] = []
    first = cast(torch.nn.Module, decoder.layers[0])
    first.get_submodule("mlp").register_forward_hook(
        lambda module, inputs, output: passed.append(inputs[0].shape[-2])
    )

    def noting(prefilled: PrefillOutput) -> PrefillOutput:
        outputs.append(prefilled)
        return prefilled

    real_cold, real_warm = bench_cold_warm.prefill, bench_cold_warm.prefill_question
    monkeypatch.setattr(bench_cold_warm, "prefill", lambda *a: noting(real_cold(*a)))
    monkeypatch.setattr(bench_cold_warm, "prefill_question", lambda *a: noting(real_warm(*a)))

    # Rows to the first token: the tokens that passed the first layer, and what each layer kept.
    whole, question, layers = len(bench.prompt.positions), len(bench.scene.question), 8
    for name, run in bench.variants().items():
        passed.clear()
        outputs.clear()
        run()
        if name == "build":
            assert sum(passed) == whole - question
            continue
        if name.startswith("total_transformers"):
            assert passed == []
            continue
        counts = outputs[0].counts
        pruned = name.rpartition("_")[2] if "_" in name.removeprefix("total_") else ""
        kept = sum(counts) / layers / 40
        assert len(outputs) == 1, name
        assert kept == pytest.approx(0.37, abs=0.08) if pruned else kept == 1.0, name
        entered = outputs[0].next_positions[0]
        assert entered == whole, name
        decoded = sum(passed) - (whole if name.startswith("cold") else question)
        assert decoded == (bench_cold_warm.ANSWER - 1 if name.startswith("total") else 0), name


def test_each_ratio_divides_the_rows_it_names() -> None:
    """What was measured over what it is compared with; of FLOPs and bytes, by hand."""
    expected = {
        "warm_ttft_over_cold": ("warm", "cold"),
        "warm_pruned_ttft_over_cold": ("warm_adatoken3d", "cold"),
        "pruned_prefill_over_full": ("cold_adatoken3d", "cold"),
        "pdrop_prefill_over_full": ("cold_pdrop", "cold"),
        "fastv_prefill_over_full": ("cold_fastv", "cold"),
        "build_over_cold": ("build", "cold"),
        "warm_total_over_transformers_cold": ("total_warm", "total_transformers_cold"),
        "warm_total_over_transformers_cached": ("total_warm", "total_transformers_dynamic"),
        "warm_total_over_transformers_static": ("total_warm", "total_transformers_static"),
        "warm_total_over_transformers_compiled": ("total_warm", "total_transformers_compiled"),
        "warm_pruned_total_over_transformers_cached": (
            "total_warm_adatoken3d",
            "total_transformers_dynamic",
        ),
    }
    assert expected == bench_cold_warm.MEASURED_RATIOS
