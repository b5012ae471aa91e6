"""The embedded model's card, ada3d_ros/models/embedded/README.md, from docs/results.

    python tools/write_model_card.py

The evaluations and their commands: tools/embedded_results.py; all anew after new weights:
tools/remake_embedded_results.py.
"""

from __future__ import annotations

import json
from typing import Any

from embedded_results import EVALUATIONS, ROOT, cell, load

FOLDER = ROOT / "ada3d_ros" / "models" / "embedded"
TARGETS = {  # metric: of level 1, alone and unpruned; measured
    "existence": (".97", ""),
    "color": (".95", ""),
    "category": (".94", ""),
    "count": (".72", ".85"),
    "nearest": (".70", ".86"),
    "relation": (".90", ".95"),
    "multihop": (".60", ".78"),
    "superlative": (".88", ".93"),
    "caption": (".90", ""),
    "grounding_unique_acc25": (".86", ""),
    "grounding_unique_acc50": (".72", ""),
    "grounding_distractor_acc25": (".86", ""),
    "grounding_distractor_acc50": (".76", ""),
    "absent_false_box_rate": ("<= .03", ""),
    "coherence": (".80", ".80"),
    "distance_grounded": ("", ".92"),
    "distance_mra": ("", ".88"),
    "distance_median_error_m": ("", "<= .05"),
    "distance_coverage90": ("", ".90"),
    "inventory_recall25": ("", ".88"),
    "inventory_precision25": ("", ".88"),
}
POOLED = ("embedded_level1", "embedded_level1_measured")  # of three seeds
COHERENT = (*POOLED, "embedded_level1_built", "embedded_level2", "embedded_level2_measured")
HEAD = """# The embedded model

A small LLaVA-3D for generated rooms, made by `ada3d train`; see docs/training.md for
world, sizes and curriculum. Licence: that of the package. It answers short questions about ten
kinds of furniture in eight colours and grounds phrases about them, in rooms drawn by
`ada3d_ros/lab/world`. It has never seen a photograph: on real images its answers are guesses.
Its rooms stand on z = 0; a map whose floor lies elsewhere is moved for it (`world.floor_z`).
Before it answers it points at what the answer rests on. Counting is what it does worst: the
places of a count must all be right, and their end found.

Training: from the weights of the model before it;
{trained_on};
the vision tower 4152 beside it; about two and a half hours of one shared CPU core; seed 0;
rooms of split `train`.
Schedule: `ada3d calibrate` on six validation rooms (schedule.yaml); its information
falls in the last layer alone.
Queries of questions, and what each layer is worth to them: `ada3d calibrate --held` on 32
validation rooms (scene_queries.safetensors).
Pooling of `condensed_grid`: tools/train_pooling.py, 96 training rooms (pooling.safetensors).
Weights: bfloat16, sha256 {sha256}.
Boxes of a score below {threshold} are not shown.

## Accuracy

On fresh rooms of split `test`, level 1 and unpruned where the column does not say otherwise. What
each metric counts: docs/evaluation.md. Commands: tools/embedded_results.py.

- *alone*: the model's own greedy answers, right where they equal the true one; *without chains*: it
  may not point before it speaks; *measured*: as the node answers, from boxes where the question is
  read and what it names is found, else by the model.
- *blind*: the model without any scene; *another room's views*: asked about a room that it does not
  see. *chance*: a guess among the possible answers (for boxes: a true box taken at random);
  *majority*: the most frequent true answer; *words*: a learner that sees questions and no room.
- In brackets 95 % intervals that bootstrap over rooms. n, chance and majority are of the first
  column that has the metric.

"""
COHERENCE = """## Coherence

Of the right answers whose question is about objects, the share that points at these objects. An
answer that points at nothing counts as not coherent.
"""
BY_SEED = """## Each seed

The evaluations that pool three seeds (of rooms and questions), one by one.
"""


