"""What benchmarks have in common whose answers are words: asked as written, scored by the words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.evaluation.field.benchmark import (
    NO_ANSWER,
    NOBODY_SAYS,
    Item,
    Record,
    Scoring,
)
from ada3d_ros.lab.evaluation.field.json_files import (
    Entry,
    by_id,
    name_some,
    read_text_answers,
)
from ada3d_ros.lab.evaluation.metrics import clean_answer, exact_match
from ada3d_ros.lab.evaluation.text_scores import ALL_SCORES, WITHOUT_JAVA, Tokens, text_scores
from ada3d_ros.types import Answer, Question, Scope


class SpokenBenchmark:
    """Question, record and scores of one answer of a benchmark about scenes."""

    scope = Scope.SCENE
    grounds = False
    prompt = ""

    def question(self, item: Item) -> Question:
        """The question as it is written: LLaVA-3D's scripts put nothing around it."""
        return Question(item.text, want_boxes=False)

    def record(self, item: Item, answer: Answer) -> Record:
        """The answer's words."""
        return {"text": answer.text}

    def read_answers(self, path: Path) -> dict[str, Record]:
        return read_text_answers(path)

    def remarks(self, scored: Sequence[tuple[Item, Record]], scoring: Scoring) -> list[str]:
        """None: the numbers are of all that was scored."""
        return []

    def item_score(self, item: Item, record: Record) -> float:
        """1 for a match, 0.5 for a refined one, else 0; an empty answer is none."""
        if NO_ANSWER in record:
            return 0.0
        exact, refined = exact_match(record["text"], item.references, quirks=False)
        return 1.0 if exact else 0.5 * refined


def said_and_true(
    scored: Sequence[tuple[Item, Record]],
) -> tuple[list[str], list[tuple[str, ...]]]:
    """The answers' words and their references. What got no answer says what nobody would: an empty
    text would count as part of every reference.
    """
    said = [NOBODY_SAYS if NO_ANSWER in record else str(record["text"]) for _, record in scored]
    return said, [item.references for item, _ in scored]


def scores_of_words(
    said: Sequence[str], references: Sequence[Sequence[str]], scoring: Scoring, clean: bool = True
) -> dict[str, float]:
    """BLEU, METEOR, ROUGE-L and CIDEr as `scoring` wants them; none where it wants none. clean: of
    cleaned answers (ScanQA), else of the texts as they are (captions).

    Raises ConfigError where a package or Java is missing.
    """
    if scoring.tokens == "none":
        return {}
    tokens = Tokens(scoring.tokens)
    names = ALL_SCORES if tokens is Tokens.PTB else WITHOUT_JAVA
    if clean:
        said = [clean_answer(text) for text in said]
        references = [[clean_answer(text) for text in texts] for texts in references]
    return text_scores(said, references, tokens, names).overall


def references_of(entries: Sequence[Entry], references: Sequence[Entry], path: Path) -> list[Entry]:
    """The reference of each question, by id. Raises SourceError for one that has none."""
    known = by_id(references, "question_id")
    wanted = [entry.text("question_id") for entry in entries]
    missing = [name for name in wanted if name not in known]
    if missing:
        raise SourceError(
            f"{path} has no answer to {len(missing)} of {len(wanted)} questions:"
            f" {name_some(missing)}. Name the reference file of the same split."
        )
    return [known[name] for name in wanted]
