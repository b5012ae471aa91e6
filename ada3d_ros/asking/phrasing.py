"""A question as a short string of marks: closed words as they are, and one mark for each thing.

`How far is the red chair from [1, 2, 0]?` becomes `how far be d0 from d1`. Marks of things: d with
the, this, my; a with a, any, some; n without any. `q` words (it, there) refer to something said
before. LEN marks are lengths, UNIT marks units without a number.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ada3d_ros.asking.cues import CUES, SIDES
from ada3d_ros.asking.frames import frame_words
from ada3d_ros.asking.lexicon import (
    CLOSED,
    CONTRACTIONS,
    POLITE,
    ROOM,
    UNIT_WORDS,
    rewritten,
    word_set,
)
from ada3d_ros.asking.spelling import mended
from ada3d_ros.asking.turns import TURNS
from ada3d_ros.asking.words import COLORS, GENERIC, NOUNS, NUMBERS, UNCOUNTED, singular
from ada3d_ros.measures import Reference
from ada3d_ros.model.coordinates import Point, replace_places

UNITS_M = {"mm": 0.001, "cm": 0.01, "dm": 0.1, "m": 1.0, "km": 1000.0, "in": 0.0254, "ft": 0.3048}
UNITS_M |= {"yd": 0.9144, "mile": 1609.344}
_NUMBER_WORDS = {word: float(i) for i, word in enumerate(NUMBERS)}
_NUMBER_WORDS |= {"a": 1.0, "an": 1.0, "half a": 0.5, "half an": 0.5, "a half": 0.5, "half": 0.5}
_NUMBER_WORDS |= {"one and a half": 1.5, "two and a half": 2.5, "a couple of": 2.0, "fifteen": 15.0}
_NUMBER_WORDS |= {"twenty": 20.0, "thirty": 30.0, "forty": 40.0, "fifty": 50.0, "sixty": 60.0}
_NUMBER_WORDS |= {"seventy": 70.0, "eighty": 80.0, "ninety": 90.0, "hundred": 100.0}
_NUMBER_WORDS |= {"a hundred": 100.0, "one hundred": 100.0, "three quarters of a": 0.75}
_NUMBER_WORDS |= {"a quarter of a": 0.25, "a thousand": 1000.0, "one thousand": 1000.0}
_NUMBER_WORDS |= {
    f"{word} {times}": value * factor
    for word, value in tuple(_NUMBER_WORDS.items())
    for times, factor in (("hundred", 100.0), ("thousand", 1000.0))
}
_NUMBER = "|".join(sorted(_NUMBER_WORDS, key=len, reverse=True))
_ANY_UNIT = "|".join(UNIT_WORDS.values())
_UNIT = "|".join(f"(?P<{name}>{words})" for name, words in UNIT_WORDS.items())
_LENGTH = re.compile(
    rf"(?<![\w.])(-?\d+(?:[.,]\d+)?|(?:{_NUMBER})(?=[ -]))[ -]?(?:{_UNIT})(?![\w])"
)
_AND_A_HALF = re.compile(rf"\b(?:an?|one|1) ({_ANY_UNIT}) and a half\b")
_ASKED_UNIT = re.compile(
    rf"(?:[,(]?\s*\b(?:in|as|using)\s+|\b(how many)\s+)(?:{_UNIT})(?![\w])\)?(?! (?:of|radius))"
)

_DETERMINERS = {
    "the": "d", "that": "d", "this": "d", "these": "d", "those": "d",
    "your": "d", "my": "d", "our": "d",
    "a": "a", "an": "a", "one": "a", "any": "a", "some": "a",
    "all": "n", "every": "n",
}  # fmt: skip
_POINTING = ("that", "this", "these", "those")  # determiners before a noun
_ROBOT = ("robot", "me", "you", "camera")
_SEPARATORS = re.compile(r"[,;:!?()\"“”„«»…]|(?<!\d)\.|\.(?!\d)|\s[-–—]+\s")
_CENTERS = re.compile(
    r"\b(?:the )?(?:cent(?:er|re)s?(?: points?)?|midpoints?) of |\bposs cent(?:er|re)s?\b"
    r"|\bcent(?:er|re)[- ]to[- ]cent(?:er|re)\b|\bcent(?:er|re)s? (?=distance\b)"
    r"|\b(?:measured )?between (?:the |their )?cent(?:er|re)s$"
)
_ING_NOUNS = word_set("""
    anything bedding building ceiling changing conditioning cooking cutting dining drinking earring
    everything flying folding frying gaming ironing king lighting living painting parking railing
    ring rocking sewing shelving something spring string swing thing washing wing writing
