"""Suite `pruning` of `ada3d bench`: every strategy against the unpruned prefill.

Beside it stands what the strategy's FLOPs say. Random weights: times and memory are real, which
tokens stay and so coverage is not. The scene is the surface of a room in the model's token order.
Choosing before the language model is scene-build time and reported apart.
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ada3d_ros.config import from_flat
from ada3d_ros.config.pruning import STRATEGIES
from ada3d_ros.engine.decode import decode_step
from ada3d_ros.engine.information import measure_information
from ada3d_ros.engine.prefill import PrefillOutput, prefill
from ada3d_ros.engine.token_selection import choose_tokens, pruner_for
from ada3d_ros.errors import Ada3DError
from ada3d_ros.lab.benchmarks.bench import (
    Rows,
    Save,
    Times,
    ignore,
    interleaved,
    milliseconds,
    ratio_of,
    timed,
    wall_milliseconds,
)
from ada3d_ros.lab.benchmarks.models import (
    QUESTION_TEXT,
    SYSTEM_TEXT,
    BenchScene,
    BenchSettings,
    Camera,
    make_camera,
    make_model,
    make_policy,
)
from ada3d_ros.lab.benchmarks.shapes import BenchShape
from ada3d_ros.lab.benchmarks.spread import Spread
from ada3d_ros.lab.command_line import parse_list
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.pruning.cost import Cost, DecoderShape, cost_of, information_macs, prefill_macs
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.pruning.ranking import cell_coverage, position_bias, question_relevance
from ada3d_ros.pruning.strategy import LayerPruner, Selection
from ada3d_ros.types import PromptSequence

ALL_STRATEGIES = [*(name for name in STRATEGIES if name != "none"), "voxel_dpp+adatoken3d"]
WARM_UPS = 1
CHOICES = 5  # that are timed at most; greedy DPP takes long
QUESTION_IDS = range(5, 5 + QUESTION_TEXT)
TOLERANCE = 1.15  # measured prefill ratio over FLOP ratio, CPU
GPU_KEEP_RATIO, GPU_PREFILL_RATIO = 0.37, 0.43  # of in-LLM strategies
MAX_OVERHEAD = {"cpu": 0.10, "cuda": 0.05}


@dataclass(eq=False, slots=True)
class Variant:
    """One strategy at one keep ratio on one scene, and what its last run gave.

    entered (k,) int64: which of the scene's tokens the prompt holds. selection_s: seconds of
    choosing them. reserve: decode steps that will be timed, for a cache that grows meanwhile would
    be timed too. rank_shares: of each prefill's time, what ranking took.
    """

    strategy: str
    policy: Policy
    prompt: PromptSequence
    pruner: LayerPruner | None
    entered: torch.Tensor
    selection_s: list[float]
    reserve: int
    output: PrefillOutput | None = None
    rank_shares: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.strategy}@{self.policy.keep_ratio:g}"

    def run_prefill(self, decoder: LlamaDecoder) -> None:
        """One prefill; keeps its output and the share that ranking took."""
        start = time.perf_counter()
        output = prefill(decoder, self.prompt, self.reserve, self.pruner)
        took_s = time.perf_counter() - start
        self.output = output
        share = output.rank_s / took_s if self.pruner is not None else 0.0
        self.rank_shares.append(share)

    def run_decode_step(self, decoder: LlamaDecoder) -> None:
        """One decode step on the last output's cache."""
        assert self.output is not None
        token = torch.zeros((), dtype=torch.int64, device=decoder.device)
        fed = decoder.embed(token)
        decode_step(decoder, fed, self.output.next_positions, self.output.cache)

    @torch.inference_mode()
    def run_first_token(self, model: Llava3D, camera: Camera) -> int:
        """Vision tower, pooling, choice, projector, prefill, first token."""
        tokens = camera.encode_scene(model)
        chosen = choose_tokens(model, tokens, self.policy, QUESTION_IDS)
        prompt = replace(self.prompt, embeds=self.prompt.embeds.clone())
        prompt.embeds[slice(*prompt.spatial_span)] = model.project(chosen.tokens.features)
        output = prefill(model.decoder, prompt, self.reserve, self.pruner)
        return int(output.logits.argmax())

    def cost(self, decoder: LlamaDecoder, total: int) -> Cost:
        """FLOPs and bytes of the last output, of a scene with `total` tokens."""
        assert self.output is not None
        shape, counts = DecoderShape.from_config(decoder.config), self.output.counts
        length, text = len(self.prompt.positions), len(self.prompt.positions) - counts[0]
        rank_macs, after = 0.0, length - self.prompt.spatial_span[1]
        if self.pruner is not None:
            rank_macs = self.pruner.ranking_macs(shape, counts, text, after)
        size = self.prompt.embeds.element_size()
        return cost_of(shape, counts, text, size, total, rank_macs)


