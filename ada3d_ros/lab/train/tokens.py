"""Spatial tokens to learn from, in three kinds.

A few true points per object (symbolic), true labels at every patch (oracle), images. All end in the
model's own `pool_spatial_tokens`, so order, position embedding and pooling are those of the real
path. The world is turned by multiples of 90 degrees at will: points, boxes and coordinates turn
together, what a patch shows stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import one_hot

from ada3d_ros.geometry.voxel import pool_mean, voxel_coords, voxel_ids
from ada3d_ros.lab.world.rooms import ABSENT, CATEGORIES, COLORS, WALL_HEIGHT_M, Rooms
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.spatial import cap_spatial_tokens, pool_spatial_tokens
from ada3d_ros.types import SpatialTokens

SYMBOLIC_VOXEL_M = 0.05
HALF_HEIGHT_M = WALL_HEIGHT_M / 2


@dataclass(frozen=True, eq=False, slots=True)
class RoomTokens:
    """One room's tokens; owner (N, O): share of the token's patches that lie on each object."""

    tokens: SpatialTokens
    owner: torch.Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Points:
    """Labelled points of one room.

    xyz_m (P, 3), NaN where depth is missing; owners (P, S) int64, the object at S places around the
    point, ABSENT for walls and floor; features (P, C) of the vision tower, or None: the true code
    is used. In Video-3D-LLM's form pictures have one place for four patches.
    """

    xyz_m: torch.Tensor
    owners: torch.Tensor
    features: torch.Tensor | None = None


def turn_rooms(rooms: Rooms, quarters: int) -> Rooms:
    """The rooms turned about z by quarters of a full turn."""
    R = quarter_turn(quarters, rooms.center_m.device)
    T = rooms.T_world_cam.clone()
    T[..., :3, :] = R @ T[..., :3, :]
    return replace(
        rooms,
        room_m=rooms.room_m.flip(-1) if quarters % 2 else rooms.room_m,
        center_m=rooms.center_m @ R.T,
        yaw_rad=rooms.yaw_rad + quarters * torch.pi / 2,
        T_world_cam=T,
    )


def quarter_turn(quarters: int, device: torch.device) -> torch.Tensor:
    """(3, 3) exact rotation about z."""
    c, s = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters % 4]
    return torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float32, device=device)


def symbolic_points(
    rooms: Rooms, per_object: int, background: int, generator: torch.Generator
) -> list[Points]:
    """per_object points in each object's box, and `background` points on floor and walls, in any
    order.
    """
    extents, result = rooms.extents_m(), []
    for b in range(len(rooms.keys)):
        # In the objects: at the middle, or anywhere inside.
        objects = torch.nonzero(rooms.present[b])[:, 0]
        spread = 0.0 if per_object == 1 else 0.45
        shift = (torch.rand(len(objects), per_object, 3, generator=generator) * 2 - 1) * spread
        inside = rooms.center_m[b, objects, None] + shift * extents[b, objects, None]

        # Around them: half of it on the floor, half up to the ceiling.
        half = torch.cat((rooms.room_m[b] / 2, torch.tensor([HALF_HEIGHT_M])))
        around = (torch.rand(background, 3, generator=generator) * 2 - 1) * half
        around[:, 2] += HALF_HEIGHT_M
        around[: background // 2 + 1, 2] = 0.0

        nothing = torch.full((background,), ABSENT)
        owners = torch.cat((objects.repeat_interleave(per_object), nothing))
        xyz = torch.cat((inside.reshape(-1, 3), around))
        order = torch.randperm(len(xyz), generator=generator)
        result.append(Points(xyz[order], owners[order, None]))
    return result


def label_shares(rooms: Rooms, room: int, owners: torch.Tensor) -> torch.Tensor:
    """(P, NUM_LABELS) float32: shares of each category and each colour among owners (P, S).

    The last category is the background's, the last colour none.
    """
    none, index = owners < 0, owners.clamp(min=0)
    parts = [
        one_hot(kinds[room][index].masked_fill(none, last), last + 1)
        for kinds, last in ((rooms.category, len(CATEGORIES)), (rooms.color, len(COLORS)))
    ]
    return torch.cat(parts, dim=-1).float().mean(dim=-2)


def room_tokens(
    model: Llava3D,
    rooms: Rooms,
    points: Sequence[Points],
    code: torch.Tensor,
    voxel_size_m: float,
) -> list[RoomTokens]:
    """Pooled tokens of every room, at most as many as the model takes of a scene; features that are
    None become the true code.
    """
    result, cap = [], model.config.token_cap
    for b, p in enumerate(points):
        # Points with depth, and what they show.
        features = label_shares(rooms, b, p.owners) @ code if p.features is None else p.features
        valid = torch.isfinite(p.xyz_m).all(dim=-1)
        xyz, features, owners = p.xyz_m[valid], features[valid], p.owners[valid]

        # Pooled by the model; owners pooled the same way, the first column is the background's.
        embedding = model.position_embedding
        tokens = pool_spatial_tokens(features[None], xyz[None], embedding, voxel_size_m)
        ids, occupied = voxel_ids(voxel_coords(xyz, voxel_size_m))
        on = one_hot(owners + 1, rooms.category.shape[1] + 1).float().mean(dim=1)[:, 1:]
        owner = pool_mean(on, ids, len(occupied))[0]
        if len(owner) > cap:
            owner = owner[torch.arange(cap, device=owner.device) * len(owner) // cap]
        result.append(RoomTokens(cap_spatial_tokens(tokens, cap), owner))
    return result
