"""`ada3d calibrate`: from scenes to a file that the node's strategy takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from ada3d_ros.config import from_flat
from ada3d_ros.lab.analysis import calibrate as verb
from ada3d_ros.lab.evaluation.scenes import read_voxel_scene, scene_prompt
from ada3d_ros.lab.world.generated import generate_room
from ada3d_ros.model.config import BackboneConfig
from ada3d_ros.model.random_checkpoint import (
    TINY_2D,
    TINY_NEXT,
    TINY_VIDEO3D,
    write_random_checkpoint,
)
from ada3d_ros.model.startup import open_model
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.pruning.calibration import read_calibration
from ada3d_ros.pruning.cost import DecoderShape
from ada3d_ros.pruning.information import Masses, attention_masses, information_of
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.token_rows import rows_of
from ada3d_ros.types import PromptSequence, Question, Scope
from test.support.decoders import LAYERS, make_decoder, make_prompt


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.txt"
    path.write_text("What is in the room?\n\nIs there a red box?\n")
    return path


def falling(decoder: object, prompt: object, stride: int) -> list[Masses]:
    """Masses as a trained model has them: deeper layers attend less to spatial tokens."""
    return [Masses(s, 0.5 * s, 1 - s) for s in (0.7, 0.4, 0.25, 0.2)]


def test_a_file_that_the_strategy_takes(
    model: Path,
    questions: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The masses are planted; everything before and after them is real."""
    monkeypatch.setattr(verb, "measure_information", falling)
    file = tmp_path / "out" / "schedule.yaml"
    fixed = ["--model", str(model), "--questions", str(questions)]
    assert verb.main(["room:0", *fixed, "-o", str(file), "--keep-ratio", "0.5"]) == 0

    # What a person reads.
    printed = capsys.readouterr().out
    assert "achieved mean keep ratio 0.500" in printed
    assert "random weights" in printed
    assert "nothing could be fitted" not in printed

    # What the file holds.
    calibration = read_calibration(file)
    assert (calibration.num_layers, calibration.samples, calibration.sources) == (4, 2, ("room:0",))
    assert calibration.information[0] == 1.0
    assert calibration.information[-1] == 0.0
    assert np.mean(calibration.retention) == pytest.approx(0.5, abs=1e-5)
    assert set(calibration.parameters) == {"alpha", "beta", "M", "L0", "loss"}
    assert calibration.random_weights
    assert calibration.INF_std == pytest.approx((0.0,) * 4)
    assert len(calibration.sha256) == 64
    assert {"commit", "versions", "device", "date"} <= set(calibration.provenance)

    # What the strategy makes of it; another keep ratio than the file's is fitted from its curve.
    settings = {
        "pruning.adatoken3d.schedule": "fitted",
        "pruning.adatoken3d.calibration_file": str(file),
    }
    loaded, _ = open_model(from_flat({"model.path": str(model)}).model)
    shape = DecoderShape.from_config(loaded.model.decoder.config)
    schedules = {}
    for keep in (0.5, 0.7):
        pruner = Policy.from_config(from_flat(settings).pruning, keep).pruner(shape)
        assert pruner is not None
        schedules[keep] = pruner.schedule
        assert pruner.schedule.mean == pytest.approx(keep, abs=1e-5)
        assert (np.diff(pruner.schedule.retention) <= 0).all()
    assert schedules[0.5].retention == pytest.approx(calibration.retention, abs=1e-6)


