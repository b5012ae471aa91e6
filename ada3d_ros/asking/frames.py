"""The frames of the grammar: what a question of each kind looks like once it is phrased in marks.

Written in a notation of its own: words as they are; [x] may stand there, [x]* any number of times;
(x|y) one of them, (x|y)+ several. Slots: {a} {b} {c} one thing that is meant, {k} a group that is
looked for, {i} a group without `the`, {o} a word for any object, {len} a length, {w} {sides} words.
@ stands for a place ("on {a}"), ~ for a group at a place ("{k} that be on {a}").
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ada3d_ros.measures import LEFT_RIGHT
from ada3d_ros.measures import MeasureKind as Kind

_REFERRING = "it|there|this|that|them|these|those|they"
_SLOTS = {
    **dict.fromkeys("abc", rf"(?:largest )?[dnap]\d+|r\d+|{_REFERRING}"),
    "the": rf"(?:largest )?[dap]\d+|r\d+|{_REFERRING}",  # after `nearest`: `nearest chair` is none
    "k": r"[dna]\d+",
    "i": r"[na]\d+",
    "an": r"a\d+",
    "o": r"[dna]\d+",
    "color": r"[dna]\d+",
    "len": r"LEN\d+",
    "w": "big|large|wide|long|deep|broad|size|width|length|depth",
    "w_noun": "size|width|length|depth",  # fills {w}
    "sides": r"(?:SIDE\w+)(?: (?:or )?SIDE\w+)*",
    "me": r"r\d+",
}
_TOKEN = re.compile(r"\{(\w+)\}|\]\*|[][()|]|\)?[*+?]|[\w\\+]+")

PLACES: dict[Kind, str] = {
    Kind.WITHIN: (
        "(within {len} [of|from|to|around] {a}|(around|beside|from|of|to) {a} within {len} [of])"
    ),
    Kind.ON: "on {a}",
    Kind.UNDER: "under {a}",
    Kind.BETWEEN: "between {a} and {b}",
    Kind.NEAREST: "(nearest {the}|nearest to {a}|beside {a})",
}
_MEMBERS = "{k} [that] [be|see] [there] @"
GROUPS: dict[Kind, str] = dict.fromkeys(PLACES, _MEMBERS) | {
    Kind.NEAREST: f"({_MEMBERS}|nearest {{i}} [that] [be] (to|beside) {{a}}|[what] [be] @)",
    Kind.LARGEST: "largest [[of] {k}]",
    Kind.TALLEST: "tallest [[of] {k}]",
}
# Questions about a group at a place: what it is ("" of MeasureRequest.attribute), how many, ...
PLACE_FORMS: dict[str, tuple[str, ...]] = {
    "count": (
        "how many [of] {k} [that] [be|see|do]* [there] [be] @ [be|see|there]*",
        "@ how many {k} [be|see|there|do]*",
        "(count|[what] [be] number of) {k} [that] [be|see]* @",
    ),
    "": (
        "(what|list|name|find|show|see) [of] {k} [that] [be|see]* [there] [be] @ [be|see]",
        "{o} [that] [be] @",
        "(what|list|name|find|show) [that] [be|see]* [there] [be] @ [be|see]",
        "what be {k} [that] [be] @",
        "@ (what|list) [{k}] [be|see|do]* [there] [be]",
        "@ [there] [be] what",
    ),
    "yes_no": (
        "(be|see|do|be there|there be) {k} [there] [that] [be|see]* @ [see]",
        "@ (be|see|do) [there] {k} [be|see|there]*",
        "{k} be @",
    ),
}
# The colour of one thing, or of the member of a group.
COLOR_FORMS = (
    "name color of ~",
    "how [be|have] ~ color",
    "[of|in] what color [have|be|do|of]* ~ [have|be|do]* [painted]",
    "[what] [be] color [of|have|be]* ~ [be|have]*",
    "~ [have|be|do|of]* what color",
    "[what be] ~ [poss] color",
    "[find] ~ what color [be|have|do]* (it|that|this|they) [have|be]",
)
NEAREST_FORMS = (
    "[what|where|name|find|show|list] [be] nearest {i} [that] [be] (to|beside|around) {a}",
    "[what|name|find] {o} be nearest {i} (to|beside) {a}",
    "nearest {the}",
    "nearest to {a} [be] [what]",
    "[what [{o}] be] {a} poss nearest [{i}]",
    "of {k} (what|that) [{o}] be (nearest|nearest to) {a}",
    "(what|where|name|find|show) [be] nearest {i}",
    "what [{k}] (be|do) {a} [be] (nearest to|beside)",
    "{a} be (nearest to|beside) what",
    "to what [{k}] (be|do) {a} [be] nearest [to]",
    "how far [away] [from {me}] [be] nearest {i} [be] [away] [from {me}]",
)
_SIZE = "[be|have|do]* {a} [be|have]"
_VIEWPOINT = (
    "([if|when|suppose|imagine|assume|while|as|that|let|say|then|now|with]* [i|{me}|we]"
    " [be|go|were]* [seen] (at|by|beside|near|on|from|in front of) {a}"
    " [and|i|{me}|we|be|to|that|also]* (FACE|towards) {b}"
    "|[when|if|while] FACE from {a} (to|towards|at) {b}"
    "|[if|when|suppose|imagine|assume|while|as]* [i|{me}|we] [be]* FACE {b}"
    " [and|be|when|while|i|{me}]* (from|at|beside|by) {a})"
)
_SIDE_ASKED = (
    "((be|would|do|see|was|were) {c} [be] {sides} [of|to|from|{me}]*"
    "|[on|in|to|at] what (side|direction|way) [of {me}] [be|do|would|see|SIDE\\w+]* {c}"
    " [be|on|in|from|of|{me}]*"
    "|[{sides}] [then] where [be|do|would|see]* {c} [be] [of|from|{me}]* [{sides}]"
    "|[be] {c} [be] on what side [of {me}]"
    "|[on] what (side|direction|way) (be {c}|{c} be) [on|in|to|at])"
)
_FREE_PLACE = "(beside|nearest to|nearest|around|near|by|along|at|in front of)"


@dataclass(frozen=True, slots=True)
class Frame:
    """One pattern, and the kind and attribute of the request that it reads; where `model` is set
    no measure answers, but a model that was taught this kind.
    """

    pattern: re.Pattern[str]
    kind: Kind
    attribute: str = ""
    model: str = ""

    def match(self, marks: str) -> dict[str, str] | None:
        """The marks in the slots, or None where the frame does not fit the whole question."""
        found = self.pattern.fullmatch(" " + marks)
        if found is None:
            return None
        slots: dict[str, str] = {}
        for name, mark in found.groupdict().items():
            if mark is not None:
                slots.setdefault(name.split("_")[0], mark)
        return slots


_MEASURED: tuple[tuple[Kind, str], ...] = (
    (
        Kind.FREE_FLOOR,
        "[how much|how large|how big|what|where|find|show|size] [of|be|see|largest|do|there|{me}]*"
        " FREE [be|see|there|that|do|{me}|have|left|free]* " + _FREE_PLACE + " {a} [be]",
    ),
    (Kind.HEIGHT, "how far be top of {a} (above|from) {o}"),
    (Kind.DISTANCE, "how far [away|off] [from {me}] [be] [it] [to|from] {a} [be|away|off]*"),
    (
        Kind.DISTANCE,
        "how far [away|apart|off] [be] [it] [from|between] {a} [be|away|apart|off]*"
        " (from|to|and|off) {b} [be|away|apart|off]*",
    ),
    (Kind.DISTANCE, "how far [it] [be] from {a} to {b} [be]"),
    (Kind.DISTANCE, "how far [away] [be] [it] to {a} from {b}"),
    (Kind.DISTANCE, "how far [away] from {a} (be|do) {b} [be]"),
    (Kind.DISTANCE, "how far do {a} and {b} be apart"),
    (Kind.DISTANCE, "{a} and {b} how far [apart|away] [be (it|they)] [apart|away]"),
    (Kind.DISTANCE, "{a} how far [away] [be (it|they)] [away] [from {b}]"),
    (Kind.DISTANCE, "distance (between|from|of) {a} (and|to|from) {b} be what"),
    (Kind.DISTANCE, "between {a} and {b} what be distance"),
    (Kind.DISTANCE, "{a} to {b} (distance|how far [away] [be it])"),
    (Kind.DISTANCE, "[what be] {a} poss distance (from|to) {b}"),
    (
        Kind.DISTANCE,
        "(from|between) {a} (to|and) {b} (how far|what distance|how much distance|what be distance"
        "|how many UNIT0) [away] [be] [it|that|there]",
    ),
    (Kind.DISTANCE, "from {a} how far [away] [be] [it] [to] {b} [be|away]*"),
    (
        Kind.DISTANCE,
        "[what|how (large|long|big|much|far|wide)] [be] distance [be|there|that]*"
        " [between|from|of] {a} (and|to|from) {b} [be]",
    ),
    (Kind.DISTANCE, "[what] [be] distance [be] (to|of|from) {a} [be]"),
    (
        Kind.DISTANCE,
        "howclose [be|do|together]* {a} [be|together]* (to|and|from) {b} [be|together]*",
    ),
    (Kind.DISTANCE, "how many UNIT0 [away] [be] [it|there] (to|from) {a} [be]"),
    (
        Kind.DISTANCE,
        "how many UNIT0 [away|apart] [be|it|there]* [between|from] {a} [be|away|apart|off]*"
        " (from|and|to) {b} [be]",
    ),
    (Kind.DISTANCE, "how many UNIT0 away [be] [from {me}] {a} [be]"),
    (
        Kind.DISTANCE,
        "how (much|big|large|wide) [distance|FREE|{o}] [be|there]* between {a} (and|from|to) {b}",
    ),
    (Kind.DISTANCE, "howclose to {a} be {b}"),
    (Kind.SIZE, "[how|[of] what] {w} " + _SIZE),
    (Kind.SIZE, "[what] [be] {w} [be] of {a} [be]"),
    (Kind.SIZE, "how many UNIT0 {w} " + _SIZE),
    (Kind.SIZE, "[what be] {a} [poss] {w_noun} [be]"),
    (Kind.SIZE, "{w_noun} [be] {a}"),
    (Kind.SIZE, "{a} (how|[of] what) {w} [(be|do) (it|they) [have]]"),
    (Kind.HEIGHT, "how (tall|high) " + _SIZE + " [above {o}]"),
    (Kind.HEIGHT, "[what] [be] height [be] of [top of] {a} [be] [above {o}]"),
    (Kind.HEIGHT, "what height [be|have|do]* {a} [be|have|reach]"),
    (Kind.HEIGHT, "height [be] {a}"),
    (Kind.HEIGHT, "{a} (how (tall|high)|what height) [(be|do) (it|they) [have]]"),
    (Kind.HEIGHT, "at what height be [top of] {a}"),
    (Kind.HEIGHT, "how many UNIT0 (tall|high) " + _SIZE),
    (Kind.HEIGHT, "how (high|far) [above {o}] [be|do]* [top of] {a} [be|reach] [above {o}]"),
    (Kind.HEIGHT, "[what be] {a} [poss] height [be] [above {o}]"),
    (Kind.UNDER, "[on] what [{o}] (be|do)+ {a} [be]* on"),
    (Kind.ON, "what (do {a} have|have {a}) on it"),
    (Kind.UNDER, "{a} be on what"),
    (Kind.UNDER, "on what [{o}] (be|do)+ {a} [be]*"),
    *((Kind.NEAREST, form) for form in NEAREST_FORMS),
    (Kind.DIRECTION, _VIEWPOINT + " [then] " + _SIDE_ASKED),
    (Kind.DIRECTION, _SIDE_ASKED + " [then|from|there]* " + _VIEWPOINT + " [{sides}]"),
    (Kind.DIRECTION, "(be|do) {c} [be] {sides} [of|from|{me}]*"),
    (Kind.DIRECTION, "[on|in|to|at] what (side|direction) (of|from) {me} (be|do) {c} [be] [on|in]"),
    (Kind.DIRECTION, "[on|in|to|at] what (side|direction) (be|do) {c} [be|on|in|of|from|{me}]*"),
    (Kind.COUNT, "[be] how many [of] {k} [that|be|see|there|do|have]*"),
    (Kind.COUNT, "([what] [be] number [be] of|count) {k} [that|be|see|there]*"),
    (Kind.COUNT, "[there] [be|see] [there] how many {k} [be|see|there]*"),
    (Kind.COUNT, "{k} how many [be|see|there]*"),
    (Kind.EXISTS, "(be there|there be|see|be there be|do there be) {k} [be|see|there|around]*"),
    (Kind.EXISTS, "{an} (see|be|be there|be it)"),
    (Kind.EXISTS, "(be|do) {i} (be|see|there)+"),
    (Kind.EXISTS, "be {an} [around]"),
    (Kind.EXISTS, "{an} around"),
    (Kind.WHERE, "[at|in] where [be|see|do]* {a} [be] [at]"),
    (Kind.WHERE, "(locate|find|show|see|point at) [{me}] [where] {a} [be]"),
    (Kind.WHERE, "[what|where] [be] position [be] of {a} [be]"),
    (Kind.WHERE, "[at|in] what position [be|do|have]* {a} [be|have|at]*"),
    (Kind.WHERE, "[what be] {a} [poss] position [be]"),
    (Kind.WHERE, "{a} where be (it|they)"),
)
# Left or right of a thing, without a viewpoint.
LEFT_RIGHT_FORMS = (
    "[be|do|would] {c} [be] {sides} (of|from) {b}",
    "{c} be (on|to|at) what side of {b}",
    "[on|in|to|at] what side of {b} (be|do) {c} [be] [on|in|at] [{sides}]",
)
LAST_SEEN = "last_seen"  # attribute of where and when a thing was seen last
_ASKED_BACK = "(where|when|where and when|when and where)"
LAST_SEEN_FORMS = (
    f"{_ASKED_BACK} [did|do|have|had|i|we|{{me}}]* last (see|seen|saw) {{a}}",
    f"{_ASKED_BACK} [was|were|be|have|been]* {{a}} [be|been|have]* last [been] (see|seen)",
    f"{_ASKED_BACK} [was|were|be|have|been]* {{a}} [be|been|have]* (see|seen) last",
    f"{_ASKED_BACK} [did|do|have|had|i|we|{{me}}]* (see|seen|saw) {{a}} last",
)
_SUPERLATIVE = (
    "[what|name|find|show] [{k}] [be|see]* X [be|see|there]*",
    "[what|name|find|show] [be|see]* X {k} [be|see|there]*",
    "of {k} (what|that) [{o}] be X [{o}]",
    "what [of] [{k}] be X [of] [{k}]",
    "[what|name] [{k}] reach X",
    "X [{k}] be what",
)
_MODEL: tuple[tuple[str, str], ...] = (
    ("color", "[of|in] what color [have|be|do|of]* [{o}] [that] [be]* (at|it|that|this)* at {a}"),
    ("color", "[what] [be] color [of|be]* [what] [{o}] [that] [be]* at {a}"),
    ("caption", "(what|how) do {a} look [like]"),
    ("caption", "[related] {o} be at {a} describe ({o}|it) [in {o}|in detail]"),
    ("caption", "describe [what] [{o}] [that] [be|see]* [there] at {a} [be] [in {o}|in detail]"),
    ("caption", "[what] [be] {o} of [what] [{o}] [that] [be]* at {a}"),
    ("caption", "(what|how) do {o} [be]* at {a} look [like]"),
    ("caption", "describe {a} [in {o}|in detail]"),
    (
        "category",
        "(what|name) [kind] [of] [{o}] [that] [be|see]* [{o}] [that] [be]* [there] at {a} [be]",
    ),
    ("category", "[at] {a} what [kind] [of] [{o}] [be|see|there]*"),
    ("category", "{o} at {a} be what [kind] [of] [{o}]"),
    ("category", "[there] be {o} at {a} what be it"),
    ("category", "what be (it|that|this) [that] [be|see]* at {a}"),
    ("category", "{color} be what [kind] [of] [{o}]"),
    ("category", "{color} what [kind] [of] [{o}] be (it|that|this)"),
    ("category", "what see that be {color}"),
    ("category", "what [kind] [of] [{o}] be {color} [{o}]"),
    ("category", "(what|name) {color} [be|see|there]*"),
)
# What there is, of all kinds or of one: COUNT with attribute "list". Tried last.
_SEEN = "[be|see|there|around|so|far|around {me}]*"
INVENTORY_FORMS = (
    "[describe|list|name|show]* what [that] (be|see) " + _SEEN,
    "what [kind] [of] {k} [that] (be|see) " + _SEEN,
    "(list|name|show|find) [what|of]* {k} [that] " + _SEEN,
)


@functools.cache
def all_frames() -> tuple[Frame, ...]:
    """Every frame, in the order in which they are tried."""
    return tuple(_all_frames())


def _all_frames() -> Iterator[Frame]:
    for kind, place in PLACES.items():
        for attribute, forms in PLACE_FORMS.items():
            if kind is Kind.NEAREST and attribute:
                continue
            for form in forms:
                yield Frame(_compiled(form.replace("@", place)), kind, attribute)
    for kind, group in GROUPS.items():
        members = group.replace("@", PLACES.get(kind, ""))
        for form in COLOR_FORMS:
            yield Frame(_compiled(form.replace("~", members)), kind, "color")
    for form in LAST_SEEN_FORMS:
        yield Frame(_compiled(form), Kind.WHERE, LAST_SEEN)
    for kind, form in _MEASURED:
        yield Frame(_compiled(form), kind)
    for form in LEFT_RIGHT_FORMS:
        yield Frame(_compiled(form), Kind.DIRECTION, LEFT_RIGHT)
    for form in _SUPERLATIVE:
        yield Frame(_compiled(form.replace("X", "largest")), Kind.LARGEST)
        yield Frame(_compiled(form.replace("X", "tallest")), Kind.TALLEST)
    for form in COLOR_FORMS:
        yield Frame(_compiled(form.replace("~", "{a}")), Kind.UNKNOWN, model="color")
    yield Frame(_compiled("[what be] {a} [poss] color"), Kind.UNKNOWN, model="color")
    for model, form in _MODEL:
        yield Frame(_compiled(form), Kind.UNKNOWN, model=model)
    for form in INVENTORY_FORMS:
        yield Frame(_compiled(form), Kind.COUNT, "list")


def _compiled(form: str) -> re.Pattern[str]:
    """The regular expression of a frame; every word brings the space before it."""
    parts: list[str] = []
    for number, token in enumerate(_TOKEN.finditer(form)):
        slot, text = token[1], token[0]
        if slot:
            parts.append(rf" (?P<{slot}_{number}>{_SLOTS[slot]})")
        elif text in ("[", "("):
            parts.append("(?:")
        elif text == "]":
            parts.append(")?")
        elif text == "]*":
            parts.append(")*")
        elif text in ("|", ")", ")+", ")*", "+", "*"):
            parts.append(text)
        else:
            parts.append(" " + text)
    return re.compile("".join(parts))


@functools.cache
def frame_words() -> frozenset[str]:
    """Every word that a frame asks for."""
    forms = (frame.pattern.pattern for frame in all_frames())
    return frozenset(re.findall(r"(?<= )[a-z]+", re.sub(r"\(\?P<\w+>", "", " ".join(forms))))
