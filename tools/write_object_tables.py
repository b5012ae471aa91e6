"""Write what docs say of real objects from docs/results: python tools/write_object_tables.py

The results are those of `python -m ada3d_ros.lab.analysis.object_survival`, of
`ada3d_ros.lab.evaluation.proposals`, of `ada3d_ros.lab.benchmarks.detector` and of
`tools/calibrate_uncertainty.py`; each page says how.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from table_parts import ROOT, head, result, wrapped

DOCS = ROOT / "docs"
BEGIN, END = "<!-- {}: generated -->", "<!-- end -->"
STRATEGIES = {  # of the measurement: how the table calls it
    "prompts": "**one general prompt** (where none are)",
    "prompts4": "4 prompts",
    "prompts12": "12 prompts",
    "vocabulary": "36 prompts of the vocabulary",
    "expected": "**expected attention** (default)",
    "values": "length of the values",
    "self_attention": "attention among tokens",
    "kvzip": "KVzip-like",
    "voxel_dpp+prompts12": "voxel_dpp, then 12 prompts",
    "random": "random in each layer",
    "each question": "for each question, 1st layer whole",
    "ada-unroped": "the same, unroped, as published",
    "pdrop": "pdrop",
    "logistic": "logistic",
    "random before": "random",
    "uniform before": "uniform",
    "coarse_voxels before": "coarse_voxels",
    "geo_fps before": "geo_fps",
    "voxel_dpp before": "voxel_dpp",
    "cond_dpp before": "cond_dpp",
}
WAYS = {
    "own": "the head's own box",
    "label": "the detector's label alone",
    "proposals": "proposals, the head scores all",
    "snapped": "the proposal nearest to the head's own",
    "label, else own": "scored among those with the label, else its own",
    "label first, else own": "the surest with the label, else its own",
    "several chosen, else own": "the same, of several it chooses",
    "kind first, else own": "without colours: the surest, else its own",
    "several of the kind chosen, else own": "without colours: of several it chooses",
}


def cell(row: dict[str, Any] | None) -> str:
    """'.59 / .35': of the objects' voxels, and of the others."""
    if row is None or row["error"]:
        return "" if row is None else "refused"
    held = row["held"]
    shown = (f"{held[name]['median']:.2f}" for name in ("objects", "background"))
    return " / ".join(value.removeprefix("0") for value in shown)


def survival() -> str:
    """One line a strategy, a column a scene and keep ratio."""
    data = result("object_survival")
    rows = {(r["scene"], r["strategy"], r["keep_ratio"]): r for r in data["rows"]}
    ratios = sorted({ratio for _, _, ratio in rows}, reverse=True)
    scenes = [scene["name"] for scene in data["scenes"]]
    columns = [f"{scene} {ratio:.0%}" for scene in scenes for ratio in ratios]
    lines = head(" | ".join(["held of objects / of the rest", *columns]))
    for name, title in STRATEGIES.items():
        cells = [cell(rows.get((scene, name, ratio))) for scene in scenes for ratio in ratios]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    seen = "; ".join(
        f"{scene['name']}: {scene['views']} views, {scene['spatial_tokens']} voxels,"
        f" {scene['object_voxels']} of them of {len(scene['objects'])} object"
        f"{'s' if len(scene['objects']) > 1 else ''}"
        f" ({', '.join(each['label'] for each in scene['objects'])})"
        for scene in data["scenes"]
    )
    spread = max(
        row["held"]["objects"]["max"] - row["held"]["objects"]["min"]
        for row in data["rows"]
        if not row["error"] and row["strategy"] in ("random", "random before")
    )
    return "\n".join(
        [
            *lines,
            "",
            f"{seen}. Random: median of {len(data['seeds'])} seeds, at most {spread:.2f} apart.",
        ]
    )


