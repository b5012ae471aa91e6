"""A question that was read: its kind, what to measure, and what it names."""

from __future__ import annotations

from dataclasses import dataclass

from ada3d_ros.asking.frames import LAST_SEEN
from ada3d_ros.measures import MeasureKind, MeasureRequest, Reference

INVENTORY = "inventory"
# The kinds' names as models list them (LlavaConfig.question_kinds); others have none.
_MODEL_KINDS = {
    MeasureKind.COUNT: "count",
    MeasureKind.NEAREST: "nearest",
    MeasureKind.WITHIN: "within",
    MeasureKind.DIRECTION: "relation",
    MeasureKind.ON: "on",
    MeasureKind.UNDER: "under",
    MeasureKind.BETWEEN: "between",
    MeasureKind.EXISTS: "existence",
    MeasureKind.LARGEST: "superlative",
    MeasureKind.TALLEST: "superlative",
    MeasureKind.WHERE: "grounding",
}


@dataclass(frozen=True, slots=True)
class ReadQuestion:
    """A question that the grammar reads.

    kind: its name in a model's question_kinds, or distance, size, height, free_floor, inventory
    that only measures answer; request: what to measure, None where only a model answers; things:
    all that it names; choices: colours, of a question whether the one that it asks for is this one,
    or which of several.
    """

    kind: str
    request: MeasureRequest | None
    things: tuple[Reference, ...] = ()
    choices: tuple[str, ...] = ()


def kind_of(request: MeasureRequest) -> str:
    """Its name as models list it."""
    if request.attribute == "list":
        return INVENTORY
    if request.attribute == LAST_SEEN:
        return LAST_SEEN
    if request.kind is MeasureKind.DIRECTION and request.category:
        return "side"
    if request.kind is MeasureKind.NEAREST and request.attribute == "color":
        return "multihop"
    if request.kind is MeasureKind.COUNT and request.to is not None:
        return "within"
    return _MODEL_KINDS.get(request.kind, request.kind.name.lower())
