"""Pruning on the main path, without ROS: strategies, what is made once, what is said."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ada3d_ros.config.pruning import STRATEGIES
from ada3d_ros.errors import ConfigError, ModelError, QuestionTooLongError
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.pruning.calibration import Calibration, write_calibration
from ada3d_ros.pruning.information import Masses
from ada3d_ros.pruning.policy import split_name
from ada3d_ros.types import Question, Scope
from test.support.pipelines import ASK, ROOM, configured, start

LAYERS = 4  # of the tiny model
QUESTIONS = [
    Question("What is in the room?"),
    Question("How many chairs?"),
    Question("Is it at [0.1, 0.2, 0.3]?"),
]
PAIRS = [
    "voxel_dpp+adatoken3d",
    "cond_dpp+fastv",
    "geo_fps+pdrop",
    "coarse_voxels+logistic",
    "random+adatoken3d",
]


@pytest.fixture(scope="module")
def pipeline(model: Path) -> Ada3DPipeline:
    return start(model)


def prune(pipeline: Ada3DPipeline, model: Path, **settings: Any) -> Ada3DPipeline:
    """As the paper has it; test_cached_pipeline.py is about the cached scene."""
    pruning = {f"pruning.{name}": value for name, value in settings.items()}
    pipeline.set_config(configured(model, **{"cache.mode": "paper", **pruning}))
    return pipeline


@pytest.mark.parametrize("scope", list(Scope))
@pytest.mark.parametrize("strategy", [*STRATEGIES, *PAIRS])
def test_every_strategy_answers(
    pipeline: Ada3DPipeline, model: Path, strategy: str, scope: Scope
) -> None:
    prune(pipeline, model, strategy=strategy, keep_ratio=0.55)
    answer = pipeline.ask(dataclasses.replace(ASK, scope=scope))
    tokens = answer.tokens
    if strategy == "none":
        assert tokens.per_layer == (tokens.spatial_total,) * LAYERS
        return
    assert tokens.strategy == strategy
    low = 0.35 if strategy == "coarse_voxels" else 0.52  # on a grid of patches voxels grow in steps
    assert low < tokens.keep_ratio_achieved <= 0.57
    assert tokens.keep_ratio_achieved == pytest.approx(
        sum(tokens.per_layer) / LAYERS / tokens.spatial_total
    )
    assert list(tokens.per_layer) == sorted(tokens.per_layer, reverse=True)
    before, inside = map(bool, split_name(strategy))
    assert (tokens.per_layer[0] > tokens.per_layer[-1]) == inside
    assert (tokens.per_layer[0] < tokens.spatial_total) == before
    assert tokens.spatial_kept == tokens.per_layer[-1]
    assert tokens.prefill_flops < tokens.full_prefill_flops
    assert tokens.kv_bytes < tokens.full_kv_bytes
    assert (tokens.rank_flops > 0) == inside
    assert (answer.timings.rank_s > 0) == inside
    assert (answer.timings.scene_s > 0) == before
    assert math.isnan(tokens.coverage) == (scope is Scope.LATEST_IMAGE)


@pytest.mark.parametrize("strategy", [*STRATEGIES[1:], *PAIRS])
def test_keep_ratio_one_is_the_unpruned_model(
    pipeline: Ada3DPipeline, model: Path, strategy: str
) -> None:
    """Bit for bit: text and confidence."""
    plain = [prune(pipeline, model, strategy="none").ask(question) for question in QUESTIONS]
    prune(pipeline, model, strategy=strategy, keep_ratio=0.6)
    for question, expected in zip(QUESTIONS, plain, strict=True):
        whole = pipeline.ask(dataclasses.replace(question, keep_ratio=1.0))
        assert (whole.text, whole.confidence, whole.tokens.strategy) == (
            expected.text,
            expected.confidence,
            "none",
        )
        assert (whole.tokens.keep_ratio_requested, whole.tokens.keep_ratio_achieved) == (1.0, 1.0)


def test_the_request_decides_over_the_setting(pipeline: Ada3DPipeline, model: Path) -> None:
    prune(pipeline, model, strategy="voxel_dpp", keep_ratio=0.3)
    for keep in (0.1, 0.5, 0.9):
        tokens = pipeline.ask(dataclasses.replace(ASK, keep_ratio=keep)).tokens
        assert tokens.keep_ratio_achieved == pytest.approx(keep, abs=0.01)
        assert tokens.keep_ratio_requested == keep
    assert pipeline.ask(ASK).tokens.keep_ratio_achieved == pytest.approx(0.3, abs=0.01)


def test_the_choice_before_the_language_model_is_made_once_per_scene(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ada3d_ros.engine import scene_pruning as module

    calls: list[int] = []
    real = module.choose_tokens
    monkeypatch.setattr(module, "choose_tokens", lambda *a: (calls.append(1), real(*a))[1])
    pipeline = prune(start(model, 3), model, strategy="voxel_dpp+adatoken3d", keep_ratio=0.6)
    for question in QUESTIONS:
        pipeline.ask(question)
    assert len(calls) == 1
    pipeline.ask(dataclasses.replace(ASK, keep_ratio=0.7))  # another budget
    assert len(calls) == 2
    pipeline.observe(ROOM.frames[3])  # another scene
    pipeline.ask(ASK)
    assert len(calls) == 3
    prune(pipeline, model, strategy="cond_dpp", keep_ratio=0.6)
    for question in QUESTIONS[:2]:
        pipeline.ask(question)
    assert len(calls) == 5  # it asks the question


def test_cond_dpp_chooses_by_the_question(
    pipeline: Ada3DPipeline, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ada3d_ros.engine import scene_pruning as module

    kept: list[torch.Tensor] = []
    real = module.choose_tokens

    def spy(*args: Any) -> Any:
        kept.append(real(*args).kept)
        return real(*args)

    monkeypatch.setattr(module, "choose_tokens", spy)
    prune(pipeline, model, strategy="cond_dpp", keep_ratio=0.3)
    for question in QUESTIONS[:2]:
        pipeline.ask(question)
    assert not torch.equal(kept[0], kept[1])
    assert len(kept[0]) == len(kept[1])


def test_a_schedule_fitted_to_the_scene(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The scene's first question pays one unpruned pass.

    Random weights give no falling curve, and it is said.
    """
    from ada3d_ros.engine import information as module

    calls: list[int] = []
    real = module.measure_information
    monkeypatch.setattr(module, "measure_information", lambda *a: (calls.append(1), real(*a))[1])
    pipeline = start(model, 3)
    settings = {
        "adatoken3d.schedule": "fitted",
        "adatoken3d.calibration": "per_scene",
        "keep_ratio": 0.6,
    }
    prune(
        pipeline, model, strategy="adatoken3d", **settings, **{"adatoken3d.on_degenerate": "flat"}
    )
    first, second = pipeline.ask(ASK), pipeline.ask(QUESTIONS[0])
    assert len(calls) == 1
    assert first.timings.scene_s > 0
    assert first.tokens.keep_ratio_achieved == pytest.approx(0.6, abs=0.02)
    assert first.tokens.per_layer == second.tokens.per_layer
    pipeline.observe(ROOM.frames[3])
    pipeline.ask(ASK)
    assert len(calls) == 2
    prune(pipeline, model, strategy="adatoken3d", **settings)
    with caplog.at_level(logging.WARNING, "ada3d_ros"):
        fallback = pipeline.ask(ASK).tokens
    assert fallback.keep_ratio_achieved == pytest.approx(0.6, abs=0.02)
    assert (
        "flat or rises with depth, so it says nothing about where to prune: the fixed curve is used"
        in caplog.text
    )
    prune(
        pipeline, model, strategy="adatoken3d", **settings, **{"adatoken3d.on_degenerate": "error"}
    )
    with pytest.raises(ConfigError, match="flat or rises with depth"):
        pipeline.ask(ASK)


