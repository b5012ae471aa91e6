"""What writers of pages share: the results, what is said of old ones, how tables look."""

from __future__ import annotations

import itertools
import json
import textwrap
from pathlib import Path
from typing import Any

from ada3d_ros.config.pruning import STRATEGIES

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
COLUMNS = 116
SHAPES = ("A", "B", "C", "W", "7B")
ADDED_LATER = "they were added after the measurement"


def spread(value: dict[str, float], digits: int = 3) -> str:
    """'0.361 (0.350 to 0.372)'."""
    return f"{value['median']:.{digits}f} ({value['min']:.{digits}f} to {value['max']:.{digits}f})"


def shape(data: dict[str, Any]) -> str:
    """'**Shape B**: d=1024, L=32, m=2752', and of which backbone if not of LLaVA-3D's."""
    sizes = data["sizes"]
    whose = " of Video-3D-LLM" if data.get("backbone") == "video3dllm" else ""
    return (
        f"**Shape {data['shape']}{whose}**: d={sizes['hidden']}, L={sizes['layers']},"
        f" m={sizes['intermediate']}"
    )


def head(columns: str) -> list[str]:
    """The first two lines of a table; columns as 'a | b | c'."""
    return [f"| {columns} |", "|---" * (columns.count(" | ") + 1) + "|"]


def measured(suite: str, name: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The results of a suite in the order of SHAPES, and what stands for the 7B where it is not
    among them.
    """
    files = [RESULTS / f"{name}_{shape}.json" for shape in SHAPES]
    found = [result(path.stem) for path in files if path.is_file()]
    missing = (
        f"**Shape 7B**: not measured, no CUDA GPU was at hand. `ada3d bench --suite {suite} --shape"
        f" 7B --json docs/results/{name}_7B.json` fills it on any machine that has one."
    )
    return found, [] if any(data["shape"] == "7B" for data in found) else [missing]


def result(name: str) -> dict[str, Any]:
    """One file of docs/results."""
    data: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return data


def results_of(pattern: str) -> list[dict[str, Any]]:
    """All files of docs/results of that name."""
    return [result(path.stem) for path in sorted(RESULTS.glob(pattern))]


def never_asked(data: dict[str, Any], why: str = ADDED_LATER) -> str:
    """Strategies that the product has and the results not even as rows to be measured, and why."""
    names = [part for row in data["rows"] for part in row["strategy"].replace(" ", "+").split("+")]
    absent = [name for name in STRATEGIES if name not in ("none", *names)]
    if not absent:
        return ""
    listed = ", ".join(f"`{name}`" for name in absent)
    return f"Not among these rows, for {why}: {listed}."


def wrapped(text: str) -> str:
    """Prose broken into lines; rows of tables, and lines that end in a break, stay whole."""
    lines = (
        textwrap.wrap(line, COLUMNS, break_on_hyphens=False)
        if len(line) > COLUMNS and not line.startswith("|")
        else [line]
        for line in text.split("\n")
    )
    return "\n".join(itertools.chain.from_iterable(lines))
