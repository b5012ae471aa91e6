"""A question with a deadline: the largest budget that should meet it, by what others took."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ada3d_ros.engine import memory_fallback, query_context
from ada3d_ros.engine.budget import keep_ratios
from ada3d_ros.engine.deadline import FACTORS, LatencyModel
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.engine.scene_pruning import ScenePruning
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.pruning.cost import DecoderShape
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.types import Scope
from test.support.pipelines import ASK, ROOM, cache_of, start, timed_answer

NESTED = {"pruning.strategy": "voxel_dpp", "pruning.order": "selection", "pruning.keep_ratio": 0.8}
CACHED = ("build", "question", "none")
HURRIED = dataclasses.replace(ASK, deadline_s=1.0)


def teach(pipeline: Ada3DPipeline, seconds_at: dict[float, float]) -> None:
    """Note that questions with this share of the scene's tokens took so long.

    All of it before the first token, however the cached scene is pruned.
    """
    latency, voxels = LatencyModel(), cache_of(pipeline).encoder.table.num_tokens
    for mode, (share, seconds) in itertools.product(CACHED, seconds_at.items()):
        latency.record(timed_answer(share * voxels, seconds, 0.0, 0.0, 8, mode))
    pipeline.latency = latency


def taught(
    model: Path,
    seconds_at: dict[float, float],
    now: Callable[[], float] = lambda: 100.0,  # planning takes no time
    **settings: Any,
) -> Ada3DPipeline:
    pipeline = start(model, 4, now, **{**NESTED, **settings})
    pipeline.ask(ASK)
    teach(pipeline, seconds_at)
    return pipeline


def test_without_history_as_configured(model: Path) -> None:
    pipeline = start(model, 4, **NESTED)
    for deadline_s in (1e-9, 1e9):
        teach(pipeline, {})
        answer = pipeline.ask(dataclasses.replace(ASK, deadline_s=deadline_s))
        assert answer.tokens.keep_ratio_achieved == pytest.approx(0.8, abs=0.01)
        assert answer.deadline_kept == (deadline_s > 1)
    assert not pipeline.ask(ASK).deadline_kept  # none was asked


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("strategy", ["voxel_dpp", "random", "adatoken3d"])
def test_the_largest_budget_that_fits(model: Path, factor: float, strategy: str) -> None:
    """Time as the tokens, so that this share takes 0.9 of the deadline."""
    settings = {"pruning.strategy": strategy, "cache.prune": "question"}
    pipeline = taught(model, {0.0: 0.0, factor * 0.8: 0.8999}, **settings)
    answer = pipeline.ask(HURRIED)
    reached = [f for f in FACTORS if strategy != "adatoken3d" or f >= lowest(pipeline)]
    chosen = next((f for f in reached if f <= factor), reached[-1])
    assert answer.tokens.keep_ratio_achieved == pytest.approx(0.8 * chosen, abs=0.02)
    assert answer.scene_cached
    assert math.isnan(answer.tokens.keep_ratio_requested)


def lowest(pipeline: Ada3DPipeline) -> float:
    pruning = ScenePruning(DecoderShape.from_config(pipeline.model.model.config.decoder))
    pruning.configure(pipeline.config.pruning)
    ratios = keep_ratios(Policy.from_config(pipeline.config.pruning), pruning)
    assert ratios == sorted(ratios, reverse=True)
    return ratios[-1] / 0.8 - 1e-6


def test_none_fits(model: Path) -> None:
    pipeline = taught(model, {0.0: 50.0, 1.0: 99.0}, time.perf_counter)
    answer = pipeline.ask(dataclasses.replace(ASK, deadline_s=1e-6))
    assert answer.tokens.keep_ratio_achieved == pytest.approx(0.08, abs=0.02)
    assert answer.text
    assert not answer.deadline_kept


def test_all_fit_and_never_above_the_budget(model: Path) -> None:
    pipeline = taught(model, {0.0: 0.0, 1.0: 1e-6})
    assert pipeline.ask(HURRIED).tokens.keep_ratio_achieved == pytest.approx(0.8, abs=0.01)
    asked = dataclasses.replace(HURRIED, keep_ratio=0.5, deadline_s=1e6)
    answer = pipeline.ask(asked)
    assert answer.tokens.keep_ratio_achieved == pytest.approx(0.5, abs=0.01)
    assert answer.deadline_kept
    teach(pipeline, {0.0: 0.0, 0.4: 0.8999})
    below = pipeline.ask(dataclasses.replace(asked, deadline_s=1.0)).tokens
    assert below.keep_ratio_achieved == pytest.approx(0.35, abs=0.01)  # 0.7 of what was asked


@pytest.mark.parametrize(
    "settings",
    [
        {"pruning.strategy": "none", "pruning.keep_ratio": 0.4},
        {"pruning.strategy": "pdrop", "pruning.pdrop.ratios": "0.9,0.8,0.7"},
    ],
)
def test_where_no_keep_ratio_decides(model: Path, settings: dict[str, Any]) -> None:
    pipeline = taught(model, {0.0: 50.0, 1.0: 99.0}, **settings)
    assert pipeline.ask(HURRIED).tokens.per_layer == pipeline.ask(ASK).tokens.per_layer


def test_a_choice_that_is_not_nested_stays_on_the_cached_scene(model: Path) -> None:
    """A smaller budget of it would pass the scene through the layers again, which takes longer."""
    pipeline = taught(model, {0.0: 2.0, 1.0: 3.0}, **{"pruning.strategy": "uniform"})
    answer = pipeline.ask(HURRIED)
    assert answer.scene_cached
    assert answer.tokens.keep_ratio_achieved == pytest.approx(0.8, abs=0.01)


def test_an_image_has_no_budget_of_the_room(model: Path) -> None:
    pipeline = taught(model, {0.0: 50.0, 1.0: 99.0})
    answer = pipeline.ask(dataclasses.replace(HURRIED, scope=Scope.LATEST_IMAGE, deadline_s=1e6))
    assert answer.tokens.keep_ratio_achieved == pytest.approx(0.8, abs=0.01)
    assert answer.deadline_kept


@pytest.mark.parametrize("mode", ["cached", "paper"])
def test_answers_are_learnt_from(model: Path, mode: str) -> None:
    """Those about the room, each kind for itself: an image's time says nothing of a room's."""
    pipeline = start(model, 4, **{**NESTED, "cache.mode": mode})
    late = dataclasses.replace(ASK, deadline_s=1e-9)
    pipeline.ask(dataclasses.replace(ASK, scope=Scope.LATEST_IMAGE))

    first, second = pipeline.ask(late), pipeline.ask(late)
    assert first.scene_cached == second.scene_cached == (mode == "cached")
    assert first.tokens.keep_ratio_achieved == pytest.approx(0.8, abs=0.01)
    assert second.tokens.keep_ratio_achieved == pytest.approx(0.08, abs=0.02)

    if mode == "cached":  # above what is cached, and no such question was timed yet
        above = pipeline.ask(dataclasses.replace(late, keep_ratio=0.9))
        assert above.tokens.keep_ratio_achieved == pytest.approx(0.9, abs=0.01)


class Ticking:
    """A clock that moves where it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Ticking:
    """One second for each view and for each chunk of the scene, a quarter for a question."""
    clock = Ticking()

    def slow(where: Any, name: str, seconds: float) -> None:
        real = getattr(where, name)

        def called(*args: Any, **kwargs: Any) -> Any:
            clock.now += seconds
            return real(*args, **kwargs)

        monkeypatch.setattr(where, name, called)

    slow(Llava3D, "encode_views", 1.0)
    slow(ScenePrefix, "step", 1.0)
    slow(query_context, "prefill_question", 0.25)
    slow(query_context, "prefill", 0.25)
    return clock


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"cache.kv": "int8"},
        {"cache.mode": "paper"},
        {"pruning.strategy": "adatoken3d"},
        {
            "pruning.strategy": "adatoken3d",
            "pruning.adatoken3d.schedule": "fitted",
            "pruning.adatoken3d.calibration": "per_scene",
        },
    ],
)
def test_a_cold_question_teaches_no_more_than_a_warm_one(
    model: Path, timed: Ticking, settings: dict[str, Any]
) -> None:
    """Of four views and a scene of one chunk, its own quarter of a second alone."""
    chunk = {"cache.chunk_tokens": 4096}
    pipeline = start(model, 4, timed, **{**NESTED, **chunk, **settings})
    cold = pipeline.ask(ASK)
    assert cold.timings.total_s >= 4.25
    warm = [pipeline.ask(dataclasses.replace(ASK, deadline_s=0.75)) for _ in range(8)]
    assert {answer.timings.total_s for answer in warm} == {0.25}
    assert all(answer.deadline_kept for answer in warm)
    assert {answer.tokens.keep_ratio_achieved for answer in warm} == {
        cold.tokens.keep_ratio_achieved
    }


