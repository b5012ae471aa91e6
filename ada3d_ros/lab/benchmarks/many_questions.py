"""Suite `many-questions` of `ada3d bench`: a place asked about 31 times, cold and warm.

Cold, every question passes the whole prompt through the decoder; warm, the scene passes once (that
is counted in) and a question is its own tokens: on the whole scene, with keys selected from it for
each question, or on one pruned while it was built, as the node does. Beside them transformers holds
the scene on the same weights. Vision is the same in all variants and left out. Random weights:
times are real, answers mean nothing, but whether warm gives the ones of cold does.
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

from ada3d_ros.engine.decode import GenerationRequest, decode
from ada3d_ros.engine.prefill import PrefillOutput, prefill, prefill_question
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.lab.benchmarks.batch import same_ids
from ada3d_ros.lab.benchmarks.bench import Save, Timing, ignore, timed
from ada3d_ros.lab.benchmarks.models import (
    QUESTION_TEXT,
    BenchScene,
    BenchSettings,
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
from ada3d_ros.pruning.strategy import LayerPruner

FULL = {"scenes": 32, "questions": 1000}  # on a GPU
CPU_SCENES = 5
QUESTIONS = 31  # per scene; a rest goes to the first scenes
ANSWER = 3  # tokens each
COLD_EVERY = 5  # of the questions one is asked cold too
STRATEGY, KEEP_RATIO = "adatoken3d", 0.37
BASE = "cold unpruned"
BUILT = "warm pruned"  # while the scene was built, at the default keep ratio
COLD, WARM = (BASE, "cold pruned"), ("warm unpruned", "warm selected", BUILT)
PRUNED = (COLD[1], WARM[1])  # for each question
RIVALS = {f"transformers {cache}": cache for cache in CACHES}  # with the scene held
TARGET_RATIO = 0.30  # warm over cold unpruned, all questions of a scene


def questions_per_scene(
    shape: BenchShape, repetitions: int | None, device: torch.device
) -> list[int]:
    """How many questions each scene gets.

    Shape 7B on a GPU: all; else, or where --repetitions says how many scenes: 31 each.
    """
    if repetitions is None and device.type == "cuda" and shape.name == "7B":
        share, rest = divmod(FULL["questions"], FULL["scenes"])
        return [share + (scene < rest) for scene in range(FULL["scenes"])]
    return [QUESTIONS] * (repetitions or CPU_SCENES)


@torch.inference_mode()
def run_shape(
    shape: BenchShape, options: argparse.Namespace, device: torch.device, save: Save = ignore
) -> dict[str, Any]:
    """Scenes of the shape's middle size, one after the other."""
    asked = questions_per_scene(shape, options.repetitions, device)
    settings = BenchSettings.from_options(shape, options, device)
    settings = dataclasses.replace(settings, repetitions=len(asked))
    decoder, _ = make_model(shape, device, settings.dtype)
    spatial = shape.spatial[len(shape.spatial) // 2]
    rival, absent = TransformersRival(decoder), absent_caches(device)
    rivals = [name for name, cache in RIVALS.items() if cache not in absent]

    # Say what is left out of the full run.
    scaled = None if sum(asked) == FULL["questions"] else FULL
    if scaled:
        print(
            f"scaled down: {len(asked)} scenes and {sum(asked)} questions of {FULL['scenes']} and"
            f" {FULL['questions']}"
        )
    print(f"cold is measured on every {COLD_EVERY}th question and scaled to all")

    def results() -> dict[str, Any]:
        return {
            **settings.head("many-questions"),
            "scenes": len(asked),
            "questions_per_scene": asked[-1],
            "questions": sum(asked),
            "scaled_from": scaled,
            "cold_sampled": {
                "every": COLD_EVERY,
                "questions": sum(len(place.times[BASE]) for place in scenes),
                "total": "mean of those asked times the number of questions",
            },
            "question_tokens": QUESTION_TEXT,
            "answer_tokens": ANSWER,
            "strategy": STRATEGY,
            "keep_ratio": KEEP_RATIO,
            "target_ratio": TARGET_RATIO,
            "absent": absent,
            "rows": [row(variant, scenes, spatial) for variant in (*COLD, *WARM, *rivals)],
        }

    # One scene at a time in memory; the first one warms up.
    scenes: list[PlaceQuestions] = []
    for number, questions in enumerate(asked):
        seed = settings.seed + number
        scene = dataclasses.replace(settings, seed=seed).make_scene(spatial)
        place = PlaceQuestions(decoder, scene, questions, seed, rival, rivals)
        if not number:
            place.warm_up()
        place.ask_all(f"{settings.label(spatial)}, scene {number + 1} of {len(asked)}")
        place.free()
        scenes.append(place)
        save(results())

    found = results()
    print(table(found["rows"]))
    return found


class PlaceQuestions:
    """One scene and the questions (n, QUESTION_TEXT, D) about it, asked every way in turn.

    rivals: names of RIVALS that hold the scene beside our own.
    """

    def __init__(
        self,
        decoder: LlamaDecoder,
        scene: BenchScene,
        questions: int,
        seed: int,
        rival: TransformersRival,
        rivals: Sequence[str] = (),
    ) -> None:
        self.decoder, self.scene, self.device = decoder, scene, decoder.device
        generator = torch.Generator().manual_seed(seed)
        size = (questions, QUESTION_TEXT, decoder.config.hidden_size)
        self.questions = torch.randn(*size, generator=generator).to(self.device, decoder.dtype)
        self.pruner = scene.build_pruner(decoder, make_policy(STRATEGY, KEEP_RATIO, seed))
        self.scene_pruner = scene.build_scene_pruner(decoder)
        self.rival, self.holding = rival, (*WARM, *rivals)  # the scene is theirs before a question
        self.prefixes: dict[str, ScenePrefix] = {}
        self.held: dict[str, HeldScene] = {}
        self.builds: dict[str, Timing] = {}
        self.kept = dict[str, float]()
        variants = (*COLD, *self.holding)
        self.times: dict[str, list[Timing]] = {variant: [] for variant in variants}
        self.answers: dict[str, dict[int, Sequence[int]]] = {variant: {} for variant in variants}

    def pruner_of(self, variant: str) -> LayerPruner | None:
        return self.pruner if variant in PRUNED else None

    def build(self, variant: str) -> None:
        """The scene through the decoder: whole in chunks, pruned on the way, or by transformers."""
        if variant in RIVALS:
            text = torch.cat((self.scene.system, self.scene.embeds))
            room = QUESTION_TEXT + ANSWER
            self.held[variant] = HeldScene(self.rival, text, room, RIVALS[variant])
            return
        pruner = self.scene_pruner if variant == BUILT else None
        self.prefixes[variant] = self.scene.build_prefix(self.decoder, pruner=pruner)

    def prefill(self, variant: str, number: int) -> PrefillOutput:
        """One question up to its first token's logits."""
        question, pruner = self.questions[number], self.pruner_of(variant)
        if variant in WARM:
            return prefill_question(self.prefixes[variant], question, ANSWER, pruner)
        text = torch.cat((self.scene.system, question))
        prompt = dataclasses.replace(self.scene, text=text).prompt()
        return prefill(self.decoder, prompt, ANSWER, pruner)

    def answer(self, variant: str, number: int) -> None:
        """One question, prefill and decode."""
        if variant in RIVALS:
            self.answers[variant][number] = self.held[variant].answer(
                self.questions[number], ANSWER
            )
            self.kept[variant] = 1.0
            return
        output = self.prefill(variant, number)
        self.answers[variant][number] = decode(
            self.decoder, output, GenerationRequest(ANSWER)
        ).token_ids
        self.kept[variant] = float(np.mean(output.counts)) / len(self.scene)

    def warm_up(self) -> None:
        """Every variant once; nothing of it counts."""
        for variant in self.holding:
            self.build(variant)
        for variant in (*COLD, *self.holding):
            self.answer(variant, 0)
            self.answers[variant].clear()

    def ask_all(self, label: str) -> None:
        """The scene of each variant that holds one, then question by question all that are due.

        The order is reversed every other time.
        """
        for variant in self.holding:
            self.builds[variant] = timed(functools.partial(self.build, variant), self.device)
        for number in tqdm(range(len(self.questions)), unit="question", desc=label, disable=None):
            due = (*COLD, *self.holding) if number % COLD_EVERY == 0 else self.holding
            for variant in due if number % 2 == 0 else due[::-1]:
                answer = functools.partial(self.answer, variant, number)
                self.times[variant].append(timed(answer, self.device))

    def free(self) -> None:
        """Free the keys and values."""
        self.prefixes.clear()
        self.held.clear()

    def build_s(self, variant: str) -> float:
        """Seconds that holding the scene took; 0 for a cold variant."""
        return 0.0 if variant in COLD else self.builds[variant].seconds(self.device)

    def total_s(self, variant: str) -> float:
        """Seconds for all questions, the scene included; cold scaled from those asked."""
        measured = [t.seconds(self.device) for t in self.times[variant]]
        return self.build_s(variant) + float(np.mean(measured)) * len(self.questions)

    def same_as_cold(self, variant: str) -> float:
        """Share of token ids that the unpruned cold run gave too, of questions asked both ways."""
        cold = self.answers[BASE]
        return same_ids([self.answers[variant][number] for number in cold], list(cold.values()))


def row(variant: str, scenes: Sequence[PlaceQuestions], spatial: int) -> dict[str, Any]:
    """One variant over all scenes; ratios scene by scene."""
    # Single questions over all scenes, totals scene by scene.
    ms = [t.seconds(scene.device) * 1e3 for scene in scenes for t in scene.times[variant]]
    ratio = Spread.from_values([scene.total_s(variant) / scene.total_s(BASE) for scene in scenes])
    builds = [] if variant in COLD else [scene.build_s(variant) * 1e3 for scene in scenes]
    return {
        "variant": variant,
        "N": spatial,
        "keep_ratio_achieved": scenes[0].kept[variant],
        "total_s": sum(scene.total_s(variant) for scene in scenes),
        "build_ms": Spread.from_values(builds),
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
        f"{'variant':<21} {'N':>5} {'all questions, ratio':>22} {'total s':>8} {'scene ms':>9}"
        f" {'question p50 / p95 ms':>22} {'same ids':>8}"
    ]
    for r in rows:
        question = f"{r['question_ms']['p50']:.1f} / {r['question_ms']['p95']:.1f}"
        build = f"{r['build_ms'].median:.1f}" if r["build_ms"].n else "-"
        lines.append(
            f"{r['variant']:<21} {r['N']:>5} {r['ratio']!s:>22} {r['total_s']:>8.1f} {build:>9}"
            f" {question:>22} {r['same_ids']:>8.0%}"
        )
    # Only warm variants have a target.
    lines += [
        f"over target: {r['variant']}: {r['ratio'].median:.3f} of cold unpruned, target"
        f" {TARGET_RATIO:.2f}"
        for r in rows
        if r["target_met"] is False
    ]
    return "\n".join(lines)