def test_random_weights_are_measured_for_real(
    model: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs of the real measurement agree; stride 1 differs from the default by little."""
    files = [tmp_path / f"{n}.yaml" for n in range(3)]
    for file, stride in zip(files, ("10", "10", "1"), strict=True):
        fixed = ["--model", str(model), "--questions", str(questions)]
        assert verb.main(["room:1", *fixed, "-o", str(file), "--stride", stride]) == 0
    first, again, exact = map(read_calibration, files)
    assert first.masses == again.masses
    assert first.INF_std[0] > 0
    for strided, whole in zip(first.masses, exact.masses, strict=True):
        assert strided.S_self + strided.S_ss == pytest.approx(1.0, abs=1e-6)
        assert strided.S_self == pytest.approx(whole.S_self, abs=0.05)
        # All prompt tokens are queries at any stride.
        assert strided.S_sp == pytest.approx(whole.S_sp, abs=1e-6)
    assert "NOTE: this model has random weights" in capsys.readouterr().out


def test_the_engine_measures_what_full_attention_has() -> None:
    """Attention written out, layer by layer, beside the production pass at stride 1."""

    from ada3d_ros.engine.information import measure_information

    decoder, prompt = make_decoder(), make_prompt()
    found = measure_information(decoder, prompt, stride=1)
    hidden = prompt.embeds[None]
    rows = torch.arange(len(prompt.positions))
    for layer, masses in enumerate(found):
        inputs, rope = decoder.layer_inputs(layer, hidden), decoder.rope(prompt.positions)
        q, _, made = decoder.ranking_inputs(layer, inputs, rope, rows)
        k = made.k.repeat_interleave(q.shape[1] // made.k.shape[1], dim=1)
        scores = (q @ k.transpose(-1, -2))[0] / q.shape[-1] ** 0.5
        scores.masked_fill_(torch.ones(len(rows), len(rows), dtype=torch.bool).triu(1), -torch.inf)
        whole = attention_masses(torch.softmax(scores, dim=-1), prompt.spatial_span)
        for name in ("S_self", "S_sp", "S_ss"):
            assert getattr(masses, name) == pytest.approx(getattr(whole, name), abs=1e-6)
        hidden = decoder.run_layers(layer, layer + 1, hidden, prompt.positions)
    assert information_of(found).INF.shape == (LAYERS,)


@pytest.mark.parametrize(
    ("config", "spatial", "scope"),
    [
        (TINY_VIDEO3D, 8 * 16, Scope.SCENE),  # eight views of four rows of four, newlines beside
        (TINY_2D, 64, Scope.LATEST_IMAGE),
        (TINY_NEXT, 5 * 64, Scope.LATEST_IMAGE),  # the image and four crops
    ],
    ids=["video3dllm", "llava1.5", "llava_next"],
)
def test_every_backbone_is_calibrated_on_what_it_sees(
    config: BackboneConfig,
    spatial: int,
    scope: Scope,
    questions: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A 2D model on the newest image; the node takes the file for the same."""
    seen: list[PromptSequence] = []

    def planted(decoder: object, prompt: PromptSequence, stride: int) -> list[Masses]:
        seen.append(prompt)
        return falling(decoder, prompt, stride)

    monkeypatch.setattr(verb, "measure_information", planted)
    folder = write_random_checkpoint(tmp_path / "model", config=config)
    file = tmp_path / "schedule.yaml"
    fixed = ["--model", str(folder), "--questions", str(questions), "-o", str(file)]
    assert verb.main(["test-room:3", *fixed]) == 0
    calibration = read_calibration(file)
    assert calibration.mean_spatial_tokens == spatial
    assert [rows_of(prompt).num_placed for prompt in seen] == [spatial] * 2
    settings = {
        "model.path": str(folder),
        "pruning.strategy": "adatoken3d",
        "pruning.adatoken3d.schedule": "fitted",
        "pruning.adatoken3d.calibration_file": str(file),
        "cache.mode": "paper",
        "generation.max_new_tokens": 4,
    }
    pipeline = Ada3DPipeline(from_flat(settings))
    pipeline.load()
    for frame in generate_room(3, split="test").frames:
        pipeline.observe(frame)
    tokens = pipeline.ask(Question("What is there?", scope=scope)).tokens
    assert tokens.keep_ratio_achieved == pytest.approx(0.41, abs=0.05)


def test_queries_of_scenes_are_refused_for_a_2d_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = write_random_checkpoint(tmp_path / "flat", config=TINY_2D)
    out = str(tmp_path / "queries.safetensors")
    assert verb.main(["test-room:3", "--model", str(flat), "--queries", out]) == 2
    assert "llava1.5 has none, being 2D" in capsys.readouterr().err


def test_patches_know_their_token(model: Path) -> None:
    loaded, _ = open_model(from_flat({"model.path": str(model)}).model)
    scene = read_voxel_scene(loaded, "room:2", from_flat({}))
    with_token = scene.patch_token[scene.patch_token >= 0]
    counts = np.bincount(with_token.numpy(), minlength=len(scene.tokens.num_patches))
    assert counts.tolist() == scene.tokens.num_patches.tolist()

    # In the prompt all of them stand in their places.
    policy = Policy.from_config(from_flat({"pruning.strategy": "none"}).pruning)
    prompt, chosen = scene_prompt(loaded, scene, "Is it at [0, 1, 2]?", policy)
    start, stop = prompt.spatial_span
    assert chosen.num_before_selection == stop - start == len(counts)
    assert prompt.xyz_m is not None
    assert np.allclose(prompt.xyz_m, scene.tokens.xyz_m)


def test_a_place_in_a_question_is_moved_with_the_floor(model: Path) -> None:
    loaded, _ = open_model(from_flat({"model.path": str(model)}).model)
    policy = Policy.from_config(from_flat({"pruning.strategy": "none"}).pruning)
    raised = read_voxel_scene(loaded, "room:2", from_flat({"world.floor_z": "1.0"}))
    at_zero = dataclasses.replace(raised, origin_m=(0.0, 0.0, 0.0))
    prompt, _ = scene_prompt(loaded, raised, "Is it at [0, 1, 2]?", policy)
    moved, _ = scene_prompt(loaded, at_zero, "Is it at [0, 1, 1]?", policy)
    assert torch.equal(prompt.embeds, moved.embeds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is not a folder or file; give a rosbag2 folder"),
        (
            ["room:0", "--keep-ratio", "7"],
            "pruning.keep_ratio = 7.0: out of range; allowed: 0.0001 to 1",
        ),
        (["room:0", "--keep-ratio", "0.1"], "keep_ratio = 0.1 cannot be met on this decoder"),
        (["room:0", "--stride", "0"], "query_stride = 0: out of range"),
        (["room:0", "--questions", "absent.txt"], "absent.txt cannot be read as questions"),
        (["room:0", "--device", "cuda:99"], "CUDA device"),
    ],
)
def test_what_is_refused(
    model: Path,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = verb.main([*arguments, "--model", str(model), "-o", str(tmp_path / "never.yaml")])
    error = capsys.readouterr().err
    assert status == 2
    assert message in error
    assert not (tmp_path / "never.yaml").exists()
