"""A question as words of known classes and the things that it names, in their order.

Every word has to be of a class (`words.py`), and things go by nouns that are known: a question with
any other word is not taken apart.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ada3d_ros.asking import kind_table
from ada3d_ros.asking.free_order.phrases import PHRASES
from ada3d_ros.asking.free_order.words import NO_SLIPS, classes_of, slips_are_mended_to
from ada3d_ros.asking.kinds import is_slip
from ada3d_ros.asking.lexicon import UNIT_WORDS, rewritten
from ada3d_ros.asking.phrasing import Measured, Thing, is_number, measured, named
from ada3d_ros.asking.spelling import mended
from ada3d_ros.asking.words import COLORS, NOUNS, NUMBERS, plural, singular
from ada3d_ros.measures import Reference
from ada3d_ros.perception.class_names import COCO_NAMES

ROBOT = Reference(robot=True, label="the robot")
# Words that a place stands behind.
TOWARDS = (
    *("to", "from", "of", "by", "near", "beside", "around", "round", "at", "alongside", "NEAREST"),
)
# Words before a thing that is not asked after itself, but for what is there.
LOCATING = (
    *("at", "in", "inside", "near", "beside", "next", "by", "around", "round", "alongside", "to"),
    *("adjacent", "close", "with"),
)
_PLACE = re.compile(r"PLACE\d+")
# What a sentence without a mark begins with that asks.
_ASKING = re.compile(
    r"(?:please |so |now )*(?:tell|name|show|give|say|state|report|list|count|indicate|identify|let"
    r"|find|point|need|get|can|could|would|will|do|does|did|is|are|has|have"
    r"|(?:i|we) (?:am (?:trying|after|looking|wondering|curious|interested)|would|want|need"
    r"|wonder))\b"
)
_PRONOUNS = frozenset(("it", "its", "they", "them", "their", "that", "this", "these", "those"))
# Before a thing without an article they say which of its name is meant.
_RESTRICTING = frozenset(
    (
        *("big", "large", "bulky", "tall", "high", "long", "wide", "deep", "broad", "hidden"),
        *("stacked", "stored", "known", "painted", "FREE"),
    )
)
_INDEFINITE = ("a", "an", "any", "some", "every")
_ARTICLES = (*_INDEFINITE, "the", "this", "that", "these", "those", "your", "my", "our")
_GENERIC = ("thing", "object", "item")
_NO_NAMES = frozenset(
    (
        "person",
        "somebody",
        "someone",
        "anybody",
        "anyone",
        "human",
        "light",
        "picture",
        "watch",
        "orange",
    )
)
# Units without a number; `in` and `m` are words of other meanings.
_BARE_UNIT = re.compile(
    "|".join(
        rf"\b(?P<{name}>{words})\b"
        for name, words in {**UNIT_WORDS, "m": "met(?:er|re)s", "in": "inch(?:es)?"}.items()
    )
)
# Why somebody asks, before the question: what it names may be meant by `it`.
_PREAMBLE = re.compile(
    r"\s*((?:i|we|my|our|there|the)\b(?!.*\b(?:if|suppose|imagine|no|not|nothing|never|none)\b|.*n't\b)"
    r"(?![^.;:,]*\b(?:fac(?:e|es|ing)|look(?:ing)?|turn(?:ed|ing)?|eyes|gaz(?:e|ing)|sit|sits|sitting"
    r"|seated|stand|stands|standing|position"
    r"|(?:at|by|beside|next to|near|behind) (?:the|an?|my))\b)"
    r"[^?.;:]*?)"
    r"(?:[.;:!]\s+|, (?:so |but )?(?=(?:how|what|which|where|is|are|does|do|can|could)\b))(?=\S.*)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Token:
    """A word as it is rewritten, and its classes; T of a thing, which has none."""

    word: str
    classes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Named:
    """A thing that a question names; at: number of its token; largest: the largest of its name."""

    at: int
    thing: Thing
    largest: bool = False

    @property
    def is_group(self) -> bool:
        """Whether it may stand for several ("chairs", "a chair"), not for one that is meant."""
        return self.thing.is_plural or self.thing.article in _INDEFINITE

    @property
    def reference(self) -> Reference:
        """As a request names it."""
        return self.thing.reference(self.largest)


@dataclass(frozen=True)
class Clause:
    """The words of a question, and what they name.

    asks: whether it has a question mark.
    """

    tokens: tuple[Token, ...]
    named: tuple[Named, ...]
    measured: Measured
    asks: bool = True

    @functools.cached_property
    def classes(self) -> frozenset[str]:
        return frozenset[str]().union(*(token.classes for token in self.tokens))

    @functools.cached_property
    def words(self) -> frozenset[str]:
        return frozenset(token.word for token in self.tokens)

    def has(self, *names: str) -> bool:
        """Whether a word is of one of the classes."""
        return bool(self.classes & set(names))

    def at(self, name: str) -> list[int]:
        """Where words of a class stand."""
        return [i for i, token in enumerate(self.tokens) if name in token.classes]

    def before(self, i: int, skip: Iterable[str] = ()) -> str:
        """The word before a token, without those that are skipped."""
        skipped = {*skip}
        return next((t.word for t in reversed(self.tokens[:i]) if t.word not in skipped), "")

    def after(self, i: int) -> str:
        """The word behind a token."""
        return self.tokens[i + 1].word if i + 1 < len(self.tokens) else ""

    @functools.cached_property
    def robots(self) -> tuple[int, ...]:
        """Where the robot is named as a place: behind a word that a place stands behind."""
        places = []
        for i, token in enumerate(self.tokens):
            if token.word == "ROBOT":
                places.append(i)
            elif token.word in ("me", "you"):
                behind = self.before(i)
                joined = self.after(i) in ("and", "to") and i <= 1
                joined = joined or (behind == "and" and self.has("BETWEEN"))
                if joined or behind in (*TOWARDS, "between", "until"):
                    places.append(i)
        return tuple(places)

    @functools.cached_property
    def meant(self) -> list[Reference] | None:
        """All that is named, the robot too, in order; None where a name stands for several."""
        if any(one.thing.is_plural or one.thing.number for one in self.named):
            return None
        places = [(one.at, one.reference) for one in self.named]
        places += [(i, ROBOT) for i in self.robots]
        return [reference for _, reference in sorted(places, key=lambda place: place[0])]

    @property
    def only(self) -> Named | None:
        """The one thing that is named, where nothing else is."""
        return self.named[0] if self.meant and len(self.meant) == len(self.named) == 1 else None

    @property
    def asked(self) -> Named | None:
        """The one thing that is named, where it is asked after itself ("the thing at the table" is
        another one); a place may be what something is at.
        """
        one = self.only
        return None if one is None or self.is_located(one) else one

    def is_located(self, one: Named) -> bool:
        """Whether a thing says where something else is."""
        before = self.before(one.at)
        return before in LOCATING and not (one.thing.point_m and before in ("at", "in"))

    @property
    def is_restricted(self) -> bool:
        """Whether a word that is not read says which of a name is meant ("the tall lamp")."""
        words = [token.word for token in self.tokens]
        return any(
            words[one.at - 1] in _RESTRICTING and words[one.at - 2 : one.at - 1] != ["how"]
            for one in self.named
            if one.at and not one.thing.article
        )

    @property
    def is_said(self) -> bool:
        """Whether it is a statement, without a mark or a word that asks."""
        asking = ("YN", "IF", "WHAT", "HOW", "WHERE", "WHICHSIDE", "HOWMANY", "LIST", "FIND")
        if self.asks or self.has(*asking, "DESCRIBE") or not self.named:
            return False
        if _ASKING.match(self.measured.words):
            return False
        verbs = self.at("AUX")
        opens = self.tokens[0].word in ("there", "i", "we", "you", "he", "she", "they")
        inverted = any(self.after(i) in ("it", "they", "that", "we", "you", "i") for i in verbs)
        return bool(verbs) and not inverted and (opens or verbs[0] > self.named[0].at)

    @property
    def is_yes_no(self) -> bool:
        """Whether yes or no is asked for: a verb before the things, a tag, or a mark alone."""
        if self.has("YN", "IF"):
            return not self.has("HOW", "WHERE")
        if self.has("WHAT", "HOW", "WHERE", "HOWMANY", "WHICHSIDE"):
            return False
        verbs = self.at("AUX")
        if self.asks or any(self.after(i) in ("it", "they", "that") for i in verbs):
            return True
        return bool(verbs) and (not self.named or verbs[0] < self.named[0].at)


def clause_without_preamble(text: str) -> Clause | None:
    """The words of a question without what is said before it; None where nothing is, or where it
    may change the question. One thing that it names with an article is what `it` means, two are
    what `they` mean. Raises as `clause_of`.
    """
    preamble = _PREAMBLE.match(text)
    if preamble is None:
        return None
    taken, rest = measured(preamble[1]), text[preamble.end() :]
    tokens, things = _tokens(rewritten(_words_of(taken), PHRASES).split(), taken) or ((), ())
    if any(one.thing.is_plural or one.thing.number for one in things):
        return None
    refers = _PRONOUNS & set(re.findall(r"\w+", rest.casefold()))
    if not refers:
        return clause_of(rest)
    said = frozenset[str]().union(*(token.classes for token in tokens))
    is_part = any(one.at and tokens[one.at - 1].word in ("of", "on", "in") for one in things)
    if is_part or said & {"TALLEST", "SIDEleft", "SIDEright", "NEAREST"}:
        return None
    if not 1 <= len(things) <= 2 or not all(one.thing.article for one in things):
        return None
    names = [f"the {'largest ' * one.largest}{one.thing.words}" for one in things]
    return clause_of(", ".join([*names, rest]))


def clause_of(text: str) -> Clause | None:
    """The words of a question; None where one is of no known class. Raises InvalidRequestError for
    brackets that are no place.
    """
    taken = measured(text)
    words = _words_of(taken)
    units = [taken.unit, *map(_unit_of, _BARE_UNIT.finditer(words))]
    words = rewritten(_BARE_UNIT.sub(" UNIT ", words), PHRASES)
    found = _tokens(words.split(), taken)
    if found is None:
        return None
    tokens, named_things = found
    if not all(token.classes or token.word == "T" for token in tokens):
        return None
    unit = next((unit for unit in units if unit), "")
    return Clause(tokens, named_things, replace(taken, unit=unit), "?" in text)


def _words_of(taken: Measured) -> str:
    """With words in the place of signs, and misspellings mended."""
    words = re.sub(r"\s*(?:-+>|→)\s*", " to ", taken.words)
    words = re.sub(r"(?<=\w) ?\+ ?(?=\w)|\bvs\b", " and ", words)
    words = re.sub(r"(?<![yn]) ?/ ?(?!no\b|n\b)|(?<=\w)[-–—](?=\w)|[=&]", " ", words)
    return " ".join(_mended(word) for word in words.split())


def _unit_of(found: re.Match[str]) -> str:
    return next(name for name, word in found.groupdict().items() if word)


def _mended(word: str) -> str:
    if classes_of(word) or _is_noun(word):
        return word
    right = mended(word)
    if right != word or word in NO_SLIPS or word in slips_are_mended_to() or not word.isalpha():
        return right
    meant = [other for other in slips_are_mended_to() if is_slip(word, other)]
    return meant[0] if len(meant) == 1 else word


def _tokens(
    words: list[str], taken: Measured
) -> tuple[tuple[Token, ...], tuple[Named, ...]] | None:
    """Things with their articles, numbers and colours; a colour of no thing is COLORED. None where
    a colour is a thing ("an orange").
    """
    tokens: list[Token] = []
    things: list[Named] = []
    article, number, largest, i = "", 0, False, 0

    def add(thing: Thing) -> None:
        things.append(Named(len(tokens), thing, largest))
        tokens.append(Token("T"))

    while i < len(words):
        word, length = words[i], _name_length(words, i)
        behind = words[i + 1] if i + 1 < len(words) else ""
        if word in _ARTICLES and not length:
            article, number, largest = word, 0, False
            if word == "any":
                tokens.append(Token(word, classes_of(word)))
            i += 1
            continue
        if (word in NUMBERS[2:] or is_number(word)) and behind:
            number = NUMBERS.index(word) if word in NUMBERS else int(word) or -1
            tokens.append(Token(f"NUM{number}", frozenset(("NUM",))))
            i += 1
            continue
        if word == "LARGEST" and article != "a" and _name_length(words, i + 1):
            largest, i = True, i + 1
            continue
        if _PLACE.fullmatch(word):
            point = taken.points[int(word[5:])]
            label = "[" + ", ".join(f"{c:g}" for c in point) + "]"
            add(Thing(point_m=point, label=label))
        elif length:
            add(named(words[i : i + length], number, article))
        elif word in COLORS and behind in ("one", "ones") and things and things[-1].thing.words:
            noun = things[-1].thing.words.split()[-1]
            add(named([word, plural(noun) if behind == "ones" else noun], number, article))
            length = 2
        elif word in COLORS:
            if article in ("a", "an") and behind != "COLOR":
                return None
            tokens.append(Token(word, frozenset(("COLORED",))))
        else:
            tokens.append(Token(word, classes_of(word)))
        i += length or 1
        article, number, largest = "", 0, False
    return tuple(tokens), tuple(things)


def _name_length(words: list[str], i: int) -> int:
    """How many words the name takes that begins at a word, with the colours before it; 0 where none
    does. A colour with a word for any object is one.
    """
    j = i
    while j + 1 < len(words) and words[j] in COLORS:
        j += 1
    if j > i and singular(words[j]) in _GENERIC:
        return j + 1 - i
    for length in (3, 2, 1):
        part = words[j : j + length]
        if len(part) == length and _is_name(tuple(part)):
            return j + length - i
    return 0


@functools.lru_cache(maxsize=4096)
def _is_name(words: tuple[str, ...]) -> bool:
    return " ".join((*words[:-1], singular(words[-1]))) in _names()


def _is_noun(word: str) -> bool:
    return word in COLORS or _is_name((word,)) or word in _first_words()


@functools.cache
def _names() -> frozenset[str]:
    """Names of things: those that models are taught, and those of detectors."""
    listed = kind_table.SAME.replace(",\n ", ",").strip().splitlines()
    synonyms = {name.strip() for line in listed for name in line.split(",")}
    return NOUNS.union(synonyms, COCO_NAMES) - _NO_NAMES


@functools.cache
def _first_words() -> frozenset[str]:
    return frozenset(name.split()[0] for name in _names())
