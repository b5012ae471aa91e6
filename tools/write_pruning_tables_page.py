"""docs/pruning_tables.md from docs/results: python tools/write_pruning_tables_page.py

The results: `ada3d eval pruning-tables --level N --json docs/results/pruning_tables_levelN.json`
(or `make tables`, an hour of it at a time). The figure: tools/plot_pruning_tables.py.
"""

from __future__ import annotations

import itertools
import textwrap
from pathlib import Path

from pruning_findings import (
    LEAST_ROOMS,
    MODES,
    Row,
    budget_of,
    budgets,
    clear,
    interval,
    loaded,
    measured,
    name_of,
    one,
    signed,
    table,
    targets,
    winners,
)
from table_parts import ADDED_LATER, never_asked
from training_seed_parts import training_seeds

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
TARGET = ROOT / "docs" / "pruning_tables.md"
COLUMNS = 116
KINDS = (
    *("existence", "color", "category", "count", "nearest", "relation", "superlative"),
    *("multihop", "caption"),
)
BOXES = ("unique_acc25", "unique_acc50", "distractor_acc25", "distractor_acc50")
SIZES, DISTANCES = ("1-3", "4-10", "11+"), ("<1.8m", "1.8-2.3m", ">2.3m")
POOLS = ("one object", "several objects")
HURT = (  # what pruning may hurt, as the page calls it
    *((f"{pool}", f"about {pool}") for pool in POOLS),
    *((kind, kind) for kind in KINDS),
    *((f"named {size}", f"colour and category, {size} voxels") for size in SIZES),
    *((f"acc25 {size}", f"Acc@.25, {size} voxels") for size in SIZES),
    *((f"acc50 {size}", f"Acc@.5, {size} voxels") for size in SIZES),
    *((f"acc25 {where}", f"Acc@.25, {where}") for where in DISTANCES),
    ("unique_acc25", "Acc@.25, unique"),
    ("unique_acc50", "Acc@.5, unique"),
    ("distractor_acc25", "Acc@.25, distractors"),
    ("distractor_acc50", "Acc@.5, distractors"),
)
LEAST_N = 20  # questions that a share must rest on to be named
BASE = (("random", "before"), ("geo_fps", "before"), ("voxel_dpp", "before"))
LOSERS = (
    *(("random", "before", budget) for budget in (0.4, 0.1)),
    *(("voxel_dpp", "before", budget) for budget in (0.4, 0.1, 0.05)),
    *(("adatoken3d", mode, 0.4) for mode in ("paper", "question", "build")),
    *(("adatoken3d", "build", budget) for budget in (0.2, 0.1, 0.05)),
)
HEAD = """# Pruning: the paper's tables, measured

Made by `python tools/write_pruning_tables_page.py` from `docs/results/pruning_tables_level*.json`,
which `ada3d eval pruning-tables --json docs/results/pruning_tables_level1.json` writes (`--level 2`
alike; an hour of both: `make tables`). The embedded model (4 layers, float32) answers about drawn
rooms of split `test`, through the product itself. All rows get the same rooms and questions;
numbers are points against the whole scene, question by question, with 95 % intervals by bootstrap
over rooms, or `+-` one standard error over rooms.

- *QA*: the nine kinds of question pooled; *one*: those about one object (existence, colour,
  category, superlative, caption); *several*: count, nearest, relation, two hops. *Acc*: phrases
  grounded at an IoU of .25 or .5, unique and with distractors. *coherent*: of the right answers
  those that point at their objects ([how](evaluation.md#coherence)).
- *mode*: `paper` drops tokens for each question (`cache.mode: paper`); `question` selects for each
  out of a whole cached scene, `build` prunes the scene once while it is cached (`cache.prune`);
  *any*: a choice before the language model, the same in all three. `X+Y`: X lets twice the budget
  in, Y halves it in the layers ([decision 170](decisions/0170-composed-at-twice-the-budget.md)).
- *tokens*: kept of a scene, mean over layers, questions and rooms; *KV*: keys and values held over
  those of the whole scene; *build*, *question*: FLOPs of caching the scene, and of one question,
  over those of the whole scene; a choice before the language model is not counted.
- A row is *refused* where the strategy cannot meet the budget on this decoder: none is changed.
- Two rows are compared over the rooms that both were asked about; *rooms* is how many a row shares
  with the whole scene. Below 10 of them a difference stands without an interval, and nothing is
  compared. *(none differed)*: both rows answered every question alike, so that drawing again shows
  no spread; that is not certainty.
- A group is named, and a row called better (or set in bold), only where the interval is clear of
  0: of forty comparisons one or two are that by chance. The best of many rows looks better than
  it is on the rooms that chose it: where this page says "the best", rooms of even number chose,
  and the others tell what it is worth ([decision
  202](decisions/0202-even-rooms-choose-odd-ones-tell.md)).
"""


