"""The renderer against geometry worked out another way, and its independence of the batch."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from ada3d_ros.lab.world.generated import frames_of, true_boxes
from ada3d_ros.lab.world.render import NOTHING, Views, intrinsics, render
from ada3d_ros.lab.world.rooms import CATEGORIES, COLORS, Rooms, look_at, make_rooms

SIDE = 64


@pytest.fixture(scope="module")
def rooms() -> Rooms:
    return make_rooms("train", torch.arange(12))


@pytest.fixture(scope="module")
def clean(rooms: Rooms) -> Views:
    return render(rooms, SIDE, noise=False)


@pytest.fixture(scope="module")
def noisy(rooms: Rooms) -> Views:
    return render(rooms, SIDE)


def one_object(
    category: str,
    size: tuple[float, float, float],
    eye: tuple[float, float, float],
    yaw: float = 0.0,
) -> Rooms:
    """A red object on the floor in the middle of a room of 6 x 6 m, looked at from `eye`."""
    center = torch.tensor([[[0.0, 0.0, size[2] / 2]]])
    T = look_at(torch.tensor([[eye]]), center)
    return Rooms(
        1,
        torch.tensor([3]),
        torch.full((1, 2), 6.0),
        torch.tensor([[CATEGORIES.index(category)]]),
        torch.tensor([[COLORS.index("red")]]),
        torch.tensor([[-1]]),
        center,
        torch.tensor([[size]]),
        torch.tensor([[yaw]]),
        T,
        torch.tensor([1]),
    )


def unproject(rooms: Rooms, views: Views) -> torch.Tensor:
    """World points (B, V, S, S, 3) float64."""
    side = views.rgb.shape[2]
    v, u = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    pixel = torch.stack((u, v, torch.ones_like(u)), -1).double()
    ray = pixel @ torch.linalg.inv(views.K.double()).T
    camera = ray * views.depth_m.double()[..., None]
    T = rooms.T_world_cam.double()
    return torch.einsum("bvij,bvrcj->bvrci", T[..., :3, :3], camera) + T[:, :, None, None, :3, 3]


@pytest.mark.parametrize("level", [1, 2])
def test_depth_is_finite_without_noise(level: int) -> None:
    rooms = make_rooms("val", torch.arange(6), level)
    depth = render(rooms, 48, noise=False).depth_m
    assert depth.dtype == torch.float32
    assert torch.isfinite(depth).all()
    assert depth.min() > 0.0
    assert depth.max() < 10.0


def test_rays_along_the_axes_are_finite() -> None:
    # the middle column has direction y = 0, the middle row z = 0
    rooms = one_object("crate", (1.0, 1.0, 1.0), (-2.5, 0.0, 0.5))
    views = render(rooms, 65, noise=False)
    assert torch.isfinite(views.depth_m).all()
    assert views.depth_m[0, 0, 32, 32].item() == pytest.approx(2.0, abs=1e-5)
    assert views.depth_m[0, 0, 0, 32].item() == pytest.approx(
        2.1 / math.tan(math.radians(37)) * 65 / 64, abs=1e-3
    )


def test_a_turned_box_is_as_far_as_worked_out_by_hand() -> None:
    rooms = one_object("crate", (1.0, 0.6, 1.0), (-2.5, 0.0, 0.5), yaw=math.radians(30))
    views = render(rooms, 65, noise=False)
    # along y = 0 the box is |x cos 30| <= 0.5 and |x sin 30| <= 0.3, of which the first is the
    # tighter
    assert views.depth_m[0, 0, 32, 32].item() == pytest.approx(
        2.5 - 0.5 / math.cos(math.radians(30)), abs=1e-5
    )
    rooms = one_object("ball", (0.6, 0.6, 0.6), (-1.5, -2.0, 0.3))
    views = render(rooms, 65, noise=False)
    assert views.depth_m[0, 0, 32, 32].item() == pytest.approx(2.2, abs=1e-4)


def test_background_points_lie_on_the_room(rooms: Rooms, clean: Views) -> None:
    half = (rooms.room_m / 2)[:, None, None, None].double()
    point = unproject(rooms, clean)
    to_wall = (point[..., :2].abs() - half).abs().amin(-1)
    to_level = torch.minimum(point[..., 2].abs(), (point[..., 2] - 2.6).abs())
    away = torch.minimum(to_wall, to_level)[clean.object_index == NOTHING]
    assert away.max() < 1e-3


@pytest.mark.parametrize("level", [1, 2])
def test_object_points_lie_in_their_box(level: int) -> None:
    rooms = make_rooms("train", torch.arange(20, 26), level)
    views = render(rooms, SIDE, noise=False)
    room, view, row, column = (views.object_index != NOTHING).nonzero(as_tuple=True)
    index = views.object_index[room, view, row, column].long()
    away = unproject(rooms, views)[room, view, row, column] - rooms.center_m[room, index]
    c, s = rooms.yaw_rad[room, index].cos(), rooms.yaw_rad[room, index].sin()
    local = torch.stack(
        (c * away[:, 0] + s * away[:, 1], c * away[:, 1] - s * away[:, 0], away[:, 2]), -1
    ).abs()
    assert room.numel() > 1000
    assert rooms.present[room, index].all()
    assert (local <= rooms.size_m[room, index] / 2 + 0.02).all()


def test_a_room_is_the_same_in_any_batch(rooms: Rooms, noisy: Views) -> None:
    alone = render(make_rooms("train", torch.tensor([7])), SIDE)
    again = render(make_rooms("train", torch.tensor([9, 7, 3])), SIDE)
    for name in ("rgb", "depth_m", "object_index"):
        whole = getattr(noisy, name)[7]
        assert torch.equal(torch.nan_to_num(whole), torch.nan_to_num(getattr(alone, name)[0]))
        assert torch.equal(torch.nan_to_num(whole), torch.nan_to_num(getattr(again, name)[1]))


def test_a_seed_says_everything(rooms: Rooms, noisy: Views) -> None:
    again = render(rooms, SIDE)
    assert torch.equal(again.rgb, noisy.rgb)
    assert torch.equal(torch.nan_to_num(again.depth_m), torch.nan_to_num(noisy.depth_m))
    assert not torch.equal(noisy.rgb[0], noisy.rgb[1])


def test_noise_has_holes_and_the_sensor_s_size(clean: Views, noisy: Views) -> None:
    holes = noisy.depth_m.isnan()
    assert 0.01 < holes.float().mean() < 0.2
    assert torch.equal(clean.object_index, noisy.object_index)
    share = ((noisy.depth_m - clean.depth_m) / (0.002 + 0.0015 * clean.depth_m**2))[~holes]
    assert abs(share.mean()) < 0.02
    assert share.std().item() == pytest.approx(1.0, abs=0.02)
    inside = (clean.rgb > 20) & (clean.rgb < 235)
    assert (noisy.rgb.float() - clean.rgb.float())[inside].std().item() == pytest.approx(
        3.0, abs=0.1
    )


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_category_is_visible_in_its_color(category: str) -> None:
    rooms = one_object(category, (0.8, 0.8, 0.8), (-1.5, -1.5, 1.8), yaw=0.4)
    views = render(rooms, SIDE, noise=False)
    seen = views.object_index == 0
    assert 80 < seen.sum() < 2500
    color = views.rgb[seen].float()
    red = (color[:, 0] > 100) & (color[:, 1:].amax(-1) < 60)
    assert red.float().mean() > 0.4
    high = unproject(rooms, views)[seen][:, 2].max()
    assert high == pytest.approx(0.8, abs=0.05)  # the parts reach the box's top


def test_absent_objects_are_not_drawn() -> None:
    rooms = one_object("sofa", (0.8, 0.8, 0.8), (-1.5, -1.5, 1.8))
    empty = render(dataclasses.replace(rooms, category=torch.tensor([[-1]])), SIDE)
    assert (empty.object_index == NOTHING).all()


def test_frames_and_boxes_of_a_room() -> None:
    rooms = make_rooms("test", torch.arange(2), level=2)
    views = render(rooms, 32)
    frames = frames_of(rooms, views, 1)
    assert len(frames) == int(rooms.num_views[1])
    assert [frame.stamp_ns for frame in frames[:2]] == [1_000_000_000, 1_200_000_000]
    for i, frame in enumerate(frames):
        R = frame.T_world_cam[:3, :3]
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(R, rooms.T_world_cam[1, i, :3, :3].numpy(), atol=1e-5)
        np.testing.assert_array_equal(frame.rgb, views.rgb[1, i].numpy())
    np.testing.assert_allclose(frames[0].intrinsics.matrix, intrinsics(32).numpy())
    boxes = true_boxes(rooms, 1)
    assert len(boxes) == int(rooms.present[1].sum())
    first = int(rooms.present[1].nonzero()[0])
    assert (
        boxes[0].label == f"{COLORS[rooms.color[1, first]]} {CATEGORIES[rooms.category[1, first]]}"
    )
    np.testing.assert_allclose(boxes[0].size_m, rooms.extents_m()[1, first].numpy())
