"""Write the table of drawn rooms in docs/benchmarks_of_the_field.md from its results: python
tools/write_field_table.py

Made by the commands that stand above the table, each with `--json docs/results/field_NAME.json`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "benchmarks_of_the_field.md"
QUOTED = {  # benchmark: metrics that the table shows
    "scanqa": ("EM1", "EM1_refined", "Bleu_1", "ROUGE_L", "CIDEr"),
    "sqa3d": ("EM1", "EM1_refined"),
    "scanrefer": ("overall_acc25", "overall_acc50", "unique_acc25", "multiple_acc25"),
    "multi3drefer": ("overall_f1_25", "overall_f1_50", "zt_w_d_f1_25", "st_w_d_f1_25"),
    "scan2cap": ("EM1", "Bleu_1@.50", "METEOR@.50", "ROUGE_L@.50", "CIDEr@.50"),
}
HEAD = "| benchmark | items | number | value |\n|---|---|---|---|\n"


def rows(name: str) -> list[str]:
    """One benchmark's lines: its own numbers, then the mean of single answers."""
    path = DOCS / "results" / f"field_{name}.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    lines = [f"| `{metric}` | {results['metrics'][metric]:.3f} |" for metric in QUOTED[name]]
    mean, (low, high) = results["score"]["mean"], results["score"]["ci95"]
    lines.append(f"| `score` | {mean:.3f} ({low:.3f} to {high:.3f}) |")
    return [f"| {name} | {results['n']} {line}" for line in lines]


def render(page: str) -> str:
    """The page with its table replaced."""
    table = HEAD + "".join(f"{line}\n" for name in QUOTED for line in rows(name))
    head, mark, rest = page.partition(HEAD)
    assert mark, f"{PAGE.name} has no table of drawn rooms"
    return head + table + re.sub(r"\A(\|.*\n)*", "", rest)


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE}")
