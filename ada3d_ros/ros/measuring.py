"""A request of ~/measure as the pipeline takes it."""

from __future__ import annotations

from typing import Any, NamedTuple

from ada3d_ros.asking.references import parse_reference
from ada3d_ros.errors import InvalidRequestError
from ada3d_ros.measures import NUMBER, MeasureKind, MeasureRequest, Reference
from ada3d_ros.ros.conversions import NAN, Request, checked_radius_m, checked_timeout_s
from ada3d_ros.types import Question


class Fields(NamedTuple):
    """The fields that a kind must have, and those that it may have."""

    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()


FIELDS = {
    MeasureKind.DISTANCE: Fields(("a", "b"), ("centers",)),
    MeasureKind.SIZE: Fields(("a",)),
    MeasureKind.HEIGHT: Fields(("a",)),
    MeasureKind.NEAREST: Fields(("b",), ("name", "k")),
    MeasureKind.WITHIN: Fields(("b", "radius_m"), ("name",)),
    MeasureKind.COUNT: Fields((), ("name", "b", "radius_m")),
    MeasureKind.DIRECTION: Fields(("a", "b"), ("c",)),
    MeasureKind.ON: Fields(("b",), ("a", "name")),
    MeasureKind.UNDER: Fields(("b",), ("a", "name")),
    MeasureKind.BETWEEN: Fields(("b", "c"), ("a", "name")),
    MeasureKind.FREE_FLOOR: Fields(("b",)),
    MeasureKind.EXISTS: Fields(("name",)),
    MeasureKind.LARGEST: Fields((), ("name",)),
    MeasureKind.TALLEST: Fields((), ("name",)),
    MeasureKind.WHERE: Fields(("a",)),
}
DEFAULTS = {"k": 1, "radius_m": 0.0, "centers": False}  # a field that has these is not given


def request_from_measure(message: Any) -> Request:
    """A Measure request. Raises InvalidRequestError for a kind that there is not, a field that the
    kind lacks or does not take, a number outside its range, or a place that is none.
    """
    kind = _kind_of(message.kind)
    _check_fields(kind, _given(message))
    if not NUMBER[0] <= message.k <= NUMBER[1]:
        raise InvalidRequestError(f"k = {message.k}; allowed: {NUMBER[0]} to {NUMBER[1]}.")
    measure = MeasureRequest(
        kind=kind,
        of=_reference(message.a),
        to=_reference(message.b),
        third=_reference(message.c),
        category=" ".join(message.name.split()),
        k=int(message.k),
        radius_m=checked_radius_m(message.radius_m) if message.radius_m else NAN,
        centers=bool(message.centers),
    )
    question = Question(describe(message))
    return Request(question, measure=measure, timeout_s=checked_timeout_s(message))


def describe(message: Any) -> str:
    """The request in words, which stand as the question of its answer: `DISTANCE a: the red chair,
    b: robot`.
    """
    names = {kind.value: kind.name for kind in MeasureKind}
    given = [f"{name}: {getattr(message, name)}" for name in _given(message)]
    return f"{names.get(message.kind, message.kind)} {', '.join(given)}".strip()


def _given(message: Any) -> list[str]:
    """The fields that a request sets, in their order."""
    words = [name for name in ("a", "b", "c", "name") if getattr(message, name).strip()]
    return words + [name for name in DEFAULTS if getattr(message, name) != DEFAULTS[name]]


def _kind_of(number: int) -> MeasureKind:
    if number not in FIELDS:
        allowed = ", ".join(f"{kind.value} ({kind.name})" for kind in FIELDS)
        raise InvalidRequestError(f"kind = {number}; allowed: {allowed}.")
    return MeasureKind(number)


def _check_fields(kind: MeasureKind, given: list[str]) -> None:
    """Raise InvalidRequestError where one is missing, or is there and would be passed over."""
    fields = FIELDS[kind]
    missing = [name for name in fields.needed if name not in given]
    unused = [name for name in given if name not in (*fields.needed, *fields.optional)]
    if missing or unused:
        what = f"{missing[0]} is missing" if missing else f"{unused[0]} has no meaning for it"
        takes = ", ".join(fields.needed) or "nothing"
        may = f", may have {', '.join(fields.optional)}" if fields.optional else ""
        raise InvalidRequestError(f"{kind.name}: {what}; it needs {takes}{may} (see Measure.srv).")


def _reference(text: str) -> Reference | None:
    return parse_reference(text) if text.strip() else None
