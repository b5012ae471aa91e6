"""Boxes fitted to depth against the objects of generated rooms as they were drawn."""

import numpy as np
import pytest
import torch

from ada3d_ros.geometry.boxes import grow_box
from ada3d_ros.geometry.measure.distance import surface_distance_m
from ada3d_ros.geometry.measure.fitted import fit_to_depth
from ada3d_ros.lab.world.generated import frames_of, true_boxes
from ada3d_ros.lab.world.render import render
from ada3d_ros.lab.world.rooms import make_rooms
from ada3d_ros.types import Box3D
from test.support.measured import box

Errors = tuple[list[float], list[float]]


@pytest.fixture(scope="module")
def errors() -> Errors:
    """Of surface distances in two rooms of turned things: with enclosing boxes, and fitted."""
    enclosing, fitted = [], []
    for seed in (5, 6):
        rooms = make_rooms("val", torch.tensor([seed]), level=2)
        frames = frames_of(rooms, render(rooms, 96), 0)
        columns = rooms.center_m[0].double(), rooms.size_m[0].double()
        center, size = (column.numpy() for column in columns)
        present = rooms.present[0].nonzero()[:, 0].tolist()
        yaw = rooms.yaw_rad[0].tolist()
        solid = [Box3D(center[i].copy(), size[i].copy(), yaw[i]) for i in present]
        found = [grow_box(one, 0.02) for one in true_boxes(rooms, 0)]
        fits = [fit_to_depth(one, frames, 0.0) for one in found]
        for i in range(len(solid)):
            for j in range(i):
                true_m = surface_distance_m(solid[i], solid[j])
                enclosing.append(abs(surface_distance_m(found[i], found[j]) - true_m))
                fitted.append(abs(surface_distance_m(fits[i], fits[j]) - true_m))
    return enclosing, fitted


def test_turned_things_are_measured_where_their_surfaces_are(errors: Errors) -> None:
    enclosing, fitted = errors
    assert len(fitted) > 40
    assert np.median(fitted) <= 0.05
    assert np.median(fitted) < 0.6 * np.median(enclosing)
    assert np.quantile(fitted, 0.9) < 0.6 * np.quantile(enclosing, 0.9)


def test_without_depth_the_box_stays() -> None:
    one = box([0, 0, 0.5], yaw=0.3)
    assert fit_to_depth(one, (), 0.0) is one


def test_heights_label_and_score_stay() -> None:
    rooms = make_rooms("val", torch.tensor([7]), level=1)
    frames = frames_of(rooms, render(rooms, 96), 0)
    for one in true_boxes(rooms, 0):
        fit = fit_to_depth(one, frames, 0.0)
        assert (fit.center_m[2], fit.size_m[2]) == (one.center_m[2], one.size_m[2])
        assert (fit.label, fit.score) == (one.label, one.score)
        assert 0.0 <= fit.yaw_rad < np.pi / 2
