"""Places to voxels and sines, patches to cells, cells to rows with newlines; holes."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ada3d_ros.errors import NoFramesError
from ada3d_ros.model.video3dllm.config import Video3DConfig
from ada3d_ros.model.video3dllm.tokens import (
    is_in_range,
    place_voxels,
    pool_patches,
    rows_with_newlines,
    say_left_out,
    sine_embedding,
)
from test.support.video3d import CELLS, SMALL_VIDEO3D, encode, flat_frame, small_video3d, with_depth

DEFAULT = Video3DConfig()


def test_voxels_are_absolute_and_halves_go_to_even() -> None:
    points = torch.tensor([[0.0, 0.0, 0.0], [1.25, -1.25, 0.35], [-20.0, 16.0, 7.0]])
    assert place_voxels(points, DEFAULT).tolist() == [
        [150, 150, 50],
        [162, 138, 54],
        [0, 300, 100],
    ]
    assert is_in_range(points, DEFAULT).tolist() == [True, True, False]
    assert not is_in_range(torch.tensor([math.nan, 0.0, 0.0]), DEFAULT)


@pytest.mark.parametrize("width", [64, 97, 112, 3584])
def test_sine_embedding_is_the_formula(width: int) -> None:
    """One slot after the other, in float64, written another way."""
    voxel, third = (150.0, 7.0, 99.0), width // 3
    expected = []
    for value in voxel:
        for slot in range(third):
            angle = value / 10000 ** (2 * (slot // 2) / third)
            expected.append(math.cos(angle) if slot % 2 else math.sin(angle))
    expected += [0.0] * (width - 3 * third)
    found = sine_embedding(torch.tensor(voxel), width)
    assert found.shape == (width,)
    assert found.tolist() == pytest.approx(expected, abs=3e-5)


def test_pooling_is_bilinear_at_the_centres_of_cells() -> None:
    patches = torch.randn(2, 36, 5, generator=torch.Generator().manual_seed(0))
    found = pool_patches(patches, 3)
    # 6 to 3: centre of a cell between two patches, a mean of four.
    grid = patches.unflatten(1, (6, 6))
    expected = grid.unflatten(1, (3, 2)).unflatten(3, (3, 2)).mean(dim=(2, 4)).flatten(1, 2)
    assert torch.allclose(found, expected, atol=1e-6)
    odd = torch.randn(1, 729, 4, generator=torch.Generator().manual_seed(1))
    whole = odd.unflatten(1, (27, 27)).permute(0, 3, 1, 2)
    oracle = F.interpolate(whole.double(), size=(14, 14), mode="bilinear", align_corners=False)
    assert torch.allclose(pool_patches(odd, 14).double(), oracle.flatten(2).mT, atol=1e-4)


def test_rows_are_closed_by_newlines() -> None:
    cells = torch.arange(9.0).reshape(3, 3, 1)
    rows, has_place = rows_with_newlines(cells, torch.tensor([-1.0]))
    assert rows[:, 0].tolist() == [0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1]
    assert has_place.tolist() == ([True] * 3 + [False]) * 3


def test_a_row_of_holes_has_no_newline() -> None:
    kept = torch.tensor([[True, False, True], [False] * 3, [False, False, True]])
    cells = torch.arange(9.0).reshape(3, 3, 1)
    rows, has_place = rows_with_newlines(cells, torch.tensor([-1.0]), kept)
    assert rows[:, 0].tolist() == [0, 2, -1, 8, -1]
    assert has_place.tolist() == [True, True, False, True, False]


def test_a_frame_is_its_cells_with_places_and_newlines_without() -> None:
    model = small_video3d()
    (part,) = encode(model, [flat_frame()])
    assert part.features.shape == (CELLS * (CELLS + 1), 50)
    assert part.num_patches.tolist() == [1, 1, 1, 0] * 3
    newlines = part.num_patches == 0
    assert part.xyz_m[newlines].isnan().all()
    assert part.xyz_m[~newlines].isfinite().all()
    assert torch.equal(part.features[newlines], model.newline.expand(3, -1))
    assert part.patches.shape == (36, 50)
    assert part.points_m.shape == (96, 96, 3)
    # The wall: straight ahead at 2 m, its left cells at greater y, its upper ones at greater z.
    places = part.xyz_m[~newlines].unflatten(0, (3, 3))
    assert torch.allclose(places[..., 0], torch.full((3, 3), 2.0))
    assert (places[:, 0, 1] > places[:, 2, 1]).all()
    assert (places[0, :, 2] > places[2, :, 2]).all()


def test_features_are_pooled_patches_with_the_embedding_of_their_place() -> None:
    model = small_video3d()
    (part,) = encode(model, [flat_frame()])
    cells = part.num_patches == 1
    pooled = pool_patches(part.patches[None], CELLS)[0]
    embedding = sine_embedding(place_voxels(part.xyz_m[cells], SMALL_VIDEO3D), 50)
    assert torch.allclose(part.features[cells], pooled + embedding, atol=1e-6)


def depth_with_holes() -> np.ndarray:
    """160x120, whose square is columns 20 to 139: no reading in the upper left cell."""
    depth = np.full((120, 160), 2.0)
    depth[:37, :57] = np.nan
    return depth


def test_cells_without_depth_have_no_token_and_leave_the_others_as_they_are() -> None:
    model = small_video3d()
    whole, holed = (
        encode(model, [frame])[0]
        for frame in (flat_frame(), with_depth(flat_frame(), depth_with_holes()))
    )
    assert (holed.num_holes, holed.num_beyond, len(holed)) == (1, 0, len(whole) - 1)
    assert torch.equal(holed.features, whole.features[1:])
    assert torch.allclose(holed.xyz_m, whole.xyz_m[1:], equal_nan=True)
    assert say_left_out([whole], SMALL_VIDEO3D) == ""
    assert say_left_out([holed, whole], SMALL_VIDEO3D) == (
        "1 of 18 cells of 2 views have no depth reading: the model does not see them."
    )


def test_the_reference_pulls_holes_to_the_camera() -> None:
    model = small_video3d("reference")
    (part,) = encode(model, [with_depth(flat_frame(), depth_with_holes())])
    assert len(part) == CELLS * (CELLS + 1)
    assert part.xyz_m[0].tolist() == pytest.approx([0.0, 0.0, 1.0], abs=1e-6)
    assert (part.num_holes, part.num_beyond) == (0, 0)


@pytest.mark.parametrize("depth_m", [math.nan, 0.0])
def test_no_depth_at_all_is_said(depth_m: float) -> None:
    model = small_video3d()
    (part,) = encode(model, [flat_frame(depth_m=depth_m)])
    assert (len(part), part.num_holes) == (0, 9)
    table = model.new_table()
    table.add(0, part)
    words = "nothing of the scene can be seen: 9 of 9 cells of 1 views have no depth reading"
    with pytest.raises(NoFramesError, match=words):
        model.spatial_tokens(table)


def test_cells_beyond_the_range_are_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    model = small_video3d()
    near, far = encode(model, [flat_frame(), flat_frame(xyz_m=(14.0, 0.0, 1.0), seed=1)])
    assert (len(far), far.num_beyond) == (0, 9)
    table = model.new_table()
    table.add(0, far)
    words = (
        "nothing of the scene can be seen: 9 of 9 cells of 1 views lie outside of what the model"
        " can place (x -15 to 15, y -15 to 15, z -5 to 5 m from the scene's origin; reset the scene"
        " nearer to what you ask about): the model does not see them."
    )
    with pytest.raises(NoFramesError) as error:
        model.spatial_tokens(table)
    assert str(error.value) == words  # the depth topic is not to blame
    table.add(1, near)
    tokens = model.spatial_tokens(table)
    assert torch.equal(tokens.features, near.features)
    model.spatial_tokens(table)
    assert len(caplog.records) == 1  # said once
    assert caplog.records[0].message.startswith("9 of 18 cells of 2 views lie outside of what")

    # Preset reference keeps them, on the border.
    (kept,) = encode(small_video3d("reference"), [flat_frame(xyz_m=(14.0, 0.0, 1.0))])
    assert len(kept) == CELLS * (CELLS + 1)
    assert place_voxels(kept.xyz_m[0], SMALL_VIDEO3D)[0] == 300


def test_an_origin_nearer_to_it_brings_them_back() -> None:
    model = small_video3d()
    there = encode(model, [flat_frame(xyz_m=(214.0, 0.0, 1.0))], (214.0, 0.0, 0.0))[0]
    here = encode(model, [flat_frame()])[0]
    assert torch.allclose(there.features, here.features, atol=1e-5)
