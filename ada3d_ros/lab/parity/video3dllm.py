"""Parity of one Video-3D-LLM case: every recorded array against the production code, a row each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch

from ada3d_ros.engine.decode import GenerationRequest, decode, greedy
from ada3d_ros.engine.prefill import prefill
from ada3d_ros.lab.parity.comparison import Row, compare, exact, not_compared
from ada3d_ros.lab.parity.frame_sampling import spread_frames
from ada3d_ros.lab.parity.golden_case import Tensors
from ada3d_ros.lab.parity.llava3d import NO_RULE
from ada3d_ros.lab.parity.video3dllm_case import Video3DCase, find_qwen_tokenizer
from ada3d_ros.lab.parity.video3dllm_reference import (
    build_recorded_views,
    choose_one,
    find_ground,
    ground_loss,
)
from ada3d_ros.lab.parity.video3dllm_text import check_texts
from ada3d_ros.model.prompt import IMAGE_ID
from ada3d_ros.model.video3dllm.geometry import crop_color, mean_points, square_of
from ada3d_ros.model.video3dllm.ground import choose_several, patches_inside
from ada3d_ros.model.video3dllm.tokens import (
    GroundedFrame,
    embed_places,
    place_voxels,
    pool_patches,
)
from ada3d_ros.types import PromptSequence

TOLERANCES = {  # absolute, of float32 arrays; those of integers, and voxels, are exact
    "pixel_values": 1e-6,
    "poses_aligned": 1e-6,
    "world_coords": 1e-5,
    "coords_pooled": 3e-5,
    "half_coords_pooled": 4e-3,  # the last bit of a float16 below 8 m
    "voxel": 0.0,
    "half_voxel": 0.0,
    "coord_voxel": 0.0,
    "pos_embed": 5e-5,
    "coord_embed": 5e-5,
    "hidden_mid": 2e-4,
    "hidden_last": 2e-4,
    "ground_query_hidden": 2e-4,
    "logits": 5e-4,
    "greedy_logits": 5e-4,
    "greedy_margin": 1e-3,  # a difference of two logits
    "ground_scores": 1e-5,
    "ground_loss": 1e-4,
}
FEATURES = 1e-4
# What is recorded of an array in part: every n-th pixel, or the first frame.
PART = re.compile(r"(?P<name>.+?)(?:_s(?P<step>\d+)|_f(?P<frame>\d+))$")
PIXELS_LAST = ("pixel_values",)  # channel first; others have their channels last


@torch.inference_mode()
def check_video3dllm(folder: Path) -> Iterator[Row]:
    """All rows of one case: its frames and texts, then every recorded array."""
    case = Video3DCase(folder)
    label, scene = folder.name, case.data.get("scene", {})
    if "sample_ids" in case.inputs and {"n_total_frames", "num_frames"} <= scene.keys():
        frames = spread_frames(scene["n_total_frames"], scene["num_frames"])
        yield exact(label, "sample_ids", frames, case.inputs["sample_ids"].tolist())

    if case.text:
        greedy_ids = case.expected.get("greedy_ids")
        recorded = None if greedy_ids is None else greedy_ids.tolist()
        yield from check_texts(label, find_qwen_tokenizer(folder), case.text, recorded)

    ours: Tensors = {}
    parts = _encode(case, ours)
    if "input_ids" in case.inputs:
        _run_prompt(case, parts, ours)
    if "ground_input_ids" in case.inputs:
        _run_ground(case, parts, ours)
        yield from _check_choices(case, ours["ground_scores"])
    for key, golden in sorted(case.expected.items()):
        yield check_array(label, key, golden, ours)


def check_array(label: str, key: str, golden: torch.Tensor, ours: Tensors) -> Row:
    """One recorded array against ours of its name, in whole or in the part that is recorded."""
    name, value = key, ours.get(key)
    part = None if value is not None else PART.fullmatch(key)
    if part is not None and part["name"] in ours:
        name, value = part["name"], ours[part["name"]]
        if part["step"]:
            value = _every(value, int(part["step"]), name in PIXELS_LAST)
        else:
            value = value[int(part["frame"])]
    if value is None:
        return not_compared(label, key, NO_RULE)
    if name == "logits":
        value = value[:, -golden.shape[1] :]
    plain = re.sub(r"_rp\d+$", "", name)
    tolerance = TOLERANCES.get(plain, FEATURES) if golden.is_floating_point() else 0.0
    return compare(label, key, value, golden, tolerance=tolerance)


def _every(value: torch.Tensor, step: int, pixels_last: bool) -> torch.Tensor:
    return value[..., ::step, ::step] if pixels_last else value[..., ::step, ::step, :]


def _encode(case: Video3DCase, ours: Tensors) -> list[GroundedFrame]:
    """The frames of the case as tokens; what may be recorded on the way goes into `ours`."""
    # Raw frames to square views.
    config, model, recorded = case.config, case.model, case.views
    views = build_recorded_views(recorded, config)
    height, width = recorded.depth[0].shape
    square = square_of((width, height), config.vision.image_size, portrait=False)
    crops = [torch.from_numpy(crop_color(rgb, square).copy()) for rgb in recorded.rgb]
    cells_m = mean_points(views.points_m, config.cells_per_side, config.cell_px)

    # Views to tokens.
    features = model.encode_views(views.pixels)
    parts = model.view_parts(features, views)
    patches = torch.stack([part.patches for part in parts])
    ours |= {
        "cropped_rgb": torch.stack(crops),
        "pixel_values": views.pixels,
        "poses_aligned": views.T_model_cam,
        "world_coords": views.points_m,
        "coords_pooled": cells_m,
        "voxel": place_voxels(cells_m, config),
        "pos_embed": embed_places(cells_m, config.decoder.hidden_size, config),
        "vision_features": features,
        "projected_features": patches,
        "pooled_features": pool_patches(patches, config.cells_per_side),
        "visual_tokens": torch.cat([part.features for part in parts]),
    }
    return parts


def _prompt(
    case: Video3DCase, name: str, parts: list[GroundedFrame], ours: Tensors
) -> PromptSequence:
    ids = case.ids(name)
    points = case.clicks(ids)
    if points:
        xyz_m = case.inputs["box_input"][:, :3]
        ours["coord_voxel"] = place_voxels(xyz_m, case.config)
        ours["coord_embed"] = embed_places(xyz_m, case.config.decoder.hidden_size, case.config)
    table = case.model.new_table()
    for view, part in enumerate(parts):
        table.add(view, part)
    tokens = case.model.spatial_tokens(table)
    clicks = case.model.encode_clicks(points)
    if IMAGE_ID not in ids:  # the reference encodes the frames and drops them
        return case.model.build_prompt(ids, None, clicks)
    embeds = case.model.project(tokens.features)
    return case.model.build_prompt(ids, embeds, clicks, tokens.xyz_m)


def _run_prompt(case: Video3DCase, parts: list[GroundedFrame], ours: Tensors) -> None:
    """The prompt through all layers at once, and through the engine, greedy."""
    prompt, decoder = _prompt(case, "input_ids", parts, ours), case.model.decoder
    middle = int(case.data.get("capture", {}).get("hidden_mid_index", 0))
    hidden_mid = decoder.run_layers(0, middle, prompt.embeds[None], prompt.positions)
    hidden = decoder.run_layers(middle, decoder.config.num_layers, hidden_mid, prompt.positions)
    ours |= {
        "inputs_embeds": prompt.embeds[None],
        "hidden_mid": hidden_mid,
        "hidden_last": decoder.norm(hidden),
        "logits": decoder.logits(hidden),
    }

    # Token by token, without and with each recorded penalty.
    for key, golden in case.expected.items():
        match = re.fullmatch(r"greedy_ids(?:_rp(\d+))?", key)
        if match:
            penalty = int(match[1]) / 100 if match[1] else 1.0
            ours |= run_greedy(case, prompt, len(golden), penalty, key.removeprefix("greedy_ids"))


def run_greedy(
    case: Video3DCase, prompt: PromptSequence, num_tokens: int, penalty: float, suffix: str
) -> Tensors:
    """greedy_ids, greedy_margin (steps,), greedy_logits (steps, vocab), `suffix` behind each."""
    steps: list[torch.Tensor] = []

    def recording(logits: torch.Tensor) -> torch.Tensor:
        steps.append(logits)
        return greedy(logits)

    decoder = case.model.decoder
    request = GenerationRequest(num_tokens, recording, repetition_penalty=penalty)
    output = decode(decoder, prefill(decoder, prompt), request)
    logits = torch.stack(steps)
    top = logits.topk(2).values
    return {
        f"greedy_ids{suffix}": torch.tensor(output.token_ids),
        f"greedy_margin{suffix}": top[:, 0] - top[:, 1],
        f"greedy_logits{suffix}": logits,
    }


def _run_ground(case: Video3DCase, parts: list[GroundedFrame], ours: Tensors) -> None:
    """The grounding prompt, answer included, and the proposals against its `<ground>` token."""
    ids, model, boxes = case.ids("ground_input_ids"), case.model, case.inputs["objects"]
    place = find_ground(ids, case.config)
    heads = case.model.ground
    assert heads is not None, "find_ground says so first"
    prompt = _prompt(case, "ground_input_ids", parts, ours)
    place += len(prompt.embeds) - len(ids)
    layers = model.decoder.config.num_layers
    hidden = model.decoder.run_layers(0, layers, prompt.embeds[None], prompt.positions)
    state = model.decoder.norm(hidden)[0, place]
    features = heads.object_features(boxes, parts, strict=False)
    scores = model.ground_scores(state, boxes, parts)
    targets = case.text.get("ground_loss_targets", [])
    losses = [ground_loss(scores, t, case.config.ground_temperature) for t in targets]
    masks = [patches_inside(boxes, part.points_m, case.config) for part in parts]
    ours |= {
        "ground_hidden_index": torch.tensor([place]),
        "object_patch_mask": torch.stack(masks, dim=1),
        "ground_object_features": features,
        "ground_object_head": heads.object_outputs(features),
        "ground_query_hidden": state[None],
        "ground_query_head": heads.query(state)[None],
        "ground_scores": scores,
        "ground_loss": torch.stack(losses) if losses else torch.zeros(0),
    }


def _check_choices(case: Video3DCase, scores: torch.Tensor) -> Iterator[Row]:
    """What the recorded rules choose by our scores."""
    label, temperature = case.folder.name, case.config.ground_temperature
    for key, golden in case.text.items():
        threshold = re.fullmatch(r"multi3drefer_kept_indices_threshold_(\d+)_(\d+)", key)
        if key == "argmax_with_zero_target":
            yield exact(label, key, int(scores.argmax()), golden)
        elif key == "scanrefer_box_index":
            yield exact(label, key, choose_one(scores), golden)
        elif threshold:
            mass = float(f"{threshold[1]}.{threshold[2]}")
            yield exact(label, key, choose_several(scores, temperature, mass), golden)
