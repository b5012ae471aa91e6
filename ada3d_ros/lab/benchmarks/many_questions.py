"""Suite `many-questions` of `ada3d bench`: a place asked about 31 times, with and without the
scene's keys and values kept.

Cold, every question passes the whole prompt through the decoder; warm, the scene passes once (that
is counted in) and a question is its own rows. Vision is the same in all variants and left out.
Random weights: times are real, answers mean nothing, but whether warm gives the ones of cold does.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ada3d_ros.config import from_flat
from ada3d_ros.engine.decode import DecodeOutput, GenerationRequest, decode
from ada3d_ros.engine.prefill import PrefillOutput, prefill, prefill_question
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.engine.token_selection import pruner_for
from ada3d_ros.lab.benchmarks.batch import same_ids
from ada3d_ros.lab.benchmarks.bench import Timing, timed
from ada3d_ros.lab.benchmarks.models import (
    QUESTION_TEXT,
    SYSTEM_TEXT,
    BenchScene,
    BenchShape,
    choose_dtype,
    head_of,
    make_model,
    make_scene,
)
from ada3d_ros.lab.benchmarks.spread import Spread
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.in_llm import LayerPruner
from ada3d_ros.pruning.policy import Policy

FULL = {"scenes": 32, "questions": 1000}  # on a GPU
CPU_SCENES = 2
QUESTIONS = 31  # per scene; a rest goes to the first scenes
ANSWER = 3  # tokens each
COLD_EVERY = 5  # of the questions one is asked cold too
STRATEGY, KEEP_RATIO = "adatoken3d", 0.37
BASE = "cold unpruned"
COLD, WARM = (BASE, "cold pruned"), ("warm unpruned", "warm selected")
TARGET_RATIO = 0.30  # warm over cold unpruned, all questions of a scene


def questions_per_scene(
    shape: BenchShape, repetitions: int | None, device: torch.device
) -> list[int]:
    """How many questions each scene gets. Shape 7B on a GPU: all; else, or where --repetitions says
    how many scenes: 31 each.
    """
    if repetitions is None and device.type == "cuda" and shape.name == "7B":
        share, rest = divmod(FULL["questions"], FULL["scenes"])
        return [share + (scene < rest) for scene in range(FULL["scenes"])]
    return [QUESTIONS] * (repetitions or CPU_SCENES)


@torch.inference_mode()
def run_shape(
    shape: BenchShape, options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Scenes of the shape's middle size, one after the other."""
    dtype = choose_dtype(shape, options.precision, device)
    decoder, _ = make_model(shape, device, dtype)
    decoder.config = dataclasses.replace(
        decoder.config, eos_id=-1
    )  # every answer has all its tokens
    spatial = shape.spatial[len(shape.spatial) // 2]
    asked = questions_per_scene(shape, options.repetitions, device)
    scaled = None if sum(asked) == FULL["questions"] else FULL
    if scaled:
        print(
            f"scaled down: {len(asked)} scenes and {sum(asked)} questions of {FULL['scenes']} and"
            f" {FULL['questions']}"
        )
    print(f"cold is measured on every {COLD_EVERY}th question and scaled to all")
    scenes = []
    for number, questions in enumerate(asked):
        seed = options.seed + number
        scene = _Place(
            decoder, make_scene(spatial, shape.hidden, device, decoder.dtype, seed), questions, seed
        )
        if not number:
            scene.warm_up()
        scene.ask(f"shape {shape.name}, N = {spatial}, scene {number + 1} of {len(asked)}")
        scene.free()
        scenes.append(scene)
    rows = [row(variant, scenes, spatial) for variant in (*COLD, *WARM)]
    print(table(rows))
    return {
        **head_of("many-questions", shape, len(asked), dtype, device),
        "scenes": len(asked),
        "questions_per_scene": asked[-1],
        "questions": sum(asked),
        "scaled_from": scaled,
        "cold_sampled": {
            "every": COLD_EVERY,
            "questions": sum(len(scene.times[BASE]) for scene in scenes),
            "total": "mean of those asked times the number of questions",
        },
        "question_tokens": QUESTION_TEXT,
        "answer_tokens": ANSWER,
        "strategy": STRATEGY,
        "keep_ratio": KEEP_RATIO,
        "target_ratio": TARGET_RATIO,
        "rows": rows,
    }


class _Place:
    """One scene and the questions about it, asked every way in turn."""

    def __init__(self, decoder: LlamaDecoder, scene: BenchScene, questions: int, seed: int) -> None:
        self.decoder, self.scene, self.device = decoder, scene, decoder.device
        made = torch.Generator().manual_seed(seed)
        embeds = torch.randn(questions, QUESTION_TEXT, decoder.config.hidden_size, generator=made)
        self.questions = embeds.to(self.device, decoder.dtype)
        policy = Policy.from_config(
            from_flat({"pruning.strategy": STRATEGY, "pruning.seed": seed}).pruning, KEEP_RATIO
        )
        self.pruner = pruner_for(decoder, policy, scene.prompt(), len(scene.rows))
        self.prefixes: dict[str, ScenePrefix] = {}
        self.times: dict[str, list[Timing]] = {variant: [] for variant in (*COLD, *WARM)}
        self.builds: dict[str, Timing] = {}
        self.answers: dict[str, dict[int, DecodeOutput]] = {
            variant: {} for variant in (*COLD, *WARM)
        }
        self.kept = dict[str, float]()

    def pruner_of(self, variant: str) -> LayerPruner | None:
        return self.pruner if variant in (COLD[1], WARM[1]) else None

    def build(self, variant: str) -> None:
        """The scene through the decoder, in chunks."""
        self.prefixes[variant] = self.scene.build_prefix(self.decoder)

    def filled(self, variant: str, number: int) -> PrefillOutput:
        """Prefill of one question."""
        question, pruner = self.questions[number], self.pruner_of(variant)
        if variant in WARM:
            return prefill_question(self.prefixes[variant], question, ANSWER, pruner)
        text = torch.cat((self.scene.text[:SYSTEM_TEXT], question))
        return prefill(
            self.decoder, dataclasses.replace(self.scene, text=text).prompt(), ANSWER, pruner
        )

    def answer(self, variant: str, number: int) -> None:
        """One question, prefill and decode."""
        filled = self.filled(variant, number)
        self.answers[variant][number] = decode(self.decoder, filled, GenerationRequest(ANSWER))
        self.kept[variant] = float(np.mean(filled.counts)) / len(self.scene.rows)

    def warm_up(self) -> None:
        """Every variant once; nothing of it counts."""
        for variant in WARM:
            self.build(variant)
        for variant in (*COLD, *WARM):
            self.answer(variant, 0)
            self.answers[variant].clear()

    def ask(self, label: str) -> None:
        """The prefix of each warm variant, then question by question all variants that are due, in
        reversed order every other time.
        """
        for variant in WARM:
            self.builds[variant] = timed(functools.partial(self.build, variant), self.device)
        for number in tqdm(range(len(self.questions)), unit="question", desc=label):
            due = (*COLD, *WARM) if number % COLD_EVERY == 0 else WARM
            for variant in due if number % 2 == 0 else due[::-1]:
                self.times[variant].append(
                    timed(functools.partial(self.answer, variant, number), self.device)
                )

    def free(self) -> None:
        """Give the keys and values back."""
        self.prefixes.clear()

    def build_s(self, variant: str) -> float:
        """Seconds that the prefix took; 0 for a cold variant."""
        return self.builds[variant].of(self.device) if variant in WARM else 0.0

    def total_s(self, variant: str) -> float:
        """Seconds for all questions, the prefix included; of a cold variant scaled from those
        asked.
        """
        measured = [t.of(self.device) for t in self.times[variant]]
        return self.build_s(variant) + float(np.mean(measured)) * len(self.questions)

    def same_as_cold(self, variant: str) -> float:
        """Share of token ids that the unpruned cold run gave too, over the questions asked both
        ways.
        """
        cold = self.answers[BASE]
        return same_ids([self.answers[variant][number] for number in cold], list(cold.values()))


def row(variant: str, scenes: Sequence[_Place], spatial: int) -> dict[str, Any]:
    """One variant over all scenes; ratios scene by scene."""
    ms = [t.of(scene.device) * 1e3 for scene in scenes for t in scene.times[variant]]
    ratio = Spread.from_values([scene.total_s(variant) / scene.total_s(BASE) for scene in scenes])
    return {
        "variant": variant,
        "N": spatial,
        "keep_ratio_achieved": scenes[0].kept[variant],
        "total_s": sum(scene.total_s(variant) for scene in scenes),
        "build_ms": Spread.from_values(
            [scene.build_s(variant) * 1e3 for scene in scenes] if variant in WARM else []
        ),
        "question_ms": {
            "p50": float(np.percentile(ms, 50)),
            "p95": float(np.percentile(ms, 95)),
            "n": len(ms),
        },
        "ratio": ratio,
        "same_ids": float(np.mean([scene.same_as_cold(variant) for scene in scenes])),
        "target_met": ratio.median <= TARGET_RATIO if variant in WARM else None,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for a terminal."""
    lines = [
        f"{'variant':<15} {'N':>5} {'all questions, ratio':>22} {'total s':>8} {'scene ms':>9}"
        f" {'question p50 / p95 ms':>22} {'same ids':>8}"
    ]
    for r in rows:
        question = f"{r['question_ms']['p50']:.1f} / {r['question_ms']['p95']:.1f}"
        build = f"{r['build_ms'].median:.1f}" if r["build_ms"].n else "-"
        lines.append(
            f"{r['variant']:<15} {r['N']:>5} {r['ratio']!s:>22} {r['total_s']:>8.1f} {build:>9}"
            f" {question:>22} {r['same_ids']:>8.0%}"
        )
    for r in rows:
        if r["target_met"] is False:
            lines.append(
                f"over target: {r['variant']}: {r['ratio'].median:.3f} of cold unpruned, target"
                f" {TARGET_RATIO:.2f}"
            )
    return "\n".join(lines)
