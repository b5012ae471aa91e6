"""From final states to boxes: the grounding head points, peaks are taken one after the other, each
gives a box and a score.
"""

from __future__ import annotations

import torch

from ada3d_ros.engine.prefill import FinalStates
from ada3d_ros.errors import ModelError
from ada3d_ros.model.grounding_head import HEAD_FILE, LoadedHead
from ada3d_ros.types import Box3D, GroundingMethod

PEAK_RADIUS_M = 0.8  # tokens this near the strongest one belong to its peak
MIN_PEAK_SHARE = 0.25  # of the pointer's mass: a weaker peak is no second object
CLAIMED_MARGIN_M = 0.15  # tokens this near a found box are not pointed at again
MAX_EVIDENCE = 8


@torch.inference_mode()
def point_at(
    loaded: LoadedHead,
    states: FinalStates,
    xyz_m: torch.Tensor,
    label: str,
    max_boxes: int,
    min_score: float,
) -> list[Box3D]:
    """Boxes in the world frame, best first; none where the head says that what was asked for is not
    presence_prob.

    states: of a prefill; xyz_m (N, 3) float32 of its kept tokens. min_score: the larger of it and
    the head's own threshold counts. score = sigmoid(presence) * share of the peak's mass in the
    largest one's. Raises ModelError where the head's output is not finite.
    """
    head, threshold = loaded.head, max(loaded.threshold, min_score)
    query, tokens = states.query.float()[None, None], states.spatial.float()[None]
    if not tokens.shape[1]:
        return []
    # Weigh the tokens, and decide whether the phrase is there at all.
    logits, presence = head.point(query, tokens)
    _require_finite(logits, presence)
    weights, presence_prob = (
        logits[0, 0].float().softmax(-1),
        float(presence[0, 0].float().sigmoid()),
    )
    boxes: list[Box3D] = []
    free, largest = torch.ones_like(weights, dtype=torch.bool), 0.0
    # One box per peak, strongest first, until a peak is too weak to be an object.
    while len(boxes) < max_boxes and bool(free.any()):
        strongest = int((weights * free).argmax())
        peak = free & ((xyz_m - xyz_m[strongest]).norm(dim=-1) <= PEAK_RADIUS_M)
        mass = float(weights[peak].sum())
        largest = max(largest, mass)
        score = presence_prob * mass / largest
        if score < threshold or (boxes and mass < MIN_PEAK_SHARE):
            break
        share = torch.where(peak, weights, torch.zeros_like(weights)) / mass
        center, size = (v[0, 0] for v in head.boxes(query, tokens, share[None, None], xyz_m[None]))
        _require_finite(center, size)
        order = share.argsort(descending=True)[:MAX_EVIDENCE].tolist()
        boxes.append(
            Box3D(
                center.double().cpu().numpy(),
                size.double().cpu().numpy(),
                label=label,
                score=score,
                method=GroundingMethod.HEAD,
                evidence_xyz_m=tuple(tuple(xyz_m[i].tolist()) for i in order if share[i] > 0),
                evidence_weights=tuple(float(share[i]) for i in order if share[i] > 0),
            )
        )
        # What a box covers cannot be the peak of another.
        free &= ~peak & ((xyz_m - center).abs() > size / 2 + CLAIMED_MARGIN_M).any(-1)
    return boxes


def _require_finite(*values: torch.Tensor) -> None:
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise ModelError(
            f"the grounding head's output is not finite: {HEAD_FILE} is damaged; copy it again, or"
            " delete it to ground without a head."
        )
