"""MM-Vet: open questions about an image, judged by a large model, by the capabilities they need.

Read is the official mm-vet.json (by id: imagename, question, answer, capability). Somebody's
answers are the official results (an object of answers by id) or lines with question_id. Judgements
are the official evaluator's grades (by id: "score", a list of one score of 0 to 1 a run), or a
score by id. A capability's number is the mean over the questions that need it, in percent; one that
needs several counts in each. `total` is over all; runs are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.evaluation.field.benchmark import Files, Item, OfficialFile, Record, Scoring
from ada3d_ros.lab.evaluation.field.images import ImageBenchmark
from ada3d_ros.lab.evaluation.field.json_files import (
    checked_items,
    read_entries,
    read_json,
    read_text_answers,
)
from ada3d_ros.lab.evaluation.field.judgements import (
    JUDGED,
    JUDGEMENTS,
    judgement_of,
    judgements_file,
    number_within,
    read_judgements,
)

QUESTIONS = "questions"
CAPABILITY = "capability"  # in Item.extra and the official file: a list of names
PREFIX = "v1_"  # of ids, which LLaVA's answers leave out


class MMVet(ImageBenchmark):
    """See the module."""

    name = "mmvet"
    description = "MM-Vet: open questions about an image; given judgements, by capability"
    files = (
        OfficialFile(QUESTIONS, "mm-vet.json"),
        judgements_file("the official evaluator's grades: scores of 0 to 1 by id"),
    )

    def read(self, files: Files) -> list[Item]:
        path = files[QUESTIONS]
        entries = read_entries(path)
        names = [entry.text("id") for entry in entries]
        judged = read_judgements(
            files, names, _scores, 'a score of 0 to 1, or {"score": [one a run]}'
        )
        if judged:
            _same_runs(judged, files[JUDGEMENTS])
        items = [
            Item(
                name,
                entry.text("imagename"),
                entry.text("question"),
                (entry.text("answer"),),
                {CAPABILITY: list(entry.texts(CAPABILITY))} | judged.get(name, {}),
            )
            for name, entry in zip(names, entries, strict=True)
        ]
        return checked_items(items, path)

    def read_answers(self, path: Path) -> dict[str, Record]:
        if path.suffix == ".json":
            found = read_json(path)
            if isinstance(found, dict) and all(isinstance(v, str) for v in found.values()):
                return {name: {"text": text} for name, text in found.items()}
        answers = read_text_answers(path)
        return {n if n.startswith(PREFIX) else PREFIX + n: each for n, each in answers.items()}

    def item_score(self, item: Item, record: Record) -> float:
        scores = judgement_of(item, record, [0.0])
        return math.nan if scores is None else float(np.mean(scores))

    def score(self, scored: Sequence[tuple[Item, Record]], scoring: Scoring) -> dict[str, float]:
        """`total`, its standard deviation over runs, one number a capability (`rec`, `ocr` ...) and
        one a set of them that a question needs (`needs_ocr_spat`); none without judgements.
        """
        judged = [(item, judgement_of(item, record, 0.0)) for item, record in scored]
        judged = [(item, value) for item, value in judged if value is not None]
        if not judged:
            return {}
        runs = len(judged[0][0].extra[JUDGED])
        total = 100 * np.mean([np.broadcast_to(value, runs) for _, value in judged], axis=0)
        scores = {"total": float(total.mean()), "total_std": float(total.std())}

        groups: dict[str, list[float]] = {}
        for item, value in judged:
            needed = sorted(set(item.extra[CAPABILITY]))
            for group in (*needed, "needs_" + "_".join(needed)):
                groups.setdefault(group, []).append(float(np.mean(value)))
        return scores | {name: 100 * float(np.mean(groups[name])) for name in sorted(groups)}


def _same_runs(judged: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Raises SourceError where some questions were judged more often than others."""
    counts = {len(each[JUDGED]): name for name, each in judged.items()}
    if len(counts) > 1:
        low, high = min(counts), max(counts)
        raise SourceError(
            f"{path} has {low} score(s) of {counts[low]!r} and {high} of {counts[high]!r}: each run"
            " of the evaluator must have judged every question."
        )


def _scores(value: Any) -> list[float]:
    """One score a run. Raises ValueError."""
    found = value.get("score") if isinstance(value, dict) else value
    runs = found if isinstance(found, list) else [found]
    if not runs:
        raise ValueError("there is no score")
    return [number_within(score, 0.0, 1.0) for score in runs]


MM_VET = MMVet()
