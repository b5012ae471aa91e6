"""Parts and other names of a thing are not second things; what stands near it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ada3d_ros.perception.lifting import Candidate
from ada3d_ros.perception.object_map import ObjectMap
from ada3d_ros.scene.objects import FoundObject
from ada3d_ros.types import Box3D
from test.support.flat_things import frame_of

FORTY_FIVE = np.radians(45.0)


def solid(
    label: str,
    at: tuple[float, float, float],
    size: tuple[float, float, float],
    score: float = 0.8,
    yaw_rad: float = 0.0,
) -> Candidate:
    """A candidate whose points fill a block that is turned about its middle."""
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    steps = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, 9)] * 3), -1).reshape(-1, 3)
    points = (steps * size) @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + at
    low, high = points.min(axis=0), points.max(axis=0)
    box = Box3D((low + high) / 2, high - low, label=label, score=score, support_points=10)
    return Candidate(box, points, np.array([50.0, 0, 0]), False, 1)


def objects_of(*views: list[Candidate]) -> list[FoundObject]:
    map_ = ObjectMap(3, 0.45)
    for index, candidates in enumerate(views):
        map_.add(frame_of([], index), candidates)
    return map_.found()


def kinds_of(*views: list[Candidate]) -> list[str]:
    return sorted(o.detection.label.removeprefix("gray ") for o in objects_of(*views))


SOFA = solid("couch", (0, 0, 0.4), (2.0, 0.8, 0.8), yaw_rad=FORTY_FIVE)
SEAT = solid("chair", (0.45, 0.45, 0.45), (0.7, 0.7, 0.7), 0.6, FORTY_FIVE)
BEFORE = solid("chair", (0.75, -0.75, 0.4), (0.45, 0.45, 0.8))


def test_a_seat_of_a_sofa_is_no_chair() -> None:
    """In half of the views a box of its own, beside the box of the whole."""
    assert kinds_of(*[[SOFA, SEAT], [SOFA]] * 4) == ["couch"]
    assert kinds_of(*[[SEAT]] * 2, *[[SOFA]] * 4) == ["couch"]


def test_a_chair_before_a_turned_sofa_is_one() -> None:
    """Though it stands within the box that holds the sofa along the world's axes."""
    low, high = (SOFA.box.center_m + sign * SOFA.box.size_m / 2 for sign in (-1, 1))
    assert (np.abs(BEFORE.box.center_m - [0.75, -0.75, 0.4]) < 1e-9).all()
    assert (low[:2] < BEFORE.box.center_m[:2]).all()
    assert (BEFORE.box.center_m[:2] < high[:2]).all()
    named = solid("chair", (0, 0, 0.4), (2.0, 0.8, 0.8), 0.6, FORTY_FIVE)
    assert kinds_of(*[[SOFA, BEFORE]] * 4) == ["chair", "couch"]
    assert kinds_of(*[[SOFA, BEFORE], [named, BEFORE]] * 3) == ["chair", "couch"]


def test_as_many_views_of_each_leave_two() -> None:
    """Without clearly more evidence for one of them nothing is taken in."""
    assert kinds_of(*[[SOFA, solid("chair", (0.45, 0.45, 0.45), (0.7, 0.7, 0.7), 0.8)]] * 4) == [
        "chair",
        "couch",
    ]


@pytest.mark.parametrize("other", ["suitcase", "handbag"])
def test_a_bag_under_two_names_is_one(other: str) -> None:
    bag = solid("backpack", (0, 0, 0.6), (0.35, 0.3, 0.45))
    part = solid(other, (0.02, 0, 0.52), (0.26, 0.22, 0.25), 0.7)
    assert kinds_of(*[[bag], [bag, part], [part], [bag]] * 2) == ["backpack"]


def test_a_bag_beside_another_is_a_second_one() -> None:
    bag = solid("backpack", (0, 0, 0.6), (0.35, 0.3, 0.45))
    beside = solid("suitcase", (0.45, 0, 0.6), (0.4, 0.25, 0.6), 0.6)
    assert kinds_of(*[[bag, beside], [bag], [beside]] * 3) == ["backpack", "suitcase"]


def test_a_bag_in_the_volume_of_a_sofa_stays_a_bag() -> None:
    bag = solid("backpack", (0.2, 0.2, 0.6), (0.3, 0.2, 0.4), 0.6)
    assert kinds_of(*[[SOFA, bag], [SOFA]] * 4) == ["backpack", "couch"]


def test_a_table_that_is_the_surface_of_a_sofa_is_none() -> None:
    """As where it was seen over the sofa's back, and the back taken for it."""
    points = SOFA.xyz_m[(SOFA.xyz_m[:, 2] > 0.5) & (SOFA.xyz_m[:, 0] > -0.2)] + 0.02
    low, high = points.min(axis=0), points.max(axis=0)
    box = Box3D((low + high) / 2, high - low, label="dining table", score=0.7, support_points=10)
    back = replace(SOFA, box=box, xyz_m=points)
    assert kinds_of(*[[SOFA]] * 2, *[[SOFA, back]] * 3, *[[SOFA]] * 3) == ["couch"]


def test_a_chair_under_a_table_stays_a_chair() -> None:
    top = solid("dining table", (0, 0, 0.72), (1.4, 0.9, 0.04))
    chair = solid("chair", (0, 0.35, 0.45), (0.45, 0.5, 0.9), 0.6)
    assert kinds_of(*[[top, chair], [top]] * 4) == ["chair", "dining table"]
