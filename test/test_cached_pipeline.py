"""Questions on the cached scene against the paper's mode, without background steps.

Every answer is about the scene as it is.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ada3d_ros.engine.prefix_cache import RESERVED_TOKENS
from ada3d_ros.errors import NoFramesError, QuestionTooLongError
from ada3d_ros.model.random_checkpoint import TINY_CONFIG, write_random_checkpoint
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Answer, Question, Scope
from test.support.pipelines import ASK, ROOM, cache_of, configured, start

QUESTIONS = [ASK, Question("How many chairs?"), Question("Is it at [0.1, 0.2, 0.3]?")]
CHOICES = [
    "none",
    "random",
    "uniform",
    "coarse_voxels",
    "geo_fps",
    "voxel_dpp",
    "kitoke",
    "holitom",
    "condensed_grid",
]
INSIDE = ["adatoken3d", "fastv", "pdrop", "logistic", "voxel_dpp+adatoken3d"]


def pair(model: Path, num_frames: int = 4, **settings: Any) -> tuple[Ada3DPipeline, Ada3DPipeline]:
    """The same scene and settings, cached and as the paper has it."""
    cached = start(model, num_frames, **{"cache.mode": "cached", **settings})
    return cached, start(model, num_frames, **{"cache.mode": "paper", **settings})


def agree(cached: Answer, paper: Answer) -> None:
    """One answer, up to the order of sums."""
    assert cached.text == paper.text
    assert cached.confidence == pytest.approx(paper.confidence, rel=2e-6)
    assert cached.keyframe_stamps_ns == paper.keyframe_stamps_ns
    assert cached.tokens.per_layer == paper.tokens.per_layer
    assert cached.tokens.spatial_total == paper.tokens.spatial_total
    assert cached.tokens.keep_ratio_achieved == paper.tokens.keep_ratio_achieved
    assert cached.tokens.coverage == paper.tokens.coverage


def cached_and_fresh(answer: Answer) -> None:
    assert answer.scene_cached
    assert answer.scene_staleness == 0.0


def cold(answer: Answer) -> None:
    assert not answer.scene_cached
    assert math.isnan(answer.scene_staleness)


@pytest.mark.parametrize("order", ["selection", "sorted"])
@pytest.mark.parametrize("strategy", CHOICES)
def test_what_does_not_ask_the_question_equals_the_paper(
    model: Path, strategy: str, order: str
) -> None:
    """Also after frames came, when the prefix is built anew exactly."""
    settings: dict[str, Any] = {"pruning.strategy": strategy, "pruning.order": order}
    if strategy != "none":
        settings["pruning.keep_ratio"] = 0.5
    cached, paper = pair(model, 3, **settings)
    for frame in (None, *ROOM.frames[3:]):
        if frame is not None:
            cached.observe(frame), paper.observe(frame)
        for question in QUESTIONS:
            answer, expected = cached.ask(question), paper.ask(question)
            agree(answer, expected)
            cached_and_fresh(answer)
            cold(expected)
            assert answer.tokens.prefill_flops < expected.tokens.prefill_flops
    assert cached.cache_report().appends == 0
    assert cached.cache_report().builds == 3  # one per scene, not per question


def test_every_keyframe_is_encoded_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = start(model, 0, **{"pruning.strategy": "voxel_dpp", "keyframe.max_views": 3})
    encoded = count_encoded(pipeline, monkeypatch)
    admitted = 0
    for frame in ROOM.frames:
        admitted += pipeline.observe(frame) is not None
        for _ in range(2):
            pipeline.ask(ASK)
        # Not from the cached scene, but from the same patches.
        pipeline.ask(dataclasses.replace(ASK, keep_ratio=0.9))
    assert admitted == len(ROOM.frames)
    assert encoded == [1] * admitted


def count_encoded(pipeline: Ada3DPipeline, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Views per call of the vision tower."""
    real, encoded = pipeline.model.model.encode_views, list[int]()
    spy = lambda pixels: (encoded.append(len(pixels)), real(pixels))[1]  # noqa: E731
    monkeypatch.setattr(pipeline.model.model, "encode_views", spy)
    return encoded