def select_and_merge(scene: BenchScene, policy: Policy) -> Selection:
    """The choice before the language model, and the features that come of it.

    With likeness to the question where the strategy asks for it.
    """
    candidates = scene.candidates
    if policy.is_query_conditioned:
        relevance = question_relevance(scene.embeds, scene.question)
        candidates = replace(candidates, relevance=relevance)
    chosen = policy.select(candidates)
    chosen.merge(candidates.features)
    return chosen


def make_variant(
    decoder: LlamaDecoder, scene: BenchScene, strategy: str, policy: Policy, repetitions: int
) -> Variant:
    """Chooses before the language model (timed), builds the prompt and the pruner.

    Raises ConfigError where this decoder cannot reach the keep ratio.
    """
    total, device = len(scene), scene.embeds.device
    kept, seconds = torch.arange(total, device=device), list[float]()
    if policy.num_kept_pre_llm(total) < total:
        kept = select_and_merge(scene, policy).kept  # also the warm-up
        select, times = (
            functools.partial(select_and_merge, scene, policy),
            min(repetitions, CHOICES),
        )
        seconds = [timed(select, device).seconds(device) for _ in range(times)]
    prompt = scene.prompt(kept)
    pruner = pruner_for(decoder, policy, prompt, total)
    return Variant(strategy, policy, prompt, pruner, kept, seconds, reserve=repetitions + WARM_UPS)


def run_shape(
    shape: BenchShape, options: argparse.Namespace, device: torch.device, save: Save = ignore
) -> dict[str, Any]:
    """All strategies, keep ratios and scene sizes of one shape."""
    # Strategies and keep ratios; an unknown name ends it here.
    settings = BenchSettings.from_options(shape, options, device)
    names = parse_list(options.strategy, str, "--strategy") if options.strategy else ALL_STRATEGIES
    keep_ratios = parse_list(options.keep_ratio, float, "--keep-ratio")
    for strategy in names:
        from_flat({"pruning.strategy": strategy})
    wanted = [(strategy, keep_ratio) for keep_ratio in keep_ratios for strategy in names]

    # Scene by scene.
    decoder, model = make_model(shape, device, settings.dtype)
    head: dict[str, Any] = {
        **settings.head("pruning"),
        "text_tokens": SYSTEM_TEXT + QUESTION_TEXT,
        "information": [],
        "not_run": [],
    }
    rows = Rows(head, save)
    for count in shape.spatial:
        bench = _PruningBench(decoder, settings.make_scene(count), settings, wanted)
        head["not_run"] += bench.skipped
        found = bench.measure(rows.show)
        head["information"].append(bench.measure_information(options.stride))
        if model is not None:
            found = bench.add_first_token(found, model)
        rows.add(found)

    print(table(rows.rows))
    print_notes(rows.results, MAX_OVERHEAD[device.type])
    return rows.results


