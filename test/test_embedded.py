"""The model that ships: it answers on rooms nobody trained on, and makes nothing up."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ada3d_ros.config import from_flat
from ada3d_ros.errors import CheckpointError, NoFramesError
from ada3d_ros.lab.evaluation.pipelines import load_room, open_pipeline
from ada3d_ros.lab.evaluation.selection import RoomSelection
from ada3d_ros.lab.evaluation.synthetic import evaluate
from ada3d_ros.lab.world.generated import GeneratedRoom, frames_of, generate_room
from ada3d_ros.lab.world.render import render
from ada3d_ros.lab.world.rooms import ABSENT, make_rooms
from ada3d_ros.model.grounding_head import HEAD_FILE
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import GroundingMethod, Question

SCENES = 16  # 32 questions of the common kinds: each bound is 3 standard errors under the measured


@pytest.fixture(scope="module")
def pipeline() -> Ada3DPipeline:
    return open_pipeline(embedded_model_path(), "none", None)


@pytest.fixture(scope="module")
def room() -> GeneratedRoom:
    return generate_room(7, side_px=96, split="val")


def test_it_is_small_and_says_what_it_is() -> None:
    folder = embedded_model_path()
    assert sum(file.stat().st_size for file in folder.iterdir()) < 40e6
    info = Ada3DPipeline(from_flat({"model.path": "embedded"})).check()
    assert not info.random_weights
    assert info.has_3d
    assert info.has_grounding_head


@pytest.mark.parametrize(("strategy", "keep"), [("none", None), ("adatoken3d", 0.41)])
def test_it_answers_rooms_it_has_not_seen(strategy: str, keep: float | None) -> None:
    pipeline = open_pipeline(embedded_model_path(), strategy, keep)
    metrics = evaluate(pipeline, RoomSelection("val", seed=11, scenes=SCENES))["metrics"]
    assert metrics["existence"] >= 0.85
    assert metrics["category"] >= 0.75
    assert metrics["color"] >= 0.75
    assert metrics["grounding_unique_acc25"] >= 0.55
    assert metrics["grounding_distractor_acc25"] >= 0.55
    assert metrics["absent_false_box_rate"] <= 0.2


def test_without_its_head_it_grounds_by_relevance(room: GeneratedRoom, tmp_path: Path) -> None:
    folder = tmp_path / "headless"
    shutil.copytree(embedded_model_path(), folder, ignore=shutil.ignore_patterns(HEAD_FILE))
    headless = open_pipeline(folder, "none", None)
    found = 0
    for seed in range(3):
        seen = generate_room(seed, side_px=96, split="val")
        load_room(headless, seen.frames)
        for thing, box in zip(seen.graph.things, seen.boxes, strict=True):
            if len(seen.graph.matching(thing.category, thing.color)) > 1:
                continue  # the phrase means one of several
            phrase = Question(f"the {thing.name}", max_new_tokens=8, min_score=0.01)
            boxes = headless.ground(phrase).boxes
            assert {b.method for b in boxes} <= {GroundingMethod.RELEVANCE, GroundingMethod.TEXT}
            found += any(np.linalg.norm(b.center_m - box.center_m) < 0.5 for b in boxes)
    assert found >= 8  # of about 20; a random token lies so near in 1 % of cases


def test_an_empty_room_has_nothing_to_point_at(pipeline: Ada3DPipeline) -> None:
    rooms = make_rooms("val", torch.tensor([7]))
    empty = replace(rooms, category=torch.full_like(rooms.category, ABSENT))
    load_room(pipeline, frames_of(empty, render(empty, 96), 0))
    for phrase in ("the red chair", "the blue sofa", "the lamp"):
        answer = pipeline.ground(Question(phrase))
        assert answer.boxes == ()
        assert answer.text == f"I have not seen {phrase}."
    assert pipeline.ask(Question("Is there a red chair?")).text == "no"


def test_views_without_any_depth_are_refused(pipeline: Ada3DPipeline, room: GeneratedRoom) -> None:
    load_room(pipeline, [replace(f, depth_m=np.full_like(f.depth_m, np.nan)) for f in room.frames])
    with pytest.raises(NoFramesError, match="depth"):
        pipeline.ground(Question("the red chair"))


def test_one_surface_that_fills_the_view_is_no_object_of_the_phrase(
    pipeline: Ada3DPipeline, room: GeneratedRoom
) -> None:
    frame = room.frames[0]
    rgb = np.full_like(frame.rgb, (40, 70, 200))
    load_room(pipeline, [replace(frame, rgb=rgb, depth_m=np.full_like(frame.depth_m, 0.6))])
    for box in pipeline.ground(Question("the red chair")).boxes:
        assert box.support_points >= 20  # if anything, then something that depth shows
        assert bool((box.size_m < 5.0).all())


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(embedded_model_path(), tmp_path / "other"))
    words = (folder / "tokenizer.model").read_bytes()
    (folder / "tokenizer.model").write_bytes(words.replace(b"chair", b"cheer"))
    with pytest.raises(CheckpointError, match=r"tokenizer.model is not the one"):
        Ada3DPipeline(from_flat({"model.path": str(folder)})).check()


def test_a_head_of_other_weights_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Path(shutil.copytree(embedded_model_path(), tmp_path / "other"))
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"] * 1.01
    save_file(tensors, folder / "model.safetensors")
    open_pipeline(folder, "none", None)
    assert "grounding_head.safetensors was trained with weights of sha256" in caplog.text
    caplog.clear()
    open_pipeline(embedded_model_path(), "none", None)
    assert "sha256" not in caplog.text
