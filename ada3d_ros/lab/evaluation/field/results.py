"""The numbers of a benchmark out of items and records."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.evaluation.field.benchmark import Benchmark, Files, Item, Record, Scoring
from ada3d_ros.lab.evaluation.field.json_files import name_some
from ada3d_ros.lab.evaluation.intervals import per_room, room_draws, share_interval

Scored = Sequence[tuple[Item, Record]]


def scored_items(
    items: Sequence[Item], records: Mapping[str, Record], partial: bool, where: Path
) -> list[tuple[Item, Record]]:
    """Every item with its record, in the files' order. partial: items without one are left out.

    where: the file or folder of the records. Raises SourceError for records of unknown items, for
    items without record, and where nothing is left.
    """
    known = {item.id for item in items}
    unknown = [name for name in records if name not in known]
    if unknown:
        raise SourceError(
            f"{where} answers {len(unknown)} questions that the benchmark's files do not ask:"
            f" {name_some(unknown)}. Are they of the same split?"
        )
    missing = [item.id for item in items if item.id not in records]
    if missing and not partial:
        raise SourceError(
            f"{where} has no answer to {len(missing)} of {len(items)} questions:"
            f" {name_some(missing)}. Answer them, or score the others alone with --partial."
        )
    scored = [(item, records[item.id]) for item in items if item.id in records]
    if not scored:
        raise SourceError(f"{where} answers none of the {len(items)} questions.")
    return scored


def results_of(benchmark: Benchmark, scored: Scored, scoring: Scoring) -> dict[str, Any]:
    """metrics: the benchmark's own; score: the mean of what single answers are worth with a 95 %
    interval that draws whole scenes again; errors: answers that did not come, by code; remarks:
    what the benchmark says of its numbers, where it does.

    Raises ConfigError where a package or Java is missing.
    """
    scores = [benchmark.item_score(item, record) for item, record in scored]
    alone = [i for i, score in enumerate(scores) if not math.isnan(score)]
    sources = {source: n for n, source in enumerate(dict.fromkeys(i.source for i, _ in scored))}
    results: dict[str, Any] = {
        "benchmark": benchmark.name,
        "n": len(scored),
        "scenes": len(sources),
        "errors": dict(Counter(r["error"] for _, r in scored if "error" in r)),
        "tokens": scoring.tokens,
        "quirks": scoring.quirks,
        "metrics": benchmark.score(scored, scoring),
    }
    if remarks := benchmark.remarks(scored, scoring):
        results["remarks"] = remarks
    if alone:
        values = [scores[i] for i in alone]
        room = [sources[scored[i][0].source] for i in alone]
        right, asked = per_room(values, room, len(sources))
        low, high = share_interval(right, asked, room_draws(len(sources)))
        results["score"] = {"mean": float(np.mean(values)), "n": len(values), "ci95": [low, high]}
    return results


def worst(benchmark: Benchmark, scored: Scored, count: int) -> list[tuple[Item, Record, float]]:
    """The items with the lowest scores, worst first, those of equal score in the files' order;
    right ones are never among them.
    """
    rated = [(i, r, benchmark.item_score(i, r)) for i, r in scored]
    wrong = [each for each in rated if each[2] < 1.0]
    return sorted(wrong, key=lambda each: each[2])[:count]


def digests(files: Files) -> dict[str, str]:
    """SHA-256 of each file; of a folder that of its files' names and sizes, and of its texts."""
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else _of_folder(path)
        for name, path in files.items()
    }


def _of_folder(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            text = path.read_bytes() if path.suffix == ".txt" else b""
            name = path.relative_to(folder).as_posix()
            total.update(f"{name} {path.stat().st_size}\n".encode() + text)
    return total.hexdigest()


def table(results: Mapping[str, Any]) -> str:
    """The results as lines to print."""
    width = max(map(len, results["metrics"]), default=0)
    lines = [f"{results['benchmark']}: {results['n']} items of {results['scenes']} scenes"]
    lines += [f"  {name:<{width}}  {value:.4f}" for name, value in results["metrics"].items()]
    if "score" in results:
        low, high = results["score"]["ci95"]
        lines.append(f"  single answers {results['score']['mean']:.4f} ({low:.4f} to {high:.4f})")
    if results["errors"]:
        told = ", ".join(f"{count} {code}" for code, count in results["errors"].items())
        lines.append(f"  without an answer, counted as wrong: {told}")
    lines += [f"  {remark}" for remark in results.get("remarks", [])]
    left_out = results.get("left_out", 0)
    if left_out:
        lines.append(f"  PARTIAL: {left_out} items were left out; these are no published numbers")
    return "\n".join(lines)
