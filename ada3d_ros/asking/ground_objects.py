"""The boxes of a phrase among the objects of a detector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ada3d_ros.asking.measured_by_detector import detected_answer
from ada3d_ros.asking.references import ARTICLES
from ada3d_ros.errors import InvalidRequestError, NotGroundedError
from ada3d_ros.measures import Reference
from ada3d_ros.model.prompt import parse_coordinates
from ada3d_ros.types import Answer, Box3D, Stage

if TYPE_CHECKING:
    from ada3d_ros.asking.measured_by_detector import DetectedScene

FOUND = "Found {number}: {names}."
_ALL = frozenset(("all", "every", "each", "any", "some", "my", "your", "this", "that", "these"))
_LARGEST = ("largest", "biggest", "greatest")
_SMALLEST = ("smallest", "littlest", "tiniest")
_NEAREST = ("nearest", "closest")
_FARTHEST = ("farthest", "furthest", "remotest")
_TALLEST = ("tallest", "highest")
_LOWEST = ("lowest", "shortest")
SUPERLATIVES = (*_LARGEST, *_SMALLEST, *_NEAREST, *_FARTHEST, *_TALLEST, *_LOWEST)


def ground_among_objects(opened: DetectedScene) -> Answer:
    """The answer with the boxes of `objects_named`."""
    return answer_with_boxes(opened, objects_named(opened))


def objects_named(opened: DetectedScene) -> list[Box3D]:
    """The boxes of all objects that the question's text names ("the black tv"), best first; of one
    where it is a superlative ("the largest chair", "the nearest cup"). What is of no kind that the
    detector has is looked for by one that takes phrases. Each box says which keyframes show it.

    Raises NotGroundedError where nothing is found: NotMeasurableError where it could not be looked
    for; InvalidRequestError for a place, what hooks.check raises, DetectorError.
    """
    # Its objects.
    query = opened.query
    question, begun = query.question, query.clock.now()
    query.hooks.on_stage(Stage.PREFILL)
    objects = opened.objects()
    query.clock.record("scene_s", query.clock.now() - begun)

    # Those that it names.
    superlative, phrase = _taken_apart(question.text)
    resolver = opened.resolver(objects)
    boxes = resolver.boxes_of(Reference(phrase=phrase, label=question.text))
    return [_first(superlative, boxes, opened.camera_m())] if superlative else boxes


def answer_with_boxes(opened: DetectedScene, boxes: Sequence[Box3D]) -> Answer:
    """The answer with as many boxes, and as sure ones, as the question asks for. Raises
    NotGroundedError where none is as sure.
    """
    query, limits = opened.query, opened.query.config.boxes
    question = query.question
    query.hooks.on_stage(Stage.POSTPROCESS)
    least = question.min_score or limits.min_score
    kept = [box for box in boxes if not box.score < least]
    if not kept:
        best = max(boxes, key=lambda box: box.score)
        raise NotGroundedError(
            f"of {question.text!r} {len(boxes)} found, and none has the score {least:g}: the surest"
            f" is the {best.label} with {best.score:.2f}. Ask with a lower score (boxes.min_score)."
        )
    kept = kept[: question.max_boxes or limits.max_count]
    names = ", ".join(f"the {box.label}" for box in kept)
    text = FOUND.format(number=len(kept), names=names)
    query.hooks.on_text(text, 0)
    return detected_answer(query, text, tuple(replace(b, label=question.text) for b in kept))


def _taken_apart(text: str) -> tuple[str, str]:
    """The superlative of a phrase, "" without one, and the rest: "largest", "red chair"."""
    if parse_coordinates(text)[1]:
        raise InvalidRequestError(f"{text!r} is a place: name a thing to find its boxes.")
    words = text.split()
    while len(words) > 1 and words[0].casefold() in (*ARTICLES, *_ALL):
        words = words[1:]
    if len(words) > 1 and words[0].casefold() in SUPERLATIVES:
        return words[0].casefold(), " ".join(words[1:])
    return "", " ".join(words)


def _first(superlative: str, boxes: Sequence[Box3D], camera_m: Sequence[float]) -> Box3D:
    """Of several the one that a superlative means; near and far are from the newest keyframe."""

    def volume_m3(box: Box3D) -> float:
        return float(box.size_m.prod())

    def top_m(box: Box3D) -> float:
        return float(box.center_m[2] + box.size_m[2] / 2)

    def apart_m(box: Box3D) -> float:
        return float(np.linalg.norm(box.center_m - np.asarray(camera_m)))

    measures: tuple[tuple[tuple[str, ...], Callable[[Box3D], float], int], ...] = (
        (_LARGEST, volume_m3, 1),
        (_SMALLEST, volume_m3, -1),
        (_FARTHEST, apart_m, 1),
        (_NEAREST, apart_m, -1),
        (_TALLEST, top_m, 1),
        (_LOWEST, top_m, -1),
    )
    by, sign = next((by, sign) for words, by, sign in measures if superlative in words)
    return max(boxes, key=lambda box: sign * by(box))
