"""Which kind a question is, and what it names; docs/asking.md shows what is read and what is not.

A question is read whole or not at all: a word that no frame has a place for leaves it unread.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace

from ada3d_ros.asking.chosen_color import color_choice
from ada3d_ros.asking.frames import Frame, all_frames
from ada3d_ros.asking.free_order.kinds import read_in_free_order
from ada3d_ros.asking.phrasing import Phrasing, Thing, is_a_name, phrase
from ada3d_ros.asking.read_question import ReadQuestion, kind_of
from ada3d_ros.asking.words import COLORS, SHOWING
from ada3d_ros.errors import InvalidRequestError
from ada3d_ros.measures import NUMBER, RADIUS_M, MeasureKind, MeasureRequest, Reference

MAX_CHARS = 2000  # of a text that is read
MAX_JOINTS = 8  # of a text that is taken apart; one of more is no question
_UNITS = ("m", "cm", "mm", "ft", "in")
_SIDES = {"left": "left", "right": "right", "behind": "behind", "front": "in front"}
_DIMENSIONS = {"long": "length", "length": "length"}
_DIMENSIONS |= dict.fromkeys(("wide", "broad", "width", "deep", "depth"), "width")
_JOINT = re.compile(
    r"[.?!;]\s+(?:(?:and|but|or|also|then)\s+)?"
    r"|,?\s+(?:and|but|or|also|then)(?:\s+(?:also|then))?\s+|,\s+|\?(?=\w)",
    re.IGNORECASE,
)
_OF_ALL = re.compile(r"(?<!at )(?<!of )\b(?:all|every|each|both)\b", re.IGNORECASE)
_TWO_QUESTIONS = re.compile(
    r"\?.*\w.*\?|\band (?:what|how|where|is|are|does|do) (?!.*\b(?:fac|look|gaz|eyes))",
    re.IGNORECASE,
)
_SEVERAL = re.compile(r"((?:largest )?[dnap]\d+)(?: (?:and|or) [dnap]\d+)+")


def read_question(text: str) -> ReadQuestion | None:
    """What a question asks for; None where the grammar does not read it, as any text of more than
    MAX_CHARS.

    Raises InvalidRequestError: two questions at once, a thing that was not named ("there", "it"), a
    radius or number out of its range, brackets that are no place.
    """
    if len(text) > MAX_CHARS:
        return None
    read = None if _TWO_QUESTIONS.search(text) else read_in_free_order(text)
    phrasing = phrase(text) if read is None else None
    if phrasing is not None:
        read = _read(phrasing)
    if read is not None:
        is_of_all = _OF_ALL.search(text) and _is_whether(read)
        return None if is_of_all else read  # whether all of them are, or have
    _refuse_two_questions(text)
    if phrasing is not None and _read(_with_one_of_several(phrasing)) is not None:
        raise InvalidRequestError(
            f"{text!r} names several things where one is asked after: ask about each of them"
            " in a question of its own."
        )
    return None


def _read(phrasing: Phrasing) -> ReadQuestion | None:
    """As it stands, else as the question after a colour that it gives to choose from."""
    read = _read_as_is(phrasing)
    choice = color_choice(phrasing) if read is None else None
    if choice is None:
        return read
    read = _read_as_is(choice.phrasing)
    return None if read is None else replace(read, choices=choice.colors)


def _read_as_is(phrasing: Phrasing) -> ReadQuestion | None:
    """By the first frame that fits the whole question, with names in its slots."""
    for frame in all_frames():
        slots = frame.match(phrasing.marks)
        if slots is not None:
            read = _Filling(phrasing, slots).read(frame)
            if read is not None:
                return read
    return None


def _is_whether(read: ReadQuestion) -> bool:
    request = read.request
    return bool(read.choices) or (request is not None and request.attribute == "yes_no")


def _refuse_two_questions(text: str) -> None:
    """Raise InvalidRequestError where the text falls into pieces that are questions each."""
    joints = list(_JOINT.finditer(text))
    if len(joints) > MAX_JOINTS:
        return
    starts = [0, *(joint.end() for joint in joints)]
    stops = [*(joint.start() for joint in joints), len(text)]

    @functools.cache
    def falls_apart(first: int) -> bool:
        """Whether the pieces from this one on make up questions."""
        return _is_question(text[starts[first] :]) or any(
            _is_question(text[starts[first] : stops[last]]) and falls_apart(last + 1)
            for last in range(first, len(joints))
        )

    for i in range(len(joints)):
        if _is_question(text[: stops[i]]) and falls_apart(i + 1):
            first, rest = text[: stops[i]].strip(), text[starts[i + 1] :].strip()
            raise InvalidRequestError(
                f"{text!r} holds two questions: ask one at a time, {first!r} and then {rest!r}."
            )


def _is_question(text: str) -> bool:
    """Whether it is read as one; also where it cannot be answered."""
    try:
        phrasing = phrase(text)
        return any(_read(one) is not None for one in (phrasing, _with_one_of_several(phrasing)))
    except InvalidRequestError:
        return True


def _with_one_of_several(phrasing: Phrasing) -> Phrasing:
    return replace(phrasing, marks=_SEVERAL.sub(r"\1", phrasing.marks))


@dataclass(frozen=True, slots=True)
class _Filling:
    """The slots of a frame that fits, and what their marks stand for."""

    phrasing: Phrasing
    slots: dict[str, str]

    def read(self, frame: Frame) -> ReadQuestion | None:
        """The request, or None where a slot holds what it cannot."""
        named = [thing for thing in map(self._thing, _NAMING) if thing is not None]
        if not all(map(is_a_name, named)) or not self._fillers_fit():
            return None
        if any(not self._is_one(slot) for slot in ("a", "the", "b", "c")):
            return None
        if self.phrasing.centers and frame.kind not in (MeasureKind.DISTANCE, MeasureKind.WHERE):
            return None
        if frame.model:
            return self._for_model(frame.model)
        request = self._request(frame)
        if request is None:
            return None
        things = tuple(r for r in (request.of, request.to, request.third) if r is not None)
        return ReadQuestion(kind_of(request), request, things)

    def _for_model(self, kind: str) -> ReadQuestion | None:
        """What only a model answers."""
        color = self._thing("color")
        if color is not None and not color.color:
            return None
        if self._is_robot() or (kind == "category" and not self._names_a_place("a")):
            return None
        thing = self._one("a") if color is None else Reference(phrase=f"{color.color} object")
        return ReadQuestion(kind, None, (thing,) if thing else ())

    def _request(self, frame: Frame) -> MeasureRequest | None:
        base = MeasureRequest(frame.kind, attribute=frame.attribute, unit=self._unit())
        match frame.kind:
            case MeasureKind.DISTANCE:
                of, to = self._one("a"), self._one("b") or Reference(robot=True, label="the robot")
                if of is not None and of.robot and to.robot:
                    return None
                return replace(base, of=of, to=to, centers=self.phrasing.centers)
            case MeasureKind.SIZE | MeasureKind.HEIGHT | MeasureKind.FREE_FLOOR if self._is_robot():
                return None
            case MeasureKind.SIZE:
                dimension = _DIMENSIONS.get(self.slots["w"], "")
                return replace(base, of=self._one("a"), attribute=dimension)
            case MeasureKind.HEIGHT:
                return replace(base, of=self._one("a"))
            case MeasureKind.WHERE:
                where = self._thing("a")
                if frame.attribute and self.slots["a"].startswith("largest "):
                    return None  # of what is not in view any more, sizes are not compared
                return replace(base, of=self._one("a")) if where and where.category else None
            case MeasureKind.FREE_FLOOR:
                return replace(base, to=self._one("a"))
            case MeasureKind.DIRECTION:
                return self._direction(base)
            case MeasureKind.NEAREST:
                return self._nearest(base)
            case MeasureKind.COUNT | MeasureKind.EXISTS:
                return self._of_group(base)
            case MeasureKind.LARGEST | MeasureKind.TALLEST:
                return self._of_group(base)
            case _:
                return self._at_place(base)

    # -- kinds that need more than their slots

    def _direction(self, base: MeasureRequest) -> MeasureRequest | None:
        """Which side of a viewpoint a thing is on, or whether it is on the side that is named."""
        sides = [_SIDES[s] for s in re.findall(r"SIDE(\w+)", self.slots.get("sides", ""))]
        stands, faced = self._one("a"), self._one("b")
        if faced is not None and stands is None and set(sides) - {"left", "right"}:
            return None  # what is behind a thing depends on the viewpoint
        one_side = len(sides) == 1
        return replace(
            base,
            of=self._one("c"),
            to=stands or Reference(robot=True, label="the robot"),
            third=faced,
            attribute=base.attribute or ("yes_no" if one_side else ""),
            category=sides[0] if one_side else "",
        )

    def _nearest(self, base: MeasureRequest) -> MeasureRequest | None:
        group = self._thing("k") or self._thing("i") or self._thing("an")
        number = (group.number if group else 0) or 1
        if not NUMBER[0] <= number <= NUMBER[1]:
            raise InvalidRequestError(
                f"{max(number, 0)} nearest things are asked for; {NUMBER[0]} to {NUMBER[1]} are"
                " given."
            )
        anchor = self._one("a") or self._one("the")
        to = anchor or Reference(robot=True, label="the robot")
        category = group.category if group else ""
        named = self._thing("a") or self._thing("the")
        if (base.attribute and number > 1) or (named is not None and named.article == "every"):
            return None
        return replace(base, to=to, category=category, k=number)

    def _of_group(self, base: MeasureRequest) -> MeasureRequest | None:
        group = self._thing("k") or self._thing("i") or self._thing("an")
        if group is None:
            return base if base.kind is not MeasureKind.EXISTS else None
        if group.number or (base.kind is MeasureKind.EXISTS and group.category in _ONLY_COLORS):
            return None
        return replace(base, category=group.category)

    def _at_place(self, base: MeasureRequest) -> MeasureRequest | None:
        """Within, on, under, between: what is there, how many, or whether the thing named is."""
        group = self._thing("k")
        request = replace(base, to=self._one("a"), third=self._one("b"))
        if group is not None:
            of_all = group.words == "everything" or group.article in ("all", "every")
            definite_ones = group.is_plural and group.article in ("the", "your", "my", "our")
            of_all = of_all or (definite_ones and base.attribute == "yes_no")
            if group.number or (of_all and base.attribute in ("yes_no", "color")):
                return None
            definite = group.article in ("the", "your", "my", "our") and not group.is_plural
            if base.attribute == "yes_no" and definite and group.category:
                request = replace(request, of=group.reference())
            else:
                request = replace(request, category=group.category)
        elif base.kind is MeasureKind.ON and self._shows_something("a"):
            return None
        if base.kind is MeasureKind.WITHIN:
            request = replace(request, radius_m=self._radius_m())
            if base.attribute == "count":
                request = replace(request, kind=MeasureKind.COUNT, attribute="")
            elif base.attribute == "color":
                return None
        return request

    # -- slots

    def _thing(self, slot: str) -> Thing | None:
        """What was named in a slot; None where the slot is empty or refers to something else."""
        mark = self.slots.get(slot, "").removeprefix("largest ")
        return self.phrasing.things[int(mark[1:])] if re.fullmatch(r"[dnapr]\d+", mark) else None

    def _one(self, slot: str) -> Reference | None:
        """The thing meant; raises InvalidRequestError where it was not named."""
        mark = self.slots.get(slot, "")
        thing = self._thing(slot)
        if thing is not None:
            return thing.reference(largest=mark.startswith("largest "))
        if not mark:
            return None
        what = "which place" if mark == "there" else "which thing"
        raise InvalidRequestError(
            f"{mark!r} does not say {what} is meant, and questions are answered one by one: name"
            " it, for example 'the red chair', or give its place as [x, y, z]."
        )

    def _is_robot(self) -> bool:
        thing = self._thing("a")
        return thing is not None and thing.is_robot

    def _is_one(self, slot: str) -> bool:
        """Whether a slot for one thing, where it is filled, holds what can be found."""
        thing = self._thing(slot)
        if thing is None:
            return True
        is_color = thing.words in _ONLY_COLORS and not thing.article
        return bool(thing.is_robot or thing.point_m or (thing.category and not is_color))

    def _shows_something(self, slot: str) -> bool:
        """Whether what is on it may be a picture or words."""
        thing = self._thing(slot)
        return thing is not None and bool(SHOWING & set(thing.words.split()))

    def _names_a_place(self, slot: str) -> bool:
        thing = self._thing(slot)
        return thing is None or thing.point_m is not None

    def _fillers_fit(self) -> bool:
        """Whether the word for any object is one."""
        thing = self._thing("o")
        return thing is None or not thing.category or thing.words in _FILLERS

    def _radius_m(self) -> float:
        radius_m, _ = self.phrasing.lengths[int(self.slots["len"][3:])]
        low, high = RADIUS_M
        if not low <= radius_m <= high:
            raise InvalidRequestError(
                f"a radius of {radius_m:g} m is asked for; it must be between {low:g} and"
                f" {high:g} m."
            )
        return radius_m

    def _unit(self) -> str:
        """The unit that the asker wrote; metres where it is none that answers are given in."""
        units = [self.phrasing.unit, *(unit for _, unit in self.phrasing.lengths)]
        return next((unit for unit in units if unit in _UNITS), "m")


_NAMING = ("a", "the", "b", "c", "k", "i", "an")  # slots that name something
_ONLY_COLORS = COLORS - {"orange"}  # colours that name no thing by themselves
_FILLERS = {"description", "detail", "floor", "ground", "space", "room"}
