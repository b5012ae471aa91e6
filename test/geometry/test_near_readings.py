"""Far readings of a place give way to near ones; where there are only far ones, they stay."""

import numpy as np

from ada3d_ros.geometry.near_readings import near_readings, surface_points
from ada3d_ros.types import Intrinsics, RgbdFrame

FACING_X = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], dtype=np.float64)  # R_world_cam


def frame_at(x_m: float) -> RgbdFrame:
    """A camera on the x axis that looks along it."""
    T_world_cam = np.eye(4)
    T_world_cam[:3, :3], T_world_cam[0, 3] = FACING_X, x_m
    camera = Intrinsics(8.0, 8.0, 3.5, 3.5, 8, 8)
    picture, depth_m = np.zeros((8, 8, 3), np.uint8), np.full((8, 8), np.nan, np.float32)
    return RgbdFrame(0, picture, depth_m, camera, T_world_cam, "map")


def test_only_the_near_readings_of_a_place_are_kept() -> None:
    rng = np.random.default_rng(0)
    face = np.array([0.0, 0.0, 1.0]) + rng.uniform(-0.4, 0.4, (4000, 3)) * [0.0, 1.0, 1.0]
    blurred = face + rng.normal(0, 0.03, (4000, 1)) * [1.0, 0.0, 0.0]
    beside = blurred + np.array([0.0, 2.0, 0.0])  # which the near camera does not see
    kept = near_readings(
        [frame_at(-1.5), frame_at(-5.0)], [face, np.concatenate((blurred, beside))]
    )
    assert np.array_equal(kept[:4000], face)
    assert np.array_equal(kept[-4000:], beside)
    assert len(kept) - 8000 < 40  # of those that noise brought 10 cm off, and those at the rim


def test_it_does_not_matter_where_the_world_begins() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.uniform(0, width_m, (1000, 3)) for width_m in (0.5, 0.8)]
    kept = near_readings([frame_at(-1.0), frame_at(-3.0)], parts)
    moved = [part + np.array([0.25, 0.0, 0.0]) for part in parts]
    also = near_readings([frame_at(-0.75), frame_at(-2.75)], moved)
    assert 1100 < len(kept) < 1900
    assert np.allclose(also, kept + np.array([0.25, 0.0, 0.0]))


def test_readings_that_are_near_enough_are_all_kept() -> None:
    rng = np.random.default_rng(0)
    face = rng.uniform(-0.4, 0.4, (1000, 3)) * [0.0, 1.0, 1.0]
    kept = near_readings([frame_at(-0.5), frame_at(-1.9)], [face, face])
    assert len(kept) == 2000


def test_a_reading_far_out_costs_nothing() -> None:
    """One stray pose: no grid of all that lies between."""
    far = np.array([[1e6, -1e6, 1e6]])
    kept = near_readings([frame_at(-1.0), frame_at(-1.0)], [np.zeros((1, 3)), far])
    assert kept.tolist() == [[0.0, 0.0, 0.0], far[0].tolist()]


def test_without_frames_there_are_no_points() -> None:
    assert surface_points((), 1000).shape == (0, 3)
