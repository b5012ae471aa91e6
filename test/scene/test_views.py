"""Views of live frames: depth stays registered to colour and the rays stay right, in any aspect."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from ada3d_ros.errors import NoFramesError
from ada3d_ros.geometry.unproject import unproject_depth
from ada3d_ros.lab.parity.forward import sample_reference_frames
from ada3d_ros.scene.views import (
    build_multiview,
    color_size,
    preprocess_color,
    preprocess_reference_depth,
    reference_depth_size,
)
from ada3d_ros.types import Intrinsics, RgbdFrame

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIZES = [(160, 120), (120, 160), (161, 97), (97, 161), (112, 112), (64, 48)]


def plane_frame(width: int, height: int) -> RgbdFrame:
    """A camera before the slanted plane z = 2 + 0.3 x + 0.2 y (camera axes).

    Depth is exact at pixel centres.
    """
    camera = Intrinsics(0.8 * width, 0.82 * width, 0.47 * width, 0.55 * height, width, height)
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    ray_x, ray_y = (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy
    depth = (2.0 / (1.0 - 0.3 * ray_x - 0.2 * ray_y)).astype(np.float32)
    rgb = np.stack((u, v, 0 * u), axis=-1).astype(np.uint8)
    pose = np.eye(4)
    pose[:3, 3] = (1.0, 2.0, 3.0)
    return RgbdFrame(5, rgb, depth, camera, pose, "map")


def plane_errors(frame: RgbdFrame, compat: str) -> npt.NDArray[np.float32]:
    views = build_multiview([frame], 56, compat, MEAN, STD)
    points = unproject_depth(views.depth_m, views.K, views.T_world_cam)[0]
    x, y, z = (points - views.T_world_cam[0, :3, 3]).unbind(-1)
    return (z - (2.0 + 0.3 * x + 0.2 * y)).abs().numpy()


@pytest.mark.parametrize("size", SIZES)
def test_default_geometry_is_right_in_every_aspect(size: tuple[int, int]) -> None:
    """Points stay on the plane up to half a pixel of nearest sampling."""
    assert plane_errors(plane_frame(*size), "default").max() < 0.016 * 120 / min(size)


def test_reference_preset_keeps_the_portrait_error() -> None:
    """cx is shifted by the negative half difference and cy not at all: the plane is far off."""
    assert plane_errors(plane_frame(120, 160), "reference").max() > 0.1
    assert plane_errors(plane_frame(160, 120), "reference").max() < 0.03


@pytest.mark.parametrize("size", [(224, 112), (112, 224), (112, 112), (168, 112)])
def test_default_intrinsics_account_for_half_a_pixel(size: tuple[int, int]) -> None:
    """At half size, view pixel i covers pixels 2i and 2i + 1 of the frame, after the crop.

    Its ray lies between theirs.
    """
    frame = plane_frame(*size)
    K, camera = build_multiview([frame], 56, "default", MEAN, STD).K[0], frame.intrinsics
    for axis, (focal, centre) in enumerate(((camera.fx, camera.cx), (camera.fy, camera.cy))):
        crop = (size[axis] // 2 - 56) // 2
        for pixel in (0, 10, 55):
            ray = (2 * (pixel + crop) + 0.5 - centre) / focal
            found = float((pixel - K[axis, 2]) / K[axis, axis])
            assert found == pytest.approx(ray, abs=1e-5)


def test_reference_depth_width_follows_its_own_rounding() -> None:
    """int(long * (side / short)), not int(side * long / short).

    85 * (336 / 60) is just under 476 in floating point.
    """
    assert reference_depth_size((640, 480), 336) == (448, 336)
    assert reference_depth_size((85, 60), 336) == (475, 336)
    assert color_size((85, 60), 336) == (476, 336)


@pytest.mark.parametrize("size", SIZES)
def test_default_depth_lies_on_the_grid_of_colour(size: tuple[int, int]) -> None:
    """Colour and depth both hold the pixel's column (and row): afterwards they still agree."""
    frame = plane_frame(*size)
    for channel in (0, 1):
        ramp = np.indices(frame.depth_m.shape)[1 - channel].astype(np.float32) + 1.0
        coded = RgbdFrame(0, frame.rgb, ramp, frame.intrinsics, frame.T_world_cam, "map")
        views = build_multiview([coded], 56, "default", MEAN, STD)
        coordinate = (views.pixels[0, channel] * STD[channel] + MEAN[channel]) * 255
        error = coordinate - (views.depth_m[0] - 1.0)
        error = error[3:-3, 3:-3]  # bicubic overshoots at the border
        assert error.abs().max() < 0.65  # nearest sampling alone: half a pixel


