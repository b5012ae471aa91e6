"""The keys of config.json: run, of one value, without effect, or named; null; numbers in range."""

from __future__ import annotations

import copy
import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from ada3d_ros.errors import CheckpointError
from ada3d_ros.model.checkpoint import inspect_checkpoint
from ada3d_ros.model.config import LlavaConfig as OurConfig
from ada3d_ros.model.config_file import check_settings, read_config
from ada3d_ros.model.config_keys import number
from ada3d_ros.model.config_vision import HUB_TOWERS
from ada3d_ros.model.startup import check_model
from test.support.checkpoints import edit_config
from test.support.pipelines import configured

BASE = OurConfig().to_json()
# As liuhaotian/llava-v1.5-7b and lmsys/vicuna-7b-v1.5 have them.
VICUNA = {
    "_name_or_path": "vicuna-7b-v1.5",
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "max_sequence_length": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pad_token_id": 0,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.31.0",
    "use_cache": True,
    "vocab_size": 32000,
}
LLAVA_15 = VICUNA | {
    "architectures": ["LlavaLlamaForCausalLM"],
    "freeze_mm_mlp_adapter": False,
    "freeze_mm_vision_resampler": False,
    "image_aspect_ratio": "pad",
    "image_grid_pinpoints": None,
    "max_length": 4096,
    "mm_hidden_size": 1024,
    "mm_projector_lr": 2e-05,
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": None,
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "model_type": "llava",
    "tune_mm_mlp_adapter": True,
    "tune_mm_vision_resampler": False,
    "unfreeze_mm_vision_tower": True,
    "use_mm_proj": True,
}
LLAVA_3D = LLAVA_15 | {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "image_aspect_ratio": "square",
    "mlp_bias": False,
    "mm_patch_merge_type": "flat",
    "mm_video_tower": "SpatialAwareModule",
    "model_type": "llava_llama",
    "num_frames": 20,
    "num_sample_tokens": 1152,
    "rope_theta": 10000.0,
    "tokenizer_model_max_length": 4096,
    "tokenizer_padding_side": "right",
    "tune_video_tower": True,
}


@pytest.mark.parametrize("data", [VICUNA, LLAVA_15, LLAVA_3D, BASE])
def test_real_files_are_read_without_a_word(data: dict[str, Any]) -> None:
    assert check_settings(data) == []
    config = read_config(data)
    assert config.decoder == OurConfig().decoder
    assert config.vision == OurConfig().vision
    assert config.max_length == 4096


def test_what_transformers_writes_by_itself_is_read_without_a_word() -> None:
    whole = LlavaConfig().to_dict()
    assert check_settings(whole) == []
    assert read_config(whole).vision == OurConfig().vision
    assert check_settings(LLAVA_3D | LlamaConfig(**LLAVA_3D).to_dict()) == []
    clip = CLIPVisionConfig(**HUB_TOWERS["clip-vit-large-patch14-336"]).to_dict()
    assert check_settings(BASE | {"mm_vision_config": clip}) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sliding_window", 16),
        ("sliding_window", 4095),
        ("sliding_window", True),
        ("use_sliding_window", True),
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("embedding_multiplier", 12.0),
        ("residual_multiplier", 0.22),
        ("attention_multiplier", 0.0078125),
        ("logits_scaling", 8.0),
        ("logit_scale", 0.0625),
        ("lm_head_multiplier", 0.5),  # the rest of the list is of other families
        ("mlp_multipliers", [1.0, 0.3]),
        ("scale_emb", 12),
        ("attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", 30.0),
        ("logits_soft_cap", 30.0),
        ("query_pre_attn_scalar", 256),
        ("use_qk_norm", True),
        ("qk_layernorm", True),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("use_bias", True),
        ("num_local_experts", 8),
        ("num_experts_per_tok", 2),
        ("moe_intermediate_size", 512),
        ("kv_lora_rank", 512),
        ("attention_chunk_size", 8192),
        ("no_rope_layers", [1, 1, 1, 0]),
        ("partial_rotary_factor", 0.5),
        ("rotary_pct", 0.25),
        ("alibi", True),
        ("clip_qkv", 8.0),
        ("use_parallel_residual", True),
        ("tie_word_embeddings", True),
        ("is_encoder_decoder", True),
        ("cross_attention_layers", [3, 8]),
        ("mm_resampler_type", "perceiver"),
        ("mm_spatial_pool_stride", 2),
        ("mm_patch_merge_type", "spatial"),
        ("s2", True),
        ("hidden_act", "gelu"),
    ],
)
def test_settings_that_change_the_arithmetic_are_refused_with_their_value(
    key: str, value: Any
) -> None:
    data = BASE | {key: value}
    with pytest.raises(CheckpointError) as caught:
        read_config(data)
    shown = value[-1] if key == "layer_types" else value
    assert f"config.json: {key} = {shown!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sliding_window", None),
        ("sliding_window", 4096),
        ("sliding_window", 8192),
        ("use_sliding_window", False),
        ("layer_types", ["full_attention"] * 32),
        ("embedding_multiplier", 1.0),
        ("residual_multiplier", 1),
        ("attention_multiplier", 128**-0.5),
        ("logits_scaling", 1.0),
        ("lm_head_multiplier", 1.0),
        ("mlp_multipliers", [1.0, 1.0]),
        ("attn_logit_softcapping", None),
        ("query_pre_attn_scalar", 128),
        ("use_qk_norm", False),
        ("num_local_experts", 0),
        ("mlp_bias", False),
        ("partial_rotary_factor", 1.0),
        ("rope_scaling", {"type": "linear", "factor": 1.0}),
        ("is_encoder_decoder", False),
        ("mm_resampler_type", None),
        ("resid_pdrop", 0.1),
        ("router_aux_loss_coef", 0.001),
        ("dtype", "bfloat16"),
    ],
)
def test_values_that_change_nothing_are_accepted_without_a_word(key: str, value: Any) -> None:
    data = BASE | {key: value}
    assert check_settings(data) == []
    assert read_config(data) == OurConfig()


