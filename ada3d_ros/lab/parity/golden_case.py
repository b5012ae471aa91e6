"""One golden case folder as it lies on disk, recorded from the LLaVA-3D reference code.

Sizes, views, clicks and batch come from the folder: config.json (`clip`, `llama`, `mm`, `capture`,
`scene`), inputs.safetensors, expected.safetensors, weights.safetensors, text.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ada3d_ros.errors import SourceError
from ada3d_ros.model.checkpoint import inspect_files, load_weights
from ada3d_ros.model.config import DecoderConfig, LlavaConfig
from ada3d_ros.model.config_vision import read_vision_config
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.prompt import Tokenizer

Tensors = dict[str, torch.Tensor]
CASE_FILES = ("config.json", "inputs.safetensors", "expected.safetensors", "weights.safetensors")
INPUT_ARRAYS = ("raw_", "intrinsic_", "poses", "axis_", "sample_")  # of one scene or image
ASPECTS = ("square", "pad")  # how an image that is not square becomes one


def read_tensors(path: Path) -> Tensors:
    """A safetensors file. Raises SourceError where it is absent or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise SourceError(f"{path} cannot be read as safetensors ({error}).") from None


def read_json(path: Path) -> Any:
    """A JSON file. Raises SourceError where it is absent or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{path} cannot be read as JSON ({error}).") from None


def find_tokenizer(folder: Path) -> Tokenizer:
    """tokenizer.model of the case, or of tokenizer/ beside it. Raises SourceError without one."""
    beside = (parent / "tokenizer/tokenizer.model" for parent in folder.parents[:2])
    found = next((p for p in (folder / "tokenizer.model", *beside) if p.is_file()), None)
    if found is None:
        raise SourceError(f"no tokenizer.model in {folder} or in tokenizer/ beside it.")
    return Tokenizer(found)


def decoder_config(llama: Mapping[str, Any]) -> DecoderConfig:
    """A LlamaConfig dictionary as our config; eos_token_id null means that no token ends."""
    eos = llama["eos_token_id"]
    return DecoderConfig(
        vocab_size=llama["vocab_size"],
        hidden_size=llama["hidden_size"],
        intermediate_size=llama["intermediate_size"],
        num_layers=llama["num_hidden_layers"],
        num_heads=llama["num_attention_heads"],
        num_kv_heads=llama["num_key_value_heads"],
        rms_norm_eps=llama["rms_norm_eps"],
        rope_theta=llama.get("rope_theta", 10000.0),
        max_positions=llama["max_position_embeddings"],
        bos_id=llama["bos_token_id"],
        eos_ids=() if eos is None else (eos,),
    )


def llava_config(data: Mapping[str, Any]) -> LlavaConfig:
    """The golden config format as our config. Raises SourceError for a missing field."""
    try:
        mm = data["mm"]
        statistics = {name: mm[name] for name in ("image_mean", "image_std")}
        return LlavaConfig(
            decoder_config(data["llama"]),
            read_vision_config(data["clip"] | statistics, mm["mm_vision_select_layer"]),
            bool(mm.get("mm_video_tower")),
            mm["voxel_size"],
            mm["token_cap"],
            mm["tokenizer_model_max_length"],
        )
    except KeyError as error:
        raise SourceError(f"config.json lacks {error}.") from None


class GoldenCase:
    """One case folder, loaded: its configuration, arrays and texts, and the model of its weights.

    Raises SourceError, CheckpointError for a folder that is incomplete or does not fit itself.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data: dict[str, Any] = read_json(folder / "config.json")
        self.config = llava_config(self.data)
        self.inputs = read_tensors(folder / "inputs.safetensors")
        self.expected = read_tensors(folder / "expected.safetensors")
        self.text = read_json(folder / "text.json") if (folder / "text.json").is_file() else {}
        self.checkpoint = inspect_files(self.config, [folder / "weights.safetensors"])
        model = load_weights(self.checkpoint, compat="reference")
        assert isinstance(model, Llava3D), "llava_config is one of its configs"
        self.model = model

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return find_tokenizer(self.folder)

    @cached_property
    def groups(self) -> dict[str, Tensors]:
        """Inputs of each scene or image, by prefix ('' for a case with one)."""
        groups: dict[str, Tensors] = {}
        for key, tensor in self.inputs.items():
            prefix, _, name = key.rpartition(".")
            if prefix or name.startswith(INPUT_ARRAYS):
                groups.setdefault(prefix, {})[name] = tensor
        return dict(sorted(groups.items()))

    @property
    def aspects(self) -> tuple[str, ...]:
        """The variants that are recorded, of ASPECTS; or one empty name."""
        recorded = {key.partition(".")[0] for key in self.expected}
        return tuple(aspect for aspect in ASPECTS if aspect in recorded) or ("",)

    @property
    def prompt_ids(self) -> list[list[int]]:
        """Input ids of each sample, padding removed; placeholders are negative."""
        padded = self.inputs["input_ids"]
        mask = self.inputs.get("attention_mask", torch.ones_like(padded)).bool()
        return [ids[keep].tolist() for ids, keep in zip(padded, mask, strict=True)]

    @property
    def clicks(self) -> list[list[float]]:
        """Clicked points of all samples in turn, metres in the world frame."""
        return self.inputs["clicks"].tolist() if "clicks" in self.inputs else []

    @property
    def prompts(self) -> list[str]:
        """The recorded prompt texts, one a sample; empty where the case has none."""
        return _one_or_more(self.text, "prompt")

    @property
    def questions(self) -> list[str]:
        """The recorded questions, one a sample; empty where the case has none."""
        return _one_or_more(self.text, "question")

    def scene_settings(self, prefix: str) -> dict[str, Any]:
        """dataset, depth_scale, n_total_frames of a scene, else the recorder's standard."""
        recorded = (
            self.data.get("scenes", {}).get(prefix)
            or self.data.get(prefix)
            or self.data.get("scene")
            or {}
        )
        return {"dataset": "scannet", "depth_scale": 1000} | recorded


def _one_or_more(text: Mapping[str, Any], name: str) -> list[str]:
    """`prompts` of a batch, or `prompt` of a case with one sample."""
    return text.get(f"{name}s") or ([text[name]] if name in text else [])
