"""The vision tower: within the checkpoint, apart, empty, named in config.json, of other sizes."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ada3d_ros.errors import CheckpointError
from ada3d_ros.model.checkpoint import (
    inspect_checkpoint,
    load_model,
    revision_sha256,
    weights_sha256,
)
from ada3d_ros.model.config import CLIP_MEAN, VisionConfig
from ada3d_ros.model.config_vision import read_vision_config
from ada3d_ros.model.grounding_head import GroundingHead, save_grounding_head
from ada3d_ros.model.random_checkpoint import write_random_checkpoint
from test.support.checkpoints import (
    SMALL,
    TOWER,
    config_of,
    edit_config,
    move_tower,
    tensors_of,
    write_tensors,
)
from test.support.pipelines import ASK, configured, start

HIDES = "holds an empty vision tower"


@pytest.fixture
def clip(folder: Path, tmp_path: Path) -> Path:
    return move_tower(folder, tmp_path / "clip")


def state_of(path: Path, **options: Any) -> dict[str, torch.Tensor]:
    return dict(load_model(path, **options).model.state_dict())


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def empty_tower(folder: Path, names: str = TOWER, shape: tuple[int, ...] = (0,)) -> None:
    """As a training framework saves frozen tensors that other processes hold."""
    tensors = tensors_of(folder)
    write_tensors(
        folder,
        {k: torch.zeros(shape) if k.startswith(names) else t for k, t in tensors.items()},
    )


@pytest.mark.parametrize("shape", [(0,), (0, 16)])
@pytest.mark.parametrize("part", [TOWER, TOWER + "encoder.layers.0.mlp"])
def test_an_empty_tower_gives_way_to_the_one_that_is_given(
    folder: Path, tmp_path: Path, shape: tuple[int, ...], part: str
) -> None:
    whole = Path(shutil.copytree(folder, tmp_path / "whole"))
    clip = move_tower(Path(shutil.copytree(folder, tmp_path / "other")), tmp_path / "clip")
    empty_tower(folder, part, shape)
    assert same(state_of(folder, vision_path=clip), state_of(whole))
    with pytest.raises(CheckpointError, match=f"{HIDES}.*set model.vision_path"):
        inspect_checkpoint(folder)


def test_the_answer_is_that_of_the_whole_checkpoint(model: Path, tmp_path: Path) -> None:
    expected = start(model, 2).ask(ASK).text
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    clip = move_tower(Path(shutil.copytree(model, tmp_path / "other")), tmp_path / "clip")
    empty_tower(folder)
    pipeline = start(folder, 2, **{"model.vision_path": str(clip)})
    assert pipeline.ask(ASK).text == expected


def test_empty_tensors_elsewhere_are_named_with_the_way_out(folder: Path) -> None:
    empty_tower(folder, "model.layers.0.mlp")
    with pytest.raises(CheckpointError, match=r"3 tensor\(s\) hold no values.*zero_to_fp32\.py"):
        inspect_checkpoint(folder)


def test_an_empty_tower_in_the_clip_folder(folder: Path, clip: Path) -> None:
    empty_tower(clip, "vision_model.")
    with pytest.raises(CheckpointError, match=r"clip: vision_model\..* holds no values"):
        inspect_checkpoint(folder, clip)


@pytest.mark.parametrize("place", ["absolute", "in the checkpoint", "in the working directory"])
def test_mm_vision_tower_may_be_a_folder(
    folder: Path, clip: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = state_of(folder, vision_path=clip)
    if place == "in the checkpoint":
        shutil.move(clip, folder / "clip")
    monkeypatch.chdir(clip.parent if place == "in the working directory" else folder.parent)
    name = str(clip) if place == "absolute" else "clip" if place[-1] == "y" else "./clip"
    edit_config(folder, drop=("mm_vision_config",), mm_vision_tower=name)
    assert same(state_of(folder), expected)


def test_mm_vision_tower_that_is_not_there_is_said(folder: Path, clip: Path) -> None:
    edit_config(folder, drop=("mm_vision_config",), mm_vision_tower="/nowhere/clip")
    with pytest.raises(CheckpointError, match=r"holds no vision tower.*'/nowhere/clip'"):
        inspect_checkpoint(folder)


def test_a_tower_that_is_not_used_is_said(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = move_tower(Path(shutil.copytree(model, tmp_path / "other")), tmp_path / "clip")
    with caplog.at_level(logging.WARNING):
        start(model, 1, **{"model.vision_path": str(clip)})
    said = f"{model} has a vision tower of its own: {clip} is not used."
    assert [record.message for record in caplog.records].count(said) == 1


def test_values_left_out_are_clips_defaults() -> None:
    """transformers' CLIPVisionConfig(), not those of ViT-L/14-336."""
    from transformers import CLIPVisionConfig

    default = CLIPVisionConfig()
    config = read_vision_config({"model_type": "clip", "vision_config": {}}, -2)
    for field in dataclasses.fields(VisionConfig):
        if hasattr(default, field.name):
            assert getattr(config, field.name) == getattr(default, field.name), field.name
    assert config.image_mean == CLIP_MEAN