def detector() -> str:
    """Milliseconds of process time a keyframe."""
    data = result("detector_desk")
    lines = head("detector | detect, ms | lift, ms | merge, ms | all, p95 ms")
    for row in data["rows"]:
        steps = (row[f"{step}_ms"] for step in ("detect", "lift", "merge"))
        cells = [f"{s['median']:.0f} ({s['min']:.0f} to {s['max']:.0f})" for s in steps]
        lines.append(f"| {row['detector']} | {' | '.join(cells)} | {row['total_p95_ms']:.0f} |")
    made = data["provenance"]
    note = f"; {data['note']}" if data["note"] else ""
    load = f", load {made['load_average']:.1f}"
    lines += ["", f"n={data['n']}, one thread, {made['processor']}{load}{note}"]
    return "\n".join(lines)


def proposals() -> str:
    """Accuracy of each way to ground, unique phrases and those with distractors."""
    data = result("proposals_embedded")
    groups = data["groups"]
    names = ("unique", "distractor")
    columns = [f"{name} @{percent}" for name in names for percent in (25, 50)]
    lines = head(" | ".join(["box", *columns]))
    for way, title in WAYS.items():
        cells = []
        for name in names:
            for percent in (25, 50):
                found = groups[name]["ways"][way][f"acc{percent}"]
                error = "" if way == "own" else f" ({found['points']:+.1f})"
                cells.append(f"{found['value']:.3f}{error}")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    counts = ", ".join(f"{groups[name]['phrases']} {name}" for name in names)
    errors = [
        cells[f"acc{percent}"]["standard_error"]
        for name in names
        for way, cells in groups[name]["ways"].items()
        if way != "own"
        for percent in (25, 50)
    ]
    lines += [
        "",
        f"{data['rooms']} rooms of level {data['level']}, phrases: {counts}; in brackets points"
        f" against its own box, one standard error at most {max(errors):.1f}.",
    ]
    return "\n".join(lines)


KINDS = {  # of values, as calibrate_uncertainty has them
    "SURFACES": "distance between surfaces",
    "CENTERS": "distance between centres",
    "PLAN": "distance on the floor plan",
    "EXTENT": "length, width",
    "TOP": "height",
    "PLACE": "coordinate of a centre",
}


def measures() -> str:
    """What is stated of how far off a value may be, and how often that holds."""
    data = result("uncertainty_embedded")
    lines = head("value | stated half width, median | holds the true value, level 1 | level 2 | n")
    for kind, title in KINDS.items():
        row = data["kinds"][kind]
        shares = " | ".join(f"{share:.3f}" for share in row["coverage"])
        counts = ", ".join(map(str, row["n"]))
        lines.append(f"| {title} | {row['stated_m'] * 100:.1f} cm | {shares} | {counts} |")
    lines += ["", *head("distances between surfaces, free floor | level 1 | level 2")]
    for title, name, scale in (
        ("pairs of things", "pairs", 0),
        ("both things found", "both_found", 3),
        ("median error of those, cm", "median_error_m", 1),
        ("MRA of all pairs", "mra", 3),
        ("stated rectangles", "rectangles", 0),
        ("rectangles that are free", "rectangles_free", 3),
    ):
        unit = 100.0 if name.endswith("_m") else 1.0
        cells = [f"{level[name] * unit:.{scale}f}" for level in data["levels"]]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += ["", f"{data['scenes']} rooms of each level, split {data['split']}."]
    return "\n".join(lines)


BLOCKS: dict[str, tuple[Path, Callable[[], str]]] = {
    "objects held": (DOCS / "pruning.md", survival),
    "detector times": (DOCS / "real_rooms.md", detector),
    "measures": (DOCS / "measures.md", measures),
    "proposals": (DOCS / "grounding.md", proposals),
}


def updated(name: str) -> str:
    """The page of a block with the block anew."""
    page, make = BLOCKS[name]
    begin = BEGIN.format(name)
    before, rest = page.read_text(encoding="utf-8").split(begin, 1)
    return f"{before}{begin}\n{wrapped(make())}\n{END}{rest.split(END, 1)[1]}"


if __name__ == "__main__":
    for block, (target, _) in BLOCKS.items():
        target.write_text(updated(block), encoding="utf-8")
        print(f"wrote {target}")
