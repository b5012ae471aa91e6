"""Reads a golden case folder (recorded from the LLaVA-3D reference code) and runs it through the
production code.

Sizes, views, clicks and batch come from the folder: config.json (`clip`, `llama`, `mm`, `capture`,
`scene`), inputs.safetensors, expected.safetensors, weights.safetensors, text.json. Comparing is
parity.py's part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ada3d_ros.engine.decode import decode
from ada3d_ros.engine.prefill import pad_batch, prefill
from ada3d_ros.engine.sampling import greedy
from ada3d_ros.errors import SourceError
from ada3d_ros.geometry.camera import unproject_depth
from ada3d_ros.geometry.voxel import voxel_coords, voxel_ids
from ada3d_ros.model.checkpoint import inspect_files, load_weights
from ada3d_ros.model.config import DecoderConfig, LlavaConfig, VisionConfig
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.prompt import CLICK_ID, IMAGE_ID, Tokenizer
from ada3d_ros.model.spatial import cap_spatial_tokens, pool_spatial_tokens, sample_patch_points
from ada3d_ros.scene.views import (
    RecordedViews,
    build_reference_multiview,
    preprocess_color,
)
from ada3d_ros.types import MultiViewInput, PromptSequence

Tensors = dict[str, torch.Tensor]
CASE_FILES = ("config.json", "inputs.safetensors", "expected.safetensors", "weights.safetensors")


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
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read as JSON ({error}).") from None


def find_tokenizer(folder: Path) -> Tokenizer:
    """tokenizer.model of the case, or of tokenizer/ beside it."""
    paths = [
        folder / "tokenizer.model",
        *(parent / "tokenizer/tokenizer.model" for parent in folder.parents[:2]),
    ]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise SourceError(f"no tokenizer.model in {folder} or in tokenizer/ beside it.")
    return Tokenizer(found)


def to_config(data: Mapping[str, Any]) -> LlavaConfig:
    """The golden config format as our config. Raises SourceError for a missing field."""
    try:
        clip, llama, mm = data["clip"], data["llama"], data["mm"]
        vision = VisionConfig.from_json(
            clip | {k: mm[k] for k in ("image_mean", "image_std")}, mm["mm_vision_select_layer"]
        )
        decoder = DecoderConfig(
            llama["vocab_size"],
            llama["hidden_size"],
            llama["intermediate_size"],
            llama["num_hidden_layers"],
            llama["num_attention_heads"],
            llama["num_key_value_heads"],
            llama["rms_norm_eps"],
            llama["rope_theta"],
            llama["max_position_embeddings"],
            llama["bos_token_id"],
            llama["eos_token_id"],
        )
        return LlavaConfig(
            decoder,
            vision,
            bool(mm.get("mm_video_tower")),
            mm["voxel_size"],
            mm["token_cap"],
            mm["tokenizer_model_max_length"],
        )
    except KeyError as error:
        raise SourceError(f"config.json lacks {error}.") from None


def reference_views(
    inputs: Mapping[str, torch.Tensor], dataset: str, depth_scale: float, vision: VisionConfig
) -> MultiViewInput:
    """Views of one recorded scene by the reference's rules; scannet takes the depth camera's
    intrinsics, others colour's.
    """
    rgb, depth = inputs["raw_rgb"].numpy(), inputs["raw_depth"].numpy()
    image, name = (depth, "intrinsic_depth") if dataset == "scannet" else (rgb, "intrinsic_color")
    intrinsics = np.broadcast_to(inputs[name].numpy(), (len(rgb), 4, 4))
    align = inputs["axis_align_matrix"].numpy() if "axis_align_matrix" in inputs else None
    recorded = RecordedViews(
        list(rgb),
        list(depth),
        intrinsics,
        (image.shape[2], image.shape[1]),
        inputs["poses"].numpy(),
        depth_scale,
        align,
    )
    return build_reference_multiview(
        recorded, vision.image_size, vision.image_mean, vision.image_std
    )


def homogeneous(K: torch.Tensor) -> torch.Tensor:
    """(V, 3, 3) to (V, 4, 4), as the recorded intrinsics are stored."""
    out = torch.eye(4).repeat(K.shape[0], 1, 1)
    out[:, :3, :3] = K
    return out


@dataclass(frozen=True, eq=False, slots=True)
class SceneContext:
    """One scene or image of a case: its recorded arrays by name, and its projected rows (N, D)."""

    name: str
    arrays: Tensors
    rows: torch.Tensor
    is_scene: bool


@torch.inference_mode()
def run_scene(model: Llava3D, name: str, views: MultiViewInput) -> SceneContext:
    """A scene through tower, position embedding, pooling, projector and cap."""
    features = model.encode_views(views.pixels)
    xyz = sample_patch_points(views, model.config.vision.patches_per_side)
    embedded = model.position_embedding(xyz)
    coords = voxel_coords(xyz.reshape(-1, 3), model.config.voxel_size_m)
    pooled = pool_spatial_tokens(
        features, xyz, model.position_embedding, model.config.voxel_size_m, keep_invalid=True
    )
    arrays = {
        "pixel_values": views.pixels,
        "depth_m": views.depth_m,
        "poses_aligned": views.T_world_cam,
        "intrinsics_adjusted": homogeneous(views.K),
        "xyz_full": unproject_depth(views.depth_m, views.K, views.T_world_cam),
        "patch_xyz": xyz,
        "vision_features": features,
        "pos_embed": embedded,
        "patch_features": features.flatten(0, 1) + embedded.flatten(0, 2),
        "voxel_coords": coords,
        "voxel_index": voxel_ids(coords)[0],
        "pooled_features": pooled.features,
        "projected_features": model.project(pooled.features),
    }
    tokens = cap_spatial_tokens(pooled, model.config.token_cap, scramble=True)
    return SceneContext(name, arrays, model.project(tokens.features), True)


@torch.inference_mode()
def run_image(model: Llava3D, name: str, rgb: torch.Tensor, aspect: str) -> SceneContext:
    """One 2D image, rgb (1, H, W, 3) or (H, W, 3) uint8, through tower and projector."""
    vision = model.config.vision
    pixels = preprocess_color(
        rgb.reshape(rgb.shape[-3:]).numpy(),
        vision.image_size,
        vision.image_mean,
        vision.image_std,
        aspect,
    )[None]
    features = model.encode_views(pixels)
    rows = model.project(features[0])
    return SceneContext(
        name,
        {"pixel_values": pixels, "vision_features": features, "projected_features": rows[None]},
        rows,
        False,
    )


class GoldenCase:
    """One case folder, loaded. aspects: the variants recorded (`square`, `pad`), or one empty name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data: dict[str, Any] = read_json(folder / "config.json")
        self.config = to_config(self.data)
        self.inputs = read_tensors(folder / "inputs.safetensors")
        self.expected = read_tensors(folder / "expected.safetensors")
        self.text = read_json(folder / "text.json") if (folder / "text.json").is_file() else {}
        self.model = load_weights(
            inspect_files(self.config, [folder / "weights.safetensors"]), compat="reference"
        )

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return find_tokenizer(self.folder)

    @cached_property
    def groups(self) -> dict[str, Tensors]:
        """Inputs of each scene or image, by prefix ('' for a case with one)."""
        groups: dict[str, Tensors] = {}
        for key, tensor in self.inputs.items():
            prefix, _, name = key.rpartition(".")
            if prefix or name.startswith(("raw_", "intrinsic_", "poses", "axis_", "sample_")):
                groups.setdefault(prefix, {})[name] = tensor
        return dict(sorted(groups.items()))

    @property
    def aspects(self) -> tuple[str, ...]:
        return tuple(
            a for a in ("square", "pad") if any(k.startswith(a + ".") for k in self.expected)
        ) or ("",)

    @property
    def row_ids(self) -> list[list[int]]:
        """Input ids of each sample, padding removed."""
        mask = self.inputs.get("attention_mask", torch.ones_like(self.inputs["input_ids"])).bool()
        return [
            ids[keep].tolist() for ids, keep in zip(self.inputs["input_ids"], mask, strict=True)
        ]

    def scene_settings(self, prefix: str) -> dict[str, Any]:
        """dataset, depth_scale, n_total_frames of a scene; the recorder's standard where the case
        does not say.
        """
        settings = (
            self.data.get("scenes", {}).get(prefix)
            or self.data.get(prefix)
            or self.data.get("scene")
            or {}
        )
        return {"dataset": "scannet", "depth_scale": 1000} | settings

    def run_visuals(self, aspect: str) -> list[SceneContext]:
        """Every scene and image of the case; images by `aspect`, or by the case's own where that is
        empty.
        """
        recorded = self.data["mm"].get("image_aspect_ratio")
        aspect = aspect or (recorded if recorded in ("square", "pad") else "square")
        visuals = []
        for prefix, inputs in self.groups.items():
            if "raw_depth" in inputs:
                settings = self.scene_settings(prefix)
                views = reference_views(
                    inputs, settings["dataset"], settings["depth_scale"], self.config.vision
                )
                visuals.append(run_scene(self.model, prefix, views))
            else:
                visuals.append(run_image(self.model, prefix, inputs["raw_rgb"], aspect))
        return visuals


