"""A noisy oracle detector on generated rooms, and what its boxes are worth to the head."""

from __future__ import annotations

import numpy as np
import pytest

from ada3d_ros.lab.evaluation.pipelines import load_room, open_pipeline
from ada3d_ros.lab.evaluation.proposals import OWN, Noise, evaluate, noisy_boxes, point, ways_of
from ada3d_ros.lab.evaluation.selection import RoomSelection, rooms_of
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Box3D, GroundingMethod, Question

WAYS = {
    *(OWN, "label", "proposals", "snapped", "label, else own", "label first, else own"),
    *("several chosen, else own", "kind first, else own", "several of the kind chosen, else own"),
}


@pytest.fixture(scope="module")
def pipeline() -> Ada3DPipeline:
    return open_pipeline(embedded_model_path(), "none", None)


def test_the_oracle_errs_as_it_is_told() -> None:
    box = Box3D(np.array([1.0, 2.0, 0.5]), np.array([1.0, 2.0, 0.4]), label="red chair")
    found = noisy_boxes([box] * 4000, Noise(), np.random.default_rng(0))
    assert len(found) / 4000 == pytest.approx(0.9, abs=0.015)
    wrong = sum(each.label != "red chair" for each in found) / len(found)
    assert wrong == pytest.approx(0.05 * 9 / 10, abs=0.012)  # one in ten draws is the true one
    assert all(each.label.startswith("red ") for each in found)
    assert {each.method for each in found} == {GroundingMethod.DETECTOR}

    # Faces: off by a share of the side, 5 to 10 % from box to box, on average none.
    low = np.array([each.center_m - each.size_m / 2 for each in found])
    off = (low - (box.center_m - box.size_m / 2)) / box.size_m
    assert np.abs(off.mean(axis=0)).max() < 0.005
    expected = np.sqrt((0.05**2 + 0.05 * 0.10 + 0.10**2) / 3)  # of a uniform standard deviation
    assert off.std() == pytest.approx(expected, rel=0.05)
    assert noisy_boxes([box], Noise((0.0, 0.0), 0.0, 0.0), np.random.default_rng(0))[
        0
    ].center_m.tolist() == pytest.approx(box.center_m.tolist())


def test_its_own_box_is_the_one_that_ground_gives(pipeline: Ada3DPipeline) -> None:
    (room,) = rooms_of(RoomSelection(scenes=1), pipeline.view_side)
    load_room(pipeline, room.frames)
    phrase = next(q.phrase for q in room.questions if q.target is not None and q.phrase)
    pointed = point(pipeline, phrase)
    grounded = pipeline.ground(Question(phrase)).boxes
    assert pointed.own is not None
    best = max(grounded, key=lambda box: box.score)
    assert pointed.own.center_m.tolist() == best.center_m.tolist()
    assert pointed.own.size_m.tolist() == best.size_m.tolist()


def test_true_boxes_as_proposals_are_taken_for_what_they_name(pipeline: Ada3DPipeline) -> None:
    (room,) = rooms_of(RoomSelection(scenes=1), pipeline.view_side)
    load_room(pipeline, room.frames)
    true = list(room.boxes.values())
    asked = [q for q in room.questions if q.target is not None and q.phrase and q.unique]
    assert asked
    for question in asked:
        ways = ways_of(pipeline, question.phrase, true)
        target = room.boxes[question.target if question.target is not None else -1]
        for way in ("label", "label, else own", "label first, else own"):
            chosen = ways[way]
            assert chosen is not None
            assert chosen.center_m.tolist() == target.center_m.tolist()
    none = ways_of(pipeline, asked[0].phrase, [])
    assert none["label"] is None
    assert none["kind first, else own"] is none["several chosen, else own"] is none[OWN]


def test_every_way_answers_every_phrase(pipeline: Ada3DPipeline) -> None:
    results = evaluate(pipeline, RoomSelection(scenes=2))
    for group in results["groups"].values():
        assert set(group["ways"]) == WAYS
        own = group["ways"][OWN]
        assert own["acc25"]["points"] == 0.0
        assert all(
            0.0 <= way["acc50"]["value"] <= way["acc25"]["value"] for way in group["ways"].values()
        )
    phrases = sum(group["phrases"] for group in results["groups"].values())
    asked = [q for room in rooms_of(RoomSelection(scenes=2), None) for q in room.questions]
    assert phrases == sum(bool(q.phrase) and q.target is not None for q in asked)