@pytest.mark.parametrize(
    ("settings", "question"),
    [
        ({"pruning.strategy": "cond_dpp", "pruning.keep_ratio": 0.5}, ASK),
        ({"pruning.strategy": "cond_dpp+fastv", "pruning.keep_ratio": 0.5}, ASK),
        ({"cache.mode": "paper"}, ASK),
        ({"model.compat": "reference"}, ASK),
        ({}, dataclasses.replace(ASK, scope=Scope.LATEST_IMAGE)),
    ],
)
def test_what_is_not_answered_from_the_cache(
    model: Path, settings: dict[str, Any], question: Question
) -> None:
    pipeline = start(model, 3, **settings)
    for _ in range(2):
        cold(pipeline.ask(question))
    assert pipeline.cache_report().kv_bytes == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"pruning.strategy": "geo_fps", "pruning.geo_fps.salient_share": 0.0},
        {"pruning.strategy": "random"},
        {"pruning.strategy": "voxel_dpp", "pruning.voxel_dpp.merge": False},
        {"pruning.strategy": "voxel_dpp", "pruning.voxel_dpp.merge": True},
        {"pruning.strategy": "voxel_dpp+adatoken3d"},
    ],
)
def test_a_smaller_budget_is_the_first_part_of_the_cached_scene(
    model: Path, settings: dict[str, Any]
) -> None:
    nested = {"pruning.order": "selection", "pruning.keep_ratio": 0.6, "cache.prune": "question"}
    cached, paper = pair(model, **{**nested, **settings})
    for keep_ratio in (0.6, 0.4, 0.2):
        question = dataclasses.replace(ASK, keep_ratio=keep_ratio)
        answer, expected = cached.ask(question), paper.ask(question)
        cached_and_fresh(answer)
        assert answer.tokens.keep_ratio_requested == keep_ratio
        if "+" in settings["pruning.strategy"]:
            assert answer.tokens.per_layer == expected.tokens.per_layer
        else:
            agree(answer, expected)
    larger = dataclasses.replace(ASK, keep_ratio=0.8)
    cold(cached.ask(larger))
    agree(cached.ask(larger), paper.ask(larger))
    cached_and_fresh(cached.ask(ASK))
    assert cached.cache_report().builds == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"pruning.strategy": "coarse_voxels"},
        {"pruning.strategy": "uniform"},
        {"pruning.strategy": "voxel_dpp", "pruning.order": "sorted"},
        {
            "pruning.strategy": "geo_fps",
            "pruning.geo_fps.salient_share": 0.3,
            "pruning.order": "selection",
        },
    ],
)
def test_a_budget_that_needs_its_own_choice_is_answered_cold(
    model: Path, settings: dict[str, Any]
) -> None:
    cached, paper = pair(model, **{"pruning.keep_ratio": 0.6, **settings})
    for keep_ratio in (0.3, 0.8):
        question = dataclasses.replace(ASK, keep_ratio=keep_ratio)
        answer = cached.ask(question)
        cold(answer)
        agree(answer, paper.ask(question))
    cached_and_fresh(cached.ask(ASK))


@pytest.mark.parametrize("strategy", INSIDE)
def test_pruning_inside_the_language_model(model: Path, strategy: str) -> None:
    inside = {"pruning.strategy": strategy, "pruning.keep_ratio": 0.6, "cache.prune": "question"}
    cached, paper = pair(model, **inside)
    for question in QUESTIONS:
        answer, expected = cached.ask(question), paper.ask(question)
        cached_and_fresh(answer)
        # logistic's slope follows from masses, which differ after the first pruned layer.
        if strategy != "logistic":
            assert answer.tokens.per_layer == expected.tokens.per_layer
        assert answer.tokens.keep_ratio_achieved == pytest.approx(0.6, abs=0.03)
        assert answer.tokens.prefill_flops < expected.tokens.prefill_flops
        usage, hidden = answer.tokens, cached.model.model.decoder.config.hidden_size
        falls = sum(a > b for a, b in itertools.pairwise(usage.per_layer))
        if strategy != "logistic":  # which has looked at all rows before
            assert usage.rank_flops == 2 * min(falls, 3) * hidden * usage.prompt
        assert answer.cache_mode == "question"
        assert answer.kept_xyz_m is not None
        assert len(answer.kept_xyz_m) == answer.tokens.spatial_kept
        places = spatial_places(cached)
        assert all(tuple(place) in places for place in answer.kept_xyz_m.tolist())
    assert cached.cache_report().builds == 1


def spatial_places(pipeline: Ada3DPipeline) -> set[tuple[float, ...]]:
    table = cache_of(pipeline).encoder.table
    return {tuple(place) for place in pipeline.model.model.spatial_tokens(table).xyz_m.tolist()}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"pruning.strategy": "voxel_dpp"}),
        (
            {"pruning.strategy": "voxel_dpp"},
            {"pruning.strategy": "voxel_dpp", "pruning.keep_ratio": 0.2},
        ),
        ({"pruning.strategy": "random"}, {"pruning.strategy": "random", "pruning.seed": 5}),
        (
            {"pruning.strategy": "random"},
            {"pruning.strategy": "random", "pruning.order": "selection"},
        ),
        (
            {"pruning.strategy": "random", "pruning.keep_ratio": 0.05},
            {"pruning.strategy": "random", "pruning.keep_ratio": 0.05, "pruning.n_min": 150},
        ),
        (
            {"pruning.strategy": "voxel_dpp"},
            {"pruning.strategy": "voxel_dpp", "pruning.voxel_dpp.merge": False},
        ),
        (
            {"pruning.strategy": "geo_fps"},
            {"pruning.strategy": "geo_fps", "pruning.geo_fps.lam": 0.9},
        ),
        ({"model.conversation": "llava_v1"}, {"model.conversation": "vicuna_v1"}),
        ({}, {"cache.kv": "int8"}),
    ],
)
def test_settings_that_change_make_another_prefix(
    model: Path, before: dict[str, Any], after: dict[str, Any]
) -> None:
    base = {"pruning.keep_ratio": 0.5}
    pipeline = start(model, 4, **{**base, **before})
    pipeline.ask(ASK)
    pipeline.set_config(configured(model, **{**base, **after}))
    answer, expected = pipeline.ask(ASK), start(model, 4, **{**base, **after}).ask(ASK)
    cached_and_fresh(answer)
    assert (answer.text, answer.confidence) == (expected.text, expected.confidence)
    assert answer.tokens.per_layer == expected.tokens.per_layer
    assert pipeline.cache_report().builds == 2


