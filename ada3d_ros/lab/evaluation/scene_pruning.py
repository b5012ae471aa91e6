"""A cached scene pruned in many ways against the whole one, question by question.

Every variant answers through a pipeline of its own. Differences are in points, question by
question against `cache.prune: none`; standard errors and 95 % intervals are over rooms. Keys and
values are counted as the cached scene holds them. With --json each row is written as soon as it is
measured; the same command again goes on behind the rows of the same commit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.benchmarks.bench import device_name
from ada3d_ros.lab.benchmarks.spread import plain
from ada3d_ros.lab.evaluation.intervals import (
    DRAWS,
    Floats,
    difference_interval,
    per_room,
    room_draws,
    standard_error,
)
from ada3d_ros.lab.evaluation.pipelines import load_room, open_pipeline
from ada3d_ros.lab.evaluation.scene_variants import WHOLE, Variant
from ada3d_ros.lab.evaluation.selection import Room, RoomSelection, rooms_of
from ada3d_ros.lab.evaluation.synthetic import ask_room
from ada3d_ros.lab.evaluation.tally import Tally
from ada3d_ros.lab.results import ResultFile, tree
from ada3d_ros.pipeline import Ada3DPipeline

TEXT = ("existence", "color", "category", "count", "superlative", "caption")
GROUPS: dict[str, tuple[str, ...]] = {  # what is compared, and the metrics that it pools
    "text": TEXT,
    **{name: (name,) for name in TEXT},
    "acc25": ("grounding_unique_acc25", "grounding_distractor_acc25"),
    "acc50": ("grounding_unique_acc50", "grounding_distractor_acc50"),
    "absent_false_box_rate": ("absent_false_box_rate",),
}
KINDS = (*TEXT, "grounding", "absent")  # of question; the others are answered near chance
BUILT_VIEWS = 4  # of a room whose other views are appended


@dataclass(frozen=True, slots=True)
class Comparison:
    """Which model on which rooms; settings: of the model; appended: the views from BUILT_VIEWS on
    come one by one, after the scene was cached; against: a variant that the others are compared
    with, question by question, as with the whole scene.
    """

    model: Path
    settings: Mapping[str, object]
    selection: RoomSelection
    appended: bool = False
    against: Variant | None = None


@dataclass(eq=False)
class Measured:
    """One variant over R rooms.

    right, asked: (R,) per entry of GROUPS; kv_bytes, reserved_bytes, flops: per room, of the cached
    scene's keys and values, of these with the room for a question, and of making them; ranked_by:
    what ranked, where the scene was pruned while it was built.
    """

    right: dict[str, Floats] = field(default_factory=dict)
    asked: dict[str, Floats] = field(default_factory=dict)
    kv_bytes: list[int] = field(default_factory=list)
    reserved_bytes: list[int] = field(default_factory=list)
    flops: list[float] = field(default_factory=list)
    lengths: list[tuple[int, ...]] = field(default_factory=list)
    ranked_by: set[str] = field(default_factory=set)
    spatial_tokens: float = np.nan
    unanswered: int = 0
    seconds: float = 0.0


def compare(
    comparison: Comparison, variants: Sequence[Variant], file: Path | None = None
) -> dict[str, Any]:
    """Measure the variants that `file` does not hold yet, each written and printed at once; all
    results. Raises Ada3DError.
    """
    seen: dict[bytes, torch.Tensor] = {}
    pipeline = _open(comparison, WHOLE)
    device = device_name(pipeline.model.model.device)
    out = ResultFile(file, device, comparison.selection.seed) if file else None
    rooms = list(rooms_of(comparison.selection, pipeline.view_side))
    whole = measure(pipeline, rooms, seen)
    results, rival, against = _header(comparison, pipeline, whole), None, comparison.against
    print(HEAD)
    if against is not None:
        rival = measure(_open(comparison, against), rooms, seen, comparison.appended)
        keep = {"keep_ratio": against.keep_ratio}
        results["against"] = plain(_key(against) | keep | beside(rival, whole))
        print(format_row(results["against"]), flush=True)
    results["rows"] = _rows_of(file, results) if file else []
    for variant in variants:
        key = plain(_key(variant))
        known = next((r for r in results["rows"] if key.items() <= r.items()), None)
        row = known or key | {"keep_ratio": variant.keep_ratio} | plain(
            _row(comparison, variant, (whole, rival), rooms, seen)
        )
        if known is None:
            results["rows"].append(row)
        print(format_row(row), flush=True)
        if out:
            out.write(results, complete=variant is variants[-1])
    return results


def _key(variant: Variant) -> dict[str, Any]:
    """What makes two rows the same one."""
    return {"variant": variant.name, "settings": variant.settings}


def _open(comparison: Comparison, variant: Variant) -> Ada3DPipeline:
    settings = {**comparison.settings, **variant.settings}
    late = comparison.appended and variant is not WHOLE
    if late:  # no rebuild in voxel order, whatever is stale and however long it takes
        settings |= {"cache.settle_sec": 60.0, "cache.max_staleness": 1.0}
    strategy = str(settings.pop("pruning.strategy"))
    return open_pipeline(comparison.model, strategy, None, settings, late, scenes=True)


def _row(
    comparison: Comparison,
    variant: Variant,
    others: tuple[Measured, Measured | None],
    rooms: Sequence[Room],
    seen: dict[bytes, torch.Tensor],
) -> dict[str, Any]:
    """The variant beside the whole scene, and the rival where there is one; or the sentence that
    refused it.
    """
    whole, rival = others
    try:
        pipeline = _open(comparison, variant)
        measured = measure(pipeline, rooms, seen, comparison.appended)
        row = beside(measured, whole)
        return row if rival is None else row | {"against": beside(measured, rival)["metrics"]}
    except ConfigError as error:
        return {"refused": str(error)}


# -- one variant


def measure(
    pipeline: Ada3DPipeline,
    rooms: Sequence[Room],
    seen: dict[bytes, torch.Tensor],
    appended: bool = False,
) -> Measured:
    """Ask about every room; seen: views that passed the tower before, added to."""
    remember_views(pipeline, seen)
    tally, measured, started = Tally(), Measured(), time.perf_counter()
    for room in tqdm(rooms, desc="rooms", mininterval=10):
        _load(pipeline, room, appended)
        questions = [asked for asked in room.questions if asked.kind in KINDS]
        ask_room(pipeline, questions, room.boxes, tally)
        _note_scene(pipeline, measured)
    for group, names in GROUPS.items():
        right = [value for name in names for value in tally.right[name]]
        index = [value for name in names for value in tally.room[name]]
        measured.right[group], measured.asked[group] = per_room(right, index, len(rooms))
    totals = [usage.spatial_total for usage in tally.usages]
    measured.spatial_tokens = float(np.mean(totals)) if totals else np.nan
    measured.unanswered = tally.unanswered
    measured.seconds = time.perf_counter() - started
    return measured


def remember_views(pipeline: Ada3DPipeline, seen: dict[bytes, torch.Tensor]) -> None:
    """Let the pipeline's tower see each set of views once; seen: its features by their pixels."""
    model = pipeline.model.model
    encode = model.encode_views

    def remembered(pixels: torch.Tensor) -> torch.Tensor:
        key = pixels.cpu().numpy().tobytes()
        if key not in seen:
            seen[key] = encode(pixels)
        return seen[key]

    model.encode_views = remembered  # type: ignore[method-assign]


