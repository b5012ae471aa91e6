"""Left, right, behind, in front in free word order: from a viewpoint, or as the robot sees it."""

from __future__ import annotations

from ada3d_ros.asking.free_order.clause import ROBOT, Clause, Named
from ada3d_ros.measures import LEFT_RIGHT, MeasureKind, MeasureRequest

SIDES = {"SIDEleft": "left", "SIDEright": "right", "SIDEbehind": "behind", "SIDEfront": "in front"}
# Words that the thing stands behind where somebody is.
PLACES = ("at", "by", "beside", "near", "STANDAT", "from", "alongside", "on", "next")


def direction(clause: Clause) -> MeasureRequest | None:
    """Standing at one thing and facing another: the side of a third one, or whether it is on the
    side that is named.
    """
    robots = [i for i in clause.robots if clause.tokens[i].word == "ROBOT"]
    if any(one.is_group or one.thing.number for one in clause.named):
        return None
    is_own = "you" in clause.words or [clause.before(i) for i in robots] in (["from"], ["at"])
    if len(clause.named) == 2 and is_own:
        return _from_robot(clause)
    if any(clause.after(i) not in ("T", "from", "you", "me", "at") for i in clause.at("FACE")):
        return None  # `and turn right`
    sides = [(i, t.word) for i, t in enumerate(clause.tokens) if t.word in SIDES]
    faced, sides = _faced(clause, sides)
    others = [one for one in clause.named if one is not faced]
    placed = [one for one in others if _stands_at(clause, one)]
    if len(placed) == 2:
        placed = [one for one in placed if clause.before(one.at) == "STANDAT"]
    if faced is None or len(clause.named) != 3 or len(placed) != 1:
        return None
    (asked,) = (one for one in others if one is not placed[0])
    names = list(dict.fromkeys(SIDES[word] for _, word in sides))
    is_one = len(names) == 1
    if is_one == clause.has("WHICHSIDE", "WHERE") and len(names) < 2:
        return None
    if is_one and not _is_asked(clause, asked):
        return None
    return MeasureRequest(
        MeasureKind.DIRECTION,
        of=asked.reference,
        to=placed[0].reference,
        third=faced.reference,
        attribute="yes_no" if is_one else "",
        category=names[0] if is_one else "",
    )


def _faced(
    clause: Clause, sides: list[tuple[int, str]]
) -> tuple[Named | None, list[tuple[int, str]]]:
    """What is faced, by the words beside it, and the sides that are left to be asked for."""
    found = [one for one in clause.named if clause.before(one.at) == "FACE"]
    if not found and clause.has("FACED"):
        at = clause.at("FACED")[0]
        found = [one for one in clause.named if one.at < at][-1:]
    if not found and not clause.has("FACE"):  # `with the lamp straight ahead`
        for at, word in sides:
            ahead = [one for one in clause.named if word == "SIDEfront" and one.at == at - 1]
            if ahead and clause.before(at - 1) in ("with", "and", "having", "have"):
                found, sides = ahead, [side for side in sides if side[0] != at]
                break
    if not found and clause.has("FACE") and clause.after(clause.at("FACE")[0]) == "from":
        found = [one for one in clause.named if clause.before(one.at) in ("to", "towards", "at")]
    return (found[0] if len(found) == 1 else None), sides


def _from_robot(clause: Clause) -> MeasureRequest | None:
    """From where the robot is, facing a thing."""
    faced = [one for one in clause.named if clause.before(one.at) == "FACE"]
    names = [SIDES[word] for word in SIDES if word in clause.words]
    asks_which = clause.has("WHICHSIDE", "WHERE")
    if len(faced) != 1 or (len(names) == 1) == asks_which or not (names or asks_which):
        return None
    (asked,) = (one for one in clause.named if one is not faced[0])
    if _stands_at(clause, asked) or (len(names) == 1 and not _is_asked(clause, asked)):
        return None
    return MeasureRequest(
        MeasureKind.DIRECTION,
        of=asked.reference,
        to=ROBOT,
        third=faced[0].reference,
        attribute="yes_no" if len(names) == 1 else "",
        category=names[0] if len(names) == 1 else "",
    )


def _stands_at(clause: Clause, one: Named) -> bool:
    return clause.before(one.at) in PLACES or clause.after(one.at) == "ASPLACE"


def _is_asked(clause: Clause, one: Named) -> bool:
    """Whether it is asked if a thing is somewhere, and not said."""
    return clause.asks or clause.has("YN", "IF") or any(i < one.at for i in clause.at("AUX"))


def side(clause: Clause) -> MeasureRequest | None:
    """As the robot sees it: the side of a thing, or left and right of another one."""
    names = list(dict.fromkeys(SIDES[t.word] for t in clause.tokens if t.word in SIDES))
    if any(one.is_group or one.thing.number for one in clause.named):
        return None
    asks_which = clause.has("WHICHSIDE", "WHERE")
    is_one = len(names) == 1 and not asks_which
    if len(clause.named) == 2 and is_one and names[0] in ("left", "right"):
        return _beside_another(clause, names[0])
    if len(clause.named) != 1 or (not names and not clause.has("WHICHSIDE")):
        return None
    if len(names) == 1 and asks_which:
        return None
    one = clause.named[0]
    own = {"you", "your", "me", "my"} & {*clause.measured.words.split()}
    if not own and not clause.has("VIEW", "ROBOT", "WHICHSIDE"):
        return None
    is_asked_for = clause.before(one.at) in ("what", "which") and not one.thing.article
    if is_asked_for or clause.is_located(one) or clause.before(one.at) in ("of", "behind"):
        return None
    if is_one and not _is_asked(clause, one):
        return None
    return MeasureRequest(
        MeasureKind.DIRECTION,
        of=one.reference,
        to=ROBOT,
        attribute="yes_no" if is_one else "",
        category=names[0] if is_one else "",
    )


def _beside_another(clause: Clause, name: str) -> MeasureRequest | None:
    """Whether one is left or right of another."""
    at = next(i for i, token in enumerate(clause.tokens) if token.word in SIDES)
    behind = [
        one
        for one in clause.named
        if one.at == at + 1 or (one.at == at + 2 and clause.before(one.at) in ("of", "from", "to"))
    ]
    if len(behind) != 1 or not clause.is_yes_no:
        return None
    (of,) = (one for one in clause.named if one is not behind[0])
    return MeasureRequest(
        MeasureKind.DIRECTION,
        of=of.reference,
        to=ROBOT,
        third=behind[0].reference,
        attribute=LEFT_RIGHT,
        category=name,
    )
