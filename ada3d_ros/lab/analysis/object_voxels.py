"""Which voxels of a scene hold something of which object, and which of them a layer holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from ada3d_ros.engine.query_context import (
    encode_scene,
    prefill_pruned,
    select_context,
    timed_prompt,
)
from ada3d_ros.errors import ConfigError
from ada3d_ros.geometry.boxes import points_inside
from ada3d_ros.geometry.voxel import voxel_coords, voxel_ids
from ada3d_ros.model.spatial import sample_patch_points
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.scene.floor import stand_on_floor
from ada3d_ros.scene.views import build_multiview
from ada3d_ros.types import AskHooks, Box3D, Question, RgbdFrame


@dataclass(frozen=True, eq=False, slots=True)
class ObjectVoxels:
    """Which of a scene's N spatial tokens hold something of which of the K objects.

    patches (K, N) int64: patches of the views whose point lies in the object's box, by the token
    that they went into.
    """

    patches: npt.NDArray[np.int64]

    @property
    def of_any(self) -> npt.NDArray[np.bool_]:
        """(N,): holds something of an object."""
        held: npt.NDArray[np.bool_] = self.patches.sum(axis=0) > 0
        return held

    def shares(self, kept: npt.NDArray[np.bool_]) -> dict[str, float]:
        """What is held of the objects' voxels, of their patches, and of the other voxels.

        kept (N,): the tokens that a layer holds. NaN of nothing.
        """
        inside, patches = self.of_any, self.patches.sum(axis=0)
        return {
            "objects": _share(kept[inside]),
            "patches": float(patches[kept].sum() / patches.sum()) if patches.any() else np.nan,
            "background": _share(kept[~inside]),
            "all": _share(kept),
        }

    def of_each(self, kept: npt.NDArray[np.bool_]) -> list[float]:
        """Of each object's voxels, the share that is held."""
        return [_share(kept[patches > 0]) for patches in self.patches]


def _share(kept: npt.NDArray[np.bool_]) -> float:
    return float(kept.mean()) if len(kept) else np.nan


@dataclass(frozen=True, eq=False, slots=True)
class RealScene:
    """Frames of a recording and the boxes of its objects, world frame."""

    name: str
    frames: tuple[RgbdFrame, ...]
    objects: tuple[Box3D, ...]


# -- which voxels are whose


def object_voxels(
    pipeline: Ada3DPipeline, objects: Sequence[Box3D], tokens_xyz_m: torch.Tensor
) -> ObjectVoxels:
    """For the scene that the pipeline holds. tokens_xyz_m (N, 3): of its spatial tokens.

    Raises ConfigError where the tokens are not those of the views.
    """
    # The patches' points as the model pools them, in its world.
    loaded, scene, config = pipeline.model, pipeline.scene, pipeline.config
    vision, origin_m = loaded.model.config.vision, loaded.model.origin_of(scene)
    frames = stand_on_floor(scene.frames, origin_m[2], origin_m[:2])
    views = build_multiview(
        frames, vision.image_size, config.model.compat, vision.image_mean, vision.image_std
    )
    xyz = sample_patch_points(views, vision.patches_per_side).reshape(-1, 3)
    xyz = xyz[torch.isfinite(xyz).all(dim=-1)].cpu()
    ids, occupied = voxel_ids(voxel_coords(xyz, loaded.model.config.voxel_size_m))

    # Token by token in voxel order.
    if len(occupied) != len(tokens_xyz_m):
        raise ConfigError(
            f"the scene has {len(tokens_xyz_m)} spatial tokens, its views fill {len(occupied)}"
            " voxels: keep fewer views, so that the model's cap takes none."
        )
    points, token = xyz.double().numpy(), ids.cpu().numpy()
    counts = np.zeros((len(objects), len(occupied)), dtype=np.int64)
    for row, box in zip(counts, objects, strict=True):
        lowered = replace(box, center_m=box.center_m - origin_m)
        row += np.bincount(token[points_inside(points, lowered)], minlength=len(occupied))
    return ObjectVoxels(counts)


def held_by_layer(
    pipeline: Ada3DPipeline, question: str
) -> tuple[list[npt.NDArray[np.bool_]], torch.Tensor, str]:
    """Per layer which of the scene's spatial tokens (N,) a question attends to; their places (N, 3)
    in the model's world; and the mode that it was answered in.

    Raises ConfigError for a keep ratio out of reach.
    """
    # As `ask` does, up to the prefill.
    query, cache = pipeline.open_query(Question(question, want_boxes=False), AskHooks())
    tokens = encode_scene(query, cache.encoder)
    context = select_context(query, tokens, cache)
    prefilled = prefill_pruned(query, context, timed_prompt(query, context))

    # What is kept is counted among the tokens that entered.
    masks = []
    for kept in prefilled.kept:
        mask = np.zeros(len(tokens.xyz_m), dtype=bool)
        mask[context.chosen.kept[kept].cpu().numpy()] = True
        masks.append(mask)
    return masks, tokens.xyz_m, context.mode
