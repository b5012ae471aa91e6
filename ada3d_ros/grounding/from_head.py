"""From final states to boxes: the grounding head points, peaks are taken one after the other, each
gives a box and a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ada3d_ros.engine.prefill import FinalStates
from ada3d_ros.errors import ModelError
from ada3d_ros.model.grounding_head import (
    HEAD_FILE,
    GroundingHead,
    LoadedHead,
    strongest_peak,
)
from ada3d_ros.types import Box3D, GroundingMethod

MIN_PEAK_SHARE = 0.25  # of the pointer's mass: a weaker peak is no second object
MIN_FAINT_SHARE = 0.02  # the same, where other names explain what is no object of this one
FAINT_SCORE = 0.5  # of a peak that holds all that is left of the mass
CLAIMED_MARGIN_M = 0.15  # tokens this near a found box are not pointed at again
MAX_EVIDENCE = 8


@dataclass(frozen=True, slots=True)
class SearchLimits:
    """Boxes of a phrase at most, and the score that they have at least. faint: what little of the
    mass points at may be another object of that name, at a score of FAINT_SCORE at most; for those
    who ask for all other names, too.
    """

    max_boxes: int
    min_score: float
    faint: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class _Pointed:
    """One phrase's query (1, 1, D) over tokens (1, N, D) at xyz_m (N, 3) float32: weights (N,),
    which sum to 1, and the probability that the scene has what it names.
    """

    query: torch.Tensor
    tokens: torch.Tensor
    xyz_m: torch.Tensor
    weights: torch.Tensor
    presence_prob: float


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
    tokens = SceneStates(states.spatial, xyz_m)
    limits = SearchLimits(max_boxes, max(loaded.threshold, min_score))
    return point_at_each(loaded.head, states.query[None], tokens, [label], limits)[0]


@dataclass(frozen=True, eq=False, slots=True)
class SceneStates:
    """Normed final states (N, D) of the spatial tokens that the last layer keeps, and where they
    lie, (N, 3) float32 metres, world frame.
    """

    spatial: torch.Tensor
    xyz_m: torch.Tensor


@torch.inference_mode()
def point_at_each(
    head: GroundingHead,
    queries: torch.Tensor,
    scene: SceneStates,
    labels: Sequence[str],
    limits: SearchLimits,
) -> list[list[Box3D]]:
    """As `point_at`, the boxes of several phrases in one scene: queries (Q, D) in the order of
    labels.
    """
    queries, tokens = queries.float()[None], scene.spatial.float()[None]
    if not tokens.shape[1]:
        return [[] for _ in labels]
    # Weigh the tokens, and decide whether each phrase is there at all.
    logits, presence = head.point(queries, tokens)
    _require_finite(logits, presence)
    weights, presence_prob = logits[0].float().softmax(-1), presence[0].float().sigmoid().tolist()
    found = []
    for i, label in enumerate(labels):
        query = queries[:, i : i + 1]
        pointed = _Pointed(query, tokens, scene.xyz_m, weights[i], presence_prob[i])
        found.append(_boxes_at_peaks(head, pointed, label, limits))
    return found


def _boxes_at_peaks(
    head: GroundingHead, pointed: _Pointed, label: str, limits: SearchLimits
) -> list[Box3D]:
    """One box per peak, strongest first, until a peak is too weak to be an object."""
    weights, xyz_m = pointed.weights, pointed.xyz_m
    boxes: list[Box3D] = []
    free, largest = torch.ones_like(weights, dtype=torch.bool), 0.0
    while len(boxes) < limits.max_boxes and bool(free.any()):
        # The strongest token that is left, and those around it.
        peak = strongest_peak(weights, xyz_m, free)
        mass = float(weights[peak].sum())
        largest = max(largest, mass)
        score, least = pointed.presence_prob * mass / largest, MIN_PEAK_SHARE if boxes else 0.0
        if limits.faint and mass < least:
            score = FAINT_SCORE * pointed.presence_prob * mass / float(weights[free].sum())
            least = MIN_FAINT_SHARE
        if score < limits.min_score or mass < least:
            break
        # Its box.
        share = torch.where(peak, weights, torch.zeros_like(weights)) / mass
        regressed = head.boxes(pointed.query, pointed.tokens, share[None, None], xyz_m[None])
        center, size = (v[0, 0] for v in regressed)
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
