"""The worst items of a run with their pictures, scene by scene, as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ada3d_ros.lab.evaluation.field.benchmark import Benchmark, Item, Record
from ada3d_ros.lab.evaluation.field.grounded import BOXES
from ada3d_ros.lab.evaluation.field.scenes import Shown
from ada3d_ros.lab.evaluation.field.true_boxes import box_of
from ada3d_ros.lab.report.worst import WorstItem, draw_item, write_worst
from ada3d_ros.types import Box3D, RgbdFrame

TILES = 6  # metrics at the top of the page
SHOWN_BOXES = 3  # answered ones that are drawn


def write_page(
    path: Path,
    benchmark: Benchmark,
    results: Mapping[str, Any],
    lowest: Sequence[tuple[Item, Record, float]],
    shown: Shown | None,
) -> Path:
    """Write it; returns its path. shown: where the pictures come from, None for a page without.

    Raises SourceError for a scene that cannot be read.
    """
    tiles = [(f"{value:.3f}", name) for name, value in results["metrics"].items()][:TILES]
    tiles.append((str(results["n"]), f"items of {results['scenes']} scenes"))
    suffix = results.get("suffix", "")

    # A scene is read once for all its items.
    rows: dict[str, WorstItem] = {}
    for source in dict.fromkeys(item.source for item, _, _ in lowest):
        frames: list[RgbdFrame] = []
        for item, record, score in lowest:
            if item.source == source:
                if not frames and shown is not None and shown.has(item):
                    frames = shown.frames(item)
                text = f"{benchmark.question(item).text} {suffix}".strip()
                rows[item.id] = _row(replace(item, text=text), record, score, frames)
    title = f"{benchmark.name}: the worst answers"
    return write_worst(path, title, tiles, [rows[item.id] for item, _, _ in lowest])


def _row(item: Item, record: Record, score: float, frames: Sequence[RgbdFrame]) -> WorstItem:
    true = [_labelled(row, "true") for row in item.extra.get(BOXES, ())]
    answered = record.get(BOXES, [])
    found = [_labelled(row, "answered") for row in answered[:SHOWN_BOXES]]
    return WorstItem(
        item.id,
        item.source,
        score,
        item.text,
        item.references,
        str(record.get("text", "")),
        f"{record['error']}: {record.get('why', '')}" if "error" in record else "",
        len(answered),
        draw_item(frames, true, found) if frames else (),
    )


def _labelled(row: list[float], label: str) -> Box3D:
    return replace(box_of(row), label=label)
