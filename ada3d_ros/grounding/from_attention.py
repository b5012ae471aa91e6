"""Where in the scene a phrase is attended to: grounding for checkpoints without a head, no training
needed.

At every layer the phrase's rows attend to the spatial tokens. Each layer's shares (mean over heads
and rows) are compared with those of a phrase without content, which cancels what position and size
attract; the gains are summed over layers and smoothed over neighbours in 3D. Costs two unpruned
passes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch

from ada3d_ros.engine.layer_walk import inspect_layers
from ada3d_ros.engine.query_context import QueryContext, build_prompt, prefill_prompt
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.engine.streaming import generate_text
from ada3d_ros.engine.token_selection import SceneContext
from ada3d_ros.errors import RequestError
from ada3d_ros.grounding.from_text import (
    GROUNDING_PROMPT,
    LOCATED_PROMPT,
    boxes_near,
    find_query_boxes,
)
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.token_rows import rows_of
from ada3d_ros.types import AskHooks, Box3D, GroundingMethod, PromptSequence

logger = logging.getLogger(__name__)

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


def attention_to_scene(
    decoder: LlamaDecoder,
    prompt: PromptSequence,
    num_queries: int,
    prefix: ScenePrefix | None = None,
) -> torch.Tensor:
    """Shares (layers, N) float32 of the spatial tokens in the attention of the prompt's last
    num_queries tokens, each layer summing to 1; newlines, which are no places, have none.

    prefix: the cached scene that the prompt's spatial tokens are; only what follows them passes the
    layers then, and tokens that a layer does not hold have no share in it.
    """
    start, stop = prompt.spatial_span
    begun, cache, total, device = 0, None, stop - start, prompt.embeds.device
    if prefix is not None:
        prefix.crop()
        begun, cache = stop, prefix.cache
    words = prompt.embeds[begun:]
    tokens = PromptSequence(words, prompt.positions[begun:], (0, 0) if cache else (start, stop))
    index = torch.arange(max(stop - begun, len(words) - num_queries), len(words), device=device)

    def inspect(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        keys = k.float().repeat_interleave(q.shape[0] // k.shape[0], dim=0)
        scores = q.float() @ keys.transpose(-1, -2) * keys.shape[-1] ** -0.5  # (H, R, T)
        past = keys.shape[1] - len(words)
        visible = torch.arange(keys.shape[1], device=device)[None] <= past + index[:, None]
        weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
        weights = weights[..., start : past if cache else stop]
        shares = weights.mean(dim=(0, 1))
        return shares / shares.sum().clamp(min=1e-12)

    found, rows = inspect_layers(decoder, tokens, index, inspect, cache=cache), rows_of(prompt)
    if prefix is None or prefix.held is None:
        shares = torch.stack(found)
    else:
        shares = torch.zeros(len(found), total, device=device)
        for layer, (row, held) in enumerate(zip(found, prefix.held, strict=True)):
            shares[layer, held] = row
    if rows.plain:
        return shares
    shares = shares.masked_fill(rows.is_newline, 0.0)
    return shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-12)


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
    # Smooth the gain over the tokens' places, and find where it is largest.
    distance = torch.cdist(
        xyz_m - xyz_m.mean(0), xyz_m - xyz_m.mean(0), compute_mode="donot_use_mm_for_euclid_dist"
    )
    kernel = torch.exp(-0.5 * (distance / SMOOTHING_M).square())
    smooth = kernel @ gain
    peak = int(smooth.argmax())
    # The place is the mean of the tokens about the peak, weighted by their gain.
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


def locate_phrase(
    query: QueryContext, context: SceneContext, prompt: PromptSequence
) -> tuple[Box3D, ...]:
    """Where the question's phrase is attended to: a box that the model writes of that place, or the
    surface that depth shows there.

    prompt: the question's. () where nothing stands out, when stopped, or where a prompt gets too
    long.
    """
    question, limits = query.question, query.config.boxes
    frames, check = context.scene.frames, query.hooks.check
    prefix = context.prefix  # unless only a first part of it is the prompt's
    if prefix is not None and len(prefix.embeds) != len(context.embeds):
        prefix = None
    try:
        # Attention of the phrase, less that of a phrase without content.
        neutral = build_prompt(query, context, GROUNDING_PROMPT.format(phrase=NEUTRAL_PHRASE))
        attended = []
        for phrase, words in ((question.phrase, prompt), (NEUTRAL_PHRASE, neutral)):
            check()
            num_queries = query.loaded.tokenizer.num_end_tokens(f"{phrase}.")
            decoder = query.loaded.model.decoder
            attended.append(attention_to_scene(decoder, words, num_queries, prefix))
        xyz_m, rows = query.in_world(context.chosen.tokens.xyz_m), context.chosen.rows
        if not rows.plain:
            xyz_m = xyz_m[rows.placed]
            attended = [shares[:, rows.placed] for shares in attended]
        peak = find_peak(attended[0], attended[1], xyz_m)
        least = question.min_score or max(limits.min_score, MIN_SHARE)
        if peak is None or peak.share < least:
            return ()

        # What the model writes of that place, else what depth shows there.
        guess = guess_at(peak, xyz_m, question.phrase)
        boxes = _written_of(query, context, peak)
        return boxes_near(guess, boxes, frames, limits.min_support_points, check)
    except RequestError as error:
        logger.info("no box for %r by relevance: %s", question.phrase, error)
        return ()


def _written_of(
    query: QueryContext, context: SceneContext, peak: RelevancePeak
) -> tuple[Box3D, ...]:
    """What the model writes when it is asked about a place; () of one that writes no boxes."""
    if not query.loaded.model.config.text_has_places:
        return ()
    x, y, z = peak.xyz_m.tolist()
    query.hooks.check()
    located = build_prompt(query, context, LOCATED_PROMPT.format(x=x, y=y, z=z))
    prefilled = prefill_prompt(query, context, located)
    written = generate_text(query, context, prefilled, AskHooks(check=query.hooks.check))
    return find_query_boxes(query, context, written.text)