""")
MAX_DIGITS = 6  # of a number of things
MAX_WORDS = 5  # of a name
_MARK = re.compile(r"(?:PLACE|LEN|UNIT)\d+")


@dataclass(frozen=True, slots=True)
class Thing:
    """One name in a question: its words without article, the last in the singular.

    number: as written before it ("three objects"), 0 without, -1 for "0 objects".
    referring: it, there, them.
    """

    words: str = ""
    is_plural: bool = False
    number: int = 0
    point_m: Point | None = None
    is_robot: bool = False
    referring: str = ""
    article: str = ""
    label: str = ""

    @property
    def category(self) -> str:
        """As MeasureRequest.category has it: `red object`, and '' for any object."""
        *modifiers, noun = self.words.split() or [""]
        if noun not in GENERIC:
            return self.words
        return " ".join([*modifiers, "object"]) if modifiers else ""

    @property
    def color(self) -> str:
        """The colour, where it names an object by that alone; else ''."""
        *modifiers, noun = self.words.split() or [""]
        if noun in COLORS and not modifiers:
            return noun
        return modifiers[0] if noun in GENERIC and modifiers and modifiers[0] in COLORS else ""

    def reference(self, largest: bool = False) -> Reference:
        """As a request names it."""
        if self.is_robot:
            return Reference(robot=True, label=self.label)
        if self.point_m is not None:
            return Reference(point_m=self.point_m, label=self.label)
        return Reference(phrase=self.words, label=self.label, largest=largest)


@dataclass(frozen=True, slots=True)
class Phrasing:
    """The marks of a question, and what they stand for: things by number, lengths (metres, unit).

    unit: that was asked for, '' = none; centers: distances between centres.
    """

    marks: str
    things: tuple[Thing, ...]
    lengths: tuple[tuple[float, str], ...]
    unit: str = ""
    centers: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """The words of a question in small letters, without punctuation: PLACE0, LEN0 in the place of
    places (metres, world frame) and lengths (metres, unit). unit: that was asked for, '' = none.
    """

    words: str
    points: tuple[Point, ...]
    lengths: tuple[tuple[float, str], ...]
    unit: str = ""


def measured(text: str) -> Measured:
    """Take places, lengths and units out of a question, before their numbers are taken for
    anything else. Raises InvalidRequestError for brackets that are no place.
    """
    points: list[Point] = []

    def placed(point: Point) -> str:
        points.append(point)
        return f" PLACE{len(points) - 1} "

    words = replace_places(
        unicodedata.normalize("NFKC", text).replace("PLACE", "place"), placed
    ).replace("’", "'")
    words = re.sub(r"(?!PLACE)\b\w+", lambda m: m[0].casefold(), words)
    words = rewritten(words, CONTRACTIONS)

    lengths: list[tuple[float, str]] = []

    def length(match: re.Match[str]) -> str:
        unit = next(name for name, found in match.groupdict().items() if found)
        number = match[1].replace(",", ".")
        value = _NUMBER_WORDS[number] if number in _NUMBER_WORDS else float(number)
        lengths.append((value * UNITS_M[unit], unit))
        return f" LEN{len(lengths) - 1} "

    asked: list[str] = []

    def asked_unit(match: re.Match[str]) -> str:
        asked.append(next(name for name, found in match.groupdict().items() if found))
        return " how many UNIT0 " if match[1] else " "

    words = _LENGTH.sub(length, _AND_A_HALF.sub(r"1.5 \1", words))
    words = _ASKED_UNIT.sub(asked_unit, words)
    words = " ".join(_SEPARATORS.sub(" ", re.sub(r",\s*right\s*\?*$", "", words)).split())
    return Measured(words, tuple(points), tuple(lengths), asked[0] if asked else "")


def phrase(text: str) -> Phrasing:
    """Read the words of a question. Raises InvalidRequestError for brackets that are no place."""
    taken = measured(text)

    # One word for each thing that can be said in several.
    words = " ".join(mended(word) for word in taken.words.split())
    words, centers = _CENTERS.subn(" ", words)
    for rules in (POLITE, POLITE, ROOM, TURNS, SIDES, CUES):
        words = rewritten(words, rules)

    marks, things = _mark_things(words.split(), taken.points)
    marks, things = _with_colors_behind(marks, things)
    return Phrasing(marks, things, taken.lengths, taken.unit, bool(centers))


def _mark_things(words: list[str], points: Sequence[Point]) -> tuple[str, tuple[Thing, ...]]:
    """Runs of words that are in no table become marks; determiners go with them, or go."""
    marks: list[str] = []
    things: list[Thing] = []
    article, number, run = "", 0, list[str]()

    def end_run() -> None:
        nonlocal article, number
        if run:
            thing = named(run, number, article)
            mark = _DETERMINERS.get(article, "n")
            marks.append(f"{mark}{len(things)}")
            things.append(thing)
        elif number:
            marks.append(f"NUM{number}")
        run.clear()
        article, number = "", 0

    for i, word in enumerate(words):
        follows = words[i + 1] if i + 1 < len(words) else ""
        if _MARK.fullmatch(word) or word in _ROBOT or word.startswith(("SIDE", "FACE", "FREE")):
            end_run()
            if word.startswith("PLACE"):
                point = points[int(word[5:])]
                label = "[" + ", ".join(f"{c:g}" for c in point) + "]"
                things.append(Thing(point_m=point, label=label))
                marks.append(f"p{len(things) - 1}")
            elif word in _ROBOT:
                things.append(Thing(is_robot=True, label="the robot"))
                marks.append(f"r{len(things) - 1}")
            else:
                marks.append(word)
        elif word in _DETERMINERS and (word not in _POINTING or (not run and _is_open(follows))):
            end_run()
            article = word
        elif word in NUMBERS[2:] or is_number(word):
            end_run() if run else None
            number = NUMBERS.index(word) if word in NUMBERS else int(word) or -1
        elif not _is_open(word):
            end_run()
            marks.append(word)
        else:
            run.append(word)
    end_run()
    return " ".join(marks), tuple(things)


def is_number(word: str) -> bool:
    """Whether it is a whole number that may be meant."""
    return word.isdecimal() and len(word) <= MAX_DIGITS


def _is_open(word: str) -> bool:
    """Whether it can be part of a name."""
    return bool(word) and word not in CLOSED and word not in frame_words()


def _with_colors_behind(marks: str, things: tuple[Thing, ...]) -> tuple[str, tuple[Thing, ...]]:
    """`objects that are red` as `red objects`."""
    found = re.search(r"([dna])(\d+) that be n(\d+)", marks)
    found = found or re.fullmatch(r"how many (?:of )?([dna])(\d+) be n(\d+)", marks)
    if found is None or things[int(found[3])].words not in COLORS:
        return marks, things
    number, color = int(found[2]), things[int(found[3])].words
    colored = replace(things[number], words=f"{color} {things[number].words}")
    changed = (*things[:number], colored, *things[number + 1 :])
    return marks.replace(f" that be n{found[3]}", "").replace(f" be n{found[3]}", " be"), changed


def named(run: list[str], number: int, article: str) -> Thing:
    """The thing that a run of words names, with the number and the article before it."""
    *modifiers, noun = run
    one = singular(noun)
    words = " ".join([*modifiers, one])
    label = " ".join(([article] if article else []) + run)
    return Thing(words, one != noun, number, article=article, label=label)


def is_a_name(thing: Thing) -> bool:
    """Whether the words can name a thing: few, no participle of a verb among them, and no word for
    any object behind another noun ("is a chair furniture").
    """
    words = thing.words.split()
    if len(words) > 1 and words[-1] in GENERIC:
        uncounted = words[-1] in UNCOUNTED and thing.article in ("a", "an")
        if uncounted or singular(words[-2]) in NOUNS:
            return False
    adjective_last = len(words) > 1 and words[-1] in COLORS  # "is the color of the table red"
    participle = any(word.endswith("ing") and word not in _ING_NOUNS for word in words)
    return len(words) <= MAX_WORDS and not adjective_last and not participle