def test_a_window_that_is_switched_off_is_accepted() -> None:
    data = BASE | {"sliding_window": 16, "use_sliding_window": False}
    assert read_config(data) == OurConfig()


@pytest.mark.parametrize("value", [3, 0.5, True, [1, 2], {"a": 1}])
def test_a_key_that_no_table_knows_is_named_in_a_warning(
    folder: Path, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    edit_config(folder, frobnicate=value)
    with caplog.at_level(logging.WARNING):
        check_model(configured(folder).model)
    said = f"config.json: frobnicate = {value!r} is not known: it is not used."
    assert [record.message for record in caplog.records] == [said]


def test_an_unknown_text_is_named_where_it_says_arithmetic() -> None:
    assert check_settings(BASE | {"norm_type": "layer_norm"}) == [
        "config.json: norm_type = 'layer_norm' is not known: it is not used."
    ]


@pytest.mark.parametrize("value", [None, False, "", "text", [], {}])
def test_an_unknown_key_that_switches_nothing_on_is_not(value: Any) -> None:
    assert check_settings(BASE | {"frobnicate": value}) == []


@pytest.mark.parametrize("part", ["", "text_config.", "vision_config.", "mm_vision_config."])
def test_keys_within_are_checked_too(part: str) -> None:
    whole = BASE if part in ("", "mm_vision_config.") else LlavaConfig().to_dict()
    data: dict[str, Any] = copy.deepcopy(whole)
    inner = data if not part else data.setdefault(part[:-1], {})
    inner["hidden_scale"] = 2.0
    with pytest.raises(CheckpointError, match=rf"config\.json: {part}hidden_scale = 2\.0"):
        check_settings(data)


REQUIRED = {
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
}


@pytest.mark.parametrize("key", sorted(set(BASE) | {"rope_scaling", "head_dim", "sliding_window"}))
def test_null_is_the_same_as_absent(key: str) -> None:
    absent = {name: value for name, value in BASE.items() if name != key}
    null = BASE | {key: None}
    if key in REQUIRED:
        with pytest.raises(CheckpointError, match=f"lacks {key}"):
            read_config(null)
        return
    assert read_config(null) == read_config(absent)


@pytest.mark.parametrize("key", sorted(BASE["mm_vision_config"]))
def test_null_of_the_tower_is_the_same_as_absent(key: str) -> None:
    vision = BASE["mm_vision_config"]
    absent = {name: value for name, value in vision.items() if name != key}

    def outcome(part: dict[str, Any]) -> object:
        try:
            return read_config(BASE | {"mm_vision_config": part})
        except CheckpointError as error:  # of the other sizes that a default does not fit
            return str(error)

    assert outcome(vision | {key: None}) == outcome(absent)


@pytest.mark.parametrize(
    "key",
    [
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
        *("num_attention_heads", "num_key_value_heads", "max_position_embeddings"),
        *("mm_token_cap", "tokenizer_model_max_length", "mm_hidden_size"),
    ],
)
@pytest.mark.parametrize(
    "value", [-5, 0, 2.5, True, "many", [3], float("inf"), float("nan"), 10**30]
)
def test_a_whole_number_out_of_range_names_key_value_and_range(key: str, value: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_config(BASE | {key: value})
    is_number = value in (-5, 0) and not isinstance(value, bool)
    wanted = "must be above 0" if is_number else "must be a whole number"
    assert str(caught.value).startswith(f"config.json: {key} = {value!r} {wanted}")


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("mm_voxel_size_m", -0.2, "must be above 0"),
        ("mm_voxel_size_m", 0, "must be above 0"),
        ("mm_voxel_size_m", 1e9, "must be above 0 and at most 100"),
        ("mm_voxel_size_m", float("nan"), "must be a number"),
        ("rms_norm_eps", -1e-5, "must be at least 0"),
        ("rms_norm_eps", 10, "must be at least 0 and at most 1"),
        ("rope_theta", 0, "must be above 0"),
        ("rope_theta", -1e4, "must be above 0"),
        ("mm_vision_select_layer", 1.5, "must be a whole number"),
        ("attention_multiplier", "x", "must be a number"),
    ],
)
def test_a_number_out_of_range_names_key_value_and_range(key: str, value: Any, wanted: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_config(BASE | {key: value})
    assert f"{key} = {value!r} {wanted}" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("image_size", 0), ("patch_size", -14), ("num_attention_heads", 0)),
        *(("image_mean", [0.5, 0.5]), ("image_std", [0.2, 0.0, 0.2]), ("image_size", [336, 336])),
        *(("image_mean", 0.5), ("image_mean", [0.5, math.nan, 0.5]), ("image_std", "0.2")),
        *(("vision_config", "clip"), ("vision_config_dict", [1])),
        ("layer_norm_eps", -1),
    ],
)
def test_numbers_of_the_tower(key: str, value: Any) -> None:
    data = BASE | {"mm_vision_config": BASE["mm_vision_config"] | {key: value}}
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{key} = .* must be "):
        read_config(data)


