"""The tokens of one image in LLaVA-NeXT's order, with their places.

First the patches of the whole image, then those of its crops row by row as they lie side by side,
a newline behind each row. All lie in one frame, that of the image: a patch of a crop at its
(column, row, 0), counted from the image's own first patch, and a patch of the whole image in the
middle of the patches that show the same. So a distance is one in the image, whichever of the two a
token comes from (docs/decisions/0194-places-of-anyres-tokens.md).
"""

from __future__ import annotations

import torch

from ada3d_ros.model.llava_next.anyres import PatchGrid
from ada3d_ros.token_rows import TokenRows
from ada3d_ros.types import NAN, SpatialTokens


def pack_tokens(embeds: torch.Tensor, grid: PatchGrid, newline: torch.Tensor) -> SpatialTokens:
    """Embeddings (1 + crops, P, D) of the whole image and its crops, newline (D,), to tokens.

    A newline has num_patches 0 and xyz_m NaN. It closes the row of crops' patches before it; the
    whole image's patches stand in a row that no newline closes.
    """
    # The crops side by side, cut to what shows the image: (rows, columns, D).
    side, width, device = round(embeds.shape[1] ** 0.5), embeds.shape[2], embeds.device
    tiles = embeds[1:].reshape(*grid.crops, side, side, width).transpose(1, 2)
    joined = tiles.reshape(grid.crops[0] * side, grid.crops[1] * side, width)
    shown = joined[grid.top : grid.top + grid.rows, grid.left : grid.left + grid.columns]

    # A newline behind each row.
    closed = torch.cat((shown, newline.to(embeds).expand(grid.rows, 1, width)), dim=1)
    features = torch.cat((embeds[0], closed.reshape(-1, width)))
    fine = _places(grid.rows, grid.columns, device)
    fine = torch.cat((fine, fine.new_full((grid.rows, 1, 3), NAN)), dim=1).reshape(-1, 3)

    # The whole image's patches among those; in their own grid where there are no others.
    coarse = _places(side, side, device).reshape(-1, 3)
    if grid.rows and grid.columns:
        scale = coarse.new_tensor((grid.columns / side, grid.rows / side, 0.0))
        coarse = (coarse + 0.5) * scale - coarse.new_tensor((0.5, 0.5, 0.0))
    xyz_m = torch.cat((coarse, fine))
    numbers = torch.arange(grid.rows, device=device).repeat_interleave(grid.columns + 1) + 1
    row, is_newline = torch.cat((numbers.new_zeros(len(coarse)), numbers)), xyz_m[:, 0].isnan()
    rows = TokenRows.from_mask(is_newline, row)
    return SpatialTokens(features, xyz_m, (~is_newline).long(), voxel_size_m=1.0, rows=rows)


def _places(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """(rows, columns, 3) float32: column, row, 0."""
    y, x = torch.meshgrid(
        torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij"
    )
    return torch.stack((x, y, torch.zeros_like(x)), dim=-1).float()
