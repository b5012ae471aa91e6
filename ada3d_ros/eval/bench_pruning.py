"""Suite `pruning` of `ada3d bench`: every strategy against the unpruned prefill, beside what its FLOPs say.

Random weights: times and memory are real, which tokens stay and so coverage is not. The scene is the surface of a room in
the model's token order. Choosing before the language model is scene-build time and reported apart.
"""

from __future__ import annotations

import argparse
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ada3d_ros.config import from_flat
from ada3d_ros.config.pruning import STRATEGIES
from ada3d_ros.engine.choose import pruner_for
from ada3d_ros.engine.decode import decode_step
from ada3d_ros.engine.information import decoder_shape
from ada3d_ros.engine.prefill import PrefillOutput, prefill
from ada3d_ros.errors import Ada3DError, ConfigError
from ada3d_ros.eval.bench import Spread, Timing, interleaved, ratio_of, timed
from ada3d_ros.model.config import DecoderConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.cost import cost_of
from ada3d_ros.pruning.coverage import cell_coverage, position_bias
from ada3d_ros.pruning.in_llm import LayerPruner
from ada3d_ros.pruning.pre_llm import Candidates
from ada3d_ros.pruning.strategies import Policy
from ada3d_ros.types import PromptSequence

SYSTEM_TEXT, QUESTION_TEXT = 36, 24  # tokens before and behind the scene, as LLaVA-3D's template has them
FEATURE_WIDTH = 1024  # of CLIP ViT-L
ROOM_M = (6.0, 5.0, 2.8)
VOXEL_M = 0.2
DECODE_STEPS = 8
TOLERANCE = 1.15  # measured ratio over FLOP ratio, CPU
MAX_OVERHEAD = {"cpu": 0.10, "cuda": 0.05}


@dataclass(frozen=True, slots=True)
class BenchShape:
    """Sizes of a decoder and its scenes; d, m and N shrink together, so that attention keeps its share."""

    name: str
    hidden: int
    layers: int
    intermediate: int
    spatial: tuple[int, ...]
    low_precision: bool = True  # bf16 where the processor has it

    @property
    def config(self) -> DecoderConfig:
        heads = self.hidden // 128
        return DecoderConfig(
            vocab_size=32000, hidden_size=self.hidden, intermediate_size=self.intermediate, num_layers=self.layers,
            num_heads=heads, num_kv_heads=heads,
        )  # fmt: skip


SHAPES = {
    "A": BenchShape("A", 1024, 8, 2752, (2560,)),
    "B": BenchShape("B", 1024, 32, 2752, (595,)),
    "C": BenchShape("C", 512, 32, 1376, (290,), low_precision=False),
    "7B": BenchShape("7B", 4096, 32, 11008, (850, 1700, 2560)),
}


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def make_decoder(config: DecoderConfig, device: torch.device, dtype: torch.dtype) -> LlamaDecoder:
    """Random weights made on the device: N(0, 0.02), norms 1."""
    with torch.device("meta"):
        decoder = LlamaDecoder(config)
    decoder = decoder.to(dtype).to_empty(device=device).requires_grad_(False).eval()
    for name, parameter in decoder.named_parameters():
        if "norm" in name:
            parameter.fill_(1.0)
        else:
            parameter.normal_(0.0, 0.02)
    return decoder


@dataclass(frozen=True, eq=False, slots=True)
class BenchScene:
    """Spatial tokens as pooling would give them, and the rows that the projector would make of them."""

    candidates: Candidates
    rows: torch.Tensor  # (N, D)
    text: torch.Tensor  # (SYSTEM_TEXT + QUESTION_TEXT, D)

    def prompt(self, kept: torch.Tensor | None = None) -> PromptSequence:
        """The prompt with all spatial tokens, or with those kept (k,)."""
        rows, xyz = self.rows, self.candidates.xyz_m
        if kept is not None:
            rows, xyz = rows[kept], xyz[kept]
        embeds = torch.cat((self.text[:SYSTEM_TEXT], rows, self.text[SYSTEM_TEXT:]))
        span = (SYSTEM_TEXT, SYSTEM_TEXT + len(rows))
        return PromptSequence(embeds, torch.arange(len(embeds), device=embeds.device), span, xyz)