class _PruningBench:
    """The strategies on one scene, measured in turn; the unpruned one first, as the baseline.

    wanted: strategies and keep ratios. skipped: those out of reach, with the reason.
    """

    def __init__(
        self,
        decoder: LlamaDecoder,
        scene: BenchScene,
        settings: BenchSettings,
        wanted: Sequence[tuple[str, float]],
    ) -> None:
        self.decoder, self.scene, self.settings = decoder, scene, settings
        self.device, self.repetitions = settings.device, settings.repetitions
        self.variants = [self._variant("none", 1.0)]
        self.skipped: list[dict[str, Any]] = []
        for strategy, keep_ratio in wanted:
            try:
                self.variants.append(self._variant(strategy, keep_ratio))
            except Ada3DError as error:
                where = {"strategy": strategy, "keep_ratio": keep_ratio, "N": len(scene)}
                self.skipped.append(where | {"why": str(error)})

    def _variant(self, strategy: str, keep_ratio: float) -> Variant:
        policy = make_policy(strategy, keep_ratio, self.settings.seed)
        return make_variant(self.decoder, self.scene, strategy, policy, self.repetitions)

    def measure(self, show: Callable[[list[dict[str, Any]]], None]) -> list[dict[str, Any]]:
        """Prefill of all variants interleaved, then one decode step of all; one row each.

        show: gets the rows so far.
        """
        label, variants = self.settings.label(len(self.scene)), self.variants
        prefills = {v.name: functools.partial(v.run_prefill, self.decoder) for v in variants}
        no_steps: Times = {v.name: [] for v in variants}
        times = interleaved(
            prefills,
            self.repetitions,
            self.device,
            WARM_UPS,
            label,
            lambda times: show([self._row(v, times, no_steps) for v in variants]),
        )
        with torch.inference_mode():
            decodes = {v.name: functools.partial(v.run_decode_step, self.decoder) for v in variants}
            steps = interleaved(decodes, self.repetitions, self.device, WARM_UPS, "decode")
        return [self._row(v, times, steps) for v in variants]

    def _row(self, v: Variant, times: Times, steps: Times) -> dict[str, Any]:
        """times: of the prefills, steps: of the decode steps, both by variant."""
        # Measured against computed.
        output, device, total = v.output, self.device, len(self.scene)
        assert output is not None
        base, cost = self.variants[0].name, v.cost(self.decoder, total)
        flop_ratio = cost.prefill_flops / cost.unpruned_prefill_flops
        prefill_ratio = ratio_of(times[v.name], times[base], device)
        overhead = Spread.from_values(v.rank_shares[1:])  # without the warm-up
        target = self._target(v, flop_ratio)

        # Where the tokens of the last layer lie among all of the scene.
        last, xyz = v.entered[output.kept[-1]], self.scene.candidates.xyz_m
        return {
            "strategy": v.strategy,
            "keep_ratio": v.policy.keep_ratio,
            "N": total,
            "keep_ratio_achieved": float(np.mean(output.counts)) / total,
            "kept_last_layer": output.counts[-1],
            "prefill_ratio": prefill_ratio,
            "flop_ratio": flop_ratio,
            "prefill_over_flops": prefill_ratio.median / flop_ratio,
            "rank_share": overhead,
            "rank_flop_share": cost.rank_flops / (cost.prefill_flops + cost.rank_flops),
            "selection_ms": Spread.from_values([s * 1e3 for s in v.selection_s]),
            "prefill_ms": milliseconds(times[v.name], device),
            "prefill_wall_ms": wall_milliseconds(times[v.name]),
            "decode_ratio": ratio_of(steps[v.name], steps[base], device),
            "decode_step_ms": milliseconds(steps[v.name], device),
            "prefill_tflop": cost.prefill_flops / 1e12,
            "decode_gflop": cost.decode_flops / 1e9,
            "kv_ratio": cost.kv_bytes / cost.unpruned_kv_bytes,
            "kv_mib": cost.kv_bytes / 2**20,
            "coverage_0.5m": cell_coverage(xyz, last),
            "position_bias": position_bias(xyz, last),
            "target_ratio": target,
            "target_met": None if target is None else prefill_ratio.median <= target,
            "overhead_ok": overhead.median <= MAX_OVERHEAD[device.type],
        }

    def _target(self, v: Variant, flop_ratio: float) -> float | None:
        """The largest prefill ratio allowed.

        Small counts do not fill a GPU: there is one target there, where the paper's setting is.
        """
        if self.device.type != "cuda":
            return TOLERANCE * flop_ratio
        is_paper = v.policy.keep_ratio == GPU_KEEP_RATIO and v.pruner is not None
        return GPU_PREFILL_RATIO if is_paper else None

    def measure_information(self, stride: int) -> dict[str, Any]:
        """A pass that measures attention masses beside one that does not, both without a cache."""
        prompt, decoder = self.variants[0].prompt, self.decoder

        @torch.inference_mode()
        def plain() -> None:
            decoder.run_layers(0, decoder.config.num_layers, prompt.embeds[None], prompt.positions)

        runs = {"plain": plain, "measured": lambda: measure_information(decoder, prompt, stride)}
        times = interleaved(runs, self.repetitions, self.device, label="information")

        # What the FLOPs say.
        shape, count = DecoderShape.from_config(decoder.config), len(self.scene)
        full = prefill_macs(shape, [len(prompt.positions)] * shape.num_layers, with_head=False)
        more = information_macs(shape, count, QUESTION_TEXT, SYSTEM_TEXT, stride)
        return {
            "N": count,
            "stride": stride,
            "ratio": ratio_of(times["measured"], times["plain"], self.device),
            "flop_share": more / full,
        }

    def add_first_token(self, rows: list[dict[str, Any]], model: Llava3D) -> list[dict[str, Any]]:
        """The rows with the time from pixels to the first token, and the peak memory of that."""
        camera = make_camera(model.config.vision, self.scene, self.settings.seed)
        runs = {v.name: functools.partial(v.run_first_token, model, camera) for v in self.variants}

        # Caches of earlier runs would count as memory of the others.
        for v in self.variants:
            v.output = None
        peaks = {name: peak_memory_mib(run_once, self.device) for name, run_once in runs.items()}

        times = interleaved(runs, self.repetitions, self.device, label="first token")
        base = times[self.variants[0].name]
        return [
            row
            | {
                "first_token_ms": milliseconds(times[v.name], self.device),
                "first_token_ratio": ratio_of(times[v.name], base, self.device),
                "peak_memory_mib": peaks[v.name],
            }
            for row, v in zip(rows, self.variants, strict=True)
        ]


