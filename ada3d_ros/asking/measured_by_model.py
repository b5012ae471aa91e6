"""A scene opened for measuring with a language model: names are looked for in its cached prefix,
with the grounding head.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ada3d_ros.asking.presupposed import TAUGHT
from ada3d_ros.asking.resolve import NameResolver
from ada3d_ros.engine.memory_fallback import out_of_memory
from ada3d_ros.engine.query_context import QueryContext, encode_scene, select_context
from ada3d_ros.engine.token_selection import SceneContext
from ada3d_ros.errors import NoFramesError, NotMeasurableError, QuestionTooLongError
from ada3d_ros.grounding.from_head import SearchLimits
from ada3d_ros.grounding.from_phrases import find_phrases
from ada3d_ros.grounding.from_text import check_support
from ada3d_ros.grounding.refine import refine_box
from ada3d_ros.measures import Measurement, ObjectsSnapshot
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.types import Answer, AnswerMethod, Box3D, StopReason
from ada3d_ros.usage import TokenUsage

if TYPE_CHECKING:
    from ada3d_ros.asking.inventory import Inventory
    from ada3d_ros.engine.prefix_cache import PrefixCache

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, slots=True)
class ModelScene:
    """An OpenedScene, and the NameFinder of its prefix."""

    query: QueryContext
    context: SceneContext
    inventory: Inventory

    @classmethod
    def opened(cls, query: QueryContext, cache: PrefixCache, inventory: Inventory) -> ModelScene:
        """Encode what is new of the scene, and bring its prefix up to date.

        Raises NotMeasurableError where there is none to look in, and what doing so raises.
        """
        tokens = encode_scene(query, cache.encoder)
        context = select_context(query, tokens, cache, together=True)
        if query.loaded.head is None or context.prefix is None:
            why = context.cold_reason if query.loaded.head else "the model has no grounding head"
            raise NotMeasurableError(
                f"nothing can be measured ({why}): things are looked for with a grounding head in"
                " the cached scene (cache.mode)."
            )
        return cls(query, context, inventory)

    @property
    def scene(self) -> SceneSnapshot:
        return self.context.scene

    def resolver(self, objects: ObjectsSnapshot) -> NameResolver:
        return NameResolver(self.query, objects, self)

    def objects(self) -> ObjectsSnapshot:
        return self.inventory.objects_for(self.query)

    # -- where a name points

    @property
    def words(self) -> frozenset[str]:
        return self.inventory.taught_words

    @property
    def listed_score(self) -> float:
        head = self.query.loaded.head
        assert head is not None
        return max(head.threshold, self.query.config.objects.min_score)

    def find(
        self, phrases: Sequence[str], max_boxes: int, min_score: float
    ) -> list[tuple[Box3D, ...]]:
        prefix = self.context.prefix
        assert prefix is not None
        surface = self.inventory.surface_of(prefix.scene)
        limits = SearchLimits(max_boxes, min_score)
        return find_phrases(self.query, prefix, surface, phrases, limits)

    def find_closer(self, name: str) -> Box3D | None:
        """Where a closer look shows what is named, though depth may hold few readings of it. One
        is made where there is none of this scene yet.

        None without memory for it, and of a model that cannot tell names. Raises ModelError, what
        hooks.check raises.
        """
        from ada3d_ros.asking.shown_closer import shown_closer  # where a name is in doubt

        prefix, closer = self.context.prefix, self.inventory.closer_look
        assert prefix is not None
        if not TAUGHT.issubset(self.query.loaded.model.config.question_kinds):
            return None
        try:
            guess = shown_closer(self.query, prefix, closer.prefix(self.query), name)
        except (NoFramesError, QuestionTooLongError) as error:
            guess, problem = None, str(error)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            closer.forget()
            guess, problem = None, "memory ran out"
        else:
            problem = ""
        if problem:
            logger.warning("no closer look at the scene: %s", problem)
        if guess is None:
            return None
        surface = self.inventory.surface_of(prefix.scene)
        refined = refine_box(surface.points, guess, surface.floor_z_m)
        return check_support([refined], self.scene.frames, 0)[0]

    # -- the answer

    def answer(self, result: Measurement) -> Answer:
        """Nothing was generated."""
        query, context = self.query, self.context
        scene, chosen, prefix = context.scene, context.chosen, context.prefix
        assert prefix is not None
        timings = query.clock.timings()
        layers = query.loaded.model.config.decoder.num_layers
        kept = [prefix.kept(layer) for layer in range(layers)]
        counts, share = tuple(map(len, kept)), chosen.keep_ratio_of(kept)
        tokens = TokenUsage(
            spatial_total=chosen.num_before_selection,
            spatial_kept=counts[-1],
            keep_ratio_achieved=share,
            strategy=query.config.pruning.strategy if share < 1.0 else "none",
            per_layer=counts,
        )
        return Answer(
            question=query.question.text,
            text=result.sentence,
            boxes=result.boxes,
            stamp_ns=scene.state.newest_ns,
            frame_id=scene.frames[-1].frame_id,
            keyframe_stamps_ns=tuple(frame.stamp_ns for frame in scene.frames),
            stop_reason=StopReason.EOS,
            tokens=tokens,
            timings=timings,
            scene_epoch=scene.state.epoch,
            scene_version=scene.state.version,
            scene_cached=True,
            scene_staleness=context.staleness,
            cache_mode=context.mode,
            deadline_kept=timings.total_s <= query.question.deadline_s,
            method=AnswerMethod.MEASURED,
            measurement=result,
        )
