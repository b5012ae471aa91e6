"""Draw docs/cold_warm.png from docs/results/cold_warm_*.json: python tools/plot_benchmarks.py"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
BARS = (  # label, ratio, floor, colour
    ("cold, PyramidDrop", "pdrop_prefill_over_full", None, "#9aa5b1"),
    ("cold, FastV", "fastv_prefill_over_full", None, "#9aa5b1"),
    ("cold, adatoken3d", "pruned_prefill_over_full", "flop_ratio", "#4c78a8"),
    ("warm, selected", "warm_pruned_ttft_over_cold", None, "#54a24b"),
    ("warm", "warm_ttft_over_cold", "warm_flop_ratio", "#54a24b"),
)
ANSWERS = (
    ("warm, selected", "warm_pruned_total_over_transformers", None, "#54a24b"),
    ("warm", "warm_total_over_transformers", None, "#54a24b"),
)


def draw(
    axes: Any, data: dict[str, Any], bars: tuple[tuple[str, str, str | None, str], ...]
) -> None:
    """Medians with least and largest; a black tick where the FLOPs say it ends."""
    for row, (_, name, floor, colour) in enumerate(bars):
        spread, ratios = data["spread"][name], data["ratios"]
        error = [[spread["median"] - spread["min"]], [spread["max"] - spread["median"]]]
        axes.barh(row, spread["median"], xerr=error, color=colour, height=0.7, capsize=3)
        axes.text(spread["max"] + 0.015, row, f"{spread['median']:.3f}", va="center", fontsize=8)
        if floor:
            axes.plot([ratios[floor]] * 2, [row - 0.4, row + 0.4], color="black", linewidth=1.5)
    axes.set_yticks(range(len(bars)), [label for label, *_ in bars], fontsize=8)
    axes.set_xlim(0, 1)
    axes.axvline(1, color="#888888", linewidth=0.8)


def main() -> None:
    """One column per shape that was measured."""
    found = [
        json.loads(path.read_text())
        for path in sorted((ROOT / "docs" / "results").glob("cold_warm_*.json"))
    ]
    figure, axes = plt.subplots(
        2, len(found), figsize=(3.6 * len(found), 4.6), height_ratios=(5, 2), squeeze=False
    )
    for column, data in enumerate(found):
        draw(axes[0][column], data, BARS)
        draw(axes[1][column], data, ANSWERS)
        title = (
            f"shape {data['shape']}: N={data['N']}, {data['dtype']},"
            f" {data['provenance']['device']}, n={data['n']}"
        )
        axes[0][column].set_title(title, fontsize=9)
        axes[0][column].set_xlabel("first token / cold unpruned (black: FLOPs)", fontsize=8)
        axes[1][column].set_xlabel(
            f"{data['answer_tokens']} tokens / transformers generate", fontsize=8
        )
    figure.tight_layout()
    path = ROOT / "docs" / "cold_warm.png"
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
