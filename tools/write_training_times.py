"""Write what docs/training.md says of pruned training: python tools/write_training_times.py

From docs/results/pruned_training.json, which `ada3d_ros.lab.benchmarks.pruned_training` wrote.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from table_parts import RESULTS, ROOT, head, result, results_of, spread, wrapped

PAGE = ROOT / "docs" / "training.md"
RESULT = "pruned_training"
BEGIN, END = "<!-- training times: generated -->", "<!-- end -->"
UNPRUNED, PRUNED = "unpruned", "pruned"


def reached(row: dict[str, Any], name: str) -> str:
    """'84 s (96 rooms)', or 'never' where it did not come so far."""
    at = row[name]
    return "never" if at is None else f"{at['seconds']:.0f} s ({at['rooms']:.0f} rooms)"


def saved(row: dict[str, Any]) -> str:
    """'38 %', 'none' where the pruned copy never reached the level."""
    if row["saved"] is not None:
        return f"{100 * row['saved']:.0f} %"
    return "none" if row[PRUNED] is None else ""


def times(seeds: list[dict[str, Any]]) -> list[str]:
    """A line a seed and level that one of the two reached; the level of the headline first."""
    lines = head("seed | level | unpruned | pruned | saved")
    for seed in seeds:
        for row in (seed["headline"], *seed["levels"]):
            if row[UNPRUNED] is None and row[PRUNED] is None:
                continue
            headline = row is seed["headline"]
            title = f"**{row['level']:.3f}**" if headline else f"{row['level']:.2f}"
            cells = (reached(row, UNPRUNED), reached(row, PRUNED), saved(row))
            lines.append(f"| {seed['seed']} | {title} | {' | '.join(cells)} |")
    return lines


def ends(seeds: list[dict[str, Any]]) -> list[str]:
    """A line a seed: what both copies came to after the same room passes, and what it took."""
    columns = "right, whole | right, pruned | loss, whole | loss, pruned | CPU, whole | CPU, pruned"
    lines = head(f"seed | {columns} | less")
    for seed in seeds:
        pair = [seed["points"][name] for name in (UNPRUNED, PRUNED)]
        right = [f"{points[-1]['right'] / points[-1]['asked']:.3f}" for points in pair]
        losses = [[p["loss"] for p in points if p["loss"] is not None] for points in pair]
        took = [points[-1]["seconds"] for points in pair]
        cells = [*right, *(f"{min(each):.3f}" for each in losses)]
        cells += [*(f"{value:.0f} s" for value in took), f"{100 * (1 - took[1] / took[0]):.0f} %"]
        lines.append(f"| {seed['seed']} | {' | '.join(cells)} |")
    return lines


def asked_cell(metrics: dict[str, Any]) -> str:
    """'-1.2+-0.8 / +0.3+-1.0': text and Acc@.25 against the whole scene, in points."""
    pair = (metrics["text"], metrics["acc25"])
    return " / ".join(f"{m['points']:+.1f}+-{m['standard_error']:.1f}" for m in pair)


def asked() -> list[str]:
    """A line a copy: the exported model through the engine, whole and with its scene pruned."""
    lines = head("trained | seed | whole: text / Acc@.25 | one general prompt, .41 | random, .41")
    for name in (UNPRUNED, PRUNED):
        for path in sorted(RESULTS.glob(f"{RESULT}_{name}_seed*.json")):
            data, seed = result(path.stem), path.stem.rpartition("seed")[2]
            whole = data["unpruned"]["metrics"]
            rows = {row["variant"]: row["metrics"] for row in data["rows"]}
            cells = [f"{whole['text']['value']:.3f} / {whole['acc25']['value']:.3f}"]
            cells += [asked_cell(rows[variant]) for variant in ("prompts", "random")]
            lines.append(f"| {name} | {seed} | {' | '.join(cells)} |")
    return lines


def steps(data: dict[str, Any]) -> list[str]:
    """A line a number of questions: seconds of a pass, and their ratio."""
    lines = head("what is timed | unpruned, s | pruned, s | pruned / unpruned | FLOPs | n")
    for trial in data["trials"]:
        count = trial["questions"]
        title = f"passes, {count} question{'s' if count > 1 else ''} a room"
        cells = [spread(trial["step_s"][name], 2) for name in (UNPRUNED, PRUNED)]
        ratio = trial["step_ratio"]
        cells += [spread(ratio, 2), f"{trial['flop_ratio']:.2f}", str(ratio["n"])]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    for seed in data["seeds"]:
        cells = [spread(seed["step_s"][name], 2) for name in (UNPRUNED, PRUNED)]
        ratio = seed["step_ratio"]
        title = f"whole steps, seed {seed['seed']}"
        cells += [spread(ratio, 2), "", str(ratio["n"])]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def render() -> str:
    """The block between the marks."""
    data = result(RESULT)
    seeds, made = data["seeds"], data["provenance"]
    both = [100 * s["headline"]["saved"] for s in seeds if s["headline"]["saved"] is not None]
    point = seeds[0]["points"][UNPRUNED][-1]
    known = f": it saved {', '.join(f'{value:.0f} %' for value in both)} there" if both else ""
    retention = ", ".join(f"{share:.2f}" for share in data["retention"])
    served = results_of(f"{RESULT}_*_seed*.json")
    counts = served[0]["n"]
    return "\n".join(
        [
            *ends(seeds),
            "",
            f"After {point['rooms']} room passes, on the whole scene and pruned; loss: the lowest;"
            f" {data['val_rooms']} rooms of validation,"
            f" {point['asked']} questions a point. Bold below: 95 % of what the unpruned copy came"
            f" to, which the pruned one reached with {len(both)} of {len(seeds)} seeds{known}.",
            "",
            *times(seeds),
            "",
            *steps(data),
            "",
            f"Median (least to most). Keep ratio {data['keep_ratio']:g}: layers keep {retention}."
            f" One thread, {made['processor']}, load {made['load_average']:.1f}.",
            "",
            *asked(),
            "",
            f"{served[0]['scenes']} test rooms of level {served[0]['level']}, n = {counts['text']}"
            f" and {counts['acc25']}; points against the whole scene, one standard error over"
            " rooms.",
        ]
    )


def updated(page: str) -> str:
    """The page with the block anew."""
    before, rest = page.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{wrapped(render())}\n{END}{rest.split(END, 1)[1]}"


def main(page: Path = PAGE) -> None:
    page.write_text(updated(page.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {page}")


if __name__ == "__main__":
    main()