def test_each_view_has_its_own_intrinsics() -> None:
    frames = [plane_frame(160, 120), plane_frame(120, 160), plane_frame(80, 60)]
    views = build_multiview(frames, 56, "default", MEAN, STD)
    alone = [build_multiview([frame], 56, "default", MEAN, STD) for frame in frames]
    assert torch.equal(views.K, torch.cat([view.K for view in alone]))
    assert torch.equal(views.depth_m, torch.cat([view.depth_m for view in alone]))
    assert views.stamp_ns.tolist() == [5, 5, 5]
    assert torch.equal(views.T_world_cam[0, :3, 3], torch.tensor([1.0, 2.0, 3.0]))


def test_missing_depth_is_nan_by_default_and_zero_in_reference() -> None:
    frame = plane_frame(112, 112)
    depth = np.array(frame.depth_m)
    depth[:40], depth[40:50], depth[50:60] = np.nan, 0.0, -1.0
    broken = RgbdFrame(0, frame.rgb, depth, frame.intrinsics, frame.T_world_cam, "map")
    default = build_multiview([broken], 56, "default", MEAN, STD).depth_m[0]
    assert bool(default[:30].isnan().all())
    assert not bool(default[30:].isnan().any())
    reference = build_multiview([broken], 56, "reference", MEAN, STD).depth_m[0]
    assert bool((reference[:25] == 0).all())


@pytest.mark.parametrize("size", [(320, 240), (90, 161), (161, 90), (77, 77), (33, 500)])
@pytest.mark.parametrize("side", [56, 84, 112])
def test_reference_depth_is_pillows_resize_and_crop(size: tuple[int, int], side: int) -> None:
    raw = np.random.default_rng(0).integers(0, 65535, (size[1], size[0])).astype(np.uint16)
    width, height = reference_depth_size(size, side)
    left, top = (width - side) / 2, (height - side) / 2
    resized = Image.fromarray(raw).resize((width, height), Image.Resampling.NEAREST)
    expected = np.asarray(resized.crop((left, top, left + side, top + side)))
    found = preprocess_reference_depth(raw, side, 1000.0).numpy()
    assert np.array_equal(found, expected.astype(np.float32) / 1000)


def test_pad_keeps_the_whole_image_on_the_mean_colour() -> None:
    rgb = np.zeros((40, 80, 3), np.uint8)
    pixels = preprocess_color(rgb, 56, MEAN, STD, "pad")
    black, mean_colour = pixels[:, 28, 28], pixels[:, 2, 28]
    assert torch.allclose(black, -torch.tensor(MEAN) / torch.tensor(STD), atol=1e-5)
    assert mean_colour.abs().max() < 0.02
    assert torch.equal(preprocess_color(rgb, 56, MEAN, STD)[:, 2, 28], black)


def test_no_frames() -> None:
    with pytest.raises(NoFramesError, match="no frame to look at"):
        build_multiview([], 56, "default", MEAN, STD)


def test_reference_frame_rule(shared_dir: Path) -> None:
    for item in json.loads((shared_dir / "golden/unit/sampling.json").read_text()):
        assert sample_reference_frames(item["n_total"], item["num_frames"]) == item["ids"]
