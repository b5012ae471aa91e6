"""The embedded model in Video-3D-LLM's form, before training: sizes, first weights, spatial tokens.

The decoder is the embedded one's, with biases; the tower is SigLIP's form of its own. Its pictures
are larger than the LLaVA-3D form's, so that a room has about as many tokens: 10 x 10 cells a view
and a newline after each row. The ground heads of Video-3D-LLM choose among proposals, of which
there are none here: boxes come from the package's own grounding head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn.functional import one_hot

from ada3d_ros.lab.train.embedded import (
    EMBEDDED_CONFIG,
    initialise,
    initialise_locally,
)
from ada3d_ros.lab.train.tokens import Points, RoomTokens, label_shares
from ada3d_ros.lab.world.questions import KINDS
from ada3d_ros.lab.world.rooms import Rooms
from ada3d_ros.model.config import VisionConfig
from ada3d_ros.model.grounding_head import GroundingHead
from ada3d_ros.model.prompt import POINT_TOKENS, Tokenizer
from ada3d_ros.model.video3dllm.backbone import Video3DLLM
from ada3d_ros.model.video3dllm.config import Video3DConfig
from ada3d_ros.model.video3dllm.tokens import embed_places, pool_patches, rows_with_newlines
from ada3d_ros.types import SpatialTokens

COORD_TOKEN = "<coord>"
LOUDNESS = 3.0  # of the projector's last layer: what a cell shows is as loud as where it lies
VIDEO_CONFIG = Video3DConfig(
    decoder=replace(EMBEDDED_CONFIG.decoder, qkv_bias=True),
    vision=VisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        patch_size=8,
        image_size=160,
        hidden_act="gelu_pytorch_tanh",
        layer_norm_eps=1e-6,
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
    ),
    max_length=4096,
    coord_margin_px=0,
    coord_id=-1,  # the tokenizer's, once there is one
    ground_id=-1,
)


def new_video_model(tokenizer: Tokenizer, seed: int = 0) -> tuple[Video3DLLM, GroundingHead]:
    """The untrained model and its grounding head, float32."""
    decoder = replace(
        VIDEO_CONFIG.decoder,
        vocab_size=tokenizer.vocab_size,
        bos_id=tokenizer.bos_id,
        eos_ids=(tokenizer.eos_id,),
    )
    point_id, egocentric_id = map(tokenizer.control_id, POINT_TOKENS)
    config = dataclasses.replace(
        VIDEO_CONFIG,
        decoder=decoder,
        coord_id=tokenizer.control_id(COORD_TOKEN),
        point_id=point_id,
        egocentric_point_id=egocentric_id,
        question_kinds=tuple(KINDS),
    )
    torch.manual_seed(seed)
    model = Video3DLLM(config)
    for name, parameter in model.named_parameters():
        initialise(name, parameter, decoder.num_layers)
    initialise_locally(model.vision)
    with torch.no_grad():
        model.newline.normal_(0.0, 0.7)  # as any other embedding
        model.get_parameter("projector.2.weight").mul_(LOUDNESS)
    return model, GroundingHead(decoder.hidden_size)


# -- places


def from_first_camera(rooms: Rooms, points: Sequence[Points]) -> tuple[Rooms, list[Points]]:
    """Rooms and points in the model's world, which begins on the floor below the first camera."""
    shift = rooms.T_world_cam[:, 0, :3, 3].clone()
    shift[:, 2] = 0.0
    T = rooms.T_world_cam.clone()
    T[..., :3, 3] -= shift[:, None]
    moved = replace(rooms, center_m=rooms.center_m - shift[:, None], T_world_cam=T)
    return moved, [replace(p, xyz_m=p.xyz_m - shift[b]) for b, p in enumerate(points)]


# -- tokens


def video_room_tokens(
    model: Video3DLLM, rooms: Rooms, points: Sequence[Points], code: torch.Tensor
) -> list[RoomTokens]:
    """Tokens of every room as the model makes them of its views; features that are None become the
    true code. Points without pictures are a list: as many cells a row as in a view.
    """
    result = []
    for b, p in enumerate(points):
        features = label_shares(rooms, b, p.owners) @ code if p.features is None else p.features
        listed = len(p.owners) == len(p.xyz_m)
        count = rooms.category.shape[1]
        parts = _listed(model, p, features) if listed else _views(model, p, features)
        cells, xyz_m, owners = parts
        owner = one_hot(owners + 1, count + 1).float().mean(dim=1)[:, 1:]
        result.append(_with_newlines(model, cells, xyz_m, owner, listed))
    return result


Cells = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # (C, D), (C, 3) metres, (C, S) objects


def _listed(model: Video3DLLM, p: Points, features: torch.Tensor) -> Cells:
    return model.projector(features), p.xyz_m, p.owners


def _views(model: Video3DLLM, p: Points, features: torch.Tensor) -> Cells:
    """Of pictures: four patches make a cell."""
    config = model.config
    side, cells = config.vision.patches_per_side, config.cells_per_side
    assert side == 2 * cells, "four patches a cell"
    patches = model.projector(features).unflatten(0, (-1, side * side))
    pooled = pool_patches(patches, cells).flatten(0, 1)
    owners = p.owners.reshape(len(patches), cells, 2, cells, 2, -1)
    return pooled, p.xyz_m, owners.transpose(2, 3).reshape(len(pooled), -1)


def _with_newlines(
    model: Video3DLLM, cells: torch.Tensor, xyz_m: torch.Tensor, owner: torch.Tensor, listed: bool
) -> RoomTokens:
    """Cells (C, D) that have a place, row by row, with it; owner (C, O)."""
    config, side = model.config, model.config.cells_per_side
    known = torch.isfinite(xyz_m).all(dim=-1)
    placed = cells + embed_places(xyz_m.nan_to_num(), cells.shape[1], config)

    # Rows of full length: of a list, the last one is filled up with cells that are left out.
    views = -(-len(cells) // side**2)
    fill = views * side**2 - len(cells)
    assert listed or not fill, "whole views"
    grid = torch.nn.functional.pad(placed, (0, 0, 0, fill)).unflatten(0, (views, side, side))
    kept = torch.nn.functional.pad(known, (0, fill)).unflatten(0, (views, side, side)).cpu()
    parts = [
        rows_with_newlines(view, model.newline.to(placed.dtype), stays)
        for view, stays in zip(grid, kept, strict=True)
    ]
    features = torch.cat([rows for rows, _ in parts])
    has_place = torch.cat([places for _, places in parts]).to(features.device)

    places = xyz_m.new_full((len(features), 3), torch.nan)
    places[has_place] = xyz_m[known]
    owned = owner.new_zeros(len(features), owner.shape[1])
    owned[has_place] = owner[known]
    tokens = SpatialTokens(features, places, has_place.to(torch.int64), config.voxel_size_m)
    return RoomTokens(tokens, owned)
