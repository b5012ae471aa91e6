"""What of a question a detector's objects answer: more than the measures of a model's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ada3d_ros.measures import MeasureKind, MeasureRequest

if TYPE_CHECKING:
    from ada3d_ros.asking.grammar import ReadQuestion

INVENTORY = "inventory"  # what there is: read for objects that are kept, no model's kind
# Kinds that only a model answers elsewhere, and what of an object answers them here.
_ATTRIBUTES = {"color": "color", "category": "category"}


def detected_request(read: ReadQuestion) -> MeasureRequest | None:
    """The request that answers it; None where no object can: a place, a description."""
    if read.request is not None:
        return read.request
    attribute = _ATTRIBUTES.get(read.kind)
    if attribute is None or len(read.things) != 1 or not read.things[0].phrase:
        return None
    return MeasureRequest(MeasureKind.WHERE, of=read.things[0], attribute=attribute)


def request_at_place(read: ReadQuestion) -> MeasureRequest | None:
    """The request that tells what is at a place, or its colour; None for another question."""
    attribute = _ATTRIBUTES.get(read.kind)
    if attribute is None or len(read.things) != 1 or read.things[0].point_m is None:
        return None
    return MeasureRequest(MeasureKind.WHERE, of=read.things[0], attribute=attribute)
