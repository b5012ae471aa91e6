"""The embedded model's learning curves, docs/learning_curves.png.

    python tools/plot_learning_curves.py [LOG.jsonl ...] [--out docs/learning_curves.png]

From docs/results/embedded_learning.jsonl, or other logs of `ada3d train`.

Each log is one process (stages that ran one after the other); x counts the rooms seen in its
stages. Validation rooms, exact match.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
ANSWERS = (
    "existence",
    "category",
    "color",
    "count",
    "nearest",
    "relation",
    "superlative",
    "multihop",
    "caption",
)


def main() -> None:
    """Left: answers against rooms seen, all stages in a row. Right: patches of the vision tower."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "logs", nargs="*", type=Path, default=[ROOT / "docs/results/embedded_learning.jsonl"]
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs/learning_curves.png")
    options = parser.parse_args()
    texts = [path.read_text(encoding="utf-8") for path in options.logs]
    lines = [json.loads(line) for text in texts for line in text.splitlines()]
    answers = [line for line in lines if line["stage"] != "vision"]
    patches = [line for line in lines if line["stage"] == "vision"]
    size = (12, 4.5)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=size, width_ratios=(3, 1), layout="constrained"
    )

    # Rooms seen when a line was written: each stage counts its own from 0.
    x, before, starts = [], 0, {}
    for line, following in zip(answers, [*answers[1:], None], strict=True):
        starts.setdefault(line["stage"], before)
        x.append(before + line["rooms"])
        if following is not None and following["stage"] != line["stage"]:
            before += line["rooms"]

    # Answers by kind, with a line where a stage begins.
    for kind in ANSWERS:
        left.plot(x, [line["val"].get(kind) for line in answers], label=kind, linewidth=1.4)
    for stage, start in starts.items():
        left.axvline(start, color="#bbb", linewidth=0.8)
        left.text(start, 1.03, " " + stage, fontsize=9, color="#555")
    left.set(xlabel="rooms seen", ylabel="exact match, validation rooms", ylim=(0, 1.08))
    left.legend(fontsize=8, ncols=2, loc="lower right")

    # Patches on objects.
    for kind, name in (("patch_category", "category"), ("patch_color", "colour")):
        rooms, shares = zip(*((line["rooms"], line["val"][kind]) for line in patches), strict=True)
        right.plot(rooms, shares, label=name)
    right.set(xlabel="rooms seen", title="vision tower: patches on objects", ylim=(0, 1.08))
    right.legend(fontsize=8)
    figure.savefig(options.out, dpi=110)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
