"""The vision tower of a checkpoint, from the dictionaries that describe it: config.json of LLaVA,
config.json of a CLIP folder, or the tower's name.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from ada3d_ros.config import VISION_SETTING
from ada3d_ros.errors import CheckpointError
from ada3d_ros.model.config import CLIP_MEAN, CLIP_STD, VisionConfig
from ada3d_ros.model.config_keys import (
    VISION_KEYS,
    Json,
    check_keys,
    number,
    whole,
    without_nulls,
)

CLIP_TYPES = ("clip_vision_model", "clip")
HUB_TOWERS: dict[str, Json] = {  # CLIP sizes are not in LLaVA's config.json, only the tower's name
    name: {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": size,
    }
    for name, size in (("clip-vit-large-patch14-336", 336), ("clip-vit-large-patch14", 224))
}


def local_tower(data: Json, folder: Path) -> Path | None:
    """The folder that mm_vision_tower names, where it is one on this machine; else None.

    A relative one lies in the checkpoint's folder, or, as for LLaVA, in the working directory.
    """
    name = data.get("mm_vision_tower")
    if not isinstance(name, str) or not name:
        return None
    path = Path(name).expanduser()
    places = (path,) if path.is_absolute() else (folder / path, path)
    return next((place for place in places if (place / "config.json").is_file()), None)


def read_vision(data: Json, vision_data: Json | None, tower_apart: bool) -> VisionConfig:
    """The tower that config.json (official keys) and a CLIP folder's config.json describe.

    tower_apart: the weights are from that folder, so its sizes count. Raises CheckpointError where
    the sizes are unknown, or contradict each other.
    """
    # The sizes: written down by us, of the CLIP folder, or of the tower's name.
    select_layer = whole(data, "mm_vision_select_layer", -2)
    name = str(data.get("mm_vision_tower", "clip-vit-large-patch14-336"))
    tower = name.rstrip("/").rsplit("/", 1)[-1]
    own = data.get("mm_vision_config")
    sizes = vision_data if tower_apart else own or vision_data or HUB_TOWERS.get(tower)
    if sizes is None:
        raise CheckpointError(_unknown_tower(name, tower))

    # They must fit the projector, and what config.json says of the tower.
    vision = read_vision_config(sizes, select_layer, own or {})
    width = whole(data, "mm_hidden_size", vision.hidden_size)
    if width != vision.hidden_size:
        raise CheckpointError(
            f"config.json: mm_hidden_size {width} differs from the vision tower's width"
            f" {vision.hidden_size}; {VISION_SETTING} must name the tower the checkpoint was"
            " trained with."
        )
    if tower_apart and own:
        expected = read_vision_config(own, select_layer)
        for field in ("image_size", "patch_size", "num_attention_heads", "num_hidden_layers"):
            ours, theirs = getattr(expected, field), getattr(vision, field)
            if ours != theirs:
                raise CheckpointError(
                    f"the vision tower's config.json has {field} {theirs}, the checkpoint's"
                    f" {ours}: {VISION_SETTING} must name the tower the checkpoint was trained"
                    " with."
                )
    return vision


def other_tower(data: Json, vision: VisionConfig) -> str:
    """A sentence for a tower of another size than mm_vision_tower's name says; else empty."""
    name = str(data.get("mm_vision_tower", "")).rstrip("/").rsplit("/", 1)[-1]
    named = HUB_TOWERS.get(name, {}).get("image_size", vision.image_size)
    if named == vision.image_size:
        return ""
    return (
        f"the vision tower takes images of {vision.image_size} pixels, {name}, which config.json"
        f" names, {named}: with another tower than it was trained with, a model answers otherwise."
    )


def _unknown_tower(name: str, tower: str) -> str:
    if "siglip" in tower.lower():
        return (
            f"config.json: mm_vision_tower {name!r} is not supported: only CLIP towers are"
            f" ({', '.join(HUB_TOWERS)}, or another CLIP in a folder of its own)."
        )
    absent = f" ({name} is not on this machine)" if Path(name).is_absolute() else ""
    return (
        f"config.json: the sizes of mm_vision_tower {tower!r} are not known{absent}; set"
        f" {VISION_SETTING} to the folder of that CLIP checkpoint (known by name:"
        f" {', '.join(HUB_TOWERS)})."
    )


def read_vision_config(
    data: Json, select_layer: int, statistics: Json | None = None
) -> VisionConfig:
    """From a CLIPVisionConfig dictionary (or a CLIPConfig, whose `vision_config` is taken).

    What is left out has CLIPVisionConfig's defaults; the image statistics those of `statistics`,
    else CLIP's. Raises CheckpointError for another kind of tower, or a number out of range.
    """
    # A CLIPConfig may say it twice; then the second counts, as for transformers.
    data = without_nulls(data)
    parts = {name: data[name] for name in ("vision_config", "vision_config_dict") if name in data}
    for name, part in parts.items():
        if not isinstance(part, Mapping):
            raise CheckpointError(f"config.json: {name} = {part!r} must be an object of settings.")
    if parts:
        data = {key: value for part in parts.values() for key, value in part.items()}
    kind = data.get("model_type", CLIP_TYPES[0])
    if kind not in CLIP_TYPES:
        raise CheckpointError(
            f"config.json: model_type {kind!r} of the vision tower is not supported (only CLIP:"
            f" {', '.join(CLIP_TYPES)})."
        )
    check_keys(data, VISION_KEYS, "vision tower: ")

    # CLIPVisionConfig's defaults.
    mean_and_std = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD, **(statistics or {}), **data}
    return VisionConfig(
        hidden_size=whole(data, "hidden_size", 768),
        intermediate_size=whole(data, "intermediate_size", 3072),
        num_hidden_layers=whole(data, "num_hidden_layers", 12),
        num_attention_heads=whole(data, "num_attention_heads", 12),
        patch_size=whole(data, "patch_size", 32),
        image_size=whole(data, "image_size", 224),
        hidden_act=data.get("hidden_act", "quick_gelu"),
        layer_norm_eps=number(data, "layer_norm_eps", 1e-5),
        select_layer=select_layer,
        image_mean=_three(mean_and_std, "image_mean"),
        image_std=_three(mean_and_std, "image_std"),
    )


def read_tower_sizes(data: Json, default: VisionConfig) -> VisionConfig:
    """Ours of a config.json (`mm_vision_config`) for a tower of another kind, whose sizes are those
    of `default` where they are left out.
    """
    data = without_nulls(data)
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    image = {"image_mean": default.image_mean, "image_std": default.image_std, **data}
    return dataclasses.replace(
        default,
        **{
            name: whole(data, name, getattr(default, name))
            for name in (*sizes, "patch_size", "image_size")
        },
        hidden_act=data.get("hidden_act", default.hidden_act),
        layer_norm_eps=number(data, "layer_norm_eps", default.layer_norm_eps),
        image_mean=_three(image, "image_mean"),
        image_std=_three(image, "image_std"),
    )


def _three(data: Json, name: str) -> tuple[float, float, float]:
    """Three numbers, one per colour; those of image_std are above 0."""
    value = data[name]
    is_list = isinstance(value, (list, tuple)) and len(value) == 3
    is_right = is_list and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in value
    )
    if not is_right or (name == "image_std" and min(value) <= 0):
        above = " above 0" if name == "image_std" else ""
        raise CheckpointError(
            f"config.json: {name} = {value!r} of the vision tower must be three numbers{above}."
        )
    return cast(tuple[float, float, float], tuple(float(v) for v in value))
