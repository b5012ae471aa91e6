"""MMScan's questions: answers in words about a scene, scored by words and by given judgements.

Read are the official MMScan_QA.json (its "val": ID, scan_id, question, answers, input_bboxes), and
LLaVA-3D's list of conversations (prompt_id, video, conversations, target.boxes). A question about
given objects is asked with the centres of their boxes: where the prompt has `<boxes>`, else behind
it. Somebody's answers are lists or objects with ID, prompt_id or question_id and `pred`.
Scored as the official evaluator: exact match of cleaned texts, refined match of texts without marks
and articles, words by text_scores.py. Judgements are what its large model wrote: by ID, the numbers
of key points that are right and that are wrong or missing; a score is the share of right ones, over
all and by class of question. Of a part of the questions, too, as the evaluator draws some: `judged`
is their share.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ada3d_ros.lab.evaluation.field.benchmark import (
    NOBODY_SAYS,
    Files,
    Item,
    OfficialFile,
    Record,
    Scoring,
)
from ada3d_ros.lab.evaluation.field.images import said
from ada3d_ros.lab.evaluation.field.json_files import (
    Entry,
    by_id,
    checked_items,
    read_entries,
    text_record,
)
from ada3d_ros.lab.evaluation.field.judgements import (
    judgement_of,
    judgements_file,
    number_within,
    read_judgements,
)
from ada3d_ros.lab.evaluation.field.spoken import SpokenBenchmark, scores_of_words
from ada3d_ros.lab.evaluation.metrics import clean_answer

QUESTIONS = "questions"
SPLIT = "val"
ID_KEYS = ("ID", "prompt_id", "question_id", "id")
CLASS = "class"  # in Item.extra
# The class of a question by its ID: the first whose mark is in it.
CLASSES = (
    ("Attribute_OO", "OOa"),
    ("Space_OO", "OOs"),
    ("EQ", "STa"),
    ("Single_Attribute", "STa"),
    ("OR", "OR"),
    ("Single_Space", "STs"),
    ("Advanced", "Advanced"),
)
OTHER = "other"
RIGHT, WRONG = "Correct Number", "Wrong/Missing Number"
POINTS = "All key points"
MAX_CHARS = 1024  # of a text that is scored
VIDEO, CLICK = "<video>", "<boxes>"
_SPECIAL = re.compile(r"ASSISTANT: ?|\n|<s>|</s>|<unk>|<p>|</p>|<ref>|<\|endoftext\|>")
_NO_MARKS = str.maketrans("", "", string.punctuation)


def scored_text(text: str) -> str:
    """The text that is scored: without special tokens, cleaned as ScanQA's answers."""
    text = re.sub(r"\s{2,}", " ", _SPECIAL.sub("", text).strip())
    return clean_answer(text[:MAX_CHARS])


def bare(text: str) -> str:
    """The text that refined matches are of: lower case, no marks, no articles."""
    words = re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_NO_MARKS))
    return " ".join(words.split())


class MMScan(SpokenBenchmark):
    """See the module."""

    name = "mmscan"
    description = "MMScan QA: answers about a scene; EM, words, and given judgements by class"
    files = (
        OfficialFile(QUESTIONS, "MMScan_QA.json, or LLaVA-3D's list of conversations"),
        judgements_file("what the evaluator's large model wrote, by ID"),
    )

    def read(self, files: Files) -> list[Item]:
        path = files[QUESTIONS]
        entries = read_entries(path, SPLIT)
        names = [entry.text(*ID_KEYS) for entry in entries]
        judged = read_judgements(
            files, names, _share, f"{{{RIGHT!r}: n, {WRONG!r}: m}}, or a share 0 to 1", partial=True
        )
        items = [
            _item(name, entry, judged.get(name, {}))
            for name, entry in zip(names, entries, strict=True)
        ]
        return checked_items(items, path)

    def read_answers(self, path: Path) -> dict[str, Record]:
        entries = [entry for entry in read_entries(path) if "settings" not in entry.data]
        return {name: text_record(entry) for name, entry in by_id(entries, *ID_KEYS).items()}

    def item_score(self, item: Item, record: Record) -> float:
        """Its judgement, where there is one; else 1 for a match, 0.5 for a refined one, else 0."""
        share = judgement_of(item, record, 0.0)
        if share is not None:
            return float(share)
        exact, refined = _matches(item, record)
        return 1.0 if exact else 0.5 * refined

    def score(self, scored: Sequence[tuple[Item, Record]], scoring: Scoring) -> dict[str, float]:
        """`EM`, `EM_refined` and scores by words, fractions; with judgements `judged`, the share of
        the questions that have one, `gpt` over all those and `gpt_STa` ... by class, in percent.
        """
        matches = [_matches(item, record) for item, record in scored]
        scores = {
            "EM": sum(match[0] for match in matches) / len(matches),
            "EM_refined": sum(match[1] for match in matches) / len(matches),
        }
        texts = [said(record) for _, record in scored]
        scores |= scores_of_words(
            [NOBODY_SAYS if text is None else scored_text(text) for text in texts],
            [[scored_text(text) for text in item.references] for item, _ in scored],
            scoring,
            clean=False,
        )
        shares: dict[str, list[float]] = {}
        for item, record in scored:
            share = judgement_of(item, record, 0.0)
            for group in ("gpt", f"gpt_{item.extra[CLASS]}"):
                if share is not None:
                    shares.setdefault(group, []).append(100 * float(share))
        if shares:
            scores["judged"] = len(shares["gpt"]) / len(scored)
        return scores | {name: sum(shares[name]) / len(shares[name]) for name in sorted(shares)}


