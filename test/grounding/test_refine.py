"""Depth moves the faces of a guess to the surface; where depth says nothing, the guess stands."""

from collections.abc import Callable

import numpy as np
import pytest

from ada3d_ros.geometry.boxes import grow_box, iou_axis_aligned, points_inside
from ada3d_ros.geometry.depth_support import world_points
from ada3d_ros.grounding.refine import RefineSettings, floor_height_m, refine_box
from ada3d_ros.grounding.walls import without_walls, without_walls_over
from ada3d_ros.lab.world.generated import generate_room
from ada3d_ros.types import Box3D
from test.support.box_room import build_box_room


def shifted_and_stretched(rng: np.random.Generator, box: Box3D) -> Box3D:
    return Box3D(
        box.center_m + rng.normal(0, 0.1, 3),
        box.size_m * rng.uniform(0.7, 1.3, 3),
        label="x",
        score=0.7,
    )


def small_and_beside(rng: np.random.Generator, box: Box3D) -> Box3D:
    away = rng.normal(size=3)
    return Box3D(
        box.center_m + 0.12 * away / np.linalg.norm(away), 0.8 * box.size_m, label="x", score=0.7
    )


@pytest.mark.parametrize(
    ("spoil", "gain", "least"), [(shifted_and_stretched, 0.1, 0.6), (small_and_beside, 0.0, 0.5)]
)
def test_spoilt_boxes_come_nearer_the_truth(
    spoil: Callable[[np.random.Generator, Box3D], Box3D], gain: float, least: float
) -> None:
    rng = np.random.default_rng(0)
    before, after = [], []
    for seed in range(4):
        room = generate_room(seed, side_px=96)
        points = world_points(room.frames, 60_000)
        floor = floor_height_m(points)
        assert abs(floor) < 0.05
        far = Box3D(np.array([20.0, -20.0, 0.5]), np.ones(3))
        assert refine_box(points, far, floor) is far
        for box in room.boxes:
            if box.center_m[2] - box.size_m[2] / 2 > 0.05 or points_inside(points, box).sum() < 150:
                continue
            guess = spoil(rng, box)
            refined = refine_box(points, guess, floor)
            assert (refined.label, refined.score, refined.yaw_rad) == ("x", 0.7, 0.0)
            before.append(iou_axis_aligned(guess, box))
            after.append(iou_axis_aligned(refined, box))
    assert len(after) > 15
    assert np.mean(after) > np.mean(before) + gain
    assert np.mean(after) > least


@pytest.mark.parametrize(
    "points", [np.empty((0, 3)), np.full((500, 3), 9.0)], ids=["no depth", "elsewhere"]
)
def test_without_a_surface_the_guess_stands(points: np.ndarray) -> None:
    guess = Box3D(np.array([0.0, 0.0, 0.5]), np.array([0.5, 0.5, 1.0]))
    assert refine_box(points, guess, 0.0) is guess


def test_a_surface_of_another_size_does_not_replace_the_guess() -> None:
    guess = Box3D(np.array([0.0, 0.0, 0.5]), np.array([1.0, 1.0, 1.0]))
    speck = np.array([0.0, 0.0, 0.5]) + np.random.default_rng(0).uniform(-0.05, 0.05, (100, 3))
    assert refine_box(speck, guess, 0.0) is guess


def test_a_shape_that_nearly_reaches_the_floor_stands_on_it() -> None:
    grid = np.stack(
        np.meshgrid(*[np.linspace(-0.3, 0.3, 13)] * 2, np.linspace(0.1, 0.9, 17)), -1
    ).reshape(-1, 3)
    box = refine_box(grid, Box3D(np.array([0.05, 0.0, 0.5]), np.array([0.5, 0.6, 0.8])), 0.0)
    assert box.center_m[2] - box.size_m[2] / 2 == pytest.approx(0.0)
    assert box.size_m == pytest.approx([0.6, 0.6, 0.9], abs=0.05)


