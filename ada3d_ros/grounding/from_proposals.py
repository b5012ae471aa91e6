"""Boxes that a detector proposes, scored by where the grounding head points for a phrase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ada3d_ros.engine.prefill import FinalStates
from ada3d_ros.errors import ModelError
from ada3d_ros.geometry.boxes import grow_box, points_inside
from ada3d_ros.model.grounding_head import LoadedHead
from ada3d_ros.types import Box3D

MARGIN_M = 0.1  # a token lies in its voxel, which may reach out of the box that fills it


@torch.inference_mode()
def best_proposals(
    loaded: LoadedHead,
    states: FinalStates,
    xyz_m: torch.Tensor,
    proposals: Sequence[Box3D],
    label: str,
    min_score: float,
) -> list[Box3D]:
    """The proposed boxes, best first, labelled anew; each keeps its own method and evidence.

    states: of a prefill; xyz_m (N, 3) float32 of its kept tokens, world frame, as the boxes.
    score = sigmoid(presence) * share of the pointer's mass inside the box grown by MARGIN_M, over
    the largest one's; below the larger of min_score and the head's threshold there is no box. No
    box where the pointer looks at none of them. Raises ModelError where the head's output is not
    finite.
    """
    if not proposals or not len(xyz_m):
        return []
    # Where the phrase is pointed at.
    tokens = states.spatial.float()[None]
    logits, presence = loaded.head.point(states.query.float()[None, None], tokens)
    if not bool(torch.isfinite(logits).all() and torch.isfinite(presence).all()):
        raise ModelError("the grounding head's output is not finite: its file is damaged.")
    weights = logits[0, 0].float().softmax(-1).cpu().numpy()
    presence_prob = float(presence.flatten()[0].float().sigmoid())

    # The mass of each box.
    places = xyz_m.double().cpu().numpy()
    masses = [
        float(weights[points_inside(places, grow_box(box, MARGIN_M))].sum()) for box in proposals
    ]
    largest = max(masses)
    if largest <= 0.0:
        return []
    least = max(loaded.threshold, min_score)
    scored = [
        replace(box, label=label, score=presence_prob * mass / largest)
        for box, mass in zip(proposals, masses, strict=True)
    ]
    kept = [box for box in scored if box.score >= least]
    return sorted(kept, key=lambda box: -box.score)
