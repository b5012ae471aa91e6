"""Draw docs/cold_warm.png and docs/soak.png from docs/results: python tools/plot_benchmarks.py"""

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
    ("warm, selected", "warm_pruned_total_over_transformers_cached", None, "#54a24b"),
    ("warm", "warm_total_over_transformers_cached", None, "#54a24b"),
)


def draw(axes: Any, data: dict[str, Any], bars: Bars) -> None:
    """Medians with least and largest; a black tick where the FLOPs say it ends."""
    for row, (_, name, floor, colour) in enumerate(bars):
        if name not in data["spread"]:
            axes.text(0.02, row, "not measured", va="center", fontsize=8, color="#888888")
            continue
        spread, ratios = data["spread"][name], data["ratios"]
        error = [[spread["median"] - spread["min"]], [spread["max"] - spread["median"]]]
        axes.barh(row, spread["median"], xerr=error, color=colour, height=0.7, capsize=3)
        axes.text(spread["max"] + 0.015, row, f"{spread['median']:.3f}", va="center", fontsize=8)
        if floor:
            axes.plot([ratios[floor]] * 2, [row - 0.4, row + 0.4], color="black", linewidth=1.5)
    axes.set_yticks(range(len(bars)), [label for label, *_ in bars], fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.6, len(bars) - 0.4)
    axes.axvline(1, color="#888888", linewidth=0.8)


def draw_soak() -> None:
    """Resident memory of the node over the minutes of docs/results/soak_cabinet.json."""
    data = json.loads((ROOT / "docs" / "results" / "soak_cabinet.json").read_text())
    figure, axes = plt.subplots(figsize=(7, 2.8))
    minutes = [seconds / 60 for seconds in data["seconds"]]
    axes.plot(minutes, data["resident_mib"], color="#4c78a8", linewidth=1.2)
    axes.axvline(data["warm_up_s"] / 60, color="#888888", linewidth=0.8, linestyle="--")
    axes.text(data["warm_up_s"] / 60, 20, " warm-up ends", color="#555555", fontsize=8)
    axes.set_ylim(0, 1.15 * max(data["resident_mib"]))
    axes.set_xlabel("minutes")
    axes.set_ylabel("resident MiB")
    refused = sum(data["refused"].values())
    axes.set_title(
        f"{data['bag']} in a loop at {data['rate']:g}x:\n{data['n']} questions, {data['answered']}"
        f" answered, {refused} refused with a code, {data['lost']} lost",
        fontsize=9,
    )
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "soak.png", dpi=110)


def draw_cold_warm() -> None:
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
        answer.set_xlabel(f"{tokens} tokens / transformers, scene held", fontsize=8)
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "cold_warm.png", dpi=110)


if __name__ == "__main__":
    draw_cold_warm()
    draw_soak()