@pytest.mark.parametrize("yaw_deg", [0.0, 30.0])
def test_a_thing_at_a_wall_is_not_the_wall(yaw_deg: float) -> None:
    """Stray readings, as at the edges of things, join it to two walls that meet behind it."""
    rng = np.random.default_rng(0)
    size_m = np.array([0.5, 0.5, 0.9])
    thing = rng.uniform(-0.5, 0.5, (2000, 3)) * size_m + [0.0, 0.0, 0.45]
    side = rng.integers(0, 3, 2000)
    thing[np.arange(2000), side] = (np.sign(rng.normal(size=2000)) * size_m[side] / 2) + [
        [0.0, 0.0, 0.45][i] for i in side
    ]
    behind = np.stack(
        (rng.uniform(-2, 0.4, 6000), np.full(6000, 0.4), rng.uniform(0, 2.4, 6000)), 1
    )
    beside = np.stack(
        (np.full(6000, 0.4), rng.uniform(-2, 0.4, 6000), rng.uniform(0, 2.4, 6000)), 1
    )
    stray = np.stack(
        (rng.uniform(-0.2, 0.2, 100), rng.uniform(0.25, 0.4, 100), np.full(100, 0.8)), 1
    )
    turn = np.deg2rad(yaw_deg)
    turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    points = np.concatenate((thing, behind, beside, stray))
    points[:, :2] = points[:, :2] @ turned
    inside = points[:2000]
    true = Box3D((inside.min(0) + inside.max(0)) / 2, np.ptp(inside, axis=0))
    guess = Box3D(true.center_m + np.array([0.05, -0.05, 0.0]), true.size_m * [1.1, 0.9, 1.05])
    assert iou_axis_aligned(refine_box(points, guess, 0.0), true) > 0.8
    settings = RefineSettings(wall_growth=1e9)
    assert iou_axis_aligned(refine_box(points, guess, 0.0, settings), true) < 0.3


def faces(box: Box3D, count: int, rng: np.random.Generator) -> np.ndarray:
    """Readings on the sides and the top of a box, (count, 3)."""
    points = rng.uniform(-0.5, 0.5, (count, 3))
    side = rng.integers(0, 3, count)
    sign = np.where(side == 2, 1.0, np.sign(rng.normal(size=count)))
    points[np.arange(count), side] = 0.5 * sign
    return points * box.size_m + box.center_m


def test_a_guess_beside_a_thing_in_a_corner_does_not_take_its_side_for_a_wall() -> None:
    """The side that the guess does not reach holds more readings than either wall."""
    rng = np.random.default_rng(0)
    sofa = Box3D(np.array([0.4, 0.62, 0.38]), np.array([0.8, 1.24, 0.76]))
    walls = [
        np.stack((np.full(3000, -0.1), rng.uniform(-1, 3, 3000), rng.uniform(0, 2.4, 3000)), 1),
        np.stack((rng.uniform(0, 3, 3000), np.full(3000, 1.34), rng.uniform(0, 2.4, 3000)), 1),
    ]
    points = np.concatenate((faces(sofa, 4000, rng), *walls))
    points += rng.normal(0, 0.01, points.shape)
    guess = Box3D(sofa.center_m + np.array([0.3, 0.25, -0.05]), np.array([1.1, 1.15, 0.72]))
    assert iou_axis_aligned(refine_box(points, guess, 0.0), sofa) > 0.8
    around = points[points_inside(points, grow_box(guess, 0.6))]
    without, over = without_walls(around, guess), without_walls_over(around, guess, points)
    whole = points_inside(around, grow_box(sofa, 0.05)).sum()
    assert points_inside(without, grow_box(sofa, 0.05)).sum() < 0.8 * whole
    assert points_inside(over, grow_box(sofa, 0.05)).sum() > 0.95 * whole


@pytest.mark.parametrize("with_foot", [True, False])
def test_a_lamp_whose_rod_no_reading_shows_is_one_thing(with_foot: bool) -> None:
    """Unless the guess says that what lies apart from it is no part of it."""
    rng = np.random.default_rng(0)
    lamp = Box3D(np.array([0.0, 0.0, 0.7]), np.array([0.45, 0.45, 1.4]))
    shade = Box3D(np.array([0.0, 0.0, 1.15]), np.array([0.45, 0.45, 0.5]))
    foot = Box3D(np.array([0.0, 0.0, 0.1]), np.array([0.3, 0.3, 0.2]))
    points = np.concatenate((faces(shade, 2000, rng), faces(foot, 800, rng)))
    true = lamp if with_foot else shade
    guess = Box3D(true.center_m + np.array([0.04, -0.03, -0.02]), true.size_m * [0.9, 0.9, 0.95])
    assert iou_axis_aligned(refine_box(points, guess, 0.0), true) > 0.9


@pytest.mark.parametrize(("width", "height"), [(96, 96), (640, 480)])
def test_the_generated_rooms_boxes_are_found_from_a_perturbed_guess(
    width: int, height: int
) -> None:
    room = build_box_room(num_views=8, width=width, height=height)
    rng = np.random.default_rng(0)
    guesses = [
        Box3D(b.center_m + rng.normal(0, 0.08, 3), b.size_m * rng.uniform(0.8, 1.25, 3))
        for b in room.boxes
    ]
    points = world_points(room.frames, 60_000)
    floor_z_m = floor_height_m(points)
    refined = [refine_box(points, guess, floor_z_m) for guess in guesses]
    assert len(points) <= 61_000
    for box, truth in zip(refined, room.boxes, strict=True):
        assert iou_axis_aligned(box, truth) > 0.6
