"""Colours in words: CIELAB as OpenCV has it, names that people would give."""

import cv2
import numpy as np
import pytest

from ada3d_ros.asking.words import COLORS
from ada3d_ros.perception.colors import EXAMPLES, MIN_MARGIN, NAMES, color_name, lab_of, median_lab


def test_cielab_is_that_of_opencv() -> None:
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    rgb = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    theirs = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    assert lab_of(rgb) == pytest.approx(theirs, abs=0.35)  # their float tables


@pytest.mark.parametrize(("rgb", "lab"), [((255, 255, 255), (100, 0, 0)), ((0, 0, 0), (0, 0, 0))])
def test_white_and_black_are_the_ends(rgb: tuple[int, ...], lab: tuple[float, ...]) -> None:
    assert lab_of(np.array(rgb)) == pytest.approx(lab, abs=0.01)


def test_names_are_words_that_questions_know() -> None:
    assert set(NAMES) <= COLORS
    for name, examples in EXAMPLES.items():
        assert [color_name(lab_of(np.array(rgb))) for rgb in examples] == [name] * len(examples)


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((16, 16, 18), "black"),
        ((180, 25, 30), "red"),
        ((245, 245, 243), "white"),
        ((60, 95, 175), "blue"),
        ((70, 140, 70), "green"),
        ((100, 65, 40), "brown"),
        ((210, 190, 155), "beige"),
        ((130, 130, 128), "gray"),
    ],
)
def test_colors_near_an_example_have_its_name(rgb: tuple[int, ...], name: str) -> None:
    assert color_name(lab_of(np.array(rgb))) == name


def test_between_two_names_none_is_said() -> None:
    black, gray = (lab_of(np.array(EXAMPLES[name])) for name in ("black", "gray"))
    between = (black[:, 0].max() + gray[:, 0].min()) / 2
    assert color_name(np.array([between, 0.0, 0.0])) == ""
    assert color_name(np.array([between - MIN_MARGIN, 0.0, 0.0])) == "black"
    assert color_name(np.array([between + MIN_MARGIN, 0.0, 0.0])) == "gray"


def test_the_median_leaves_a_minority_out() -> None:
    red, blue = (200, 30, 35), (40, 80, 190)
    pixels = np.array([red] * 60 + [blue] * 40, np.uint8)
    assert median_lab(pixels) == pytest.approx(lab_of(np.array(red)))
