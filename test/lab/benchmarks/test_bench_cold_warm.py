"""Suite `cold-warm` of `ada3d bench` on a tiny shape: what the JSON holds, and what is refused."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ada3d_ros.errors import ModelError
from ada3d_ros.lab.benchmarks import cold_warm as bench_cold_warm
from ada3d_ros.lab.benchmarks.models import BenchShape, make_model
from ada3d_ros.lab.benchmarks.transformers_baseline import TransformersRival

TINY = BenchShape("T", 256, 8, 320, (40,), low_precision=False)
NEEDED = (
    "warm_ttft_over_cold",
    "pruned_prefill_over_full",
    "flop_ratio",
    "warm_total_over_transformers",
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
    assert set(data["targets"]) == {"pruned_prefill_over_full"}  # shape C has no other aim


def test_a_cache_that_is_off_is_refused(
    make_options: Callable[..., argparse.Namespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = bench_cold_warm.prefill_question

    def wrong(prefix: object, question: torch.Tensor, *args: object) -> object:
        return real(prefix, 1.01 * question + 0.05, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(bench_cold_warm, "prefill_question", wrong)
    with pytest.raises(ModelError, match="off the full prompt"):
        bench_cold_warm.run_shape(TINY, make_options(), torch.device("cpu"))


def test_the_rival_shares_our_weights() -> None:
    decoder, _ = make_model(TINY, torch.device("cpu"), torch.float32)
    rival = TransformersRival(decoder)
    ours = decoder.layers[0].self_attn.q_proj.weight
    assert rival.model.model.layers[0].self_attn.q_proj.weight.data_ptr() == ours.data_ptr()
