"""The published LLaVA-NeXT of 7B by its config.json and its tensors' names, without a weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
)

from ada3d_ros.model import config as own
from ada3d_ros.model.config_file import check_settings, read_config
from ada3d_ros.model.layout import by_official_name, match
from ada3d_ros.model.llava_next.anyres import V1_6_PINPOINTS
from ada3d_ros.model.llava_next.config import LlavaNextConfig as OwnNextConfig
from ada3d_ros.model.weight_files import TensorInfo

PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
ORIGINAL: dict[str, Any] = {  # what LLaVA's training writes of v1.6 on Vicuna 7B
    "architectures": ["LlavaLlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "freeze_mm_mlp_adapter": False,
    "freeze_mm_vision_resampler": False,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "image_aspect_ratio": "anyres",
    "image_crop_resolution": 224,
    "image_grid_pinpoints": PINPOINTS,
    "image_split_resolution": 224,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_length": 4096,
    "max_position_embeddings": 4096,
    "mm_hidden_size": 1024,
    "mm_patch_merge_type": "spatial_unpad",
    "mm_projector_lr": None,
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": None,
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "mm_vision_tower_lr": 2e-06,
    "model_type": "llava",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pad_token_id": 0,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "tokenizer_model_max_length": 4096,
    "tokenizer_padding_side": "right",
    "torch_dtype": "bfloat16",
    "tune_mm_mlp_adapter": False,
    "unfreeze_mm_vision_tower": True,
    "use_cache": True,
    "use_mm_proj": True,
    "vocab_size": 32000,
}
CONVERTED: dict[str, Any] = {  # what transformers' conversion writes of the same
    "architectures": ["LlavaNextForConditionalGeneration"],
    "ignore_index": -100,
    "image_grid_pinpoints": PINPOINTS,
    "image_token_index": 32000,
    "model_type": "llava_next",
    "projector_hidden_act": "gelu",
    "text_config": {
        "_name_or_path": "lmsys/vicuna-7b-v1.5",
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "pad_token_id": 0,
        "rms_norm_eps": 1e-05,
        "vocab_size": 32064,
    },
    "tie_word_embeddings": False,
    "use_image_newline_parameter": True,
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "model_type": "clip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
        "vocab_size": 32000,
    },
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "vocab_size": 32064,
}


@pytest.mark.parametrize("data", [ORIGINAL, CONVERTED], ids=["original", "transformers"])
def test_its_config_is_read_without_a_word(data: dict[str, Any]) -> None:
    assert check_settings(data) == []
    config = read_config(data)
    assert isinstance(config, OwnNextConfig)
    swapped = tuple((width, height) for height, width in V1_6_PINPOINTS)
    assert config.pinpoints == (swapped if data is ORIGINAL else V1_6_PINPOINTS)
    assert config.vision == own.VisionConfig()
    assert (config.decoder.max_positions, config.max_length) == (4096, 4096)
    assert config.max_spatial_tokens(1) == 576 + 48 * 49  # 2928, of a square image
    assert config.max_newlines(2928) == 72  # of a portrait
    assert config.squares_per_image == 5
    assert config.backbone == "llava_next"


def before_4_52(name: str) -> str:
    """The name that transformers gave a tensor before it moved all under `model.`."""
    for new, old in (
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.", ""),
    ):
        if name.startswith(new):
            return old + name.removeprefix(new)
    raise AssertionError(name)


@pytest.mark.parametrize("is_next", [True, False], ids=["llava_next", "llava1.5"])
@pytest.mark.parametrize("is_old", [False, True], ids=["since 4.52", "before"])
def test_transformers_names_and_shapes_of_7b_fit(is_next: bool, is_old: bool) -> None:
    """The library's own model of that size on the meta device, every tensor of it."""
    text = LlamaConfig(vocab_size=32064, rms_norm_eps=1e-5, max_position_embeddings=4096)
    parts = {"vision_config": CLIPVisionConfig(**CONVERTED["vision_config"]), "text_config": text}
    with torch.device("meta"):
        model: Any = (
            LlavaNextForConditionalGeneration(LlavaNextConfig(**parts))
            if is_next
            else LlavaForConditionalGeneration(LlavaConfig(**parts))
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if is_old:
        shapes = {before_4_52(name): shape for name, shape in shapes.items()}
    data = CONVERTED if is_next else {**CONVERTED, "model_type": "llava", "architectures": None}
    file = Path("model.safetensors")
    stored = by_official_name({n: TensorInfo(file, s, "F16") for n, s in shapes.items()})
    found = match(read_config(data), stored, Path())
    assert len(found) == 291 + 4 + 373 + is_next  # LLaMA, projector, 23 blocks of CLIP, newline
    assert ("newline" in found) == is_next