def make_scene(count: int, hidden: int, device: torch.device, dtype: torch.dtype, seed: int) -> BenchScene:
    """`count` voxels on the floor and walls of a room, x-major; features of neighbours are alike, as a real room's are."""
    axes = [torch.arange(0.0, size + 1e-6, VOXEL_M) for size in ROOM_M]
    grid = torch.cartesian_prod(*axes)
    size = torch.tensor(ROOM_M)
    surface = (grid[:, 2] == 0) | (grid[:, :2] < 1e-6).any(dim=1) | (grid[:, :2] > size[:2] - 1e-3).any(dim=1)
    points = grid[surface]
    if len(points) < count:  # the largest scenes: a second layer behind the walls and under the floor
        points = torch.cat((points, points + torch.tensor([0.07, 0.07, -VOXEL_M])))
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.sort(torch.randperm(len(points), generator=generator)[:count]).values
    xyz = points[chosen]
    waves = torch.randn(3, FEATURE_WIDTH, generator=generator)
    features = torch.sin(xyz @ waves) + 0.5 * torch.randn(count, FEATURE_WIDTH, generator=generator)
    relevance = torch.rand(count, generator=generator)
    ones = torch.ones(count, dtype=torch.int64)
    candidates = Candidates(features.to(device, dtype), xyz.to(device), ones.to(device), VOXEL_M, relevance.to(device))
    rows = torch.randn(count, hidden, generator=generator).to(device, dtype)
    text = torch.randn(SYSTEM_TEXT + QUESTION_TEXT, hidden, generator=generator).to(device, dtype)
    return BenchScene(candidates, rows, text)


@dataclass(eq=False, slots=True)
class Variant:
    """One strategy at one keep ratio on one scene, and what its last run gave."""

    strategy: str
    keep_ratio: float
    policy: Policy
    prompt: PromptSequence
    pruner: LayerPruner | None
    entered: torch.Tensor  # (k,) indices of the tokens in the prompt among the scene's
    selection_s: list[float]
    outputs: list[PrefillOutput]
    shares: list[float]

    def run(self, decoder: LlamaDecoder) -> None:
        """One prefill; keeps the last output and every share that ranking took."""
        output = prefill(decoder, self.prompt, DECODE_STEPS, self.pruner)
        self.outputs[:] = [output]
        self.shares.append(output.rank_s / output.prefill_s if self.pruner is not None else 0.0)


def make_variant(
    decoder: LlamaDecoder, scene: BenchScene, strategy: str, keep: float, repetitions: int, seed: int
) -> Variant:
    """Chooses before the language model (timed), builds the prompt and the pruner. Raises ConfigError out of reach."""
    policy = Policy.of(from_flat({"pruning.strategy": strategy, "pruning.seed": seed}).pruning, keep)
    total, device = len(scene.rows), scene.rows.device
    kept, seconds = torch.arange(total, device=device), list[float]()
    if policy.entering(total) < total:
        kept = policy.select(scene.candidates).kept  # also the warm-up
        for _ in range(repetitions):
            timing = timed(lambda: policy.select(scene.candidates), device)
            seconds.append(timing.of(device))
    prompt = scene.prompt(kept)
    pruner = pruner_for(decoder, policy, prompt, total, list)
    return Variant(strategy, keep, policy, prompt, pruner, kept, seconds, [], shares=[])


