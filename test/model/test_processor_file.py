"""The image processor's file of a folder in transformers' layout: taken, or refused by value."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from ada3d_ros.errors import CheckpointError
from ada3d_ros.lab.evaluation.field.images import image_frame
from ada3d_ros.model.checkpoint import inspect_checkpoint, load_model
from ada3d_ros.model.config import CLIP_MEAN
from ada3d_ros.model.random_checkpoint import write_random_checkpoint
from test.support.checkpoints import SMALL_2D, SMALL_NEXT, convert
from test.support.llava_oracle import drawn

SIDE = SMALL_2D.vision.image_size
SIZES = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
PUBLISHED = {  # as llava-hf's folders have it
    **SIZES,
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": list(CLIP_MEAN),
    "image_processor_type": "CLIPImageProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, config in (("llava", SMALL_2D), ("llava_next", SMALL_NEXT)):
        original = write_random_checkpoint(tmp_path_factory.mktemp(name), 5, config)
        made[name] = convert(original, tmp_path_factory.mktemp("hf"))
    return made


@pytest.fixture
def folder(sources: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(sources["llava"], tmp_path / "model"))


def write(folder: Path, content: dict[str, Any], name: str = "preprocessor_config.json") -> None:
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize("kind", [CLIPImageProcessorPil, LlavaImageProcessorPil])
def test_pixels_are_those_of_the_processor_that_the_folder_names(folder: Path, kind: Any) -> None:
    """What the library itself writes of it, statistics of another tower among it."""
    pads = {"do_pad": True} if kind is LlavaImageProcessorPil else {}
    statistics = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.25]}
    processor = kind(**SIZES, **statistics, **pads)
    processor.save_pretrained(folder)
    rgb = drawn(90, 120)
    expected = processor(images=rgb, return_tensors="pt", input_data_format="channels_last")
    loaded = load_model(folder)
    assert loaded.info.config.image_aspect_ratio == ("pad" if pads else "square")
    pixels = loaded.model.prepare_image(image_frame(rgb, 0)).pixels
    assert torch.allclose(pixels, expected["pixel_values"], rtol=0, atol=1e-6)


def test_the_published_file_changes_nothing(sources: dict[str, Path], folder: Path) -> None:
    write(folder, PUBLISHED)
    assert inspect_checkpoint(folder).config == inspect_checkpoint(sources["llava"]).config


def test_a_part_of_the_processors_file_is_the_same(folder: Path) -> None:
    padding = {**SIZES, "image_processor_type": "LlavaImageProcessor", "do_pad": True}
    write(folder, {"image_processor": padding, "patch_size": 14}, "processor_config.json")
    assert inspect_checkpoint(folder).config.image_aspect_ratio == "pad"
    write(folder, {"patch_size": 14}, "processor_config.json")
    assert inspect_checkpoint(folder).config.image_aspect_ratio == "square"
    write(folder, padding)
    assert inspect_checkpoint(folder).config.image_aspect_ratio == "pad"


def test_what_is_padded_in_llava_next_is_the_batch(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(sources["llava_next"], tmp_path / "next"))
    expected = inspect_checkpoint(folder).config
    kind = {"image_processor_type": "LlavaNextImageProcessor", "do_pad": True}
    write(folder, PUBLISHED | kind)
    assert inspect_checkpoint(folder).config == expected
    write(folder, PUBLISHED | kind | {"image_grid_pinpoints": [[56, 112]]})
    with pytest.raises(
        CheckpointError, match=r"image_grid_pinpoints = \[\[56, 112\]\] contradicts"
    ):
        inspect_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"do_center_crop": False}, "do_center_crop = False is not supported"),
        ({"do_normalize": False}, "do_normalize = False is not supported"),
        ({"resample": 2}, "resample = 2 is not supported"),
        ({"rescale_factor": 0.5}, "rescale_factor = 0.5 is not supported"),
        ({"size": {"height": SIDE, "width": 99}}, "size = .*99.* takes images of 56 pixels"),
        ({"crop_size": 224}, "crop_size = 224 contradicts config.json"),
        ({"image_mean": [0.5]}, r"image_mean = \[0.5\] of the vision tower"),
    ],
)
def test_other_pixels_are_refused(folder: Path, changes: dict[str, Any], words: str) -> None:
    write(folder, PUBLISHED | changes)
    with pytest.raises(CheckpointError, match=words):
        inspect_checkpoint(folder)


def test_in_llavas_own_layout_config_json_alone_counts(tmp_path: Path) -> None:
    folder = write_random_checkpoint(tmp_path, 5, SMALL_2D)
    write(folder, PUBLISHED | {"do_center_crop": False})
    assert inspect_checkpoint(folder).config.image_aspect_ratio == "square"
