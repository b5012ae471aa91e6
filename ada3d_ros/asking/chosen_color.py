"""Whether a thing has a colour, or which of several: read as what its colour is, then compared.

`Is the cabinet black?` is answered as `What color is the cabinet?`, by whom and from what that is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ada3d_ros.asking.sentence import noun_of
from ada3d_ros.asking.words import COLORS, canonical, color_of, singular
from ada3d_ros.types import Answer, StopReason

if TYPE_CHECKING:
    from ada3d_ros.asking.grammar import ReadQuestion
    from ada3d_ros.asking.phrasing import Phrasing

_SHADES = frozenset(("light", "dark", "bright", "pale", "deep"))
# What comes before the colours, and those: the first behind a name or alone, others after "or".
_ENDS_IN_COLORS = re.compile(r"(.*?)([dna])(\d+)((?: or [dna]\d+)*)(?: or not)?(?: color)?")
_ASKED = re.compile(r"(?:be|do) (.+)|([dna]\d+ .*be(?: [dna]\d+)?|color of .* be(?: [dna]\d+)?)")


@dataclass(frozen=True, slots=True)
class ColorChoice:
    """phrasing: asks for the colour, or for colors = () whether there is such a thing."""

    phrasing: Phrasing
    colors: tuple[str, ...] = ()


def color_choice(phrasing: Phrasing) -> ColorChoice | None:
    """The question after a colour that is asked with one, or with several to choose from."""
    ends = _ENDS_IN_COLORS.fullmatch(phrasing.marks)
    if ends is None:
        return None
    number = int(ends[3])
    thing = phrasing.things[number]
    name, colors = _split(thing.words)
    for other in re.findall(r"\d+", ends[4]):
        rest, more = _split(phrasing.things[int(other)].words)
        if rest or len(more) != 1:
            return None
        colors += more
    if not colors or (" " in name and name.split()[-1] in _SHADES):
        return None
    if not name and ends[2] != "n":  # "an orange" is a thing
        return None

    # What is asked about: the name before the colour, or all that comes before.
    asked = _ASKED.fullmatch((ends[1] + (ends[2] + ends[3] if name else "")).strip())
    if asked is None:
        return None
    about = re.sub(r"(?: (?:be|painted))+$", "", (asked[1] or asked[2]).strip())
    about = re.sub(r"^color of ", "", re.sub(r" poss color$", "", about))
    if name and ends[2] == "a" and about == f"a{number}":
        words = f"{colors[0]} {name}"
        marks = f"be there {about}" if len(colors) == 1 else ""
        colors = ()
    else:
        words, marks = name or thing.words, f"what color be {about}"
    changed = replace(thing, words=words, label=_without_colors(thing.label) if name else words)
    things = (*phrasing.things[:number], changed, *phrasing.things[number + 1 :])
    return ColorChoice(replace(phrasing, marks=marks, things=things), colors)


def _split(words: str) -> tuple[str, tuple[str, ...]]:
    """The name, and the colours behind it: ("cabinet", ("black",)) of `cabinet black`."""
    left, colors = words.split(), list[str]()
    while left and left[-1] in COLORS:
        colors.insert(0, left.pop())
    if left:
        left[-1] = singular(left[-1])
    return " ".join(left), tuple(colors)


def _without_colors(label: str) -> str:
    words = label.split()
    while words and words[-1] in COLORS:
        words.pop()
    return " ".join(words)


def chosen(answer: Answer, read: ReadQuestion) -> Answer:
    """The answer to what the colour is as one to what was asked: yes or no with the colour, or the
    one of several. What found no colour stays.
    """
    result = answer.measurement
    color = color_of((answer.text if result is None else result.word).casefold())
    if not read.choices or not color or answer.stop_reason is not StopReason.EOS:
        return answer
    if result is None:
        names = [thing.phrase for thing in read.things if thing.phrase and read.request is None]
        what = f"the {noun_of(names[0])} is {color}." if names else f"it is {color}."
    else:
        what = result.sentence.removeprefix(f"{color.capitalize()}: ")
        what = what[:1].lower() + what[1:]
    is_one = canonical(color) in map(canonical, read.choices)
    if len(read.choices) == 1:
        word = "yes" if is_one else "no"
    else:
        word = color if is_one else "neither" if len(read.choices) == 2 else "none"
    text = f"{word.capitalize()}: {what}"
    if result is not None:
        result = replace(result, word=word, sentence=text)
    return replace(answer, text=text, measurement=result)