def peak_memory_mib(run_once: Callable[[], Any], device: torch.device) -> float:
    """Largest memory of the GPU's allocator during one run; NaN on a CPU."""
    if device.type != "cuda":
        return float("nan")
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    run_once()
    return torch.cuda.max_memory_allocated(device) / 2**20


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for a terminal."""
    lines = [
        f"{'strategy':<22} {'keep':>5} {'N':>5} {'last':>5} {'prefill ratio':>21} {'FLOPs':>6}"
        f" {'x':>5} {'rank':>6} {'choose ms':>9} {'KV':>5} {'cells':>5}"
    ]
    for r in rows:
        chosen = f"{r['selection_ms'].median:9.1f}" if r["selection_ms"].n else " " * 9
        lines.append(
            f"{r['strategy']:<22} {r['keep_ratio_achieved']:>5.3f} {r['N']:>5}"
            f" {r['kept_last_layer']:>5} {r['prefill_ratio']!s:>21} {r['flop_ratio']:>6.3f}"
            f" {r['prefill_over_flops']:>5.2f} {r['rank_share'].median:>6.1%} {chosen}"
            f" {r['kv_ratio']:>5.2f} {r['coverage_0.5m']:>5.2f}"
        )
    return "\n".join(lines)


def print_notes(results: dict[str, Any], max_overhead: float) -> None:
    """What information costs, what misses its target, what was not run."""
    for item in results["information"]:
        print(
            f"measuring information at N = {item['N']}, every {item['stride']}th query:"
            f" {item['ratio']} of an unpruned prefill, {item['flop_share']:.2%} more FLOPs"
        )
    for row in results["rows"]:
        if row["target_met"] is False or not row["overhead_ok"]:
            print(
                f"over target: {row['strategy']} at keep ratio {row['keep_ratio']:g}, N ="
                f" {row['N']}: prefill ratio {row['prefill_ratio'].median:.3f} (target"
                f" {row['target_ratio'] or math.nan:.3f}), ranking {row['rank_share'].median:.1%}"
                f" (target {max_overhead:.0%})"
            )
    for item in results["not_run"]:
        print(f"not run: {item['strategy']} at keep ratio {item['keep_ratio']:g}: {item['why']}")
