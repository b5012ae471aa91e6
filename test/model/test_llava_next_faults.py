"""What is no LLaVA-NeXT that can be run: a sentence each, with the way out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ada3d_ros.errors import CheckpointError
from ada3d_ros.model.checkpoint import inspect_checkpoint
from ada3d_ros.model.llava_next.config import LlavaNextConfig
from ada3d_ros.model.random_checkpoint import write_random_checkpoint
from test.support.checkpoints import (
    SMALL_NEXT,
    config_of,
    convert,
    edit_config,
    tensors_of,
    write_tensors,
)

PINPOINTS = [[112, 56], [56, 112], [112, 112], [56, 168], [168, 56]]  # (width, height)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("next"), 5, SMALL_NEXT)


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "model"))


def config_in(folder: Path) -> LlavaNextConfig:
    config = inspect_checkpoint(folder).config
    assert isinstance(config, LlavaNextConfig)
    return config


def test_a_pair_is_width_and_height_in_the_original_layout(folder: Path) -> None:
    assert config_of(folder)["image_grid_pinpoints"] == PINPOINTS
    edit_config(folder, image_grid_pinpoints=[[56, 112], [168, 56]])
    assert config_in(folder).pinpoints == ((112, 56), (56, 168))
    edit_config(folder, image_grid_pinpoints="[(56, 112), (168, 56)]")  # as LLaVA's options have it
    assert config_in(folder).pinpoints == ((112, 56), (56, 168))


def test_a_pair_is_height_and_width_in_the_layout_of_transformers(
    folder: Path, tmp_path: Path
) -> None:
    converted = convert(folder, tmp_path / "converted")
    edit_config(converted, image_grid_pinpoints=[[56, 112], [168, 56]])
    assert config_in(converted).pinpoints == ((56, 112), (168, 56))


def test_memory_is_planned_for_the_largest_image(folder: Path) -> None:
    """4 patches a side; 2 x 2 crops have more tokens than 1 x 3, the whole image besides."""
    config = config_in(folder)
    assert config.max_spatial_tokens(20) == 16 + 8 * (8 + 1)
    assert config.squares_per_image == 1 + 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_grid_pinpoints": None}, "needs image_grid_pinpoints, which are missing"),
        ({"image_grid_pinpoints": []}, r"image_grid_pinpoints = '\[\]' must be a list of pairs"),
        ({"image_grid_pinpoints": [[56]]}, "must be a list of pairs"),
        ({"image_grid_pinpoints": [[56, -56]]}, "must be a list of pairs"),
        ({"image_grid_pinpoints": [[56, 100]]}, r"\[100, 56\]: .*multiple of .*image_size 56"),
        ({"image_grid_pinpoints": [[5600, 56]]}, "at most 64 crops"),
        ({"image_grid_pinpoints": "(1x1),...,(6x6)"}, r"'\(1x1\),...,\(6x6\)' must be a list"),
        ({"image_aspect_ratio": "anyres_max_9"}, r"'anyres_max_9' is not supported .*'anyres'"),
        ({"image_aspect_ratio": "pad"}, "'pad' is not supported with mm_patch_merge_type"),
        ({"image_aspect_ratio": None}, "'' is not supported with mm_patch_merge_type"),
        ({"mm_patch_merge_type": "flat"}, "anyres with mm_patch_merge_type 'spatial_unpad'"),
        ({"mm_patch_merge_type": "spatial"}, "mm_patch_merge_type = 'spatial'"),
        ({"mm_video_tower": "SpatialAwareModule"}, "mm_video_tower is not supported"),
        (
            {"architectures": ["LlavaMistralForCausalLM"]},
            "'LlavaMistralForCausalLM' is not.*LLaVA-NeXT.*not on Mistral or Yi",
        ),
        ({"model_type": "llava_onevision"}, "model_type 'llava_onevision' is not .*LLaVA-NeXT"),
    ],
)
def test_what_cannot_be_run_is_named(folder: Path, changes: dict[str, Any], words: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=words):
        inspect_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_image_newline_parameter": False}, "use_image_newline_parameter = False"),
        (
            {"text_config": {"model_type": "mistral"}},
            "text_config.model_type 'mistral' is not.*not on Mistral",
        ),
        ({"image_grid_pinpoints": None}, r"has \[336, 672\]: .*image_size 56"),  # its default
    ],
)
def test_what_cannot_be_run_is_named_in_the_layout_of_transformers(
    folder: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    converted = convert(folder, tmp_path / "converted")
    data = config_of(converted)
    for key, value in changes.items():
        data[key] = data[key] | value if isinstance(value, dict) else value
    (converted / "config.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=words):
        inspect_checkpoint(converted)


def test_a_folder_with_tokenizer_json_alone_says_which_file_to_copy(folder: Path) -> None:
    (folder / "tokenizer.model").rename(folder / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json alone.*tokenizer\.model.*Vicuna"):
        inspect_checkpoint(folder)


def test_a_language_model_of_another_template_is_named(folder: Path) -> None:
    file = folder / "tokenizer.model"
    file.write_bytes(file.read_bytes() + b"<|im_start|>")
    edit_config(folder, drop=("ada3d_tokenizer_sha256",))
    with pytest.raises(CheckpointError, match=r"ChatML.*Yi.*Take a checkpoint on Vicuna"):
        inspect_checkpoint(folder)


def test_a_checkpoint_without_its_newline_is_named(folder: Path) -> None:
    """As one of LLaVA-1.5 whose config.json says LLaVA-NeXT."""
    tensors = tensors_of(folder)
    del tensors["model.image_newline"]
    write_tensors(folder, tensors)
    with pytest.raises(CheckpointError, match=r"missing tensor\(s\): model\.image_newline"):
        inspect_checkpoint(folder)
