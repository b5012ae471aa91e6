"""Where phrases point in a cached scene: boxes of the grounding head for several at once, refined
against depth. The text of an answer has no part in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ada3d_ros.engine.phrases import question_states
from ada3d_ros.engine.query_context import QueryContext
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.geometry.near_readings import surface_points
from ada3d_ros.grounding.from_head import SceneStates, SearchLimits, point_at_each
from ada3d_ros.grounding.from_text import GROUNDING_PROMPT, check_support
from ada3d_ros.grounding.refine import (
    Points,
    RefineSettings,
    floor_height_m,
    refine_box,
)
from ada3d_ros.model.prompt import check_question
from ada3d_ros.types import Box3D, RgbdFrame


@dataclass(frozen=True, eq=False, slots=True)
class Surface:
    """Depth readings of a scene as points (P, 3) float64 metres, and the height of their floor."""

    points: Points
    floor_z_m: float

    @classmethod
    def from_frames(cls, frames: Sequence[RgbdFrame]) -> Surface:
        points = surface_points(frames, RefineSettings().max_points)
        return cls(points, floor_height_m(points))


def find_phrases(
    query: QueryContext,
    prefix: ScenePrefix,
    surface: Surface,
    phrases: Sequence[str],
    limits: SearchLimits,
) -> list[tuple[Box3D, ...]]:
    """The boxes of each phrase ("the red chair") in the world frame, best first, labelled with it.

    The query's model has a grounding head. Timed as prefill_s and postprocess_s. Raises
    InvalidRequestError for words that steer a model, ModelError, what hooks.check raises.
    """
    if not phrases:
        return []
    pointed = point_at_phrases(query, prefix, phrases, limits)

    # The surfaces there.
    query.hooks.check()
    with query.clock.stage("postprocess_s"):
        found = []
        for guesses in pointed:
            refined = [refine_box(surface.points, guess, surface.floor_z_m) for guess in guesses]
            least = query.config.boxes.min_support_points
            found.append(tuple(check_support(refined, prefix.scene.frames, least)))
    return found


def point_at_phrases(
    query: QueryContext, prefix: ScenePrefix, phrases: Sequence[str], limits: SearchLimits
) -> list[list[Box3D]]:
    """The same as the head guesses them, of one phrase at least; nothing is asked of depth."""
    # Their states, as one batch on the scene.
    loaded, config = query.loaded, query.config
    questions = [
        GROUNDING_PROMPT.format(phrase=check_question(phrase, config.question.max_chars))
        for phrase in phrases
    ]
    query.hooks.check()
    with query.clock.stage("prefill_s"):
        states = question_states(loaded, prefix, questions, config.model.conversation)

    # Where they point.
    with query.clock.stage("postprocess_s"):
        assert loaded.head is not None
        kept = prefix.kept(loaded.model.config.decoder.num_layers - 1)
        kept = prefix.chosen.rows.with_place(kept)
        spatial = SceneStates(prefix.final_states(), query.in_world(prefix.xyz_m[kept]))
        return point_at_each(loaded.head.head, states, spatial, phrases, limits)
