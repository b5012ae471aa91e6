"""LLaVA-1.5 in the layout of the transformers library, in both generations of its names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from ada3d_ros.errors import CheckpointError
from ada3d_ros.model.checkpoint import inspect_checkpoint, load_model
from ada3d_ros.types import Question, Scope
from test.support.checkpoints import (
    config_of,
    convert,
    edit_config,
    make_2d,
    new_name,
    old_name,
    tensors_of,
    write_tensors,
)
from test.support.pipelines import start

ASK = Question("What?", scope=Scope.LATEST_IMAGE)
GENERATIONS = pytest.mark.parametrize("rename", [new_name, old_name])


@pytest.fixture
def original(folder: Path) -> Path:
    return make_2d(folder)


@GENERATIONS
def test_both_generations_are_the_same_model(
    original: Path, tmp_path: Path, rename: Callable[[str], str]
) -> None:
    expected = load_model(original)
    actual = load_model(convert(original, tmp_path / "converted", rename))
    assert actual.info.notes == ()
    assert actual.info.config.decoder == expected.info.config.decoder
    assert actual.info.config.vision == expected.info.config.vision
    assert not actual.info.config.has_video_tower
    ours, theirs = actual.model.state_dict(), expected.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@GENERATIONS
def test_the_answer_is_that_of_the_original_layout(
    model: Path, tmp_path: Path, rename: Callable[[str], str]
) -> None:
    original = make_2d(Path(shutil.copytree(model, tmp_path / "original")))
    converted = convert(original, tmp_path / "converted", rename)
    texts = [start(folder, 1).ask(ASK).text for folder in (original, converted)]
    assert texts[0]
    assert texts[0] == texts[1]


@GENERATIONS
def test_the_logits_are_those_of_transformers(
    original: Path, tmp_path: Path, rename: Callable[[str], str]
) -> None:
    """The library reads the same folder: image features, their place in the prompt, next token."""
    folder = convert(original, tmp_path / "converted", rename)
    oracle = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    # No file holds the buffers, and after other tests the library leaves them unset.
    for name, buffer in LlavaForConditionalGeneration(oracle.config).named_buffers():
        oracle.get_buffer(name).copy_(buffer)
    model = load_model(folder).model
    ids = torch.randint(3, 500, (12,), generator=torch.Generator().manual_seed(1)).tolist()
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(2))
    image_id = config_of(folder)["image_token_index"]
    with torch.no_grad():
        places = [*ids[:4], *[image_id] * 4, *ids[4:]]  # 2 x 2 patches
        expected = oracle(input_ids=torch.tensor([places]), pixel_values=pixels).logits[0, -1]
        visual = model.project(model.encode_views(pixels)[0])
        prompt = model.build_prompt([*ids[:4], -200, *ids[4:]], visual)
        layers = model.config.decoder.num_layers
        hidden = model.decoder.run_layers(0, layers, prompt.embeds[None], prompt.positions)
        actual = model.decoder.logits(hidden)[0, -1]
    assert torch.allclose(actual, expected, atol=1e-5)


def test_what_is_left_out_has_transformers_defaults(original: Path, tmp_path: Path) -> None:
    """It writes only what differs from LlamaConfig(), whose epsilon is not Vicuna's."""
    folder = convert(original, tmp_path / "converted")
    text = config_of(folder)["text_config"]
    for key in ("rms_norm_eps", "max_position_embeddings"):
        del text[key]
    edit_config(folder, text_config=text, vision_feature_layer=None)
    config = inspect_checkpoint(folder).config
    assert (config.decoder.rms_norm_eps, config.decoder.max_positions) == (1e-6, 2048)
    assert config.max_length == 2048
    assert config.vision.select_layer == -2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy = 'full'"),
        ({"vision_feature_layer": [-2, -5]}, r"vision_feature_layer = \[-2, -5\] must be a whole"),
        ({"projector_hidden_act": "relu"}, "projector_hidden_act = 'relu'"),
        ({"multimodal_projector_bias": False}, "multimodal_projector_bias = False"),
        ({"text_config": {"model_type": "mistral"}}, "text_config.model_type 'mistral'"),
        ({"text_config": {"logits_scaling": 8.0}}, r"text_config\.logits_scaling = 8\.0"),
        ({"text_config": {"sliding_window": 16}}, "sliding_window = 16"),
        ({"text_config": 7}, "text_config = 7 must be an object"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "'siglip_vision_model'"),
        ({"vision_config": {"num_channels": 4}}, r"vision_config\.num_channels = 4"),
    ],
)
def test_what_this_package_does_not_run_is_refused(
    original: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    folder = convert(original, tmp_path / "converted")
    data = config_of(folder)
    for key, value in changes.items():
        is_part = isinstance(value, dict) and isinstance(data[key], dict)
        data[key] = data[key] | value if is_part else value  # type: ignore[operator]
    (folder / "config.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=words):
        inspect_checkpoint(folder)


def test_flat_keys_beside_a_text_config_are_the_valid_ones(original: Path) -> None:
    """Some tools read an official config.json as transformers' and add blocks of defaults."""
    edit_config(original, text_config={"model_type": "llama", "hidden_size": 4096})
    assert inspect_checkpoint(original).config.decoder.hidden_size == 32


def test_two_layouts_in_one_file_are_refused(original: Path) -> None:
    tensors = tensors_of(original)
    again = {"language_model.lm_head.weight": tensors["lm_head.weight"].clone()}
    write_tensors(original, tensors | again)
    with pytest.raises(CheckpointError, match=r"holds lm_head\.weight twice, as .* and as "):
        inspect_checkpoint(original)
