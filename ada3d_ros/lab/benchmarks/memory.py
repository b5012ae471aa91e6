"""Suite `memory` of `ada3d bench`: what LLaVA-3D-7B needs under each `model.weights`, and how true
the prediction is on this device.

The table of what fits is computed (model/memory.py), for no device at hand is as small as those it
is for. Beside it the bench shape is built in full, int8 and int4: bytes and peaks against their
prediction, one decode step and one prefill against full weights, interleaved, and what quantisation
changes of the last token's logits. Random weights: bytes and times are real, answers are not.
"""

from __future__ import annotations

import argparse
import functools
from dataclasses import asdict
from typing import Any

import torch

from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.decode import decode_step
from ada3d_ros.engine.prefill import PrefillOutput, prefill
from ada3d_ros.lab.benchmarks.bench import interleaved, ratio_of
from ada3d_ros.lab.benchmarks.models import (
    QUESTION_TEXT,
    SYSTEM_TEXT,
    BenchShape,
    choose_dtype,
    head_of,
    make_model,
    make_scene,
)
from ada3d_ros.lab.benchmarks.peak_memory import peak_bytes
from ada3d_ros.lab.benchmarks.spread import Spread
from ada3d_ros.model.config import LlavaConfig, VisionConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.memory import DEFAULT_VIEWS, MemoryPlan, Workload, predict_memory
from ada3d_ros.model.quantize import WEIGHTS, WeightFormat, quantize_layers, stored_bytes
from ada3d_ros.types import PromptSequence

SIZES_GIB = (8, 16, 24, 48, 64)  # memories of cards and boards
SPATIAL = (850, 1700, 2560)
ANSWER = AgentConfig().generation.max_new_tokens
OTHER_TOKENS = SYSTEM_TEXT + QUESTION_TEXT + ANSWER
SCENE_COPIES = 2
WARM_UPS = 1


