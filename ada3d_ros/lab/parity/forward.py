"""A golden case through the production code: from raw images to hidden states and greedy ids.

Comparing with what was recorded is llava3d.py's part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from ada3d_ros.engine.decode import GenerationRequest, decode, greedy
from ada3d_ros.engine.prefill import prefill
from ada3d_ros.errors import ConfigError, SourceError
from ada3d_ros.geometry.unproject import unproject_depth
from ada3d_ros.geometry.voxel import voxel_coords, voxel_ids
from ada3d_ros.lab.parity.golden_case import ASPECTS, GoldenCase, Tensors
from ada3d_ros.model.config import VisionConfig
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.prompt import CLICK_ID, IMAGE_ID
from ada3d_ros.model.spatial import cap_spatial_tokens, pool_spatial_tokens, sample_patch_points
from ada3d_ros.scene.views import RecordedViews, build_reference_multiview, preprocess_color
from ada3d_ros.types import MultiViewInput, PromptSequence


@dataclass(frozen=True, eq=False, slots=True)
class EncodedInput:
    """One scene or image of a case, encoded.

    name: its prefix in the case; arrays: what may be recorded of it, by name; embeds (N, D): its
    tokens in the language model's input space.
    """

    name: str
    arrays: Tensors
    embeds: torch.Tensor
    is_scene: bool


def reference_views(
    inputs: Mapping[str, torch.Tensor], dataset: str, depth_scale: float, vision: VisionConfig
) -> MultiViewInput:
    """Views of one recorded scene by the reference's rules.

    ScanNet takes the depth camera's intrinsics and image size, other data sets the colour camera's.
    """
    rgb, depth = inputs["raw_rgb"].numpy(), inputs["raw_depth"].numpy()
    image, name = (depth, "intrinsic_depth") if dataset == "scannet" else (rgb, "intrinsic_color")
    align = inputs["axis_align_matrix"].numpy() if "axis_align_matrix" in inputs else None
    recorded = RecordedViews(
        list(rgb),
        list(depth),
        np.broadcast_to(inputs[name].numpy(), (len(rgb), 4, 4)),
        (image.shape[2], image.shape[1]),
        inputs["poses"].numpy(),
        depth_scale,
        align,
    )
    mean, std = vision.image_mean, vision.image_std
    return build_reference_multiview(recorded, vision.image_size, mean, std)


def homogeneous(K: torch.Tensor) -> torch.Tensor:
    """(V, 3, 3) to (V, 4, 4), as the recorded intrinsics are stored."""
    out = torch.eye(4).repeat(K.shape[0], 1, 1)
    out[:, :3, :3] = K
    return out


@torch.inference_mode()
def encode_scene(model: Llava3D, name: str, views: MultiViewInput) -> EncodedInput:
    """A scene through tower, position embedding, pooling, projector and cap."""
    # Patch features and where each patch lies in the world.
    features = model.encode_views(views.pixels)
    xyz = sample_patch_points(views, model.config.vision.patches_per_side)
    embedded = model.position_embedding(xyz)

    # Voxel pooling; patches without depth stay, as in the reference.
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

    # The cap comes after pooling, the projector after the cap.
    tokens = cap_spatial_tokens(pooled, model.config.token_cap, scramble=True)
    return EncodedInput(name, arrays, model.project(tokens.features), is_scene=True)


@torch.inference_mode()
def encode_image(model: Llava3D, name: str, rgb: torch.Tensor, aspect: str) -> EncodedInput:
    """One 2D image, rgb (1, H, W, 3) or (H, W, 3) uint8, through tower and projector."""
    # Resized and cropped, or padded to a square first.
    vision = model.config.vision
    pixels = preprocess_color(
        rgb.reshape(rgb.shape[-3:]).numpy(),
        vision.image_size,
        vision.image_mean,
        vision.image_std,
        aspect,
    )[None]

    # No position embedding, no pooling: every patch is a token.
    features = model.encode_views(pixels)
    embeds = model.project(features[0])
    arrays = {
        "pixel_values": pixels,
        "vision_features": features,
        "projected_features": embeds[None],
    }
    return EncodedInput(name, arrays, embeds, is_scene=False)


def encode_inputs(case: GoldenCase, aspect: str = "") -> list[EncodedInput]:
    """Every scene and image of the case; an empty aspect takes the case's own for images."""
    recorded = case.data["mm"].get("image_aspect_ratio")
    aspect = aspect or (recorded if recorded in ASPECTS else "square")
    encoded = []
    for prefix, inputs in case.groups.items():
        if "raw_depth" in inputs:
            settings = case.scene_settings(prefix)
            views = reference_views(
                inputs, settings["dataset"], settings["depth_scale"], case.config.vision
            )
            encoded.append(encode_scene(case.model, prefix, views))
        else:
            encoded.append(encode_image(case.model, prefix, inputs["raw_rgb"], aspect))
    return encoded


