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
    """Every name points where the lamp is listed, at a low score. closer: what a closer look shows,
    by name; asked: which names that was asked for.
    """

    words: frozenset[str] = frozenset()
    listed_score = 0.3

    def __init__(self, closer: dict[str, Box3D]) -> None:
        self.closer = closer
        self.asked: list[str] = []

    def find(
        self, phrases: Sequence[str], max_boxes: int, min_score: float
    ) -> list[tuple[Box3D, ...]]:
        return [(replace(box([1, 0, 0.4], label=phrase), score=0.6),) for phrase in phrases]

    def find_closer(self, name: str) -> Box3D | None:
        self.asked.append(name)
        return self.closer.get(name)


def resolver(**closer: Box3D) -> NameResolver:
    """closer: by name, _ for a space."""
    query = cast(SceneQuery, SimpleNamespace(config=AgentConfig()))
    finder = Finder({name.replace("_", " "): shown for name, shown in closer.items()})
    return NameResolver(query, ObjectsSnapshot(LISTED, complete=True), finder)


def test_an_object_is_taken_for_its_second_choice() -> None:
    resolve = resolver()
    things = resolve.resolve(MeasureRequest(MeasureKind.DISTANCE, of=WHITE, to=BED))
    assert things.of is not None
    assert things.of.box.center_m.tolist() == [1, 0, 0.4]
    assert resolve.assumptions == ["The blue lamp was taken for white lamp."]
    assert isinstance(resolve.finder, Finder)
    assert not resolve.finder.asked


def test_an_object_that_is_named_as_well_is_taken_for_nothing_else() -> None:
    """Who names both lamps means two."""
    for pair in ((WHITE, BLUE), (BLUE, WHITE)):
        with pytest.raises(NotGroundedError, match="no white lamp is found"):
            resolver().resolve(MeasureRequest(MeasureKind.DISTANCE, of=pair[0], to=pair[1]))


def test_what_only_a_closer_look_shows_is_said_to_be_so() -> None:
    """What has no object's name, nor points at anything else, is looked for there."""
    resolve = resolver(green_ball=replace(box([0, 1, 0.1]), score=0.01))
    ball = Reference(phrase="green ball")
    things = resolve.resolve(MeasureRequest(MeasureKind.DISTANCE, of=ball, to=BED))
    assert things.of is not None
    assert things.of.box.label == "green ball"
    assert things.of.box.center_m.tolist() == [0, 1, 0.1]
    assert resolve.assumptions == [
        "A closer look shows the green ball, which is not among the known objects."
    ]
    with pytest.raises(NotGroundedError, match="no green ball is found"):
        resolver().resolve(MeasureRequest(MeasureKind.DISTANCE, of=ball, to=BED))


def test_a_closer_look_takes_no_object_that_is_named_as_well() -> None:
    """One that is not named may have the wrong label."""
    shown = box([1, 0, 0.4])
    resolve = resolver(white_lamp=shown)
    with pytest.raises(NotGroundedError, match="no white lamp is found"):
        resolve.resolve(MeasureRequest(MeasureKind.DISTANCE, of=WHITE, to=BLUE))
    barrel = Reference(phrase="blue barrel")
    things = resolver(blue_barrel=shown).resolve(
        MeasureRequest(MeasureKind.DISTANCE, of=barrel, to=BED)
    )
    assert things.of is not None
    assert things.of.box.center_m.tolist() == [1, 0, 0.4]