def run_shape(
    shape: BenchShape, options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """What fits, and the check of one shape."""
    dtype = choose_dtype(shape, options.precision, device)
    repetitions = options.repetitions or (20 if device.type == "cuda" else 5)
    fits = fit_rows()
    print(fit_table(fits))
    rows = measure(shape, dtype, repetitions, device, options.seed)
    print(check_table(rows))
    return {
        **head_of("memory", shape, repetitions, dtype, device),
        "text_tokens": SYSTEM_TEXT + QUESTION_TEXT,
        "rows": rows,
        "fits": {
            "model": "LLaVA-3D-7B",
            "dtype": "bfloat16",
            "device": "cuda",
            "views": DEFAULT_VIEWS,
            "scene_copies": SCENE_COPIES,
            "answer_tokens": ANSWER,
            "rows": fits,
        },
    }


def plan_7b(weights: str, kv_int8: bool, spatial: int) -> MemoryPlan:
    """LLaVA-3D-7B in bfloat16 on CUDA with a scene of so many spatial tokens."""
    form = WeightFormat(torch.bfloat16, weights, "cuda")
    return predict_memory(
        LlavaConfig(), form, Workload(spatial + OTHER_TOKENS, SCENE_COPIES, kv_int8)
    )


def fit_rows() -> list[dict[str, Any]]:
    """One row per `model.weights` and KV format: the parts in bytes at each scene size, and for
    each memory the largest scene that fits.
    """
    rows = []
    for weights in WEIGHTS:
        for kv_int8 in (False, True):
            plans = {spatial: plan_7b(weights, kv_int8, spatial) for spatial in SPATIAL}
            rows.append(
                {
                    "weights": weights,
                    "kv": "int8" if kv_int8 else "bf16",
                    "plans": {
                        str(n): {**asdict(p), "weights": p.weights, "total": p.total}
                        for n, p in plans.items()
                    },
                    "fits": {
                        str(size): {str(n): p.total <= size * 2**30 for n, p in plans.items()}
                        for size in SIZES_GIB
                    },
                    "largest": {
                        str(size): largest_scene(weights, kv_int8, size * 2**30)
                        for size in SIZES_GIB
                    },
                }
            )
    return rows


def largest_scene(weights: str, kv_int8: bool, memory: int) -> int:
    """Spatial tokens whose plan fits `memory` bytes, as many as the model has positions for; 0
    where not even one fits.
    """
    low, high = 0, LlavaConfig().max_length - OTHER_TOKENS
    while low < high:
        middle = (low + high + 1) // 2
        if plan_7b(weights, kv_int8, middle).total <= memory:
            low = middle
        else:
            high = middle - 1
    return low


def measure(
    shape: BenchShape, dtype: torch.dtype, repetitions: int, device: torch.device, seed: int
) -> list[dict[str, Any]]:
    """One row per `model.weights` of the shape, all from the same random weights, at its largest
    scene.
    """
    variants = [_Variant(weights, shape, dtype, device, seed) for weights in WEIGHTS]
    spatial = shape.spatial[-1]
    prompt = make_scene(spatial, shape.hidden, device, dtype, seed).prompt()
    reserve = repetitions + WARM_UPS
    prefills = {v.weights: functools.partial(v.prefill, prompt, reserve) for v in variants}
    peaks = {name: peak_bytes(run_once, device) for name, run_once in prefills.items()}
    prefill_times = interleaved(
        prefills, repetitions, device, WARM_UPS, f"shape {shape.name}, N = {spatial}"
    )
    with torch.inference_mode():
        decodes = {v.weights: v.step for v in variants}
        decode_times = interleaved(decodes, repetitions, device, WARM_UPS, "decode")
    base = variants[0]
    config = LlavaConfig(shape.config, shape.vision or VisionConfig())
    rows = []
    for v in variants:
        tokens = len(prompt.embeds) + reserve
        form = WeightFormat(dtype, v.weights, device.type)
        plan = predict_memory(config, form, Workload(tokens))
        rows.append(
            {
                "weights": v.weights,
                "kernel": "torch" if v.weights == "full" else "torchao",
                "N": spatial,
                "weight_bytes": stored_bytes(v.decoder),
                "predicted_weight_bytes": plan.decoder_layers + plan.embeddings,
                "prefill_peak_bytes": peaks[v.weights],
                "predicted_prefill_bytes": plan.prefill + plan.kv_cache,
                "decode_ms": Spread.from_values(
                    [t.of(device) * 1e3 for t in decode_times[v.weights]]
                ),
                "decode_ratio": ratio_of(
                    decode_times[v.weights], decode_times[base.weights], device
                ),
                "prefill_ratio": ratio_of(
                    prefill_times[v.weights], prefill_times[base.weights], device
                ),
                "logits_error": v.error_against(base),
            }
        )
    return rows


class _Variant:
    """The shape's decoder under one `model.weights`, and its last prefill."""

    def __init__(
        self, weights: str, shape: BenchShape, dtype: torch.dtype, device: torch.device, seed: int
    ) -> None:
        torch.manual_seed(seed)  # the same weights in every variant
        self.weights = weights
        self.decoder: LlamaDecoder = make_model(shape, device, dtype)[0]
        quantize_layers(self.decoder, weights)
        self.output: PrefillOutput | None = None

    def prefill(self, prompt: PromptSequence, reserve: int) -> None:
        self.output = None  # its cache is not counted as memory of the next
        self.output = prefill(self.decoder, prompt, reserve)

    def step(self) -> None:
        """One decode step on the last prefill's cache."""
        assert self.output is not None
        token = torch.zeros((), dtype=torch.int64, device=self.decoder.device)
        decode_step(self.decoder, token, self.output.next_positions, self.output.cache)

    def error_against(self, other: _Variant) -> float:
        """|| logits - other's || / || other's || of the last prompt token."""
        assert self.output is not None
        assert other.output is not None
        expected = other.output.logits.double()
        return float((self.output.logits.double() - expected).norm() / expected.norm())


def fit_table(rows: list[dict[str, Any]]) -> str:
    """What fits, for a terminal."""
    sizes = "".join(f"{f'{size} GB':>8}" for size in SIZES_GIB)
    totals = "".join(f"{f'N={n}':>8}" for n in SPATIAL)
    lines = [
        "LLaVA-3D-7B, bf16, CUDA: GiB in all, and the most spatial tokens that fit",
        f"{'weights':<8}{'KV':<6}{totals}{sizes}",
    ]
    for r in rows:
        totals = "".join(f"{r['plans'][str(n)]['total'] / 2**30:8.2f}" for n in SPATIAL)
        largest = "".join(f"{r['largest'][str(size)] or 'none':>8}" for size in SIZES_GIB)
        lines.append(f"{r['weights']:<8}{r['kv']:<6}{totals}{largest}")
    return "\n".join(lines)


def check_table(rows: list[dict[str, Any]]) -> str:
    """The check, for a terminal."""
    lines = [
        f"{'weights':<8}{'by':<9}{'MiB':>9}{'predicted':>11}{'peak':>9}{'predicted':>11}{'error':>9}{'decode ratio':>22}{'prefill ratio':>22}"
    ]
    for r in rows:
        sizes = (
            "weight_bytes",
            "predicted_weight_bytes",
            "prefill_peak_bytes",
            "predicted_prefill_bytes",
        )
        mib = "".join(
            f"{r[name] / 2**20:{width}.1f}"
            for name, width in zip(sizes, (9, 11, 9, 11), strict=True)
        )
        lines.append(
            f"{r['weights']:<8}{r['kernel']:<9}{mib}{r['logits_error']:>9.2%}{r['decode_ratio']!s:>22}{r['prefill_ratio']!s:>22}"
        )
    return "\n".join(lines)
