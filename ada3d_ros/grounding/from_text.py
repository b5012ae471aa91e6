"""Answer text to 3D boxes: parse `[cx, cy, cz, dx, dy, dz]`, then check each box against depth.

Boxes are full extents in metres in the world frame, as LLaVA-3D writes them (docs of
ZCMax/LLaVA-3D). The reference has no parser; ours takes six numbers (axis-aligned) or seven (with
yaw), and drops what cannot be a box.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ada3d_ros.engine.query_context import QueryContext
from ada3d_ros.engine.token_selection import SceneContext
from ada3d_ros.errors import RequestError
from ada3d_ros.geometry.boxes import grow_box, points_inside
from ada3d_ros.geometry.depth_support import count_support
from ada3d_ros.geometry.near_readings import surface_points
from ada3d_ros.grounding.refine import RefineSettings, floor_height_m, refine_box
from ada3d_ros.types import Box3D, GroundingMethod, RgbdFrame

MAX_EXTENT_M = 50.0  # no object is larger
MAX_COORDINATE_M = 10_000.0
MAX_YAW_RAD = 2 * np.pi  # more is another unit, or not a number
CANDIDATES_PER_BOX = 4  # boxes of the text that are checked against depth, for each box wanted
PLACE_MARGIN_M = 0.3  # a written box this far from the place asked about is of something else
MAX_EVIDENCE = 8  # keyframe stamps named per box

GROUNDING_PROMPT = "Please output the 3D bounding box of {phrase}."
LOCATED_PROMPT = (
    "The related object is located at [{x:.3f}, {y:.3f}, {z:.3f}]. Please output the 3D bounding"
    " box of the object and then describe the object."
)
NOT_SEEN = "I have not seen {phrase}."

_GROUP = re.compile(r"\[([^\[\]]{5,200})\]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def parse_boxes(text: str, label: str = "") -> list[Box3D]:
    """Every well-formed box in `text`, in order, duplicates removed.

    Malformed groups are passed over, never guessed.
    """
    boxes: dict[tuple[float, ...], Box3D] = {}
    for match in _GROUP.finditer(text):
        # Six or seven numbers.
        parts = [part.strip() for part in match.group(1).split(",")]
        if len(parts) not in (6, 7) or not all(_NUMBER.fullmatch(part) for part in parts):
            continue
        numbers = tuple(float(part) for part in parts)

        # Those that can be a box.
        center, size = np.array(numbers[:3]), np.array(numbers[3:6])
        yaw = numbers[6] if len(numbers) == 7 else 0.0
        near = np.all(np.abs(center) <= MAX_COORDINATE_M)
        if not near or not np.all((size > 0) & (size <= MAX_EXTENT_M)) or abs(yaw) > MAX_YAW_RAD:
            continue
        box = Box3D(center, size, yaw_rad=yaw, label=label, method=GroundingMethod.TEXT)
        boxes.setdefault(numbers, box)
    return list(boxes.values())


def check_support(
    boxes: Sequence[Box3D], frames: Sequence[RgbdFrame], min_points: int
) -> list[Box3D]:
    """The boxes that hold at least `min_points` depth readings (of every second row and column).

    Each kept box carries its point count and the stamps of the frames that see into it, most points
    first.
    """
    kept = []
    for box in boxes:
        # Too few readings: drop the box.
        support = count_support(frames, box)
        if support.num_points < min_points:
            continue

        # The frames with most of them are its evidence.
        counts = support.per_frame
        order = sorted((i for i, n in enumerate(counts) if n), key=lambda i: (-counts[i], i))
        stamps = tuple(frames[i].stamp_ns for i in order[:MAX_EVIDENCE])
        kept.append(replace(box, support_points=support.num_points, evidence_stamps_ns=stamps))
    return kept


def find_boxes(
    text: str,
    frames: Sequence[RgbdFrame],
    max_count: int,
    min_score: float,
    min_points: int,
    check: Callable[[], None],
) -> tuple[Box3D, ...]:
    """The first `max_count` boxes of an answer text that are sure enough and that depth supports.

    A box without a score (NaN) passes. When `check` raises a RequestError (time is up, cancelled)
    the boxes found so far are returned: the text is complete already.
    """
    # Sure enough, and not too many: a model that repeats itself writes hundreds.
    sure = [box for box in parse_boxes(text) if not box.score < min_score]
    candidates = sure[: CANDIDATES_PER_BOX * max_count]

    # Supported by depth, as far as time allows.
    kept: list[Box3D] = []
    for box in candidates:
        try:
            check()
        except RequestError:
            break
        kept += check_support([box], frames, min_points)
        if len(kept) == max_count:
            break
    return tuple(kept)


def refine_boxes(
    guesses: Sequence[Box3D],
    frames: Sequence[RgbdFrame],
    min_points: int,
    check: Callable[[], None],
) -> tuple[Box3D, ...]:
    """Guessed boxes with their faces moved to the surface that depth shows.

    Those without `min_points` readings are dropped. When `check` raises a RequestError the boxes
    refined so far are returned.
    """
    if not guesses:
        return ()

    # The scene's points, once for all guesses.
    settings = RefineSettings()
    points = surface_points(frames, settings.max_points)
    floor_z_m = floor_height_m(points)

    # Each guess, as far as time allows.
    kept: list[Box3D] = []
    for guess in guesses:
        try:
            check()
        except RequestError:
            break
        refined = refine_box(points, guess, floor_z_m, settings)
        kept += check_support([refined], frames, min_points)
    return tuple(kept)


def boxes_near(
    guess: Box3D,
    written: Sequence[Box3D],
    frames: Sequence[RgbdFrame],
    min_points: int,
    check: Callable[[], None],
) -> tuple[Box3D, ...]:
    """What stands at a guessed place: a written box that reaches it, or the surface there, or ().

    The first such box of `written`, with the label, score, method and evidence of the guess.
    """
    # A written box that reaches the place.
    for box in written:
        if points_inside(guess.center_m[None], grow_box(box, PLACE_MARGIN_M))[0]:
            found = replace(
                box,
                label=guess.label,
                score=guess.score,
                method=guess.method,
                evidence_xyz_m=guess.evidence_xyz_m,
                evidence_weights=guess.evidence_weights,
            )
            return (found,)

    # The surface that depth shows there; an unchanged guess means that there is none.
    boxes = refine_boxes([guess], frames, min_points, check)
    return tuple(box for box in boxes if not np.array_equal(box.size_m, guess.size_m))


def find_query_boxes(query: QueryContext, context: SceneContext, text: str) -> tuple[Box3D, ...]:
    """The boxes of a text that the question's limits and depth leave; () where none are wanted, and
    of a model that writes none.
    """
    question, limits = query.question, query.config.boxes
    if not question.want_boxes or not query.loaded.model.config.text_has_places:
        return ()
    return find_boxes(
        text,
        context.scene.frames,
        max_count=question.max_boxes or limits.max_count,
        min_score=question.min_score or limits.min_score,
        min_points=limits.min_support_points,
        check=query.hooks.check,
    )
