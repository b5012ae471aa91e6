"""MME: two questions with yes or no about each image, in ten subtasks of perception and four of
cognition.

Read is the release's folder: one a subtask; its texts, two lines "question<TAB>answer" each, lie
beside the images of the same name, or in questions_answers_YN/ and the images in images/.
Somebody's answers are the evaluator's folder (a text a subtask: "image<TAB>question<TAB>true
answer<TAB>answer"), LLaVA's lines (question_id, prompt, text), or ours.
Scored as the official evaluator: a subtask's score is acc + acc+ in percent, where acc+ counts
images with both answers right; perception and cognition are sums of scores, up to 2000 and 800.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.evaluation.field.benchmark import Files, Item, OfficialFile, Record, Scoring
from ada3d_ros.lab.evaluation.field.images import SHORT_PROMPT, ImageBenchmark, said
from ada3d_ros.lab.evaluation.field.json_files import (
    checked_items,
    read_entries,
    read_text_answers,
)

QUESTIONS = "questions"
GROUPS = {
    "perception": (
        *("existence", "count", "position", "color", "posters", "celebrity", "scene"),
        *("landmark", "artwork", "OCR"),
    ),
    "cognition": (
        *("commonsense_reasoning", "numerical_calculation", "text_translation"),
        "code_reasoning",
    ),
}
SUBTASKS = tuple(subtask for group in GROUPS.values() for subtask in group)
SUBTASK, PICTURE = "subtask", "picture"  # in Item.extra: of which, and which image of it
IMAGE_ENDINGS = (".jpg", ".png", ".jpeg")
QUESTION_FOLDER, IMAGE_FOLDER = "questions_answers_YN", "images"
THEIR_PROMPT = "Please answer yes or no."  # at the end of every question; LLaVA asks with its own
WINDOW = 4  # first letters of an answer that are looked at


def yes_or_no(answer: str) -> str:
    """What an answer comes to: yes, no, or other where neither is in its first four letters."""
    text = answer.lower()
    if text in ("yes", "no"):
        return text
    start = text[:WINDOW]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


class MME(ImageBenchmark):
    """See the module."""

    name = "mme"
    description = (
        "MME: yes or no about an image; acc, acc+ and scores of 14 subtasks and their sums"
    )
    files = (OfficialFile(QUESTIONS, "MME_Benchmark_release_version: the folder of the subtasks"),)
    prompt = SHORT_PROMPT

    def read(self, files: Files) -> list[Item]:
        """Raises SourceError: no subtask, a text without its image or not of two questions, an
        answer that is neither yes nor no.
        """
        folder = files[QUESTIONS]
        there = [subtask for subtask in SUBTASKS if (folder / subtask).is_dir()]
        if not there:
            raise SourceError(
                f"{folder} has no folder of a subtask ({', '.join(SUBTASKS[:3])} ...): name that of"
                " MME's release, MME_Benchmark_release_version."
            )
        items = [item for subtask in there for item in _items(folder, subtask)]
        return checked_items(items, folder)

    def read_answers(self, path: Path) -> dict[str, Record]:
        if path.is_dir():
            return _official_answers(path)
        entries = read_entries(path)
        if not entries[0].has("prompt"):
            return read_text_answers(path)
        answers: dict[str, Record] = {}
        for entry in entries:  # LLaVA's: both questions of an image have one question_id
            file = PurePosixPath(entry.text("question_id"))
            if len(file.parts) < 2:
                raise entry.error(f"question_id is {str(file)!r}; a subtask's image is expected.")
            name = _name(file.parts[0], file.stem, entry.text("prompt"))
            if name in answers:
                raise entry.error(f"answers {name!r} again; leave one.")
            answers[name] = {"text": entry.text("text")}
        return answers

    def item_score(self, item: Item, record: Record) -> float:
        text = said(record)
        return float(text is not None and yes_or_no(text) == item.references[0])

    def score(self, scored: Sequence[tuple[Item, Record]], scoring: Scoring) -> dict[str, float]:
        """Of each subtask `existence` (0 to 200), `existence_acc`, `existence_acc_plus` (percent);
        `perception`, `cognition`: sums, called `perception_of_3` where only three are there.
        """
        scores: dict[str, float] = {}
        for group, subtasks in GROUPS.items():
            sums = []
            for subtask in subtasks:
                of_it = [pair for pair in scored if pair[0].extra[SUBTASK] == subtask]
                if not of_it:
                    continue
                acc, acc_plus = self._shares(of_it)
                sums.append(100 * (acc + acc_plus))
                scores[subtask] = sums[-1]
                scores[f"{subtask}_acc"], scores[f"{subtask}_acc_plus"] = 100 * acc, 100 * acc_plus
            if sums:
                part = "" if len(sums) == len(subtasks) else f"_of_{len(sums)}"
                scores[group + part] = sum(sums)
        return scores

    def _shares(self, scored: Sequence[tuple[Item, Record]]) -> tuple[float, float]:
        """Of questions that are right, and of images with both right."""
        right: dict[str, list[float]] = {}
        for item, record in scored:
            right.setdefault(item.extra[PICTURE], []).append(self.item_score(item, record))
        questions = [one for both in right.values() for one in both]
        both_right = [sum(both) == 2 for both in right.values()]
        return sum(questions) / len(questions), sum(both_right) / len(both_right)


def _items(folder: Path, subtask: str) -> Iterator[Item]:
    """Of one subtask, by the names of its images."""
    texts, images = folder / subtask, folder / subtask
    if (texts / QUESTION_FOLDER).is_dir():
        texts, images = texts / QUESTION_FOLDER, images / IMAGE_FOLDER
    for file in sorted(texts.glob("*.txt")):
        rows = _rows(file, 2)
        if len(rows) != 2:
            raise SourceError(f"{file} has {len(rows)} questions; each image of MME has two.")
        image = next(
            (path for end in IMAGE_ENDINGS if (path := images / f"{file.stem}{end}").is_file()),
            None,
        )
        if image is None:
            raise SourceError(
                f"{images} has no image {file.stem} ({', '.join(IMAGE_ENDINGS)}) for {file.name}."
            )
        for question, answer in rows:
            if answer.lower() not in ("yes", "no"):
                raise SourceError(f"{file}: the answer {answer!r} is neither Yes nor No.")
            yield Item(
                _name(subtask, file.stem, question),
                image.relative_to(folder).as_posix(),
                _bare(question),
                (answer.lower(),),
                {SUBTASK: subtask, PICTURE: file.stem},
            )


def _official_answers(folder: Path) -> dict[str, Record]:
    """Of the evaluator's folder. Raises SourceError for none, or a question answered twice."""
    answers: dict[str, Record] = {}
    for subtask in SUBTASKS:
        file = folder / f"{subtask}.txt"
        if not file.is_file():
            continue
        for image, question, _, answer in _rows(file, 4):
            name = _name(subtask, PurePosixPath(image).stem, question)
            if name in answers:
                raise SourceError(f"{file} answers {name!r} twice; leave one.")
            answers[name] = {"text": answer}
    if not answers:
        raise SourceError(f"{folder} has no text of a subtask (existence.txt ...) with answers.")
    return answers


def _rows(file: Path, count: int) -> list[list[str]]:
    """The file's lines, so many parts each between tabs. Raises SourceError."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{file} cannot be read as text ({error}).") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        parts = [part.strip() for part in line.split("\t", count - 1)]
        if len(parts) != count:
            raise SourceError(
                f"{file} line {number} has {len(parts)} parts between tabs; {count} are expected."
            )
        rows.append(parts)
    return rows


def _bare(question: str) -> str:
    """The question without how it is to be answered."""
    for prompt in (SHORT_PROMPT, THEIR_PROMPT):
        question = question.strip().removesuffix(prompt)
    return question.strip()


def _name(subtask: str, picture: str, question: str) -> str:
    """The id: both questions of an image differ in their words alone."""
    return f"{subtask}/{picture}: {_bare(question)}"


MME_BENCHMARK = MME()
