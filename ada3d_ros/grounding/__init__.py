"""The boxes of an answer: named by its text, pointed at by the grounding head, or, without a head,
what stands where the phrase is attended to.

Called once the answer's text is there, so a caller who stops it (`hooks.check` raises a
RequestError) loses boxes, never the text.
"""

from __future__ import annotations

from dataclasses import replace

from ada3d_ros.engine.answer import Grounded
from ada3d_ros.engine.decode import DecodeOutput
from ada3d_ros.engine.prefill import PrefillOutput
from ada3d_ros.engine.query_context import QueryContext
from ada3d_ros.engine.streaming import stop_asked
from ada3d_ros.engine.token_selection import SceneContext
from ada3d_ros.grounding.from_head import point_at
from ada3d_ros.grounding.from_places import boxes_of_places
from ada3d_ros.grounding.from_proposals import best_proposals
from ada3d_ros.grounding.from_text import NOT_SEEN, find_query_boxes, refine_boxes
from ada3d_ros.types import PromptSequence, Stage


def ground_answer(
    query: QueryContext,
    context: SceneContext,
    prompt: PromptSequence,
    prefilled: PrefillOutput,
    generated: DecodeOutput,
) -> Grounded:
    """Boxes and places in the world frame, and what was generated: its text says so where a phrase
    was not found, its stop reason where the search was cut short. Timed as postprocess_s.

    Raises ModelError where the grounding head's output is not finite.
    """
    query.hooks.on_stage(Stage.POSTPROCESS)
    question = query.question
    with query.clock.stage("postprocess_s"):
        if query.points:
            boxes, generated, _ = _point_at_phrase(query, context, prefilled, generated)
        else:
            boxes = find_query_boxes(query, context, generated.text)
            if question.phrase and not boxes and query.in_scene:
                from ada3d_ros.grounding.from_attention import locate_phrase  # without a head

                boxes = locate_phrase(query, context, prompt)
        if question.phrase and not boxes:  # a search cut short has not found that there is nothing
            stopped = stop_asked(query.hooks)
            generated = replace(generated, stop_reason=stopped or generated.stop_reason)
        places = boxes_of_places(query, context, generated.places)
    return Grounded(boxes, generated, places)


def _point_at_phrase(
    query: QueryContext, context: SceneContext, prefilled: PrefillOutput, generated: DecodeOutput
) -> Grounded:
    """Boxes of the grounding head at the tokens that pruning kept, refined against depth; or those
    of a detector's that it chooses among.
    """
    question, limits, check = query.question, query.config.boxes, query.hooks.check
    head, states, phrase = query.loaded.head, prefilled.states, question.phrase
    assert head is not None
    assert states is not None
    kept = context.chosen.rows.with_place(prefilled.kept[-1])
    xyz_m = query.in_world(context.chosen.tokens.xyz_m[kept])
    most = question.max_boxes or limits.max_count
    least = question.min_score or limits.min_score
    if question.proposals:
        chosen = best_proposals(head, states, xyz_m, question.proposals, phrase, least)
        boxes = tuple(chosen[:most])
    else:
        guesses = point_at(head, states, xyz_m, phrase, most, least)
        boxes = refine_boxes(guesses, context.scene.frames, limits.min_support_points, check)
    if not boxes and stop_asked(query.hooks) is None:
        generated = replace(generated, text=NOT_SEEN.format(phrase=phrase))
    return Grounded(boxes, generated)