def test_a_deadline_counts_from_the_call_on(model: Path, timed: Ticking) -> None:
    """Views and chunks count, and leave the question's own part less: it is planned with that."""
    pipeline = start(model, 4, timed, **{**NESTED, "cache.chunk_tokens": 4096})
    teach(pipeline, {0.0: 0.0, 1.0: 1.0})
    for deadline_s, kept, ratio in (
        (4.0, False, 0.08),  # over before it is planned
        (6.0, True, 0.8),
        (5.5, True, 0.8 * 0.55),  # four views, one chunk, and half a second
        (5.2, False, 0.8 * 0.2),
    ):
        pipeline.reset_scene()
        for frame in ROOM.frames[:4]:
            pipeline.observe(frame)
        answer = pipeline.ask(dataclasses.replace(ASK, deadline_s=deadline_s))
        assert answer.timings.total_s == 5.25
        assert answer.deadline_kept is kept
        assert answer.tokens.keep_ratio_achieved == pytest.approx(ratio, abs=0.02)
        teach(pipeline, {0.0: 0.0, 1.0: 1.0})


def test_a_second_try_has_what_the_first_left(
    model: Path, timed: Ticking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory ran out in the first: its time counts, too."""
    pipeline, tries = start(model, 4, timed, **NESTED), [0.0, 3.0]
    monkeypatch.setattr(memory_fallback.time, "perf_counter", timed)
    real = pipeline.model.model.encode_views

    def short(*args: Any) -> Any:
        if tries:
            timed.now += tries.pop()
            raise torch.cuda.OutOfMemoryError("2 GiB")
        return real(*args)

    for deadline_s, kept in ((99.0, True), (7.0, False)):
        tries[:] = [3.0]
        monkeypatch.setattr(pipeline.model.model, "encode_views", short)
        pipeline.reset_scene()
        for frame in ROOM.frames[:4]:
            pipeline.observe(frame)
        begun = timed.now
        answer = pipeline.ask(dataclasses.replace(ASK, deadline_s=deadline_s))
        assert timed.now - begun > 7.0 > answer.timings.total_s
        assert answer.deadline_kept is kept
