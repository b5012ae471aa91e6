"""The keys of a config.json: which are run, which must have one value, which change nothing.

A key that no table knows is named in a note where it holds a number, true or a list, and refused
where its name says that it changes the arithmetic.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ada3d_ros.errors import CheckpointError

Json = Mapping[str, Any]
HUGE = 2**63 - 1
SHOWN = 60  # characters of a value in a sentence
MAX_LAYERS = 1000  # each is built before its tensors are looked for


@dataclass(frozen=True, slots=True)
class Number:
    """What a number may be: whole or not, above `low` (or at least), at most `high`."""

    whole: bool = True
    low: float = 0
    includes_low: bool = False
    high: float = math.inf

    def read(self, value: Any, name: str) -> float:
        """`value` as a finite number. Raises CheckpointError with name, value and range."""
        kind = "a whole number" if self.whole else "a number"
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        limit = HUGE if self.whole else sys.float_info.max  # NaN is in neither
        if not (is_number and -limit <= value <= limit) or (self.whole and value != int(value)):
            raise _refusal(name, value, f"must be {kind} within +-{limit:.3g}")
        low = f"{'at least' if self.includes_low else 'above'} {self.low:g}"
        high = f" and at most {self.high:g}" if math.isfinite(self.high) else ""
        too_low = value < self.low or (value == self.low and not self.includes_low)
        if too_low or value > self.high:
            raise _refusal(name, value, f"must be {low}{high}")
        return int(value) if self.whole else float(value)


SIZE = Number()
POSITIVE = Number(whole=False)
NUMBERS = {
    # the decoder
    "vocab_size": SIZE,
    "hidden_size": SIZE,
    "intermediate_size": SIZE,
    "num_hidden_layers": Number(high=MAX_LAYERS),
    "num_attention_heads": SIZE,
    "num_key_value_heads": SIZE,
    "head_dim": SIZE,
    "max_position_embeddings": SIZE,
    "rms_norm_eps": Number(whole=False, includes_low=True, high=1),
    "rope_theta": POSITIVE,
    # the vision tower
    "patch_size": SIZE,
    "image_size": SIZE,
    "layer_norm_eps": Number(whole=False, includes_low=True, high=1),
    "mm_vision_select_layer": Number(low=-1e4, high=1e4),
    "vision_feature_layer": Number(low=-1e4, high=1e4),
    "mm_hidden_size": SIZE,
    # the scene and the prompt
    "mm_voxel_size_m": Number(whole=False, high=100),
    "mm_token_cap": SIZE,
    "tokenizer_model_max_length": SIZE,
    "voxel_size": Number(whole=False, high=100),
    "ground_head_temperature": POSITIVE,
    "repetition_penalty": Number(whole=False, high=10),
}


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What transformers writes into every config.json, and old generation settings: no arithmetic.
_ANY_MODEL = _names(
    "model_type architectures transformers_version torch_dtype dtype use_cache auto_map"
    " return_dict output_attentions output_hidden_states output_scores return_dict_in_generate"
    " torchscript use_bfloat16 problem_type id2label label2id num_labels finetuning_task"
    " task_specific_params tie_encoder_decoder chunk_size_feed_forward prefix tokenizer_class"
    " is_decoder gradient_checkpointing max_length min_length do_sample early_stopping num_beams"
    " num_beam_groups diversity_penalty temperature top_k top_p typical_p repetition_penalty"
    " length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids"
    " num_return_sequences exponential_decay_length_penalty suppress_tokens"
    " begin_suppress_tokens remove_invalid_values tf_legacy_loss ignore_index"
)
_TRAINING = re.compile(
    r"dropout|pdrop|initializer|_lr$|_loss_coef$|_token_(id|index)$|^(tune|freeze|unfreeze)_|^_"
)
_DECODER = _names(
    "rope_theta rope_scaling rope_parameters sliding_window use_sliding_window layer_types"
    " attention_multiplier query_pre_attn_scalar max_window_layers pretraining_tp"
    " max_sequence_length"
)
_MULTIMODAL = _names(
    "image_aspect_ratio mm_vision_tower mm_vision_config ada3d_random_weights"
    " ada3d_floor_at_zero ada3d_point_ids ada3d_question_kinds"
    " ada3d_tokenizer_sha256 tokenizer_padding_side image_grid_pinpoints image_crop_resolution"
    " image_split_resolution mm_use_im_patch_token num_frames mm_tunable_parts text_config"
    " vision_config projection_dim unfreeze_mm_vision_tower"
)
_LLAVA = _MULTIMODAL | _names(
    "mm_video_tower s2_scales num_sample_tokens mm_newline_position image_seq_length"
)
# tie_word_embeddings: its evaluation takes lm_head in any case. mm_vision_select_layer and
# mm_spatial_pool_stride are never read.
_VIDEO3D = _MULTIMODAL | _names(
    "tie_word_embeddings attention_bias mm_spatial_pool_stride world_position_embedding_type"
    " object_feature_type ground_head_type ground_head_hidden_size ground_loss_scale"
    " ground_token_ids coord_token_ids min_xyz_range max_xyz_range pos_skipping_range"
    " add_time_instruction force_sample vision_tower_pretrained frames_upbound delay_load"
    " faster_token_stride"
)

# Settings that change the arithmetic: the values that this package implements.
_DECODER_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "tie_word_embeddings": (False,),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1.0,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "embedding_multiplier": (1.0,),
    "residual_multiplier": (1.0,),
    "logits_scaling": (1.0,),
    "logit_scale": (1.0,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "attention_chunk_size": (None,),
    "clip_qkv": (None,),
    "use_qk_norm": (False,),
    "qk_layernorm": (False,),
    "alibi": (False,),
}
_LLAVA_ONLY: dict[str, tuple[Any, ...]] = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_vision_select_feature": ("patch",),
    "mm_use_im_start_end": (False,),
    "mm_patch_merge_type": ("flat", "spatial_unpad"),
    "mm_resampler_type": (None,),
    "use_mm_proj": (True,),
    "s2": (False,),
    "mm_spatial_pool_stride": (1,),
    # transformers' names of the same
    "projector_hidden_act": ("gelu",),
    "vision_feature_select_strategy": ("default",),
    "multimodal_projector_bias": (True,),
    "use_image_newline_parameter": (True,),
}
_VIDEO3D_ONLY: dict[str, tuple[Any, ...]] = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_vision_select_feature": ("patch",),
    "mm_use_im_start_end": (False,),
    "mm_patch_merge_type": ("spatial_unpad",),
    "mm_newline_position": ("grid",),
    "mm_spatial_pool_mode": ("bilinear",),
    "mm_resampler_type": (None,),
    "use_mm_proj": (True,),
    "add_faster_video": (False,),
    "use_pos_skipping": (False,),
}


@dataclass(frozen=True, slots=True)
class KeyTable:
    """The keys of one dictionary: run or without effect, and those with one allowed value.
    instead: what to take where that is another.
    """

    known: frozenset[str]
    only: Mapping[str, tuple[Any, ...]]
    instead: str = ""


_NUMBERS = frozenset(NUMBERS)
LLAVA_KEYS = KeyTable(_ANY_MODEL | _DECODER | _LLAVA | _NUMBERS, {**_DECODER_ONLY, **_LLAVA_ONLY})
VIDEO3D_KEYS = KeyTable(
    _ANY_MODEL | _DECODER | _VIDEO3D | _NUMBERS,
    {**{k: v for k, v in _DECODER_ONLY.items() if k not in _VIDEO3D}, **_VIDEO3D_ONLY},
    ": take Video-3D-LLM, or a LLaVA-Video that makes its tokens the same way",
)
DECODER_KEYS = KeyTable(_ANY_MODEL | _DECODER | _NUMBERS, _DECODER_ONLY)
VISION_KEYS = KeyTable(
    _ANY_MODEL | _NUMBERS | {"hidden_act", "image_mean", "image_std", "projection_dim"},
    {"num_channels": (3,)},
)
# Words in the name of a key that no table knows, which say that it changes the arithmetic.
_FACTOR = re.compile(r"multiplier|scal(e|ing|ar)|factor")
_ARITHMETIC = re.compile(
    r"multiplier|scal(e|ing|ar)|factor|soft_?cap|sliding|window|expert|moe|rope|rotary|alibi|qk_"
    r"|norm|bias|clip|clamp|residual|parallel|lora|chunk|sparse|mamba|ssm|conv|tie_|cross_attn"
    r"|cross_attention|resampl|pool"
)


def check_keys(data: Json, table: KeyTable, where: str = "") -> list[str]:
    """Refuses settings that change the arithmetic in another way than ours.

    data: without nulls. where: put before a name, as `text_config.`. Returns a sentence for each
    key that is not known; raises CheckpointError with the key and its value.
    """
    notes = []
    for key, value in data.items():
        # Known ones: of one value, or run or without effect.
        name = where + key
        if key in table.only:
            _check_value(name, value, table.only[key], table.instead)
            continue
        if key in table.known or _TRAINING.search(key) or not _says_something(value):
            continue

        # Unknown ones: refused where the name and a number say arithmetic, else named.
        is_arithmetic = _ARITHMETIC.search(key.lower()) is not None
        is_text = isinstance(value, str)
        if is_arithmetic == is_text:
            notes.append(f"config.json: {name} = {_short(value)} is not known: it is not used.")
        elif is_arithmetic and not _changes_nothing(key.lower(), value):
            why = "it changes what is computed, and this package computes the model"
            raise _refusal(name, value, f"is not supported: {why} without it")
    return notes


def _check_value(name: str, value: Any, allowed: tuple[Any, ...], instead: str) -> None:
    if value in allowed:
        return
    only = ", ".join(repr(choice) for choice in allowed if choice is not None)
    raise _refusal(name, value, f"is not supported{f' (only {only})' if only else ''}{instead}")


def _says_something(value: Any) -> bool:
    """Whether a value switches something on: false and empty ones do not."""
    return value is not False and value not in ("", [], {})


def _changes_nothing(key: str, value: Any) -> bool:
    """Whether a setting whose name says arithmetic is at its neutral value."""
    if isinstance(value, list):
        return all(_changes_nothing(key, entry) for entry in value)
    neutral = 1 if _FACTOR.search(key) else 0
    return not isinstance(value, bool) and isinstance(value, (int, float)) and value == neutral


def _refusal(name: str, value: Any, why: str) -> CheckpointError:
    return CheckpointError(f"config.json: {name} = {_short(value)} {why}.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def without_nulls(data: Json) -> dict[str, Any]:
    """The dictionary with null as absent, in dictionaries within it too."""
    return {
        key: without_nulls(value) if isinstance(value, dict) else value
        for key, value in data.items()
        if value is not None
    }


def number(data: Json, key: str, default: float | None = None, where: str = "") -> float:
    """The number of a known key, in its range; `default` where it is absent.

    Raises CheckpointError with key, value and range, and for an absent key without default.
    """
    if key not in data:
        if default is None:
            raise CheckpointError(f"config.json lacks {where}{key}.")
        return default
    return NUMBERS[key].read(data[key], where + key)


def whole(data: Json, key: str, default: int | None = None, where: str = "") -> int:
    """The same for a whole number."""
    return int(number(data, key, default, where))