def row(name: str, results: list[dict[str, Any]], blind: dict[str, Any] | None = None) -> str:
    """One metric in every column; n, chance and majority of the first that was asked; blind: the
    evaluation that has what words alone give away.
    """
    details = [each["details"].get(name) or {"n": 0} for each in results]
    detail = next((each for each in details if each["n"]), None)
    if detail is None:
        return ""
    majority = "" if detail["majority"] is None else f"{detail['majority']:.2f}"
    shown = detail["chance"] is not None and name != "absent_false_box_rate"
    chance = f"{detail['chance']:.2f}" if shown else ""
    targets = " | ".join(TARGETS.get(name, ("", "")))
    cells = " | ".join(cell(each, name) for each in results)
    learned = (blind or {}).get("words_alone", {}).get(name)
    words = f"{learned['value']:.2f}" if learned else ""
    return f"| {name} | {detail['n']} | {targets} | {chance} | {majority} | {words} | {cells} |"


def accuracy() -> list[str]:
    """The table of all metrics, a column an evaluation."""
    shown = [each for each in EVALUATIONS if each.heading]
    results = [load(each.name) for each in shown]
    headings = [
        f"{each.heading} ({rooms_of(result)} rooms)"
        for each, result in zip(shown, results, strict=True)
    ]
    names = dict.fromkeys(name for result in results for name in result["metrics"])
    blind = load("embedded_level1_blind")
    columns = ["metric", "n", "target, alone", "target, measured", "chance", "majority", "words"]
    columns += headings
    return table(columns, [line for name in names if (line := row(name, results, blind))])


def rooms_of(result: dict[str, Any]) -> int:
    """How many, of all seeds."""
    return int(result["scenes"]) * len(result.get("seeds", (0,)))


def seeds() -> list[str]:
    """Each seed's own values, of what is pooled over several."""
    results = {name: load(name) for name in POOLED}
    columns = [
        (each.heading, seed, results[each.name]["by_seed"][seed])
        for each in EVALUATIONS
        if each.name in POOLED
        for seed in results[each.name].get("by_seed", {})
    ]
    names = dict.fromkeys(name for _, _, values in columns for name in values)
    rows = []
    for name in names:
        values = [values.get(name) for _, _, values in columns]
        cells = ["" if value is None else f"{value:.3f}" for value in values]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return table(["metric", *(f"{heading}, seed {seed}" for heading, seed, _ in columns)], rows)


def coherence() -> list[str]:
    """How many of the right answers of each kind point at their objects."""
    shown = [each for each in EVALUATIONS if each.name in COHERENT]
    results = [load(each.name).get("coherence", {}) for each in shown]
    rows = []
    for kind in dict.fromkeys(kind for result in results for kind in result):
        cells = []
        for result in results:
            found = result.get(kind)
            if not found:
                cells.append("")
                continue
            low, high = found["interval"]
            cells.append(f"{found['value']:.2f} ({low:.2f}-{high:.2f}), n {found['n']}")
        rows.append(f"| {kind} | {' | '.join(cells)} |")
    return table(["kind", *(each.heading for each in shown)], rows)


def table(columns: list[str], rows: list[str]) -> list[str]:
    return ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|", *rows, ""]


def render() -> str:
    """The card. Raises SystemExit where a result is missing, with the command that makes it."""
    from ada3d_ros.model.grounding_head import inspect_grounding_head

    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    facts = inspect_grounding_head(FOLDER, config["hidden_size"])
    assert facts is not None
    first = load(EVALUATIONS[0].name)
    text = HEAD.format(
        trained_on=facts["trained_on"],
        sha256=first["sha256"],
        threshold=facts["threshold"],
    )
    parts = [text, *accuracy(), COHERENCE, *coherence(), BY_SEED, *seeds()]
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    (FOLDER / "README.md").write_text(render(), encoding="utf-8")
    print(f"wrote {FOLDER / 'README.md'}")
