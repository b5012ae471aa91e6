"""Where in the scene a phrase is attended to: grounding for checkpoints without a head, no training
needed.

At every layer the phrase's rows attend to the spatial tokens. Each layer's shares (mean over heads
and rows) are compared with those of a phrase without content, which cancels what position and size
attract; the gains are summed over layers and smoothed over neighbours in 3D. Costs two unpruned
passes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.types import Box3D, GroundingMethod, PromptSequence

NEUTRAL_PHRASE = "the object"
SMOOTHING_M = 0.3  # standard deviation of the kernel over neighbours
MAX_EVIDENCE = 8
GUESS_SIZE_M = 0.6
# of a peak, unless a request says otherwise; what is not there attracts less (docs/log.md)
MIN_SHARE = 0.15


@dataclass(frozen=True, eq=False, slots=True)
class RelevancePeak:
    """xyz_m (3,) world; share 0..1 of all relevance that lies within twice SMOOTHING_M of it; the
    strongest tokens (indices) and their relevance (N,), which sums to 1.
    """

    xyz_m: torch.Tensor
    share: float
    strongest: tuple[int, ...]
    relevance: torch.Tensor


@torch.inference_mode()
def attention_to_scene(
    decoder: LlamaDecoder, prompt: PromptSequence, num_rows: int
) -> torch.Tensor:
    """Shares (layers, N) float32 of the spatial tokens in the attention of the prompt's last
    num_rows rows, each layer summing to 1.
    """
    start, stop = prompt.spatial_span
    hidden, rope = prompt.embeds[None], decoder.rope(prompt.positions)
    total = hidden.shape[1]
    rows = torch.arange(max(stop, total - num_rows), total, device=hidden.device)
    shares = []
    for layer in range(decoder.config.num_layers):
        first = decoder.start_layer(layer, hidden)
        made = decoder.ranking_inputs(layer, first, rope, rows)
        keys = made.k[0].float().repeat_interleave(made.q.shape[1] // made.k.shape[1], dim=0)
        scores = made.q[0].float() @ keys.transpose(-1, -2) * keys.shape[-1] ** -0.5  # (H, R, T)
        visible = torch.arange(total, device=hidden.device)[None] <= rows[:, None]
        weights = (
            scores.masked_fill(~visible, float("-inf"))
            .softmax(-1)[..., start:stop]
            .mean(dim=(0, 1))
        )
        shares.append(weights / weights.sum().clamp(min=1e-12))
        hidden = decoder.run_layers(
            layer, layer + 1, hidden, prompt.positions, first=made.start, rope=rope
        )
    return torch.stack(shares)


def find_peak(
    shares: torch.Tensor, neutral: torch.Tensor, xyz_m: torch.Tensor
) -> RelevancePeak | None:
    """The place where shares (layers, N) exceed those of the neutral phrase most, smoothed; None
    where they exceed nowhere.

    xyz_m (N, 3) float32 of the tokens in the world.
    """
    gain = (shares - neutral).clamp(min=0).sum(0)
    if not bool(gain.sum() > 1e-9):
        return None
    distance = torch.cdist(
        xyz_m - xyz_m.mean(0), xyz_m - xyz_m.mean(0), compute_mode="donot_use_mm_for_euclid_dist"
    )
    kernel = torch.exp(-0.5 * (distance / SMOOTHING_M).square())
    smooth = kernel @ gain
    peak = int(smooth.argmax())
    near = distance[peak] <= 2 * SMOOTHING_M
    relevance = gain / gain.sum()
    weights = relevance * near
    place = (weights[:, None] * xyz_m).sum(0) / weights.sum().clamp(min=1e-12)
    return RelevancePeak(
        place,
        float(weights.sum()),
        tuple(weights.argsort(descending=True)[:MAX_EVIDENCE].tolist()),
        relevance,
    )


def guess_at(peak: RelevancePeak, xyz_m: torch.Tensor, label: str) -> Box3D:
    """A cube of GUESS_SIZE_M at the peak, its score the peak's share, its evidence the strongest
    tokens of xyz_m (N, 3).
    """
    strongest = [i for i in peak.strongest if peak.relevance[i] > 0]
    return Box3D(
        peak.xyz_m.double().cpu().numpy(),
        np.full(3, GUESS_SIZE_M),
        label=label,
        score=min(peak.share, 1.0),
        method=GroundingMethod.RELEVANCE,
        evidence_xyz_m=tuple(
            (float(x), float(y), float(z)) for x, y, z in xyz_m[strongest].tolist()
        ),
        evidence_weights=tuple(float(peak.relevance[i]) for i in strongest),
    )
