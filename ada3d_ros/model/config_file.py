"""From a config.json to a config: LLaVA's, official and in the layout of transformers, and what
architectures have in common.

null is the same as absent. What is left out has transformers' defaults (LlamaConfig,
CLIPVisionConfig). What cannot be run is refused by name and value (config_keys.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ada3d_ros.errors import CheckpointError
from ada3d_ros.model.architectures import LLAVA, architecture_of, is_transformers_layout
from ada3d_ros.model.config import VIDEO_TOWER, BackboneConfig, DecoderConfig, LlavaConfig
from ada3d_ros.model.config_keys import (
    DECODER_KEYS,
    POSITIVE,
    VISION_KEYS,
    Json,
    check_keys,
    number,
    whole,
    without_nulls,
)
from ada3d_ros.model.config_vision import HUB_TOWERS, read_vision
from ada3d_ros.model.llava_next.config import as_next, is_llava_next
from ada3d_ros.model.weight_files import read_json

GENERATION_FILE = "generation_config.json"
GENERATION_KEYS = ("eos_token_id", "repetition_penalty")
LLAMA_SIZES = {  # transformers' defaults, which its layout leaves out
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}


def read_config(
    data: Json, vision_data: Json | None = None, tower_apart: bool = False
) -> BackboneConfig:
    """The config that a config.json describes.

    vision_data: config.json of a CLIP folder, where one is given; tower_apart: the tower's weights
    are from there, too. Raises CheckpointError that names the setting, for an architecture that
    this package does not run and for a number out of its range.
    """
    data = without_nulls(data)
    architecture = architecture_of(data)
    check_settings(data)
    return architecture.read(data, vision_data, tower_apart)


def read_llava(data: Json, vision_data: Json | None, tower_apart: bool) -> LlavaConfig:
    """The same of a LLaVA-3D, LLaVA-1.5 or LLaVA-NeXT on LLaMA, its settings checked."""
    is_transformers = is_transformers_layout(data)
    if is_transformers:
        data = _in_official_keys(data)
    video_tower = data.get("mm_video_tower")
    if video_tower not in (None, VIDEO_TOWER):
        raise CheckpointError(
            f"config.json: mm_video_tower {video_tower!r} is not known (only {VIDEO_TOWER!r})."
        )

    # Ours are the keys that start with mm_voxel, mm_token and ada3d.
    decoder = read_decoder(data)
    vision_data = None if vision_data is None else without_nulls(vision_data)
    is_next = is_llava_next(data)
    config = LlavaConfig(
        decoder=decoder,
        vision=read_vision(data, vision_data, tower_apart),
        has_video_tower=video_tower is not None,
        voxel_size_m=number(data, "mm_voxel_size_m", 0.2),
        token_cap=whole(data, "mm_token_cap", 2560),
        max_length=whole(data, "tokenizer_model_max_length", min(4096, decoder.max_positions)),
        image_aspect_ratio="square" if is_next else data.get("image_aspect_ratio") or "square",
        **own_settings(data, decoder.vocab_size),
    )
    return as_next(config, data, is_transformers) if is_next else config


def own_settings(data: Json, vocab_size: int) -> dict[str, Any]:
    """The fields of a BackboneConfig whose keys are the same for every architecture."""
    point_id, egocentric_point_id = _point_ids(data, vocab_size)
    return {
        "random_weights": bool(data.get("ada3d_random_weights", False)),
        "floor_at_zero": _flag(data, "ada3d_floor_at_zero", True),
        "point_id": point_id,
        "egocentric_point_id": egocentric_point_id,
        "question_kinds": _question_kinds(data),
        "repetition_penalty": number(data, "repetition_penalty", 1.0),
    }


def with_generation(data: Json, folder: Path) -> Json:
    """config.json with what generation_config.json beside it has, which counts before it: the ids
    that end an answer, and the repetition penalty.
    """
    file = folder / GENERATION_FILE
    if not file.is_file():
        return data
    generation = without_nulls(read_json(file))
    return {**data, **{key: generation[key] for key in GENERATION_KEYS if key in generation}}


def _point_ids(data: Json, vocab_size: int) -> tuple[int, int]:
    """Tokens that point (LlavaConfig.point_id), -1 where there are none."""
    ids = data.get("ada3d_point_ids", [-1, -1])
    known = isinstance(ids, list) and len(ids) == 2
    if not known or not all(type(i) is int and -1 <= i < vocab_size for i in ids):
        raise CheckpointError(
            f"config.json: ada3d_point_ids = {ids!r} must be two token ids below vocab_size"
            f" {vocab_size}, -1 where there is none."
        )
    return ids[0], ids[1]


def _question_kinds(data: Json) -> tuple[str, ...]:
    """The kinds of questions that the model was taught, () where it names none."""
    kinds = data.get("ada3d_question_kinds", [])
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise CheckpointError(
            f"config.json: ada3d_question_kinds = {kinds!r} must be a list of names."
        )
    return tuple(kinds)


def check_settings(data: Json) -> list[str]:
    """Refuses settings that change the arithmetic; a sentence for each key that is not known.

    Raises CheckpointError with the key and its value.
    """
    data = without_nulls(data)
    if "quantization_config" in data or "compression_config" in data:
        value = data.get("quantization_config", data.get("compression_config"))
        method = value.get("quant_method") if isinstance(value, Mapping) else None
        raise CheckpointError(
            f"config.json has a quantization_config{f' ({method})' if method else ''}: quantised"
            " weights are not supported; take the checkpoint in float32, float16 or bfloat16"
            " (model.weights int8 or int4 makes it smaller)."
        )
    architecture = architecture_of(data)
    notes = check_keys(data, architecture.keys)
    parts = [("mm_vision_config", VISION_KEYS)]
    if architecture is LLAVA and is_transformers_layout(data):
        parts += [("text_config", DECODER_KEYS), ("vision_config", VISION_KEYS)]
    for name, table in parts:
        part = data.get(name, {})
        if not isinstance(part, Mapping):
            raise CheckpointError(f"config.json: {name} = {part!r} must be an object of settings.")
        notes += check_keys(part, table, f"{name}.")
    return notes


def _in_official_keys(data: Json) -> dict[str, Any]:
    """A config.json in transformers' layout, with the official file's keys."""
    vision = data.get("vision_config")
    renamed = {
        **LLAMA_SIZES,
        **{
            k: v for k, v in data["text_config"].items() if k not in ("model_type", "architectures")
        },
        "mm_vision_config": HUB_TOWERS["clip-vit-large-patch14-336"] if vision is None else vision,
    }
    layer = data.get("vision_feature_layer")
    if layer is not None:
        renamed["mm_vision_select_layer"] = whole(data, "vision_feature_layer")
    return {**data, **renamed}


def read_decoder(data: Json) -> DecoderConfig:
    """The decoder by the official keys. Raises CheckpointError where one is absent or refused."""
    # The sizes that have no default.
    missing = [name for name in LLAMA_SIZES if name not in data]
    if missing:
        raise CheckpointError(
            f"config.json lacks {', '.join(missing)}: is this folder a LLaVA-3D or LLaVA-1.5"
            " checkpoint?"
        )

    # The others are LlamaConfig's.
    heads = whole(data, "num_attention_heads")
    decoder = DecoderConfig(
        vocab_size=whole(data, "vocab_size"),
        hidden_size=whole(data, "hidden_size"),
        intermediate_size=whole(data, "intermediate_size"),
        num_layers=whole(data, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=whole(data, "num_key_value_heads", heads),
        rms_norm_eps=number(data, "rms_norm_eps", 1e-6),
        rope_theta=_rope_theta(data),
        max_positions=whole(data, "max_position_embeddings", 2048),
        bos_id=(_token_ids(data, "bos_token_id") or (1,))[0],
        eos_ids=_token_ids(data, "eos_token_id") or (2,),
    )
    _check_attention(data, decoder)
    return decoder


def _check_attention(data: Json, decoder: DecoderConfig) -> None:
    """Raises CheckpointError for attention that is not LLaMA's, by the sizes of this decoder."""
    # A width of its own, as transformers allows it, would need other projections.
    if data.get("head_dim", decoder.head_dim) != decoder.head_dim:
        raise CheckpointError(
            f"config.json: head_dim {data['head_dim']} differs from hidden_size /"
            f" num_attention_heads = {decoder.head_dim}; other widths of a head are not supported."
        )

    # Scores are divided by the root of that width.
    neutral = {
        "attention_multiplier": decoder.head_dim**-0.5,
        "query_pre_attn_scalar": decoder.head_dim,
    }
    for name, value in neutral.items():
        if name in data and POSITIVE.read(data[name], name) != value:
            raise CheckpointError(
                f"config.json: {name} = {data[name]!r} is not supported (only {value:.9g}, as LLaMA"
                " has it)."
            )

    # Every token sees all before it.
    window = data.get("sliding_window")
    is_off = data.get("use_sliding_window") is False
    if window is not None and not is_off and not _reaches(window, decoder.max_positions):
        raise CheckpointError(
            f"config.json: sliding_window = {window!r} is not supported: below"
            f" max_position_embeddings {decoder.max_positions} it hides tokens from attention."
        )
    if data.get("use_sliding_window", False) is not False and window is None:
        raise CheckpointError(
            f"config.json: use_sliding_window = {data['use_sliding_window']!r} is not supported"
            " without a sliding_window of max_position_embeddings or more."
        )
    kinds = data.get("layer_types", [])
    other = [kind for kind in kinds if kind != "full_attention"] if isinstance(kinds, list) else []
    if (other and (window is None or is_off)) or not isinstance(kinds, list):
        raise CheckpointError(
            f"config.json: layer_types = {str(other[0] if other else kinds)!r} is not supported"
            " (only 'full_attention')."
        )


