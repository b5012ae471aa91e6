"""MMBench: questions with options A to D about an image, each asked with its options rotated.

Read is the official TSV (index, question, hint, A to D, answer, category, l2-category, image as
base64). Rows of 1000000 and up are rotations of the row of their last six digits; where a file has
none they are made, each time the first option behind the others, as LLaVA's script does.
Somebody's answers are a TSV (index, prediction), LLaVA's lines (question_id, round_id, text), or
ours. A question is right where all its rotations are (circular evaluation), and counts there only
where all of them were asked; numbers in percent.

Which option an answer names is found by the official rules (VLMEvalKit, exact matching): its letter
alone, else its text alone. What names none is wrong, unless `--judgements` gives the letter that a
large model found in it. Of the official rules that came later, one is left out: a letter counts
wherever it stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.evaluation.field.benchmark import Files, Item, OfficialFile, Record, Scoring
from ada3d_ros.lab.evaluation.field.images import IMAGE, LETTER_PROMPT, ImageBenchmark, said
from ada3d_ros.lab.evaluation.field.json_files import (
    Entry,
    by_id,
    checked_items,
    name_some,
    read_entries,
    read_text_answers,
)
from ada3d_ros.lab.evaluation.field.judgements import JUDGED, judgements_file, read_judgements
from ada3d_ros.lab.evaluation.field.tables import read_table

QUESTIONS = "questions"
LETTERS = "ABCD"
REJECTED = "Z"  # what the official rules call an answer that is none of the options
ROTATION = 1_000_000  # between the indices of a question's rotations
# In Item.extra; the last one: how many rotations of its question the file has.
OPTIONS, QUESTION, GROUPS, ROTATIONS = "options", "base", "groups", "rotations"
CATEGORIES = ("l2-category", "category")
REFERENCE_CHARS = 64  # a shorter image is the index of the row that has it
# Cells that pandas, by which the official scripts read the table, takes for empty ones.
MISSING = (
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
)
_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)


def chosen_option(answer: str, options: Mapping[str, str]) -> str:
    """The letter of the option that an answer names, REJECTED for none, "" where it cannot be told.

    options: texts by letter.
    """
    if any(refusal in answer for refusal in _REFUSALS):
        return REJECTED
    words = answer.translate(_MARKS).split()
    letters = [letter for letter in options if letter in words]
    if len(letters) == 1:
        return letters[0]
    if not letters and REJECTED in words:
        return REJECTED

    # By its text, unless the answer is much longer than all options.
    if len(answer) > 2 * sum(map(len, options.values())):
        return ""
    lower = answer.lower()
    named = [letter for letter, text in options.items() if text.lower() in lower]
    return named[0] if len(named) == 1 else ""


class MMBench(ImageBenchmark):
    """See the module."""

    name = "mmbench"
    description = "MMBench: options about an image, rotated; circular accuracy by category"
    files = (
        OfficialFile(QUESTIONS, "mmbench_dev_....tsv, or another TSV of MMBench's columns"),
        judgements_file("letters that a large model found in answers that name none, by index"),
    )
    prompt = LETTER_PROMPT

    def read(self, files: Files) -> list[Item]:
        path = files[QUESTIONS]
        rows = read_table(path, ("index", "question", "A", "B", "answer", "image"))
        by_index = by_id(rows, "index")
        items = [_item(row, by_index) for row in rows]
        if not any(int(item.id) >= ROTATION for item in items):
            items = [rotated for item in items for rotated in _rotations(item)]
        _check_rotations(checked_items(items, path), path)
        judged = read_judgements(
            files, [item.id for item in items], _letter, "a letter A to D, or Z", partial=True
        )
        number = Counter(item.extra[QUESTION] for item in items)
        more = {i.id: {ROTATIONS: number[i.extra[QUESTION]], **judged.get(i.id, {})} for i in items}
        return [
            Item(i.id, i.source, i.text, i.references, {**i.extra, **more[i.id]}) for i in items
        ]

    def read_answers(self, path: Path) -> dict[str, Record]:
        if path.suffix.lower() == ".tsv":
            rows = by_id(read_table(path, ("index", "prediction")), "index").values()
            return {
                str(_number(row, "index")): {"text": str(row.data.get("prediction", ""))}
                for row in rows
            }
        entries = read_entries(path)
        if not any(entry.has("round_id") for entry in entries):
            return read_text_answers(path)
        answers: dict[str, Record] = {}
        for entry in entries:
            question, rotation = _number(entry, "question_id"), _number(entry, "round_id")
            index = str(question + rotation * ROTATION)
            if index in answers:
                raise entry.error(f"answers rotation {rotation} of {question} again; leave one.")
            answers[index] = {"text": entry.text("text")}
        return answers

    def item_score(self, item: Item, record: Record) -> float:
        return float(_chosen(item, record) == item.references[0])

    def score(self, scored: Sequence[tuple[Item, Record]], scoring: Scoring) -> dict[str, float]:
        """In percent: `accuracy` of questions with all rotations right, the same of each category
        and l2-category by name, both of questions that were asked in all rotations, so that they
        are absent where none was; `accuracy_one_round` of the questions as they stand; `unread` of
        answers that name no option.
        """
        left_out = set(_in_part(scored))
        right: dict[str, float] = {}
        groups: dict[str, list[str]] = {}
        for item, record in scored:
            question = str(item.extra[QUESTION])
            if question not in left_out:
                right[question] = min(right.get(question, 1.0), self.item_score(item, record))
                for group in item.extra[GROUPS]:
                    groups.setdefault(group, []).append(question)
        first = [
            self.item_score(item, record) for item, record in scored if int(item.id) < ROTATION
        ]
        unread = [float(not _chosen(item, record)) for item, record in scored]
        scores = {"accuracy": _percent(list(right.values()))} if right else {}
        if first:
            scores["accuracy_one_round"] = _percent(first)
        scores["unread"] = _percent(unread)
        for group in sorted(groups):
            scores[group] = _percent([right[question] for question in set(groups[group])])
        return scores

    def remarks(self, scored: Sequence[tuple[Item, Record]], scoring: Scoring) -> list[str]:
        """Which questions the circular accuracy leaves out."""
        left_out = _in_part(scored)
        if not left_out:
            return []
        asked = len({item.extra[QUESTION] for item, _ in scored})
        return [
            f"accuracy is of {asked - len(left_out)} questions; {len(left_out)} were not asked in"
            f" all their rotations: {name_some(left_out)}"
        ]


def _in_part(scored: Sequence[tuple[Item, Record]]) -> list[str]:
    """The questions that lack a rotation, in the file's order."""
    number = Counter(str(item.extra[QUESTION]) for item, _ in scored)
    wanted = {str(item.extra[QUESTION]): int(item.extra[ROTATIONS]) for item, _ in scored}
    return [question for question, asked in number.items() if asked < wanted[question]]


