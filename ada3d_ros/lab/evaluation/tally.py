"""What the answers to questions about generated rooms come to: counts, metrics, a table.

Chance, the share of the most frequent answer and a 95 % interval over rooms stand beside each
metric.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ada3d_ros.errors import (
    AmbiguousError,
    InvalidRequestError,
    ModelError,
    NotGroundedError,
    UnknownKindError,
)
from ada3d_ros.lab.evaluation.intervals import (
    DRAWS,
    Floats,
    median_interval,
    per_room,
    room_draws,
    share_interval,
)
from ada3d_ros.lab.evaluation.metrics import scanqa_scores, scanrefer_scores
from ada3d_ros.lab.evaluation.selection import TEXT_KINDS
from ada3d_ros.lab.world.room_question import RoomQuestion
from ada3d_ros.types import Answer
from ada3d_ros.usage import TokenUsage

MEDIANS = ("distance_median_error_m",)  # all others are shares, or means of shares
METRICS = (
    *TEXT_KINDS,
    "grounding_unique_acc25",
    "grounding_unique_acc50",
    "grounding_distractor_acc25",
    "grounding_distractor_acc50",
    "absent_false_box_rate",
    "coherence",
    "distance_grounded",
    "distance_mra",
    "distance_median_error_m",
    "distance_coverage90",
    "inventory_recall25",
    "inventory_precision25",
    "inventory_named",
)
COHERENCE, WORDS_ALONE = "coherence_", "words_alone_"  # before the kind of question
REFUSALS = (UnknownKindError, AmbiguousError, NotGroundedError, InvalidRequestError)


class Outcome(NamedTuple):
    """What one question came to. right: a text that is true, an IoU of .25, a thing that is not
    there and got no box; iou: of a phrase with a target, else NaN; coherent: whether a right answer
    points at its objects, None where that says nothing.
    """

    question: RoomQuestion
    right: bool
    iou: float = np.nan
    coherent: bool | None = None


@dataclass
class Tally:
    """What the questions so far came to.

    right (0 to 1; of MEDIANS the value), chance (NaN where it says nothing), room: per metric, one
    entry a question; answers: true ones by kind; measured: by kind, how many answers were; texts:
    prediction and truth of the questions that ScanQA would ask; ious, unique: per phrase with a
    target; outcomes: of every question, in the order asked; usages: of every answer; groups: seed
    of each room; unanswered: questions the model gave no text for, refused: those that were
    refused, by error, both counted as wrong.
    """

    right: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    chance: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    room: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    answers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    measured: Counter[str] = field(default_factory=Counter)
    texts: list[tuple[str, str]] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)
    unique: list[bool] = field(default_factory=list)
    methods: Counter[str] = field(default_factory=Counter)
    outcomes: list[Outcome] = field(default_factory=list)
    usages: list[TokenUsage] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    unanswered: int = 0
    seed: int = 0

    @property
    def num_rooms(self) -> int:
        return len(self.groups)

    def next_seed(self, seed: int) -> None:
        """The rooms that follow are those of another seed."""
        self.seed = seed

    def next_room(self) -> None:
        """What follows is asked about another room."""
        self.groups.append(self.seed)

    def add(self, metric: str, right: float, chance: float = np.nan) -> None:
        """One question's result, 0 to 1, and the share of guesses that would be right."""
        self.right[metric].append(right)
        self.chance[metric].append(chance)
        self.room[metric].append(self.num_rooms - 1)

    def reply(self, outcome: Answer | Exception) -> Answer | None:
        """The answer, its tokens counted; None where the model gave no text or it was refused.

        Raises what else went wrong.
        """
        self.asked += 1
        if isinstance(outcome, REFUSALS):
            self.refused[type(outcome).__name__.removesuffix("Error")] += 1
            return None
        if isinstance(outcome, Exception):
            # A subclass is missing memory, one with a cause torch's own failure: no wrong answer.
            if type(outcome) is not ModelError or outcome.__cause__ is not None:
                raise outcome
            self.unanswered += 1
            return None
        self.usages.append(outcome.tokens)
        return outcome


def summary(tally: Tally) -> dict[str, Any]:
    """The numbers of a tally; every one of METRICS is there, NaN where nothing was asked.

    `as_published`: the same answers scored as ScanQA and ScanRefer score theirs.
    """
    # Each metric, and what to read it beside; the same draws of rooms for all.
    draws = room_draws(max(tally.num_rooms, 1))
    details = {name: _detail(tally, name, draws) for name in METRICS}

    # The same answers as published evaluators score them.
    predictions, references = [p for p, _ in tally.texts], [[truth] for _, truth in tally.texts]
    return {
        "metrics": {name: _value(name, tally.right.get(name, [])) for name in METRICS},
        "details": details,
        "coherence": _by_kind(tally, COHERENCE, draws),
        "words_alone": _by_kind(tally, WORDS_ALONE, draws),
        "by_seed": _by_seed(tally),
        "intervals": f"95 %, bootstrap over rooms, {DRAWS} draws",
        "as_published": {
            "scanqa": scanqa_scores(predictions, references),
            "scanrefer": scanrefer_scores(tally.ious, tally.unique),
        },
        "grounded_by": dict(tally.methods),
        "keep_ratio": _mean([usage.keep_ratio_achieved for usage in tally.usages]),
        "spatial_tokens": _mean([usage.spatial_total for usage in tally.usages]),
        "tokens_kept": _mean([usage.spatial_kept for usage in tally.usages]),
        "n": tally.asked,
        "unanswered": tally.unanswered,
        "refused": dict(tally.refused),
    }