def test_a_part_of_another_choice_is_made_anew(model: Path) -> None:
    """Merged groups are those of the configured budget, so a smaller one depends on both."""
    base = {
        "cache.mode": "paper",
        "pruning.strategy": "voxel_dpp",
        "pruning.order": "selection",
        "pruning.voxel_dpp.merge": True,
    }
    asked = dataclasses.replace(ASK, keep_ratio=0.2)
    pipeline = start(model, 4, **{**base, "pruning.keep_ratio": 0.3})
    pipeline.ask(asked)
    pipeline.set_config(configured(model, **{**base, "pruning.keep_ratio": 0.7}))
    expected = start(model, 4, **{**base, "pruning.keep_ratio": 0.7}).ask(asked)
    assert pipeline.ask(asked).confidence == expected.confidence


def test_eight_bit_keys_and_values(model: Path) -> None:
    plain, small = start(model, 4), start(model, 4, **{"cache.kv": "int8"})
    for question in QUESTIONS:
        answer = small.ask(question)
        cached_and_fresh(answer)
        assert answer.text
        assert answer.confidence == pytest.approx(plain.ask(question).confidence, rel=0.2)
    assert small.cache_report().kv_bytes < 0.3 * plain.cache_report().kv_bytes  # of 32 bits
    assert small.ask(ASK).confidence == small.ask(ASK).confidence


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("limit", ["max_positions", "max_length"])
def test_a_scene_beyond_the_models_positions(tmp_path: Path, limit: str, background: bool) -> None:
    size = {"max_positions": 200, "max_length": 200}[limit]
    if limit == "max_positions":
        config = dataclasses.replace(
            TINY_CONFIG,
            decoder=dataclasses.replace(TINY_CONFIG.decoder, max_positions=size),
            max_length=size,
        )
    else:
        config = dataclasses.replace(TINY_CONFIG, max_length=size)
    folder = write_random_checkpoint(tmp_path / "short", config=config)
    pipeline = Ada3DPipeline(configured(folder, **{"cache.settle_sec": 0.0}), background)
    pipeline.load()
    for frame in ROOM.frames:
        pipeline.observe(frame)
    for _ in range(2):
        pieces = 0
        while pipeline.run_background_step():
            pieces += 1
            assert pieces < 50
        with pytest.raises(QuestionTooLongError, match=str(size)):
            pipeline.ask(ASK)
    pipeline.reset_scene()
    pipeline.observe(small_view())
    answer = pipeline.ask(ASK)
    cached_and_fresh(answer)
    assert answer.text


def small_view() -> Any:
    """One frame whose depth is cut down to a few voxels."""
    depth = ROOM.frames[0].depth_m.copy()
    depth[:, 40:] = math.nan
    return dataclasses.replace(ROOM.frames[0], depth_m=depth)


def test_room_for_the_question_is_in_the_prefix(model: Path) -> None:
    """No buffer moves for an ordinary question: its room was reserved."""
    pipeline = start(model, 3)
    pipeline.ask(ASK)
    before = pipeline.cache_report().kv_bytes
    for question in QUESTIONS:
        pipeline.ask(question)
    active = cache_of(pipeline).active
    assert active is not None
    assert active.num_bytes == before
    assert RESERVED_TOKENS > 100


def test_a_scene_without_depth(model: Path) -> None:
    """Background steps give up on it, once; the question says what is wrong.

    Depth that comes later is used.
    """
    blind = dataclasses.replace(ROOM.frames[0], depth_m=torch.full((120, 160), math.nan).numpy())
    pipeline = Ada3DPipeline(configured(model, **{"cache.settle_sec": 0.0}), background=True)
    pipeline.load()
    pipeline.observe(blind)
    assert pipeline.run_background_step()  # encodes the keyframe
    assert not pipeline.run_background_step()
    assert not pipeline.run_background_step()
    with pytest.raises(NoFramesError, match="depth"):
        pipeline.ask(ASK)
    pipeline.observe(ROOM.frames[1])
    while pipeline.run_background_step():
        pass
    cached_and_fresh(pipeline.ask(ASK))