@torch.inference_mode()
def build_rows(
    case: GoldenCase, visuals: list[SceneContext], prefix: str
) -> tuple[list[PromptSequence], list[SceneContext | None]]:
    """The prompt of every sample, and which visual it took.

    A batch does not record which sample took which visual. Of the unused ones whose number of rows
    fits the sample's recorded length, the nearest to the recorded embeddings is taken (they are
    compared afterwards all the same).
    """
    prompts, taken, unused = [], list[SceneContext | None](), list(visuals)
    embeds, mask = (
        case.expected.get(prefix + "inputs_embeds"),
        case.expected.get(prefix + "attention_mask"),
    )
    clicks = case.model.encode_clicks(
        case.inputs["clicks"].tolist() if "clicks" in case.inputs else ()
    )
    for row, ids in enumerate(case.row_ids):
        visual = None
        if IMAGE_ID in ids:
            if not unused:
                raise SourceError(
                    f"{case.folder}: more <image> placeholders than scenes and images."
                )
            recorded = None
            if embeds is not None and row < len(embeds):
                recorded = embeds[row] if mask is None else embeds[row][mask[row].bool()]
            visual = _nearest_visual(unused, ids, recorded)
            unused.remove(visual)
        count = ids.count(CLICK_ID)
        prompts.append(
            case.model.build_prompt(ids, visual.rows if visual else None, clicks[:count])
        )
        clicks = clicks[count:]
        taken.append(visual)
    return prompts, taken