def _detail(tally: Tally, name: str, draws: Floats) -> dict[str, Any]:
    """n, rooms, chance, majority, measured share and interval of one metric."""
    right, room = tally.right.get(name, []), tally.room.get(name, [])
    answers, chance = tally.answers.get(name), tally.chance.get(name, [])
    sums, asked = per_room(right, room, draws.shape[1])
    interval = share_interval(sums, asked, draws)
    return {
        "n": len(right),
        "rooms": int((asked > 0).sum()),
        "chance": _mean(chance),
        "majority": max(answers.values()) / len(right) if answers else None,
        "measured": tally.measured[name] / len(right) if answers else None,
        "interval": median_interval(right, room, draws) if name in MEDIANS else interval,
    }


def _by_kind(tally: Tally, prefix: str, draws: Floats) -> dict[str, dict[str, Any]]:
    """Value and details of what is counted for each kind of question."""
    names = [name for name in tally.right if name.startswith(prefix)]
    return {
        name.removeprefix(prefix): {"value": _mean(tally.right[name])} | _detail(tally, name, draws)
        for name in names
    }


def _by_seed(tally: Tally) -> dict[str, dict[str, float]]:
    """Each metric over the rooms of one seed alone."""
    groups = np.asarray(tally.groups, dtype=np.int64)
    found: dict[str, dict[str, float]] = {}
    for seed in dict.fromkeys(tally.groups):
        found[str(seed)] = {
            name: _value(name, np.asarray(tally.right[name])[groups[tally.room[name]] == seed])
            for name in METRICS
            if name in tally.right
        }
    return found


def _value(name: str, values: Sequence[float] | Floats) -> float:
    return float(np.median(values)) if name in MEDIANS and len(values) else _mean(values)


def _mean(values: Sequence[float] | Floats) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def format_table(results: dict[str, Any]) -> str:
    """One line a metric that was asked for: value, interval, n, chance, majority; then the tokens.

    results: of `summary`, with `shuffled` and `seconds_per_question`.
    """
    interval = "95 % interval"
    lines = [
        f"{'metric':<28}{'value':>7}  {interval:<15}{'n':>5}{'chance':>8}{'majority':>10}"
        f"{'measured':>10}"
    ]
    for name, value in results["metrics"].items():
        d = results["details"][name]
        if d["n"] == 0:
            continue
        chance = "" if np.isnan(d["chance"]) else f"{d['chance']:.2f}"
        majority = "" if d["majority"] is None else f"{d['majority']:.2f}"
        measured = "" if not d["measured"] else f"{d['measured']:.2f}"
        low, high = d["interval"]
        lines.append(
            f"{name:<28}{value:>7.3f}  {low:.2f} to {high:.2f}  "
            f" {d['n']:>5}{chance:>8}{majority:>10}{measured:>10}"
        )

    return "\n".join(lines + _notes(results))


def _notes(results: dict[str, Any]) -> list[str]:
    """What holds for all metrics."""
    lines = []
    for seed, metrics in results["by_seed"].items():
        if len(results["by_seed"]) > 1:
            values = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
            lines.append(f"seed {seed}: {values}")
    if results["spatial_tokens"] == results["spatial_tokens"]:  # NaN without a scene
        lines.append(
            f"{results['tokens_kept']:.0f} of {results['spatial_tokens']:.0f} spatial tokens kept"
            f" to the end, keep ratio {results['keep_ratio']:.2f}"
        )
    lines.append(f"{results['seconds_per_question'] * 1000:.0f} ms a question, views included")
    if results["unanswered"]:
        lines.append(
            f"{results['unanswered']} of {results['n']} questions got no text and count as wrong."
        )
    if results["refused"]:
        counts = ", ".join(f"{number} {name}" for name, number in results["refused"].items())
        lines.append(f"Refused, counted as wrong: {counts}.")
    if results["shuffled"]:
        lines.append(
            "SHUFFLED: asked about another room's views; what is known blindly is the majority"
            " column."
        )
    if results["blind"]:
        learned = results["words_alone"].items()
        values = ", ".join(f"{kind} {found['value']:.2f}" for kind, found in learned)
        lines.append(f"BLIND: asked without any scene. What words alone give away: {values}")
    return lines
