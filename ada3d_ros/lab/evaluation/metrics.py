"""How ScanQA, SQA3D and ScanRefer are scored, as LLaVA-3D's scripts and ScanRefer count.

Answer cleaning, exact match, accuracy at an IoU; VSI-Bench's accuracy of numbers. Rules of
reference/llava3d.md 5.3 with the oddities that published numbers have: "1.5" becomes "fifteen";
letters outside a-z vanish; an empty prediction is contained in every reference, so its refined
match is 1, unless `quirks` is off. The scores by words (BLEU, CIDEr ...) are in text_scores.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

IOU_PERCENT = (25, 50)
MRA_PERCENT = range(50, 100, 5)
SQA3D_TYPES = 6  # what, is, how, can, which, others
_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen", "twenty"),
)
_WORDS = {  # whole words only
    "letf": "left",
    "let": "left",
    "tehre": "there",
    "rigth": "right",
    "rght": "right",
    "behine": "behind",
    "tv": "TV",
    "chai": "chair",
    "wasing": "washing",
    "waslked": "walked",
    "oclock": "o'clock",
    "none": "zero",
    "23": "twenty-three",
    **{str(value): word for value, word in enumerate(_NUMBERS)},
}
_WORD = re.compile(r"\b(" + "|".join(sorted(_WORDS, key=len, reverse=True)) + r")\b")


def clean_answer(text: str) -> str:
    """The text that answers are compared in.

    Lower case but `TV`, few marks, numbers as words, known misspellings mended, no articles.
    """
    # Lower case, no blanks around it (nor before a final newline), single ones inside, no marks.
    text = re.sub(" +$", "", text.lower()).lstrip(" ")
    text = re.sub(" {2,}", " ", text)
    text = re.sub(r"\.[ ]{2,}", ". ", text)
    text = re.sub(r"[^a-zA-Z0-9,'\s\-:]+", "", text)

    # Word by word: numbers, misspellings, a letter's trailing digit.
    text = _WORD.sub(lambda match: _WORDS[match[1]], text)
    text = re.sub(r"\bo' +clock\b", "o'clock", text)
    text = re.sub(r"\b([a-zA-Z]+)[0-9]\b", r"\1", text)

    # No articles.
    for article in ("a", "an", "the"):
        text = re.sub(rf"\b{article} ([a-zA-Z]+)", r"\1", text)
    return re.sub(r"\bbackwards\b", "backward", text)


def exact_match(
    prediction: str, references: Sequence[str], quirks: bool = True
) -> tuple[bool, bool]:
    """Of the cleaned texts: whether one reference is equal, and whether the refined match holds.

    The refined match also takes one text within the other, blanks aside. quirks: also where one of
    them is empty, as the reference's evaluators do.
    """
    cleaned, known = clean_answer(prediction), [clean_answer(text) for text in references]
    if cleaned in known:
        return True, True
    joined, others = "".join(cleaned.split()), ["".join(reference.split()) for reference in known]
    return False, any(
        (joined in other or other in joined) and (quirks or bool(joined and other))
        for other in others
    )


def scanqa_scores(
    predictions: Sequence[str], references: Sequence[Sequence[str]], quirks: bool = True
) -> dict[str, float]:
    """`EM1` and `EM1_refined` as fractions over all questions; NaN without any.

    quirks: as in exact_match. Raises ValueError for lists of other lengths.
    """
    matches = [exact_match(p, r, quirks) for p, r in zip(predictions, references, strict=True)]
    return {
        "EM1": _mean([float(m[0]) for m in matches]),
        "EM1_refined": _mean([float(m[1]) for m in matches]),
    }


def sqa3d_scores(
    predictions: Sequence[str],
    references: Sequence[str],
    types: Sequence[int],
    quirks: bool = True,
) -> dict[str, float]:
    """As ScanQA with one reference each, and `EM_type0` to `EM_refined_type5` by type.

    types: of the questions, 0..5. quirks: as in exact_match, and a type's number is divided by
    count + 1e-10, so that one without questions has 0 (else NaN). Raises ValueError for lists of
    other lengths.
    """
    scores = scanqa_scores(predictions, [[reference] for reference in references], quirks)
    matches = [exact_match(p, [r], quirks) for p, r in zip(predictions, references, strict=True)]
    for kind in range(SQA3D_TYPES):
        of_kind = [match for match, its in zip(matches, types, strict=True) if its == kind]
        for name, each in (("EM_type", 0), ("EM_refined_type", 1)):
            right = [float(match[each]) for match in of_kind]
            mean = sum(right) / (len(right) + 1e-10) if quirks else _mean(right)
            scores[f"{name}{kind}"] = mean
    return scores


def is_found(iou: float, percent: int) -> bool:
    """ScanRefer's Acc@percent: an IoU (0..1) of at least that."""
    return iou >= percent / 100


def scanrefer_scores(ious: Sequence[float], unique: Sequence[bool]) -> dict[str, float]:
    """`overall_acc25`, `unique_acc50`, `multiple_acc25` ...: share of boxes that reach the IoU.

    ious: of the best-scored box with the target, 0 without a box; unique: the target is alone of
    its category. NaN without any. Raises ValueError for lists of other lengths.
    """
    groups = {
        "overall": list(ious),
        "unique": [iou for iou, alone in zip(ious, unique, strict=True) if alone],
        "multiple": [iou for iou, alone in zip(ious, unique, strict=True) if not alone],
    }
    return {
        f"{name}_acc{percent}": _mean([float(is_found(iou, percent)) for iou in values])
        for name, values in groups.items()
        for percent in IOU_PERCENT
    }


def mean_relative_accuracy(measured: float, true: float) -> float:
    """VSI-Bench's MRA of one number, 0..1: the share of the levels .5, .55, ... .95 that its
    relative error keeps, |measured - true| / |true| < 1 - level.
    """
    relative = abs(measured - true) / abs(true)
    return sum(relative < 1.0 - level / 100 for level in MRA_PERCENT) / len(MRA_PERCENT)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
