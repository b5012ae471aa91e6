"""`ada3d eval synthetic`: accuracy of a model on generated rooms that nobody trained on, through
the real pipeline.

Every room's views go through `Ada3DPipeline.observe`, every question through `ask` or `ground`.
Chance and the share of the most frequent answer stand beside each accuracy; with --shuffle-scenes
the questions of one room are asked about another, which shows what is known blindly.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ada3d_ros.config import AgentConfig, from_flat
from ada3d_ros.engine.emitted_text import raise_coordinates
from ada3d_ros.errors import ConfigError
from ada3d_ros.geometry.boxes import iou_axis_aligned
from ada3d_ros.lab.benchmarks.spread import plain
from ada3d_ros.lab.command_line import add_model_folders, check_writable, run_verb
from ada3d_ros.lab.evaluation.metrics import IOU_PERCENT, exact_match, is_found
from ada3d_ros.lab.evaluation.tally import Tally, format_table, summary
from ada3d_ros.lab.results import write_results
from ada3d_ros.lab.world.export import export, scene_name
from ada3d_ros.lab.world.generated import frames_of, true_boxes
from ada3d_ros.lab.world.graph import Graph, graphs
from ada3d_ros.lab.world.questions import DIRECTIONS, NUMBERS, RoomQuestion, make_questions
from ada3d_ros.lab.world.render import render
from ada3d_ros.lab.world.rooms import CATEGORIES, COLORS, make_rooms
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.scene.floor import stand_on_floor
from ada3d_ros.types import Box3D, Question, RgbdFrame

# The kinds of question that every room is asked, in turn.
ASKED = (
    *("existence", "existence", "color", "color", "category", "category", "count", "relation"),
    *("multihop", "nearest", "superlative", "caption"),
    *("grounding", "grounding", "grounding", "absent", "absent"),
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
NOT_SCANQA = ("caption", "relation")  # Scan2Cap's and SQA3D's, as world/export sorts them
MAX_NEW_TOKENS = 12
ROOMS_AT_ONCE = 8
MAX_FLOOR_M = 1000.0  # from the origin
SEEDS_APART = 100_000  # --seed S takes the rooms S * 100000 and up


@dataclass(frozen=True, slots=True)
class RoomSelection:
    """Which rooms are asked about. shuffle: the questions of room i about the views of room i + 1;
    floor_z_m: where the rooms are moved to, views and boxes alike.

    Raises ConfigError where the numbers name no rooms.
    """

    split: str = "test"
    seed: int = 0
    scenes: int = 200
    level: int = 1
    shuffle: bool = False
    floor_z_m: float = 0.0

    def __post_init__(self) -> None:
        least = 2 if self.shuffle else 1
        if not least <= self.scenes <= SEEDS_APART:
            raise ConfigError(f"--scenes {self.scenes}: at least {least}, at most {SEEDS_APART}.")
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed}: 0 or more.")
        if not abs(self.floor_z_m) <= MAX_FLOOR_M:  # NaN, too
            raise ConfigError(f"--floor-z {self.floor_z_m}: within +-{MAX_FLOOR_M:g} m.")

    def room_seeds(self) -> torch.Tensor:
        """(scenes,) int64 seeds of `make_rooms`."""
        return torch.arange(self.scenes) + self.seed * SEEDS_APART


def questions_of(graph: Graph, seed: int) -> list[RoomQuestion]:
    """What the room of this seed is asked."""
    return make_questions(graph, seed, ASKED, len(ASKED))


def open_pipeline(
    model: Path,
    strategy: str,
    keep: float | None,
    weights: str = "full",
    cache_mode: str = "cached",
    vision_path: Path | None = None,
) -> Ada3DPipeline:
    """The pipeline that takes every view as a keyframe. Raises ConfigError, ModelError."""
    values: dict[str, Any] = {
        "model.path": str(model),
        "model.vision_path": str(vision_path or ""),
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
    """Empties the scene and observes one room's views.

    Raises ConfigError where a view was not admitted as a keyframe.
    """
    pipeline.reset_scene()
    for frame in frames:
        pipeline.observe(frame)
    admitted = pipeline.scene_state().num_keyframes
    if admitted != len(frames):
        raise ConfigError(f"{admitted} of {len(frames)} views became keyframes; all must.")


def ask_room(
    pipeline: Ada3DPipeline, asked: Sequence[RoomQuestion], boxes: dict[int, Box3D], tally: Tally
) -> None:
    """Every question about the loaded room, into the tally; boxes: the true ones by object."""
    for question in asked:
        # A phrase is grounded, a question answered.
        if question.phrase:
            _ground(pipeline, question, boxes, tally)
            continue
        asking = Question(question.text, want_boxes=False, max_new_tokens=MAX_NEW_TOKENS)
        answer = tally.reply(pipeline.ask, asking)

        # Right is what matches exactly once both texts are cleaned.
        text = "" if answer is None else answer.text
        right = float(exact_match(text, [question.answer])[0])
        tally.add(question.kind, right, 1.0 / _num_possible(question))
        tally.answers[question.kind][question.answer] += 1
        if question.kind not in NOT_SCANQA:
            tally.texts.append((text, question.answer))


def _num_possible(question: RoomQuestion) -> int:
    """How many answers such a question may have."""
    if question.kind == "superlative" and "color" in question.text:
        return len(COLORS)
    return POSSIBLE_ANSWERS[question.kind]


def _ground(
    pipeline: Ada3DPipeline, question: RoomQuestion, boxes: dict[int, Box3D], tally: Tally
) -> None:
    """One phrase into the tally: IoU of the best-scored box, or whether an absent thing got one."""
    answer = tally.reply(pipeline.ground, Question(question.phrase, max_new_tokens=MAX_NEW_TOKENS))
    found = () if answer is None else answer.boxes
    if question.target is None:
        tally.add("absent_false_box_rate", float(bool(found)), 1.0)
        return

    # The box of the highest score counts; one without a score comes last.
    target = boxes[question.target]
    best = max(found, key=lambda b: -1.0 if np.isnan(b.score) else b.score, default=None)
    iou = iou_axis_aligned(best, target) if best is not None else 0.0
    tally.methods[best.method.name.lower() if best is not None else "none"] += 1
    tally.ious.append(iou)
    tally.unique.append(question.unique)

    # Chance: the true box of any object of the room, drawn at random.
    name = "unique" if question.unique else "distractor"
    overlaps = [iou_axis_aligned(box, target) for box in boxes.values()]
    for percent in IOU_PERCENT:
        chance = float(np.mean([is_found(overlap, percent) for overlap in overlaps]))
        tally.add(f"grounding_{name}_acc{percent}", float(is_found(iou, percent)), chance)


@dataclass(frozen=True, eq=False, slots=True)
class _Room:
    """One room to be asked about; boxes: the true ones by object number."""

    frames: tuple[RgbdFrame, ...]
    questions: list[RoomQuestion]
    boxes: dict[int, Box3D]


def rooms_of(selection: RoomSelection, side: int) -> Iterator[_Room]:
    """The selected rooms in views of side px, rendered a few at a time."""
    for seeds in selection.room_seeds().split(ROOMS_AT_ONCE):
        rooms = make_rooms(selection.split, seeds, selection.level)
        views = render(rooms, side)
        for b, graph in enumerate(graphs(rooms)):
            numbers = (thing.number for thing in graph.things)
            boxes = dict(zip(numbers, true_boxes(rooms, b), strict=True))
            room = _Room(frames_of(rooms, views, b), questions_of(graph, int(seeds[b])), boxes)
            yield _moved_up(room, selection.floor_z_m) if selection.floor_z_m else room


def _moved_up(room: _Room, by_m: float) -> _Room:
    """The room with all that is told of it in a world whose floor lies at by_m."""
    up = np.array([0.0, 0.0, by_m])
    return _Room(
        tuple(stand_on_floor(room.frames, -by_m)),
        [replace(asked, text=raise_coordinates(asked.text, by_m)) for asked in room.questions],
        {number: replace(box, center_m=box.center_m + up) for number, box in room.boxes.items()},
    )


def evaluate(pipeline: Ada3DPipeline, selection: RoomSelection) -> dict[str, Any]:
    """Results over fresh rooms as `summary` has them, with the selection and the time taken.

    Raises ConfigError, ModelError.
    """
    tally, started = Tally(), time.perf_counter()
    previous: _Room | None = None
    rooms = rooms_of(selection, pipeline.view_side)
    for room in tqdm(rooms, total=selection.scenes, desc="rooms", mininterval=2):
        # Shuffled, the first room's views answer nothing.
        about, previous = (previous if selection.shuffle else room), room
        if about is not None:
            load_room(pipeline, room.frames)
            ask_room(pipeline, about.questions, about.boxes, tally)

    seconds = time.perf_counter() - started
    return summary(tally) | {
        "scenes": selection.scenes,
        "level": selection.level,
        "split": selection.split,
        "shuffled": selection.shuffle,
        "floor_z_m": selection.floor_z_m,
        "seconds": seconds,
        "seconds_per_question": seconds / max(tally.asked, 1),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ada3d eval", description="Measure a model's answers and boxes."
    )
    verbs = parser.add_subparsers(dest="what", required=True)
    synthetic = verbs.add_parser("synthetic", help="on fresh generated rooms", description=__doc__)

    # Which rooms, which model, what is written.
    add = synthetic.add_argument
    add("--seed", type=int, default=0, help="which rooms (default 0)")
    add("--scenes", type=int, default=200, help="how many rooms (default 200)")
    add_model_folders(add, "the embedded model")
    add("--strategy", default="none", help="pruning strategy (default none)")
    add("--keep", type=float, help="keep ratio of the strategy")
    add(
        "--cache-mode",
        default="cached",
        choices=("cached", "paper"),
        help="cache.mode (default cached)",
    )
    add("--weights", default="full", help="model.weights: full, int8 or int4 (default full)")
    add("--level", type=int, default=1, choices=(1, 2), help="of the rooms (default 1)")
    add("--split", default="test", choices=("val", "test"), help="of the rooms (default test)")
    add("--shuffle-scenes", action="store_true", help="ask about another room's views")
    add(
        "--floor-z",
        type=float,
        default=0.0,
        metavar="M",
        help="move the rooms up by this many metres (default 0)",
    )
    add("--threads", type=int, default=1, help="CPU threads (default 1)")
    add(
        "--export",
        type=Path,
        metavar="DIR",
        help="also write the questions as ScanQA, SQA3D, ScanRefer and Scan2Cap files",
    )
    add("--json", type=Path, help="write the results with their provenance")
    return parser


def _export_questions(selection: RoomSelection, folder: Path) -> None:
    """The selection's questions in the file shapes of the published data sets."""
    seeds = selection.room_seeds()
    known = graphs(make_rooms(selection.split, seeds, selection.level))
    asked = [
        (scene_name(selection.split, selection.level, seed), graph, questions_of(graph, seed))
        for graph, seed in zip(known, seeds.tolist(), strict=True)
    ]
    counts = export(asked, folder).items()
    print(f"{folder}: " + ", ".join(f"{count} rows in {file}.json" for file, count in counts))