def _matches(item: Item, record: Record) -> tuple[bool, bool]:
    text = said(record)
    if text is None:
        return False, False
    prediction, known = scored_text(text), [scored_text(each) for each in item.references]
    return prediction in known, bare(prediction) in [bare(each) for each in known]


def _item(name: str, entry: Entry, judged: dict[str, Any]) -> Item:
    if entry.has("conversations"):
        text, answers = _conversation(entry)
        target = entry.data.get("target")
        boxes = target.get("boxes") if isinstance(target, dict) else None
    else:
        text, answers = entry.text("question"), entry.texts("answers")
        boxes = entry.data.get("input_bboxes")
    places = ", ".join(_center(entry, box) for box in _boxes(entry, boxes))
    if CLICK in text:
        if not places:
            raise entry.error(f"the prompt has {CLICK}, and there is no box.")
        text = text.replace(CLICK, places)
    elif places:
        text = f"{text} {places}"
    kind = name.split("__")[0]
    found = next((its for mark, its in CLASSES if mark in kind), OTHER)
    return Item(name, entry.text("scan_id", "video"), text, answers, {CLASS: found} | judged)


def _conversation(entry: Entry) -> tuple[str, tuple[str, ...]]:
    """What is asked, and the true answers. Raises SourceError."""
    turns = entry.value("conversations")
    if not isinstance(turns, list) or len(turns) < 2 or not all(isinstance(t, dict) for t in turns):
        raise entry.error("conversations should hold a question and an answer.")
    asked, answered = (Entry(entry.path, entry.number, turn) for turn in turns[:2])
    return asked.text("value").removeprefix(VIDEO).strip(), answered.texts("value")


def _boxes(entry: Entry, boxes: object) -> list[Any]:
    if boxes is None:
        return []
    if not isinstance(boxes, list):
        raise entry.error(f"its boxes are {boxes!r}; a list is expected.")
    return boxes


def _center(entry: Entry, box: object) -> str:
    """The box's centre in metres as a question has it, of 6 or 9 numbers. Raises SourceError."""
    count = 9 if isinstance(box, list) and len(box) == 9 else 6
    return "[" + ", ".join(f"{value:.3f}" for value in entry.numbers(box, count)[:3]) + "]"


def _share(value: Any) -> float:
    """Of key points that are right. Raises ValueError."""
    if not isinstance(value, dict):
        return number_within(value, 0.0, 1.0)
    right, wrong = (_count(value.get(name), name) for name in (RIGHT, WRONG))
    points = value.get(POINTS)
    if right + wrong == 0:
        raise ValueError("it counts no key point")
    if isinstance(points, list) and len(points) != right + wrong:
        raise ValueError(f"it lists {len(points)} key points and counts {right + wrong}")
    return right / (right + wrong)


def _count(value: Any, name: str) -> int:
    number = int(value) if isinstance(value, str) and value.isdigit() else value
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ValueError(f"{name!r} is {value!r}, no count")
    return number


MM_SCAN = MMScan()