@pytest.mark.parametrize("place", ["vision_config", "vision_config_dict", "top"])
def test_a_clip_folder_says_its_sizes_in_three_ways(folder: Path, clip: Path, place: str) -> None:
    vision = config_of(clip)["vision_config"]
    wrong = vision | {"num_hidden_layers": 9}
    data = {
        "vision_config": {"model_type": "clip", "vision_config": vision},
        "vision_config_dict": {"vision_config": wrong, "vision_config_dict": vision},
        "top": vision | {"model_type": "clip_vision_model"},
    }[place]
    (clip / "config.json").write_text(json.dumps(data))
    edit_config(folder, drop=("mm_vision_config",), mm_vision_tower="org/clip")
    assert inspect_checkpoint(folder, clip).config.vision == SMALL.vision


def test_image_size_left_out(tmp_path: Path) -> None:
    vision = VisionConfig(16, 24, 3, 2, image_size=224)
    config = dataclasses.replace(SMALL, vision=vision)
    folder = write_random_checkpoint(tmp_path / "model", config=config)
    clip = move_tower(folder, tmp_path / "clip")
    sizes = config_of(clip)["vision_config"]
    edit_config(clip, vision_config={k: v for k, v in sizes.items() if k != "image_size"})
    edit_config(folder, drop=("mm_vision_config",), mm_vision_tower="openai/clip-vit-large-patch14")
    assert inspect_checkpoint(folder, clip).config.vision == vision
    with pytest.raises(CheckpointError, match="holds no vision tower"):
        inspect_checkpoint(folder)


@pytest.mark.parametrize(
    ("left_out", "words"),
    [
        ("num_attention_heads", r"num_attention_heads 12 .* does not divide its hidden_size 16"),
        ("patch_size", r"patch_size 32 .* larger than its image_size 28"),
        ("image_size", r"position_embedding.weight has shape \(5, 16\)"),
        ("hidden_size", "mm_hidden_size 16 differs from the vision tower's width 768"),
        ("intermediate_size", r"fc1.weight has shape \(24, 16\), expected \(3072, 16\)"),
    ],
)
def test_sizes_are_checked_against_the_tensors(
    folder: Path, clip: Path, left_out: str, words: str
) -> None:
    sizes = config_of(clip)["vision_config"]
    edit_config(clip, vision_config={k: v for k, v in sizes.items() if k != left_out})
    edit_config(folder, drop=("mm_vision_config",), mm_vision_tower="org/clip")
    with pytest.raises(CheckpointError, match=words):
        inspect_checkpoint(folder, clip)


def test_more_blocks_than_the_config_says(folder: Path, clip: Path) -> None:
    """With 12 blocks by default and 14 stored, another hidden state would be the selected one."""
    tensors = tensors_of(clip)
    block = {k: t for k, t in tensors.items() if "layers.1." in k}
    for index in range(2, 14):
        tensors |= {k.replace("layers.1.", f"layers.{index}."): t.clone() for k, t in block.items()}
    write_tensors(clip, tensors)
    sizes = config_of(clip)["vision_config"]
    edit_config(clip, vision_config={k: v for k, v in sizes.items() if k != "num_hidden_layers"})
    edit_config(folder, drop=("mm_vision_config",), mm_vision_tower="org/clip")
    with pytest.raises(CheckpointError, match=r"has 14 blocks, .*num_hidden_layers 12"):
        inspect_checkpoint(folder, clip)


