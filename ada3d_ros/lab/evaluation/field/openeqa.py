"""OpenEQA: open questions about the place of an episode, judged by a large model.

Read is the official open-eqa-v0.json (question_id, question, answer, extra_answers, category,
episode_history). An episode of ScanNet is looked for as its scene (scene0709_00), others as they
are called. Judgements are what the official evaluate-predictions.py writes: a mark of 1 to 5 by
question_id. LLM-Match is the mean of (mark - 1) / 4 in percent, over all, by category and by
source; a mark of 0, the evaluator's for no answer, counts as 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ada3d_ros.lab.evaluation.field.benchmark import Files, Item, OfficialFile, Record, Scoring
from ada3d_ros.lab.evaluation.field.json_files import (
    Entry,
    checked_items,
    read_entries,
    read_text_answers,
    text_record,
)
from ada3d_ros.lab.evaluation.field.judgements import (
    judgement_of,
    judgements_file,
    number_within,
    read_judgements,
)
from ada3d_ros.lab.evaluation.field.spoken import SpokenBenchmark

QUESTIONS = "questions"
GROUPS = (
    "groups"  # in Item.extra: the names of the numbers that a question counts in, `total` aside
)
LOWEST, HIGHEST = 1, 5  # marks
_SCANNET = re.compile(r"scene\d{4}_\d{2}$")


class OpenEQA(SpokenBenchmark):
    """See the module."""

    name = "openeqa"
    description = "OpenEQA: open questions about a scene; LLM-Match of given marks, by category"
    files = (
        OfficialFile(QUESTIONS, "open-eqa-v0.json"),
        judgements_file("marks of 1 to 5 by question_id, as evaluate-predictions.py writes them"),
    )

    def read(self, files: Files) -> list[Item]:
        path = files[QUESTIONS]
        entries = read_entries(path)
        names = [entry.text("question_id") for entry in entries]
        judged = read_judgements(files, names, _mark, f"a whole number {LOWEST} to {HIGHEST}")
        items = [
            Item(
                name,
                _scene(entry),
                entry.text("question"),
                (entry.text("answer"), *_more_answers(entry)),
                {GROUPS: _groups(entry)} | judged.get(name, {}),
            )
            for name, entry in zip(names, entries, strict=True)
        ]
        return checked_items(items, path)

    def read_answers(self, path: Path) -> dict[str, Record]:
        return read_text_answers(path, _answer)

    def item_score(self, item: Item, record: Record) -> float:
        mark = judgement_of(item, record, LOWEST)
        return math.nan if mark is None else (mark - LOWEST) / (HIGHEST - LOWEST)

    def score(self, scored: Sequence[tuple[Item, Record]], scoring: Scoring) -> dict[str, float]:
        """`llm_match`, and of each category and source; none without judgements."""
        values: dict[str, list[float]] = {}
        for item, record in scored:
            value = self.item_score(item, record)
            for group in ("llm_match", *item.extra[GROUPS]):
                if not math.isnan(value):
                    values.setdefault(group, []).append(100 * value)
        return {name: sum(each) / len(each) for name, each in values.items()}


def _scene(entry: Entry) -> str:
    """ScanNet's name of the scene, else the episode's."""
    episode = entry.text("episode_history")
    scene = _SCANNET.search(episode)
    return scene[0] if scene else episode


def _groups(entry: Entry) -> list[str]:
    source = entry.text("episode_history").split("/")[0]
    return [f"category: {entry.text('category')}", f"source: {source}"]


def _more_answers(entry: Entry) -> tuple[str, ...]:
    return entry.texts("extra_answers") if entry.has("extra_answers") else ()


def _answer(entry: Entry) -> Record:
    """The official baselines write null where their model gave no answer."""
    nothing = "answer" in entry.data and entry.data["answer"] is None
    return {"text": "", "error": "NO_ANSWER"} if nothing else text_record(entry)


def _mark(value: Any) -> int:
    """Raises ValueError."""
    mark = number_within(value, 0, HIGHEST)
    if mark != int(mark):
        raise ValueError(f"{value!r} is not whole")
    return max(int(mark), LOWEST)


OPEN_EQA = OpenEQA()
