"""`ada3d eval scanqa` and its kin: the field's benchmarks on their official files.

Scenes are shown to the node's own pipeline and asked what the files ask, or a file of answers is
scored (--answers) without any model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from ada3d_ros.errors import ConfigError, SourceError
from ada3d_ros.lab.benchmarks.bench import device_name
from ada3d_ros.lab.benchmarks.spread import plain
from ada3d_ros.lab.command_line import add_model_folders, check_writable, model_folders
from ada3d_ros.lab.evaluation.field.benchmark import TOKENS, Benchmark, Files, Item, Record, Scoring
from ada3d_ros.lab.evaluation.field.harness import (
    Asking,
    PipelineAsker,
    RunningScore,
    ask_all,
    pending,
    share_of,
)
from ada3d_ros.lab.evaluation.field.json_files import name_some
from ada3d_ros.lab.evaluation.field.judgements import JUDGEMENTS
from ada3d_ros.lab.evaluation.field.records import ItemRecordFile, read_records, write_answers
from ada3d_ros.lab.evaluation.field.registry import BENCHMARKS, benchmark
from ada3d_ros.lab.evaluation.field.results import (
    digests,
    results_of,
    scored_items,
    table,
    worst,
)
from ada3d_ros.lab.evaluation.field.scenes import ImageFolder, SceneFolder, Shown
from ada3d_ros.lab.evaluation.field.worst_page import write_page
from ada3d_ros.lab.evaluation.pipelines import add_pruning, open_pipeline, pruning_settings
from ada3d_ros.lab.results import ROOT, digest, write_results
from ada3d_ros.lab.train.workers import Workers
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.types import Scope

VIEWS = 20  # LLaVA-3D's
PATIENCE = timedelta(days=7)  # of a process that is done, for the others


def add_verbs(verbs: Any) -> None:
    """One of each benchmark. verbs: what add_subparsers gave."""
    for name in BENCHMARKS:
        known = benchmark(name)
        parser = verbs.add_parser(
            name,
            help=known.description,
            description=f"{known.description}. docs/{page_of(known)} has the files.",
        )
        _add_options(parser, known)


def page_of(known: Benchmark) -> str:
    """Of docs/, where its files are described."""
    judged = any(file.name == JUDGEMENTS for file in known.files)
    about_scenes = known.scope is Scope.SCENE and not judged
    return "benchmarks_of_the_field.md" if about_scenes else "benchmarks_about_images.md"


def _add_options(parser: argparse.ArgumentParser, known: Benchmark) -> None:
    add = parser.add_argument
    for file in known.files:
        add(f"--{file.name}", type=Path, metavar="FILE", required=file.required, help=file.help)
    if known.scope is Scope.SCENE:
        add("--scenes", type=Path, metavar="FOLDER", help="folder with the scenes asked about")
        add("--views", type=int, default=VIEWS, help=f"of a scene at most (default {VIEWS})")
    else:
        add("--images", type=Path, metavar="FOLDER", help="folder with the images asked about")
    add("--answers", type=Path, metavar="FILE", help="score these answers; no model is opened")
    add("--out", type=Path, metavar="FOLDER", help="records, results and page; goes on where it is")
    add("--suffix", default="", help="appended to every question (default nothing)")
    if known.prompt:
        add("--bare", action="store_true", help=f'ask without "{known.prompt}"')
    add("--max-new-tokens", type=int, default=0, help="of an answer (default the model's)")
    add("--limit", type=int, default=0, metavar="N", help="ask the first N items alone")
    add("--partial", action="store_true", help="leave out items without scene or answer")
    add("--together", type=int, default=1, metavar="N", help="questions in a batch (default 1)")
    add(
        "--tokens",
        default=TOKENS[0],
        choices=TOKENS,
        help="words of BLEU, METEOR, ROUGE-L, CIDEr: ptb needs Java, blanks needs none and leaves"
        f" METEOR out, none leaves all out (default {TOKENS[0]})",
    )
    add("--no-quirks", action="store_true", help="without the oddities of published evaluators")
    add("--worst", type=int, default=24, metavar="N", help="items on the page (default 24)")
    add(
        "--measure",
        default="off",
        choices=("on", "off"),
        help="answer from boxes where that can be done (default off: the model alone)",
    )
    add_pruning(add)
    add_model_folders(add, "the embedded model")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    add("--threads", type=int, default=1, help="CPU threads (default 1)")
    add("--json", type=Path, help="write the results with their provenance")


def run(options: argparse.Namespace) -> None:
    """Ask or read, score, print, write. Raises ConfigError, SourceError, ModelError."""
    _check(options)
    torch.set_num_threads(options.threads)
    known = benchmark(options.what)
    given = {file.name: getattr(options, file.name) for file in known.files}
    files = {name: path for name, path in given.items() if path is not None}
    items = known.read(files)
    total = len(items)
    items = items[: options.limit or total]
    shown = _shown(options, known)
    scoring = Scoring(options.tokens, not options.no_quirks)

    if options.answers is not None:
        records, device, where = known.read_answers(options.answers), "none", options.answers
        facts: dict[str, Any] = {"answers": options.answers.name, "files": digests(files)}
    else:
        assert shown is not None, "checked"
        if known.scope is Scope.SCENE:  # what scores need is missed before hours of asking
            known.score([(items[0], {"text": "", "error": "NONE"})], scoring)
        found = _run(options, known, files, items, shown)
        if found is None:
            return  # the first process tells
        records, device, facts = found
        where = options.out
    if options.limit:
        wanted = {item.id for item in items}
        records = {name: record for name, record in records.items() if name in wanted}
    scored = scored_items(items, records, options.partial, where)
    if options.answers is None:
        write_answers(options.out / "answers.jsonl", (record for _, record in scored))

    # Told, and written.
    results = results_of(known, scored, scoring) | {"left_out": total - len(scored)} | facts
    print(table(results))
    for path in (options.json, options.out and options.out / "results.json"):
        if path:
            print(f"wrote {write_results(path, plain(results), device)}")
    if options.out and options.worst:
        lowest = worst(known, scored, options.worst)
        page = write_page(options.out / "worst.html", known, results, lowest, shown)
        print(f"wrote {page}")


def _run(
    options: argparse.Namespace,
    known: Benchmark,
    files: Files,
    items: Sequence[Item],
    shown: Shown,
) -> tuple[dict[str, Record], str, dict[str, Any]] | None:
    """Records of all items, the device, and facts for the results; None for all processes but the
    first.
    """
    items = _with_scenes(items, shown, options.partial)
    on_gpu = options.device.startswith("cuda") or (
        options.device == "auto" and torch.cuda.is_available()
    )
    workers = Workers("cuda" if on_gpu else "cpu", PATIENCE)
    own = str(workers.device) if workers.device.type == "cuda" else "cpu"
    device = own if workers.count > 1 else options.device
    views = options.views if known.scope is Scope.SCENE else 1
    asked = {
        "model.device": device,
        "question.measure": options.measure == "on",
        "objects.enabled": options.measure == "on",
        "keyframe.max_views": views,
    }
    settings = model_folders(options) | asked | pruning_settings(options)
    model = options.model or embedded_model_path()
    of_scenes = known.scope is Scope.SCENE
    pipeline = open_pipeline(model, options.strategy, options.keep, settings, scenes=of_scenes)
    info = pipeline.info
    assert info is not None
    facts: dict[str, Any] = {
        "model": info.name,
        "revision_sha256": info.sha256,
        "random_weights": info.random_weights,
        "precision": info.precision,
        "strategy": options.strategy,
        "keep_requested": options.keep,
        "views": views,
        "suffix": options.suffix,
        "bare": getattr(options, "bare", False),
        "max_new_tokens": options.max_new_tokens,
        "measure": options.measure,
        "together": options.together,
        "files": digests(files),
        **pruning_settings(options),
    }

    # What is there already is not asked again; all look before anyone writes.
    asked_files = {file.name for file in known.files if file.asked}
    header = facts | {
        "files": {name: found for name, found in facts["files"].items() if name in asked_files},
        "benchmark": known.name,
        "scenes": str(shown.folder),
        "code": digest(ROOT),
    }
    records = read_records(options.out, header)
    workers.wait()
    left = pending(items, records)
    mine = share_of(left, workers.count, workers.rank)
    number = len(items) if workers.count == 1 else sum(map(len, mine.values()))
    progress = RunningScore(known, number, workers.first)
    if workers.count == 1:
        for item in items:
            if item.id in records:
                progress.add(item, records[item.id])
    asking = Asking(
        options.suffix,
        facts["bare"],
        options.max_new_tokens,
        options.measure == "on",
        options.together,
    )
    asker = PipelineAsker(pipeline, known, shown, asking)
    with ItemRecordFile(options.out, header, workers.rank) as file, progress.bar:
        ask_all(asker, mine, file, progress, options.together)
    workers.wait()
    if not workers.first:
        return None
    if info.random_weights:
        print("RANDOM WEIGHTS: these numbers say what chance looks like.")
    return read_records(options.out, header), device_name(pipeline.model.model.device), facts


def _shown(options: argparse.Namespace, known: Benchmark) -> Shown | None:
    """Where pictures come from; None where none are needed or given. Raises ConfigError."""
    if known.scope is not Scope.SCENE:
        return ImageFolder(options.images)
    if options.scenes is not None:
        return SceneFolder(options.scenes, options.views)
    if options.answers is None:
        raise ConfigError(
            "name the scenes to ask about with --scenes FOLDER, or a file of answers to score with"
            " --answers FILE."
        )
    return None


def _with_scenes(items: Sequence[Item], shown: Shown, partial: bool) -> list[Item]:
    """The items whose scene is there. Raises SourceError for one that is not, unless `partial`."""
    left = [item for item in items if shown.has(item)]
    missing = {item.source: 0 for item in items} | {item.source: 1 for item in left}
    names = [source for source, there in missing.items() if not there]
    where = shown.folder or "--images"
    if names and not (partial and left):
        raise SourceError(
            f"{where} lacks {len(names)} of {len(missing)} that are asked about:"
            f" {name_some(names)}. Put them there, or ask about the others alone with --partial."
        )
    return left


def _check(options: argparse.Namespace) -> None:
    """Options that contradict each other. Raises ConfigError."""
    counts = {"threads": 1, "views": 1, "together": 1, "limit": 0, "worst": 0}
    for name, least in counts.items():
        value = getattr(options, name, least)
        if value < least:
            raise ConfigError(f"--{name} {value}: at least {least}.")
    if options.answers is None and options.out is None:
        raise ConfigError(
            "name a folder for the records with --out FOLDER, or a file of answers to score with"
            " --answers FILE."
        )
    if options.keep is not None and options.strategy == "none":
        raise ConfigError("--keep is a strategy's: name one with --strategy.")
    if options.cache_prune == "auto" and options.strategy != "none":
        raise ConfigError(
            "--cache-prune auto chooses by measured times, so answers differ from run to run and"
            " cannot be shared out: name build, question or none."
        )
    if options.json:
        check_writable(options.json, "--json")
    if options.out:
        check_writable(options.out / "results.json", "--out")