def _run(options: argparse.Namespace) -> None:
    """`ada3d eval synthetic` with parsed options."""
    # Options that contradict each other are refused before anything is loaded.
    selection = RoomSelection(
        options.split,
        options.seed,
        options.scenes,
        options.level,
        options.shuffle_scenes,
        options.floor_z,
    )
    if options.threads < 1:
        raise ConfigError(f"--threads {options.threads}: at least 1.")
    if options.keep is not None and options.strategy == "none":
        raise ConfigError("--keep is a strategy's: name one with --strategy.")
    if options.json:
        check_writable(options.json, "--json")
    if options.export:
        _export_questions(selection, options.export)

    # The node's own pipeline answers.
    pipeline = open_pipeline(
        options.model or embedded_model_path(),
        options.strategy,
        options.keep,
        options.weights,
        options.cache_mode,
        options.vision_path,
    )
    torch.set_num_threads(options.threads)
    info, pruning = pipeline.info, pipeline.config.pruning
    assert info is not None
    results = evaluate(pipeline, selection) | {
        "model": info.name,
        "sha256": info.sha256.split()[0],  # of the weights
        "revision_sha256": info.sha256,  # tower and head besides
        "weights": options.weights,
        "cache_mode": options.cache_mode,
        "strategy": options.strategy,
        "keep_requested": pruning.keep_ratio if options.strategy != "none" else None,
        "random_weights": info.random_weights,
    }

    print(format_table(results))
    if info.random_weights:
        print("RANDOM WEIGHTS: these numbers say what chance looks like.")
    if options.json:
        print(f"wrote {write_results(options.json, plain(results), info.device, options.seed)}")


def main(argv: list[str]) -> int:
    """`ada3d eval synthetic`: returns 0, or 2 with a sentence."""
    options = _parser().parse_args(argv)
    return run_verb("eval", lambda: _run(options))
