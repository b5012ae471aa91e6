"""ScanQA: short answers to questions about a scene, several right ones each.

Read are LLaVA-3D's pair of files (questions: question_id, video, text; references: question_id,
text as a list) and ScanQA's own, which holds both (scene_id, question_id, question, answers).
Scored as LLaVA-3D's script does: exact and refined match, then BLEU, METEOR, ROUGE-L and CIDEr of
the cleaned words.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.evaluation.field.benchmark import Files, Item, OfficialFile, Record, Scoring
from ada3d_ros.lab.evaluation.field.json_files import (
    Entry,
    checked_items,
    read_entries,
    read_text_answers,
    text_record,
)
from ada3d_ros.lab.evaluation.field.spoken import (
    SpokenBenchmark,
    references_of,
    said_and_true,
    scores_of_words,
)
from ada3d_ros.lab.evaluation.metrics import scanqa_scores

QUESTIONS, REFERENCES = "questions", "references"
TOP_10 = "answer_top10"  # of ScanQA's own files of answers, best first


class ScanQA(SpokenBenchmark):
    """See the module."""

    name = "scanqa"
    description = (
        "ScanQA: short answers about a scene; EM, refined EM, BLEU, METEOR, ROUGE-L, CIDEr"
    )
    files = (
        OfficialFile(QUESTIONS, "ScanQA's own JSON, or LLaVA-3D's list of questions"),
        OfficialFile(
            REFERENCES, "LLaVA-3D's list of true answers; ScanQA's own has them", False, False
        ),
    )

    def read(self, files: Files) -> list[Item]:
        path = files[QUESTIONS]
        entries = read_entries(path)
        if entries[0].has("question"):
            items = [
                Item(
                    entry.text("question_id"),
                    entry.text("scene_id"),
                    entry.text("question"),
                    entry.texts("answers"),
                )
                for entry in entries
            ]
            return checked_items(items, path)

        reference_path = reference_file(files)
        known = references_of(entries, read_entries(reference_path), reference_path)
        items = [
            Item(e.text("question_id"), e.text("video"), e.text("text"), reference.texts("text"))
            for e, reference in zip(entries, known, strict=True)
        ]
        return checked_items(items, path)

    def read_answers(self, path: Path) -> dict[str, Record]:
        return read_text_answers(path, _record)

    def score(self, scored: Sequence[tuple[Item, Record]], scoring: Scoring) -> dict[str, float]:
        said, references = said_and_true(scored)
        scores = scanqa_scores(said, references, scoring.quirks)
        return scores | scores_of_words(said, references, scoring)


def reference_file(files: Files) -> Path:
    """The file of true answers. Raises SourceError where none was given."""
    if REFERENCES not in files:
        raise SourceError(
            f"{files[QUESTIONS]} holds questions without true answers (LLaVA-3D's list): name the"
            " list of answers with --references FILE."
        )
    return files[REFERENCES]


def _record(entry: Entry) -> Record:
    ranked = entry.data.get(TOP_10)
    if isinstance(ranked, list) and ranked and isinstance(ranked[0], str):
        return {"text": ranked[0]}
    return text_record(entry)


SCANQA = ScanQA()
