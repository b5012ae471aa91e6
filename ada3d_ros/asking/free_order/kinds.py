"""Which kind a question in free word order is of: the one whose classes all of its words are of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ada3d_ros.asking.free_order import measured_kinds as measured
from ada3d_ros.asking.free_order import other_kinds as other
from ada3d_ros.asking.free_order import sides
from ada3d_ros.asking.free_order.clause import (
    Clause,
    clause_of,
    clause_without_preamble,
)
from ada3d_ros.asking.read_question import ReadQuestion, kind_of
from ada3d_ros.measures import MeasureKind, MeasureRequest

_ANYWHERE = frozenset(("", "HOW", "WHAT", "AUX", "IF", "HERE", "YN"))
_SIDES = " ".join(sides.SIDES)


@dataclass(frozen=True, slots=True)
class Kind:
    """needs: a word of each of these groups of classes (`FAR|SPACE`) has to be there; may: classes
    that may be there, too; read: what is asked for, None where that does not follow.
    """

    needs: str
    may: str
    read: Callable[[Clause], MeasureRequest | ReadQuestion | None]
    _needed: tuple[frozenset[str], ...] = field(init=False)
    _allowed: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        needed = tuple(frozenset(group.split("|")) for group in self.needs.split())
        object.__setattr__(self, "_needed", needed)
        object.__setattr__(self, "_allowed", _ANYWHERE.union(self.may.split(), *needed))

    def fits(self, clause: Clause) -> bool:
        """Whether the words are of this kind's classes alone."""
        return all(group & clause.classes for group in self._needed) and all(
            token.classes & self._allowed for token in clause.tokens if token.classes
        )


def read_in_free_order(text: str) -> ReadQuestion | None:
    """What a question asks for, where the words of one kind alone explain all of it. Raises
    InvalidRequestError for a radius out of its range, and for brackets that are no place.
    """
    read = _read(clause_of(text))
    return _read(clause_without_preamble(text)) if read is None else read


def _read(clause: Clause | None) -> ReadQuestion | None:
    if clause is None or clause.is_restricted or clause.is_said:
        return None
    found: list[ReadQuestion] = []
    for kind in KINDS:
        read = kind.read(clause) if kind.fits(clause) else None
        if isinstance(read, MeasureRequest):
            things = tuple(r for r in (read.of, read.to, read.third) if r is not None)
            read = ReadQuestion(kind_of(read), read, things)
        if read is not None and read not in found:
            found.append(read)
    return found[0] if len(found) == 1 else None


KINDS = (
    Kind(
        "FAR|SPACE",
        "AWAY COME BIG BETWEEN BOTH UNIT CENTER LINE MEASURE MUCH NUM ROBOT TOTAL WIDTH PRESENT",
        measured.distance,
    ),
    Kind(
        "MEASURE|LINE|UNIT|CENTER",
        "AWAY BETWEEN BOTH ROBOT BIG MUCH LENGTH COME RISE",
        measured.path,
    ),
    Kind(
        "SIZE|BIG|WIDTH|LENGTH|MEASURE",
        "UNIT SIZENOUN GENERIC TOTAL COME ON ALL MUCH",
        measured.size,
    ),
    Kind(
        "TALL|HEIGHT|TOP|VERTICAL", "RISE REACH UNIT MEASURE BIG MUCH TOTAL FLOOR", measured.height
    ),
    Kind("UNIT REACH", "RISE FLOOR", measured.height),
    Kind(
        "NEAREST",
        "AWAY ALL NUM GENERIC COLOR COMPARE LIST ROBOT SEE PRESENT MEASURE FIND WHO REFER",
        measured.nearest,
    ),
    Kind(
        "WITHIN",
        "LEN HOWMANY ANY LIST GENERIC AWAY ROBOT SEE PRESENT ALL CENTER FAR LINE ON WHO FIND COME",
        measured.within,
    ),
    Kind("HOWMANY", "PRESENT ALL GENERIC SEE COLORED LIST RISE TOTAL BIG MUCH", measured.count),
    Kind(
        "FACE|FACED|SIDEfront",
        f"{_SIDES} WHICHSIDE WHERE STANDAT OBS WHO AWAY VIEW ASPLACE RISE SEE ON IMAGINE"
        " FROMTHERE ROBOT FIND",
        sides.direction,
    ),
    Kind(f"WHICHSIDE|{'|'.join(sides.SIDES)}", "VIEW WHERE ROBOT SEE COME RISE", sides.side),
    Kind("ON", "GENERIC ANY HOWMANY LIST OCCUPY SEE ALL TOP PRESENT OBS", other.on),
    Kind("SUPPORT", "GENERIC UNDER", other.what_it_stands_on),
    Kind("UNDER", "GENERIC ANY SEE PRESENT OBS", other.under),
    Kind(
        "BETWEEN|BOTH",
        "GENERIC ANY OCCUPY SEE ROBOT LINE AWAY PRESENT NUM SPACE OBS RISE",
        other.between,
    ),
    Kind(
        "FREE FLOOR|SPOT",
        "BIG MUCH WHERE WHICHSIDE ANY SEE ROOM GENERIC ALL NUM LARGEST SIZE ON FIND PRESENT REFER",
        other.free_floor,
    ),
    Kind("", "ANY PRESENT SEE GENERIC COLORED ALL NUM", other.exists),
    Kind(
        "",
        "LARGEST ALL GENERIC COLOR SEE FIND",
        other.superlative(MeasureKind.LARGEST, "LARGEST"),
    ),
    Kind(
        "TALLEST",
        "ALL GENERIC COLOR SEE FIND RISE",
        other.superlative(MeasureKind.TALLEST, "TALLEST"),
    ),
    Kind("WHERE|FIND", "SEE AWAY OBS OCCUPY", other.where),
    Kind("COLOR|COLORED", "BELONG SEE GENERIC", other.color),
    Kind("", "GENERIC BELONG OCCUPY SEE", other.category),
    Kind("DESCRIBE|LIKE", "OBS WHO GENERIC", other.caption),
    Kind("LIST|ALL HERE|SEE|PRESENT|THERE", "GENERIC PRESENT TOTAL", other.inventory),
)
