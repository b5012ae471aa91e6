"""Suite `memory` of `ada3d bench`: what a 7B needs under each `model.weights`.

The table of what fits is computed as the node does it at start (engine/memory_plan.py), for no
device at hand is as small as those it is for. Beside it the bench shape is built in full, int8 and
int4: bytes and peaks against their prediction, one decode step and one prefill against full
weights, interleaved, and what quantisation changes of the last token's logits. Random weights:
bytes and times are real, answers are not.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ada3d_ros.config import SETTINGS, AgentConfig, from_flat
from ada3d_ros.engine.decode import decode_step
from ada3d_ros.engine.memory_plan import plan_workload
from ada3d_ros.engine.prefill import PrefillOutput, prefill
from ada3d_ros.errors import Ada3DError
from ada3d_ros.lab.benchmarks.bench import (
    Save,
    Times,
    Timing,
    ignore,
    interleaved,
    milliseconds,
    ratio_of,
)
from ada3d_ros.lab.benchmarks.models import QUESTION_TEXT, SYSTEM_TEXT, BenchSettings, make_model
from ada3d_ros.lab.benchmarks.peak_memory import peak_bytes
from ada3d_ros.lab.benchmarks.shapes import BenchShape
from ada3d_ros.model.config import BackboneConfig, LlavaConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.memory import DEFAULT_VIEWS, MemoryPlan, Workload, predict_memory
from ada3d_ros.model.quantize import quantize_layers, stored_bytes
from ada3d_ros.model.startup import LONGEST_ANSWER, TEXT_TOKENS
from ada3d_ros.model.video3dllm.config import Video3DConfig
from ada3d_ros.model.weight_format import WEIGHTS, WeightFormat
from ada3d_ros.types import PromptSequence

SIZES_GIB = (8, 16, 24, 48, 64)  # memories of cards and boards


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a 7B in the table: spatial tokens of its columns, the most that it takes, and how many
    come at once (a frame).
    """

    model: str
    spatial: tuple[int, ...]
    largest: int
    step: int = 1


FRAME_TOKENS = Video3DConfig().max_spatial_tokens(1)  # newlines included
MAX_FRAMES = int(SETTINGS["keyframe.max_views"].high or 0)
TABLES = {
    "llava3d": Sizes("LLaVA-3D-7B", (850, 1700, 2560), LlavaConfig().max_length - TEXT_TOKENS),
    "video3dllm": Sizes(
        "Video-3D-LLM-7B",
        (10 * FRAME_TOKENS, 20 * FRAME_TOKENS, 32 * FRAME_TOKENS),
        MAX_FRAMES * FRAME_TOKENS,
        FRAME_TOKENS,
    ),
}
WARM_UPS = 1
# Columns of the check: what it holds, heading, width.
CHECKED_BYTES = (
    ("weight_bytes", "MiB", 9),
    ("predicted_weight_bytes", "predicted", 11),
    ("prefill_peak_bytes", "peak", 9),
    ("predicted_prefill_bytes", "predicted", 11),
)


def run_shape(
    shape: BenchShape, options: argparse.Namespace, device: torch.device, save: Save = ignore
) -> dict[str, Any]:
    """What fits, and the check of one shape."""
    settings = BenchSettings.from_options(shape, options, device)

    # Computed for the 7B.
    fits = fit_rows(shape.backbone)
    print(fit_table(fits, shape.backbone))

    # Measured on the shape.
    results: dict[str, Any] = {
        **settings.head("memory"),
        "text_tokens": SYSTEM_TEXT + QUESTION_TEXT,
        "rows": [],
        "fits": {
            "model": TABLES[shape.backbone].model,
            "dtype": "bfloat16",
            "device": "cuda",
            "views": DEFAULT_VIEWS if shape.backbone == "llava3d" else None,  # of the scene
            "keep_ratio": AgentConfig().pruning.keep_ratio,
            "longest_answer": LONGEST_ANSWER,
            "rows": fits,
        },
    }
    check = _Check(settings)
    results["not_run"] = check.not_run
    results["rows"] = check.measure(lambda rows: save({**results, "rows": rows}))
    print(check_table(results["rows"]))
    for item in check.not_run:
        print(f"not run: weights {item['weights']}: {item['why']}")
    return results


def plan_7b(
    weights: str, kv: str, prune: str, spatial: int, backbone: str = "llava3d"
) -> MemoryPlan:
    """The 7B in bfloat16 on CUDA with scenes of at most so many spatial tokens, as the node plans
    it at start; kv, prune: as in `cache`.
    """
    form = WeightFormat(torch.bfloat16, weights, "cuda")
    model = LlavaConfig() if backbone == "llava3d" else Video3DConfig()
    return predict_memory(model, form, _workload_7b(kv, prune, spatial, backbone))


