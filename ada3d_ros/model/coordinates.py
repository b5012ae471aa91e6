"""Places in a question: numbers in brackets, as people, other tools and this node write them.

A place is [x, y, z], or a box whose centre is meant: three more numbers for its size, and one or
three angles. Square brackets hold nothing else. In other brackets ordinary text may stand; what
reads like a place there is one, or is refused, never passed over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from ada3d_ros.errors import InvalidRequestError

Point = tuple[float, float, float]  # metres, world frame

MAX_COORDINATE_M = 1e6  # a larger click would overflow 16-bit arithmetic
LENGTHS = (3, 6, 7, 9)  # numbers of a point; with a size; with yaw; with three angles
OPENING, CLOSING = "[({<［（｛＜〈⟨【〔", "])}>］）｝＞〉⟩】〕"

# Metres of each unit; NaN for those that are named only to be refused.
_PREFIXES = {"milli": 1e-3, "centi": 1e-2, "deci": 0.1, "": 1.0, "kilo": 1e3}
_METRES = ("meter", "metre", "meters", "metres")
_UNITS = {"mm": 1e-3, "cm": 1e-2, "dm": 0.1, "m": 1.0, "km": 1e3}
_UNITS |= {prefix + word: factor for prefix, factor in _PREFIXES.items() for word in _METRES}
_UNITS |= dict.fromkeys(("ft", "feet", "inch", "inches"), math.nan)
_UNIT = "(?:" + "|".join(sorted(_UNITS, key=len, reverse=True)) + ")"
_BEFORE = r"(?:[mcdk]m|ft|(?:milli|centi|deci|kilo)met(?:er|re)s?)"  # no word of other meanings
_BEHIND = rf"(?:\s*(?:in\s+)?({_UNIT})|\s*\(\s*(?:in\s+)?({_UNIT})\s*\))(?![\w/²³])"
_GROUP = re.compile(
    rf"(?:(?<![0-9]\s)(?<![\w.])({_BEFORE})\s{{0,3}}[:=]?\s{{0,3}})?"  # "in cm [100, 20, 30]"
    rf"([{re.escape(OPENING)}])([^{re.escape(OPENING + CLOSING)}]*)([{re.escape(CLOSING)}])"
    rf"(?:{_BEHIND})?",
    re.IGNORECASE,
)
_NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?"
_PART = re.compile(rf"({_NUMBER})\s*({_UNIT})?", re.IGNORECASE)
# What is written for a number, whether or not it can be read as one.
_NUMBERLIKE = re.compile(
    rf"(?:[xyz]=)?(?:[+-]?(?:0[xob][0-9a-f]+|[0-9.][0-9._'’/]*(?:e[+-]?[0-9]+)?|nan|inf(?:inity)?))"
    rf"{_UNIT}?",
    re.IGNORECASE,
)
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+(?:,[0-9]+)?")

# Full-width characters, commas of other scripts, and dashes in front of a number.
_ASCII = {0xFF01 + i: 0x21 + i for i in range(94)} | dict.fromkeys(map(ord, "、،"), ",")
_ASCII |= {0x3000: " "} | dict.fromkeys(map(ord, "‐‑‒–−﹣－"), "-")


def replace_places(text: str, replaced: Callable[[Point], str]) -> str:
    """The text with what `replaced` returns in place of every bracket that is a place; a unit
    behind it goes with it. Raises InvalidRequestError for what reads like a place and is none.
    """

    def replace(match: re.Match[str]) -> str:
        # Ordinary text in brackets, or the size of a box as this node prints it after its centre.
        unit, opening, inside, closing = match.group(1, 2, 3, 4)
        content = re.sub(r"([+-])\s+(?=[0-9.])", r"\1", inside.translate(_ASCII).strip())
        if opening != "[" and not _reads_like_a_place(content):
            return match[0]
        if opening != "[" and text[: match.start(2)].rstrip().casefold().endswith("size"):
            return match[0]

        # A place, in brackets of one kind.
        group = opening + inside + closing
        if OPENING.index(opening) != CLOSING.index(closing):
            raise _error(group, "two kinds of brackets")
        point = _parse(group, content, match[5] or match[6] or unit)
        return match[0][: match.start(2) - match.start()] + replaced(point)

    return _GROUP.sub(replace, text)


def _reads_like_a_place(content: str) -> bool:
    """Whether it holds numbers alone, as many as a place has or written as measurements are."""
    joined = re.sub(r"(?<![a-z])([xyz])\s*[=:]\s*", r"\1=", content, flags=re.IGNORECASE)
    words = re.split(r"\s*[,;]\s*|\s+", joined)
    numbers = [word for word in words if word and word.casefold() not in _UNITS]
    if len(numbers) < 2 or not all(map(_NUMBERLIKE.fullmatch, numbers)):
        return False
    listed = len(numbers) in LENGTHS and ("," in content or ";" in content)
    return listed or any(not number.isdecimal() for number in numbers)


def _parse(group: str, content: str, unit: str | None) -> Point:
    """The point that a bracket's content names: its first three numbers, in metres."""
    # Numbers with commas between them that can be read in one way only.
    found = [_PART.fullmatch(part.strip()) for part in content.split(",")]
    parts = [part for part in found if part is not None]
    decimal = _with_decimal_commas(content)
    if len(parts) != len(found) or len(parts) not in LENGTHS or decimal in LENGTHS:
        raise _error(group, "decimal commas are ambiguous" if decimal else "")

    # In metres: of one unit behind all, or of each one's own.
    factors = [_UNITS[(part[2] or unit or "m").casefold()] for part in parts]
    if len(set(factors)) > 1 and not all(part[2] for part in parts):
        raise _error(group, "a unit behind some of the numbers only")
    numbers = [float(part[1]) * factor for part, factor in zip(parts, factors, strict=True)]
    if any(map(math.isnan, factors)):
        raise _error(group, "not in metres")
    if not all(abs(number) <= MAX_COORDINATE_M for number in numbers):
        raise _error(group, "too far away")
    x, y, z = (round(number, 3) for number in numbers[:3])
    return x, y, z


def _with_decimal_commas(content: str) -> int:
    """How many numbers it is where a comma between digits is the decimal one; 0 where none is."""
    numbers = re.split(r"[;\s]+|,\s+", content)
    if len(numbers) < 2 or not all(map(_DECIMAL_COMMA.fullmatch, numbers)):
        return 0
    return len(numbers) if any("," in number for number in numbers) else 0


def _error(group: str, why: str) -> InvalidRequestError:
    cure = "use round brackets for text" if group[0] == "[" else "for text leave the brackets out"
    return InvalidRequestError(
        f"{group} is not a coordinate{f' ({why})' if why else ''}: write [x, y, z]. Brackets hold 3"
        " numbers (a point), 6 (centre, size), 7 (centre, size, yaw) or 9 (centre, size, angles) in"
        f" metres, within +-{MAX_COORDINATE_M:g}, with commas between them and a decimal point in"
        f" them; {cure}."
    )
