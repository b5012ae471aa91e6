"""What the model calls the thing at a place: how likely each of some names is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ada3d_ros.asking.taught import CAPTION_PROMPT, KIND_PROMPT, place_text
from ada3d_ros.asking.words import canonical, color_of, with_article
from ada3d_ros.engine.phrases import answer_probabilities
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.scene.cutouts import Point


def names_at(
    loaded: LoadedModel,
    prefix: ScenePrefix,
    place_m: Point,
    names: Sequence[str],
    conversation: str,
) -> list[float]:
    """How likely a model that was taught "category" and "caption" is to give what is at a place of
    a prefix's scene, metres in the world frame, the colour and the kind that each name ("red
    chair", "chair") has; 1 for a name of neither. conversation: of the prompt template.

    Raises as `answer_probabilities`.
    """
    place = place_text(place_m)
    asked: dict[tuple[str, str], float] = {}
    parts = []
    for name in names:
        words = canonical(name)
        color = color_of(words)
        kind = " ".join(word for word in words.split() if word != color)
        told = [(CAPTION_PROMPT.format(place=place), with_article(color))] if color else []
        told += [(KIND_PROMPT.format(place=place), kind)] if kind else []
        parts.append(told)
        asked |= dict.fromkeys(told, 0.0)
    if asked:
        likely = answer_probabilities(loaded, prefix, list(asked), conversation)
        asked = dict(zip(asked, likely, strict=True))
    return [math.prod(asked[each] for each in told) for told in parts]
