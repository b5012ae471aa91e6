"""Draw docs/cold_warm.png from docs/results/cold_warm_*.json: python tools/plot_benchmarks.py"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
Bars = tuple[tuple[str, str, str | None, str], ...]
BARS: Bars = (  # label, ratio, floor, colour
    ("cold, PyramidDrop", "pdrop_prefill_over_full", None, "#9aa5b1"),
    ("cold, FastV", "fastv_prefill_over_full", None, "#9aa5b1"),
    ("cold, adatoken3d", "pruned_prefill_over_full", "flop_ratio", "#4c78a8"),
    ("warm, selected", "warm_pruned_ttft_over_cold", None, "#54a24b"),
    ("warm", "warm_ttft_over_cold", "warm_flop_ratio", "#54a24b"),
)
ANSWERS: Bars = (
    ("warm, selected", "warm_pruned_total_over_transformers", None, "#54a24b"),
    ("warm", "warm_total_over_transformers", None, "#54a24b"),
)


def draw(axes: Any, data: dict[str, Any], bars: Bars) -> None:
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
    paths = sorted((ROOT / "docs" / "results").glob("cold_warm_*.json"))
    found = [json.loads(path.read_text()) for path in paths]
    size = (3.6 * len(found), 4.6)
    figure, axes = plt.subplots(2, len(found), figsize=size, height_ratios=(5, 2), squeeze=False)
    for data, first_token, answer in zip(found, *axes, strict=True):
        # Above: up to the first token. Below: whole answers.
        draw(first_token, data, BARS)
        draw(answer, data, ANSWERS)
        made = f"{data['dtype']}, {data['provenance']['device']}, n={data['n']}"
        first_token.set_title(f"shape {data['shape']}: N={data['N']}, {made}", fontsize=9)
        first_token.set_xlabel("first token / cold unpruned (black: FLOPs)", fontsize=8)
        tokens = data["answer_tokens"]
        answer.set_xlabel(f"{tokens} tokens / transformers generate", fontsize=8)
    figure.tight_layout()
    path = ROOT / "docs" / "cold_warm.png"
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