def hurt_first(data: Row, strategy: str, mode: str, budget: float) -> str:
    """The groups that a row loses most in, named where the loss is clear of 0."""
    row = one(data, strategy, mode, budget)
    if row is None:
        return ""
    found = [
        (row["metrics"][group]["points"], title, row["metrics"][group]["n"])
        for group, title in HURT
        if row["metrics"][group]["n"] >= LEAST_N and clear(row["metrics"][group]) < 0
    ]
    worst = "; ".join(f"{title} {points:+.0f} (n {n})" for points, title, n in sorted(found)[:8])
    return f"- {name_of(row)} at {budget:g}: {worst or 'nothing that is clear of 0'}."


# -- tables


def main_table(data: Row, budget: float) -> str:
    """Every measured row of one budget; then the others, by name."""
    whole, shown = data["none"], ("qa", *POOLS, "acc25", "acc50")
    value = [f"{whole['metrics'][name]['value']:.3f}" for name in shown]
    first = [*value, f"{whole['coherence']:.3f}", f"{whole['tokens']:.0f}", "1", "1", "1"]
    lines = [["*the whole scene*", "", *first, str(whole["rooms"])]]
    for row in measured(data, budget):
        metrics = row["metrics"]
        cells = [interval(metrics["qa"]), *(signed(metrics[name]) for name in POOLS)]
        cells += [interval(metrics["acc25"]), signed(metrics["acc50"])]
        coherent = "" if row["coherence"] is None else f"{row['coherence']:.3f}"
        build = f"{row['build_share']:.2f}" if "build_share" in row else "-"
        costs = [f"{row['kv_share']:.2f}", build, f"{row['question_share']:.2f}"]
        start = [row["strategy"], MODES[row["mode"]]]
        tokens, rooms = f"{row['tokens']:.0f}", str(metrics["qa"]["rooms"])
        lines.append([*start, *cells, coherent, tokens, *costs, rooms])
    columns = ["strategy", "mode", "QA", "one", "several", "Acc@.25", "Acc@.5", "coherent"]
    costs = ["tokens", "KV", "build", "question", "rooms"]
    return "\n\n".join([table([*columns, *costs], lines), others(data, budget)])


def others(data: Row, budget: float) -> str:
    """Rows of a budget that have no numbers, and why."""
    rows = [row for row in data["rows"] if row["budget"] == budget and "metrics" not in row]
    refused = [name_of(row) for row in rows if "refused" in row]
    alike = [f"{name_of(row)} as {row['same_as']}" for row in rows if "same_as" in row]
    waiting = [name_of(row) for row in rows if not {"refused", "same_as"} & set(row)]
    parts = (("Refused", refused), ("Computed alike", alike), ("Not measured yet", waiting))
    return " ".join(f"{title}: {'; '.join(names)}." for title, names in parts if names)


def kinds_table(data: Row) -> str:
    """Every row, kind by kind."""
    lines = []
    for budget in budgets(data):
        for row in measured(data, budget):
            if row["metrics"]["qa"]["rooms"] < LEAST_ROOMS:
                continue
            cells = [signed(row["metrics"][name]) for name in (*KINDS, *BOXES)]
            lines.append([f"{name_of(row)}, {budget_of(budget)}", *cells])
    whole = data["none"]["metrics"]
    for title, key in (("value of the whole scene", "value"), ("n", "n")):
        cells = [
            (f"{whole[name][key]:.3f}" if key == "value" else str(whole[name][key]))
            if name in whole
            else ""
            for name in (*KINDS, *BOXES)
        ]
        lines.append([title, *cells])
    return table(["", *KINDS, *(name.replace("_acc", " @.") for name in BOXES)], lines)


