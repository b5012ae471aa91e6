"""Lists of objects against the truth, and objects taken out of rooms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ada3d_ros.lab.evaluation.objects import (
    InventoryCount,
    count_removals,
    evaluate_objects,
    match_inventory,
    path_within,
    without,
)
from ada3d_ros.lab.evaluation.pipelines import load_room, open_pipeline
from ada3d_ros.lab.world.generated import frames_of, true_boxes
from ada3d_ros.lab.world.render import render
from ada3d_ros.lab.world.rooms import ABSENT, make_rooms
from ada3d_ros.measures import SceneObject
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Box3D


@pytest.fixture(scope="module")
def pipeline() -> Ada3DPipeline:
    return open_pipeline(embedded_model_path(), "none", None, {"objects.enabled": True})


def box(x: float, label: str) -> Box3D:
    return Box3D(np.array([x, 0.0, 0.5]), np.ones(3), label=label, score=0.9)


def thing(number: int, x: float, label: str) -> SceneObject:
    return SceneObject(str(number), label, box(x, label))


def test_each_true_object_is_found_once() -> None:
    truth = {0: box(0.0, "red chair"), 4: box(3.0, "blue table"), 5: box(6.0, "lamp")}
    found = [
        thing(1, 0.1, "red chair"),
        thing(2, 0.2, "red chair"),  # the same once more
        thing(3, 3.5, "red table"),  # IoU 1/3, another name
        thing(4, 6.7, "lamp"),  # IoU 3/17
    ]
    count = match_inventory(found, truth)
    assert count == InventoryCount(placed=2, named=1, found=4, true=3)
    assert count.metrics() == {
        "inventory_recall25": pytest.approx(2 / 3),
        "inventory_precision25": 0.5,
        "inventory_named": 0.5,
    }
    assert match_inventory([], truth) == InventoryCount(true=3)
    assert match_inventory(found, {}) == InventoryCount(found=4)
    assert math.isnan(InventoryCount().metrics()["inventory_precision25"])
    assert count.plus(count) == InventoryCount(4, 2, 8, 6)


def test_a_room_without_a_thing_shows_what_was_hidden_by_it() -> None:
    room = make_rooms("val", torch.tensor([7]))
    emptied = without(room, 0)
    assert int(emptied.category[0, 0]) == ABSENT
    assert int(room.category[0, 0]) != ABSENT
    before, after = (render(each, 64, noise=False) for each in (room, emptied))
    was_there = before.object_index == 0
    assert bool(was_there.any())
    assert not bool((after.object_index == 0).any())
    assert bool((after.depth_m[was_there] > before.depth_m[was_there]).all())
    assert torch.equal(after.depth_m[~was_there], before.depth_m[~was_there])


def test_another_rooms_path_stays_between_the_walls() -> None:
    room, other = (make_rooms("val", torch.tensor([seed])) for seed in (7, 8))
    path = path_within(room, other)
    assert bool((path[0, :, :2, 3].abs() < room.room_m[0] / 2).all())
    assert torch.equal(path[..., :3, :3], other.T_world_cam[..., :3, :3])


def test_what_is_taken_out_is_gone_in_time_and_nothing_else(pipeline: Ada3DPipeline) -> None:
    for seed in (21, 22):
        room, path = (make_rooms("val", torch.tensor([number])) for number in (seed, seed + 50))
        load_room(pipeline, frames_of(room, render(room, pipeline.view_side), 0))
        kept = pipeline.inventory_now()
        count = count_removals(pipeline, room, path)
        assert pipeline.inventory_now() is kept  # the scene's own list is as it was
        assert count.taken_out >= len(true_boxes(room, 0)) - 2
        assert count.seen >= count.taken_out - 2
        assert (count.late, count.wrongly_gone) == (0, 0)
        assert count.left == count.taken_out * (count.taken_out - 1)


def test_what_stays_is_not_counted_as_gone_in_time(
    pipeline: Ada3DPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A memory that never lets an object go is late with every one that two views look at."""
    monkeypatch.setattr("ada3d_ros.scene.object_evidence.GONE_VIEWS", 10**6)
    room, path = (make_rooms("val", torch.tensor([number])) for number in (21, 71))
    load_room(pipeline, frames_of(room, render(room, pipeline.view_side), 0))
    count = count_removals(pipeline, room, path)
    assert count.late == count.seen >= 4
    assert count.wrongly_gone == 0


def test_a_small_evaluation(pipeline: Ada3DPipeline) -> None:
    results = evaluate_objects(pipeline, range(40, 44), removals=False)
    assert results["n"] == 4
    assert results["removals"] is None
    assert results["metrics"]["inventory_recall25"] >= 0.75
    assert results["metrics"]["inventory_precision25"] >= 0.75
