"""Names that point at an object of another name."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from ada3d_ros.asking.object_source import SceneQuery
from ada3d_ros.asking.resolve import NameResolver
from ada3d_ros.config import AgentConfig
from ada3d_ros.errors import NotGroundedError
from ada3d_ros.measures import MeasureKind, MeasureRequest, ObjectsSnapshot, Reference, SceneObject
from ada3d_ros.types import Box3D
from test.support.measured import box

WHITE, BLUE = Reference(phrase="white lamp"), Reference(phrase="blue lamp")
BED = Reference(phrase="red bed")
LISTED = (
    SceneObject("1", "blue lamp", box([1, 0, 0.4], label="blue lamp"), ("white lamp",)),
    SceneObject("2", "red bed", box([-1, 2, 0.3], label="red bed")),
)


class Finder:
    """Every name points where the lamp is listed, at a low score."""

    words: frozenset[str] = frozenset()
    listed_score = 0.3

    def find(
        self, phrases: Sequence[str], max_boxes: int, min_score: float
    ) -> list[tuple[Box3D, ...]]:
        return [(replace(box([1, 0, 0.4], label=phrase), score=0.6),) for phrase in phrases]


def resolver() -> NameResolver:
    query = cast(SceneQuery, SimpleNamespace(config=AgentConfig()))
    return NameResolver(query, ObjectsSnapshot(LISTED, complete=True), Finder())


def test_an_object_is_taken_for_its_second_choice() -> None:
    resolve = resolver()
    things = resolve.resolve(MeasureRequest(MeasureKind.DISTANCE, of=WHITE, to=BED))
    assert things.of is not None
    assert things.of.box.center_m.tolist() == [1, 0, 0.4]
    assert resolve.assumptions == ["The blue lamp was taken for white lamp."]


def test_an_object_that_is_named_as_well_is_taken_for_nothing_else() -> None:
    """Who names both lamps means two."""
    for pair in ((WHITE, BLUE), (BLUE, WHITE)):
        with pytest.raises(NotGroundedError, match="no white lamp is found"):
            resolver().resolve(MeasureRequest(MeasureKind.DISTANCE, of=pair[0], to=pair[1]))
