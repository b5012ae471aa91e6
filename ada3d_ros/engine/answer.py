"""The answer: text, boxes, times, and the counts and costs of what the layers really held."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from ada3d_ros.engine.costs import Kept, costs_of_question
from ada3d_ros.engine.decode import DecodeOutput
from ada3d_ros.engine.prefill import PrefillOutput
from ada3d_ros.engine.query_context import QueryContext
from ada3d_ros.engine.token_selection import SceneContext
from ada3d_ros.pruning.ranking import cell_coverage
from ada3d_ros.types import NAN, Answer, Box3D, PromptSequence
from ada3d_ros.usage import TokenUsage


class Grounded(NamedTuple):
    """boxes: what was found, in the world frame; generated: with the text of that; places: what the
    model pointed at before it spoke, in order, in the world frame.
    """

    boxes: tuple[Box3D, ...]
    generated: DecodeOutput
    places: tuple[Box3D, ...] = ()


def build_answer(
    query: QueryContext,
    context: SceneContext,
    prompt: PromptSequence,
    prefilled: PrefillOutput,
    grounded: Grounded,
) -> Answer:
    """All that is known of an answered question."""
    question, scene, clock = query.question, context.scene, query.clock
    generated = grounded.generated
    with clock.stage("postprocess_s"):
        tokens = token_usage(query, context, prompt, prefilled, generated)
        chosen = context.chosen
        placed = chosen.rows.with_place(prefilled.kept[-1])
        kept = chosen.kept[placed]  # of a merged group its anchor
        xyz_m = query.in_world(context.tokens.xyz_m[kept])
        kept_xyz_m = xyz_m.cpu().numpy() if query.in_scene else None
    unpruned = context.mode == "question" and prefilled.pruner is None  # as in a batch
    mode = "none" if unpruned else context.mode
    used = scene.frames if query.in_scene else scene.frames[-1:]
    timings = clock.timings()
    return Answer(
        question=question.text,
        text=generated.text,
        boxes=grounded.boxes,
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
        cache_mode=mode,
        cold_reason=context.cold_reason,
        confidence=generated.mean_probability,
        deadline_kept=timings.total_s <= question.deadline_s,  # False for NaN
        places=grounded.places,
        kept_xyz_m=kept_xyz_m,
    )


def token_usage(
    query: QueryContext,
    context: SceneContext,
    prompt: PromptSequence,
    prefilled: PrefillOutput,
    generated: DecodeOutput,
) -> TokenUsage:
    """Counts and costs of all spatial tokens, those chosen to enter the prompt, and those each
    layer kept, newlines too; the keep ratio is of those that have a place. On a cached prefix only
    what follows the spatial tokens passed the layers, so prefill_flops and rank_flops are of that.
    """
    chosen, counts, shape = context.chosen, prefilled.counts, query.pruning.shape
    total, length = chosen.num_before_selection, prompt.embeds.shape[0]
    kept = Kept(
        shape,
        counts,
        total,
        entered=prompt.spatial_span[1] - prompt.spatial_span[0],
        before=prompt.spatial_span[0],
        behind=length - prompt.spatial_span[1],
        element_size=prompt.embeds.element_size(),
    )
    costs = costs_of_question(kept, prefilled, context.prefix, generated.own_kv_bytes)
    coverage = NAN
    if query.in_scene and counts[-1]:
        coverage = cell_coverage(context.tokens.xyz_m, chosen.kept[prefilled.kept[-1]])
    achieved = chosen.keep_ratio_of(prefilled.kept)
    return replace(
        costs,
        prompt=length,
        generated=len(generated.token_ids),
        spatial_total=total,
        spatial_kept=counts[-1],
        keep_ratio_requested=query.question.keep_ratio,
        keep_ratio_achieved=achieved,
        strategy=query.config.pruning.strategy if achieved < 1.0 else "none",
        per_layer=counts,
        coverage=coverage,
    )
