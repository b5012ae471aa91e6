"""From a config.json to a Video3DConfig, and back.

Only the flat keys count: a config.json with model_type `llava` was written by transformers as a
LLaVA, with text_config and vision_config of another model. The size of the vocabulary and whether
there are ground heads, only the tensors say (complete_video3d).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ada3d_ros.errors import CheckpointError
from ada3d_ros.model.config import DecoderConfig, VisionConfig
from ada3d_ros.model.config_file import own_settings, read_decoder
from ada3d_ros.model.config_keys import Json, number, whole
from ada3d_ros.model.config_vision import read_tower_sizes
from ada3d_ros.model.video3dllm.config import QWEN2_7B, SIGLIP_SO400M, Triple, Video3DConfig

POSITION_KEY = "world_position_embedding_type"
POSITIONS = ("avg", "discrete", "sin3d")  # mean of a cell, in voxels, sines: in any order
HEAD_KEY = "ground_head_obj.0.weight"  # the official name of a tensor of the ground heads
EMBEDDING_KEY, OUTPUT_KEY = "model.embed_tokens.weight", "lm_head.weight"
HEAD_TYPE = "infonce"
OBJECT_FEATURES = "patch14"


def complete_video3d(data: Json, shapes: Mapping[str, tuple[int, ...]]) -> Json:
    """config.json with the vocabulary that the tensors have, and without the token of ground heads
    that are not there.

    Raises CheckpointError for ground heads whose token config.json does not name, and for a model
    that has no output layer of its own.
    """
    completed = dict(data)
    if data.get("tie_word_embeddings") is True and shapes and OUTPUT_KEY not in shapes:
        raise CheckpointError(
            f"config.json: tie_word_embeddings = True, and there is no {OUTPUT_KEY}: a language"
            " model whose output shares its embedding (Qwen2 of 0.5B and 1.5B) is not supported;"
            " take a checkpoint of 7B."
        )
    if len(shapes.get(EMBEDDING_KEY, ())) == 2:
        completed["vocab_size"] = shapes[EMBEDDING_KEY][0]
    has_heads = HEAD_KEY in shapes
    if has_heads and not completed.get("ground_token_ids"):
        raise CheckpointError(
            "config.json lacks ground_token_ids, though there are ground heads"
            f" ({HEAD_KEY}): copy config.json of that checkpoint."
        )
    if not has_heads:
        completed.pop("ground_token_ids", None)
    return completed


def video3d_notes(data: Json) -> list[str]:
    """Sentences about what a (completed) config.json lacks for answers about places."""
    notes = []
    if data.get(POSITION_KEY) is None:
        notes.append(
            f"config.json has no {POSITION_KEY}: this checkpoint (LLaVA-Video, LLaVA-OneVision) was"
            " not trained with 3D positions. They are added all the same; take Video-3D-LLM for"
            " answers about places."
        )
    if not data.get("ground_token_ids"):
        notes.append(
            "the checkpoint has no ground heads (ground_head_*): boxes are found by relevance"
            " alone."
        )
    if data.get("mm_newline_position") is None:
        notes.append("config.json has no mm_newline_position: a newline follows each row ('grid').")
    if data.get("rope_scaling") is not None:
        notes.append(
            f"config.json: rope_scaling = {data['rope_scaling']!r} is not used: the reference code"
            " does without."
        )
    return notes


def read_video3d(data: Json) -> Video3DConfig:
    """The config that a config.json (without nulls) describes.

    Raises CheckpointError with the key, its value and what is supported.
    """
    _check_positions(data)
    decoder = _read_qwen(data)
    vision = _read_tower(data)
    ids = {name: _one_id(data, f"{name}_token_ids", decoder.vocab_size) for name in KINDS}
    return Video3DConfig(
        decoder=decoder,
        vision=vision,
        voxel_size_m=number(data, "voxel_size", 0.1),
        max_length=min(whole(data, "tokenizer_model_max_length", 32768), decoder.max_positions),
        min_xyz_m=_three(data, "min_xyz_range", (-15.0, -15.0, -5.0)),
        max_xyz_m=_three(data, "max_xyz_range", (15.0, 15.0, 5.0)),
        coord_margin_px=vision.image_size % vision.patch_size,
        coord_id=ids["coord"],
        ground_id=ids["ground"],
        ground_temperature=number(data, "ground_head_temperature", 0.07),
        **own_settings(data, decoder.vocab_size),
    )


KINDS = ("ground", "coord")


def _check_positions(data: Json) -> None:
    """Raises CheckpointError for another way to give places, or to compare objects."""
    kind = data.get(POSITION_KEY)
    if kind is not None and (
        not isinstance(kind, str) or sorted(kind.split("-")) != sorted(POSITIONS)
    ):
        raise CheckpointError(
            f"config.json: {POSITION_KEY} = {kind!r} is not supported (only"
            f" {'-'.join(POSITIONS)!r})."
        )
    feature = data.get("object_feature_type", OBJECT_FEATURES)
    if not isinstance(feature, str) or feature.split("-")[0] != OBJECT_FEATURES:
        raise CheckpointError(
            f"config.json: object_feature_type = {feature!r} is not supported (only"
            f" {OBJECT_FEATURES!r}, {OBJECT_FEATURES + '-pe'!r})."
        )
    head = data.get("ground_head_type", HEAD_TYPE)
    if head != HEAD_TYPE and data.get("ground_token_ids"):
        raise CheckpointError(
            f"config.json: ground_head_type = {head!r} is not supported (only {HEAD_TYPE!r})."
        )


def _read_qwen(data: Json) -> DecoderConfig:
    # Qwen2's defaults where they are not LLaMA's; the reference never scales positions.
    data = {
        "max_position_embeddings": QWEN2_7B.max_positions,
        "bos_token_id": QWEN2_7B.bos_id,
        "eos_token_id": list(QWEN2_7B.eos_ids),
        **{key: value for key, value in data.items() if key != "rope_scaling"},
    }
    return dataclasses.replace(read_decoder(data), qkv_bias=True)


def _read_tower(data: Json) -> VisionConfig:
    """SigLIP so400m, whose sizes no config.json has, or the sizes in ours (mm_vision_config)."""
    name = data.get("mm_vision_tower", "siglip")
    if not isinstance(name, str) or "siglip" not in name.lower():
        raise CheckpointError(
            f"config.json: mm_vision_tower = {name!r} is not supported with Qwen2 (only SigLIP"
            " so400m, as google/siglip-so400m-patch14-384)."
        )
    own = data.get("mm_vision_config")
    vision = SIGLIP_SO400M if own is None else read_tower_sizes(own, SIGLIP_SO400M)
    width = whole(data, "mm_hidden_size", vision.hidden_size)
    if width != vision.hidden_size:
        raise CheckpointError(
            f"config.json: mm_hidden_size {width} differs from the vision tower's width"
            f" {vision.hidden_size} (SigLIP so400m has {SIGLIP_SO400M.hidden_size})."
        )
    return vision


def _one_id(data: Json, name: str, vocab_size: int) -> int:
    """The one id in a list; -1 where it is absent or empty."""
    ids = data.get(name) or [-1]
    is_right = isinstance(ids, list) and len(ids) == 1 and type(ids[0]) is int
    if not is_right or not -1 <= ids[0] < vocab_size:
        raise CheckpointError(
            f"config.json: {name} = {ids!r} must be a list of one token id below the vocabulary's"
            f" size {vocab_size}."
        )
    return int(ids[0])


def _three(data: Json, name: str, default: Triple) -> Triple:
    value: Any = data.get(name, default)
    is_list = isinstance(value, (list, tuple)) and len(value) == 3
    if not is_list or not all(type(v) in (int, float) and abs(v) < 1e6 for v in value):
        raise CheckpointError(f"config.json: {name} = {value!r} must be three numbers, metres.")
    x, y, z = map(float, value)
    return x, y, z