def test_a_tower_with_other_heads_than_the_checkpoint_says(folder: Path, clip: Path) -> None:
    """No tensor shows the number of heads; the features would be others."""
    edit_config(clip, vision_config=config_of(clip)["vision_config"] | {"num_attention_heads": 4})
    with pytest.raises(CheckpointError, match="has num_attention_heads 4, the checkpoint's 2"):
        inspect_checkpoint(folder, clip)


@pytest.mark.parametrize("kind", ["siglip", "siglip_vision_model", "dinov2"])
def test_another_kind_of_tower_is_refused(folder: Path, clip: Path, kind: str) -> None:
    edit_config(clip, model_type=kind, vision_config={"model_type": kind, "hidden_size": 16})
    with pytest.raises(CheckpointError, match=f"model_type '{kind}' of the vision tower"):
        inspect_checkpoint(folder, clip)


def test_a_tower_of_another_size_than_the_named_is_said(folder: Path, clip: Path) -> None:
    edit_config(folder, drop=("mm_vision_config",), mm_vision_tower="openai/clip-vit-large-patch14")
    notes = inspect_checkpoint(folder, clip).notes
    assert len(notes) == 1
    assert (
        "takes images of 28 pixels, clip-vit-large-patch14, which config.json names, 224"
        in (notes[0])
    )


def test_a_folder_without_a_tower_as_vision_path(folder: Path, clip: Path) -> None:
    write_tensors(clip, {"text_model.final_layer_norm.weight": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="clip holds no CLIP vision tower"):
        inspect_checkpoint(folder, clip)


def test_a_vision_path_that_is_no_folder(folder: Path, clip: Path) -> None:
    for path in (clip / "absent", clip / "config.json"):
        with pytest.raises(CheckpointError, match=rf"^{path} is not a folder"):
            inspect_checkpoint(folder, path)


def test_a_tower_and_a_head_have_a_sha256_of_their_own(folder: Path, tmp_path: Path) -> None:
    """What model.revision_sha256 is compared with changes with either."""
    alone = revision_sha256(inspect_checkpoint(folder))
    assert alone == weights_sha256(folder)
    clip = move_tower(folder, tmp_path / "clip")
    weights = weights_sha256(folder)
    first = revision_sha256(inspect_checkpoint(folder, clip))
    assert first == f"{weights} tower:{weights_sha256(clip)}"

    # Another tower, then a head, then another head.
    write_tensors(clip, {k: t * 2 for k, t in tensors_of(clip).items()})
    second = revision_sha256(inspect_checkpoint(folder, clip))
    found = {alone, first, second}
    for seed in (1, 2):
        torch.manual_seed(seed)
        save_grounding_head(GroundingHead(32, 8), folder, 0.5)
        found.add(revision_sha256(inspect_checkpoint(folder, clip)))
    assert len(found) == 5
    assert all(len(text.split()) == 3 for text in found if "head:" in text)


def test_a_pinned_revision_covers_the_tower(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    clip = move_tower(folder, tmp_path / "clip")
    settings = {"model.vision_path": str(clip)}
    pinned = start(folder, 1, **settings).info
    assert pinned is not None
    settings["model.revision_sha256"] = pinned.sha256
    assert start(folder, 1, **settings).info == pinned

    write_tensors(clip, {k: t * 2 for k, t in tensors_of(clip).items()})
    with pytest.raises(CheckpointError, match=r"tower:[0-9a-f]{64}, model.revision_sha256 expects"):
        start(folder, 1, **settings)
    with pytest.raises(CheckpointError, match=r"model\.revision_sha256 expects"):
        start(folder, 1, **{**settings, "model.revision_sha256": weights_sha256(folder)})
    assert configured(folder, **settings).model.revision_sha256 == pinned.sha256
