"""A picture as a network's input: values by hand, and the way back from its pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ada3d_ros.perception.onnx_decoders import PICODET_INPUT, YOLO_INPUT, YOLOX_INPUT
from ada3d_ros.perception.onnx_input import Convention, Fit, ImageInput, place, prepare
from ada3d_ros.perception.onnx_rows import DETR_INPUT, RTDETR_INPUT, RTMDET_INPUT

RED, GREEN, BLUE = 200, 100, 50
# By ImageNet's mean and deviation, worked out for each colour.
NORMAL_RED = (200 - 123.675) / 58.395
NORMAL_GREEN = (100 - 116.28) / 57.12
NORMAL_BLUE = (50 - 103.53) / 57.375
PICTURE = np.full((60, 120, 3), (RED, GREEN, BLUE), np.uint8)


@pytest.mark.parametrize(
    ("convention", "inside", "around"),
    [
        (
            PICODET_INPUT,
            [(50 - 103.53) / 57.375, (100 - 116.28) / 57.12, (200 - 123.675) / 58.395],
            None,
        ),
        (
            DETR_INPUT,
            [(200 - 123.675) / 58.395, (100 - 116.28) / 57.12, (50 - 103.53) / 57.375],
            None,
        ),
        (RTDETR_INPUT, [200 / 255, 100 / 255, 50 / 255], None),
        (YOLO_INPUT, [200 / 255, 100 / 255, 50 / 255], 114 / 255),
        (YOLOX_INPUT, [50, 100, 200], 114),
        (
            RTMDET_INPUT,
            [NORMAL_BLUE, NORMAL_GREEN, NORMAL_RED],
            [(114 - 103.53) / 57.375, (114 - 116.28) / 57.12, (114 - 123.675) / 58.395],
        ),
    ],
)
def test_values_and_their_order(
    convention: Convention, inside: list[float], around: float | list[float] | None
) -> None:
    image, placed = prepare(PICTURE, ImageInput("images", 64, 96), convention)
    assert image.shape == (1, 3, 64, 96)
    assert image.dtype == np.float32
    # The picture in its place, the grey around it.
    low, high = {Fit.STRETCH: (0, 64), Fit.CORNER: (0, 48), Fit.CENTRE: (8, 56)}[convention.fit]
    assert (placed.top, placed.left) == (low, 0)
    assert np.allclose(image[0, :, low:high], np.reshape(inside, (3, 1, 1)), atol=1e-5)
    outside = np.delete(image[0], np.s_[low:high], axis=1)
    assert outside.size == (0 if around is None else 3 * 16 * 96)
    assert np.allclose(outside, np.reshape(around or 0, (-1, 1, 1)), atol=1e-5)


def test_bytes_are_left_as_they_are_and_channels_may_be_last() -> None:
    image, _ = prepare(PICTURE, ImageInput("images", 64, 96, np.uint8, False), YOLO_INPUT)
    assert image.shape == (1, 64, 96, 3)
    assert image.dtype == np.uint8
    assert image[0, 30, 40].tolist() == [RED, GREEN, BLUE]
    assert image[0, 2, 40].tolist() == [114, 114, 114]


@pytest.mark.parametrize("fit", list(Fit))
@pytest.mark.parametrize("size", [(480, 640), (720, 1280), (600, 200)])
def test_a_thing_is_found_again_where_it_was(fit: Fit, size: tuple[int, int]) -> None:
    """A white rectangle, its edges read from the input to half a pixel of it, back in px."""
    height, width = size
    box = (width * 0.25, height * 0.3, width * 0.75, height * 0.6)
    picture = np.zeros((height, width, 3), np.uint8)
    x0, y0, x1, y1 = (round(edge) for edge in box)
    picture[y0:y1, x0:x1] = 255
    image, placed = prepare(picture, ImageInput("images", 416, 416), Convention(fit))
    rows, columns = np.nonzero(image[0, 0] > 127)
    seen = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
    off = np.abs(placed.to_picture(seen)[0] - (x0, y0, x1, y1))
    assert (off <= 0.75 / np.array([placed.scale_x, placed.scale_y] * 2)).all()


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(list(Fit)),
    st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    st.tuples(st.integers(32, 1024), st.integers(32, 1024)),
)
def test_the_picture_lies_within_the_input(
    fit: Fit, size: tuple[int, int], sides: tuple[int, int]
) -> None:
    """Whatever the sizes: the whole picture comes back as itself, and fills a side or both."""
    width, height = size
    placed = place(width, height, ImageInput("images", *sides), fit)
    inner = (width * placed.scale_x, height * placed.scale_y)
    low = np.array([placed.left, placed.top])
    high = low + inner
    assert (low >= 0).all()
    assert (high <= np.array(sides[::-1]) + 1e-6).all()
    assert np.isclose(inner, sides[::-1]).any()
    back = placed.to_picture(np.float32([[*low, *high]]))[0]
    assert np.allclose(back, [0, 0, width, height], rtol=1e-4, atol=1e-3)
