"""What is stated grows with doubt and with fewer readings; lengths in the asker's unit."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ada3d_ros.errors import InvalidRequestError
from ada3d_ros.geometry.measure.lengths import format_length, format_lengths, give_or_take
from ada3d_ros.geometry.measure.uncertainty import (
    LEAST_M,
    PER_DOUBT_M,
    PER_SPACING,
    Factor,
    box_scale_m,
    half_width_m,
    spacing_m,
)
from ada3d_ros.types import GroundingMethod
from test.support.measured import box


def test_scale_by_hand() -> None:
    cube = box([0, 0, 0.5], [1, 1, 1], support=300)  # 3 square metres: top, and two of four walls
    assert spacing_m(cube) == pytest.approx(0.1)
    expected = math.sqrt(LEAST_M**2 + (PER_SPACING * 0.1) ** 2 + (PER_DOUBT_M * 0.02) ** 2)
    assert box_scale_m(cube) == pytest.approx(expected)
    assert half_width_m(Factor(2.0, 3.0), cube) == pytest.approx(2 * expected)
    assert half_width_m(Factor(2.0, 3.0), cube, cube) == pytest.approx(2 * math.sqrt(2) * expected)


def test_a_detectors_box_has_a_factor_of_its_own() -> None:
    cube = box([0, 0, 0.5], [1, 1, 1], support=300)
    seen = dataclasses.replace(cube, method=GroundingMethod.DETECTOR)
    wide, narrow = 3 * box_scale_m(seen), 2 * box_scale_m(cube)
    assert half_width_m(Factor(2.0, 3.0), seen) == pytest.approx(wide)
    assert half_width_m(Factor(2.0, 3.0), seen, cube) == pytest.approx(math.hypot(wide, narrow))


def test_a_point_is_where_it_is_said_to_be() -> None:
    assert box_scale_m(box([1, 2, 3], [0, 0, 0])) == 0.0
    assert half_width_m(Factor(3.0, 3.0), box([1, 2, 3], [0, 0, 0])) == 0.0


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.floats(0, 1), st.floats(0, 1))
def test_fewer_readings_and_more_doubt_are_wider(
    few: int, many: int, low: float, high: float
) -> None:
    few, many = sorted((few, many))
    low, high = sorted((low, high))
    one = box([0, 0, 0], [1, 1, 1])
    sure = dataclasses.replace(one, support_points=many, score=high)
    unsure = dataclasses.replace(one, support_points=few, score=low)
    assert box_scale_m(sure) <= box_scale_m(unsure)
    assert math.isfinite(box_scale_m(unsure))


def test_a_model_without_scores_gives_no_doubt() -> None:
    one = box([0, 0, 0], [1, 1, 1])
    without = dataclasses.replace(one, score=math.nan)
    assert box_scale_m(without) == box_scale_m(dataclasses.replace(one, score=1.0))


@pytest.mark.parametrize(
    ("unit", "text"),
    [("m", "1.32 m"), ("cm", "132 cm"), ("mm", "1321 mm"), ("ft", "4.3 ft"), ("in", "52 in")],
)
def test_lengths_in_words(unit: str, text: str) -> None:
    assert format_length(1.321, unit) == text


def test_other_lengths_in_words() -> None:
    assert format_length(-0.0001) == "0.00 m"
    assert format_lengths((1.2, 0.6, 0.75), "cm") == "120 x 60 x 75 cm"
    assert give_or_take(0.063) == " (give or take 6 cm)"
    assert give_or_take(1.5) == " (give or take 1.50 m)"
    assert give_or_take(0.3048, "ft") == " (give or take 1.0 ft)"
    with pytest.raises(InvalidRequestError, match="'yards': one of m, cm, mm, ft, in"):
        format_length(1.0, "yards")
