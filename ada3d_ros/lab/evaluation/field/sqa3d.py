"""SQA3D: one right answer to a question that begins with where one stands and what one faces.

Read are LLaVA-3D's pair of files (questions: question_id, video, text; references: question_id,
text as a string, type 0..5) and SQA3D's own pair (`questions` with situation and question,
`annotations` with answers). A type is that of the question's first word: what, is, how, can, which,
others.
"""

from __future__ import annotations

from collections.abc import Sequence

from ada3d_ros.lab.evaluation.field.benchmark import Files, Item, OfficialFile, Record, Scoring
from ada3d_ros.lab.evaluation.field.json_files import Entry, checked_items, read_entries
from ada3d_ros.lab.evaluation.field.scanqa import QUESTIONS, REFERENCES, reference_file
from ada3d_ros.lab.evaluation.field.spoken import (
    SpokenBenchmark,
    references_of,
    said_and_true,
    scores_of_words,
)
from ada3d_ros.lab.evaluation.metrics import SQA3D_TYPES, sqa3d_scores

FIRST_WORDS = ("what", "is", "how", "can", "which")  # of the types 0..4
OTHERS = SQA3D_TYPES - 1


class SQA3D(SpokenBenchmark):
    """See the module."""

    name = "sqa3d"
    description = "SQA3D: questions from where one stands; EM and refined EM, over all and by type"
    files = (
        OfficialFile(QUESTIONS, "SQA3D's own questions, or LLaVA-3D's list of them"),
        OfficialFile(
            REFERENCES, "SQA3D's own annotations, or LLaVA-3D's list of true answers", asked=False
        ),
    )

    def read(self, files: Files) -> list[Item]:
        path, reference_path = files[QUESTIONS], reference_file(files)
        entries = read_entries(path, "questions")
        annotations = read_entries(reference_path, "annotations")
        known = references_of(entries, annotations, reference_path)
        items = [_item(entry, reference) for entry, reference in zip(entries, known, strict=True)]
        return checked_items(items, path)

    def score(self, scored: Sequence[tuple[Item, Record]], scoring: Scoring) -> dict[str, float]:
        said, references = said_and_true(scored)
        types = [item.extra["type"] for item, _ in scored]
        scores = sqa3d_scores(said, [texts[0] for texts in references], types, scoring.quirks)
        return scores | scores_of_words(said, references, scoring)


def _item(entry: Entry, reference: Entry) -> Item:
    # SQA3D's own files.
    if entry.has("situation"):
        question = entry.text("question")
        answers = reference.value("answers")
        if not isinstance(answers, list) or not answers or not isinstance(answers[0], dict):
            raise reference.error("answers should be a list of objects with `answer`.")
        answer = Entry(reference.path, reference.number, answers[0]).text("answer")
        text = f"{entry.text('situation')} {question}"
        source = entry.text("scene_id")
        return Item(entry.text("question_id"), source, text, (answer,), {"type": type_of(question)})

    # LLaVA-3D's.
    kind = reference.value("type")
    if kind not in range(SQA3D_TYPES) or isinstance(kind, bool):
        raise reference.error(f"type is {kind!r}; a number from 0 to {OTHERS} is expected.")
    answer = reference.text("text")
    source, text = entry.text("video"), entry.text("text")
    return Item(entry.text("question_id"), source, text, (answer,), {"type": kind})


def type_of(question: str) -> int:
    """0..5 by the first word."""
    first = question.split()[0].lower() if question.split() else ""
    return FIRST_WORDS.index(first) if first in FIRST_WORDS else OTHERS


SQA3D_BENCHMARK = SQA3D()
