"""Other words for the same thing: synonyms of furniture and colours, plurals, American spelling."""

from __future__ import annotations

# canonical name: what people say instead
SYNONYMS: dict[str, tuple[str, ...]] = {
    "ball": ("sphere",),
    "barrel": ("drum", "keg"),
    "bed": ("cot",),
    "cabinet": ("cupboard",),
    "chair": ("seat",),
    "crate": ("box", "case"),
    "lamp": ("light",),
    "shelf": ("bookshelf", "bookcase"),
    "sofa": ("couch", "settee"),
    "table": ("desk",),
}
COLOR_SYNONYMS: dict[str, tuple[str, ...]] = {"purple": ("violet",)}
NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve"),
)
COLORS = frozenset(
    (
        *("beige", "black", "blue", "brown", "cyan", "gold", "golden", "gray", "green", "grey"),
        *("magenta", "maroon", "orange", "pink", "purple", "red", "silver", "teal", "turquoise"),
        *("violet", "white", "yellow"),
    )
)
NOUNS = frozenset(SYNONYMS) | {noun for nouns in SYNONYMS.values() for noun in nouns}
# Nouns that stand for any object: alone they name none.
GENERIC = frozenset(
    (
        *("item", "object", "one", "thing", "furniture", "stuff", "everything", "anything"),
        *("something", "whatever"),
    )
)
# What is on them may be a picture or words.
SHOWING = frozenset(
    ("screen", "monitor", "display", "tv", "television", "poster", "page", "whiteboard")
)
# Those without a plural: `a red furniture` is none.
UNCOUNTED = frozenset(("furniture", "stuff", "everything", "anything", "something", "whatever"))
IRREGULAR_PLURALS = {"shelf": "shelves", "bookshelf": "bookshelves"}
_SINGULARS = {plural: noun for noun, plural in IRREGULAR_PLURALS.items()} | {
    "buses": "bus",
    "children": "child",
    "cookies": "cookie",
    "knives": "knife",
    "loaves": "loaf",
    "men": "man",
    "mice": "mouse",
    "pcs": "pc",
    "people": "person",
    "ties": "tie",
    "tvs": "tv",
    "women": "woman",
}
_NO_PLURALS = (
    *("ss", "us", "is", "canvas", "atlas", "alias", "bias", "christmas", "whereas", "overseas"),
    "pajamas",
)


def color_of(label: str) -> str:
    """`blue` of `blue table`, '' where the label names none."""
    return next((word for word in label.split() if word in COLORS), "")


def plural(noun: str) -> str:
    """`shelves` of `shelf`, `boxes` of `box`, `couches` of `couch`."""
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def with_article(name: str) -> str:
    """`a table`, `an orange chair`."""
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"


def singular(noun: str) -> str:
    """The noun that `noun` is the plural of; itself where it is none (`glass`, `bus`)."""
    if noun in _SINGULARS:
        return _SINGULARS[noun]
    if len(noun) < 4 or not noun.endswith("s") or noun.endswith(_NO_PLURALS):
        return noun
    if noun.endswith("ies"):
        return noun[:-3] + "y"
    if noun.endswith(("xes", "ches", "shes", "sses")):
        return noun[:-2]
    return noun[:-1]


def canonical(words: str) -> str:
    """In the words that a small vocabulary has: `sofa` for `couches`, `purple` for `violet`,
    `gray` for `grey`; without articles, and without nouns that stand for any object.
    """
    return " ".join(_canonical_words(words))


def fits(name: str, label: str) -> bool:
    """Whether an object of this label is one that `name` means: `chairs` and `red chair` fit
    `red chair`, `couch` fits `red sofa`; '' and `objects` fit all.
    """
    return set(_canonical_words(name)) <= set(_canonical_words(label))


def _canonical_words(words: str) -> list[str]:
    left = [singular(w) for w in words.casefold().split() if w not in ("a", "an", "the")]
    named = [w for w in left if w not in GENERIC]
    return [_CANONICAL.get(w, w) for w in named]


_CANONICAL = {
    other: name
    for table in (SYNONYMS, COLOR_SYNONYMS, {"gray": ("grey",)})
    for name, others in table.items()
    for other in others
}


def duration(seconds: float) -> str:
    """As people say it: 5 s, 12 min, 3 h, 2 days."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.0f} days"
