"""LLaVA-NeXT's images against transformers' own processor: grids, pixels, what is shown."""

from __future__ import annotations

import pytest
import torch
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.llava_next.modeling_llava_next import unpad_image

from ada3d_ros.model.config import CLIP_MEAN, CLIP_STD
from ada3d_ros.model.llava_next.anyres import (
    V1_6_PINPOINTS,
    patch_grid_of,
    preprocess_anyres,
    select_pinpoint,
)
from test.support.llava_oracle import drawn

SIDE, PATCHES = 336, 24
SIZES = [  # (height, width)
    (480, 640),
    (640, 480),
    (300, 300),
    (9, 9),
    (200, 1400),
    (1500, 160),
    (1080, 1920),
    (333, 330),
    (1, 1000),
    (1000, 1),
    (1, 1),
    (176, 198),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [336, 28])
def test_pixels_are_those_of_transformers(size: tuple[int, int], side: int) -> None:
    pinpoints = [(h * side // SIDE, w * side // SIDE) for h, w in V1_6_PINPOINTS]
    rgb = drawn(*size)
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_grid_pinpoints=[list(pinpoint) for pinpoint in pinpoints],
    )
    expected = processor(images=rgb, return_tensors="pt", input_data_format="channels_last")
    actual = preprocess_anyres(rgb, select_pinpoint(size, pinpoints), side, CLIP_MEAN, CLIP_STD)
    assert expected["image_sizes"].tolist() == [list(size)]
    assert actual.shape == expected["pixel_values"][0].shape
    assert torch.allclose(actual, expected["pixel_values"][0], rtol=0, atol=1e-6)


def test_grids_and_what_is_shown_are_those_of_transformers() -> None:
    """2,400 sizes, both orders of a pair in the list of sizes."""
    heights, widths = range(1, 1400, 29), range(1, 1400, 28)
    for pinpoints in (V1_6_PINPOINTS, tuple((w, h) for h, w in V1_6_PINPOINTS)):
        for size in ((h, w) for h in heights for w in widths):
            pinpoint = select_pinpoint(size, pinpoints)
            assert pinpoint == select_best_resolution(size, list(pinpoints))
            grid = patch_grid_of(size, pinpoint, SIDE, PATCHES)
            rows, columns = grid.crops[0] * PATCHES, grid.crops[1] * PATCHES
            index = torch.arange(rows * columns).reshape(1, rows, columns)
            shown = index[:, grid.top : grid.top + grid.rows, grid.left : grid.left + grid.columns]
            assert torch.equal(shown, unpad_image(index, size))
            assert shown.shape == (1, grid.rows, grid.columns)


@pytest.mark.parametrize(
    ("size", "pinpoint", "rows", "columns"),
    [
        ((480, 640), (672, 672), 36, 48),  # landscape: black above and below
        ((640, 480), (672, 672), 48, 36),
        ((672, 672), (672, 672), 48, 48),
        ((300, 300), (336, 672), 24, 24),
        ((200, 1400), (336, 1008), 10, 72),  # a panorama
        ((1500, 160), (1008, 336), 72, 8),
        ((1, 1000), (336, 1008), 0, 72),  # as thin as a hair: the whole image alone is left
    ],
)
def test_a_grid_fits_the_shape_of_the_image(
    size: tuple[int, int], pinpoint: tuple[int, int], rows: int, columns: int
) -> None:
    assert select_pinpoint(size, V1_6_PINPOINTS) == pinpoint
    grid = patch_grid_of(size, pinpoint, SIDE, PATCHES)
    assert (grid.rows, grid.columns) == (rows, columns)


def test_a_size_in_patches_is_rounded_before_it_is_truncated() -> None:
    """As by transformers: 198 px of width are 27 patches, 26.999... in floating point."""
    assert int(198 * (24 / 176)) == 26
    grid = patch_grid_of((176, 198), (336, 672), SIDE, PATCHES)
    assert (grid.left, grid.columns) == (10, 28)


def test_of_equal_grids_the_first_is_taken() -> None:
    """So the order of the list counts, and that of a pair, in which the two layouts differ."""
    swapped = tuple((width, height) for height, width in V1_6_PINPOINTS)
    assert select_pinpoint((333, 330), V1_6_PINPOINTS) == (336, 672)
    assert select_pinpoint((333, 330), swapped) == (672, 336)
