"""Whether a box is seen to be empty: a camera at the origin looks along x; depth drawn by hand."""

import numpy as np
import numpy.typing as npt
import pytest

from ada3d_ros.geometry.free_space import is_seen_empty
from ada3d_ros.types import Intrinsics, RgbdFrame

SIDE = 60
CAMERA = Intrinsics(60.0, 60.0, (SIDE - 1) / 2, (SIDE - 1) / 2, SIDE, SIDE)
LOOKING_ALONG_X = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]], float)
LOW, HIGH = np.array([2.0, -0.3, -0.3]), np.array([2.5, 0.3, 0.3])


def frame_of(depth_m: npt.NDArray[np.float32]) -> RgbdFrame:
    rgb = np.zeros((SIDE, SIDE, 3), np.uint8)
    return RgbdFrame(0, rgb, depth_m, CAMERA, LOOKING_ALONG_X.copy(), "map")


def depth(value_m: float) -> npt.NDArray[np.float32]:
    return np.full((SIDE, SIDE), value_m, np.float32)


@pytest.mark.parametrize(
    ("value_m", "is_empty"),
    [(4.0, True), (2.62, True), (2.55, False), (2.2, False), (1.95, False), (1.0, False)],
    ids=["behind", "well-behind", "at-its-back", "inside", "at-its-front", "before"],
)
def test_empty_where_all_is_behind(value_m: float, is_empty: bool) -> None:
    assert is_seen_empty(frame_of(depth(value_m)), LOW, HIGH, 0.08, 6) == is_empty


def test_no_reading_says_nothing() -> None:
    assert not is_seen_empty(frame_of(depth(np.nan)), LOW, HIGH, 0.08, 6)


def test_what_is_hidden_does_not_matter_if_enough_is_not() -> None:
    half = depth(4.0)
    half[:, : SIDE // 2] = 1.0
    assert is_seen_empty(frame_of(half), LOW, HIGH, 0.08, 6)
    assert not is_seen_empty(frame_of(half), LOW, HIGH, 0.08, 400)


def test_one_reading_in_it_and_it_is_not_empty() -> None:
    one = depth(4.0)
    one[SIDE // 2, SIDE // 2] = 2.2
    assert not is_seen_empty(frame_of(one), LOW, HIGH, 0.08, 6)


def test_what_it_stands_on_is_not_in_it() -> None:
    floor = depth(4.0)
    row = np.arange(SIDE)[:, None]
    down = np.maximum(row - (SIDE - 1) / 2, 1e-6) / 60.0  # z falls so much a metre
    on_floor = (0.3 / down).astype(np.float32)  # at the height of the box's foot
    floor = np.minimum(floor, np.broadcast_to(on_floor, floor.shape))
    assert is_seen_empty(frame_of(floor), LOW, HIGH, 0.08, 6)


@pytest.mark.parametrize("move", [(0.0, 0.9, 0.0), (0.0, 0.0, 0.9), (-4.6, 0.0, 0.0)])
def test_all_of_it_is_in_the_picture(move: tuple[float, float, float]) -> None:
    assert not is_seen_empty(frame_of(depth(9.0)), LOW + move, HIGH + move, 0.08, 6)