def test_settings_that_cannot_work_with_the_model_fail_early(model: Path, tmp_path: Path) -> None:
    for settings, said in [
        ({"pruning.keep_ratio": 0.2, "cache.prune": "question"}, "allowed: 0.25 to 1"),
        ({"pruning.keep_ratio": 0.2, "cache.alive": "curve"}, "allowed: 0.25 to 1"),
        ({"cache.held": "0.4,0.4"}, "each of the 4 layers"),
        ({"cache.prompts": " | "}, "cache.prompts is empty"),
        (
            {"cache.prompts": "What?|<image> there"},
            "cache.prompts: the question contains '<image>'",
        ),
        ({"cache.prompts": "What\a"}, r"cache.prompts: the question contains .* U\+0007"),
        ({"cache.prompts": "x" * 1001}, "cache.prompts: the question has 1001 characters"),
        (
            {"cache.prompts": "|".join(["x" * 990] * 5)},
            "5 prompts of 4950 characters together, .* up to 4000",
        ),
        ({"cache.queries_file": "/nowhere/queries"}, "there is no file at /nowhere/queries"),
        ({"cache.queries_file": "~nobody-of-that-name/q"}, "there is no file at ~nobody"),
        ({"cache.queries_file": "/" + "q" * 300}, "there is no file at /qqq"),
        (
            {"pruning.strategy": "fastv", "pruning.fastv.k": 4, "pruning.keep_ratio": 0.9},
            "allowed: 1 to 3",
        ),
        (
            {"pruning.adatoken3d.prune_layers": "4", "pruning.keep_ratio": 0.9},
            "behind layers 1 to 3",
        ),
        ({"pruning.adatoken3d.schedule": "fitted"}, "ada3d calibrate"),
        (
            {
                "pruning.adatoken3d.schedule": "fitted",
                "pruning.adatoken3d.calibration_file": str(tmp_path / "no.yaml"),
            },
            "no calibration file",
        ),
    ]:
        broken = Ada3DPipeline(configured(model, **{"pruning.strategy": "adatoken3d", **settings}))
        with pytest.raises(ConfigError, match=said):
            broken.check()
    assert (
        Ada3DPipeline(configured(model, **{"pruning.strategy": "adatoken3d"}))
        .check()
        .random_weights
    )