def test_a_select_layer_that_the_tower_does_not_have() -> None:
    with pytest.raises(CheckpointError, match="mm_vision_select_layer 99 does not exist"):
        read_config(BASE | {"mm_vision_select_layer": 99})


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
        {"model_type": "llava_mistral"},
        {"model_type": "llava_next_video"},
        {"model_type": "granite", "architectures": ["GraniteForCausalLM"]},
        {"model_type": "llava", "architectures": ["LlavaMptForCausalLM"]},
        {"model_type": "qwen2_vl"},
        {"model_type": ["llava"]},
    ],
)
def test_another_architecture_is_refused_before_anything_else(
    folder: Path, changes: dict[str, Any]
) -> None:
    """Nothing that is missed in it either invites an edit or a copy."""
    edit_config(folder, **changes, mm_patch_merge_type="spatial_unpad", vocab_size=-1)
    (folder / "tokenizer.model").unlink()
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError) as caught:
        inspect_checkpoint(folder)
    foreign = next(v for k, v in changes.items() if k == "model_type" or v)
    named = changes["architectures"][0] if changes["model_type"] == "llava" else foreign
    assert f"{named!r}" in str(caught.value)
    assert "is not supported" in str(caught.value)
    assert "tokenizer" not in str(caught.value)


def test_a_clip_folder_as_checkpoint_says_where_it_belongs(folder: Path) -> None:
    edit_config(folder, model_type="clip", architectures=["CLIPModel"])
    with pytest.raises(CheckpointError, match=r"a vision tower alone, which model\.vision_path"):
        inspect_checkpoint(folder)


def test_long_values_are_shortened() -> None:
    notes = check_settings(BASE | {"frobnicate": list(range(1000))})
    assert len(notes[0]) < 150
    assert json.dumps(notes)


@pytest.mark.parametrize("layers", [1001, 10**9, 10**18])
def test_more_layers_than_anybody_has_are_refused_before_one_is_built(layers: int) -> None:
    with pytest.raises(CheckpointError, match=rf"num_hidden_layers = {layers} .*at most 1000"):
        number({"num_hidden_layers": layers}, "num_hidden_layers")
