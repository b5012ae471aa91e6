"""What the answers to questions about generated rooms come to: counts, metrics, a table.

Chance, the share of the most frequent answer and a 95 % interval stand beside each accuracy.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ada3d_ros.errors import ModelError
from ada3d_ros.lab.evaluation.metrics import scanqa_scores, scanrefer_scores, wilson
from ada3d_ros.types import Answer, Question

METRICS = (
    "existence",
    "color",
    "category",
    "count",
    "relation",
    "multihop",
    "nearest",
    "superlative",
    "caption",
    "grounding_unique_acc25",
    "grounding_unique_acc50",
    "grounding_distractor_acc25",
    "grounding_distractor_acc50",
    "absent_false_box_rate",
)


@dataclass
class Tally:
    """What the questions so far came to.

    right (0 or 1), chance: per metric, one entry a question; answers: true ones by kind; texts:
    prediction and truth of the questions that ScanQA would ask; ious, unique: per phrase with a
    target; unanswered: questions the model gave no text for, counted as wrong.
    """

    right: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    chance: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    answers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    texts: list[tuple[str, str]] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)
    unique: list[bool] = field(default_factory=list)
    methods: Counter[str] = field(default_factory=Counter)
    keep_ratios: list[float] = field(default_factory=list)
    spatial_tokens: list[int] = field(default_factory=list)
    tokens_kept: list[int] = field(default_factory=list)
    asked: int = 0
    unanswered: int = 0

    def add(self, metric: str, right: float, chance: float) -> None:
        """One question's result, 0 or 1, and the share of guesses that would be right."""
        self.right[metric].append(right)
        self.chance[metric].append(chance)

    def reply(self, ask: Callable[[Question], Answer], question: Question) -> Answer | None:
        """The answer, its tokens counted; None where the model gave no text.

        Raises what else goes wrong.
        """
        self.asked += 1
        try:
            answer = ask(question)
        except ModelError as error:
            # A subclass is missing memory, one with a cause torch's own failure: no wrong answer.
            if type(error) is not ModelError or error.__cause__ is not None:
                raise
            self.unanswered += 1
            return None
        self.keep_ratios.append(answer.tokens.keep_ratio_achieved)
        self.spatial_tokens.append(answer.tokens.spatial_total)
        self.tokens_kept.append(answer.tokens.spatial_kept)
        return answer


def summary(tally: Tally) -> dict[str, Any]:
    """The numbers of a tally; every one of METRICS is there, NaN where nothing was asked.

    `as_published`: the same answers scored as ScanQA and ScanRefer score theirs.
    """
    # Each metric, and what to read it beside.
    metrics, details = {}, {}
    for name in METRICS:
        right, answers = tally.right.get(name, []), tally.answers.get(name)
        metrics[name] = _mean(right)
        details[name] = {
            "n": len(right),
            "chance": _mean(tally.chance.get(name, [])),
            "majority": max(answers.values()) / len(right) if answers else None,
            "interval": wilson(metrics[name], len(right)),
        }

    # The same answers as published evaluators score them.
    predictions, references = [p for p, _ in tally.texts], [[truth] for _, truth in tally.texts]
    return {
        "metrics": metrics,
        "details": details,
        "as_published": {
            "scanqa": scanqa_scores(predictions, references),
            "scanrefer": scanrefer_scores(tally.ious, tally.unique),
        },
        "grounded_by": dict(tally.methods),
        "keep_ratio": _mean(tally.keep_ratios),
        "spatial_tokens": _mean(tally.spatial_tokens),
        "tokens_kept": _mean(tally.tokens_kept),
        "n": tally.asked,
        "unanswered": tally.unanswered,
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def format_table(results: dict[str, Any]) -> str:
    """One line a metric that was asked for: value, interval, n, chance, majority; then the tokens.

    results: of `summary`, with `shuffled` and `seconds_per_question`.
    """
    interval = "95 % interval"
    lines = [f"{'metric':<28}{'value':>7}  {interval:<15}{'n':>5}{'chance':>8}{'majority':>10}"]
    for name, value in results["metrics"].items():
        d = results["details"][name]
        if d["n"] == 0:
            continue
        majority = "" if d["majority"] is None else f"{d['majority']:.2f}"
        low, high = d["interval"]
        lines.append(
            f"{name:<28}{value:>7.3f}  {low:.2f} to {high:.2f}  "
            f" {d['n']:>5}{d['chance']:>8.2f}{majority:>10}"
        )

    # What holds for all of them.
    lines.append(
        f"{results['tokens_kept']:.0f} of {results['spatial_tokens']:.0f} spatial tokens kept to"
        f" the end, keep ratio {results['keep_ratio']:.2f};"
        f" {results['seconds_per_question'] * 1000:.0f} ms a question, views included"
    )
    if results["unanswered"]:
        lines.append(
            f"{results['unanswered']} of {results['n']} questions got no text and count as wrong."
        )
    if results["shuffled"]:
        lines.append(
            "SHUFFLED: asked about another room's views; what is known blindly is the majority"
            " column."
        )
    return "\n".join(lines)
