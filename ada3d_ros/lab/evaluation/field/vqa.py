"""VQAv2: short answers about an image, each question answered by ten people.

Read are the official files: the questions (question_id, image_id, question) and the annotations
(question_id, answers, answer_type), and LLaVA's lines of questions (question_id, image, text).
Scored as the official evaluator at its last state (GT-Vision-Lab/VQA, "Fixed processing answers
bug"): an answer that at least three others gave is right, averaged over leaving out each of the
ten; in percent. Both sides are normalised, only where the ten disagree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.evaluation.field.benchmark import Files, Item, OfficialFile, Record, Scoring
from ada3d_ros.lab.evaluation.field.images import SHORT_PROMPT, ImageBenchmark, said
from ada3d_ros.lab.evaluation.field.json_files import (
    Entry,
    by_id,
    checked_items,
    name_some,
    read_entries,
    read_json,
)

QUESTIONS, ANNOTATIONS = "questions", "annotations"
ENOUGH = 3  # people with the same answer
TYPE = "answer_type"  # in Item.extra and the annotations: yes/no, number, other

# -- the official normalisation

_REMOVED = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
MAX_PERIODS = 32  # their re.sub is given a flag where the count of replacements stands
_NUMBERS = "zero one two three four five six seven eight nine ten"
_DIGITS = {word: str(value) for value, word in enumerate(_NUMBERS.split())} | {"none": "0"}
_ARTICLES = ("a", "an", "the")
# Words whose apostrophe is given back; of those with several, where exactly one is missing.
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's they'd
they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_RESTORED = {
    word[:at] + word[at + 1 :]: word
    for word in _CONTRACTIONS.split()
    for at, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # theirs


def normalised(text: str) -> str:
    """The text that answers are compared in: no marks, numbers as digits, no articles."""
    # A mark beside a blank, or beside a number with a comma in it, vanishes; else it is a blank.
    found = text
    joined = bool(_COMMA_IN_NUMBER.search(text))
    for mark in _REMOVED:
        beside = f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if beside or joined else " ")
    found = _PERIOD.sub("", found, count=MAX_PERIODS)

    words = [_DIGITS.get(word, word) for word in found.lower().split()]
    return " ".join(_RESTORED.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """How right the answer is, 0..1: the mean over all people of min(n / 3, 1), where n of the
    others gave it.
    """
    answer, known = _one_line(answer), [_one_line(text) for text in references]
    if len(set(known)) > 1:
        answer, known = normalised(answer), [normalised(text) for text in known]
    same = [text == answer for text in known]
    total = sum(same)
    return sum(min((total - one) / ENOUGH, 1.0) for one in same) / len(same)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


# -- the benchmark


class VQA(ImageBenchmark):
    """See the module."""

    name = "vqa"
    description = "VQAv2: short answers about an image; accuracy in percent, by type of answer"
    files = (
        OfficialFile(QUESTIONS, "v2_OpenEnded_mscoco_..._questions.json, or LLaVA's lines"),
        OfficialFile(ANNOTATIONS, "v2_mscoco_..._annotations.json: what ten people answered"),
    )
    prompt = SHORT_PROMPT

    def read(self, files: Files) -> list[Item]:
        path, annotations = files[QUESTIONS], files[ANNOTATIONS]
        entries = read_entries(path, QUESTIONS)
        known = by_id(read_entries(annotations, ANNOTATIONS), "question_id")
        wanted = [entry.text("question_id") for entry in entries]
        missing = [name for name in wanted if name not in known]
        if missing:
            raise SourceError(
                f"{annotations} has no answers to {len(missing)} of {len(wanted)} questions:"
                f" {name_some(missing)}. Name the annotations of the same split; those of test2015"
                " are not public."
            )
        subset = _subset(path)
        items = [
            Item(
                name,
                _image_file(entry, subset),
                entry.text("question", "text").removesuffix(f"\n{SHORT_PROMPT}"),
                _answers(known[name]),
                {TYPE: known[name].text(TYPE) if known[name].has(TYPE) else ""},
            )
            for name, entry in zip(wanted, entries, strict=True)
        ]
        return checked_items(items, path)

    def item_score(self, item: Item, record: Record) -> float:
        text = said(record)
        return 0.0 if text is None else vqa_accuracy(text, item.references)

    def score(self, scored: Sequence[tuple[Item, Record]], scoring: Scoring) -> dict[str, float]:
        """`accuracy`, and `accuracy_number` ... by type of answer, in percent."""
        values = [
            (item.extra[TYPE], 100 * self.item_score(item, record)) for item, record in scored
        ]
        scores = {"accuracy": _mean([value for _, value in values])}
        for kind in sorted({kind for kind, _ in values} - {""}):
            scores[f"accuracy_{kind}"] = _mean([value for its, value in values if its == kind])
        return scores


def _answers(entry: Entry) -> tuple[str, ...]:
    """What people answered. Raises SourceError for fewer than two: each is held against others."""
    people = entry.value("answers")
    if not isinstance(people, list) or len(people) < 2:
        raise entry.error("'answers' should be a list of what ten people answered.")
    return tuple(
        Entry(entry.path, entry.number, _object(entry, one)).text("answer") for one in people
    )


def _object(entry: Entry, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise entry.error(f"'answers' holds {value!r}; objects with 'answer' are expected.")
    return value


def _subset(path: Path) -> str:
    """COCO's name of the images ("val2014"), as an official file says it; "" in lines."""
    try:
        whole = read_json(path)
    except SourceError:  # lines
        return ""
    return str(whole.get("data_subtype", "")) if isinstance(whole, dict) else ""


def _image_file(entry: Entry, subset: str) -> str:
    """The image's file. Raises SourceError where nothing says it."""
    if entry.has("image"):
        return entry.text("image")
    number = entry.text("image_id")
    if not subset or not number.isdigit():
        raise entry.error(
            "does not say which file its image is: it has no 'image', and the file no"
            " 'data_subtype' (val2014) by which COCO's files are named."
        )
    return f"COCO_{subset}_{int(number):012d}.jpg"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


VQA_V2 = VQA()
