"""What a closer look shows that no listed object has the name of: the grounding head finds it, and
the model, asked what is at that place, calls it so.
"""

from __future__ import annotations

from ada3d_ros.asking.names_at import names_at
from ada3d_ros.asking.words import canonical
from ada3d_ros.engine.query_context import QueryContext
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.grounding.from_head import SearchLimits
from ada3d_ros.grounding.from_phrases import point_at_phrases
from ada3d_ros.types import Box3D

# How sure it must be: the score of what the head finds in the closer look, times how likely its
# name is at that place there, times how likely it is in the scene as it is, which counts as UNSEEN
# at least: the scene may have no token of a small thing. From validation rooms (decision 0258).
SHOWN = 0.006
UNSEEN = 0.01


def shown_closer(
    query: QueryContext, scene: ScenePrefix, closer: ScenePrefix, name: str
) -> Box3D | None:
    """Where the head guesses what is named, of a model that was taught what `names_at` asks; None
    where nothing shows that it is there. By the prefix of the scene and that of a closer look.

    Raises as `names_at`, and what query.hooks.check raises.
    """
    words = canonical(name)
    if not words:
        return None
    guesses = point_at_phrases(query, closer, [f"the {words}"], SearchLimits(1, SHOWN))[0]
    if not guesses:
        return None
    sure = guesses[0].score * _likelihood(query, closer, guesses[0], words)
    if sure >= SHOWN:
        sure *= max(_likelihood(query, scene, guesses[0], words), UNSEEN)
    return guesses[0] if sure >= SHOWN else None


def _likelihood(query: QueryContext, prefix: ScenePrefix, box: Box3D, name: str) -> float:
    """How likely the model is to call the thing at a box's centre so."""
    x, y, z = box.center_m.tolist()
    conversation = query.config.model.conversation
    with query.clock.stage("prefill_s"):
        return names_at(query.loaded, prefix, (x, y, z), [name], conversation)[0]
