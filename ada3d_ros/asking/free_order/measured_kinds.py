"""Distances, sizes, heights, what is nearest or within a radius, and counts, in free word order."""

from __future__ import annotations

from ada3d_ros.asking.free_order.clause import ROBOT, TOWARDS, Clause, Named
from ada3d_ros.asking.words import COLORS
from ada3d_ros.errors import InvalidRequestError
from ada3d_ros.measures import NUMBER, RADIUS_M, MeasureKind, MeasureRequest, Reference

_LISTING = frozenset(("name", "show", "give", "report"))
_UNITS = ("m", "cm", "mm", "ft", "in")  # that answers are given in


def distance(clause: Clause) -> MeasureRequest | None:
    """Between two things, or of one from the robot."""
    ends = clause.meant
    if not ends or len(ends) > 2 or not clause.named:
        return None
    if any(one.is_group for one in clause.named):
        return None
    located = [clause.before(one.at) for one in clause.named if clause.is_located(one)]
    if set(located) - {"to", "with", "at"}:
        return None  # a way round a thing, or of something else that is there
    if len(ends) == 1 and not clause.has("HOW") and not {"to", "from"} & clause.words:
        return None
    telling = ("HOW", "WHAT", "FARNOUN", "UNIT", "MEASURE", "LINE", "SPACE")
    if not clause.measured.unit and not clause.has(*telling):
        return None
    of, to = ends[0], ends[1] if len(ends) == 2 else ROBOT
    if to is ROBOT and {"you", "i"} & {t.word for t in clause.tokens[: clause.named[0].at]}:
        of, to = to, of
    centers = clause.has("CENTER")
    return MeasureRequest(MeasureKind.DISTANCE, of=of, to=to, centers=centers, unit=_unit(clause))


def path(clause: Clause) -> MeasureRequest | None:
    """A distance by its two ends alone: `measure: ball to barrel`."""
    if len(clause.named) + len(clause.robots) != 2:
        return None
    if clause.has("BETWEEN", "BOTH") and clause.has("WHAT") and not clause.has("UNIT", "MEASURE"):
        return None
    joining = {"to", "between", "until", "till", "from", "away", "off"} & clause.words
    if not joining and not clause.has("BOTH"):
        return None
    return distance(clause)


def size(clause: Clause) -> MeasureRequest | None:
    """All of it, or the length or the width."""
    one = clause.asked
    telling = clause.has("HOW", "WHAT", "SIZE", "SIZENOUN", "MEASURE", "UNIT")
    if one is None or not telling or clause.measured.words.startswith("have you"):
        return None
    names = [name.lower() for name in ("LENGTH", "WIDTH") if clause.has(name)]
    attribute = names[0] if len(names) == 1 and not clause.has("SIZE") else ""
    return MeasureRequest(
        MeasureKind.SIZE, of=one.reference, attribute=attribute, unit=_unit(clause)
    )


def height(clause: Clause) -> MeasureRequest | None:
    """Of a thing, or of its top above the floor."""
    one = clause.asked
    if one is None or (clause.has("TALL") and not clause.has("HOW", "UNIT", "WHAT", "HEIGHT")):
        return None
    if clause.has("BIG") and clause.has("TALL"):
        return None
    if clause.has("TOP") and not clause.has("TALL", "HEIGHT", "UNIT", "VERTICAL"):
        return None
    return MeasureRequest(MeasureKind.HEIGHT, of=one.reference, unit=_unit(clause))


def nearest(clause: Clause) -> MeasureRequest | None:
    """What is nearest to a thing, of any name or of one; or its colour."""
    at, colors = clause.at("NEAREST"), clause.at("COLOR")
    if len(at) != 1 or len(colors) > 1 or clause.after(at[0]) == "COLOR":
        return None
    if any(clause.before(one.at) in ("and", "or") for one in clause.named):
        return None
    if any(one.thing.article == "every" for one in clause.named):
        return None
    is_whether = clause.tokens[0].word in ("is", "are", "am", "does", "do")
    if clause.after(at[0]) == "in" or (is_whether and not clause.has("WHAT")):
        return None
    if clause.has("REFER") and sum(not one.is_group for one in clause.named) > 2:
        return None
    anchors, groups = _anchors_and_groups(clause, at[0])
    if len(anchors) != 1 or len(groups) > 1 or any(group.largest for group in groups):
        return None
    numbers = [
        int(token.word[3:])
        for i, token in enumerate(clause.tokens)
        if token.word.startswith("NUM") and clause.before(i) != "of"  # which of the three
    ]
    number = numbers[0] if numbers else 1
    attribute = "color" if colors else ""
    if not NUMBER[0] <= number <= NUMBER[1] or (attribute and number > 1):
        return None
    category = groups[0].thing.category if groups else ""
    return MeasureRequest(
        MeasureKind.NEAREST, to=anchors[0], category=category, k=number, attribute=attribute
    )


