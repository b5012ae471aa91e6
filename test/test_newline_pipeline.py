"""Scenes with newlines on the main path: a small Video-3D-LLM in the place of a small LLaVA-3D, in
every mode: what is said of its tokens, where it points, frames that come and go.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ada3d_ros import pipeline as pipeline_module
from ada3d_ros.model.config import VisionConfig
from ada3d_ros.model.grounding_head import LoadedHead
from ada3d_ros.model.startup import open_model
from ada3d_ros.model.video3dllm.backbone import Video3DLLM
from ada3d_ros.model.video3dllm.config import Video3DConfig
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Answer, GroundingMethod, Question, Scope
from test.support.pipelines import ASK, MANY, cache_of, start
from test.support.pointing import EGOCENTRIC, POINT, random_head
from test.support.slow_engine import closed

VISION = VisionConfig(16, 24, 3, 2, 14, 96, "gelu_pytorch_tanh", 1e-6, -2)  # 3 x 3 cells a frame
FRAMES = 5
MODES: dict[str, dict[str, Any]] = {
    "paper": {"cache.mode": "paper"},
    "question": {"cache.prune": "question"},
    "build": {"cache.prune": "build"},
    "none": {"cache.prune": "none"},
}
STRATEGIES = (
    "adatoken3d",
    "fastv",
    "pdrop",
    "logistic",
    "voxel_dpp",
    "kitoke",
    "cond_dpp",
    "voxel_dpp+adatoken3d",
    "adatoken3d_plus",
)


@pytest.fixture(params=[False, True], ids=["relevance", "head"])
def with_head(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def video(
    model: Path, monkeypatch: pytest.MonkeyPatch, head: bool = False, **settings: Any
) -> Ada3DPipeline:
    """A pipeline on a small Video-3D-LLM with random weights and the tokenizer of `model`."""

    def opened(config: Any) -> Any:
        loaded, info = open_model(config)
        decoder = loaded.model.config.decoder
        points = {"point_id": POINT, "egocentric_point_id": EGOCENTRIC} if head else {}
        sizes = Video3DConfig(decoder, VISION, max_length=2048, coord_id=30, ground_id=-1, **points)
        made = torch.Generator().manual_seed(0)
        small = Video3DLLM(sizes).eval().requires_grad_(False)
        for name, parameter in small.named_parameters():
            noise = 0.2 * torch.randn(parameter.shape, generator=made)
            parameter.copy_(1 + noise if "norm" in name else noise)
        pointing = LoadedHead(random_head(decoder.hidden_size), 0.0, "") if head else None
        return dataclasses.replace(loaded, model=small, head=pointing), info

    monkeypatch.setattr(pipeline_module, "open_model", opened)
    return start(model, FRAMES, **{"pruning.n_min": 2, **settings})


def tokens_of(pipeline: Ada3DPipeline) -> tuple[int, set[int]]:
    """Spatial tokens of the scene, and which of them are newlines."""
    table = pipeline.prefix_cache.encoder.table  # type: ignore[union-attr]
    patches = pipeline.model.model.spatial_tokens(table).num_patches.tolist()
    return len(patches), {i for i, count in enumerate(patches) if not count}


def check(answer: Answer, total: int, placed: int) -> None:
    """Numbers reported count newlines, the keep ratio does not, and no place is NaN."""
    tokens = answer.tokens
    assert tokens.spatial_total == total > placed
    assert tokens.spatial_kept == tokens.per_layer[-1]
    assert 0.0 < tokens.keep_ratio_achieved <= 1.0
    assert 0.0 < tokens.coverage <= 1.0
    assert tokens.full_kv_bytes > 0
    assert answer.kept_xyz_m is not None
    assert np.isfinite(answer.kept_xyz_m).all()
    assert 0 < len(answer.kept_xyz_m) <= tokens.spatial_kept
    for box in (*answer.boxes, *answer.places):
        assert np.isfinite(box.center_m).all()
        assert np.isfinite(box.size_m).all()
        assert np.isfinite(np.array(box.evidence_xyz_m)).all()
        assert all(weight > 0.0 for weight in box.evidence_weights)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_in_every_mode(
    model: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, mode: str
) -> None:
    settings = {"pruning.strategy": strategy, "pruning.keep_ratio": 0.6, **MODES[mode]}
    pipeline = video(model, monkeypatch, **settings)
    answer = pipeline.ask(ASK)
    total, newlines = tokens_of(pipeline)
    placed = total - len(newlines)
    assert (total, placed) == (FRAMES * 12, FRAMES * 9)
    check(answer, total, placed)
    inside = strategy in ("adatoken3d", "fastv", "pdrop", "logistic")
    if mode == "none" and inside:
        assert answer.tokens.per_layer == (total,) * 4
        assert answer.tokens.keep_ratio_achieved == 1.0
        return
    assert answer.cache_mode == ("paper" if strategy == "cond_dpp" else answer.cache_mode)
    if mode != "none":
        assert answer.tokens.keep_ratio_achieved == pytest.approx(0.6, abs=0.04)
    assert answer.tokens.spatial_kept < total
    assert pipeline.ask(ASK).text == answer.text


@pytest.mark.parametrize("mode", MODES)
def test_a_ratio_of_one_is_the_unpruned_model(
    model: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    plain = video(model, monkeypatch, **MODES[mode]).ask(ASK)
    pruned = video(model, monkeypatch, **MODES[mode], **{"pruning.strategy": "adatoken3d"})
    whole = pruned.ask(dataclasses.replace(ASK, keep_ratio=1.0))
    assert whole.text == plain.text
    assert whole.tokens.per_layer == plain.tokens.per_layer == (FRAMES * 12,) * 4
    assert whole.tokens.keep_ratio_achieved == 1.0


@pytest.mark.parametrize("mode", MODES)
def test_where_it_points(
    model: Path, monkeypatch: pytest.MonkeyPatch, with_head: bool, mode: str
) -> None:
    """Boxes, evidence and places lie where tokens do."""
    settings = {"pruning.strategy": "adatoken3d", "pruning.keep_ratio": 0.6, **MODES[mode]}
    pipeline = video(model, monkeypatch, with_head, **settings)
    answer = pipeline.ground(Question("chair", phrase="chair", min_score=1e-6))
    total, newlines = tokens_of(pipeline)
    check(answer, total, total - len(newlines))
    assert with_head <= bool(answer.boxes)
    for box in answer.boxes:
        assert box.method in (GroundingMethod.HEAD, GroundingMethod.RELEVANCE)
        assert box.evidence_xyz_m
    spoken = pipeline.ask(ASK)
    check(spoken, total, total - len(newlines))


def test_frames_that_come_and_go(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Appended and cut, every layer of the pruned scene holds newlines exactly of its rows."""
    settings = {"pruning.strategy": "adatoken3d", "pruning.keep_ratio": 0.5}
    pipeline = video(
        model, monkeypatch, **settings, **MODES["build"], **{"keyframe.max_views": FRAMES + 1}
    )
    pipeline.ask(ASK)
    for frame in MANY[FRAMES:]:
        pipeline.observe(frame)
        answer = pipeline.ask(ASK)
        prefix = cache_of(pipeline).active
        assert prefix is not None
        assert prefix.held is not None
        rows = prefix.chosen.rows
        newlines = {i for i in range(rows.count) if bool(rows.is_newline[i])}
        assert rows.num_placed == 3 * len(newlines)
        check(answer, rows.count, rows.num_placed)
        for held in prefix.held[1:]:
            kept = held.tolist()
            assert kept == closed(kept, newlines)
            assert len(kept) < rows.count
        assert list(answer.tokens.per_layer) == [len(held) for held in prefix.held]


