"""Which architecture a checkpoint is: the one place that decides it, by its config.json.

A row of ARCHITECTURES has what differs between them when a folder is read: the names that recognise
it, its settings, the reader of its config, the builder of its module, its tokenizer's files. What
differs when it runs is behind the seam (backbone.py). Modules are imported where they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ada3d_ros.config import VISION_SETTING
from ada3d_ros.errors import CheckpointError
from ada3d_ros.model.config import BackboneConfig
from ada3d_ros.model.config_keys import LLAVA_KEYS, VIDEO3D_KEYS, Json, KeyTable
from ada3d_ros.model.config_vision import CLIP_TYPES
from ada3d_ros.model.prompt import AnyTokenizer

Shapes = Mapping[str, tuple[int, ...]]  # official name -> of a stored tensor


@dataclass(frozen=True, eq=False, slots=True)
class Architecture:
    """One kind of checkpoint.

    backbones: what `BackboneConfig.backbone` of its configs may be. title: in a sentence about what
    is supported. model_types and classes: in config.json (`model_type`, `architectures`); marks:
    keys that only it has, for a model_type that several share. keys: the settings in config.json.
    read: config.json, the config of a vision tower apart and whether its weights are from there ->
    a config. complete: config.json with what only the tensors say. notes: sentences about what a
    config.json says or lacks. has_own_tower: the vision tower was trained with it, so that no other
    will do. tokenizer_files: sets, of which the first that is there is read.
    """

    backbones: tuple[str, ...]
    title: str
    model_types: tuple[str, ...]
    classes: tuple[str, ...]
    keys: KeyTable
    read: Callable[[Json, Json | None, bool], BackboneConfig]
    build: Callable[[Any, str], nn.Module]
    tokenizer: Callable[[Path], AnyTokenizer]
    tokenizer_files: tuple[tuple[str, ...], ...]
    marks: tuple[str, ...] = ()
    complete: Callable[[Json, Shapes], Json] = lambda data, shapes: data
    notes: Callable[[Json], list[str]] = lambda data: []
    has_own_tower: bool = False


def _read_llava(data: Json, vision_data: Json | None, tower_apart: bool) -> BackboneConfig:
    from ada3d_ros.model.config_file import read_llava

    return read_llava(data, vision_data, tower_apart)


def _build_llava(config: Any, compat: str) -> nn.Module:
    from ada3d_ros.model.llava3d import Llava3D
    from ada3d_ros.model.llava_next.config import LlavaNextConfig
    from ada3d_ros.model.llava_next.llava_next import LlavaNext

    if isinstance(config, LlavaNextConfig):
        return LlavaNext(config, compat)
    return Llava3D(config, compat)


def _llama_tokenizer(folder: Path) -> AnyTokenizer:
    from ada3d_ros.model.prompt import Tokenizer

    return Tokenizer(folder / Tokenizer.file_name)


def _read_video3d(data: Json, vision_data: Json | None, tower_apart: bool) -> BackboneConfig:
    from ada3d_ros.model.video3dllm.config_file import read_video3d

    return read_video3d(data)


def _complete_video3d(data: Json, shapes: Shapes) -> Json:
    from ada3d_ros.model.video3dllm.config_file import complete_video3d

    return complete_video3d(data, shapes)


def _video3d_notes(data: Json) -> list[str]:
    from ada3d_ros.model.video3dllm.config_file import video3d_notes

    return video3d_notes(data)


def _build_video3d(config: Any, compat: str) -> nn.Module:
    from ada3d_ros.model.video3dllm.backbone import Video3DLLM

    return Video3DLLM(config, compat)


def _qwen_tokenizer(folder: Path) -> AnyTokenizer:
    from ada3d_ros.model.qwen_tokenizer import QwenTokenizer

    return QwenTokenizer(folder)


LLAVA = Architecture(
    backbones=("llava3d", "llava1.5", "llava_next"),
    title="LLaVA-3D, LLaVA-1.5 and LLaVA-NeXT (v1.6) on LLaMA or Vicuna, not on Mistral or Yi"
    " (model_type 'llava_llama', or 'llava' and 'llava_next' as transformers writes them)",
    model_types=("llava_llama", "llava", "llava_next", "llama"),
    classes=(
        "LlavaLlamaForCausalLM",
        "LlavaForConditionalGeneration",
        "LlavaNextForConditionalGeneration",
        "LlamaForCausalLM",
    ),
    keys=LLAVA_KEYS,
    read=_read_llava,
    build=_build_llava,
    tokenizer=_llama_tokenizer,
    tokenizer_files=(("tokenizer.model",),),
)
VIDEO3D = Architecture(
    backbones=("video3dllm",),
    title="Video-3D-LLM on Qwen2 (model_type 'llava_qwen', architecture 'LlavaQwenForCausalLM')",
    model_types=("llava_qwen", "llava"),
    classes=("LlavaQwenForCausalLM",),
    keys=VIDEO3D_KEYS,
    read=_read_video3d,
    build=_build_video3d,
    tokenizer=_qwen_tokenizer,
    tokenizer_files=(("tokenizer.json",), ("vocab.json", "merges.txt")),
    marks=("world_position_embedding_type", "ground_token_ids"),
    complete=_complete_video3d,
    notes=_video3d_notes,
    has_own_tower=True,
)
ARCHITECTURES = (LLAVA, VIDEO3D)


def architecture_of(data: Json) -> Architecture:
    """The architecture of a config.json. A class that it names counts before its model_type, which
    transformers may have written for it; without both it is a LLaVA.

    Raises CheckpointError for a model of another kind, by its name.
    """
    kind = data.get("model_type")
    if kind in CLIP_TYPES:
        raise CheckpointError(
            f"config.json: model_type {kind!r} is a vision tower alone, which {VISION_SETTING}"
            " takes; model.path takes the LLaVA checkpoint."
        )
    names = data.get("architectures") or []
    names = names if isinstance(names, list) else [names]
    fitting = [
        a
        for a in ARCHITECTURES
        if (kind is None or kind in a.model_types) and all(name in a.classes for name in names)
    ]
    marked = [a for a in fitting if any(data.get(mark) is not None for mark in a.marks)]
    if fitting:
        found = (marked or fitting)[0]
        if not (found is LLAVA and _has_other_text(data)):
            return found

    # What no row has, or rows do not have together.
    known = [name for a in ARCHITECTURES for name in a.classes]
    kinds = [name for a in ARCHITECTURES for name in a.model_types]
    wrong = [f"model_type {kind!r}"] if kind is not None and kind not in kinds else []
    wrong += [f"architecture {name!r}" for name in names if name not in known]
    if _has_other_text(data):
        wrong.append(f"text_config.model_type {data['text_config']['model_type']!r}")
    wrong = wrong or [f"model_type {kind!r} with architecture {', '.join(map(repr, names))}"]
    raise CheckpointError(
        f"config.json: {', '.join(wrong)} is not supported: this package runs"
        f" {'; '.join(a.title for a in ARCHITECTURES)}. Take such a checkpoint."
    )


def is_transformers_layout(data: Json) -> bool:
    """Whether the sizes are in text_config. Tools that do not know LLaVA write that beside the flat
    keys, which then are the valid ones.
    """
    return data.get("text_config") is not None and data.get("hidden_size") is None


def _has_other_text(data: Json) -> bool:
    text = data.get("text_config") if is_transformers_layout(data) else None
    return isinstance(text, Mapping) and text.get("model_type", "llama") != "llama"


def architecture_named(backbone: str) -> Architecture:
    """That of a config whose `backbone` this is."""
    return next(a for a in ARCHITECTURES if backbone in a.backbones)
