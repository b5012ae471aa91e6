"""Write the tables of docs/benchmarks.md from docs/results/pruning_*.json and batch_*.json: python tools/write_benchmark_tables.py"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- pruning tables: generated -->", "<!-- end -->"
BATCH_BEGIN = "<!-- batch tables: generated -->"
SHAPES = ("A", "B", "C", "W", "7B")
HEAD = (
    "| strategy | keep | last layer | prefill ratio | FLOP ratio | measured / FLOPs | ranking | choosing | KV | cells |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def spread(value: dict[str, float], digits: int = 3) -> str:
    """'0.361 (0.350 to 0.372)'."""
    return f"{value['median']:.{digits}f} ({value['min']:.{digits}f} to {value['max']:.{digits}f})"


def row(r: dict[str, Any]) -> str:
    """One strategy at one keep ratio."""
    chosen = f"{r['selection_ms']['median']:.0f} ms" if r["selection_ms"]["n"] else "-"
    ranked = f"{r['rank_share']['median']:.1%}" if r["rank_share"]["median"] else "-"
    return (
        f"| {r['strategy']} | {r['keep_ratio_achieved']:.3f} | {r['kept_last_layer']} | {spread(r['prefill_ratio'])} | {r['flop_ratio']:.3f} | "
        f"{r['prefill_over_flops']:.2f} | {ranked} | {chosen} | {r['kv_ratio']:.2f} | {r['coverage_0.5m']:.2f} |"
    )


def section(data: dict[str, Any]) -> str:
    """The table of one file."""
    sizes, made = data["sizes"], data["provenance"]
    counts = ", ".join(str(n) for n in sorted({r["N"] for r in data["rows"]}))
    lines = [
        f"**Shape {data['shape']}**: d={sizes['hidden']}, L={sizes['layers']}, m={sizes['intermediate']}, N={counts} and "
        f"{data['text_tokens']} text tokens, {data['dtype']}, {made['device']}, n={data['n']}.",
        "",
        HEAD,
        *(row(r) for r in data["rows"] if r["strategy"] != "none"),
        "",
    ]
    for item in data["information"]:
        lines.append(
            f"Measuring information at N={item['N']}, every {item['stride']}th query: {spread(item['ratio'])} of an unpruned pass; "
            f"{item['flop_share']:.2%} more FLOPs.  "
        )
    missing = [f"{item['strategy']} at {item['keep_ratio']:g}" for item in data["not_run"]]
    if missing:
        lines.append(f"Out of reach on {sizes['layers']} layers: {', '.join(missing)}.")
    return "\n".join(lines).rstrip()


def render() -> str:
    """What stands between the marks."""
    parts = []
    for shape in SHAPES:
        path = ROOT / "docs" / "results" / f"pruning_{shape}.json"
        if path.is_file():
            parts.append(section(json.loads(path.read_text(encoding="utf-8"))))
        else:
            parts.append(
                f"**Shape {shape}**: not measured, no CUDA GPU was at hand. `ada3d bench --suite pruning --shape {shape} --json "
                f"docs/results/pruning_{shape}.json` fills it on any machine that has one."
            )
    return "\n\n".join(parts)


def render_batch() -> str:
    """Questions together against one after the other, a table per shape that was measured."""
    parts = []
    for path in sorted((ROOT / "docs" / "results").glob("batch_*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        sizes = data["sizes"]
        lines = [
            f"**Shape {data['shape']}**: d={sizes['hidden']}, L={sizes['layers']}, m={sizes['intermediate']}, {data['question_tokens']} question and "
            f"{data['answer_tokens']} answer tokens, {data['dtype']}, {data['provenance']['device']}, n={data['n']}.",
            "",
            "| N | questions | time per question, ratio | together, per question | alone | same ids | logits off |",
            "|---|---|---|---|---|---|---|",
        ]
        for r in data["rows"]:
            lines.append(
                f"| {r['N']} | {r['questions']} | {spread(r['ratio'])} | {r['together_ms']['median']:.0f} ms | {r['alone_ms']['median']:.0f} ms | "
                f"{r['same_ids']:.0%} | {r['logits_error']:.1e} |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def updated(page: str) -> str:
    """The page with its tables anew."""
    for begin, text in ((BEGIN, render()), (BATCH_BEGIN, render_batch())):
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(END), re.DOTALL)
        page = pattern.sub(lambda _, new=f"{begin}\n{text}\n{END}": new, page)
    return page


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE}")
