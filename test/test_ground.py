"""Free phrases through the pipeline with a grounding head: pointing at what was kept, an honest answer where nothing is found."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ada3d_ros.config import from_flat
from ada3d_ros.errors import CheckpointError
from ada3d_ros.model.grounding_head import GroundingHead, save_grounding_head
from ada3d_ros.model.random_checkpoint import TINY_CONFIG, write_random_checkpoint
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Answer, GroundingMethod, Question, Scope
from test.box_room import build_box_room

NO_WISHES = Question("")
WIDTH = TINY_CONFIG.decoder.hidden_size


def write_model(folder: Path, presence: float, width: int = WIDTH, threshold: float = 0.0) -> Path:
    """Random weights and a random head that is sure, or sure not, to see what it is asked for."""
    write_random_checkpoint(folder)
    torch.manual_seed(1)
    head = GroundingHead(width)
    with torch.no_grad():
        head.presence[2].weight.zero_()
        head.presence[2].bias.fill_(presence)
    save_grounding_head(head, folder, threshold)
    return folder


def ground(folder: Path, phrase: str = "the red box", question: Question = NO_WISHES, **settings: object) -> Answer:
    values = {"model.path": str(folder), "generation.max_new_tokens": 6, "keyframe.max_views": 6, **settings}
    pipeline = Ada3DPipeline(from_flat({name.replace("__", "."): value for name, value in values.items()}))
    assert pipeline.check().has_grounding_head
    pipeline.load()
    for frame in build_box_room(num_views=8, width=160, height=120).frames:
        pipeline.observe(frame)
    return pipeline.ground(replace(question, text=phrase))


@pytest.fixture(scope="module")
def sure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("sure"), presence=6.0)


@pytest.mark.parametrize("strategy", ["none", "adatoken3d", "geo_fps", "random"])
def test_boxes_come_from_the_head_also_where_tokens_were_pruned(sure: Path, strategy: str) -> None:
    answer = ground(sure, pruning__strategy=strategy, pruning__keep_ratio=0.5)
    assert answer.boxes
    for box in answer.boxes:
        assert box.method is GroundingMethod.HEAD
        assert box.label == "the red box"
        assert 0.0 < box.score <= 1.0
        assert box.support_points >= 20
        assert len(box.evidence_xyz_m) == len(box.evidence_weights) > 0
    scores = [box.score for box in answer.boxes]
    assert scores == sorted(scores, reverse=True)
    assert (answer.tokens.spatial_kept < answer.tokens.spatial_total) == (strategy != "none")


def test_at_most_the_boxes_asked_for(sure: Path) -> None:
    assert len(ground(sure, question=Question("", max_boxes=1)).boxes) == 1


def test_what_the_head_does_not_see_is_said_and_gets_no_box(tmp_path: Path) -> None:
    answer = ground(write_model(tmp_path, presence=-6.0, threshold=0.5))
    assert answer.boxes == ()
    assert answer.text == "I have not seen the red box."


def test_a_score_asked_for_counts(sure: Path) -> None:
    assert ground(sure, question=Question("", min_score=0.9999)).boxes == ()


def test_an_image_alone_is_not_pointed_at(sure: Path) -> None:
    answer = ground(sure, question=Question("", scope=Scope.LATEST_IMAGE))
    assert all(box.method is GroundingMethod.TEXT for box in answer.boxes)


def test_the_same_question_gives_the_same_boxes(sure: Path) -> None:
    first, second = ground(sure), ground(sure)
    assert len(first.boxes) == len(second.boxes)
    for a, b in zip(first.boxes, second.boxes, strict=True):
        assert np.array_equal(a.center_m, b.center_m)
        assert np.array_equal(a.size_m, b.size_m)


def test_a_head_of_another_model_fails_at_check(tmp_path: Path) -> None:
    folder = write_model(tmp_path, 0.0, width=7)
    with pytest.raises(CheckpointError, match="hidden size of 7"):
        Ada3DPipeline(from_flat({"model.path": str(folder)})).check()


def test_without_a_head_the_phrase_is_found_by_relevance_or_text(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path)
    values = {"model.path": str(tmp_path), "generation.max_new_tokens": 6, "boxes.min_score": 0.0}
    pipeline = Ada3DPipeline(from_flat(values))
    assert not pipeline.check().has_grounding_head
    pipeline.load()
    for frame in build_box_room(num_views=8, width=160, height=120).frames:
        pipeline.observe(frame)
    answer = pipeline.ground(Question("the red box"))
    assert all(box.method in (GroundingMethod.TEXT, GroundingMethod.RELEVANCE) for box in answer.boxes)
    for box in answer.boxes:
        assert box.support_points >= 20
        assert box.evidence_xyz_m
    sure = pipeline.ground(Question("the red box", min_score=0.999))
    assert sure.boxes == ()


def test_evidence_lies_at_kept_tokens_alone(sure: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[set[tuple[float, ...]], set[tuple[float, ...]]]] = []  # places of all tokens, of the kept ones
    real = ground_phrase.point_at_phrase

    def record(*args: Any) -> Any:
        kept, xyz_m = args[1].kept[-1], args[2]
        seen.append(({tuple(p) for p in xyz_m.tolist()}, {tuple(p) for p in xyz_m[kept].tolist()}))
        return real(*args)

    monkeypatch.setattr("ada3d_ros.pipeline.point_at_phrase", record)
    ground(sure)
    answer = ground(sure, pruning__strategy="adatoken3d", pruning__keep_ratio=0.4)
    (scene, unpruned), (_, kept) = seen
    assert unpruned == scene
    assert kept < scene
    assert len(kept) == answer.tokens.spatial_kept < answer.tokens.spatial_total == len(scene)
    assert answer.boxes
    for box in answer.boxes:
        assert set(box.evidence_xyz_m) <= kept
        assert sum(box.evidence_weights) <= 1.0 + 1e-5


def test_a_threshold_that_no_score_reaches_gives_no_box(tmp_path: Path) -> None:
    answer = ground(write_model(tmp_path, presence=6.0, threshold=1.0))
    assert answer.boxes == ()
    assert answer.text == "I have not seen the red box."


@pytest.mark.parametrize("with_head", [True, False], ids=["head", "relevance"])
def test_without_any_depth_no_box_is_made_up(sure: Path, headless: Path, with_head: bool) -> None:
    pipeline = Ada3DPipeline(from_flat({"model.path": str(sure if with_head else headless)}))
    pipeline.load()
    for frame in build_box_room(num_views=4, width=160, height=120).frames:
        pipeline.observe(replace(frame, depth_m=np.full_like(frame.depth_m, np.nan)))
    with pytest.raises(NoFramesError, match="depth reading"):
        pipeline.ground(Question("the red box"))
