"""Write what docs/training.md says of pruned training: python tools/write_training_times.py

From docs/results/pruned_training.json, which `ada3d_ros.lab.benchmarks.pruned_training` wrote.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from table_parts import ROOT, head, result, spread, wrapped

PAGE = ROOT / "docs" / "training.md"
RESULT = "pruned_training"
BEGIN, END = "<!-- training times: generated -->", "<!-- end -->"
UNPRUNED, PRUNED = "unpruned", "pruned"


def reached(row: dict[str, Any], name: str) -> str:
    """'84 s (96 rooms)', or '-' where it never came so far."""
    at = row[name]
    return "-" if at is None else f"{at['seconds']:.0f} s ({at['rooms']:.0f} rooms)"


def saved(row: dict[str, Any]) -> str:
    """'38 %', '-' where one of the two never reached the level or both began above it."""
    return "-" if row["saved"] is None else f"{100 * row['saved']:.0f} %"


def last(seed: dict[str, Any], name: str) -> float:
    """Share of answers right at the last validation."""
    point = seed["points"][name][-1]
    return float(point["right"]) / float(point["asked"])


def times(seeds: list[dict[str, Any]]) -> list[str]:
    """A line a seed and level: the level of the headline first."""
    lines = head("seed | level | unpruned | pruned | saved")
    for seed in seeds:
        for row in (seed["headline"], *seed["levels"]):
            title = f"**{row['level']:.3f}**" if row is seed["headline"] else f"{row['level']:.1f}"
            cells = (reached(row, UNPRUNED), reached(row, PRUNED), saved(row))
            lines.append(f"| {seed['seed']} | {title} | {' | '.join(cells)} |")
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
    found = [seed["headline"]["saved"] for seed in seeds]
    known = [100 * value for value in found if value is not None]
    point = seeds[0]["points"][UNPRUNED][-1]
    ends = "; ".join(
        f"seed {seed['seed']} {last(seed, UNPRUNED):.3f} and {last(seed, PRUNED):.3f}"
        for seed in seeds
    )
    headline = (
        f"Saved at 95 % of what the unpruned copy came to (bold): median"
        f" {statistics.median(known):.0f} %, {min(known):.0f} to {max(known):.0f} %"
        if known
        else "At 95 % of what the unpruned copy came to, nothing can be said"
    )
    retention = ", ".join(f"{share:.2f}" for share in data["retention"])
    return "\n".join(
        [
            *times(seeds),
            "",
            f"{headline} ({len(known)} of {len(seeds)} seeds reached it with both). After"
            f" {point['rooms']} room passes the share right is, unpruned and pruned: {ends}."
            f" {data['val_rooms']} rooms of validation, {point['asked']} questions a point.",
            "",
            *steps(data),
            "",
            f"Median (least to most). Keep ratio {data['keep_ratio']:g}: layers keep {retention}."
            f" One thread, {made['processor']}, load {made['load_average']:.1f}.",
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
