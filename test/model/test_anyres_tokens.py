"""LLaVA-NeXT's tokens: their order, places, rows and newlines."""

from __future__ import annotations

import pytest
import torch

from ada3d_ros.model.llava_next.anyres import PatchGrid, patch_grid_of
from ada3d_ros.model.llava_next.tokens import pack_tokens
from ada3d_ros.token_rows import rows_of

SIDE, PATCHES, D = 4, 2, 3  # pixels and patches a side
NEWLINE = torch.full((D,), -1.0)


def embeds_of(crops: int) -> torch.Tensor:
    """Patch p of image i (0: the whole one) is (10 i + p) everywhere."""
    values = 10.0 * torch.arange(1 + crops)[:, None] + torch.arange(PATCHES**2)
    return values[..., None].expand(-1, -1, D)


def test_patches_stand_row_by_row_as_they_lie_side_by_side() -> None:
    grid = PatchGrid((2, 2), top=0, left=0, rows=4, columns=4)
    tokens = pack_tokens(embeds_of(4), grid, NEWLINE)
    order = [
        *(0, 1, 2, 3),  # the whole image
        *(10, 11, 20, 21, -1),
        *(12, 13, 22, 23, -1),
        *(30, 31, 40, 41, -1),
        *(32, 33, 42, 43, -1),
    ]
    assert tokens.features[:, 0].tolist() == order
    assert tokens.features.shape == (len(order), D)
    newline = torch.tensor(order) == -1
    assert torch.equal(tokens.xyz_m.isnan().all(dim=1), newline)
    assert torch.equal(tokens.num_patches, (~newline).long())


def test_what_was_put_around_the_image_is_left_out() -> None:
    grid = patch_grid_of((2, 8), (4, 8), SIDE, PATCHES)  # four times as wide as high
    assert (grid.top, grid.left, grid.rows, grid.columns) == (0, 0, 2, 4)  # half a patch: none
    grid = patch_grid_of((2, 16), (8, 16), SIDE, PATCHES)
    assert (grid.top, grid.rows, grid.columns) == (1, 2, 8)
    tokens = pack_tokens(embeds_of(8), grid, NEWLINE)
    rows = tokens.features[4:, 0].reshape(2, 9)
    assert rows[0].tolist() == [12, 13, 22, 23, 32, 33, 42, 43, -1]
    assert rows[1].tolist() == [50, 51, 60, 61, 70, 71, 80, 81, -1]


def test_all_places_are_in_the_image() -> None:
    """In patches of the crops; a patch of the whole image lies amid those that show the same."""
    grid = PatchGrid((1, 2), top=0, left=0, rows=2, columns=4)
    tokens = pack_tokens(embeds_of(2), grid, NEWLINE)
    whole, crops = tokens.xyz_m[:4], tokens.xyz_m[4:].reshape(2, 5, 3)
    assert crops[1, :4].tolist() == [[0, 1, 0], [1, 1, 0], [2, 1, 0], [3, 1, 0]]
    assert whole.tolist() == [[0.5, 0, 0], [2.5, 0, 0], [0.5, 1, 0], [2.5, 1, 0]]
    middle = crops[:, :4].reshape(-1, 3).mean(dim=0)
    assert torch.equal(whole.mean(dim=0), middle)


def test_a_newline_goes_with_its_own_row_of_crops() -> None:
    """The whole image's patches keep none alive: no newline closes them."""
    grid = PatchGrid((1, 2), top=0, left=0, rows=2, columns=4)
    rows = rows_of(pack_tokens(embeds_of(2), grid, NEWLINE))
    assert (rows.count, rows.num_placed, rows.num_newlines) == (14, 12, 2)
    assert rows.keep(torch.arange(4)).tolist() == [0, 1, 2, 3]
    assert rows.keep(torch.tensor([0, 5])).tolist() == [0, 5, 8]
    assert rows.keep(torch.tensor([11])).tolist() == [12, 13]


@pytest.mark.parametrize(
    ("grid", "newlines"), [(PatchGrid((1, 2), 1, 0, 0, 4), 0), (PatchGrid((2, 1), 0, 1, 4, 0), 4)]
)
def test_of_an_image_as_thin_as_a_hair_the_whole_is_left(grid: PatchGrid, newlines: int) -> None:
    """And, of one that is high, a newline for each row without a patch, as in transformers."""
    tokens = pack_tokens(embeds_of(2), grid, NEWLINE)
    assert tokens.features[:, 0].tolist() == [0, 1, 2, 3, *[-1] * newlines]
    assert tokens.xyz_m[:4].tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]
    rows = rows_of(tokens)
    assert rows.num_placed == 4
    assert rows.keep(torch.arange(4)).tolist() == [0, 1, 2, 3]
