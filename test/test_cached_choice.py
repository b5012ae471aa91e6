"""`cache.prune: auto` in the pipeline: each way of serving the scene is tried, then the one that
was measured to be the fastest stays; every answer names it.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from ada3d_ros.engine.prune_choice import PruneChoice
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Question, Scope
from test.support.pipelines import ASK, MANY, ROOM, cache_of, start

SETTINGS = {"pruning.strategy": "adatoken3d", "pruning.keep_ratio": 0.5, "pruning.n_min": 1}


@pytest.mark.parametrize(
    ("prune", "mode"), [("build", "build"), ("question", "question"), ("none", "none")]
)
def test_each_answer_names_how_the_scene_was_served(model: Path, prune: str, mode: str) -> None:
    pipeline = start(model, 3, **SETTINGS, **{"cache.prune": prune})
    answer = pipeline.ask(ASK)
    assert (answer.cache_mode, answer.cold_reason, answer.scene_cached) == (mode, "", True)
    assert (answer.tokens.keep_ratio_achieved < 1) == (mode != "none")


def test_a_choice_before_the_model_is_made_at_build(model: Path) -> None:
    pipeline = start(model, 3, **{"pruning.strategy": "voxel_dpp", "pruning.keep_ratio": 0.5})
    answer = pipeline.ask(ASK)
    assert (answer.cache_mode, answer.scene_cached) == ("build", True)
    assert answer.tokens.keep_ratio_achieved == pytest.approx(0.5, abs=0.01)


def modes_of(pipeline: Ada3DPipeline, questions: int) -> list[str]:
    return [pipeline.ask(ASK).cache_mode for _ in range(questions)]


def test_auto_tries_each_way_and_keeps_one(model: Path) -> None:
    pipeline = start(model, 2, **SETTINGS, **{"cache.prune": "auto"})
    assert modes_of(pipeline, 3) == ["build"] * 3  # the first scene
    assert pipeline.observe(MANY[5]) is not None
    assert modes_of(pipeline, 6)[:4] == ["none", "none", "question", "question"]  # the second
    choice = cache_of(pipeline).choice
    assert choice is not None
    assert pipeline.observe(MANY[7]) is not None
    after = modes_of(pipeline, 4)
    assert set(after) <= {"build"} or set(after) <= {"none", "question"}


def test_why_a_question_went_cold(model: Path) -> None:
    pipeline = start(model, 3, **SETTINGS)
    pipeline.ask(ASK)
    own = pipeline.ask(Question("What is there?", keep_ratio=0.8))
    assert (own.cache_mode, own.scene_cached) == ("paper", False)
    assert own.cold_reason == (
        "keep_ratio 0.8 was asked for, the cached scene was pruned to 0.5 while it was built"
        " (cache.prune)"
    )
    image = pipeline.ask(Question("What is there?", scope=Scope.LATEST_IMAGE))
    assert image.cold_reason == "the question is about the newest image alone"
    paper = start(model, 3, **SETTINGS, **{"cache.mode": "paper"}).ask(ASK)
    assert paper.cold_reason == "cache.mode is paper: every question brings the scene along"


def test_a_budget_that_only_a_built_scene_meets_leaves_image_questions_unpruned(
    model: Path,
) -> None:
    pipeline = start(model, 3, **{**SETTINGS, "pruning.keep_ratio": 0.1})
    assert pipeline.ask(ASK).tokens.keep_ratio_achieved == pytest.approx(0.1, abs=0.02)
    image = pipeline.ask(Question("What is there?", scope=Scope.LATEST_IMAGE)).tokens
    assert (image.keep_ratio_achieved, image.strategy) == (1.0, "none")


def test_a_build_is_timed_alone(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of scenes that are too small to be pruned, too: one chunk each, on a clock that ticks."""
    took: list[float] = []

    def record(choice: PruneChoice, kind: str, total: int, seconds: float) -> None:
        took.append(seconds)

    monkeypatch.setattr(PruneChoice, "record_build", record)
    settings = {"pruning.n_min": 2560, "cache.prune": "auto", "cache.chunk_tokens": 4096}
    pipeline = start(model, 1, now=map(float, itertools.count()).__next__, **SETTINGS | settings)
    for frame in (None, *ROOM.frames[1:3]):
        if frame is not None:
            assert pipeline.observe(frame) is not None
        assert pipeline.ask(ASK).cache_mode == "none"
    assert len(took) == 3
    assert took[0] == took[1] == took[2] > 0.0