def test_what_was_asked_for_and_cannot_be_is_refused(pipeline: Ada3DPipeline, model: Path) -> None:
    prune(pipeline, model, strategy="adatoken3d", keep_ratio=0.5)
    with pytest.raises(
        ConfigError, match=r"keep_ratio = 0\.2 cannot be met on this decoder; allowed: 0\.25 to 1"
    ):
        pipeline.ask(dataclasses.replace(ASK, keep_ratio=0.2))
    prune(pipeline, model, strategy="pdrop", **{"pdrop.ratios": "0.5,0.4,0.3"})
    assert pipeline.ask(ASK).tokens.keep_ratio_achieved == pytest.approx(
        (1 + 0.5 + 0.4 + 0.3) / 4, abs=0.01
    )
    with pytest.raises(
        ConfigError, match=r"pruning\.pdrop\.ratios = '0\.5,0\.4,0\.3' fixes what is kept"
    ):
        pipeline.ask(dataclasses.replace(ASK, keep_ratio=0.5))
    prune(pipeline, model, strategy="none")
    with pytest.raises(
        ConfigError, match=r"keep_ratio = 0\.2 was asked for, but pruning\.strategy is 'none'"
    ):
        pipeline.ask(dataclasses.replace(ASK, keep_ratio=0.2))
    assert pipeline.ask(dataclasses.replace(ASK, keep_ratio=1.0)).tokens.keep_ratio_achieved == 1.0


