"""`ada3d eval synthetic`: accuracy of a model on generated rooms that nobody trained on, through
the real pipeline.

Every room's views go through `Ada3DPipeline.observe`, every question through `ask` or `ground`.
Chance and the share of the most frequent answer stand beside each accuracy; with --shuffle-scenes
the questions of one room are asked about another, which shows what is known blindly.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ada3d_ros.config import AgentConfig, from_flat
from ada3d_ros.errors import ConfigError, ModelError
from ada3d_ros.geometry.boxes import iou_axis_aligned
from ada3d_ros.lab.benchmarks.spread import plain
from ada3d_ros.lab.command_line import check_writable, run_verb
from ada3d_ros.lab.evaluation.metrics import (
    IOU_PERCENT,
    exact_match,
    is_found,
    scanqa_scores,
    scanrefer_scores,
    wilson,
)
from ada3d_ros.lab.results import write_results
from ada3d_ros.lab.world.export import export, scene_name
from ada3d_ros.lab.world.graph import graphs
from ada3d_ros.lab.world.questions import DIRECTIONS, NUMBERS, RoomQuestion, make_questions
from ada3d_ros.lab.world.render import frames_of, render, true_boxes
from ada3d_ros.lab.world.rooms import CATEGORIES, COLORS, make_rooms
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Answer, Box3D, Question, RgbdFrame

ASKED = (
    "existence",
    "existence",
    "color",
    "color",
    "category",
    "category",
    "count",
    "relation",
    "multihop",
    "nearest",
    "superlative",
    "caption",
    "grounding",
    "grounding",
    "grounding",
    "absent",
    "absent",
)
METRICS = (
    "existence",
    "color",
    "category",
    "count",
    "relation",
    "multihop",
    "nearest",
    "superlative",
    "caption",
    "grounding_unique_acc25",
    "grounding_unique_acc50",
    "grounding_distractor_acc25",
    "grounding_distractor_acc50",
    "absent_false_box_rate",
)
POSSIBLE_ANSWERS = {
    "existence": 2,
    "color": len(COLORS),
    "category": len(CATEGORIES),
    "count": len(NUMBERS),
    "relation": len(DIRECTIONS),
    "multihop": len(COLORS),
    "nearest": len(CATEGORIES),
    "superlative": len(CATEGORIES),
    "caption": len(COLORS) * len(CATEGORIES),
}
MAX_NEW_TOKENS = 12
ROOMS_AT_ONCE = 8
SEEDS_APART = 100_000  # --seed S takes the rooms S * 100000 and up


@dataclass
class Tally:
    """What the questions so far came to.

    right (0 or 1), chance: per metric, one entry a question; answers: true ones by kind; said:
    prediction and truth of the questions that ScanQA would ask; ious, unique: per phrase with a
    target; unanswered: questions the model gave no text for, counted as wrong.
    """

    right: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    chance: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    answers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    said: list[tuple[str, str]] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)
    unique: list[bool] = field(default_factory=list)
    methods: Counter[str] = field(default_factory=Counter)
    keep_ratios: list[float] = field(default_factory=list)
    spatial_tokens: list[int] = field(default_factory=list)
    tokens_kept: list[int] = field(default_factory=list)
    asked: int = 0
    unanswered: int = 0

    def add(self, metric: str, right: float, chance: float) -> None:
        self.right[metric].append(right)
        self.chance[metric].append(chance)

    def reply(self, ask: Callable[[Question], Answer], question: Question) -> Answer | None:
        """The answer, its tokens counted; None where the model gave no text. Raises what else goes
        wrong.
        """
        self.asked += 1
        try:
            answer = ask(question)
        except ModelError as error:
            if (
                type(error) is not ModelError or error.__cause__ is not None
            ):  # memory, or torch's own failure
                raise
            self.unanswered += 1
            return None
        self.keep_ratios.append(answer.tokens.keep_ratio_achieved)
        self.spatial_tokens.append(answer.tokens.spatial_total)
        self.tokens_kept.append(answer.tokens.spatial_kept)
        return answer


def open_pipeline(
    model: Path,
    strategy: str,
    keep: float | None,
    weights: str = "full",
    cache_mode: str = "cached",
) -> Ada3DPipeline:
    """The pipeline that takes every view as a keyframe. Raises ConfigError, ModelError."""
    values: dict[str, Any] = {
        "model.path": str(model),
        "pruning.strategy": strategy,
        "keyframe.min_translation_m": 0.0,
        "keyframe.min_rotation_deg": 0.0,
        "model.weights": weights,
        "cache.mode": cache_mode,
    }
    if keep is not None:
        values["pruning.keep_ratio"] = keep
    pipeline = Ada3DPipeline(from_flat(values, AgentConfig()))
    pipeline.check()
    pipeline.load()
    return pipeline


def load_room(pipeline: Ada3DPipeline, frames: Sequence[RgbdFrame]) -> None:
    """Forget the last room and see this one. Raises ConfigError where a view was not admitted."""
    pipeline.reset_scene()
    for frame in frames:
        pipeline.observe(frame)
    admitted = pipeline.scene_state().num_keyframes
    if admitted != len(frames):
        raise ConfigError(f"{admitted} of {len(frames)} views became keyframes; all must.")


def ask_room(
    pipeline: Ada3DPipeline, asked: Sequence[RoomQuestion], boxes: dict[int, Box3D], tally: Tally
) -> None:
    """Every question about the room in view, into the tally; boxes: the true ones by object."""
    for question in asked:
        if question.phrase:
            _ground(pipeline, question, boxes, tally)
            continue
        asking = Question(question.text, want_boxes=False, max_new_tokens=MAX_NEW_TOKENS)
        answer = tally.reply(pipeline.ask, asking)
        text = "" if answer is None else answer.text
        tally.add(
            question.kind, float(exact_match(text, [question.answer])[0]), 1.0 / _possible(question)
        )
        tally.answers[question.kind][question.answer] += 1
        if question.kind not in (
            "caption",
            "relation",
        ):  # Scan2Cap's and SQA3D's, as world/export sorts them
            tally.said.append((text, question.answer))


def _possible(question: RoomQuestion) -> int:
    """How many answers such a question may have."""
    if question.kind == "superlative" and "color" in question.text:
        return len(COLORS)
    return POSSIBLE_ANSWERS[question.kind]


def _ground(
    pipeline: Ada3DPipeline, question: RoomQuestion, boxes: dict[int, Box3D], tally: Tally
) -> None:
    answer = tally.reply(pipeline.ground, Question(question.phrase, max_new_tokens=MAX_NEW_TOKENS))
    found = () if answer is None else answer.boxes
    if question.target is None:
        tally.add("absent_false_box_rate", float(bool(found)), 1.0)
        return
    target = boxes[question.target]
    best = max(found, key=lambda b: -1.0 if np.isnan(b.score) else b.score, default=None)
    iou = iou_axis_aligned(best, target) if best is not None else 0.0
    tally.methods[best.method.name.lower() if best is not None else "none"] += 1
    tally.ious.append(iou)
    tally.unique.append(question.unique)
    name = "unique" if question.unique else "distractor"
    for percent in IOU_PERCENT:
        by_luck = float(
            np.mean([is_found(iou_axis_aligned(box, target), percent) for box in boxes.values()])
        )
        tally.add(f"grounding_{name}_acc{percent}", float(is_found(iou, percent)), by_luck)


def evaluate(
    pipeline: Ada3DPipeline,
    split: str,
    seed: int,
    scenes: int,
    level: int,
    shuffle: bool,
    side: int,
) -> dict[str, Any]:
    """Results over `scenes` fresh rooms seen at side px; every one of METRICS is there, None where
    nothing was asked.

    shuffle: the questions of room i about the views of room i + 1. Raises ConfigError, ModelError.
    """
    tally, started = Tally(), time.perf_counter()
    before: tuple[list[RoomQuestion], dict[int, Box3D]] | None = None
    with tqdm(total=scenes, desc="rooms", mininterval=2) as bar:
        for start in range(0, scenes, ROOMS_AT_ONCE):
            seeds = torch.arange(start, min(start + ROOMS_AT_ONCE, scenes)) + seed * SEEDS_APART
            rooms = make_rooms(split, seeds, level)
            views = render(rooms, side)
            for b, graph in enumerate(graphs(rooms)):
                asked = make_questions(graph, int(seeds[b]), ASKED, len(ASKED))
                boxes = dict(
                    zip((t.number for t in graph.things), true_boxes(rooms, b), strict=True)
                )
                about, before = (before if shuffle else (asked, boxes)), (asked, boxes)
                if about is not None:  # shuffled, the first room's views answer nothing
                    load_room(pipeline, frames_of(rooms, views, b))
                    ask_room(pipeline, *about, tally)
                bar.update()
    seconds = time.perf_counter() - started
    results = summary(tally)
    results |= {"scenes": scenes, "level": level, "split": split, "shuffled": shuffle}
    return results | {"seconds": seconds, "seconds_per_question": seconds / max(tally.asked, 1)}


def summary(tally: Tally) -> dict[str, Any]:
    """The numbers of a tally, NaN where there is nothing to take them of; `as_published`: the same
    answers scored as ScanQA and ScanRefer score theirs.
    """
    metrics, details = {}, {}
    for name in METRICS:
        right, answers = tally.right.get(name, []), tally.answers.get(name)
        metrics[name] = _mean(right)
        details[name] = {
            "n": len(right),
            "chance": _mean(tally.chance.get(name, [])),
            "majority": max(answers.values()) / len(right) if answers else None,
            "interval": wilson(metrics[name], len(right)),
        }
    return {
        "metrics": metrics,
        "details": details,
        "as_published": {
            "scanqa": scanqa_scores(
                [p for p, _ in tally.said], [[truth] for _, truth in tally.said]
            ),
            "scanrefer": scanrefer_scores(tally.ious, tally.unique),
        },
        "grounded_by": dict(tally.methods),
        "keep_ratio": _mean(tally.keep_ratios),
        "spatial_tokens": _mean(tally.spatial_tokens),
        "tokens_kept": _mean(tally.tokens_kept),
        "n": tally.asked,
        "unanswered": tally.unanswered,
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def table(results: dict[str, Any]) -> str:
    """One line a metric that was asked for: value, interval, n, chance, majority."""
    lines = [
        f"{'metric':<28}{'value':>7}  {'95 % interval':<15}{'n':>5}{'chance':>8}{'majority':>10}"
    ]
    for name, value in results["metrics"].items():
        d = results["details"][name]
        if d["n"] == 0:
            continue
        majority = "" if d["majority"] is None else f"{d['majority']:.2f}"
        low, high = d["interval"]
        lines.append(
            f"{name:<28}{value:>7.3f}  {low:.2f} to {high:.2f}  "
            f" {d['n']:>5}{d['chance']:>8.2f}{majority:>10}"
        )
    lines.append(
        f"{results['tokens_kept']:.0f} of {results['spatial_tokens']:.0f} spatial tokens kept to"
        f" the end, keep ratio {results['keep_ratio']:.2f};"
        f" {results['seconds_per_question'] * 1000:.0f} ms a question, views included"
    )
    if results["unanswered"]:
        lines.append(
            f"{results['unanswered']} of {results['n']} questions got no text and count as wrong."
        )
    if results["shuffled"]:
        lines.append(
            "SHUFFLED: asked about another room's views; what is known blindly is the majority"
            " column."
        )
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """`ada3d eval synthetic`: returns 0, or 2 with a sentence."""
    parser = argparse.ArgumentParser(
        prog="ada3d eval", description="Measure a model's answers and boxes."
    )
    verbs = parser.add_subparsers(dest="what", required=True)
    synthetic = verbs.add_parser("synthetic", help="on fresh generated rooms", description=__doc__)
    synthetic.add_argument("--seed", type=int, default=0, help="which rooms (default 0)")
    synthetic.add_argument("--scenes", type=int, default=200, help="how many rooms (default 200)")
    synthetic.add_argument(
        "--model", type=Path, help="checkpoint folder (default: the embedded model)"
    )
    synthetic.add_argument("--strategy", default="none", help="pruning strategy (default none)")
    synthetic.add_argument("--keep", type=float, help="keep ratio of the strategy")
    synthetic.add_argument(
        "--cache-mode",
        default="cached",
        choices=("cached", "paper"),
        help="cache.mode (default cached)",
    )
    synthetic.add_argument(
        "--weights", default="full", help="model.weights: full, int8 or int4 (default full)"
    )
    synthetic.add_argument(
        "--level", type=int, default=1, choices=(1, 2), help="of the rooms (default 1)"
    )
    synthetic.add_argument(
        "--split", default="test", choices=("val", "test"), help="of the rooms (default test)"
    )
    synthetic.add_argument(
        "--shuffle-scenes", action="store_true", help="ask about another room's views"
    )
    synthetic.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    synthetic.add_argument(
        "--export",
        type=Path,
        metavar="DIR",
        help="also write the questions as ScanQA, SQA3D, ScanRefer and Scan2Cap files",
    )
    synthetic.add_argument("--json", type=Path, help="write the results with their provenance")
    options = parser.parse_args(argv)

    def work() -> None:
        least = 2 if options.shuffle_scenes else 1
        if not least <= options.scenes <= SEEDS_APART:
            raise ConfigError(
                f"--scenes {options.scenes}: at least {least}, at most {SEEDS_APART}."
            )
        if options.seed < 0:
            raise ConfigError(f"--seed {options.seed}: 0 or more.")
        if options.threads < 1:
            raise ConfigError(f"--threads {options.threads}: at least 1.")
        if options.keep is not None and options.strategy == "none":
            raise ConfigError("--keep is a strategy's: name one with --strategy.")
        if options.json:
            check_writable(options.json, "--json")
        if options.export:
            seeds = torch.arange(options.scenes) + options.seed * SEEDS_APART
            known = graphs(make_rooms(options.split, seeds, options.level))
            rooms = zip(known, seeds.tolist(), strict=True)
            asked = [
                (
                    scene_name(options.split, options.level, s),
                    g,
                    make_questions(g, s, ASKED, len(ASKED)),
                )
                for g, s in rooms
            ]
            print(
                f"{options.export}: "
                + ", ".join(
                    f"{n} rows in {f}.json" for f, n in export(asked, options.export).items()
                )
            )
        pipeline = open_pipeline(
            options.model or embedded_model_path(),
            options.strategy,
            options.keep,
            options.weights,
            options.cache_mode,
        )
        torch.set_num_threads(options.threads)
        info = pipeline.info
        assert info is not None
        results = evaluate(
            pipeline,
            options.split,
            options.seed,
            options.scenes,
            options.level,
            options.shuffle_scenes,
            pipeline.view_side,
        )
        results |= {
            "model": info.name,
            "sha256": info.sha256,
            "weights": options.weights,
            "cache_mode": options.cache_mode,
            "strategy": options.strategy,
            "keep_requested": (
                pipeline.config.pruning.keep_ratio if options.strategy != "none" else None
            ),
            "random_weights": info.random_weights,
        }
        print(table(results))
        if info.random_weights:
            print("RANDOM WEIGHTS: these numbers say what chance looks like.")
        if options.json:
            print(f"wrote {write_results(options.json, plain(results), info.device, options.seed)}")

    return run_verb("eval", work)
