"""What is measured of the embedded model: every docs/results/embedded_*.json, and its command.

The order is that of importance: what stands first is to be made first after new weights.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
PRUNED = "--strategy adatoken3d --keep 0.41"
ALONE = "--measure off"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One result file. heading: of its column in the card, "" where it has none; options: of
    `ada3d eval synthetic`; minutes: of one core of 2020, the machine to itself.
    """

    name: str
    heading: str
    options: str
    minutes: float

    @property
    def file(self) -> Path:
        return RESULTS / f"{self.name}.json"

    @property
    def command(self) -> str:
        """As it is typed at the root of the checkout."""
        return f"ada3d eval synthetic {self.options} --json {self.file.relative_to(ROOT)}"

    def arguments(self, file: Path) -> list[str]:
        """Of `ada3d`, the results going to `file`."""
        return ["eval", "synthetic", *shlex.split(self.options), "--json", str(file)]


SEEDS = "--seeds 0,1,2"
EVALUATIONS = (
    Evaluation("embedded_level1", "alone", f"{ALONE} {SEEDS}", 9),
    Evaluation("embedded_level1_measured", "measured", SEEDS, 14),
    Evaluation("embedded_level1_built", "alone, pruned (default)", f"{ALONE} {PRUNED}", 3),
    Evaluation("embedded_level1_shipped", "measured, pruned (as shipped)", PRUNED, 5),
    Evaluation("embedded_level1_unchained", "alone, without chains", f"{ALONE} --chains off", 3),
    Evaluation("embedded_level1_blind", "blind: no scene", "--blind", 1),
    Evaluation("embedded_level1_shuffled", "another room's views", f"{ALONE} --shuffle-scenes", 3),
    Evaluation("embedded_level2", "level 2, alone", f"{ALONE} --level 2", 6),
    Evaluation("embedded_level2_measured", "level 2, measured", "--level 2 --scenes 100", 5),
    Evaluation(
        "embedded_level1_pruned",
        "alone, dropped for each question (paper)",
        f"{ALONE} {PRUNED} --cache-mode paper --cache-prune question --scenes 100",
        3,
    ),
    Evaluation("embedded_level1_int8", "", f"{ALONE} --weights int8 --scenes 100", 2),
    Evaluation("embedded_level1_int4", "", f"{ALONE} --weights int4 --scenes 100", 3),
    Evaluation("embedded_level1_floor", "", f"{ALONE} --floor-z -1.5 --scenes 100", 2),
    Evaluation(
        "embedded_level1_cached", "", f"{ALONE} {PRUNED} --cache-prune question --scenes 100", 2
    ),
)


def load(name: str) -> dict[str, Any]:
    """The results of one evaluation.

    Raises SystemExit where the file is not there, with the command that makes it.
    """
    (evaluation,) = (each for each in EVALUATIONS if each.name == name)
    if not evaluation.file.is_file():
        raise SystemExit(
            f"{evaluation.file.relative_to(ROOT)} is not there. Make it: {evaluation.command}"
        )
    data: dict[str, Any] = json.loads(evaluation.file.read_text(encoding="utf-8"))
    return data


def cell(results: dict[str, Any], metric: str) -> str:
    """'0.93 (0.90-0.95)', '' where nothing was asked or the file is from before the metric."""
    value = results["metrics"].get(metric)
    if value is None:
        return ""
    low, high = results["details"][metric]["interval"]
    interval = "" if low is None else f" ({low:.2f}-{high:.2f})"
    return f"{value:.2f}{interval}"
