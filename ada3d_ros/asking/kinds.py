"""What a name means to a detector: which of its kinds, and what may be said of them.

A detector knows a closed list of kinds. That none of one is seen means "no"; of what it has no kind
for nothing follows. Names go by synonyms (kind_table.py), plurals and the heads of compounds.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ada3d_ros.asking import kind_table
from ada3d_ros.asking.words import COLOR_SYNONYMS, COLORS, GENERIC, singular

MAX_NEAREST = 4  # kinds that a refusal names
MIN_MENDED = 5  # letters of a kind that a slip is taken for
LIKE = 0.8  # of the letters of two names, for one to be offered for the other
_ARTICLES = frozenset(("a", "an", "the", "any", "some", "of"))
_SHADES = frozenset(("light", "dark", "bright", "pale", "deep"))  # before a colour
# Words behind which another thing is named: the sofa next to the table is no sort of table.
_RELATING = frozenset(
    (
        *("on", "in", "under", "next", "to", "near", "beside", "behind", "between", "with", "at"),
        *("by", "above", "below", "over", "inside", "outside", "from", "against", "that", "which"),
    )
)
_BESIDE = re.compile(r"\([^)]*\)")
_COLOR_OF = {other: name for name, others in COLOR_SYNONYMS.items() for other in others}
_COLOR_OF |= {"grey": "gray", "golden": "gold"}

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a name means among the kinds of a detector.

    name: as it was said, without article and colour; color: '' = any; kinds: as the detector writes
    them, all of them for "objects"; covers: every such thing is of one of these kinds, so none seen
    means that there is none; is_sure: everything of these kinds is one ("office chair" of chairs is
    not).
    """

    name: str
    color: str
    kinds: frozenset[str]
    covers: bool = True
    is_sure: bool = True
    own_words: bool = True  # what was said is a detector's word


@dataclass(frozen=True, slots=True)
class _Sought:
    """Kinds that a name without colours means, and how; see Meaning."""

    kinds: frozenset[str]
    covers: bool = True
    is_sure: bool = True


