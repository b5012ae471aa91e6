"""Suite `memory` of `ada3d bench`: what LLaVA-3D-7B needs under each `model.weights`.

The table of what fits is computed (model/memory.py), for no device at hand is as small as those it
is for. Beside it the bench shape is built in full, int8 and int4: bytes and peaks against their
prediction, one decode step and one prefill against full weights, interleaved, and what quantisation
changes of the last token's logits. Random weights: bytes and times are real, answers are not.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.decode import decode_step
from ada3d_ros.engine.prefill import PrefillOutput, prefill
from ada3d_ros.lab.benchmarks.bench import Timing, interleaved, milliseconds, ratio_of
from ada3d_ros.lab.benchmarks.models import (
    QUESTION_TEXT,
    SYSTEM_TEXT,
    BenchSettings,
    BenchShape,
    make_model,
)
from ada3d_ros.lab.benchmarks.peak_memory import peak_bytes
from ada3d_ros.model.config import LlavaConfig, VisionConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.memory import DEFAULT_VIEWS, MemoryPlan, Workload, predict_memory
from ada3d_ros.model.quantize import quantize_layers, stored_bytes
from ada3d_ros.model.weight_format import WEIGHTS, WeightFormat
from ada3d_ros.types import PromptSequence

SIZES_GIB = (8, 16, 24, 48, 64)  # memories of cards and boards
SPATIAL = (850, 1700, 2560)
ANSWER = AgentConfig().generation.max_new_tokens
OTHER_TOKENS = SYSTEM_TEXT + QUESTION_TEXT + ANSWER
SCENE_COPIES = 2
WARM_UPS = 1
# Columns of the check: what it holds, heading, width.
CHECKED_BYTES = (
    ("weight_bytes", "MiB", 9),
    ("predicted_weight_bytes", "predicted", 11),
    ("prefill_peak_bytes", "peak", 9),
    ("predicted_prefill_bytes", "predicted", 11),
)


def run_shape(
    shape: BenchShape, options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """What fits, and the check of one shape."""
    settings = BenchSettings.from_options(shape, options, device)

    # Computed for the 7B.
    fits = fit_rows()
    print(fit_table(fits))

    # Measured on the shape.
    rows = measure(settings)
    print(check_table(rows))
    return {
        **settings.head("memory"),
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
    """One row per `model.weights` and KV format.

    The parts in bytes at each scene size, and for each memory the largest scene that fits.
    """
    return [_fit_row(weights, kv_int8) for weights in WEIGHTS for kv_int8 in (False, True)]


def _fit_row(weights: str, kv_int8: bool) -> dict[str, Any]:
    plans = {str(spatial): plan_7b(weights, kv_int8, spatial) for spatial in SPATIAL}
    memories = {str(size): size * 2**30 for size in SIZES_GIB}  # JSON has text keys
    return {
        "weights": weights,
        "kv": "int8" if kv_int8 else "bf16",
        "plans": {
            n: {**asdict(p), "weights": p.weights, "total": p.total} for n, p in plans.items()
        },
        "fits": {
            size: {n: p.total <= memory for n, p in plans.items()}
            for size, memory in memories.items()
        },
        "largest": {
            size: largest_scene(weights, kv_int8, memory) for size, memory in memories.items()
        },
    }


def largest_scene(weights: str, kv_int8: bool, memory: int) -> int:
    """Most spatial tokens whose plan fits `memory` bytes and the model's positions; 0: not one."""
    low, high = 0, LlavaConfig().max_length - OTHER_TOKENS
    while low < high:
        middle = (low + high + 1) // 2
        if plan_7b(weights, kv_int8, middle).total <= memory:
            low = middle
        else:
            high = middle - 1
    return low


def measure(settings: BenchSettings) -> list[dict[str, Any]]:
    """One row per `model.weights`, all from the same random weights, at the largest scene."""
    device, repetitions = settings.device, settings.repetitions
    variants = [_Variant(weights, settings) for weights in WEIGHTS]
    spatial = settings.shape.spatial[-1]
    prompt = settings.make_scene(spatial).prompt()
    reserve = repetitions + WARM_UPS

    # Peaks first: they are of the first prefill, with no earlier cache in the way.
    prefills = {v.weights: functools.partial(v.prefill, prompt, reserve) for v in variants}
    peaks = {name: peak_bytes(run_once, device) for name, run_once in prefills.items()}

    prefill_times = interleaved(prefills, repetitions, device, WARM_UPS, settings.label(spatial))
    with torch.inference_mode():
        decodes = {v.weights: v.step for v in variants}
        decode_times = interleaved(decodes, repetitions, device, WARM_UPS, "decode")

    base = variants[0]
    return [
        {
            "weights": v.weights,
            "kernel": "torch" if v.weights == "full" else "torchao",
            "N": spatial,
            **_bytes(v, settings, len(prompt.embeds) + reserve, peaks[v.weights]),
            **_times(v, base, decode_times, prefill_times),
            "logits_error": v.error_against(base),
        }
        for v in variants
    ]


def _bytes(v: _Variant, settings: BenchSettings, tokens: int, peak: int) -> dict[str, int]:
    """What was measured beside what was predicted for a prompt of `tokens`, in bytes."""
    shape = settings.shape
    config = LlavaConfig(shape.config, shape.vision or VisionConfig())
    form = WeightFormat(settings.dtype, v.weights, settings.device.type)
    plan = predict_memory(config, form, Workload(tokens))
    return {
        "weight_bytes": stored_bytes(v.decoder),
        "predicted_weight_bytes": plan.decoder_layers + plan.embeddings,
        "prefill_peak_bytes": peak,
        "predicted_prefill_bytes": plan.prefill + plan.kv_cache,
    }


def _times(
    v: _Variant,
    base: _Variant,
    decode_times: dict[str, list[Timing]],
    prefill_times: dict[str, list[Timing]],
) -> dict[str, Any]:
    """Decode steps and prefills against those of the full weights."""
    device, name = v.decoder.device, v.weights
    return {
        "decode_ms": milliseconds(decode_times[name], device),
        "decode_ratio": ratio_of(decode_times[name], decode_times[base.weights], device),
        "prefill_ratio": ratio_of(prefill_times[name], prefill_times[base.weights], device),
    }


class _Variant:
    """The shape's decoder under one `model.weights`, and its last prefill."""

    def __init__(self, weights: str, settings: BenchSettings) -> None:
        torch.manual_seed(settings.seed)  # the same weights in every variant
        self.weights = weights
        self.decoder: LlamaDecoder = make_model(settings.shape, settings.device, settings.dtype)[0]
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


def fit_table(rows: Sequence[dict[str, Any]]) -> str:
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


def check_table(rows: Sequence[dict[str, Any]]) -> str:
    """The check, for a terminal."""
    headings = "".join(f"{heading:>{width}}" for _, heading, width in CHECKED_BYTES)
    lines = [
        f"{'weights':<8}{'by':<9}{headings}{'error':>9}{'decode ratio':>22}{'prefill ratio':>22}"
    ]
    for r in rows:
        mib = "".join(f"{r[name] / 2**20:{width}.1f}" for name, _, width in CHECKED_BYTES)
        lines.append(
            f"{r['weights']:<8}{r['kernel']:<9}{mib}{r['logits_error']:>9.2%}"
            f"{r['decode_ratio']!s:>22}{r['prefill_ratio']!s:>22}"
        )
    return "\n".join(lines)
