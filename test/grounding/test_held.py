"""A table's top is its own, whatever stands on it."""

import numpy as np
import pytest

from ada3d_ros.geometry.measure.relations import bottom_m, top_m
from ada3d_ros.grounding.held import without_held
from ada3d_ros.types import Box3D


def box(x: float, y: float, low: float, size: tuple[float, float, float]) -> Box3D:
    return Box3D(np.array([x, y, low + size[2] / 2]), np.array(size), label="x", score=0.9)


def surface(of: Box3D, count: int, rng: np.random.Generator) -> np.ndarray:
    """Readings on its top and its sides, (count, 3)."""
    points = rng.uniform(-0.5, 0.5, (count, 3))
    points[: count // 2, 2] = 0.5
    points[count // 2 :, 0] = np.where(points[count // 2 :, 0] > 0, 0.5, -0.5)
    return points * of.size_m + of.center_m


TABLE = box(1.0, 2.0, 0.0, (1.2, 0.8, 0.7))
LAMP = box(1.3, 2.1, 0.7, (0.25, 0.25, 0.5))
BOTH = box(1.0, 2.0, 0.0, (1.2, 0.8, 1.0))  # as depth shows the table


@pytest.fixture
def points() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate((surface(TABLE, 4000, rng), surface(LAMP, 800, rng)))


def test_what_stands_on_a_table_is_not_of_it(points: np.ndarray) -> None:
    own = without_held(points, BOTH, [BOTH, LAMP])
    assert top_m(own) == pytest.approx(0.7, abs=0.01)
    assert bottom_m(own) == pytest.approx(0.0)
    assert own.size_m[:2].tolist() == [1.2, 0.8]
    assert (own.label, own.score) == ("x", 0.9)


@pytest.mark.parametrize(
    "other",
    [
        box(1.0, 2.0, 0.0, (0.3, 0.3, 0.3)),  # under it
        box(2.5, 2.0, 0.7, (0.3, 0.3, 0.3)),  # beside it
        box(1.0, 2.0, 1.3, (0.3, 0.3, 0.3)),  # over it, in the air
        box(1.0, 2.0, 0.7, (1.2, 0.8, 0.3)),  # covers it: nothing tells the two apart
    ],
)
def test_what_does_not_stand_on_it_changes_nothing(points: np.ndarray, other: Box3D) -> None:
    assert without_held(points, BOTH, [BOTH, other]) is BOTH


def test_a_thing_of_which_nothing_else_is_seen_stays(points: np.ndarray) -> None:
    of_the_lamp = points[4000:]
    assert without_held(of_the_lamp, BOTH, [BOTH, LAMP]) is BOTH