def _nearest_visual(
    candidates: list[SceneContext], ids: list[int], recorded: torch.Tensor | None
) -> SceneContext:
    if recorded is None or len(candidates) == 1:
        return candidates[0]
    start, length = ids.index(IMAGE_ID), len(recorded) - len(ids) + 1
    fitting = [visual for visual in candidates if len(visual.rows) == length] or candidates[:1]
    return min(
        fitting,
        key=lambda v: float(
            (recorded[start : start + len(v.rows)] - v.rows[: len(recorded) - start]).abs().sum()
        ),
    )


@torch.inference_mode()
def run_batch(case: GoldenCase, prompts: list[PromptSequence]) -> Tensors:
    """The samples as one padded batch through the decoder: embeddings, mask, hidden states, logits
    of all rows.
    """
    decoder, side = case.model.decoder, case.data["mm"].get("tokenizer_padding_side", "right")
    embeds, mask = pad_batch(prompts, side)
    positions, last = torch.arange(embeds.shape[1]), decoder.config.num_layers
    key_mask = None if bool(mask.all()) else mask
    middle = int(case.data.get("capture", {}).get("hidden_mid_index", 0))
    hidden_mid = decoder.run_layers(0, middle, embeds, positions, key_mask=key_mask)
    hidden = decoder.run_layers(middle, last, hidden_mid, positions, key_mask=key_mask)
    return {
        "inputs_embeds": embeds,
        "attention_mask": mask.to(torch.int64),
        "hidden_mid": hidden_mid,
        "hidden_last": decoder.norm(hidden),
        "logits": decoder.logits(hidden),
    }


@torch.inference_mode()
def run_greedy(case: GoldenCase, prompt: PromptSequence, num_tokens: int) -> Tensors:
    """One sample through the engine's prefill and decode, greedy, the logits of every step kept."""
    steps: list[torch.Tensor] = []

    def recording(logits: torch.Tensor) -> torch.Tensor:
        steps.append(logits)
        return greedy(logits)

    output = decode(case.model.decoder, prefill(case.model.decoder, prompt), num_tokens, recording)
    logits = torch.stack(steps)
    top = logits.topk(2).values
    return {
        "greedy_ids": torch.tensor(output.token_ids),
        "greedy_margin": top[:, 0] - top[:, 1],
        "greedy_logits": logits,
    }
