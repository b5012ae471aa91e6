"""Proposed boxes scored by a model's own ground heads (Video-3D-LLM): nothing is generated.

The prompt ends in the token whose state is compared with each proposal, and with "no object"; which
proposals a phrase means, Multi3DRefer's rule says (model/video3dllm/ground.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from ada3d_ros.engine.answer import Grounded, build_answer
from ada3d_ros.engine.decode import DecodeOutput
from ada3d_ros.engine.prefix_cache import PrefixCache
from ada3d_ros.engine.query_context import (
    QueryContext,
    encode_scene,
    prefill_pruned,
    prompt_of,
    select_context,
)
from ada3d_ros.errors import ModelError, QuestionTooLongError
from ada3d_ros.geometry.boxes import corners
from ada3d_ros.grounding.from_text import NOT_SEEN
from ada3d_ros.types import Answer, Box3D, GroundingMethod, Stage, StopReason

FOUND = "Found {number} of {total} proposals."


@torch.inference_mode()
def ground_among_proposals(query: QueryContext, cache: PrefixCache) -> Answer:
    """The answer to a phrase with those of `question.proposals` that the model means by it, best
    first, each with its share of the scores as score and PROPOSAL as its method; none where "no
    object" has the best score.

    Raises as `Ada3DPipeline.ask`, OutOfReachError where the model can place no proposal.
    """
    question, model = query.question, query.loaded.model
    tokens = encode_scene(query, cache.encoder)
    context = select_context(query, tokens, cache)
    with query.clock.stage("spatial_s"):
        ids = model.grounding_ids(query.loaded.tokenizer, question.phrase)
        prompt = prompt_of(query, context, ids)
    if len(prompt.embeds) < len(ids) - 1 + len(context.embeds):  # truncated, as the reference does
        raise QuestionTooLongError(
            f"the prompt is cut to {len(prompt.embeds)} tokens, and its end chooses the boxes: keep"
            " fewer views (keyframe.max_views)."
        )
    prefilled = prefill_pruned(query, context, prompt)
    assert prefilled.states is not None

    # The proposals as the model has boxes: along the axes of its world.
    query.hooks.on_stage(Stage.POSTPROCESS)
    with query.clock.stage("postprocess_s"):
        boxes_m = along_axes(question.proposals, query.origin_m)
        shares = model.score_proposals(prefilled.states.query, boxes_m, cache.encoder.table)
        if not bool(torch.isfinite(shares).all()):
            raise ModelError("the ground heads' output is not finite: the weights are damaged.")
        meant = _chosen(question.proposals, shares.tolist(), question.phrase)
    # Of several alike each has a small share: boxes.min_score is of other scores.
    most = question.max_boxes or query.config.boxes.max_count
    boxes = tuple(box for box in meant if box.score >= question.min_score)[:most]
    text = FOUND.format(number=len(boxes), total=len(question.proposals))
    text = text if boxes else NOT_SEEN.format(phrase=question.phrase)
    query.hooks.on_text(text, 0)
    generated = DecodeOutput((), StopReason.EOS, text=text)
    return build_answer(query, context, prompt, prefilled, Grounded(boxes, generated))


def along_axes(boxes: Sequence[Box3D], origin_m: Sequence[float]) -> torch.Tensor:
    """(n, 6) float32: centre, in a world whose origin is origin_m, and full size of what encloses
    each box along the axes.
    """
    rows = []
    for box in boxes:
        around = corners(box)
        low, high = around.min(axis=0), around.max(axis=0)
        rows.append(np.concatenate(((low + high) / 2 - np.array(origin_m), high - low)))
    return torch.from_numpy(np.array(rows, dtype=np.float32).reshape(-1, 6))


def _chosen(proposals: Sequence[Box3D], shares: Sequence[float], phrase: str) -> list[Box3D]:
    """shares: of each proposal, 0 where it is not meant."""
    boxes = [
        replace(box, label=phrase, score=share, method=GroundingMethod.PROPOSAL)
        for box, share in zip(proposals, shares, strict=True)
        if share > 0.0
    ]
    return sorted(boxes, key=lambda box: -box.score)
