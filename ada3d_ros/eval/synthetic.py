"""`ada3d eval synthetic`: accuracy of a model on generated rooms that nobody trained on, through the real pipeline.

Every room's views go through `Ada3DPipeline.observe`, every question through `ask` or `ground`. Chance and the share of the most frequent
answer stand beside each accuracy; with --shuffle-scenes the questions of one room are asked about another, which shows what is known blindly.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ada3d_ros.config import AgentConfig, from_flat
from ada3d_ros.errors import ConfigError
from ada3d_ros.eval.verb import check_writable, run_verb
from ada3d_ros.geometry.boxes import iou_axis_aligned
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.results import write_results
from ada3d_ros.types import Box3D, Question, RgbdFrame
from ada3d_ros.world.export import export, scene_name
from ada3d_ros.world.graph import graphs
from ada3d_ros.world.questions import DIRECTIONS, NUMBERS, RoomQuestion, make_questions
from ada3d_ros.world.render import frames_of, render, true_boxes
from ada3d_ros.world.rooms import CATEGORIES, COLORS, make_rooms

ASKED = (
    "existence", "existence", "color", "color", "category", "category", "count", "relation", "multihop", "nearest", "superlative",
    "caption", "grounding", "grounding", "grounding", "absent", "absent",
)  # fmt: skip
POSSIBLE_ANSWERS = {
    "existence": 2, "color": len(COLORS), "category": len(CATEGORIES), "count": len(NUMBERS), "relation": len(DIRECTIONS),
    "multihop": len(COLORS), "nearest": len(CATEGORIES), "superlative": len(COLORS) + len(CATEGORIES),
    "caption": len(COLORS) * len(CATEGORIES),
}  # fmt: skip
MAX_NEW_TOKENS = 12
ROOMS_AT_ONCE = 8
SEEDS_APART = 100_000  # --seed S takes the rooms S * 100000 and up


@dataclass
class Tally:
    """Right or wrong per metric; chance per question; true answers per kind."""

    right: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    chance: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    answers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    methods: Counter[str] = field(default_factory=Counter)
    keep_ratios: list[float] = field(default_factory=list)
    spatial_tokens: list[float] = field(default_factory=list)

    def add(self, metric: str, right: float, chance: float) -> None:
        self.right[metric].append(right)
        self.chance[metric].append(chance)


def open_pipeline(model: Path, strategy: str, keep: float | None, precision: str = "auto") -> Ada3DPipeline:
    """The pipeline that takes every view as a keyframe. Raises ConfigError, ModelError."""
    values: dict[str, Any] = {
        "model.path": str(model), "model.precision": precision, "pruning.strategy": strategy, "keyframe.min_translation_m": 0.0,
        "keyframe.min_rotation_deg": 0.0,
    }  # fmt: skip
    if keep is not None:
        values["pruning.keep_ratio"] = keep
    pipeline = Ada3DPipeline(from_flat(values, AgentConfig()))
    pipeline.check()
    pipeline.load()
    return pipeline


def look(pipeline: Ada3DPipeline, frames: Sequence[RgbdFrame]) -> None:
    """Forget the last room and see this one. Raises ConfigError where a view was not admitted."""
    pipeline.reset_scene()
    for frame in frames:
        pipeline.observe(frame)
    admitted = pipeline.scene_state().num_keyframes
    if admitted != len(frames):
        raise ConfigError(f"{admitted} of {len(frames)} views became keyframes; all must.")


def normal_form(text: str) -> str:
    """Lower case, letters, digits and single spaces: what answers are compared in."""
    return " ".join(re.sub(r"[^a-z0-9 ]", " ", text.lower()).split())


def ask_room(pipeline: Ada3DPipeline, asked: Sequence[RoomQuestion], boxes: dict[int, Box3D], tally: Tally) -> None:
    """Every question about the room in view, into the tally; boxes: the true ones by object."""
    for question in asked:
        if question.phrase:
            _ground(pipeline, question, boxes, tally)
            continue
        answer = pipeline.ask(Question(question.text, want_boxes=False, max_new_tokens=MAX_NEW_TOKENS))
        right = normal_form(answer.text) == normal_form(question.answer)
        tally.add(question.kind, float(right), 1.0 / POSSIBLE_ANSWERS[question.kind])
        tally.answers[question.kind][question.answer] += 1
        tally.keep_ratios.append(answer.tokens.keep_ratio_achieved)
        tally.spatial_tokens.append(answer.tokens.spatial_total)


def _ground(pipeline: Ada3DPipeline, question: RoomQuestion, boxes: dict[int, Box3D], tally: Tally) -> None:
    answer = pipeline.ground(Question(question.phrase, max_new_tokens=MAX_NEW_TOKENS))
    if question.target is None:
        tally.add("absent_false_box_rate", float(bool(answer.boxes)), 1.0)
        return
    target = boxes[question.target]
    best = max(answer.boxes, key=lambda b: -1.0 if np.isnan(b.score) else b.score, default=None)
    iou = iou_axis_aligned(best, target) if best is not None else 0.0
    tally.methods[best.method.name.lower() if best is not None else "none"] += 1
    for threshold in (25, 50):
        by_luck = float(np.mean([iou_axis_aligned(b, target) * 100 >= threshold for b in boxes.values()]))
        name = "unique" if question.unique else "distractor"
        tally.add(f"grounding_{name}_acc{threshold}", float(iou * 100 >= threshold), by_luck)


def wilson(right: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share."""
    z = 1.96
    middle = (right + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(right * (1 - right) / count + z * z / (4 * count * count))
    return float(middle - half), float(middle + half)


def evaluate(
    pipeline: Ada3DPipeline, split: str, seed: int, scenes: int, level: int, shuffle: bool, side: int
) -> dict[str, Any]:
    """`metrics` and `details` over `scenes` fresh rooms. Raises ConfigError."""
    tally, started, questions = Tally(), time.perf_counter(), 0
    before: tuple[list[RoomQuestion], dict[int, Box3D]] | None = None
    with tqdm(total=scenes, desc="rooms", mininterval=2) as bar:
        for start in range(0, scenes, ROOMS_AT_ONCE):
            seeds = torch.arange(start, min(start + ROOMS_AT_ONCE, scenes)) + seed * SEEDS_APART
            rooms = make_rooms(split, seeds, level)
            views = render(rooms, side)
            for b, graph in enumerate(graphs(rooms)):
                asked = make_questions(graph, int(seeds[b]), ASKED, len(ASKED))
                boxes = dict(zip((t.number for t in graph.things), true_boxes(rooms, b), strict=True))
                about, before = (before if shuffle else (asked, boxes)), (asked, boxes)
                if about is not None:  # shuffled, the first room's views answer nothing
                    look(pipeline, frames_of(rooms, views, b))
                    ask_room(pipeline, *about, tally)
                    questions += len(about[0])
                bar.update()
    seconds = time.perf_counter() - started
    metrics = {name: float(np.mean(values)) for name, values in sorted(tally.right.items())}
    details = {
        name: {
            "n": len(values),
            "chance": float(np.mean(tally.chance[name])),
            "majority": max(tally.answers[name].values()) / len(values) if name in tally.answers else None,
            "interval": wilson(metrics[name], len(values)),
        }
        for name, values in sorted(tally.right.items())
    }
    return {
        "metrics": metrics,
        "details": details,
        "scenes": scenes,
        "level": level,
        "split": split,
        "shuffled": shuffle,
        "grounded_by": dict(tally.methods),
        "keep_ratio": float(np.nanmean(tally.keep_ratios)),
        "spatial_tokens": float(np.mean(tally.spatial_tokens)),
        "seconds": seconds,
        "seconds_per_question": seconds / max(questions, 1),
    }


def table(results: dict[str, Any]) -> str:
    """One line a metric: value, interval, n, chance, majority."""
    lines = [f"{'metric':<28}{'value':>7}  {'95 % interval':<15}{'n':>5}{'chance':>8}{'majority':>10}"]
    for name, value in results["metrics"].items():
        d = results["details"][name]
        majority = "" if d["majority"] is None else f"{d['majority']:.2f}"
        low, high = d["interval"]
        lines.append(f"{name:<28}{value:>7.3f}  {low:.2f} to {high:.2f}   {d['n']:>5}{d['chance']:>8.2f}{majority:>10}")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """`ada3d eval synthetic`: returns 0, or 2 with a sentence."""
    parser = argparse.ArgumentParser(prog="ada3d eval", description="Measure a model's answers and boxes.")
    verbs = parser.add_subparsers(dest="what", required=True)
    synthetic = verbs.add_parser("synthetic", help="on fresh generated rooms", description=__doc__)
    synthetic.add_argument("--seed", type=int, default=0, help="which rooms (default 0)")
    synthetic.add_argument("--scenes", type=int, default=200, help="how many rooms (default 200)")
    synthetic.add_argument("--model", type=Path, help="checkpoint folder (default: the embedded model)")
    synthetic.add_argument("--strategy", default="none", help="pruning strategy (default none)")
    synthetic.add_argument("--keep", type=float, help="keep ratio of the strategy")
    synthetic.add_argument("--level", type=int, default=1, choices=(1, 2), help="of the rooms (default 1)")
    synthetic.add_argument("--split", default="test", choices=("val", "test"), help="of the rooms (default test)")
    synthetic.add_argument("--shuffle-scenes", action="store_true", help="ask about another room's views")
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
        if options.scenes < least:
            raise ConfigError(f"--scenes {options.scenes}: at least {least}.")
        if options.json:
            check_writable(options.json, "--json")
        if options.export:
            seeds = torch.arange(options.scenes) + options.seed * SEEDS_APART
            known = graphs(make_rooms(options.split, seeds, options.level))
            rooms = zip(known, seeds.tolist(), strict=True)
            asked = [
                (scene_name(options.split, options.level, s), g, make_questions(g, s, ASKED, len(ASKED)))
                for g, s in rooms
            ]
            print(
                f"{options.export}: "
                + ", ".join(f"{n} rows in {f}.json" for f, n in export(asked, options.export).items())
            )
        pipeline = open_pipeline(options.model or embedded_model_path(), options.strategy, options.keep)
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
            "strategy": options.strategy,
            "random_weights": info.random_weights,
        }
        print(table(results))
        if info.random_weights:
            print("RANDOM WEIGHTS: these numbers say what chance looks like.")
        if options.json:
            print(f"wrote {write_results(options.json, results, info.device, options.seed)}")

    return run_verb("eval", work)
