"""Ground heads: proposals scored by the state of a prompt's `<ground>` token.

A proposal is an axis-aligned box: centre and full size, metres, in the model's world. The last
score is that of "no object". Reference: llava/model/language_model/llava_qwen.py (`infonce`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ada3d_ros.errors import InvalidRequestError, OutOfReachError
from ada3d_ros.geometry.voxel import to_device
from ada3d_ros.model.video3dllm.config import Video3DConfig
from ada3d_ros.model.video3dllm.tokens import GroundedFrame, embed_places, is_in_range

MASS = 0.4  # of the scores' softmax, that the boxes of a phrase for several objects reach


class GroundHeads(nn.Module):
    """Two MLPs, of objects and of the query, whose outputs are compared by their cosine."""

    def __init__(self, config: Video3DConfig) -> None:
        super().__init__()
        self.config = config
        width = config.decoder.hidden_size
        self.object, self.query = _head(width), _head(width)
        self.zero_target = nn.Parameter(torch.zeros(width))  # the features of "no object"

    def object_outputs(self, features: torch.Tensor) -> torch.Tensor:
        """Of object features (n, D), "no object" behind them: (n + 1, D)."""
        rows = torch.cat((features.to(self.zero_target), self.zero_target[None]))
        outputs: torch.Tensor = self.object(rows)
        return outputs

    def scores(self, features: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Cosine (n + 1,) float32 of each object, and of none, with the query.

        features (n, D) of objects; state (D,): of `<ground>`, after the decoder's last norm.
        """
        objects = self.object_outputs(features).float()
        query = self.query(state.to(self.zero_target)).float()
        return F.normalize(objects, dim=-1) @ F.normalize(query, dim=-1)

    def object_features(
        self, boxes_m: torch.Tensor, frames: Sequence[GroundedFrame], strict: bool = True
    ) -> torch.Tensor:
        """What an object looks like and where it is, (n, D) in the patches' dtype.

        The mean of all patches of all frames that belong to it, 0 where none does, and the sine
        embedding of its centre; its size does not count. boxes_m (n, 6) float32 on the CPU. strict:
        a centre that the model cannot place is refused (OutOfReachError), else moved to the border.
        Raises InvalidRequestError for no box at all, or one that is not finite.
        """
        check_boxes(boxes_m, self.config, strict)
        sums = frames[0].patches.new_zeros(
            len(boxes_m), frames[0].patches.shape[1], dtype=torch.float32
        )
        counts = torch.zeros(len(boxes_m))
        for frame in frames:
            members = patches_inside(boxes_m, frame.points_m, self.config).flatten(1).float()
            sums += to_device(members, sums.device) @ frame.patches.float()
            counts += members.sum(dim=1)
        means = sums / to_device(counts.clamp(min=1), sums.device)[:, None]
        places = embed_places(boxes_m[:, :3], means.shape[1], self.config)
        return (means + to_device(places, means.device)).to(frames[0].patches.dtype)


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, width), nn.ReLU(), nn.LayerNorm(width, eps=1e-5), nn.Linear(width, width)
    )


def check_boxes(boxes_m: torch.Tensor, config: Video3DConfig, strict: bool) -> None:
    """Raises InvalidRequestError where proposals (n, 6) cannot be scored, OutOfReachError where one
    cannot be placed; see `object_features`.
    """
    if boxes_m.ndim != 2 or boxes_m.shape[1] != 6 or not len(boxes_m):
        raise InvalidRequestError(
            f"proposals have shape {tuple(boxes_m.shape)}: at least one box of six numbers (centre"
            " x y z, full size x y z, metres) is needed to ground with Video-3D-LLM; switch on a"
            " detector, or ask for a model without proposals."
        )
    if not bool(torch.isfinite(boxes_m).all()):
        raise InvalidRequestError("a proposal holds numbers that are not finite: leave it out.")
    far = torch.nonzero(~is_in_range(boxes_m[:, :3], config))[:, 0].tolist()
    if strict and far:
        x, y, z = boxes_m[far[0], :3].tolist()
        raise OutOfReachError(
            f"the centre ({x:.2f}, {y:.2f}, {z:.2f}) m of proposal {far[0]} lies outside of what"
            f" the model can place ({list(config.min_xyz_m)} to {list(config.max_xyz_m)} m from the"
            " scene's origin): leave it out, or reset the scene nearer to it."
        )


def patches_inside(
    boxes_m: torch.Tensor, points_m: torch.Tensor, config: Video3DConfig
) -> torch.Tensor:
    """Which patches of a view belong to each box (n, 6): (n, p, p) bool.

    At least half of a patch's pixels lie inside, borders included, by points_m (S, S, 3); a pixel
    without a reading, NaN, lies in none. Pixels are looked at only in patches that reach a box.
    """
    patch, side = config.vision.patch_size, config.vision.patches_per_side
    points = points_m[: side * patch, : side * patch]
    pixels = points.unflatten(1, (side, patch)).unflatten(0, (side, patch)).transpose(1, 2)
    pixels = pixels.reshape(side * side, patch * patch, 3)
    known = torch.isfinite(pixels)
    least = torch.where(known, pixels, torch.inf).amin(dim=1)  # (P, 3); no reading: reaches nothing
    most = torch.where(known, pixels, -torch.inf).amax(dim=1)
    low, high = boxes_m[:, :3] - boxes_m[:, 3:] / 2, boxes_m[:, :3] + boxes_m[:, 3:] / 2
    reach = ((most >= low[:, None]) & (least <= high[:, None])).all(dim=-1)  # (n, P)
    of_box, of_patch = torch.nonzero(reach, as_tuple=True)
    near = pixels[of_patch]
    inside = ((near >= low[of_box, None]) & (near <= high[of_box, None])).all(dim=-1)
    members = torch.zeros_like(reach)
    members[of_box, of_patch] = inside.sum(dim=1) >= patch * patch // 2
    return members.unflatten(1, (side, side))


def choose_several(scores: torch.Tensor, temperature: float, mass: float = MASS) -> list[int]:
    """The boxes a phrase means, best first: Multi3DRefer's rule.

    None where "no object" has the best score; else the best ones until their softmax over all
    n + 1 reaches `mass`, one at least.
    """
    if int(scores.argmax()) == len(scores) - 1:
        return []
    shares = torch.softmax(scores / temperature, dim=0)[:-1]
    ordered = shares.sort(descending=True, stable=True)
    reached = ordered.values.cumsum(0) < mass
    return ordered.indices[: int(reached.sum()) + 1].tolist()