def test_a_request_with_a_ratio_of_its_own_gets_a_first_part(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of selection the cached scene begins with the choice of a smaller budget: its
    newlines, and the answer of the same choice without a cache.
    """
    settings = {
        "pruning.strategy": "voxel_dpp",
        "pruning.order": "selection",
        "pruning.keep_ratio": 0.6,
    }
    cached = video(model, monkeypatch, **settings, **MODES["build"])
    fresh = video(model, monkeypatch, **settings, **MODES["paper"])
    for ratio in (0.2, 0.4):
        question = dataclasses.replace(ASK, keep_ratio=ratio)
        ours, expected = cached.ask(question), fresh.ask(question)
        assert ours.scene_cached
        assert not expected.scene_cached
        assert ours.text == expected.text
        assert ours.tokens.per_layer == expected.tokens.per_layer
        assert ours.tokens.keep_ratio_achieved == int(ratio * FRAMES * 9) / (FRAMES * 9)
        assert ours.tokens.spatial_kept > int(ratio * FRAMES * 9)  # newlines on top


def test_one_image(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells in rows, without 3D: as many of them with a place as the keep ratio says."""
    settings = {"pruning.strategy": "adatoken3d", "pruning.keep_ratio": 0.6}
    pipeline = video(model, monkeypatch, **settings)
    answer = pipeline.ask(dataclasses.replace(ASK, scope=Scope.LATEST_IMAGE))
    assert answer.tokens.spatial_total == 12
    assert answer.tokens.keep_ratio_achieved == pytest.approx(0.6, abs=0.08)
    assert answer.kept_xyz_m is None
