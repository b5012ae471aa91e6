"""What the reference does with recordings and its own prompts, and no robot: views of a data set's
frames, the answer's `<ground>` token, the loss, ScanRefer's rule.

The live way is model/video3dllm/geometry.py and ground.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ada3d_ros.errors import InvalidRequestError, PoseError
from ada3d_ros.model.video3dllm.config import Video3DConfig
from ada3d_ros.model.video3dllm.geometry import (
    SquareViews,
    normalised_square,
    square_of,
    square_points,
)
from ada3d_ros.scene.views import RecordedViews


def build_recorded_views(views: RecordedViews, config: Video3DConfig) -> SquareViews:
    """Views as the reference makes them of a data set's frames.

    views: intrinsics are the depth camera's, at the depth image's size; intrinsics_size is not
    looked at. A depth of 0 is the camera's centre. Raises FrameError (BAD_SIZE) for portrait
    images, PoseError for a pose that is not finite.
    """
    poses = np.asarray(views.poses, dtype=np.float64)
    if not np.isfinite(poses).all():
        bad = np.nonzero(~np.isfinite(poses).all(axis=(1, 2)))[0].tolist()
        raise PoseError(
            f"the pose of view {bad[0]} holds numbers that are not finite (views {bad}): leave such"
            " frames out, one of them makes every answer meaningless."
        )
    align = np.eye(4) if views.axis_align is None else np.asarray(views.axis_align, np.float64)
    T = torch.from_numpy(align @ poses).float()
    K = torch.from_numpy(np.array(views.intrinsics, dtype=np.float64)).float()

    side = config.vision.image_size
    pixels, points = [], []
    for view, (rgb, raw) in enumerate(zip(views.rgb, views.depth, strict=True)):
        square = square_of((raw.shape[1], raw.shape[0]), side, portrait=False)
        depth_m = torch.from_numpy(raw.astype(np.float64) / views.depth_scale).float()
        pixels.append(normalised_square(rgb, square, config))
        points.append(square_points(depth_m.nan_to_num(), K[view], T[view], square))
    return SquareViews(torch.stack(pixels), torch.stack(points), T)


def find_ground(ids: Sequence[int], config: Video3DConfig) -> int:
    """Where the one `<ground>` stands in a prompt's ids. Raises InvalidRequestError for none or
    several, and for a model without ground heads.
    """
    if config.ground_id < 0:
        raise InvalidRequestError(
            "the loaded model has no ground heads (ground_head_* in its weights, ground_token_ids"
            " in its config.json): load a Video-3D-LLM checkpoint, or ask for relevance."
        )
    places = [index for index, token in enumerate(ids) if token == config.ground_id]
    if len(places) != 1:
        raise InvalidRequestError(
            f"the prompt has {len(places)} <ground> tokens; exactly one is needed."
        )
    return places[0]


def ground_loss(scores: torch.Tensor, targets: Sequence[int], temperature: float) -> torch.Tensor:
    """InfoNCE of scores (n + 1,): -log of the share of exp(s / temperature) that the targets get.

    targets: indices of the objects meant; none, or -1: "no object".
    """
    meant = [target for target in targets if target >= 0] or [len(scores) - 1]
    logits = scores / temperature
    return logits.logsumexp(0) - logits[meant].logsumexp(0)


def choose_one(scores: torch.Tensor) -> int:
    """The best of the n boxes of scores (n + 1,), whatever "no object" has: ScanRefer's rule."""
    return int(scores[:-1].argmax())