def _reaches(window: Any, positions: int) -> bool:
    is_number = isinstance(window, (int, float)) and not isinstance(window, bool)
    return is_number and window >= positions


def _rope_theta(data: Json) -> float:
    """From rope_theta or, as transformers 5 writes it, rope_parameters.

    Raises CheckpointError for scaled positions in either spelling, and for two different bases.
    """
    # Every spelling that is there; what a dictionary holds besides the base must change nothing.
    found = {"rope_theta": data.get("rope_theta")}
    for name in ("rope_scaling", "rope_parameters"):
        value = data.get(name)
        if value is None:
            continue
        rope = dict(value) if isinstance(value, Mapping) else {"rope_type": value}
        kind = rope.pop("rope_type", rope.pop("type", "default"))
        found[f"{name}.rope_theta"] = rope.pop("rope_theta", None)
        if kind == "linear" and rope.get("factor") == 1.0:  # stretched by nothing
            kind = "default"
            del rope["factor"]
        if kind != "default" or rope.pop("partial_rotary_factor", 1.0) != 1.0 or rope:
            raise CheckpointError(
                f"config.json: {name} = {value!r} is not supported (only rope_type 'default' with a"
                " rope_theta)."
            )

    # They must agree.
    given = {name: POSITIVE.read(theta, name) for name, theta in found.items() if theta is not None}
    if len(set(given.values())) > 1:
        listed = ", ".join(f"{name} = {theta:g}" for name, theta in given.items())
        raise CheckpointError(f"config.json contradicts itself: {listed}.")
    return next(iter(given.values()), 10000.0)


def _flag(data: Json, name: str, default: bool) -> bool:
    """true or false, null being the default."""
    value = data.get(name)
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"config.json: {name} = {value!r}; allowed: true, false.")
    return default if value is None else value


def _token_ids(data: Json, name: str) -> tuple[int, ...]:
    """Token ids, one or a list, in order and each once; () for null. One alone may begin a prompt.

    Raises CheckpointError for anything else.
    """
    value = data.get(name)
    if value is None:
        return ()
    ids = value if isinstance(value, list) else [value]
    if not ids or (name == "bos_token_id" and len(ids) > 1):
        raise CheckpointError(
            f"config.json: {name} = {value!r} is a list of {len(ids)} ids: write the id that the"
            " tokenizer has."
        )
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise CheckpointError(
            f"config.json: {name} = {value!r} is not a token id (a whole number)."
        )
    return tuple(dict.fromkeys(ids))