@torch.inference_mode()
def build_prompts(
    case: GoldenCase, encoded: list[EncodedInput], prefix: str = ""
) -> tuple[list[PromptSequence], list[EncodedInput | None]]:
    """The prompt of every sample, and which scene or image it took.

    A batch does not record which sample took which. Of the unused ones whose token count fits the
    sample's recorded length, the nearest to the recorded embeddings is taken (they are compared
    afterwards all the same). Raises SourceError for more placeholders than scenes and images.
    """
    prompts, taken, unused = [], list[EncodedInput | None](), list(encoded)
    embeds = case.expected.get(prefix + "inputs_embeds")
    mask = case.expected.get(prefix + "attention_mask")
    clicks = case.model.encode_clicks(case.clicks)
    for sample, ids in enumerate(case.prompt_ids):
        # Which scene or image stands in this sample's place.
        chosen = None
        if IMAGE_ID in ids:
            if not unused:
                raise SourceError(
                    f"{case.folder}: more <image> placeholders than scenes and images."
                )
            recorded = None
            if embeds is not None and sample < len(embeds):
                recorded = embeds[sample] if mask is None else embeds[sample][mask[sample].bool()]
            chosen = _nearest_input(unused, ids, recorded)
            unused.remove(chosen)

        # Clicks are used up in the order of the samples.
        count = ids.count(CLICK_ID)
        tokens = chosen.embeds if chosen else None
        prompts.append(case.model.build_prompt(ids, tokens, clicks[:count]))
        clicks = clicks[count:]
        taken.append(chosen)
    return prompts, taken


def _nearest_input(
    candidates: list[EncodedInput], ids: list[int], recorded: torch.Tensor | None
) -> EncodedInput:
    """The candidate whose embeddings lie nearest to `recorded` (T, D) of this sample."""
    if recorded is None or len(candidates) == 1:
        return candidates[0]
    start, length = ids.index(IMAGE_ID), len(recorded) - len(ids) + 1
    fitting = [item for item in candidates if len(item.embeds) == length] or candidates[:1]

    def distance(item: EncodedInput) -> float:
        stop = start + len(item.embeds)
        return float((recorded[start:stop] - item.embeds[: len(recorded) - start]).abs().sum())

    return min(fitting, key=distance)


@torch.inference_mode()
def run_batch(case: GoldenCase, prompts: list[PromptSequence]) -> Tensors:
    """The samples as one padded batch through the decoder.

    inputs_embeds, hidden_mid, hidden_last (B, T, D), attention_mask (B, T), logits (B, T, vocab).
    """
    decoder, side = case.model.decoder, case.data["mm"].get("tokenizer_padding_side", "right")
    embeds, mask = pad_batch(prompts, side)
    positions, last = torch.arange(embeds.shape[1]), decoder.config.num_layers
    key_mask = None if bool(mask.all()) else mask

    # In two parts, for the hidden states between them are recorded too.
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
    """One sample through the engine's prefill and decode, greedy.

    greedy_ids, greedy_margin (steps,), greedy_logits (steps, vocab).
    """
    steps: list[torch.Tensor] = []

    def recording(logits: torch.Tensor) -> torch.Tensor:
        steps.append(logits)
        return greedy(logits)

    output = decode(
        case.model.decoder,
        prefill(case.model.decoder, prompt),
        GenerationRequest(num_tokens, recording),
    )
    # The margin tells how near a differing token was.
    logits = torch.stack(steps)
    top = logits.topk(2).values
    return {
        "greedy_ids": torch.tensor(output.token_ids),
        "greedy_margin": top[:, 0] - top[:, 1],
        "greedy_logits": logits,
    }


def pad_batch(
    prompts: Sequence[PromptSequence], side: str = "right"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of several lengths as one batch: embeds (B, T, D), zero-padded, and key_mask (B, T)
    bool for `run_layers`.
    """
    rows = [prompt.embeds for prompt in prompts]
    embeds = pad_sequence(rows, batch_first=True, padding_side=side)
    ones = [torch.ones(row.shape[0], dtype=torch.bool, device=row.device) for row in rows]
    return embeds, pad_sequence(ones, batch_first=True, padding_side=side)


def sample_reference_frames(n_total: int, num_frames: int) -> list[int]:
    """The F frames that the reference takes of a recording of n.

    Every (n // F)-th, or all, repeated cyclically up to F. Raises ConfigError for none.
    """
    if n_total <= 0 or num_frames <= 0:
        raise ConfigError(
            f"n_total = {n_total} and num_frames = {num_frames} must both be above 0."
        )
    step = max(n_total // num_frames, 1)
    return [index * step % n_total for index in range(num_frames)]
