"""On, under, between, free floor, what is there, where, of which colour: in free word order."""

from __future__ import annotations

from collections.abc import Callable

from ada3d_ros.asking.free_order.clause import LOCATING, ROBOT, TOWARDS, Clause
from ada3d_ros.asking.free_order.sides import PLACES
from ada3d_ros.asking.read_question import ReadQuestion
from ada3d_ros.asking.words import SHOWING
from ada3d_ros.measures import MeasureKind, MeasureRequest

_INDEFINITE = ("", "a", "an", "any", "some")


def on(clause: Clause) -> MeasureRequest | None:
    """What is on a thing, how many, whether a thing is, or what a thing stands on."""
    named, at = clause.named, clause.at("ON")
    if len(at) == 2:  # `they put something on the sofa. what is on it`
        at = [i for i in at if clause.after(i) not in ("it", "them")]
    if len(at) != 1 or clause.robots:
        return None
    below = [one for one in named if clause.before(one.at) == "on" and one.at > at[0]]
    if any(one.is_group for one in named if one in below or len(named) == 1):
        return None
    if len(named) == 1:
        is_below = bool(below) or clause.after(at[0]) in ("it", "them")
        if not is_below:
            return what_it_stands_on(clause)
        if SHOWING & set(named[0].thing.words.split()):
            return None
        is_count = clause.has("HOWMANY")
        if not is_count and not clause.has("WHAT", "GENERIC", "ANY"):
            return None
        is_whether = clause.is_yes_no and not clause.has("WHAT")
        attribute = "count" if is_count else "yes_no" if is_whether else ""
        return MeasureRequest(MeasureKind.ON, to=named[0].reference, attribute=attribute)
    if len(named) != 2 or len(below) != 1 or clause.has("WHAT", "HOW", "HOWMANY"):
        return None
    (of,) = (one for one in named if one is not below[0])
    if not clause.is_yes_no or of.thing.number:
        return None
    if of.is_group:
        if of.thing.article not in ("", "a", "an", "any", "some"):
            return None  # whether all of them are
        category, to = of.thing.category, below[0].reference
        return MeasureRequest(MeasureKind.ON, to=to, category=category, attribute="yes_no")
    return MeasureRequest(
        MeasureKind.ON, of=of.reference, to=below[0].reference, attribute="yes_no"
    )


def what_it_stands_on(clause: Clause) -> MeasureRequest | None:
    """What is under a thing, asked for as what it stands on, or what supports it."""
    one = clause.asked
    if one is None or not clause.has("WHAT", "GENERIC"):
        return None
    supports = clause.at("SUPPORT")
    if supports and one.at < supports[0]:
        return None  # what it supports itself
    return MeasureRequest(MeasureKind.UNDER, to=one.reference)


def under(clause: Clause) -> MeasureRequest | None:
    """What is under a thing, or whether something is."""
    one = clause.only
    if one is None or not clause.has("WHAT", "GENERIC", "ANY"):
        return None
    refers = clause.after(clause.at("UNDER")[0]) == "it"
    if clause.before(one.at) != "UNDER" and not refers:
        return None
    attribute = "yes_no" if clause.is_yes_no and not clause.has("WHAT") else ""
    return MeasureRequest(MeasureKind.UNDER, to=one.reference, attribute=attribute)


def between(clause: Clause) -> MeasureRequest | None:
    """What is between two things, or whether a thing is."""
    at = clause.at("BETWEEN") or clause.at("BOTH")
    if len(at) != 1 or any(one.is_group for one in clause.named):
        return None
    if any(clause.is_located(one) for one in clause.named if one.at > at[0]):
        return None
    places = [(one.at, one.reference) for one in clause.named]
    places = sorted([*places, *((i, ROBOT) for i in clause.robots)], key=lambda place: place[0])
    if len(places) == 2 and clause.has("WHAT", "GENERIC", "ANY"):
        attribute = "yes_no" if clause.is_yes_no and clause.has("ANY") else ""
        to, third = (reference for _, reference in places)
        return MeasureRequest(MeasureKind.BETWEEN, to=to, third=third, attribute=attribute)
    # `if you go from A to B, is C between them`
    is_both = clause.has("BOTH") and all(place[0] < at[0] for place in places)
    ends = places[:2] if is_both else [place for place in places if place[0] > at[0]]
    if len(places) != 3 or len(ends) != 2 or not clause.is_yes_no:
        return None
    (of,) = (place[1] for place in places if place not in ends)
    to, third = (reference for _, reference in ends)
    return MeasureRequest(MeasureKind.BETWEEN, of=of, to=to, third=third, attribute="yes_no")


