"""Which points lie on walls that go on beside a thing; rooms drawn by hand."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial.transform import Rotation

from ada3d_ros.geometry.walls import on_walls

Points = npt.NDArray[np.float64]


def patch(draw: np.random.Generator, low: list[float], high: list[float], count: int) -> Points:
    return draw.uniform(low, high, (count, 3)) + draw.normal(0, 0.01, (count, 3))


@pytest.mark.parametrize("yaw_deg", [0.0, 37.0, 90.0])
@pytest.mark.parametrize("at_m", [0.0, 50.0])
def test_points_of_a_wall_are_told_from_those_of_what_stands_before_it(
    yaw_deg: float, at_m: float
) -> None:
    draw = np.random.default_rng(1)
    thing = patch(draw, [-0.3, 0.1, 0.2], [0.3, 0.6, 1.0], 100)
    behind = patch(draw, [-0.3, 0.0, 0.2], [0.3, 0.0, 1.0], 60)
    beside = np.concatenate(
        [
            patch(draw, [-1.0, 0.0, 0.2], [-0.4, 0.0, 1.0], 150),
            patch(draw, [0.4, 0.0, 0.2], [1.0, 0.0, 1.0], 150),
            patch(draw, [-1.0, 0.0, 0.0], [1.0, 1.0, 1.0], 60),  # clutter
        ]
    )
    turn = Rotation.from_euler("z", yaw_deg, degrees=True).as_matrix()
    own, wall, around = (part @ turn.T + at_m for part in (thing, behind, beside))
    assert on_walls(own, around).mean() < 0.1
    assert on_walls(wall, around).mean() > 0.95
    again = on_walls(wall, around), on_walls(wall, around)
    assert np.array_equal(*again)


def test_a_corner_has_two_walls() -> None:
    draw = np.random.default_rng(2)
    one, two = ([0.0, 0.0, 0.2], [0.0, 1.5, 1.2]), ([0.0, 0.0, 0.2], [1.5, 0.0, 1.2])
    around = np.concatenate([patch(draw, *one, 200), patch(draw, *two, 200)])
    points = np.array([[0.0, 0.4, 0.5], [0.4, 0.0, 0.5], [0.4, 0.4, 0.5]])
    assert on_walls(points, around).tolist() == [True, True, False]


@pytest.mark.parametrize("count", [0, 1, 19, 300])
def test_few_points_or_such_as_lie_anywhere_are_no_wall(count: int) -> None:
    around = np.random.default_rng(3).uniform(-1, 1, (count, 3))
    points = np.random.default_rng(4).uniform(-1, 1, (50, 3))
    assert not on_walls(points, around).any()
    one_place = np.ones((count, 3))
    assert not on_walls(points, one_place).any()


def test_no_points_of_its_own() -> None:
    assert on_walls(np.empty((0, 3)), np.zeros((100, 3))).shape == (0,)