def run(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The suite; prints a table and returns what goes into the JSON."""
    name = options.shape or ("7B" if device.type == "cuda" else "C")
    shape = SHAPES[name]
    if name == "7B" and device.type == "cpu":
        raise ConfigError(
            "shape 7B is for a CUDA GPU (a prefill would take minutes on a core); use A, B or C on a CPU."
        )
    low = shape.low_precision and (device.type == "cuda" or has_bfloat16())
    dtype = {"auto": torch.bfloat16 if low else torch.float32, "bf16": torch.bfloat16, "fp32": torch.float32}
    repetitions = options.repetitions or (20 if device.type == "cuda" else 5)
    strategies = options.strategies or [*(s for s in STRATEGIES if s != "none"), "voxel_dpp+adatoken3d"]
    decoder = make_decoder(shape.config, device, dtype[options.precision])
    rows, skipped = [], []
    for count in shape.spatial:
        scene = make_scene(count, shape.hidden, device, decoder.dtype, options.seed)
        variants = [make_variant(decoder, scene, "none", 1.0, 1, options.seed)]
        for keep in options.keep_ratio:
            for strategy in strategies:
                try:
                    variants.append(make_variant(decoder, scene, strategy, keep, repetitions, options.seed))
                except Ada3DError as error:
                    skipped.append({"strategy": strategy, "keep_ratio": keep, "N": count, "why": str(error)})
        rows += measure(decoder, scene, variants, repetitions, device, f"shape {name}, N = {count}")
    print(table(rows))
    for item in skipped:
        print(f"not run: {item['strategy']} at keep ratio {item['keep_ratio']:g}: {item['why']}")
    return {
        "suite": "pruning",
        "shape": name,
        "n": repetitions,
        "random_weights": True,
        "dtype": str(decoder.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "text_tokens": SYSTEM_TEXT + QUESTION_TEXT,
        "sizes": {"hidden": shape.hidden, "layers": shape.layers, "intermediate": shape.intermediate},
        "rows": rows,
        "not_run": skipped,
    }


def measure(
    decoder: LlamaDecoder,
    scene: BenchScene,
    variants: list[Variant],
    repetitions: int,
    device: torch.device,
    label: str,
) -> list[dict[str, Any]]:
    """Prefill of all variants interleaved, then decode steps of all interleaved; one row each."""

    def name(v: Variant) -> str:
        return f"{v.strategy}@{v.keep_ratio:g}"

    prefills = {name(v): functools.partial(v.run, decoder) for v in variants}
    times = interleaved(prefills, repetitions, device, label=label)
    token = torch.zeros((), dtype=torch.int64, device=device)

    def step(v: Variant) -> None:
        output = v.outputs[0]
        decode_step(decoder, token, output.next_positions, output.cache)

    decodes = {name(v): functools.partial(step, v) for v in variants}
    with torch.inference_mode():
        steps = interleaved(decodes, repetitions, device, label="decode")
    baseline = name(variants[0])
    return [
        _row(decoder, scene, v, times[name(v)], times[baseline], steps[name(v)], steps[baseline], device)
        for v in variants
    ]


def _row(
    decoder: LlamaDecoder,
    scene: BenchScene,
    v: Variant,
    times: list[Timing],
    baseline: list[Timing],
    steps: list[Timing],
    base_steps: list[Timing],
    device: torch.device,
) -> dict[str, Any]:
    total, output = len(scene.rows), v.outputs[0]
    cost = cost_of(
        decoder_shape(decoder.config),
        output.counts,
        text=len(v.prompt.positions) - output.counts[0],
        element_size=v.prompt.embeds.element_size(),
        rank_lag=v.pruner.rank_lag if v.pruner is not None else 0,
        original=total,
    )
    last = v.entered[output.kept[-1]]
    measured, flop_ratio = ratio_of(times, baseline, device), cost.prefill_flops / cost.unpruned_prefill_flops
    overhead = Spread.of(v.shares[1:])  # without the warm-up
    return {
        "strategy": v.strategy,
        "keep_ratio": v.keep_ratio,
        "N": total,
        "keep_ratio_achieved": float(np.mean(output.counts)) / total,
        "kept_last_layer": output.counts[-1],
        "prefill_ratio": measured,
        "flop_ratio": flop_ratio,
        "prefill_over_flops": measured.median / flop_ratio,
        "rank_share": overhead,
        "rank_flop_share": cost.rank_flops / (cost.prefill_flops + cost.rank_flops),
        "selection_ms": Spread.of([s * 1e3 for s in v.selection_s]),
        "prefill_ms": Spread.of([t.of(device) * 1e3 for t in times]),
        "prefill_wall_ms": Spread.of([t.wall_s * 1e3 for t in times]),
        "decode_ratio": ratio_of(steps, base_steps, device),
        "decode_step_ms": Spread.of([t.of(device) * 1e3 for t in steps]),
        "prefill_tflop": cost.prefill_flops / 1e12,
        "decode_gflop": cost.decode_flops / 1e9,
        "kv_ratio": cost.kv_bytes / cost.unpruned_kv_bytes,
        "kv_mib": cost.kv_bytes / 2**20,
        "coverage_0.5m": cell_coverage(scene.candidates.xyz_m, last),
        "position_bias": position_bias(scene.candidates.xyz_m, last),
        "within_flops": measured.median <= TOLERANCE * flop_ratio,
        "overhead_ok": overhead.median <= MAX_OVERHEAD[device.type],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows for a terminal."""
    head = f"{'strategy':<22} {'keep':>5} {'N':>5} {'last':>5} {'prefill ratio':>21} {'FLOPs':>6} {'x':>5} {'rank':>6} {'choose ms':>9} {'KV':>5} {'cells':>5}"
    lines = [head]
    for r in rows:
        chosen = f"{r['selection_ms'].median:9.1f}" if r["selection_ms"].n else " " * 9
        lines.append(
            f"{r['strategy']:<22} {r['keep_ratio_achieved']:>5.3f} {r['N']:>5} {r['kept_last_layer']:>5} {r['prefill_ratio']!s:>21} "
            f"{r['flop_ratio']:>6.3f} {r['prefill_over_flops']:>5.2f} {r['rank_share'].median:>6.1%} {chosen} {r['kv_ratio']:>5.2f} "
            f"{r['coverage_0.5m']:>5.2f}"
        )
    return "\n".join(lines)
