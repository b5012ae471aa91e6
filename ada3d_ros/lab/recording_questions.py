"""What the demo asks about a recording whose truth nobody knows: made from what was found in it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from ada3d_ros.asking.kinds import KindNames
from ada3d_ros.asking.words import plural, with_article
from ada3d_ros.geometry.measure.distance import surface_distance_m
from ada3d_ros.lab.demo_questions import DemoQuestion
from ada3d_ros.types import Box3D

# Kinds that a room may well have; the first that was not found is asked for.
MAY_BE_ABSENT = (
    *("couch", "refrigerator", "bed", "toilet", "microwave", "oven", "potted plant", "backpack"),
    *("clock", "chair", "table"),
)


def recording_questions(found: Sequence[Box3D], kinds: Sequence[str]) -> list[DemoQuestion]:
    """Questions of all sorts about the objects found, the surest first; at least an absent kind and
    one that is refused.

    found: with their labels; kinds: that the detector can name, () where that is not known.
    """
    names = KindNames(kinds)

    def kind_of(box: Box3D) -> str:
        return names.split(box.label)[1]

    sure = sorted(found, key=lambda box: -box.score)
    counts = Counter(map(kind_of, sure))
    alone = [box for box in sure if counts[kind_of(box)] == 1]
    alone.sort(key=lambda box: kind_of(box) == "person")  # things first: people walk off
    questions = [DemoQuestion("list", "What do you see?", "")]
    if sure:
        kind = kind_of(sure[0])
        questions.append(DemoQuestion("existence", f"Is there {with_article(kind)}?", ""))
        most = counts.most_common(1)[0][0]
        questions.append(DemoQuestion("count", f"How many {plural(most)} are there?", ""))
        questions.append(DemoQuestion("largest", "What is the largest object?", ""))
    if alone:
        first = kind_of(alone[0])
        questions.append(DemoQuestion("place", f"Where is the {first}?", ""))
        questions.append(DemoQuestion("nearest", f"What is nearest to the {first}?", ""))
        questions.append(DemoQuestion("grounding", "", "", phrase=f"the {alone[0].label}"))
    pair = _apart(alone)
    if pair is not None:
        a, b = map(kind_of, pair)
        questions.append(DemoQuestion("distance", f"How far is the {a} from the {b}?", ""))
    questions += [
        DemoQuestion("absent", f"Is there {with_article(kind)}?", "")
        for kind in absent_kinds(sure, kinds)[:1]
    ]
    about = kind_of(alone[0]) if alone else "room"
    return [*questions, DemoQuestion("refused", f"Who bought the {about}?", "")]


def absent_kinds(found: Sequence[Box3D], kinds: Sequence[str]) -> list[str]:
    """Of MAY_BE_ABSENT those that the detector could name and did not."""
    names = KindNames(kinds)
    seen = {names.split(box.label)[1] for box in found}
    known = [kind for kind in MAY_BE_ABSENT if not kinds or kind in kinds]
    return [kind for kind in known if kind not in seen]


def _apart(alone: Sequence[Box3D]) -> tuple[Box3D, Box3D] | None:
    """Of the five surest the two that lie farthest from each other, where they do not touch."""
    pairs = list(itertools.combinations(alone[:5], 2))
    if not pairs:
        return None
    a, b = max(pairs, key=lambda pair: surface_distance_m(*pair))
    return (a, b) if surface_distance_m(a, b) > 0.0 else None
