"""Draw docs/pruning_tables.png from docs/results: python tools/plot_pruning_tables.py

What questions about one object, about several, and grounded boxes lose by keep ratio; a row of
panels for each level that has results.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
TARGET = ROOT / "docs" / "pruning_tables.png"
PANELS = (
    ("one object", "questions about one object"),
    ("several objects", "questions about several"),
    ("acc25", "boxes, Acc@.25"),
)
LINES = (  # strategy, mode, colour
    ("random", "before", "#9aa5b1"),
    ("voxel_dpp", "before", "#54a24b"),
    ("adatoken3d", "build", "#4c78a8"),
    ("voxel_dpp+adatoken3d", "build", "#f58518"),
    ("voxel_dpp+adatoken3d", "paper", "#e45756"),
    ("adatoken3d", "paper", "#b279a2"),
    ("adatoken3d_plus", "build", "#72601b"),
)


def points(data: dict[str, Any], strategy: str, mode: str, group: str) -> list[tuple[float, ...]]:
    """Keep ratio, points, standard error of each measured row, ratios rising."""
    found = [
        (row["budget"], row["metrics"][group]["points"], row["metrics"][group]["standard_error"])
        for row in data["rows"]
        if (row["strategy"], row["mode"]) == (strategy, mode)
        and "metrics" in row
        and row["budget"] < 1
    ]
    return sorted((b, p, e or 0.0) for b, p, e in found if p is not None)


def draw(panels: Sequence[Axes], data: dict[str, Any]) -> None:
    """One level."""
    for axes, (group, title) in zip(panels, PANELS, strict=True):
        for strategy, mode, colour in LINES:
            found = points(data, strategy, mode, group)
            if found:
                x, y, error = zip(*found, strict=True)
                name = strategy if mode == "before" else f"{strategy}, {mode}"
                axes.errorbar(x, y, error, color=colour, marker="o", markersize=3.5, label=name)
        axes.axhline(0, color="#888888", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_xticks([0.05, 0.1, 0.2, 0.4], ["5 %", "10 %", "20 %", "40 %"])
        axes.minorticks_off()
        axes.set_title(f"level {data['level']}: {title}", fontsize=10)
        axes.set_xlabel("kept, mean over layers")
    panels[0].set_ylabel("points against the whole scene")


def figure_of(results: Path = RESULTS) -> Figure:
    """Of those levels that have results."""
    files = [results / f"pruning_tables_level{number}.json" for number in (1, 2)]
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    size = 11, 3.4 * len(found)
    figure, grid = plt.subplots(len(found), len(PANELS), figsize=size, sharey=True, squeeze=False)
    for panels, data in zip(grid, found, strict=True):
        draw(panels, data)
    grid[0][0].legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    return figure


def main() -> None:
    figure_of().savefig(TARGET, dpi=110)
    print(f"wrote {TARGET}")


if __name__ == "__main__":
    main()
