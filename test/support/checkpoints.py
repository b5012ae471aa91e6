"""Checkpoint folders as they lie on users' disks, made of a small one with random weights."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ada3d_ros.model.config import DecoderConfig, LlavaConfig, VisionConfig
from ada3d_ros.model.llava_next.config import LlavaNextConfig
from ada3d_ros.model.random_checkpoint import TINY_CONFIG

SMALL = dataclasses.replace(
    TINY_CONFIG,
    decoder=DecoderConfig(512, 32, 48, 2, 4, 2),
    vision=VisionConfig(16, 24, 3, 2, image_size=28),
)
TOWER = "model.vision_tower.vision_tower.vision_model."
Tensors = dict[str, torch.Tensor]


SMALL_2D = LlavaConfig(  # with seed 5 its answers are of many words, another for every image
    decoder=DecoderConfig(512, 48, 96, 3, 4, 2),
    vision=VisionConfig(16, 24, 3, 2, image_size=56),
    has_video_tower=False,
    random_weights=True,
)
SMALL_NEXT = LlavaNextConfig(
    decoder=SMALL_2D.decoder,
    vision=SMALL_2D.vision,
    random_weights=True,
    pinpoints=((56, 112), (112, 56), (112, 112), (168, 56), (56, 168)),
)


def tensors_of(folder: Path) -> Tensors:
    return {name: t.clone() for name, t in load_file(folder / "model.safetensors").items()}


def write_tensors(folder: Path, tensors: Tensors, name: str = "model.safetensors") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {key: t.contiguous() for key, t in tensors.items()}
    save_file(content, folder / name, {"format": "pt"})


def config_of(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return data


def edit_config(folder: Path, drop: tuple[str, ...] = (), **changes: Any) -> None:
    """Changes keys (None is written as null) and takes others out."""
    data = {key: value for key, value in config_of(folder).items() if key not in drop} | changes
    (folder / "config.json").write_text(json.dumps(data))


def move_tower(folder: Path, target: Path, prefix: str = "vision_model.") -> Path:
    """The CLIP tower of a checkpoint in a folder of its own, and gone from the checkpoint."""
    tensors = tensors_of(folder)
    tower = {prefix + k.removeprefix(TOWER): t for k, t in tensors.items() if k.startswith(TOWER)}
    write_tensors(target, tower)
    vision = dict(config_of(folder)["mm_vision_config"])
    for statistics in ("image_mean", "image_std"):
        del vision[statistics]
    (target / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": vision}))
    write_tensors(folder, {k: t for k, t in tensors.items() if not k.startswith(TOWER)})
    return target


def make_2d(folder: Path) -> Path:
    """A plain LLaVA-1.5, without LLaVA-3D's position embedding and click encoder."""
    write_tensors(folder, {k: t for k, t in tensors_of(folder).items() if "video_tower" not in k})
    edit_config(folder, drop=("mm_video_tower",), model_type="llava")
    return folder


def new_name(name: str) -> str:
    """transformers' name since 4.52, its CLIP without `vision_model.` (5.23)."""
    if name.startswith(TOWER):
        return "model.vision_tower." + name.removeprefix(TOWER)
    if name == "model.image_newline":
        return name
    for index, linear in ((0, "linear_1"), (2, "linear_2")):
        ours = f"model.mm_projector.{index}."
        if name.startswith(ours):
            return f"model.multi_modal_projector.{linear}." + name.removeprefix(ours)
    return name.replace("model.", "model.language_model.", 1) if name[:6] == "model." else name


def old_name(name: str) -> str:
    """transformers' name before."""
    new = new_name(name)
    if new.startswith("model.vision_tower."):
        return "vision_tower.vision_model." + new.removeprefix("model.vision_tower.")
    if new.startswith(("model.multi_modal_projector.", "model.image_newline")):
        return new.removeprefix("model.")
    return "language_model." + name  # lm_head.*, model.*


def convert(folder: Path, target: Path, rename: Callable[[str], str] = new_name) -> Path:
    """A 2D checkpoint, LLaVA-1.5 or LLaVA-NeXT, in the layout of the transformers library."""
    data = config_of(folder)
    kind: dict[str, Any] = {"model_type": "llava"}
    if "image_grid_pinpoints" in data:
        kind = {
            "model_type": "llava_next",
            "use_image_newline_parameter": True,
            "image_grid_pinpoints": [size[::-1] for size in data["image_grid_pinpoints"]],
        }
    text = {key: data[key] for key in TEXT_KEYS}
    vision = {k: v for k, v in data["mm_vision_config"].items() if not k.startswith("image_m")}
    del vision["image_std"]
    write_tensors(target, {rename(name): t for name, t in tensors_of(folder).items()})
    (target / "config.json").write_text(
        json.dumps(
            {
                **kind,
                "architectures": [ARCHITECTURES[kind["model_type"]]],
                "ignore_index": -100,
                "image_token_index": data["vocab_size"] - 1,
                "image_seq_length": 576,
                "projector_hidden_act": "gelu",
                "multimodal_projector_bias": True,
                "vision_feature_layer": -2,
                "vision_feature_select_strategy": "default",
                "tie_word_embeddings": False,
                "torch_dtype": "float16",
                "transformers_version": "4.52.0",
                "text_config": {"model_type": "llama", **text},
                "vision_config": {
                    "model_type": "clip_vision_model",
                    "projection_dim": 768,
                    "vocab_size": 32000,
                    **vision,
                },
            }
        )
    )
    shutil.copy(folder / "tokenizer.model", target / "tokenizer.model")
    return target


ARCHITECTURES = {
    "llava": "LlavaForConditionalGeneration",
    "llava_next": "LlavaNextForConditionalGeneration",
}
TEXT_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "max_position_embeddings",
)