class KindNames:
    """The names of a detector's kinds.

    kinds: all that it can give, () where that is not known; seen: labels of objects, with a colour
    before the kind or none, whose kinds count as known, too.
    """

    def __init__(self, kinds: Iterable[str], seen: Iterable[str] = ()) -> None:
        listed = tuple(dict.fromkeys(kinds))
        self.is_closed = bool(listed)
        self._kinds: dict[Words, str] = {_words(kind): kind for kind in reversed(listed)}
        self._joined = {"".join(words): kind for words, kind in self._kinds.items()}
        for label in seen:
            kind = self.split(label)[1]
            self._kinds.setdefault(_words(kind), kind)
            self._joined.setdefault("".join(_words(kind)), kind)
        self._groups: dict[int, list[str]] = {}
        for joined, kind in self._joined.items():
            for group in _groups().get(joined, ()):
                self._groups.setdefault(group, []).append(kind)
        self._meanings: dict[str, Meaning | None] = {}

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self._kinds.values())

    def split(self, label: str) -> tuple[str, str]:
        """Colour and kind of an object's label: ("black", "tv"); ("", "orange") of the fruit."""
        first, _, rest = label.partition(" ")
        if first in COLORS and rest and "".join(_words(label)) not in self._joined:
            return first, rest
        return "", label

    def meaning(self, name: str) -> Meaning | None:
        """None where the detector has no kind for the name."""
        if name not in self._meanings:
            self._meanings[name] = self._meaning(name)
        return self._meanings[name]

    def fits(self, name: str, label: str) -> bool:
        """Whether an object of this label is one that the name means."""
        meaning = self.meaning(name)
        return meaning is not None and self.is_one(meaning, label)

    def surely_fits(self, name: str, label: str) -> bool:
        """The same, where all of its kind are what the name means."""
        meaning = self.meaning(name)
        return meaning is not None and meaning.is_sure and self.is_one(meaning, label)

    def is_one(self, meaning: Meaning, label: str) -> bool:
        """Whether an object of this label has the meaning's kind and colour."""
        color, kind = self.split(label)
        has_color = not meaning.color or _color(color) == meaning.color
        return kind in meaning.kinds and has_color

    def may_be_one(self, meaning: Meaning, label: str) -> bool:
        """Whether it has the kind, and a colour that is not known."""
        color, kind = self.split(label)
        return kind in meaning.kinds and bool(meaning.color) and not color

    def shown(self, meaning: Meaning, label: str) -> str:
        """The label in the words of who asked: `black monitor` of `black tv`."""
        color, kind = self.split(label)
        noun = kind if meaning.own_words or not meaning.name else meaning.name
        return f"{color} {noun}".strip()

    def nearest(self, name: str) -> tuple[str, ...]:
        """Kinds of similar names, or that are related to the name, best first."""
        wanted = _without_color(_words(name))[0]
        related = list(self._of_table(_sorts(), wanted))
        related += [kind for key, kind in self._kinds.items() if set(key) & set(wanted)]
        # By letters, over the synonyms of the kinds, too.
        written = {" ".join(key): kind for key, kind in self._kinds.items()}
        for group, kinds in self._groups.items():
            written |= {" ".join(other): kinds[0] for other in _members()[group]}
        close = difflib.get_close_matches(" ".join(wanted), sorted(written), MAX_NEAREST, LIKE)
        found = dict.fromkeys([*(written[other] for other in close), *related])
        return tuple(found)[:MAX_NEAREST]

    # -- from words to kinds

    def _meaning(self, name: str) -> Meaning | None:
        # A whole name may be a kind (orange); else words in front of it are its colour.
        noun, color = _words(name), ""
        if not noun or not any(self._named(noun)):
            noun, color = _without_color(noun)
        sought = self._sought(noun)
        if sought is None:
            meant = self._meant(noun)
            return None if meant is None else self._meaning(f"{color} {meant}")
        own_words = not noun or "".join(noun) in self._joined
        covers, is_sure = sought.covers, sought.is_sure
        return Meaning(" ".join(noun), color, sought.kinds, covers, is_sure, own_words)

    def _meant(self, noun: Words) -> str | None:
        """The kind of which the name is a slip of the fingers, where there is one alone."""
        joined = "".join(noun)
        meant = [right for right in self._joined if is_slip(joined, right)]
        return self._joined[meant[0]] if len(meant) == 1 else None

    def _sought(self, noun: Words) -> _Sought | None:
        """The first that applies: any kind, one of that name, one such things are given as, sorts
        of it, and what it is a sort of.
        """
        if not noun:
            return _Sought(frozenset(self._kinds.values()))
        sorts = frozenset((*self._sorts_of(noun), *self._of_table(_sorts(), noun)))
        kinds = self._of_name(noun)
        if kinds or sorts:
            return _Sought(kinds | sorts, covers=bool(kinds))
        often = frozenset(self._of_table(_often_given_as(), noun))
        if often:
            return _Sought(often, covers=False)
        wider = frozenset(self._of_table(_some_of(), noun)) or self._wider(noun)
        return _Sought(wider, is_sure=False) if wider else None

    def _of_name(self, noun: Words) -> frozenset[str]:
        """Kinds of that name, else those that such things are given as."""
        return frozenset(self._named(noun)) or frozenset(self._of_table(_given_as(), noun))

    def _named(self, noun: Words) -> Iterator[str]:
        """The kind of that very name, else those of a name that says the same."""
        joined = "".join(noun)
        if joined in self._joined:
            yield self._joined[joined]
            return
        for group in _groups().get(joined, ()):
            yield from self._groups.get(group, ())

    def _sorts_of(self, noun: Words) -> Iterator[str]:
        """Kinds that end in the name: a coffee table is a table, a hot dog no dog."""
        for key, kind in self._kinds.items():
            is_compound = len(key) > len(noun) and key[-len(noun) :] == noun
            if is_compound and key not in _not_their_head():
                yield kind

    def _wider(self, noun: Words) -> frozenset[str]:
        """Kinds of what its last words say: a coffee table is of the tables."""
        if noun in _not_their_head() or (_takes_back() | _RELATING) & set(noun[:-1]):
            return frozenset()
        for start in range(1, len(noun)):
            rest = noun[start:]
            kinds = self._of_name(rest)
            if kinds:
                return kinds | frozenset(self._sorts_of(rest))
        return frozenset()

    def _of_table(self, table: dict[Words, tuple[Words, ...]], noun: Words) -> Iterator[str]:
        """The kinds that a table gives for a name, or for one that says the same."""
        groups = _groups().get("".join(noun), ())
        names = [noun, *(other for group in groups for other in _members()[group])]
        for name in dict.fromkeys(names):
            for target in table.get(name, ()):
                yield from self._named(target)