@functools.cache
def _workload_7b(kv: str, prune: str, spatial: int, backbone: str) -> Workload:
    settings: dict[str, Any] = {"cache.kv": kv, "cache.prune": prune}
    model: BackboneConfig
    if backbone == "llava3d":
        model = replace(LlavaConfig(), token_cap=spatial)
    else:
        model = Video3DConfig()
        settings["keyframe.max_views"] = max(1, spatial // FRAME_TOKENS)
    return plan_workload(from_flat(settings), model, torch.device("cuda"))


def fit_rows(backbone: str = "llava3d") -> list[dict[str, Any]]:
    """One row per `model.weights`, KV format, and whether the scene is pruned while it is built.

    The parts in bytes at each scene size, and for each memory the largest scene that fits.
    """
    return [
        _fit_row(weights, kv, prune, backbone)
        for weights in WEIGHTS
        for kv in ("model", "int8")
        for prune in ("none", "build")
    ]


def _fit_row(weights: str, kv: str, prune: str, backbone: str) -> dict[str, Any]:
    plans = {str(n): plan_7b(weights, kv, prune, n, backbone) for n in TABLES[backbone].spatial}
    memories = {str(size): size * 2**30 for size in SIZES_GIB}  # JSON has text keys
    return {
        "weights": weights,
        "kv": "bf16" if kv == "model" else kv,
        "prune": prune,
        "plans": {
            n: {**asdict(p), "weights": p.weights, "total": p.total} for n, p in plans.items()
        },
        "fits": {
            size: {n: p.total <= memory for n, p in plans.items()}
            for size, memory in memories.items()
        },
        "largest": {
            size: largest_scene(weights, kv, prune, memory, backbone)
            for size, memory in memories.items()
        },
    }


def largest_scene(weights: str, kv: str, prune: str, memory: int, backbone: str = "llava3d") -> int:
    """Most spatial tokens whose plan fits `memory` bytes and the model's positions; 0: not one."""
    sizes = TABLES[backbone]
    low, high = 0, sizes.largest // sizes.step
    while low < high:
        middle = (low + high + 1) // 2
        if plan_7b(weights, kv, prune, middle * sizes.step, backbone).total <= memory:
            low = middle
        else:
            high = middle - 1
    return low * sizes.step


class _Check:
    """One variant per `model.weights`, all from the same random weights, at the largest scene.

    not_run: those that this machine cannot have, with the reason.
    """

    def __init__(self, settings: BenchSettings) -> None:
        self.settings = settings
        self.variants, self.not_run = list[_Variant](), list[dict[str, str]]()
        for weights in WEIGHTS:
            try:
                self.variants.append(_Variant(weights, settings))
            except (Ada3DError, ImportError) as error:
                self.not_run.append({"weights": weights, "why": str(error)})

    def measure(self, show: Callable[[list[dict[str, Any]]], None]) -> list[dict[str, Any]]:
        """One row per variant; show: gets the rows so far."""
        settings, device = self.settings, self.settings.device
        spatial, repetitions = settings.shape.spatial[-1], settings.repetitions
        prompt = settings.make_scene(spatial).prompt()
        reserve = repetitions + WARM_UPS
        tokens = len(prompt.embeds) + reserve
        base, decodes_so_far = self.variants[0], {v.weights: list[Timing]() for v in self.variants}

        # Peaks first: they are of the first prefill, with no earlier cache in the way.
        prefills = {v.weights: functools.partial(v.prefill, prompt, reserve) for v in self.variants}
        peaks = {name: peak_bytes(run_once, device) for name, run_once in prefills.items()}

        def rows(prefill_times: Times, decode_times: Times) -> list[dict[str, Any]]:
            return [
                {
                    "weights": v.weights,
                    "kernel": "torch" if v.weights == "full" else "torchao",
                    "N": spatial,
                    **_bytes(v, settings, tokens, peaks[v.weights]),
                    **_times(v, base, decode_times, prefill_times),
                    "logits_error": v.error_against(base),
                }
                for v in self.variants
            ]

        label = settings.label(spatial)
        prefill_times = interleaved(
            prefills,
            repetitions,
            device,
            WARM_UPS,
            label,
            lambda times: show(rows(times, decodes_so_far)),
        )
        with torch.inference_mode():
            decode_times = interleaved(
                {v.weights: v.step for v in self.variants},
                repetitions,
                device,
                WARM_UPS,
                "decode",
                lambda times: show(rows(prefill_times, times)),
            )
        return rows(prefill_times, decode_times)


def _bytes(v: _Variant, settings: BenchSettings, tokens: int, peak: int) -> dict[str, int]:
    """What was measured beside what was predicted for a prompt of `tokens`, in bytes."""
    form = WeightFormat(settings.dtype, v.weights, settings.device.type)
    plan = predict_memory(settings.shape.model_config, form, Workload(tokens))
    return {
        "weight_bytes": stored_bytes(v.decoder),
        "predicted_weight_bytes": plan.decoder_layers + plan.embeddings,
        "prefill_peak_bytes": peak,
        "predicted_prefill_bytes": plan.prefill + plan.kv_cache,
    }


def _times(
    v: _Variant,
    base: _Variant,
    decode_times: Times,
    prefill_times: Times,
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
        fed = self.decoder.embed(token)
        decode_step(self.decoder, fed, self.output.next_positions, self.output.cache)

    def error_against(self, other: _Variant) -> float:
        """|| logits - other's || / || other's || of the last prompt token."""
        assert self.output is not None
        assert other.output is not None
        expected = other.output.logits.double()
        return float((self.output.logits.double() - expected).norm() / expected.norm())


def fit_table(rows: Sequence[dict[str, Any]], backbone: str) -> str:
    """What fits, for a terminal."""
    sizes = "".join(f"{f'{size} GB':>8}" for size in SIZES_GIB)
    spatial = TABLES[backbone].spatial
    totals = "".join(f"{f'N={n}':>8}" for n in spatial)
    lines = [
        f"{TABLES[backbone].model}, bf16, CUDA: GiB in all, and the most spatial tokens that fit",
        f"{'weights':<8}{'KV':<6}{'prune':<7}{totals}{sizes}",
    ]
    for r in rows:
        totals = "".join(f"{r['plans'][str(n)]['total'] / 2**30:8.2f}" for n in spatial)
        largest = "".join(f"{r['largest'][str(size)] or 'none':>8}" for size in SIZES_GIB)
        lines.append(f"{r['weights']:<8}{r['kv']:<6}{r['prune']:<7}{totals}{largest}")
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
