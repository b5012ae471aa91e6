"""What the results of the pruning tables say, before it becomes a page: rows, intervals, who wins,
what was wanted and what is found.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ada3d_ros.lab.evaluation.pruning_summary import REFERENCES

# Shared rooms that an interval must rest on: few of them drawn again show too little spread.
LEAST_ROOMS = 10
MODES = {"before": "any", "build": "build", "question": "question", "paper": "paper"}
RIVAL = "adatoken3d"  # of `against`: as published, or composed where alone it goes not so low
BETTER_TEXT = "voxel_dpp in QA, clear of 0, and not below in Acc@.25"
Row = dict[str, Any]


def loaded(file: Path) -> Row:
    """A file of results. Metrics of before decision 202 do not say how many rooms they rest on:
    rows were asked about rooms in ascending order, so that two of them share the rooms of the one
    that has fewer.
    """
    data: Row = json.loads(file.read_text(encoding="utf-8"))
    rows = {(row["strategy"], row["mode"], row["budget"]): row for row in measured(data)}
    for row in measured(data):
        for metric in row["metrics"].values():
            metric.setdefault("rooms", min(row["rooms"], data["none"]["rooms"]))
        for title, metrics in row["against"].items():
            names = [(*name, row["budget"]) for name in dict(REFERENCES)[title]]
            rival = next(rows[name] for name in names if name in rows)
            for metric in metrics.values():
                metric.setdefault("rooms", min(row["rooms"], rival["rooms"]))
    return data


def interval(metric: Row | None) -> str:
    """'-0.4 (-1.2 to +0.3)'; '' without a question; of fewer than LEAST_ROOMS rooms '-0.4'."""
    if not metric or metric.get("points") is None:
        return ""
    if metric["interval"][0] is None or metric["rooms"] < LEAST_ROOMS:
        return f"{metric['points']:+.1f}"
    low, high = metric["interval"]
    if low == high == 0.0:
        return f"{metric['points']:+.1f} (none differed)"
    return f"{metric['points']:+.1f} ({low:+.1f} to {high:+.1f})"


def signed(metric: Row | None) -> str:
    """'-0.4+-0.6'; of fewer than LEAST_ROOMS rooms '-0.4'."""
    if not metric or metric.get("points") is None:
        return ""
    error = metric["standard_error"] if metric["rooms"] >= LEAST_ROOMS else None
    return f"{metric['points']:+.1f}" + ("" if error is None else f"+-{error:.1f}")


def table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*head, *(f"| {' | '.join(line)} |" for line in lines)])


def name_of(row: Row) -> str:
    """'adatoken3d, paper'."""
    mode = MODES[row["mode"]]
    return row["strategy"] if mode == "any" else f"{row['strategy']}, {mode}"


def budget_of(budget: float) -> str:
    return f"{budget:g} tokens" if budget >= 1 else f"{budget:g}"


def measured(data: Row, budget: float | None = None) -> list[Row]:
    """The rows with numbers, of one budget or all."""
    rows = [row for row in data["rows"] if "metrics" in row]
    return [row for row in rows if budget is None or row["budget"] == budget]


def budgets(data: Row) -> list[float]:
    """Ratios falling, then tokens falling."""
    found = {row["budget"] for row in data["rows"]}
    return sorted(found, key=lambda budget: (budget >= 1, -budget))


def one(data: Row, strategy: str, mode: str, budget: float) -> Row | None:
    wanted = (strategy, mode, budget)
    rows = measured(data, budget)
    return next((r for r in rows if (r["strategy"], r["mode"], r["budget"]) == wanted), None)


# -- what is found


def clear(metric: Row | None) -> int:
    """1, -1: the interval lies above, below 0; 0: neither, or too few rooms are shared to say."""
    if not metric or metric.get("interval") is None or metric["interval"][0] is None:
        return 0
    if metric["rooms"] < LEAST_ROOMS:
        return 0
    low, high = metric["interval"]
    return int(low > 0.0) - int(high < 0.0)


def compared(data: Row, budget: float, rival: str) -> list[Row]:
    """The rows of a budget that share enough rooms with a rival, one of `against`."""
    rows = [row for row in measured(data, budget) if rival in row["against"]]
    return [row for row in rows if row["against"][rival]["qa"]["rooms"] >= LEAST_ROOMS]


def winners(data: Row) -> str:
    """Who beats adatoken3d, in words; below them every row against it, budget by budget."""
    asked = [budget for budget in budgets(data) if compared(data, budget, RIVAL)]
    lines = [
        f"- at {budget_of(budget)} in QA: {_better(data, budget, 'qa')}. In Acc@.25:"
        f" {_better(data, budget, 'acc25')}."
        for budget in asked
    ]
    tables = [
        f"In {title}, paired question by question:\n\n{_against(data, asked, group)}"
        for group, title in (("qa", "QA"), ("acc25", "Acc@.25"))
    ]
    return "\n\n".join(["\n".join(lines), *tables]) if lines else ""


def _better(data: Row, budget: float, group: str) -> str:
    """The rows whose interval against adatoken3d lies above 0, the largest difference first."""
    rows = compared(data, budget, RIVAL)
    found = [row for row in rows if clear(row["against"][RIVAL][group]) > 0]
    found.sort(key=lambda row: -row["against"][RIVAL][group]["points"])
    return "; ".join(map(name_of, found)) or "none"


def _against(data: Row, asked: Sequence[float], group: str) -> str:
    """A line a row that any budget compares, in the order of the table; clear ones in bold."""
    found: dict[str, dict[float, str]] = {}
    for budget in asked:
        for row in compared(data, budget, RIVAL):
            metric = row["against"][RIVAL][group]
            cell = signed(metric)
            mark = "**" if clear(metric) else ""
            found.setdefault(name_of(row), {})[budget] = f"{mark}{cell}{mark}"
    lines = [[name, *(cells.get(budget, "") for budget in asked)] for name, cells in found.items()]
    return table(["", *map(budget_of, asked)], lines)


def verdict(metric: Row | None, least: float) -> str:
    """Whether a loss is within `least` points, as far as its interval says so."""
    if not metric or metric.get("points") is None or metric["interval"][0] is None:
        return "not measured"
    low, high = metric["interval"]
    if low == high or metric["rooms"] < LEAST_ROOMS:  # drawing again shows no spread
        return "open: no question differed" if low == high else "open: too few rooms"
    if low >= -least:
        return "met"
    return "not met" if high < -least else "open: the interval spans it"


def targets(data: Row) -> str:
    """What the project wanted beside what is found."""
    lines = []
    for mode in ("paper", "question", "build"):
        row = one(data, "adatoken3d", mode, 0.4)
        for group, title, least in (("qa", "QA", 1.0), ("acc25", "Acc@.25", 2.0)):
            metric = row and row["metrics"][group]
            wanted = f"adatoken3d, {mode}, at .4 within {least:g} of {title}"
            lines.append([wanted, interval(metric), verdict(metric, least)])
    lines += [best_boxes(data), best_text(data), *own_at_a_tenth(data)]
    return table(["wanted", "found", "so"], lines)


def own_at_a_tenth(data: Row) -> list[list[str]]:
    """The same of adatoken3d_plus, which was made and chosen on validation rooms (decision 180)."""
    row = one(data, "adatoken3d_plus", "build", 0.1) or {"metrics": {}, "against": {}}
    boxes, beside = row["metrics"].get("acc25"), row["against"].get("voxel_dpp")
    name, found, met = (
        "adatoken3d_plus, build, chosen on validation rooms, at .1",
        "",
        "not measured",
    )
    if beside is not None:
        found = f"QA {interval(beside['qa'])}, Acc@.25 {interval(beside['acc25'])}"
        met = _better_text(beside)
    return [
        [f"{name} loses at most 3 of Acc@.25", interval(boxes), verdict(boxes, 3.0)],
        [f"the same is better than {BETTER_TEXT}", found, met],
    ]


def _better_text(metrics: Row) -> str:
    """Whether a row is better than another in QA, clear of 0, and not below in Acc@.25."""
    return "met" if clear(metrics["qa"]) > 0 and metrics["acc25"]["points"] >= 0 else "not met"


def chosen(data: Row, title: str) -> tuple[Row, str]:
    """Metrics of the row that even rooms chose, and how; ({}, '') where none was."""
    found = data.get("chosen", {}).get(title)
    if found is None:
        return {}, ""
    metrics = found["metrics"]
    how = (
        f"{name_of(found)}, of {found['rows']} rows by {found['chosen_by']} rooms; in the other"
        f" {metrics['acc25']['rooms']}:"
    )
    return metrics, how


def best_boxes(data: Row) -> list[str]:
    metrics, how = chosen(data, "acc25")
    wanted = "the best at .1 loses at most 3 of Acc@.25"
    metric = metrics.get("acc25")
    return [wanted, f"{how} {interval(metric)}".strip(), verdict(metric, 3.0)]


def best_text(data: Row) -> list[str]:
    metrics, how = chosen(data, "voxel_dpp")
    wanted = f"the best at .1 is better than {BETTER_TEXT}"
    if not metrics:
        return [wanted, "", "not measured"]
    found = f"{how} QA {interval(metrics['qa'])}, Acc@.25 {interval(metrics['acc25'])}"
    return [wanted, found, _better_text(metrics)]