def _chosen(item: Item, record: Record) -> str:
    text = said(record)
    if text is None:
        return REJECTED
    return chosen_option(text, item.extra[OPTIONS]) or str(item.extra.get(JUDGED, ""))


def _percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values)


# -- the table


def _item(row: Entry, by_index: Mapping[str, Entry]) -> Item:
    """A row's question as it stands."""
    index = _number(row, "index")
    options = _options(row)
    answer = row.text("answer").strip()
    if answer not in options:
        raise row.error(f"the answer {answer!r} is none of its options {', '.join(options)}.")
    source, image = _image(row, by_index)
    hint = "" if _is_none(row, "hint") else row.text("hint") + "\n"
    groups = [f"{name}: {row.text(name)}" for name in CATEGORIES if row.has(name)]
    extra = {
        OPTIONS: options,
        QUESTION: index % ROTATION,
        GROUPS: groups,
        "stem": hint + row.text("question"),
        IMAGE: image,
    }
    return Item(str(index), source, _asked(str(extra["stem"]), options), (answer,), extra)


def _options(row: Entry) -> dict[str, str]:
    """Its options by letter, up to the first that is not there. Raises SourceError for only one."""
    found: dict[str, str] = {}
    for letter in LETTERS:
        if _is_none(row, letter):
            break
        found[letter] = row.text(letter)
    if len(found) < 2:
        raise row.error("has fewer than two options.")
    return found


def _is_none(row: Entry, name: str) -> bool:
    """As LLaVA's script sees a cell: missing to pandas, or "nan" or "none" in any case."""
    if not row.has(name) or row.text(name) in MISSING:
        return True
    return row.text(name).lower() in ("nan", "none")


def _image(row: Entry, by_index: Mapping[str, Entry]) -> tuple[str, str]:
    """Which row holds the image, and the image as base64. Raises SourceError where none does."""
    index, image = row.text("index"), row.text("image").strip()
    if len(image) <= REFERENCE_CHARS and image in by_index:
        index, image = image, by_index[image].text("image").strip()
        if len(image) <= REFERENCE_CHARS and image in by_index:
            raise row.error(f"its image is that of row {index}, which has none of its own.")
    return f"image of {index}", image


def _asked(stem: str, options: Mapping[str, str]) -> str:
    return "\n".join([stem, *(f"{letter}. {text}" for letter, text in options.items())])


def _rotations(item: Item) -> list[Item]:
    """The question as it stands, and with its options rotated, the first behind the others."""
    texts, letters = list(item.extra[OPTIONS].values()), list(item.extra[OPTIONS])
    true, rotated = letters.index(item.references[0]), []
    for turn in range(len(letters)):
        options = dict(zip(letters, texts[turn:] + texts[:turn], strict=True))
        rotated.append(
            Item(
                str(int(item.id) + turn * ROTATION),
                item.source,
                _asked(item.extra["stem"], options),
                (letters[(true - turn) % len(letters)],),
                {**item.extra, OPTIONS: options},
            )
        )
    return rotated


def _check_rotations(items: Sequence[Item], path: Path) -> None:
    """Raises SourceError for rotations of a question that is not there."""
    base = {int(item.id) for item in items if int(item.id) < ROTATION}
    alone = [item.id for item in items if item.extra[QUESTION] not in base]
    if alone:
        raise SourceError(
            f"{path}: index {alone[0]} is a rotation of {int(alone[0]) % ROTATION}, which is not"
            " there. Is the file whole?"
        )


def _number(entry: Entry, name: str) -> int:
    text = entry.text(name).strip().removesuffix(".0")  # as some tables write whole numbers
    if not text.isdigit():
        raise entry.error(f"{name} is {text!r}; a whole number is expected.")
    return int(text)


def _letter(value: Any) -> str:
    """Raises ValueError."""
    if not isinstance(value, str) or value not in (*LETTERS, REJECTED):
        raise ValueError(f"{value!r} is no option")
    return value


MM_BENCH = MMBench()