def _load(pipeline: Ada3DPipeline, room: Room, appended: bool) -> None:
    """The room's views observed and its scene cached, where the settings cache one.

    Raises ConfigError where the cached scene is not of all views.
    """
    at_once = room.frames[:BUILT_VIEWS] if appended else room.frames
    load_room(pipeline, at_once)
    _finish_background_work(pipeline)
    for frame in room.frames[len(at_once) :]:
        pipeline.observe(frame)
        _finish_background_work(pipeline)
    report, total = pipeline.cache_report(), len(room.frames)
    if pipeline.config.cache.mode == "cached" and report.keyframes != total:
        raise ConfigError(f"the cached scene is of {report.keyframes} of {total} views.")
    if appended and report.appends == 0:
        raise ConfigError("no view was appended to the cached scene.")


def _finish_background_work(pipeline: Ada3DPipeline) -> None:
    while pipeline.run_background_step():
        pass


def _note_scene(pipeline: Ada3DPipeline, measured: Measured) -> None:
    """What the cached scene holds and took, after the room's questions."""
    cache = pipeline.prefix_cache
    prefix = None if cache is None else cache.active
    if prefix is None:
        return
    prefix.crop()  # the last question is no part of it
    measured.kv_bytes.append(prefix.cache.held_bytes)
    measured.reserved_bytes.append(prefix.num_bytes)
    measured.lengths.append(prefix.lengths)
    measured.flops.append(2.0 * prefix.macs)
    pruner = prefix.options.pruner
    if pruner is not None:
        measured.ranked_by.add(pruner.ranking.name)


# -- two variants