def base_table(data: Row) -> str:
    """What pruning costs by size, distance and IoU."""
    rows = [
        row
        for strategy, mode in BASE
        for budget in (0.4, 0.1)
        if (row := one(data, strategy, mode, budget)) is not None
    ]
    whole, lines = data["none"]["metrics"], []
    for group, title in HURT:
        if group in whole:
            value = f"{whole[group]['value']:.3f}"
            cells = [signed(row["metrics"][group]) for row in rows]
            lines.append([title, value, str(whole[group]["n"]), *cells])
    names = [f"{row['strategy']} {row['budget']:g}" for row in rows]
    return table(["", "whole", "n", *names], lines)


def controls_table(data: Row) -> str:
    """What is known without looking."""
    lines = []
    for title, name in (("whole scene", "none"), ("shuffled", "shuffled"), ("blind", "blind")):
        metrics = data.get(name, {}).get("metrics", {})
        shown = ("qa", *KINDS, "acc25", "acc50", "absent")
        cells = [f"{metrics[kind]['value']:.3f}" if kind in metrics else "" for kind in shown]
        lines.append([title, *cells])
    return table(["", "QA", *KINDS, "Acc@.25", "Acc@.5", "absent, no box"], lines)


def refusals(data: Row) -> str:
    """Each strategy that was refused, with the first sentence of why."""
    found: dict[str, str] = {}
    for row in data["rows"]:
        if "refused" in row:
            least = row["refused"].partition("allowed: ")[2].partition(" (")[0]
            found.setdefault(row["strategy"], f"`{row['strategy']}` reaches {least}")
    if not found:
        return ""
    return (
        "Refused below what the first layers, which see all tokens, leave: "
        + "; ".join(found.values())
        + ". Behind a choice before the language model (`voxel_dpp+...`) they go lower."
    )


def level(data: Row) -> str:
    """The part of one level."""
    n, whole = data["none"]["metrics"], data["none"]
    number, missing = data["level"], data["missing"]
    state = "Complete." if not missing else f"{missing} rooms of rows are not measured yet."
    parts = [
        f"## Level {number}",
        f"{whole['rooms']} rooms of up to {data['scenes']}, {n['qa']['n']} questions and"
        f" {n['acc25']['n']} phrases about the whole scene; each row says how many rooms it has."
        f" {state} Commits that measured: {', '.join(c[:12] for c in data['commits'])}.",
        never_asked(data, "the table of level 1 has them" if number == 2 else ADDED_LATER),
        "### What we find",
        "What was wanted:",
        targets(data),
        "Better than AdaToken-3D as published, with an interval clear of 0, the largest difference"
        " first. On four layers it keeps at least .4; below, the rival is"
        " `voxel_dpp+adatoken3d`, paper, which can go on:",
        winners(data),
        "### What pruning hurts first",
        f"Groups of at least {LEAST_N} questions whose loss is clear of 0, the largest first:",
        "\n".join(filter(None, (hurt_first(data, *row) for row in LOSERS))),
        "Own voxels: spatial tokens that hold a patch of the object; metres: from its middle to the"
        " nearest camera.",
        base_table(data),
    ]
    for budget in budgets(data):
        parts += [f"### Budget {budget_of(budget)}", main_table(data, budget)]
    parts += [
        refusals(data),
        "### Kind by kind",
        kinds_table(data),
        "### What is known without looking",
        "*Shuffled*: the questions of one room about the views of the next; *blind*: without any"
        " scene ([how](evaluation.md#blind)).",
        controls_table(data),
    ]
    return "\n\n".join(part for part in parts if part)


def prose(text: str) -> str:
    """Long lines broken, those of a list indented; rows of tables stay whole."""
    lines = (
        [line]
        if line.startswith(("|", "!"))
        else textwrap.wrap(
            line,
            COLUMNS,
            subsequent_indent="  " if line.startswith(("- ", "  ")) else "",
            break_on_hyphens=False,
            break_long_words=False,
        )
        or [""]
        for line in text.split("\n")
    )
    return "\n".join(itertools.chain.from_iterable(lines))


def render(results: Path = RESULTS) -> str:
    """The page, of those results that are there."""
    parts = [HEAD]
    for number in (1, 2):
        file = results / f"pruning_tables_level{number}.json"
        if file.is_file():
            parts.append(level(loaded(file)) + "\n")
    if seeds := training_seeds(results):
        parts.append(seeds)
    if (ROOT / "docs" / "pruning_tables.png").is_file():
        parts.insert(1, "![Losses by keep ratio](pruning_tables.png)\n")
    return prose("\n".join(parts))


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")
