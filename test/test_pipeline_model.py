"""The pipeline's model: checked, loaded, presets and precisions, errors by name."""

from __future__ import annotations

import dataclasses
import math
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from ada3d_ros.errors import (
    CheckpointError,
    ConfigError,
    LoadingError,
    ModelError,
    OutOfMemoryError,
)
from ada3d_ros.model.checkpoint import weights_sha256
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Answer
from test.support.pipelines import ASK, configured, start


@pytest.fixture(scope="module")
def pipeline(model: Path) -> Ada3DPipeline:
    """Shared by tests that change nothing."""
    return start(model)


def test_check_reads_no_weights_and_load_fills_in(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ada3d_ros.model import startup

    def forbidden(*args: Any) -> None:
        raise AssertionError("weights were read")

    pipeline = Ada3DPipeline(configured(model))
    with monkeypatch.context() as patch:
        for name in ("load_inspected", "revision_sha256"):
            patch.setattr(startup, name, forbidden)
        info = pipeline.check()
    assert (info.sha256, info.revision) == ("", "unread")
    assert info.parameters > 1e6
    assert info.memory_bytes == pytest.approx(4 * info.parameters, rel=0.01)
    assert info.random_weights
    assert info.has_3d
    assert not pipeline.ready
    with pytest.raises(LoadingError):
        pipeline.ask(ASK)
    pipeline.load()
    assert pipeline.ready
    assert pipeline.info is not None
    assert len(pipeline.info.sha256) == 64
    assert pipeline.info.revision == pipeline.info.sha256[:12]
    assert all(math.isnan(value) for value in pipeline.device_memory_mib())  # no GPU here


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"model.path": ""}, ConfigError, "model.path is empty"),
        ({"model.path": "/nowhere"}, CheckpointError, "/nowhere is not a folder"),
        ({"model.device": "cuda:63"}, ConfigError, "CUDA device"),
        ({"model.vision_path": "/nowhere"}, CheckpointError, "/nowhere"),
    ],
)
def test_check_fails_by_name(
    model: Path, settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Ada3DPipeline(configured(model, **settings)).check()


def test_memory_is_checked_with_both_numbers(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ada3d_ros.model.startup.free_bytes", lambda device: 2.0**20)
    with pytest.raises(OutOfMemoryError, match=r"need \d+ MiB in float32, cpu has 1 MiB free"):
        Ada3DPipeline(configured(model)).check()


def test_a_wrong_revision_is_not_loaded(model: Path) -> None:
    pipeline = Ada3DPipeline(configured(model, **{"model.revision_sha256": "0" * 64}))
    pipeline.check()
    with pytest.raises(CheckpointError, match="expects 000000"):
        pipeline.load()
    assert not pipeline.ready


def test_the_digest_is_made_while_the_weights_are_read(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits for the other here: one after the other would never end."""
    from ada3d_ros.model import startup

    both = threading.Barrier(2, timeout=30.0)
    for name in ("load_inspected", "revision_sha256"):
        real = getattr(startup, name)

        def meet(*args: Any, real: Any = real) -> Any:
            both.wait()
            return real(*args)

        monkeypatch.setattr(startup, name, meet)
    loaded, info = startup.open_model(configured(model).model)
    assert info.sha256 == weights_sha256(model)
    assert loaded.info.path == model


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bit(model: Path, precision: str) -> None:
    pipeline = start(model, 2, **{"model.precision": precision})
    assert pipeline.info is not None
    assert pipeline.info.precision == {"bf16": "bfloat16", "fp16": "float16"}[precision]
    assert pipeline.ask(ASK).tokens.generated == 8


def test_torchs_own_errors_are_a_model_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = start(model, 2)
    loaded = pipeline.model

    def broken(*args: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with monkeypatch.context() as patch:
        patch.setattr(loaded.model, "encode_views", broken)
        with pytest.raises(ModelError, match="the model failed: mat1"):
            pipeline.ask(ASK)
        patch.setattr(
            loaded.model,
            "encode_views",
            lambda *a: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("2 GiB")),
        )
        with pytest.raises(OutOfMemoryError, match="2 GiB"):
            pipeline.ask(ASK)
    assert pipeline.ask(ASK).tokens.generated == 8


def test_preset_reference_runs_and_differs(model: Path) -> None:
    """It neither masks nor orders as the default does.

    A room without holes differs in the intrinsics alone.
    """
    default, reference = start(model), start(model, **{"model.compat": "reference"})
    a, b = default.ask(ASK), reference.ask(ASK)
    assert b.tokens.generated == 8
    assert b.tokens.spatial_total > 20
    assert a.confidence != b.confidence
    assert reference.ask(ASK).text == b.text


@pytest.mark.parametrize("template", ["llava_v1", "vicuna_v1"])
def test_conversation_templates(model: Path, template: str) -> None:
    pipeline = start(model, 1, **{"model.conversation": template})
    assert pipeline.ask(ASK).tokens.generated == 8


def test_an_answer_is_plain_data(pipeline: Ada3DPipeline) -> None:
    answer = pipeline.ask(ASK)
    assert isinstance(answer, Answer)
    with pytest.raises(dataclasses.FrozenInstanceError):
        answer.text = "other"  # type: ignore[misc]
