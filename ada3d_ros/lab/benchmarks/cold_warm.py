"""Suite `cold-warm` of `ada3d bench`: a question with and without a cached scene, pruned and not.

The product's claim as a table of two by two, beside PyramidDrop, FastV and transformers on the same
weights, cold (its own generate) and with the scene held too. Cold, a question brings the scene
along; warm, the scene is cached.
Random weights: times, FLOPs and bytes are real, answers mean nothing. The scene's one-time build is
reported apart.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ada3d_ros.engine.decode import GenerationRequest, decode, prepare_decoding
from ada3d_ros.engine.prefill import PrefillOutput, prefill, prefill_question
from ada3d_ros.errors import ModelError
from ada3d_ros.lab.benchmarks.bench import (
    Save,
    Times,
    ignore,
    interleaved,
    milliseconds,
    ratio_of,
    wall_milliseconds,
)
from ada3d_ros.lab.benchmarks.models import (
    QUESTION_TEXT,
    SYSTEM_TEXT,
    BenchScene,
    BenchSettings,
    make_camera,
    make_model,
    make_policy,
)
from ada3d_ros.lab.benchmarks.shapes import BenchShape
from ada3d_ros.lab.benchmarks.spread import Spread
from ada3d_ros.lab.benchmarks.transformers_baseline import (
    CACHES,
    HeldScene,
    TransformersRival,
    absent_caches,
)
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.pruning.cost import DecoderShape, cost_of, kv_bytes, prefill_macs, question_macs
from ada3d_ros.pruning.strategy import LayerPruner

KEEP_RATIO = 0.37
ANSWER = 30  # tokens
# Largest relative difference of logits: the same sums in another order.
EXACT = {torch.float32: 2e-6, torch.bfloat16: 0.03, torch.float16: 0.03}
TARGETS = {  # largest ratio: on a CPU by shape, on a GPU
    "warm_ttft_over_cold": {"A": 0.05, "B": 0.15, "cuda": 0.10},
    "warm_total_over_transformers_cached": {"A": 0.75, "B": 0.75, "C": 0.90},
    "warm_total_over_transformers_compiled": {"cuda": 1.0},
    "kv_bytes_pruned_over_full": {"A": 0.40, "B": 0.40, "cuda": 0.40},
}
PRUNED_OVER_FLOPS, PRUNED_ON_CUDA = 1.15, 0.55
MEASURED_RATIOS = {  # name: variant, baseline
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


@torch.inference_mode()
def run_shape(
    shape: BenchShape, options: argparse.Namespace, device: torch.device, save: Save = ignore
) -> dict[str, Any]:
    """The largest scene of a shape."""
    settings = BenchSettings.from_options(shape, options, device)
    decoder, model = make_model(shape, device, settings.dtype)
    scene = settings.make_scene(max(shape.spatial))
    bench = ColdWarmBench(decoder, model, scene, settings.seed)

    # Times of something that computes another thing would mean nothing.
    checks = bench.check()
    head = {
        **settings.head("cold-warm"),
        "N": len(scene),
        "text_tokens": SYSTEM_TEXT + QUESTION_TEXT,
        "answer_tokens": ANSWER,
        "keep_ratio": KEEP_RATIO,
        "with_vision": model is not None,
        "checks": checks,
        "absent": absent_caches(device),
    }

    def join(measured: dict[str, Any]) -> dict[str, Any]:
        return {**head, **measured, "targets": _targets(measured["ratios"], shape, device)}

    def show(measured: dict[str, Any]) -> None:
        save(join(measured))

    results = join(bench.measure(settings.repetitions, f"shape {shape.name}", show))
    print(table(results))
    return results


class ColdWarmBench:
    """One scene and one question about it, cold and warm, pruned and not."""

    def __init__(
        self, decoder: LlamaDecoder, model: Llava3D | None, scene: BenchScene, seed: int
    ) -> None:
        self.decoder, self.model, self.scene, self.device = decoder, model, scene, decoder.device
        self.prompt = scene.prompt()
        self.pruners: dict[str, LayerPruner | None] = {"": None}
        for name in ("adatoken3d", "pdrop", "fastv"):
            self.pruners[name] = scene.build_pruner(decoder, make_policy(name, KEEP_RATIO))
        self.camera = make_camera(model.config.vision, scene, seed) if model is not None else None
        self.prefix = scene.build_prefix(decoder)
        prepare_decoding(decoder, self.prefix.cache)
        self.rival = TransformersRival(decoder)
        text = torch.cat((scene.system, scene.embeds))
        self.held = {
            cache: HeldScene(self.rival, text, len(scene.question) + ANSWER, cache)
            for cache in CACHES
            if cache not in absent_caches(self.device)
        }

    def cold(self, strategy: str = "") -> PrefillOutput:
        """To the first token: from pixels where there is a vision tower, else from embeddings."""
        prompt = self.prompt
        if self.model is not None and self.camera is not None:
            tokens = self.camera.encode_scene(self.model)
            prompt = dataclasses.replace(prompt, embeds=prompt.embeds.clone())
            prompt.embeds[slice(*prompt.spatial_span)] = self.model.project(tokens.features)
        output = prefill(self.decoder, prompt, ANSWER, self.pruners[strategy])
        output.logits.argmax().item()
        return output

    def warm(self, strategy: str = "") -> PrefillOutput:
        """The question on the cached scene, to the first token."""
        pruner = self.pruners[strategy]
        output = prefill_question(self.prefix, self.scene.question, ANSWER, pruner)
        output.logits.argmax().item()
        return output

    def answer(self, ask: Callable[[], PrefillOutput]) -> None:
        """All ANSWER tokens."""
        if len(decode(self.decoder, ask(), GenerationRequest(ANSWER)).token_ids) != ANSWER:
            raise ModelError("an answer ended early: the times would not compare.")

    def check(self) -> dict[str, float]:
        """Relative difference of warm from cold logits, with keys and values in 8 bits too.

        Raises ModelError where the unquantised ones are off by more than rounding.
        """
        cold = prefill(self.decoder, self.prompt, 1).logits.float()

        def relative_error(logits: torch.Tensor) -> float:
            return float((cold - logits.float()).abs().max() / cold.abs().max())

        # The cached scene computes the same.
        error = relative_error(self.warm().logits)
        if not error <= EXACT[self.decoder.dtype]:
            raise ModelError(
                f"a question on the cached scene is {error:.1e} off the full prompt: nothing to"
                " compare."
            )

        # What 8 bits change, for how many bytes.
        small = self.scene.build_prefix(self.decoder, int8=True)
        rounded = prefill_question(small, self.scene.question, ANSWER).logits
        return {
            "warm_logits_error": error,
            "int8_kv_logits_error": relative_error(rounded),
            "int8_kv_bytes_share": small.num_bytes / self.prefix.num_bytes,
        }

    def measure(
        self, repetitions: int, label: str, show: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """All variants interleaved; show: gets what there is so far."""
        times = interleaved(
            self.variants(),
            repetitions,
            self.device,
            label=label,
            after_round=lambda times: show(self._measured(times)),
        )
        return self._measured(times)

    def _measured(self, times: Times) -> dict[str, Any]:
        spreads = {
            name: ratio_of(times[variant], times[base], self.device)
            for name, (variant, base) in MEASURED_RATIOS.items()
            if base in times
        }
        counts = self._counts()
        return {
            "ratios": {name: r.median for name, r in spreads.items()} | self._computed(counts),
            "spread": spreads,
            "keep_ratio_achieved": float(np.mean(counts)) / len(self.scene),
            "kv_mib": self._kv_bytes() / 2**20,
            **self._milliseconds(times),
        }

    def variants(self) -> dict[str, Callable[[], Any]]:
        warm_pruned = functools.partial(self.warm, "adatoken3d")
        return {
            "cold": self.cold,
            "cold_adatoken3d": functools.partial(self.cold, "adatoken3d"),
            "cold_pdrop": functools.partial(self.cold, "pdrop"),
            "cold_fastv": functools.partial(self.cold, "fastv"),
            "build": functools.partial(self.scene.build_prefix, self.decoder),
            "warm": self.warm,
            "warm_adatoken3d": warm_pruned,
            "total_warm": functools.partial(self.answer, self.warm),
            "total_warm_adatoken3d": functools.partial(self.answer, warm_pruned),
            "total_transformers_cold": functools.partial(self.rival.total, self.prompt, ANSWER),
            **{
                f"total_transformers_{cache}": functools.partial(
                    held.answer, self.scene.question, ANSWER
                )
                for cache, held in self.held.items()
            },
        }

    def _milliseconds(self, times: Times) -> dict[str, dict[str, Spread]]:
        return {
            "ms": {name: milliseconds(values, self.device) for name, values in times.items()},
            "wall_ms": {name: wall_milliseconds(values) for name, values in times.items()},
        }

    def _counts(self) -> list[int]:
        """Spatial tokens alive in each layer under adatoken3d."""
        pruner = self.pruners["adatoken3d"]
        assert pruner is not None
        return list(pruner.counts(len(self.scene), None))

    def _kv_bytes(self) -> float:
        """Of the unpruned prompt."""
        shape = DecoderShape.from_config(self.decoder.config)
        total = len(self.prompt.positions)
        return kv_bytes(shape, [total] * shape.num_layers, self.prompt.embeds.element_size())

    def _computed(self, counts: list[int]) -> dict[str, float]:
        """Ratios of FLOPs and bytes, which need no clock."""
        shape, spatial = DecoderShape.from_config(self.decoder.config), len(self.scene)
        text = SYSTEM_TEXT + QUESTION_TEXT
        element = self.prompt.embeds.element_size()
        cost = cost_of(shape, counts, text, element, num_before_selection=spatial)
        keys = [SYSTEM_TEXT + spatial] * shape.num_layers
        full = prefill_macs(shape, [text + spatial] * shape.num_layers)
        return {
            "flop_ratio": cost.prefill_flops / cost.unpruned_prefill_flops,
            "warm_flop_ratio": question_macs(shape, QUESTION_TEXT, keys) / full,
            "kv_bytes_pruned_over_full": cost.kv_bytes / cost.unpruned_kv_bytes,
        }


def _targets(
    ratios: dict[str, float], shape: BenchShape, device: torch.device
) -> dict[str, dict[str, Any]]:
    """Aims by ratio: the largest value allowed, and whether the median keeps it.

    Shapes without an aim are left out.
    """
    is_cuda = device.type == "cuda"
    where = "cuda" if is_cuda else shape.name
    aims = {name: by[where] for name, by in TARGETS.items() if where in by}
    on_cpu = PRUNED_OVER_FLOPS * ratios["flop_ratio"]
    aims["pruned_prefill_over_full"] = PRUNED_ON_CUDA if is_cuda else on_cpu
    return {name: {"at_most": aim, "met": ratios[name] <= aim} for name, aim in aims.items()}


def table(results: dict[str, Any]) -> str:
    """The ratios for a terminal."""
    aims = results["targets"]
    lines = [f"shape {results['shape']}, N={results['N']}, {results['dtype']}, n={results['n']}"]
    lines += [
        f"  {name:<24} {spread.median:>10.1f} ms [{spread.min:.1f} to {spread.max:.1f}]"
        for name, spread in results["ms"].items()
    ]
    for name, ratio in results["ratios"].items():
        aim = ""
        if name in aims:
            met = "met" if aims[name]["met"] else "missed"
            aim = f"   aim {aims[name]['at_most']:.3f}: {met}"
        lines.append(f"  {name:<36} {results['spread'].get(name, f'{ratio:.3f}')!s}{aim}")
    return "\n".join(lines)