def beside(measured: Measured, whole: Measured) -> dict[str, Any]:
    """A row: per group the value and its paired difference in points, then what the scene holds and
    took; kv_bytes and what follows it of a cached scene alone.
    """
    metrics, draws = {}, room_draws(len(whole.asked["text"]))
    for group, right in measured.right.items():
        asked, before = whole.asked[group], whole.right[group]
        if not np.array_equal(asked, measured.asked[group]):
            raise ConfigError(f"{group}: the variants were not asked the same questions.")
        total = asked.sum()
        low, high = difference_interval(right, before, asked, draws)
        metrics[group] = {
            "value": right.sum() / total if total else np.nan,
            "points": 100 * (right - before).sum() / total if total else np.nan,
            "standard_error": 100 * standard_error(right, before, asked),
            "interval": (100 * low, 100 * high),
        }
    row: dict[str, Any] = {
        "metrics": metrics,
        "spatial_tokens": measured.spatial_tokens,
        "unanswered": measured.unanswered,
        "seconds": measured.seconds,
    }
    if measured.kv_bytes:
        row |= {
            "kv_bytes": float(np.mean(measured.kv_bytes)),
            "kv_share": sum(measured.kv_bytes) / sum(whole.kv_bytes),
            "kv_bytes_with_room": float(np.mean(measured.reserved_bytes)),
            "tokens_held": np.mean(measured.lengths, axis=0).tolist(),
            "build_flops": float(np.mean(measured.flops)),
            "build_share": sum(measured.flops) / sum(whole.flops),
            "ranked_by": sorted(measured.ranked_by),
        }
    return row


def _header(comparison: Comparison, pipeline: Ada3DPipeline, whole: Measured) -> dict[str, Any]:
    """What the rows are beside: rooms, model, and the whole scene's own numbers."""
    info, selection = pipeline.info, comparison.selection
    assert info is not None
    asked = {group: int(number.sum()) for group, number in whole.asked.items()}
    return plain(
        {
            "level": selection.level,
            "split": selection.split,
            "scenes": selection.scenes,
            "appended": comparison.appended,
            "model": info.name,
            "sha256": info.sha256.split()[0],
            "random_weights": info.random_weights,
            "intervals": f"95 %, bootstrap over rooms, {DRAWS} draws",
            "n": asked,
            "unpruned": beside(whole, whole) | {"settings": WHOLE.settings},
        }
    )


def _rows_of(file: Path, header: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows that the file holds of the same commit, model and rooms; none else."""
    try:
        old, now = json.loads(file.read_text(encoding="utf-8")), tree()
        names = ("level", "split", "scenes", "appended", "sha256", "n")
        same = all(old[name] == header[name] for name in names)
        rivals = (each.get("against", {}).get("settings") for each in (old, header))
        same = same and next(rivals) == next(rivals)
        same = same and old["provenance"]["commit"] == now.commit
        rows: list[dict[str, Any]] = old["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return rows if same and now.citable else []


# -- shown


HEAD = (
    f"{'variant':<28}{'keep':>5}{'KV':>6}{'build':>7}   {'text':<13}{'Acc@.25':<13}"
    f"{'existence':>10}{'color':>7}{'category':>9}{'count':>7}{'superl.':>8}{'caption':>8}"
)


def format_row(row: Mapping[str, Any]) -> str:
    """One line under HEAD: points against unpruned, +- a standard error where there is room."""
    name = f"{row['variant'][:27]:<28}{row['keep_ratio']:>5g}"
    if "refused" in row:
        return f"{name}  {row['refused']}"
    metrics = row["metrics"]
    kv = f"{row['kv_share']:>6.2f}{row['build_share']:>7.2f}" if "kv_share" in row else " " * 13
    pooled = "".join(f"{points(metrics[group]):<13}" for group in ("text", "acc25"))
    widths = dict(zip(TEXT, (10, 7, 9, 7, 8, 8), strict=True))
    single = "".join(f"{points(metrics[kind], False):>{width}}" for kind, width in widths.items())
    line = f"{name}{kv}   {pooled}{single}"
    if "against" not in row:
        return line
    rival = (f"{points(row['against'][group]):<13}" for group in ("text", "acc25"))
    return f"{line}\n{'  against the rival':<46}   {''.join(rival)}"


def points(metric: Mapping[str, Any], with_error: bool = True) -> str:
    """'-0.4 +-0.6'; '-' where nothing was asked."""
    value, error = metric.get("points"), metric.get("standard_error")
    if value is None:
        return "-"
    return f"{value:+.1f}" + (f" +-{error:.1f}" if with_error and error is not None else "")
