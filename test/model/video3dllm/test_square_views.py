"""Frames to square views: which pixels, which points, which means; both presets."""

import numpy as np
import pytest
import torch

from ada3d_ros.errors import CheckpointError, FrameError, NoFramesError
from ada3d_ros.model.config import VisionConfig
from ada3d_ros.model.video3dllm.config import Video3DConfig
from ada3d_ros.model.video3dllm.geometry import (
    Square,
    build_square_views,
    mean_points,
    sampled_indices,
    square_of,
)
from test.support.video3d import CELLS, SMALL_VIDEO3D, flat_frame, with_depth

ORIGIN = 0.0, 0.0, 0.0


def test_the_square_is_the_middle_of_the_scaled_image() -> None:
    assert square_of((640, 480), 384, portrait=False) == Square((512, 384), 64, 0, 384)
    assert square_of((480, 640), 384, portrait=True) == Square((384, 512), 0, 64, 384)
    assert square_of((161, 121), 384, portrait=False).size == (510, 384)
    assert square_of((96, 96), 384, portrait=False) == Square((384, 384), 0, 0, 384)


@pytest.mark.parametrize("side", range(350, 420))
def test_no_rounding_makes_a_square_image_too_small(side: int) -> None:
    assert square_of((side, side), 384, portrait=True) == Square((384, 384), 0, 0, 384)


def test_nearest_neighbour_takes_the_left_pixel_as_opencv_does() -> None:
    assert sampled_indices(4, 8).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert sampled_indices(160, 512)[:8].tolist() == [0, 0, 0, 0, 1, 1, 1, 2]
    assert sampled_indices(8, 4).tolist() == [0, 2, 4, 6]


def test_points_are_those_of_the_depth_images_own_pixels() -> None:
    """160x120 to 128x96: column 16 of the square's row is pixel floor(32 * 160 / 128) = 40."""
    views = build_square_views([flat_frame()], ORIGIN, SMALL_VIDEO3D, reference=False)
    assert views.points_m.shape == (1, 96, 96, 3)
    u, v = 40.0, 60.0  # row 48: floor(48 * 120 / 96) = 60
    expected = (2.0, -(u - 79.5) * 2 / 100, 1.0 - (v - 59.5) * 2 / 100)
    assert views.points_m[0, 48, 16].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_origin_is_taken_off() -> None:
    frame, origin = flat_frame(xyz_m=(103.0, -52.0, 1.5)), (100.0, -50.0, 0.5)
    there = build_square_views([frame], origin, SMALL_VIDEO3D, reference=False)
    here = flat_frame(xyz_m=(3.0, -2.0, 1.0))
    expected = build_square_views([here], ORIGIN, SMALL_VIDEO3D, reference=False)
    assert torch.allclose(there.points_m, expected.points_m, atol=1e-6)
    assert torch.equal(there.pixels, expected.pixels)


@pytest.mark.parametrize("nothing", [0.0, float("nan"), -1.0, float("inf")])
def test_no_reading_is_nan_for_a_robot_and_the_camera_for_the_reference(nothing: float) -> None:
    depth = np.full((120, 160), 2.0)
    depth[:60] = nothing
    frame = with_depth(flat_frame(xyz_m=(1.0, 2.0, 3.0)), depth)
    robot = build_square_views([frame], ORIGIN, SMALL_VIDEO3D, reference=False).points_m[0]
    assert robot[:48].isnan().all()
    assert robot[48:].isfinite().all()
    reference = build_square_views([frame], ORIGIN, SMALL_VIDEO3D, reference=True).points_m[0]
    assert torch.equal(reference[:48], torch.tensor([1.0, 2.0, 3.0]).expand(48, 96, 3))


def test_cell_means_leave_missing_readings_out() -> None:
    points = torch.zeros(1, 96, 96, 3)
    points[0, :, :, 0] = torch.arange(96).float()
    points[0, :30, :30] = torch.nan  # a cell without any
    points[0, :30, 30:45] = torch.nan  # half of another
    means = mean_points(points, CELLS, 30)[0]
    assert means.shape == (3, 3, 3)
    assert means[0, 0].isnan().all()
    assert means[0, 1, 0] == pytest.approx(52.0)  # of columns 45 to 59
    assert means[1, :, 0].tolist() == pytest.approx([14.5, 44.5, 74.5])  # the last 6 px unused


@pytest.mark.parametrize("size", [(120, 160), (90, 200)])
def test_portrait_images_are_cropped_above_and_below(size: tuple[int, int]) -> None:
    views = build_square_views([flat_frame(size)], ORIGIN, SMALL_VIDEO3D, reference=False)
    assert views.pixels.shape == (1, 3, 96, 96)
    middle = mean_points(views.points_m, CELLS, 30)[0, 1, 1]
    assert middle.tolist() == pytest.approx([2.0, 0.0, 1.0], abs=0.1)


def test_portrait_images_are_refused_by_the_reference() -> None:
    words = r"120x160 px is less than 96 px wide where it is 96 px high.*set model\.compat: default"
    with pytest.raises(FrameError, match=words):
        build_square_views([flat_frame((120, 160))], ORIGIN, SMALL_VIDEO3D, reference=True)


def test_without_frames() -> None:
    with pytest.raises(NoFramesError, match="no frame to look at"):
        build_square_views([], ORIGIN, SMALL_VIDEO3D, reference=False)


@pytest.mark.parametrize(
    ("size", "margin", "cells", "cell_px"),
    [(384, 6, 14, 27), (188, 6, 7, 26), (96, 6, 3, 30), (112, 0, 4, 28)],
)
def test_cells_follow_the_sizes(size: int, margin: int, cells: int, cell_px: int) -> None:
    vision = VisionConfig(16, 24, 3, 2, 14, size, "gelu_pytorch_tanh", 1e-6, -2)
    config = Video3DConfig(vision=vision, coord_margin_px=margin)
    assert (config.cells_per_side, config.cell_px) == (cells, cell_px)
    assert config.max_spatial_tokens(32) == 32 * cells * (cells + 1)


def test_sizes_that_give_no_whole_cells_are_refused() -> None:
    vision = VisionConfig(16, 24, 3, 2, 14, 160, "gelu_pytorch_tanh", 1e-6, -2)
    with pytest.raises(CheckpointError, match="6 cells a side, which must divide the 154 px"):
        Video3DConfig(vision=vision)
    with pytest.raises(CheckpointError, match="must lie below max_xyz_range"):
        Video3DConfig(min_xyz_m=(15.0, -15.0, -5.0))


def test_a_square_that_rounding_makes_too_narrow_is_not_called_portrait() -> None:
    """The reference's int(47 * (384 / 47)) is 383: it cannot crop that either."""
    with pytest.raises(FrameError, match=r"47x47 px is less than 384 px wide where it is 384 px"):
        square_of((47, 47), 384, portrait=False)
    assert square_of((47, 47), 384, portrait=True).size == (384, 384)
