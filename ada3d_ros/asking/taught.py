"""What a question says in the words that a model was taught it in, and what may answer it.

A model of a short list of kinds has learnt them from a few wordings each (lab/world/questions.py);
in others it may say anything, and be sure of it. So what the grammar has read is what it is asked.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ada3d_ros.asking.words import COLORS, GENERIC, NUMBERS, canonical, plural, with_article
from ada3d_ros.measures import MeasureKind, MeasureRequest, Reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ada3d_ros.asking.grammar import ReadQuestion

KIND_PROMPT = "What is at {place}?"
CAPTION_PROMPT = "The related object is located at {place}. Describe the object in detail."
SIDES = {"left": "on my left", "right": "on my right", "behind": "behind me"}
ANY_SIDE = "on my left, on my right or behind me"

YES_NO, COLOR, NUMBER, SIDE, NAME = "yes or no", "colour", "number", "side", "name of a thing"
_WORDS = {
    YES_NO: frozenset(("yes", "no")),
    COLOR: COLORS,
    NUMBER: frozenset(NUMBERS),
    SIDE: frozenset((*SIDES, "front")),
}
_NO_THING = frozenset(("nothing", "none", "floor"))  # what is on, under, between, where no thing is


def place_text(point_m: Sequence[float]) -> str:
    """`[1.000, 2.000, 0.500]`, as places stood in what models were taught."""
    return "[" + ", ".join(f"{at:.3f}" for at in point_m) + "]"


def existence_question(name: str) -> str:
    return f"Is there {with_article(name)}?"


def taught_question(read: ReadQuestion, words: frozenset[str]) -> str:
    """What was read, as a model was taught to answer it; '' for a form that none was taught.

    words: that the model's names are of; others are given by their synonyms. What is described by
    its name has to be found first: the place stands there as its name.
    """
    if read.request is not None:
        return _of_request(read.request, words)
    if len(read.things) != 1 or read.things[0].robot:
        return ""
    (thing,) = read.things
    if thing.point_m is not None:
        # What colour something has is told by its description alone.
        form = KIND_PROMPT if read.kind == "category" else CAPTION_PROMPT
        return form.format(place=place_text(thing.point_m))
    name = taught_name(thing, words)
    if read.kind == "caption":
        return CAPTION_PROMPT.format(place=f"the {name}")
    return f"What is the {name}?" if read.kind == "category" else f"What color is the {name}?"


def taught_name(thing: Reference, words: frozenset[str]) -> str:
    """`red table` of "the red desk", `largest table`, `red object` of "the red one"."""
    return ("largest " if thing.largest else "") + _known_words(thing.phrase, words)


def _known_words(name: str, words: frozenset[str]) -> str:
    """A name in words that the model knows; a colour alone is one of an object."""
    known = [_known_word(word, words) for word in name.casefold().split()]
    return " ".join([*known, "object"] if known and set(known) <= COLORS else known)


def _known_word(word: str, words: frozenset[str]) -> str:
    if word in GENERIC:
        return "object"
    return word if word in words else canonical(word) or word


def _of_request(request: MeasureRequest, words: frozenset[str]) -> str:
    """The same of what could be measured."""
    group = _known_words(request.category, words)
    many = plural(group or "object")
    to, third, of = (
        "" if thing is None else taught_name(thing, words)
        for thing in (request.to, request.third, request.of)
    )
    is_named = not any(
        thing is not None and not thing.phrase for thing in (request.to, request.third, request.of)
    )
    if not is_named:  # places and the robot stood in no such question
        return ""
    match request.kind, request.attribute:
        case MeasureKind.EXISTS, _ if group:
            return existence_question(group)
        case MeasureKind.COUNT, "" if to:
            return f"How many {many} are within {round(request.radius_m, 2):g} m of the {to}?"
        case MeasureKind.COUNT, "":
            return f"How many {many} are there?"
        case MeasureKind.NEAREST, "" if not group and request.k == 1:
            return f"What is nearest to the {to}?"
        case MeasureKind.NEAREST, "color" if not group and request.k == 1:
            return f"What color is the object nearest to the {to}?"
        case MeasureKind.LARGEST, "color" if not group:
            return "What color is the largest object?"
        case MeasureKind.TALLEST, "" if not group:
            return "What is the tallest object?"
        case MeasureKind.DIRECTION, "" | "yes_no" if to and third:
            side = SIDES.get(request.category, "") if request.attribute else ANY_SIDE
            start = f"I am standing at the {to} and facing the {third}."
            return f"{start} Is the {of} {side}?" if side else ""
        case MeasureKind.ON, "" if not group and not of:
            return f"What is on the {to}?"
        case MeasureKind.ON, "yes_no" if of:
            return f"Is the {of} on the {to}?"
        case MeasureKind.UNDER, "" if not group and not of:
            return f"What is under the {to}?"
        case MeasureKind.UNDER, "yes_no" if of:
            return f"Is the {to} on the {of}?"
        case MeasureKind.BETWEEN, "" if not group and not of:
            return f"What is between the {to} and the {third}?"
    return ""


# -- what it says


def answer_sort(read: ReadQuestion) -> str:
    """What an answer has to hold: YES_NO, COLOR, NUMBER, SIDE or NAME."""
    request = read.request
    attribute = "" if request is None else request.attribute
    if attribute == "color" or read.kind in ("color", "multihop"):
        return COLOR
    if attribute == "yes_no" or read.kind in ("existence", "side"):
        return YES_NO
    if read.kind in ("count", "within"):
        return NUMBER
    return SIDE if read.kind == "relation" else NAME


def is_of_sort(text: str, sort: str, words: frozenset[str]) -> bool:
    """Whether a model's text can be an answer of this sort. words: that its names are of; where
    there are none, what is no answer of another sort may be a name.
    """
    said = re.findall(r"\w+", text.casefold())
    if sort == NUMBER:
        return any(word.isdecimal() or word in _WORDS[NUMBER] for word in said)
    if sort != NAME:
        return any(word in _WORDS[sort] for word in said)
    known = (words | _NO_THING) - COLORS
    others = frozenset[str]().union(*_WORDS.values())
    return any(word in known if words else word not in others for word in said)
