"""The answer: text, boxes, times, and the counts and costs of what the layers really held."""

from __future__ import annotations

import itertools

import numpy as np

from ada3d_ros.engine.decode import DecodeOutput
from ada3d_ros.engine.prefill import PrefillOutput
from ada3d_ros.engine.query_context import QueryContext
from ada3d_ros.engine.token_selection import SceneContext
from ada3d_ros.pruning.cost import decode_macs, kv_bytes, prefill_macs, question_macs
from ada3d_ros.pruning.ranking import cell_coverage
from ada3d_ros.types import NAN, Answer, Box3D, PromptSequence, TokenUsage


def build_answer(
    query: QueryContext,
    context: SceneContext,
    prompt: PromptSequence,
    prefilled: PrefillOutput,
    generated: DecodeOutput,
    boxes: tuple[Box3D, ...],
) -> Answer:
    """All that is known of an answered question."""
    question, scene, clock = query.question, context.scene, query.clock
    with clock.stage("postprocess_s"):
        tokens = token_usage(query, context, prompt, prefilled, len(generated.token_ids))
        xyz_m = query.in_world(context.chosen.tokens.xyz_m[prefilled.kept[-1]])
        kept_xyz_m = xyz_m.cpu().numpy() if query.in_scene else None
    used = scene.frames if query.in_scene else scene.frames[-1:]
    timings = clock.timings()
    return Answer(
        question=question.text,
        text=generated.text,
        boxes=boxes,
        stamp_ns=scene.state.newest_ns,
        frame_id=used[-1].frame_id,
        keyframe_stamps_ns=tuple([frame.stamp_ns for frame in used]),
        stop_reason=generated.stop_reason,
        tokens=tokens,
        timings=timings,
        scene_epoch=scene.state.epoch,
        scene_version=scene.state.version,
        scene_cached=context.prefix is not None,
        scene_staleness=context.staleness,
        confidence=generated.mean_probability,
        deadline_kept=timings.total_s <= question.deadline_s,  # False for NaN
        kept_xyz_m=kept_xyz_m,
    )


def token_usage(
    query: QueryContext,
    context: SceneContext,
    prompt: PromptSequence,
    prefilled: PrefillOutput,
    num_generated: int,
) -> TokenUsage:
    """Counts and costs of all spatial tokens, those chosen to enter the prompt, and those each
    layer kept. On a cached prefix only what follows the spatial tokens passed the layers, so
    prefill_flops and rank_flops are of that.
    """
    chosen, pruner, counts = context.chosen, prefilled.pruner, prefilled.counts
    total, length = chosen.num_before_selection, prompt.embeds.shape[0]
    num_after = length - prompt.spatial_span[1]  # tokens after the spatial ones
    shape = query.pruning.shape

    # What the layers held, and what all spatial tokens would have taken.
    num_text, size = length - counts[0], prompt.embeds.element_size()
    held, full = [n + num_text for n in counts], [total + num_text] * shape.num_layers

    # What they computed and keep: of the whole prompt, or the question's own beside the prefix.
    rank_macs, attended = 0.0, kv_bytes(shape, held, size)
    stored = attended
    if context.prefix is not None:
        own = 0 if prefilled.cache is context.prefix.cache else prefilled.cache.num_bytes
        stored = context.prefix.cache.num_bytes + own
        keys = [n + prompt.spatial_span[0] for n in counts]
        prefill_flops = 2 * question_macs(shape, num_after, keys)
        drops = sum([after < before for before, after in itertools.pairwise(counts)])
        queries = num_after if pruner is not None and pruner.query == "all" else 1
        rank_macs = float(drops * queries * shape.hidden_size * length)
    else:
        prefill_flops = 2 * prefill_macs(shape, held)
        if pruner is not None:
            rank_macs = pruner.ranking_macs(shape, counts, num_text, num_after)
    coverage = NAN
    if query.in_scene and counts[-1]:
        coverage = cell_coverage(context.tokens.xyz_m, chosen.kept[prefilled.kept[-1]])
    achieved = float(np.mean(counts)) / total if total else NAN
    return TokenUsage(
        prompt=length,
        generated=num_generated,
        spatial_total=total,
        spatial_kept=counts[-1],
        keep_ratio_requested=query.question.keep_ratio,
        keep_ratio_achieved=achieved,
        strategy=query.config.pruning.strategy if achieved < 1.0 else "none",
        kv_bytes=stored,
        attended_kv_bytes=attended,
        full_kv_bytes=kv_bytes(shape, full, size),
        prefill_flops=prefill_flops,
        full_prefill_flops=2 * prefill_macs(shape, full),
        rank_flops=2 * rank_macs,
        decode_flops=2 * decode_macs(shape, [n + 1 for n in held]),
        full_decode_flops=2 * decode_macs(shape, [n + 1 for n in full]),
        per_layer=counts,
        coverage=coverage,
    )
