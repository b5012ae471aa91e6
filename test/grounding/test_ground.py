"""Free phrases through the pipeline with a grounding head: boxes, or an honest answer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ada3d_ros.config import from_flat
from ada3d_ros.errors import (
    CanceledError,
    CheckpointError,
    ModelError,
    NoFramesError,
    RequestError,
    RequestTimeoutError,
)
from ada3d_ros.geometry.boxes import iou_axis_aligned
from ada3d_ros.grounding import from_attention, ground_answer
from ada3d_ros.model.grounding_head import GroundingHead, save_grounding_head
from ada3d_ros.model.random_checkpoint import TINY_CONFIG, write_random_checkpoint
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Answer, AskHooks, GroundingMethod, Question, Scope, Stage, StopReason
from test.support.box_room import build_box_room

ROOM = build_box_room(num_views=8, width=160, height=120)
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


def start(folder: Path, **settings: object) -> Ada3DPipeline:
    """Loaded, and having seen the room with boxes."""
    values = {
        "model.path": str(folder),
        "generation.max_new_tokens": 6,
        "keyframe.max_views": 6,
        **settings,
    }
    pipeline = Ada3DPipeline(
        from_flat({name.replace("__", "."): value for name, value in values.items()})
    )
    pipeline.load()
    for frame in ROOM.frames:
        pipeline.observe(frame)
    return pipeline


def ground(
    folder: Path, phrase: str = "the red box", question: Question = NO_WISHES, **settings: object
) -> Answer:
    pipeline = start(folder, **settings)
    assert pipeline.info is not None
    assert pipeline.info.has_grounding_head
    return pipeline.ground(replace(question, text=phrase))


@pytest.fixture(scope="module")
def sure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("sure"), presence=6.0)


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("headless"))


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
    for frame in ROOM.frames:
        pipeline.observe(frame)
    answer = pipeline.ground(Question("the red box"))
    assert all(
        box.method in (GroundingMethod.TEXT, GroundingMethod.RELEVANCE) for box in answer.boxes
    )
    for box in answer.boxes:
        assert box.support_points >= 20
        assert box.evidence_xyz_m
    sure = pipeline.ground(Question("the red box", min_score=0.999))
    assert sure.boxes == ()


STOPS = [(RequestTimeoutError, StopReason.TIMEOUT), (CanceledError, StopReason.CANCELED)]


@pytest.mark.parametrize("with_head", [True, False], ids=["head", "relevance"])
@pytest.mark.parametrize(("error", "reason"), STOPS, ids=["timeout", "canceled"])
@pytest.mark.parametrize("stage", [Stage.DECODING, Stage.POSTPROCESS])
def test_stopped_keeps_the_text_and_does_not_claim_that_nothing_is_there(
    sure: Path,
    headless: Path,
    with_head: bool,
    error: type[RequestError],
    reason: StopReason,
    stage: Stage,
) -> None:
    pipeline = start(sure if with_head else headless)
    pieces: list[str] = []
    stages: list[Stage] = []

    def check() -> None:
        if stage in stages and len(pieces) >= 3:
            raise error("enough")

    hooks = AskHooks(
        check=check, on_stage=stages.append, on_text=lambda delta, count: pieces.append(delta)
    )
    answer = pipeline.ground(Question("the red box"), hooks)
    assert (answer.boxes, answer.stop_reason) == ((), reason)
    assert answer.text
    assert "not seen" not in answer.text


def test_without_depth_in_it_a_pointed_box_is_dropped(sure: Path) -> None:
    answer = ground(sure, boxes__min_support_points=100_000)
    assert answer.boxes == ()
    assert answer.text == "I have not seen the red box."


def test_relevance_finds_a_box_that_depth_shows(headless: Path) -> None:
    pipeline = start(headless, cache__prune="none")
    question = Question("the red box", min_score=0.1)
    (box,) = pipeline.ground(question).boxes  # where random weights happen to attend
    (again,) = pipeline.ground(question).boxes
    assert box.method is GroundingMethod.RELEVANCE
    assert 0.0 < box.score <= 1.0
    assert box.support_points >= 20
    assert 0 < len(box.evidence_xyz_m) == len(box.evidence_weights) <= 8
    assert any(iou_axis_aligned(box, thing) > 0.5 for thing in ROOM.boxes)
    assert np.array_equal(box.center_m, again.center_m)
    assert np.array_equal(box.size_m, again.size_m)


def test_a_box_that_the_model_writes_of_the_place_is_taken(
    headless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = start(headless, cache__prune="none")
    question = Question("the red box", min_score=0.1)
    (shown,) = pipeline.ground(question).boxes  # what depth shows at the place
    things = sorted(
        ROOM.boxes, key=lambda thing: float(np.linalg.norm(thing.center_m - shown.center_m))
    )
    real = from_attention.generate_text
    for thing, is_taken in (
        (things[0], True),
        (things[-1], False),
    ):  # at the place; across the room
        numbers = ", ".join(f"{value:.3f}" for value in (*thing.center_m, *thing.size_m))
        monkeypatch.setattr(
            from_attention,
            "generate_text",
            lambda *args, text=numbers: replace(real(*args), text=f"It is at [{text}]."),
        )
        (box,) = pipeline.ground(Question("the red box", min_score=0.1)).boxes
        assert box.method is GroundingMethod.RELEVANCE
        assert box.evidence_xyz_m
        expected = thing if is_taken else shown
        assert box.center_m == pytest.approx(expected.center_m, abs=1e-3)
        assert box.size_m == pytest.approx(expected.size_m, abs=1e-3)


def test_a_weak_peak_gives_no_box_unless_asked_for(
    headless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = start(headless, cache__prune="none")
    (box,) = pipeline.ground(Question("the red box", min_score=0.1)).boxes
    monkeypatch.setattr(from_attention, "MIN_SHARE", box.score + 0.01)
    assert pipeline.ground(Question("the red box")).boxes == ()
    assert len(pipeline.ground(Question("the red box", min_score=box.score - 0.01)).boxes) == 1
    monkeypatch.setattr(from_attention, "MIN_SHARE", box.score - 0.01)
    assert len(pipeline.ground(Question("the red box")).boxes) == 1


def test_relevance_gives_up_where_its_own_prompt_is_too_long(
    headless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = start(headless)
    monkeypatch.setattr(
        from_attention, "LOCATED_PROMPT", "At [{x:.3f}, {y:.3f}, {z:.3f}]. " + "word " * 4000
    )
    answer = pipeline.ground(Question("the red box"))
    assert answer.boxes == ()
    assert answer.text
    assert answer.stop_reason is StopReason.MAX_TOKENS


@pytest.mark.parametrize("layer", ["presence", "box"])
def test_a_head_that_gives_no_number_is_a_model_error(tmp_path: Path, layer: str) -> None:
    write_model(tmp_path, 6.0)
    head = GroundingHead(WIDTH)
    with torch.no_grad():
        getattr(head, layer)[2].bias.fill_(torch.nan)
    save_grounding_head(head, tmp_path, 0.0)
    with pytest.raises(ModelError, match="output is not finite"):
        ground(tmp_path)


def test_evidence_lies_at_kept_tokens_alone(sure: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[
        tuple[set[tuple[float, ...]], set[tuple[float, ...]]]
    ] = []  # places of all tokens, of the kept ones
    real = ground_answer

    def record(*args: Any) -> Any:
        kept, xyz_m = args[3].kept[-1], args[1].chosen.tokens.xyz_m
        seen.append(({tuple(p) for p in xyz_m.tolist()}, {tuple(p) for p in xyz_m[kept].tolist()}))
        return real(*args)

    monkeypatch.setattr("ada3d_ros.pipeline.ground_answer", record)
    ground(sure, pruning__strategy="none")
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
