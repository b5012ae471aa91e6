"""Suite `default` of `ada3d bench`: the scene pruned while it is built, against the whole scene.

Both are cached; every question then runs on its own of the two as it is, with the node's default
settings. Beside them stands transformers on the same weights, reading the scene anew or holding it
too. Times, FLOPs and bytes are real; with random weights the answers mean nothing.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable
from typing import Any

import torch

from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.decode import GenerationRequest, decode, prepare_decoding
from ada3d_ros.engine.prefill import PrefillOutput, prefill, prefill_question
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.errors import ModelError
from ada3d_ros.lab.benchmarks.bench import (
    Save,
    Times,
    Timing,
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
    make_model,
    make_policy,
    recorded_queries,
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
from ada3d_ros.pruning.question_queries import RecordedQueries

ANSWERS = (1, 3, 30)  # tokens
LONGEST = max(ANSWERS)
LEAST_S = 0.1  # one measurement lasts so long: what is shorter runs several times
MOST_RUNS = 20
# Ratios measured: variant, baseline.
MEASURED_RATIOS = {
    "default_first_over_unpruned": ("first_default", "first_unpruned"),
    **{
        f"default_{n}_over_unpruned": (f"total_{n}_default", f"total_{n}_unpruned") for n in ANSWERS
    },
    "build_pruned_over_full": ("build_pruned", "build_full"),
    "pruned_scene_first_over_unpruned": ("first_pruned", "first_unpruned"),
    f"pruned_scene_{LONGEST}_over_unpruned": (
        f"total_{LONGEST}_pruned",
        f"total_{LONGEST}_unpruned",
    ),
    f"warm_{LONGEST}_over_transformers_cached": (
        f"total_{LONGEST}_unpruned",
        "transformers_dynamic",
    ),
    f"warm_{LONGEST}_over_transformers_static": (
        f"total_{LONGEST}_unpruned",
        "transformers_static",
    ),
    f"warm_{LONGEST}_over_transformers_compiled": (
        f"total_{LONGEST}_unpruned",
        "transformers_compiled",
    ),
    f"warm_{LONGEST}_over_transformers_cold": (f"total_{LONGEST}_unpruned", "transformers_cold"),
    f"warm_{LONGEST}_over_transformers_cold_compiled": (
        f"total_{LONGEST}_unpruned",
        "transformers_cold_compiled",
    ),
    "warm_first_over_cold": ("first_unpruned", "cold"),
    "pruned_prefill_over_full": ("cold_pruned", "cold"),
}
EVERYWHERE = 1.03  # of a default that is never the slower one
TARGETS: dict[str, dict[str, float]] = {  # largest ratio by shape, on a GPU under "cuda"
    "build_pruned_over_full": {"A": 0.55},
    "kv_held_over_full": {"A": 0.44, "B": 0.48},
    "pruned_scene_first_over_unpruned": {"A": 0.85, "B": 0.92},
    "pruned_scene_30_over_unpruned": {"A": 0.88, "B": 0.95},
    "warm_30_over_transformers_cached": {"A": 0.75, "B": 0.75, "C": 0.90},
    "warm_30_over_transformers_compiled": {"cuda": 1.0},
    "warm_first_over_cold": {"cuda": 0.08},
    "pruned_prefill_over_full": {"cuda": 0.43},
}
PAPERS_KEEP_RATIO = 0.37  # of the cold prompt pruned on the way


@torch.inference_mode()
def run_shape(
    shape: BenchShape, options: argparse.Namespace, device: torch.device, save: Save = ignore
) -> dict[str, Any]:
    """The largest scene of a shape."""
    settings = BenchSettings.from_options(shape, options, device, cpu_repetitions=5)
    decoder, _ = make_model(shape, device, settings.dtype)
    queries = recorded_queries(shape, decoder)
    bench = DefaultBench(decoder, settings.make_scene(max(shape.spatial)), queries=queries)
    head = {
        **settings.head("default"),
        "N": len(bench.scene),
        "text_tokens": SYSTEM_TEXT + QUESTION_TEXT,
        "proxy_tokens": sum(map(len, bench.pruner.prompts)),
        "ranking": bench.pruner.ranking.name,
        "prune": AgentConfig().cache.prune,
        "strategy": AgentConfig().pruning.strategy,
        "keep_ratio": AgentConfig().pruning.keep_ratio,
        "absent": absent_caches(device),
        "counts": bench.counts(),
    }

    def join(measured: dict[str, Any]) -> dict[str, Any]:
        ratios = {**measured["ratios"], **bench.computed()}
        return {
            **head,
            **measured,
            "ratios": ratios,
            "targets": targets(ratios, "cuda" if device.type == "cuda" else shape.name),
        }

    label = settings.label(len(bench.scene))
    results = join(bench.measure(settings.repetitions, label, lambda found: save(join(found))))
    print(table(results))
    return results


class DefaultBench:
    """One scene cached whole and cached pruned, and one question about it.

    queries: the model's recorded questions, where it has them. cold: also read anew by our own
    engine, which on a CPU takes longer than all the rest.
    """

    def __init__(
        self,
        decoder: LlamaDecoder,
        scene: BenchScene,
        cold: bool | None = None,
        queries: RecordedQueries | None = None,
    ) -> None:
        self.decoder, self.scene, self.device = decoder, scene, decoder.device
        self.cold = self.device.type == "cuda" if cold is None else cold
        self.pruner = scene.build_scene_pruner(decoder, queries=queries)
        self.prefixes = {name: self.build(name) for name in ("unpruned", "pruned")}
        is_pruned = AgentConfig().cache.prune in ("build", "auto")
        for prefix in self.prefixes.values():  # as the node keeps them
            prepare_decoding(decoder, prefix.cache)
        self.prefixes["default"] = self.prefixes["pruned" if is_pruned else "unpruned"]
        self.rival, text = TransformersRival(decoder), torch.cat((scene.system, scene.embeds))
        self.held = {
            cache: HeldScene(self.rival, text, QUESTION_TEXT + LONGEST, cache)
            for cache in CACHES
            if cache not in absent_caches(self.device)
        }

    def build(self, name: str) -> ScenePrefix:
        """The scene through the decoder, whole or pruned on the way."""
        pruner = self.pruner if name == "pruned" else None
        return self.scene.build_prefix(self.decoder, pruner=pruner)

    def first(self, name: str) -> PrefillOutput:
        """The question on one of the prefixes, to the first token."""
        output = prefill_question(self.prefixes[name], self.scene.question, LONGEST)
        output.logits.argmax().item()
        return output

    def total(self, name: str, tokens: int) -> None:
        """The question and exactly so many tokens of its answer."""
        output = prefill_question(self.prefixes[name], self.scene.question, LONGEST)
        if len(decode(self.decoder, output, GenerationRequest(tokens)).token_ids) != tokens:
            raise ModelError("an answer ended early: the times would not compare.")

    def cold_first(self, keep_ratio: float | None = None) -> None:
        """The whole prompt, pruned on the way to keep_ratio, to the first token."""
        pruner = None
        if keep_ratio is not None:
            pruner = self.scene.build_pruner(self.decoder, make_policy("adatoken3d", keep_ratio))
        prefill(self.decoder, self.scene.prompt(), LONGEST, pruner).logits.argmax().item()

    def variants(self) -> dict[str, Callable[[], Any]]:
        """By the names in MEASURED_RATIOS."""
        found: dict[str, Callable[[], Any]] = {
            "build_full": functools.partial(self.build, "unpruned"),
            "build_pruned": functools.partial(self.build, "pruned"),
        }
        same = self.prefixes["default"] is self.prefixes["pruned"]
        for name in ("unpruned", "pruned") if same else ("unpruned", "pruned", "default"):
            found[f"first_{name}"] = functools.partial(self.first, name)
            for tokens in ANSWERS:
                found[f"total_{tokens}_{name}"] = functools.partial(self.total, name, tokens)
        prompt, question = self.scene.prompt(), self.scene.question
        found["transformers_cold"] = functools.partial(
            self.rival.total, prompt, LONGEST, may_compile=False
        )
        for cache, held in self.held.items():
            found[f"transformers_{cache}"] = functools.partial(held.answer, question, LONGEST)
        if self.cold:
            found["cold"] = self.cold_first
            found["cold_pruned"] = functools.partial(self.cold_first, PAPERS_KEEP_RATIO)
        if "compiled" in self.held:
            found["transformers_cold_compiled"] = functools.partial(
                self.rival.total, prompt, LONGEST
            )
        return found

    def measure(
        self, repetitions: int, label: str, show: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """All variants interleaved; show: gets what there is so far.

        What must be compiled first, for minutes, comes when all others are measured, beside the
        answers that it is compared with.
        """
        variants = self.variants()
        late = [name for name in variants if name.endswith("compiled")]
        soon = {name: run for name, run in variants.items() if name not in late}
        found = self._interleave(soon, repetitions, label, show)
        if not late:
            return found
        compared = {name: variants[name] for name in (f"total_{LONGEST}_unpruned", *late)}

        def join(more: dict[str, Any]) -> dict[str, Any]:
            return {key: {**more[key], **found[key]} for key in found}

        more = self._interleave(compared, repetitions, label, lambda found: show(join(found)))
        return join(more)

    def _interleave(
        self,
        variants: dict[str, Callable[[], Any]],
        repetitions: int,
        label: str,
        show: Callable[[dict[str, Any]], None],
    ) -> dict[str, Any]:
        runs = dict[str, int]()
        for name, run in variants.items():
            took_s = timed(run, self.device).seconds(self.device)
            if took_s < LEAST_S:  # more than this one was warming up
                took_s = timed(run, self.device).seconds(self.device)
            runs[name] = min(MOST_RUNS, max(1, math.ceil(LEAST_S / max(took_s, 1e-6))))

        def repeat(run: Callable[[], Any], count: int) -> None:
            for _ in range(count):
                run()

        repeated = {
            name: functools.partial(repeat, run, runs[name]) for name, run in variants.items()
        }

        def measured(times: Times) -> dict[str, Any]:
            each = {name: [t / runs[name] for t in found] for name, found in times.items()}
            return self._measured(each)

        times = interleaved(
            repeated,
            repetitions,
            self.device,
            warm_ups=0,  # each has run
            label=label,
            after_round=lambda so_far: show(measured(so_far)),
        )
        return measured(times)

    def _measured(self, times: dict[str, list[Timing]]) -> dict[str, Any]:
        if self.prefixes["default"] is self.prefixes["pruned"]:
            named = [name for name in times if name.endswith("_pruned") and name != "build_pruned"]
            for name in named:
                times[f"{name.removesuffix('pruned')}default"] = times[name]
        ratios = {
            name: ratio_of(times[variant], times[base], self.device)
            for name, (variant, base) in MEASURED_RATIOS.items()
            if variant in times and base in times
        }
        return {
            "ratios": ratios,
            "ms": {name: milliseconds(values, self.device) for name, values in times.items()},
            "wall_ms": {name: wall_milliseconds(values) for name, values in times.items()},
        }

    def computed(self) -> dict[str, float]:
        """Ratios of FLOPs and bytes, which need no clock: of the build with what rides along, and
        of the keys and values that are held.
        """
        full, pruned = self.prefixes["unpruned"], self.prefixes["pruned"]
        return {
            "flop_ratio": pruned.macs / full.macs,
            "kv_held_over_full": sum(pruned.lengths) / sum(full.lengths),
        }

    def counts(self) -> dict[str, Any]:
        """What each layer holds, and the bytes of it with the room for a question."""
        return {
            name: {
                "tokens_held": list(prefix.lengths),
                "build_gmac": prefix.macs / 1e9,
                "buffer_bytes": prefix.num_bytes,
            }
            for name, prefix in self.prefixes.items()
            if name != "default"
        }


def targets(ratios: dict[str, Spread | float], where: str) -> dict[str, dict[str, Any]]:
    """Aims by ratio: the largest value allowed, and whether the median keeps it.

    where: the shape, or "cuda". Ratios without an aim there, or not measured, are left out.
    """
    aims = {name: EVERYWHERE for name in ratios if name.startswith("default_")}
    aims |= {name: by[where] for name, by in TARGETS.items() if where in by and name in ratios}
    return {
        name: {"at_most": aim, "met": median_of(ratios[name]) <= aim} for name, aim in aims.items()
    }


def median_of(ratio: Spread | float) -> float:
    """Of a measured ratio; a computed one is itself."""
    return ratio.median if isinstance(ratio, Spread) else ratio


def table(results: dict[str, Any]) -> str:
    """Times and ratios for a terminal."""
    lines = [f"shape {results['shape']}, N={results['N']}, {results['dtype']}, n={results['n']}"]
    lines += [
        f"  {name:<22} {spread.median:>10.1f} ms [{spread.min:.1f} to {spread.max:.1f}]"
        for name, spread in results["ms"].items()
    ]
    for name, ratio in results["ratios"].items():
        aim = results["targets"].get(name)
        shown = str(ratio) if isinstance(ratio, Spread) else f"{ratio:.3f}"
        note = f"   aim {aim['at_most']:.2f}: {'met' if aim['met'] else 'missed'}" if aim else ""
        lines.append(f"  {name:<36} {shown}{note}")
    for cache, why in results["absent"].items():
        lines.append(f"  not run: transformers, scene held, {cache}: {why}")
    return "\n".join(lines)