def free_floor(clause: Clause) -> MeasureRequest | None:
    """Beside a thing; what is to be put there does not count."""
    if (clause.has("HOW") and not clause.has("BIG", "MUCH")) or clause.robots:
        return None
    meant = [one for one in clause.named if not one.is_group]
    if any(clause.before(one.at) in ("in", "on", "inside") for one in meant):
        return None
    put = [one for one in clause.named if one.is_group and clause.before(one.at) not in PLACES]
    if len(meant) != 1 or len(clause.named) > 1 + len(put):
        return None
    return MeasureRequest(MeasureKind.FREE_FLOOR, to=meant[0].reference)


def exists(clause: Clause) -> MeasureRequest | None:
    """Whether there is one of a name, or of a colour."""
    if len(clause.named) > 1 or not (clause.is_yes_no or clause.has("PRESENT", "ANY")):
        return None
    colors = [clause.tokens[i].word for i in clause.at("COLORED")]
    if not clause.named:
        if len(colors) != 1 or not clause.has("ANY", "GENERIC"):
            return None
        return MeasureRequest(MeasureKind.EXISTS, category=f"{colors[0]} object")
    thing = clause.named[0].thing
    if colors or thing.number or thing.point_m or clause.named[0].largest:
        return None
    if thing.article not in _INDEFINITE or clause.is_located(clause.named[0]):
        return None
    if not clause.has("THERE", "HERE", "PRESENT", "SEE", "ANY"):
        return None
    return MeasureRequest(MeasureKind.EXISTS, category=thing.category)


def superlative(kind: MeasureKind, name: str) -> Callable[[Clause], MeasureRequest | None]:
    """The largest or tallest of all, or of a name; name: the class of its word."""

    def read(clause: Clause) -> MeasureRequest | None:
        named = clause.named
        if len(named) > 1 or len(clause.at(name)) + sum(one.largest for one in named) != 1:
            return None
        if not named and not clause.has("WHAT", "GENERIC"):
            return None
        if clause.tokens[0].word in ("is", "are") and not clause.has("WHAT"):
            return None
        attribute = "color" if clause.has("COLOR") else ""
        if not named:
            return MeasureRequest(kind, attribute=attribute)
        thing, before = named[0].thing, clause.before(named[0].at)
        is_beside = before in (*TOWARDS, *LOCATING) and before not in ("of", "from", "NEAREST")
        if thing.number or thing.point_m or is_beside:
            return None
        return MeasureRequest(kind, category=thing.category, attribute=attribute)

    return read


def where(clause: Clause) -> MeasureRequest | None:
    """Where the thing is that is meant."""
    one = clause.asked
    if one is None or one.is_group or one.thing.point_m:
        return None
    return MeasureRequest(MeasureKind.WHERE, of=one.reference)


def color(clause: Clause) -> ReadQuestion | None:
    """Which colour a thing has, or whether it is one, or which of several."""
    one = clause.asked
    if one is None or one.is_group:
        return None
    if clause.has("GENERIC") and one.thing.point_m is None:
        return None
    choices = tuple(clause.tokens[i].word for i in clause.at("COLORED"))
    if choices and len(choices) < 2 and not clause.is_yes_no:
        return None
    if not choices and (one.largest or not clause.has("COLOR")):
        return None
    if one.largest:
        request = MeasureRequest(
            MeasureKind.LARGEST, category=one.thing.category, attribute="color"
        )
        return ReadQuestion("superlative", request, (), choices)
    return ReadQuestion("color", None, (one.reference,), choices)


def category(clause: Clause) -> ReadQuestion | None:
    """What is at a place, or what the red object is."""
    one = clause.asked
    if one is None or not clause.has("WHAT", "GENERIC"):
        return None
    is_generic = one.thing.words.split()[-1:] == ["object"]
    if one.thing.point_m is None and not is_generic:
        return None
    return ReadQuestion("category", None, (one.reference,))


def caption(clause: Clause) -> ReadQuestion | None:
    """What a thing, or what is at a place, looks like."""
    one = clause.asked
    return None if one is None else ReadQuestion("caption", None, (one.reference,))


def inventory(clause: Clause) -> MeasureRequest | None:
    """What there is."""
    if clause.named or not clause.has("WHAT", "GENERIC", "LIST"):
        return None
    return MeasureRequest(MeasureKind.COUNT, attribute="list")