@functools.lru_cache(maxsize=4)
def kind_names(kinds: tuple[str, ...], seen: tuple[str, ...]) -> KindNames:
    """KindNames, made once for a detector and the labels of its objects."""
    return KindNames(kinds, seen)


def _words(name: str) -> Words:
    """A name as words to compare: small, singular, without articles, marks and what stands for any
    object: ("dining", "table") of "the dining_tables".
    """
    plain = _BESIDE.sub(" ", name.casefold()) if not name.startswith("(") else name.casefold()
    words = re.findall(r"\w+", plain.replace("_", " "))
    return tuple(singular(w) for w in words if w not in _ARTICLES and singular(w) not in GENERIC)


def _without_color(words: Words) -> tuple[Words, str]:
    """A name without the colour in front of it, and that colour: ("chair",), "red"."""
    at = 1 if len(words) > 1 and words[0] in _SHADES else 0
    if at < len(words) and words[at] in COLORS:
        return words[at + 1 :], _color(words[at])
    return words, ""


def _color(word: str) -> str:
    return _COLOR_OF.get(word, word)


def is_slip(word: str, right: str) -> bool:
    """Whether one letter behind the first is missing, doubled, or swapped with the next one, of
    five at least.
    """
    longer = len(word) - len(right)
    if len(right) < MIN_MENDED or word == right or word[:1] != right[:1] or abs(longer) > 1:
        return False
    shorter = min(len(word), len(right))
    i = next((k for k in range(shorter) if word[k] != right[k]), shorter)
    if longer < 0:
        return word[i:] == right[i + 1 :]
    if longer > 0:
        return word[i + 1 :] == right[i:] and word[i] == word[i - 1]
    return word[i + 1 : i + 2] + word[i] + word[i + 2 :] == right[i:]


# -- the tables, read once


@functools.cache
def _members() -> tuple[tuple[Words, ...], ...]:
    """The names of every group that say the same."""
    lines = kind_table.SAME.replace(",\n ", ",").strip().splitlines()
    return tuple(tuple(_words(name) for name in line.split(",")) for line in lines)


@functools.cache
def _groups() -> dict[str, tuple[int, ...]]:
    """The groups that a name, its words joined, is in: `bookshelf` and `book shelf` are one."""
    found: dict[str, tuple[int, ...]] = {}
    for number, names in enumerate(_members()):
        for name in names:
            found["".join(name)] = (*found.get("".join(name), ()), number)
    return found


def _table(text: str) -> dict[Words, tuple[Words, ...]]:
    pairs = (line.split(":") for line in text.strip().splitlines())
    return {_words(name): tuple(_words(kind) for kind in kinds.split(",")) for name, kinds in pairs}


@functools.cache
def _given_as() -> dict[Words, tuple[Words, ...]]:
    return _table(kind_table.GIVEN_AS)


@functools.cache
def _often_given_as() -> dict[Words, tuple[Words, ...]]:
    return _table(kind_table.OFTEN_GIVEN_AS)


@functools.cache
def _sorts() -> dict[Words, tuple[Words, ...]]:
    return _table(kind_table.SORTS)


@functools.cache
def _some_of() -> dict[Words, tuple[Words, ...]]:
    return _table(kind_table.SOME_OF)


@functools.cache
def _not_their_head() -> frozenset[Words]:
    return frozenset(_words(name) for name in kind_table.NOT_THEIR_HEAD.split(","))


@functools.cache
def _takes_back() -> frozenset[str]:
    return frozenset(kind_table.TAKES_BACK.split())