def _anchors_and_groups(clause: Clause, at: int) -> tuple[list[Reference], list[Named]]:
    """What something is nearest to, by the words before it, and of which things the nearest is
    asked for; at: where `nearest` stands.
    """
    sure: list[Reference] = []
    groups: list[Named] = []
    either: list[Named] = []
    for one in clause.named:
        before = clause.before(one.at)
        is_asked = before in ("what", "which") and not one.thing.article
        is_bare = before == "NEAREST" and not (one.thing.article or one.thing.point_m)
        is_colored = before == "of" and clause.before(one.at, ("of",)) == "COLOR"
        if one.is_group or one.thing.number or is_asked:
            groups.append(one)
        elif before in TOWARDS and not is_bare and not is_colored:
            sure.append(one.reference)
        else:
            either.append(one)
    sure += [ROBOT for _ in clause.robots]
    if sure:
        return sure, [*groups, *either]
    if len(either) == 2 and either[0].at < at < either[1].at:  # `the ball nearest green bed`
        return [either[1].reference], [either[0]]
    if len(either) == 2 and clause.before(either[1].at) == "NEAREST":
        return [], []
    return [one.reference for one in either], groups


def within(clause: Clause) -> MeasureRequest | None:
    """What, or how many, are within a radius, or whether the thing named is. Raises
    InvalidRequestError for a radius out of its range.
    """
    if len(clause.measured.lengths) != 1:
        return None
    if any(one.largest and clause.before(one.at) not in TOWARDS for one in clause.named):
        return None
    radius_m, unit = clause.measured.lengths[0]
    low, high = RADIUS_M
    if not low <= radius_m <= high:
        raise InvalidRequestError(
            f"a radius of {radius_m:g} m is asked for; it must be between {low:g} and {high:g} m."
        )
    groups = [one for one in clause.named if _is_looked_for(clause, one)]
    meant = [one.reference for one in clause.named if one not in groups]
    meant += [ROBOT for _ in clause.robots]
    if len(groups) > 1 or not meant or any(one.thing.number for one in clause.named):
        return None
    category = groups[0].thing.category if groups else ""
    base = MeasureRequest(
        MeasureKind.WITHIN,
        to=meant[-1],
        category=category,
        radius_m=radius_m,
        unit=unit if unit in _UNITS else "m",
    )
    return _of_one(clause, base, meant[0]) if len(meant) == 2 else _of_all(clause, base, meant)


def _of_one(clause: Clause, base: MeasureRequest, of: Reference) -> MeasureRequest | None:
    """Whether the one is within the radius of the other."""
    if base.category or not clause.is_yes_no or clause.has("HOWMANY", "WHAT"):
        return None
    return MeasureRequest(
        MeasureKind.WITHIN,
        of=of,
        to=base.to,
        radius_m=base.radius_m,
        unit=base.unit,
        attribute="yes_no",
    )


def _of_all(clause: Clause, base: MeasureRequest, meant: list[Reference]) -> MeasureRequest | None:
    """What is within the radius, how many, or whether something of the name is."""
    if len(meant) != 1:
        return None
    kind, attribute = base.kind, ""
    if clause.has("HOWMANY"):
        kind = MeasureKind.COUNT
    else:
        is_listed = clause.has("LIST", "ALL", "WHAT") or bool(_LISTING & clause.words)
        asks_which = "LIST" in clause.words  # `are there any, and which ones`
        if is_listed and not asks_which and clause.tokens[0].word in ("is", "are", "does", "do"):
            return None  # whether all of them are
        if not base.category and not (is_listed or clause.has("ANY", "GENERIC")):
            return None
        attribute = "yes_no" if base.category and clause.is_yes_no and not is_listed else ""
        if attribute and any(_is_all(one) for one in clause.named):
            return None
    return MeasureRequest(
        kind,
        to=base.to,
        category=base.category,
        radius_m=base.radius_m,
        unit=base.unit,
        attribute=attribute,
    )


def _is_all(one: Named) -> bool:
    """Whether all of a name are meant: "the chairs", "every chair"."""
    definite = one.thing.article in ("the", "your", "my", "our", "these", "those")
    return one.thing.article == "every" or (one.thing.is_plural and definite)


def _is_looked_for(clause: Clause, one: Named) -> bool:
    return one.is_group or clause.before(one.at) in ("what", "which", "HOWMANY")


def count(clause: Clause) -> MeasureRequest | None:
    """How many of a name, or of a colour, there are."""
    colors = [clause.tokens[i].word for i in clause.at("COLORED")]
    if not clause.named and clause.has("GENERIC") and len(colors) == 1:
        return MeasureRequest(MeasureKind.COUNT, category=f"{colors[0]} object")
    if len(clause.named) != 1 or clause.robots or len(colors) > 1 or clause.named[0].largest:
        return None
    thing = clause.named[0].thing
    is_from_there = clause.before(clause.named[0].at) == "from" and clause.has("GENERIC", "SEE")
    if is_from_there or clause.is_located(clause.named[0]):
        return None
    if thing.number or thing.point_m:
        return None
    if colors and thing.words.split()[0] in COLORS:
        return None  # of several colours
    return MeasureRequest(MeasureKind.COUNT, category=" ".join([*colors, thing.category]))


def _unit(clause: Clause) -> str:
    taken = clause.measured
    units = [taken.unit, *(unit for _, unit in taken.lengths)]
    return next((unit for unit in units if unit in _UNITS), "m")
