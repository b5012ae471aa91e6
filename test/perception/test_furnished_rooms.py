"""Rooms of furniture that hides other furniture, through a detector that errs: each thing is one
object, and nothing else is.

Other arrangements than those that lifting and merging were made on.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ada3d_ros.geometry.measure.relations import stands_on
from ada3d_ros.perception.lifting import lift_all
from ada3d_ros.perception.object_map import ObjectMap
from ada3d_ros.types import Box3D
from test.support.erring_detector import ErringDetector, Errors
from test.support.furnished import (
    Furnished,
    Piece,
    backpack,
    cabinet,
    carried,
    chair,
    cup,
    film,
    laptop,
    plant,
    screen,
    sofa,
    table,
)

ERRORS = Errors(
    instead={
        "couch": {"chair": 0.15, "bed": 0.05},
        "backpack": {"suitcase": 0.15, "handbag": 0.1},
        "cup": {"bowl": 0.1},
        "tv": {"laptop": 0.1},
    },
    also={
        "couch": {"chair": 0.2, "bed": 0.05},
        "backpack": {"suitcase": 0.15},
        "chair": {"couch": 0.08},
    },
    parts={"couch": {"chair": 0.2}, "dining table": {"dining table": 0.08}},
)
ROOMS = {
    # A sofa in a corner, a desk behind its back, an armchair and a low table before it.
    "lounge": (
        sofa(2.1).put(-0.6, -0.4, -35),
        backpack().put(-0.2, -0.55, -20, z=0.42),
        table(1.3, 0.65, 0.74).put(-1.5, -1.6, -35),
        table(0.8, 0.8, 0.42).put(0.3, 0.75, 10),
        chair().put(1.5, -0.7, 60),
        plant().put(1.7, 1.5),
    ),
    # A table with chairs on three sides, things on it, a screen on a cabinet.
    "kitchen": (
        table(1.6, 0.9, 0.75).put(0.2, -0.1, 25),
        cup().put(0.5, 0.1, z=0.75),
        laptop().put(-0.2, -0.2, 200, z=0.75),
        chair().put(-0.35, 0.65, 205),
        chair().put(0.75, -0.85, 25),
        chair().put(1.25, 0.4, 115),
        cabinet(1.0, 0.8).put(-2.4, 0.5, -90),
        screen(0.7).put(-2.4, 0.5, -90, z=0.8),
    ),
}


def objects_of(pieces: tuple[Piece, ...], seed: int) -> list[Box3D]:
    """What is known after a walk of 240 degrees around the room's middle."""
    random = np.random.default_rng(seed)
    angles = np.radians(np.linspace(0, 240, 7) + random.uniform(0, 360))
    eyes = [(2.6 * np.cos(a), 2.6 * np.sin(a), random.normal(1.4, 0.1)) for a in angles]
    targets = [(*random.normal(0, 0.5, 2), 0.5) for _ in angles]
    detector = ErringDetector(pieces, ERRORS, seed)
    map_ = ObjectMap(3, 0.45)
    for index, seen in enumerate(film(Furnished(pieces), carried(eyes, targets, 30), seed)):
        candidates = lift_all(seen.frame, detector.see(seen).detections).candidates
        map_.add(seen.frame, candidates, is_keyframe=index % 4 == 0)
    return [found.detection.box for found in map_.found()]


def kind_of(box: Box3D) -> str:
    kinds = {piece.kind for pieces in ROOMS.values() for piece in pieces} | {"bed", "suitcase"}
    return next((k for k in sorted(kinds, key=len)[::-1] if box.label.endswith(k)), box.label)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", ROOMS)
def test_each_thing_is_one_object(name: str, seed: int) -> None:
    pieces = ROOMS[name]
    boxes = objects_of(pieces, seed)
    found, true = Counter(map(kind_of, boxes)), Counter(p.kind for p in pieces if p.kind)
    assert set(found) == set(true)
    assert found["couch"] == true["couch"]
    assert sum((found - true).values()) + sum((true - found).values()) <= 1, (found, true)

    # Each where a piece of its kind stands.
    for box in boxes:
        apart_m = [
            np.linalg.norm((box.center_m - np.mean(piece.extent_m(), axis=0))[:2])
            for piece in pieces
            if piece.kind == kind_of(box)
        ]
        assert min(apart_m) <= 0.35, box
    if name == "lounge":
        things = {kind_of(box): box for box in boxes}
        assert stands_on(things["backpack"], things["couch"])


def test_a_table_behind_a_sofa_is_not_lifted_onto_it() -> None:
    """Its box, drawn around all of it, holds the sofa's back; with the sofa's own box or without
    it the table lies where it stands.
    """
    pieces = (sofa(2.4).put(0, 0), table(1.4, 0.8, 0.76).put(0.1, -1.6))
    errors = Errors(shaky=0.0, missed=0.0, through=1.0)
    detector = ErringDetector(pieces, errors, 0)
    poses = carried([(-1.0, 2.2, 1.8), (1.0, 2.2, 1.8)], [(0, -0.6, 0.6)] * 2, 5)
    views = 0
    for seen in film(Furnished(pieces), poses):
        detections = detector.see(seen).detections
        if {each.label for each in detections} != {"couch", "dining table"}:
            continue  # missed: the detector misses more of what is hidden
        views += 1
        only_table = [each for each in detections if each.label == "dining table"]
        for shown in (detections, only_table):
            lifted = {each.label: each.box for each in lift_all(seen.frame, shown).candidates}
            assert lifted["dining table"].center_m[:2] == pytest.approx([0.1, -1.6], abs=0.35)
            assert lifted["dining table"].center_m[2] == pytest.approx(0.74, abs=0.1)
    assert views >= 3
