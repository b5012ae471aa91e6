"""`ada3d eval`: `synthetic`, accuracy on generated rooms; `scene-pruning`, variants of the cached
scene, and `pruning-tables`, every strategy, compared on the same rooms and questions; `image`,
strategies on questions about one view; the field's benchmarks (field/).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ada3d_ros.config import SETTINGS
from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.benchmarks.bench import device_name
from ada3d_ros.lab.benchmarks.spread import plain
from ada3d_ros.lab.command_line import (
    add_model_folders,
    check_writable,
    model_folders,
    parse_list,
    run_verb,
)
from ada3d_ros.lab.evaluation import (
    image_questions,
    pruning_rows,
    pruning_tables,
    scene_pruning,
    scene_variants,
    synthetic,
)
from ada3d_ros.lab.evaluation.field import command as field
from ada3d_ros.lab.evaluation.field.registry import BENCHMARKS
from ada3d_ros.lab.evaluation.pipelines import add_pruning, open_pipeline, pruning_settings
from ada3d_ros.lab.evaluation.selection import RoomSelection, questions_of, rooms_of
from ada3d_ros.lab.evaluation.tally import format_table
from ada3d_ros.lab.evaluation.words_alone import WordsAlone, fitted
from ada3d_ros.lab.results import write_results
from ada3d_ros.lab.world.export import export, export_scene, scene_name
from ada3d_ros.lab.world.graph import graphs
from ada3d_ros.lab.world.image_files import ImageFiles
from ada3d_ros.lab.world.rooms import make_rooms
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.pipeline import Ada3DPipeline

SPLITS, LEVELS = ("val", "test"), (1, 2)
EXPORT_PX = 384  # side of exported views


def make_parser() -> argparse.ArgumentParser:
    """Of `ada3d eval`."""
    parser = argparse.ArgumentParser(
        prog="ada3d eval", description="Measure a model's answers and boxes."
    )
    verbs = parser.add_subparsers(dest="what", required=True)
    rooms = verbs.add_parser(
        "synthetic",
        help="on fresh generated rooms",
        description=f"`ada3d eval synthetic`: {synthetic.__doc__}",
    )
    _add_synthetic(rooms)
    compared = verbs.add_parser(
        "scene-pruning",
        help="a cached scene pruned in many ways against the whole one",
        description=f"`ada3d eval scene-pruning`: {scene_pruning.__doc__}",
    )
    _add_scene_pruning(compared)
    tables = verbs.add_parser(
        "pruning-tables",
        help="every pruning strategy at every budget against the whole scene",
        description=f"`ada3d eval pruning-tables`: {pruning_tables.__doc__}",
    )
    _add_pruning_tables(tables)
    images = verbs.add_parser(
        "image",
        help="pruning strategies on questions about one view",
        description=f"`ada3d eval image`: {image_questions.__doc__}",
    )
    _add_rooms(images)
    image_questions.add_arguments(images)
    field.add_verbs(verbs)
    return parser


def _add_rooms(parser: argparse.ArgumentParser) -> None:
    """Which rooms, on what they are asked about, and where the results go."""
    add = parser.add_argument
    add("--scenes", type=int, default=200, help="how many rooms of each seed (default 200)")
    add("--level", type=int, default=1, choices=LEVELS, help="of the rooms (default 1)")
    add("--split", default="test", choices=SPLITS, help="of the rooms (default test)")
    add_model_folders(add, "the embedded model")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    add("--threads", type=int, default=1, help="CPU threads (default 1)")
    add("--json", type=Path, help="write the results with their provenance")


def _add_synthetic(parser: argparse.ArgumentParser) -> None:
    _add_rooms(parser)
    add = parser.add_argument
    add(
        "--seeds",
        default="0",
        help="which rooms; several with commas are pooled, each seed's values beside (default 0)",
    )
    measures = "on" if SETTINGS["question.measure"].default else "off"
    add(
        "--measure",
        default=measures,
        choices=("on", "off"),
        help="answer from boxes where that can be done (question.measure), and measure distances"
        f" and the inventory; off: the model alone answers (default {measures}, as the node)",
    )
    add(
        "--chains",
        default="on",
        choices=("on", "off"),
        help="let the model point before it speaks, where it was taught to (default on)",
    )
    add_pruning(add)
    add("--shuffle-scenes", action="store_true", help="ask about another room's views")
    add(
        "--blind",
        action="store_true",
        help="ask the model without any scene, and a learner of words",
    )
    add(
        "--floor-z",
        type=float,
        default=0.0,
        metavar="M",
        help="move the rooms up by this many metres (default 0)",
    )
    add(
        "--export",
        type=Path,
        metavar="DIR",
        help="also write the questions as files of the field's benchmarks (ScanQA, SQA3D,"
        " ScanRefer, Multi3DRefer, Scan2Cap)",
    )
    add(
        "--export-views",
        action="store_true",
        help="and the rooms' views in ScanNet's layout, DIR/scenes, and questions about single ones"
        " as files of VQAv2, MME and MMBench; then nothing is evaluated",
    )


def _add_scene_pruning(parser: argparse.ArgumentParser) -> None:
    _add_rooms(parser)
    add = parser.add_argument
    add("--seed", type=int, default=1, help="which rooms (default 1)")
    keep = ",".join(f"{ratio:g}" for ratio in scene_variants.KEEP_RATIOS)
    add("--keep", default=keep, help=f"keep ratios with commas (default {keep})")
    add(
        "--only",
        default="",
        metavar="NAMES",
        help="of the table's variants those of these names, with commas (default: all)",
    )
    add(
        "--variant",
        action="append",
        default=[],
        metavar="SETTINGS",
        help="one variant instead of the table's, as 'cache.ranking=values pruning.keep_ratio=0.2';"
        " may be given again",
    )
    add(
        "--against",
        default="",
        metavar="SETTINGS",
        help="as --variant: what the others are compared with as well, question by question",
    )
    add(
        "--appended",
        action="store_true",
        help="variants get the scene's last views one by one, appended to the cached scene",
    )


def _add_pruning_tables(parser: argparse.ArgumentParser) -> None:
    _add_rooms(parser)
    add = parser.add_argument
    add("--seed", type=int, default=1, help="which rooms (default 1)")
    budgets = ",".join(f"{budget:g}" for budget in pruning_rows.BUDGETS)
    add(
        "--budgets",
        default=budgets,
        help=f"keep ratios, and from 1 on tokens of a scene, with commas (default {budgets})",
    )
    add(
        "--only",
        default="",
        metavar="NAMES",
        help="of the strategies those of these names, with commas (default: all)",
    )
    modes = ",".join(pruning_rows.MODES)
    add("--modes", default=modes, help=f"of the ways of serving those (default {modes})")
    add("--minutes", type=float, default=math.inf, help="stop after so many (default: never)")


def _export(selections: Sequence[RoomSelection], folder: Path, views: bool) -> None:
    """The selections' questions in the files of the field's benchmarks; views: the rooms, too, and
    questions about single images.
    """
    asked, images = [], ImageFiles(folder)
    for selection in selections:
        seeds = selection.room_seeds()
        known = graphs(make_rooms(selection.split, seeds, selection.level))
        names = [scene_name(selection.split, selection.level, seed) for seed in seeds.tolist()]
        asked += [
            (name, graph, questions_of(graph, seed))
            for name, graph, seed in zip(names, known, seeds.tolist(), strict=True)
        ]
        if views:
            for name, room in zip(names, rooms_of(selection, EXPORT_PX), strict=True):
                export_scene(room.frames, folder / "scenes" / name)
                images.add_room(room.frames, room.graph, room.seen)
    counts = export(asked, folder).items()
    print(f"{folder}: " + ", ".join(f"{count} rows in {file}.json" for file, count in counts))
    if views:
        counts = images.write().items()
        print(f"{folder}: " + ", ".join(f"{count} questions of {file}" for file, count in counts))


def _prepare(options: argparse.Namespace) -> None:
    """What both verbs check before anything is loaded, and the threads."""
    if options.threads < 1:
        raise ConfigError(f"--threads {options.threads}: at least 1.")
    if options.json:
        check_writable(options.json, "--json")
    torch.set_num_threads(options.threads)


def _model_settings(options: argparse.Namespace) -> dict[str, object]:
    return model_folders(options) | {"model.device": options.device}


def _facts(pipeline: Ada3DPipeline) -> dict[str, Any]:
    """What answered."""
    info = pipeline.info
    assert info is not None
    return {
        "model": info.name,
        "sha256": info.sha256.split()[0],  # of the weights
        "revision_sha256": info.sha256,  # tower and head besides
        "random_weights": info.random_weights,
    }


def selections_of(options: argparse.Namespace) -> list[RoomSelection]:
    """Of each seed. Raises ConfigError for options that contradict each other."""
    seeds = parse_list(options.seeds, int, "--seeds")
    if options.keep is not None and options.strategy == "none":
        raise ConfigError("--keep is a strategy's: name one with --strategy.")
    if options.blind and (options.shuffle_scenes or options.strategy != "none"):
        raise ConfigError("--blind asks without a scene: there is none to shuffle or to prune.")
    if options.export_views and not options.export:
        raise ConfigError("--export-views needs a place for the files: --export DIR.")
    scenes, level = options.scenes, options.level
    return [
        RoomSelection(options.split, seed, scenes, level, options.shuffle_scenes, options.floor_z)
        for seed in seeds
    ]


def _learner(options: argparse.Namespace) -> WordsAlone | None:
    """What the blind model stands beside."""
    return fitted(options.level) if options.blind else None


def _run_synthetic(options: argparse.Namespace) -> None:
    selections = selections_of(options)  # refused before anything is loaded
    _prepare(options)
    if options.export:
        _export(selections, options.export, options.export_views)
    if options.export_views:
        return

    # The node's own pipeline answers.
    measures = options.measure == "on" and not options.blind
    chosen = _model_settings(options) | pruning_settings(options)
    settings = chosen | {
        "question.measure": measures,
        "objects.enabled": measures,
        "question.point": options.chains == "on",
    }
    model = options.model or embedded_model_path()
    pipeline = open_pipeline(model, options.strategy, options.keep, settings, scenes=True)
    pruned = options.strategy != "none"
    results = (
        synthetic.evaluate(pipeline, *selections, blind=_learner(options))
        | _facts(pipeline)
        | {
            "weights": options.weights,
            "cache_mode": options.cache_mode,
            "cache_prune": options.cache_prune,
            "strategy": options.strategy,
            "keep_requested": pipeline.config.pruning.keep_ratio if pruned else None,
            "measure": measures,
            "chains": options.chains == "on" and not options.blind,
        }
    )

    print(format_table(results))
    if results["random_weights"]:
        print("RANDOM WEIGHTS: these numbers say what chance looks like.")
    if options.json:
        device, seed = device_name(pipeline.model.model.device), selections[0].seed
        print(f"wrote {write_results(options.json, plain(results), device, seed)}")


def _run_scene_pruning(options: argparse.Namespace) -> None:
    selection = RoomSelection(options.split, options.seed, options.scenes, options.level)
    ratios = parse_list(options.keep, float, "--keep")
    variants = [scene_variants.parse(text) for text in options.variant] or scene_variants.table(
        ratios, options.only, options.appended
    )
    _prepare(options)
    model = options.model or embedded_model_path()
    against = scene_variants.parse(options.against) if options.against else None
    comparison = scene_pruning.Comparison(
        model, _model_settings(options), selection, options.appended, against
    )
    scene_pruning.compare(comparison, variants, options.json)


def _run_image(options: argparse.Namespace) -> None:
    variants = image_questions.variants_of(options)
    selection = RoomSelection(options.split, options.seed, options.scenes, options.level)
    _prepare(options)
    model = options.model or embedded_model_path()
    results, pipeline = image_questions.compare(
        model, _model_settings(options), selection, options.views, options.scope, variants
    )
    if options.json:
        device = device_name(pipeline.model.model.device)
        written = write_results(
            options.json, plain(_facts(pipeline) | results), device, options.seed
        )
        print(f"wrote {written}")


def _run_pruning_tables(options: argparse.Namespace) -> None:
    selection = RoomSelection(options.split, options.seed, options.scenes, options.level)
    rows = pruning_rows.table(
        parse_list(options.budgets, float, "--budgets"),
        options.only,
        parse_list(options.modes, str, "--modes"),
    )
    _prepare(options)
    model = options.model or embedded_model_path()
    tables = pruning_tables.Tables(
        model, _model_settings(options), selection, rows, options.minutes
    )
    print(pruning_tables.shown(pruning_tables.measure_tables(tables, options.json)))


def main(argv: list[str]) -> int:
    """`ada3d eval`: returns 0, or 2 with a sentence."""
    options = make_parser().parse_args(argv)
    runs = dict.fromkeys(BENCHMARKS, field.run)
    runs |= {
        "synthetic": _run_synthetic,
        "scene-pruning": _run_scene_pruning,
        "image": _run_image,
        "pruning-tables": _run_pruning_tables,
    }
    return run_verb("eval", lambda: runs[options.what](options))
