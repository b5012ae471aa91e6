"""Questions between background steps: the newest keyframes, little waiting, exact in the end."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from ada3d_ros.errors import CanceledError, NoFramesError
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import AskHooks, RgbdFrame
from test.support.pipelines import (
    ASK,
    MANY,
    OTHER,
    cache_of,
    configured,
    exact,
    library,
    settle,
    show,
    start,
    start_background,
)

NEVER = {"cache.settle_sec": 60.0, "cache.max_staleness": 1.0}  # nothing is built anew


@pytest.mark.parametrize("strategy", ["none", "voxel_dpp", "voxel_dpp+adatoken3d", "adatoken3d"])
def test_a_settled_scene_is_exact(model: Path, strategy: str) -> None:
    settings = {"pruning.strategy": strategy} | (
        {"pruning.keep_ratio": 0.6} if strategy != "none" else {}
    )
    pipeline = start_background(model, **settings)
    for count in (2, 3, 5):
        show(pipeline, MANY[pipeline.scene_state().num_keyframes : count])
        settle(pipeline)
        report = pipeline.cache_report()
        assert (report.staleness, report.building, report.keyframes) == (0.0, 0, count)
        assert report.version == pipeline.scene_state().version
        exact(pipeline, library(model, MANY[:count], **settings))
    assert settle(pipeline) == 0


def test_a_question_about_frames_that_just_came(model: Path) -> None:
    """New voxels are appended; what changed of the others is stale until it is built anew."""
    pipeline = start_background(model, MANY[:3], **NEVER)
    settle(pipeline)
    before = pipeline.ask(ASK)
    assert before.scene_staleness == 0.0
    for count in (4, 5, 6):
        show(pipeline, MANY[count - 1 : count])
        answer = pipeline.ask(ASK)
        assert answer.scene_cached
        assert answer.keyframe_stamps_ns == tuple(frame.stamp_ns for frame in MANY[:count])
        assert answer.stamp_ns == MANY[count - 1].stamp_ns
        assert answer.scene_version == count
        assert 0.0 < answer.scene_staleness < 1.0
        assert answer.scene_staleness == pipeline.cache_report().staleness
        assert answer.tokens.spatial_total == library_tokens(model, count)
        assert pipeline.cache_report().appends == count - 3
        assert pipeline.cache_report().builds == 1
    assert settle(pipeline) == 0
    pipeline.set_config(configured(model, **{"cache.settle_sec": 0.0, "cache.chunk_tokens": 16}))
    assert settle(pipeline) > 1
    assert pipeline.cache_report().staleness == 0.0
    exact(pipeline, library(model, MANY[:6]))


def library_tokens(model: Path, count: int) -> int:
    return library(model, MANY[:count]).ask(ASK).tokens.spatial_total


def test_the_same_course_gives_the_same_answer(model: Path) -> None:
    """An answer from an appended scene follows from the order of arrival alone.

    When the work was done does not matter.
    """

    def course(work: int, questions: bool) -> Ada3DPipeline:
        pipeline = start_background(model, MANY[:2], **NEVER)
        settle(pipeline)
        for frame in MANY[2:5]:
            show(pipeline, (frame,))
            for _ in range(work):
                pipeline.run_background_step()
            if questions:
                pipeline.ask(OTHER)
            pipeline.ask(OTHER) if not work else settle(pipeline)
        return pipeline

    answers = [
        course(*how).ask(ASK) for how in ((0, False), (0, True), (2, False), (2, True), (50, True))
    ]
    assert len({(answer.text, answer.confidence) for answer in answers}) == 1
    assert len({answer.scene_staleness for answer in answers}) == 1


@pytest.mark.parametrize("pieces", range(0, 12, 2))
def test_a_question_in_the_middle_of_a_rebuild(model: Path, pieces: int) -> None:
    pipeline, twin = start_background(model, MANY[:3]), start_background(model, MANY[:3], **NEVER)
    for each in (pipeline, twin):
        settle(each)
        show(each, MANY[3:5])
    for _ in range(pieces):
        assert pipeline.run_background_step()
    answer, expected = pipeline.ask(ASK), twin.ask(ASK)
    if answer.scene_staleness > 0.0:  # the active prefix is the one that the twin has
        assert (answer.text, answer.confidence) == (expected.text, expected.confidence)
        assert answer.scene_staleness == expected.scene_staleness
    assert answer.keyframe_stamps_ns == expected.keyframe_stamps_ns
    pipeline.ask(OTHER)
    settle(pipeline)
    exact(pipeline, library(model, MANY[:5]))


@pytest.mark.parametrize("pieces", [0, 1, 2, 3, 5])
def test_frames_in_the_middle_of_a_rebuild(model: Path, pieces: int) -> None:
    """The rebuild goes on with the scene it was begun with; what came since is appended."""
    pipeline = start_background(model, MANY[:2])
    settle(pipeline)
    for count in range(3, 8):
        show(pipeline, MANY[count - 1 : count])
        for _ in range(pieces):
            pipeline.run_background_step()
        answer = pipeline.ask(ASK)
        assert answer.stamp_ns == MANY[count - 1].stamp_ns
        assert answer.scene_staleness == pipeline.cache_report().staleness
    settle(pipeline)
    exact(pipeline, library(model, MANY[:7]))


@pytest.mark.parametrize("strategy", ["none", "voxel_dpp"])
def test_keyframes_that_are_kept_no_more(model: Path, strategy: str) -> None:
    settings: dict[str, Any] = {"keyframe.max_views": 3, "pruning.strategy": strategy}
    pipeline = start_background(model, **settings)
    for i, frame in enumerate(MANY):
        show(pipeline, (frame,))
        for _ in range(i % 4):
            pipeline.run_background_step()
        answer = pipeline.ask(ASK)
        assert answer.scene_cached
        assert 0.0 <= answer.scene_staleness <= 1.0
        assert len(answer.keyframe_stamps_ns) <= 3
        if strategy == "none":
            assert answer.stamp_ns == frame.stamp_ns
    settle(pipeline)
    exact(pipeline, library(model, MANY, **settings))


def test_questions_alone_bring_a_stale_scene_up_to_date(model: Path) -> None:
    """Each builds one piece of the pending prefix where too much is stale: it never starves."""
    pipeline = start_background(model, MANY[:2], **{"cache.max_staleness": 0.05})
    settle(pipeline)
    show(pipeline, MANY[2:5])
    builds = pipeline.cache_report().builds
    staleness = [pipeline.ask(ASK).scene_staleness for _ in range(25)]
    assert staleness[0] > 0.05
    assert staleness[-1] == 0.0
    assert pipeline.cache_report().builds == builds + 1
    exact(pipeline, library(model, MANY[:5]))


def test_a_question_with_a_deadline_builds_one_piece_too(model: Path) -> None:
    """It asks for the prefix twice, to plan and to answer: a second piece would be unplanned."""

    def waiting_after(deadline_s: float) -> int:
        settings = {"cache.max_staleness": 0.05, "pruning.strategy": "adatoken3d"}
        pipeline = start_background(model, MANY[:2], **settings)
        settle(pipeline)
        show(pipeline, MANY[2:5])
        assert pipeline.ask(dataclasses.replace(ASK, deadline_s=deadline_s)).scene_cached
        return pipeline.cache_report().building

    assert waiting_after(99.0) == waiting_after(math.nan) > 0


def test_reset_between_two_pieces(model: Path) -> None:
    pipeline = start_background(model, MANY[:3])
    for pieces in range(1, 8):
        for _ in range(pieces):
            assert pipeline.run_background_step()
        pipeline.reset_scene()
        with pytest.raises(NoFramesError):
            pipeline.ask(ASK)
        assert not pipeline.run_background_step()
        report = pipeline.cache_report()
        assert (report.kv_bytes, report.spatial, report.building) == (0, 0, 0)
        assert math.isnan(report.staleness)
        show(pipeline, MANY[3:6])
    settle(pipeline)
    answer, expected = pipeline.ask(ASK), library(model, MANY[3:6]).ask(ASK)
    assert (answer.text, answer.confidence) == (expected.text, expected.confidence)
    assert answer.scene_epoch == 7


def test_voxels_that_only_join_are_put_in_order_too(model: Path) -> None:
    """A view that shares no voxel leaves nothing stale; the order is that of arrival.

    Until the prefix is built anew, in voxel order.
    """
    left, far = MANY[0], dataclasses.replace(MANY[1], T_world_cam=moved(MANY[1], -50.0))
    pipeline = start_background(model, (left,))
    settle(pipeline)
    show(pipeline, (far,))
    settle(pipeline)
    exact(pipeline, library(model, (left, far)))
    # A library pipeline with background steps all the same.
    held = start(model, 0, **{"cache.settle_sec": 60.0})
    show(held, (left,))
    settle(held)
    show(held, (far,))
    settle(held)
    assert held.cache_report().appends == 1
    assert held.cache_report().staleness == 0.0
    exact(held, library(model, (left, far), **{"cache.chunk_tokens": 256}))


def moved(frame: RgbdFrame, x_m: float) -> Any:
    pose = frame.T_world_cam.copy()
    pose[0, 3] += x_m
    return pose


@pytest.mark.parametrize("at", [0, 1, 3, 6])
def test_a_question_stopped_while_it_waits_for_the_scene(model: Path, at: int) -> None:
    """Before the first prefix is there; what was done so far is not lost and not spoiled."""
    pipeline = start_background(model, MANY[:3])
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked > at:
            raise CanceledError("enough")

    with pytest.raises(CanceledError):
        pipeline.ask(ASK, AskHooks(check=check))
    exact(pipeline, library(model, MANY[:3]))


def test_other_settings_between_two_pieces(model: Path) -> None:
    pipeline = start_background(model, MANY[:3])
    for strategy in ("voxel_dpp", "none", "random", "cond_dpp", "none"):
        for _ in range(3):
            pipeline.run_background_step()
        config = {"cache.settle_sec": 0.0, "cache.chunk_tokens": 16, "pruning.strategy": strategy}
        pipeline.set_config(configured(model, **config))
    settle(pipeline)
    exact(pipeline, library(model, MANY[:3]))


@pytest.mark.parametrize(
    ("strategy", "name", "value", "kept"),
    [
        ("adatoken3d", "cache.max_staleness", 0.5, True),
        ("adatoken3d", "cache.chunk_tokens", 32, True),
        ("adatoken3d", "cache.prompts", "Where?", False),
        ("adatoken3d", "cache.prune", "question", False),
        ("voxel_dpp", "pruning.pre_positions", "original", False),
    ],
)
def test_a_scene_goes_with_the_settings_it_was_built_under_alone(
    model: Path, strategy: str, name: str, value: Any, kept: bool
) -> None:
    base = {"pruning.strategy": strategy, "pruning.keep_ratio": 0.5}
    pipeline = start_background(model, MANY[:2], **base)
    settle(pipeline)
    built = cache_of(pipeline).active
    assert built is not None
    small = {"cache.settle_sec": 0.0, "cache.chunk_tokens": 16}
    pipeline.set_config(configured(model, **{**small, **base, name: value}))
    pipeline.run_background_step()
    assert (cache_of(pipeline).active is built) == kept


def test_a_model_without_3d_has_no_background_steps(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = start_background(model, MANY[:2])
    plain = dataclasses.replace(pipeline.model.model.config, has_video_tower=False)
    monkeypatch.setattr(pipeline.model.model, "config", plain)
    for _ in range(3):
        assert not pipeline.run_background_step()


def test_before_loading_and_without_frames(model: Path) -> None:
    pipeline = Ada3DPipeline(configured(model), background=True)
    assert not pipeline.run_background_step()
    assert pipeline.cache_report().kv_bytes == 0
    pipeline.load()
    assert not pipeline.run_background_step()