def test_pruning_leaves_the_models_limits_in_place(
    pipeline: Ada3DPipeline, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scene too long for the model fits once a strategy before it has chosen."""
    loaded = pipeline.model
    total = prune(pipeline, model, strategy="none").ask(ASK).tokens.prompt
    monkeypatch.setattr(
        loaded.model, "config", dataclasses.replace(loaded.model.config, max_length=total - 50)
    )
    with pytest.raises(QuestionTooLongError):
        pipeline.ask(ASK)
    assert (
        prune(pipeline, model, strategy="geo_fps", keep_ratio=0.4).ask(ASK).tokens.prompt
        < total - 50
    )


def test_weights_that_are_not_finite_are_named(model: Path) -> None:
    pipeline = prune(start(model, 2), model, strategy="voxel_dpp", keep_ratio=0.5)
    loaded = pipeline.model
    with torch.no_grad():
        loaded.model.position_embedding[3].bias.fill_(float("nan"))
    with pytest.raises(ModelError, match="voxel_dpp: spatial features are not finite"):
        pipeline.ask(ASK)


def test_masses_are_measured_anew_for_another_choice_before_them(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masses were kept under the strategy's name alone.

    A schedule for 81 tokens was fitted to the masses of 153. And scenes and images took turns in
    one place, so that every question paid.
    """
    from ada3d_ros.engine import information as module

    sizes: list[int] = []
    real = module.measure_information

    def spy(decoder: Any, prompt: Any, stride: int) -> Any:
        sizes.append(prompt.spatial_span[1] - prompt.spatial_span[0])
        return real(decoder, prompt, stride)

    monkeypatch.setattr(module, "measure_information", spy)
    per_scene = {
        "adatoken3d.schedule": "fitted",
        "adatoken3d.calibration": "per_scene",
        "strategy": "voxel_dpp+adatoken3d",
    }
    pipeline = prune(start(model, 3), model, **per_scene, keep_ratio=0.5, pre_keep_ratio=0.95)
    for _ in range(2):
        pipeline.ask(ASK)
        pipeline.ask(dataclasses.replace(ASK, scope=Scope.LATEST_IMAGE))
    assert len(sizes) == 2
    prune(pipeline, model, **per_scene, keep_ratio=0.5, pre_keep_ratio=0.7)
    entered = pipeline.ask(ASK).tokens.per_layer[0]
    assert sizes[2:] == [entered]


def test_a_calibration_of_other_weights_is_said(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    masses = tuple(Masses(s, s**2, 1 - s) for s in (0.7, 0.5, 0.35, 0.3))
    curve = (1.0, 0.5, 0.2, 0.0)
    made = Calibration(
        "other",
        "f" * 64,
        curve,
        curve,
        masses,
        curve,
        {},
        {"mode": "mean", "value": 0.5},
        0.5,
        3,
        random_weights=True,
    )
    file = write_calibration(tmp_path / "other.yaml", made)
    settings = {
        "pruning.adatoken3d.schedule": "fitted",
        "pruning.adatoken3d.calibration_file": str(file),
    }
    pipeline = Ada3DPipeline(
        configured(
            model, **{"pruning.strategy": "adatoken3d", "pruning.keep_ratio": 0.6}, **settings
        )
    )
    pipeline.check()
    with caplog.at_level(logging.WARNING, "ada3d_ros"):
        pipeline.load()
    assert (
        "the calibration was measured on other (sha256 ffffffffffff), the loaded weights have"
        " sha256" in caplog.text
    )
    assert "measured on random weights" in caplog.text


def test_a_calibration_file_that_goes_missing_stays_in_force(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    masses = tuple(Masses(s, s**2, 1 - s) for s in (0.7, 0.5, 0.35, 0.3))
    curve = (1.0, 0.5, 0.2, 0.0)
    made = Calibration(
        "m", "", curve, curve, masses, curve, {}, {"mode": "mean", "value": 0.5}, 0.5, 3
    )
    file = write_calibration(tmp_path / "curve.yaml", made)
    fitted = {
        "strategy": "adatoken3d",
        "adatoken3d.schedule": "fitted",
        "adatoken3d.calibration_file": str(file),
        "keep_ratio": 0.6,
    }
    settings = {f"pruning.{name}": value for name, value in fitted.items()}
    pipeline = start(model, 2, **settings)
    before = pipeline.ask(ASK).tokens.per_layer
    file.unlink()
    assert pipeline.ask(ASK).tokens.per_layer == before
    assert pipeline.ask(
        dataclasses.replace(ASK, keep_ratio=0.8)
    ).tokens.keep_ratio_achieved == pytest.approx(0.8, abs=0.02)
    assert pipeline.pruning_in_force()[0] == "adatoken3d keep_ratio 0.6"
    # As a new setting it would be refused.
    with pytest.raises(ConfigError, match="no calibration file"):
        pipeline.check_settings(configured(model, **settings | {"pruning.keep_ratio": 0.7}))
    with caplog.at_level(logging.WARNING, "ada3d_ros"):
        prune(pipeline, model, **fitted | {"keep_ratio": 0.7})
    assert "The curve read before stays in force" in caplog.text
    assert pipeline.ask(ASK).tokens.keep_ratio_achieved == pytest.approx(0.7, abs=0.02)


def test_a_ratio_asked_of_an_unpruned_node_reads_the_file_as_it_is(
    model: Path, tmp_path: Path
) -> None:
    """The node itself keeps all tokens, so it holds no curve; the file is read for the question."""
    masses = tuple(Masses(s, s**2, 1 - s) for s in (0.7, 0.5, 0.35, 0.3))
    curve = (1.0, 0.5, 0.2, 0.0)
    budget = {"mode": "mean", "value": 0.5}
    made = Calibration("m", "", curve, curve, masses, curve, {}, budget, 0.5, 3)
    file = write_calibration(tmp_path / "curve.yaml", made)
    settings = {
        "pruning.strategy": "adatoken3d",
        "pruning.adatoken3d.schedule": "fitted",
        "pruning.adatoken3d.calibration_file": str(file),
        "pruning.keep_ratio": 1.0,
    }
    pipeline = start(model, 2, **settings)
    question = dataclasses.replace(ASK, keep_ratio=0.6)
    before = pipeline.ask(question).tokens.per_layer
    steeper = tuple(Masses(s, s**2, 1 - s) for s in (0.9, 0.2, 0.1, 0.05))
    write_calibration(file, dataclasses.replace(made, masses=steeper))
    after = pipeline.ask(question).tokens.per_layer
    assert after != before
    file.unlink()
    with pytest.raises(ConfigError, match="no calibration file"):
        pipeline.ask(question)


def test_the_reference_preset_says_that_pruning_is_on(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ada3d_ros"):
        Ada3DPipeline(configured(model, **{"model.compat": "reference"})).check()
        assert not caplog.records
        Ada3DPipeline(
            configured(model, **{"model.compat": "reference", "pruning.strategy": "pdrop"})
        ).check()
    assert "LLaVA-3D as published keeps all tokens ('none')" in caplog.text


@pytest.mark.parametrize("strategy", ["voxel_dpp", "uniform", "cond_dpp"])
@pytest.mark.parametrize("mode", ["cached", "paper"])
def test_a_few_tokens_of_all(model: Path, strategy: str, mode: str) -> None:
    """As a setting, and as a request's own."""
    settings = {"pruning.strategy": strategy, "pruning.n_min": 1, "cache.mode": mode}
    for ratio in (0.03, 0.0001):
        fixed = start(model, 3, **settings, **{"pruning.keep_ratio": ratio}).ask(ASK).tokens
        asked = start(model, 3, **settings).ask(dataclasses.replace(ASK, keep_ratio=ratio)).tokens
        kept = max(1, math.floor(ratio * fixed.spatial_total))
        assert fixed.per_layer == asked.per_layer == (kept,) * LAYERS


def test_a_curve_out_of_reach_gives_way_to_even_shares(model: Path) -> None:
    """fastv drops nothing before layer 3: refused from 0.3 to 0.5, where it fell back on even
    shares below."""
    for keep_ratio in (0.2, 0.41):
        settings = {"pruning.strategy": "fastv", "pruning.keep_ratio": keep_ratio}
        tokens = start(model, 2, **settings).ask(ASK).tokens
        assert tokens.keep_ratio_achieved == pytest.approx(keep_ratio, abs=0.01)
    with pytest.raises(ConfigError, match=r"allowed: 0\.5 to 1"):
        Ada3DPipeline(configured(model, **settings, **{"cache.alive": "curve"})).check()


@pytest.mark.parametrize(
    ("prune", "retention", "said"),
    [
        ("build", (0.41,) * LAYERS, "adatoken3d keep_ratio 0.41"),
        ("none", (1.0,) * LAYERS, "on the cached scene (cache.prune none)"),
        ("auto", (), "adatoken3d keep_ratio 0.41"),
    ],
)
def test_the_shares_in_force_are_those_of_the_cached_scene(
    model: Path, prune: str, retention: tuple[float, ...], said: str
) -> None:
    settings = {"pruning.strategy": "adatoken3d", "cache.prune": prune}
    pipeline = start(model, 2, **settings)
    text, shares = pipeline.pruning_in_force()
    assert text.endswith(said)
    assert shares == pytest.approx(retention)
