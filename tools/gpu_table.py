"""What tools/gpu_check.sh measured, as one table with the aims beside: python tools/gpu_table.py
FOLDER

A file that is missing or incomplete is named. Needs nothing but the standard library.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STEPS = ("device", "tests", "same", "default", "scene_update", "decode", "memory", "batch")
WIDEST = 48  # column
FLOOR_AIM = 1.35
Row = tuple[str, str, str, str]  # step, what, value, aim and whether it is met


def main(folder: Path) -> str:
    """The table."""
    rows = [row for step in STEPS for row in rows_of(folder, step)]
    widths = [min(max(len(row[i]) for row in rows), WIDEST) for i in range(3)]
    return "\n".join(
        f"{step:<{widths[0]}}  {what:<{widths[1]}}  {value:<{widths[2]}}  {aim}".rstrip()
        for step, what, value, aim in rows
    )


def rows_of(folder: Path, step: str) -> Iterator[Row]:
    """Of one step."""
    if step == "tests":
        yield _tests(folder / "tests.txt")
        return
    file = folder / f"{step}.json"
    if not file.is_file():
        yield step, "", "no result", ""
        return
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    made = data["provenance"]
    n = data.get("n", "-")
    whole = "" if data["complete"] else "INCOMPLETE: "
    yield step, f"{whole}{made['device']}, n={n}, {made['commit'][:12]}", "", ""
    for what, value, aim in ROWS[step](data):
        yield step, what, value, aim


def _tests(file: Path) -> Row:
    if not file.is_file():
        return "tests", "", "no result", ""
    lines = file.read_text(encoding="utf-8").splitlines()
    last = next((line for line in reversed(lines) if " in " in line), "")
    passed = "exit status 0" in lines and "passed" in last
    return "tests", "marked gpu", last.strip("= "), _aim("all", passed)


def _device(data: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for row in data["rows"]:
        values = [
            f"{key} {_number(value)}"
            for key, value in row.items()
            if key not in ("name", "at_most", "met") and value is not None
        ]
        yield row["name"], ", ".join(values), _aim(row.get("at_most"), row.get("met"))


def _same(data: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    asked, same = (sum(row[key] for row in data["rows"]) for key in ("questions", "same"))
    apart = max((row["box_difference_m"] or 0.0 for row in data["rows"]), default=0.0)
    yield "answers as on the CPU", f"{same} of {asked}", _aim("all", same == asked)
    yield "boxes apart, m", f"{apart:.1e}", f"at most {data['box_tolerance_m']:g}"


def _default(data: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, value in data["ratios"].items():
        aim = data["targets"].get(name, {})
        yield name, _number(value), _aim(aim.get("at_most"), aim.get("met"))
    for name, value in data["ms"].items():
        yield f"{name}, ms", _number(value), ""


def _scene_update(data: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for row in data["rows"]:
        for name, step in row["steps"].items():
            aim, at_most = "", data["target_ms"]  # None on a CPU
            if name in ("append", "append_pruned") and at_most is not None:
                aim = _aim(at_most, step["p95_ms"] <= at_most)
            yield f"{name} p50 / p95, ms", f"{step['p50_ms']:.2f} / {step['p95_ms']:.2f}", aim


def _decode(data: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for row in data["rows"]:
        name = f"{row['engine']}, {row['prefill']}"
        yield f"{name}: ms per token", _number(row["ms_per_token"]), ""
        is_ours = row["engine"] == "graph"
        met = (row["floor_ratio"]["median"] or 0.0) <= FLOOR_AIM
        aim = _aim(FLOOR_AIM, met) if is_ours else ""
        yield f"{name}: over the floor", _number(row["floor_ratio"]), aim


def _memory(data: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for row in data["rows"]:
        peak = row["prefill_peak_bytes"] / row["predicted_prefill_bytes"]
        yield f"{row['weights']}: peak over predicted", f"{peak:.3f}", ""
        yield f"{row['weights']}: decode step over full", _number(row["decode_ratio"]), ""
        yield f"{row['weights']}: prefill over full", _number(row["prefill_ratio"]), ""
    for item in data.get("not_run", []):
        yield f"{item['weights']}: not run", item["why"][:90], ""


def _batch(data: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for row in data["rows"]:
        yield f"{row['questions']} together, per question", _number(row["ratio"]), ""
        rival = _number(row["ratio_to_transformers"])
        yield f"{row['questions']} together, over transformers alone", rival, ""


ROWS = {
    "device": _device,
    "same": _same,
    "default": _default,
    "scene_update": _scene_update,
    "decode": _decode,
    "memory": _memory,
    "batch": _batch,
}


def _number(value: Any) -> str:
    """A spread as median [least to largest]; a number; anything else as it is."""
    if isinstance(value, dict) and value.get("median") is not None:
        return f"{value['median']:.4g} [{value['min']:.4g} to {value['max']:.4g}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _aim(at_most: Any, met: bool | None) -> str:
    if met is None:
        return ""
    least = f"at most {at_most:g}: " if isinstance(at_most, float | int) else ""
    return least + ("met" if met else "MISSED")


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
