"""Whether a closer look shows what no listed object has the name of: the grounding head finds it
there, and the model, asked what is at that place, calls it so.
"""

from __future__ import annotations

import math

from ada3d_ros.asking.words import canonical, color_of, with_article
from ada3d_ros.engine.phrases import answer_probabilities
from ada3d_ros.engine.query_context import QueryContext
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.grounding.from_head import SearchLimits
from ada3d_ros.grounding.from_phrases import point_at_phrases
from ada3d_ros.types import Box3D

KIND_PROMPT = "What is at {place}?"
COLOR_PROMPT = "The related object is located at {place}. Describe the object in detail."

# How sure it must be: score of what the closer look's head finds, times how likely the name is at
# that place, the mean of two looks (decision 0258).
SHOWN = 0.04


def is_shown_closer(
    query: QueryContext, scene: ScenePrefix, closer: ScenePrefix, name: str
) -> bool:
    """Whether the scene has what is named, by its prefix and that of a closer look at it.

    Raises as `answer_probabilities`, and what query.hooks.check raises.
    """
    words = canonical(name)
    if not words:
        return False
    guesses = point_at_phrases(query, closer, [f"the {words}"], SearchLimits(1, SHOWN))[0]
    if not guesses:
        return False
    likely = [_likelihood(query, prefix, guesses[0], words) for prefix in (closer, scene)]
    return guesses[0].score * sum(likely) / len(likely) >= SHOWN


def _likelihood(query: QueryContext, prefix: ScenePrefix, box: Box3D, words: str) -> float:
    """How likely the model is to give the thing at a box's centre the colour and the kind that
    these words have, by two questions.
    """
    place = "[" + ", ".join(f"{at:.3f}" for at in box.center_m) + "]"
    asked = []
    if color := color_of(words):
        asked.append((COLOR_PROMPT.format(place=place), with_article(color)))
    if kind := " ".join(word for word in words.split() if word != color):
        asked.append((KIND_PROMPT.format(place=place), kind))
    with query.clock.stage("prefill_s"):
        return math.prod(answer_probabilities(query, prefix, asked))
