"""The embedded model's card, ada3d_ros/models/embedded/README.md, from docs/results.

    python tools/write_model_card.py

Evaluations: `ada3d eval synthetic --scenes N [--level 2] [--shuffle-scenes] [--strategy NAME --keep
R] --json docs/results/embedded_WHAT.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "ada3d_ros" / "models" / "embedded"
COLUMNS = {  # heading -> result file
    "level 1": "embedded_level1",
    "level 1, adatoken3d at 0.41": "embedded_level1_pruned",
    "level 1, another room's views": "embedded_level1_shuffled",
    "level 2": "embedded_level2",
}
HEAD = """# The embedded model

A small LLaVA-3D for generated rooms, made by `ada3d train` from nothing; see docs/training.md for
world, sizes and curriculum. Licence: that of the package. It answers short questions about ten
kinds of furniture in eight colours and grounds phrases about them, in rooms drawn by
`ada3d_ros/lab/world`. It has never seen a photograph: on real images its answers are guesses.
Its rooms stand on z = 0; a map whose floor lies elsewhere is moved for it (`world.floor_z`).
Relations stay at their majority rate, and what is nearest it finds only sometimes: see the rows
against chance and majority.

Training: {trained_on};
the vision tower 9804 beside it; about 50 minutes on two shared CPU cores; seed 0; rooms of
split `train`.
Schedule: `ada3d calibrate` on six validation rooms (schedule.yaml); this model shows no falling
information, so it holds the fixed curve.
Weights: bfloat16, sha256 {sha256}.
Boxes of a score below {threshold} are not shown.

Greedy answers, exact match, on fresh rooms of split `test`; `chance` is a guess among the possible
answers (for boxes: a true box taken at random); `majority` the most frequent true answer; 95 %
intervals (Wilson) after the value. Commands: tools/write_model_card.py.

"""


def row(name: str, results: list[dict[str, Any]]) -> str:
    """One metric in every column, n, chance and majority of the first."""
    cells = []
    for result in results:
        if result["metrics"].get(name) is None:
            cells.append("")
            continue
        low, high = result["details"][name]["interval"]
        cells.append(f"{result['metrics'][name]:.2f} ({low:.2f}-{high:.2f})")
    detail = results[0]["details"][name]
    majority = "" if detail["majority"] is None else f"{detail['majority']:.2f}"
    chance = (
        ""
        if name == "absent_false_box_rate" or detail["chance"] is None
        else f"{detail['chance']:.2f}"
    )
    return f"| {name} | {detail['n']} | {chance} | {majority} | " + " | ".join(cells) + " |"


def render() -> str:
    """The card."""
    from ada3d_ros.model.grounding_head import inspect_grounding_head

    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    facts = inspect_grounding_head(FOLDER, config["hidden_size"])
    assert facts is not None
    present = {
        heading: ROOT / "docs" / "results" / f"{file}.json" for heading, file in COLUMNS.items()
    }
    results = {
        h: json.loads(p.read_text(encoding="utf-8")) for h, p in present.items() if p.exists()
    }
    first = next(iter(results.values()))
    text = HEAD.format(
        trained_on=facts["trained_on"],
        sha256=first["sha256"],
        threshold=facts["threshold"],
    )
    text += (
        "| metric | n | chance | majority | "
        + " | ".join(f"{h} ({r['scenes']} rooms)" for h, r in results.items())
        + " |\n"
    )
    text += "|---|---|---|---|" + "---|" * len(results) + "\n"
    return text + "\n".join(row(name, list(results.values())) for name in first["metrics"]) + "\n"


if __name__ == "__main__":
    (FOLDER / "README.md").write_text(render(), encoding="utf-8")
    print(f"wrote {FOLDER / 'README.md'}")
