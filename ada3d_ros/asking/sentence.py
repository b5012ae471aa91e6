"""What a measurement says in words: the part that was asked for, and the sentence around it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ada3d_ros.asking.words import COLORS, NUMBERS, color_of, plural, singular, with_article
from ada3d_ros.errors import NotGroundedError
from ada3d_ros.geometry.measure.lengths import format_length, give_or_take
from ada3d_ros.geometry.measure.metric import IN_METRES, listed
from ada3d_ros.measures import MeasureKind, Measurement, MeasureRequest

_NAMES_ONE = {
    MeasureKind.NEAREST,
    MeasureKind.LARGEST,
    MeasureKind.TALLEST,
    MeasureKind.ON,
    MeasureKind.UNDER,
    MeasureKind.BETWEEN,
}
_DIMENSIONS = {"length": 0, "width": 1, "height": 2}
_ADJECTIVES = {"length": "long", "width": "wide", "height": "high"}


def put_in_words(request: MeasureRequest, result: Measurement) -> Measurement:
    """The measurement with its word and sentence as the request wants them.

    word: the colour or the noun alone of what was found, yes or no, a number. Raises
    NotGroundedError where a colour is asked that the object's name does not say.
    """
    if request.attribute == "color":
        return _with_color(request, result)
    if request.attribute == "category" and request.kind is MeasureKind.WHERE:
        return replace(result, word=noun_of(result.boxes[0].label))
    if request.attribute == "list":
        return _as_list(request, result)
    if request.kind is MeasureKind.DIRECTION and request.category:
        word = "yes" if result.word == request.category else "no"
        return replace(result, word=word, sentence=_behind(word, result.sentence))
    if request.kind is MeasureKind.SIZE and request.attribute in _DIMENSIONS:
        return _one_dimension(request, result)
    if request.category:
        result = replace(result, sentence=_naming_none(request.category, result.sentence))
    if request.attribute == "yes_no" and not result.sentence.startswith(("Yes", "No")):
        return replace(result, sentence=_behind(result.word, result.sentence))
    if request.kind in _NAMES_ONE and request.attribute in ("", "category") and request.k == 1:
        return replace(result, word=noun_of(result.word))
    if not result.word and not result.unit and len(result.values) == 1:  # a count
        return replace(result, word=_number(int(result.values[0])))
    return result


def _naming_none(category: str, sentence: str) -> str:
    """That there is none of a category, where the sentence says that there is nothing."""
    one = singular(category)
    return sentence.replace("are none", f"are no {plural(one)}").replace(
        "is nothing", f"is no {one}"
    )


def noun_of(label: str) -> str:
    """`table` of `blue table`; a label without noun as it is."""
    words = label.split()
    return " ".join(word for word in words if word not in COLORS) or label


def _with_color(request: MeasureRequest, result: Measurement) -> Measurement:
    """The colour in the name of what was found; what found nothing stays."""
    named = result.boxes[0].label if request.kind is MeasureKind.WHERE else result.word
    if not named or named in ("nothing", "none", "floor", "no"):
        return result
    color = color_of(named)
    if not color:
        raise NotGroundedError(
            f"the colour of the {named} is not known: it is kept without one, since none was sure."
        )
    if request.kind is MeasureKind.WHERE:  # where it is was not asked
        name = request.of.phrase if request.of and noun_of(request.of.phrase) else noun_of(named)
        return Measurement(
            request.kind,
            word=color,
            sentence=f"The {name} is {color}.",
            boxes=result.boxes,
            assumptions=tuple(each for each in result.assumptions if each != IN_METRES),
        )
    return replace(result, word=color, sentence=_behind(color, result.sentence))


def _as_list(request: MeasureRequest, result: Measurement) -> Measurement:
    """What there is, each name once with its number, in the order of the boxes."""
    names = Counter(box.label for box in result.boxes)
    number = len(result.boxes)
    each = [
        with_article(name) if n == 1 else f"{_number(n)} {plural(name)}"
        for name, n in names.items()
    ]
    if each:
        sentence = f"There {'is' if number == 1 else 'are'} {number}: {listed(each)}."
    else:
        what = plural(singular(request.category)) if request.category else "objects"
        sentence = f"There are no {what}."
    return replace(result, word=_number(number), sentence=sentence)


def _number(count: int) -> str:
    return NUMBERS[count] if count < len(NUMBERS) else str(count)


def _one_dimension(request: MeasureRequest, result: Measurement) -> Measurement:
    """One of length, width and height."""
    at, unit = _DIMENSIONS[request.attribute], request.unit
    value, plus_minus = result.values[at], result.uncertainty[at]
    label = result.boxes[0].label.removeprefix("the ") if result.boxes else "thing"
    sentence = (
        f"The {label} is {format_length(value, unit)}{give_or_take(plus_minus, unit)}"
        f" {_ADJECTIVES[request.attribute]}."
    )
    return replace(result, values=(value,), uncertainty=(plus_minus,), sentence=sentence)


def _behind(word: str, sentence: str) -> str:
    """`Red: nearest to the sofa is ...`"""
    if not sentence:
        return word.capitalize() + "."
    return f"{word.capitalize()}: {sentence[0].lower()}{sentence[1:]}"
