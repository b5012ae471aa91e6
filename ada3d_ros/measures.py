"""What is measured in the scene: requests, their results, and the objects that are kept.

Boundary types like those of types.py; knows neither ROS nor torch. Metres, world frame, z up.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from ada3d_ros.types import NAN, Box3D

RADIUS_M = 0.05, 100.0  # around a place, of what is measured or looked for: least and most
LEFT_RIGHT = "left_right"  # attribute of DIRECTION: which of the two, however near straight ahead
NUMBER = 1, 100  # of nearest things: least and most


class MeasureKind(IntEnum):
    """What is asked for; the numbers of Measure.srv and Measurement.msg."""

    UNKNOWN = 0
    DISTANCE = 1  # between two things: value in metres
    SIZE = 2  # of a thing: length, width, height
    HEIGHT = 3  # of a thing's top above the floor
    NEAREST = 4  # the k things nearest to one
    WITHIN = 5  # things within a radius of one
    COUNT = 6  # things of a name, in the scene or within a radius
    DIRECTION = 7  # left, right, behind or in front, from a viewpoint
    ON = 8  # what stands on a thing, or whether it does
    UNDER = 9  # what a thing stands on, or whether it does
    BETWEEN = 10  # what stands between two things, or whether it does
    FREE_FLOOR = 11  # the largest free rectangle of floor beside a thing
    EXISTS = 12  # whether there is one
    LARGEST = 13  # the largest thing (of a name): what it is, and its colour
    TALLEST = 14
    WHERE = 15  # where a thing is: its box


@dataclass(frozen=True, slots=True)
class Reference:
    """One thing that a request names: a phrase ("the red chair"), a point, or the robot.

    Exactly one of phrase, point_m and robot is set. label: the words as they were asked.
    largest: the largest of those that the phrase fits is meant ("the largest table").
    """

    phrase: str = ""
    point_m: tuple[float, float, float] | None = None
    robot: bool = False
    label: str = ""
    largest: bool = False


@dataclass(frozen=True, slots=True)
class MeasureRequest:
    """A typed question about the scene's geometry.

    of: what is measured (DIRECTION: the thing whose side is asked; ON, UNDER, BETWEEN, NEAREST,
    WITHIN: the thing at the question's end, or None: "what is ..."); to: the other thing
    (DIRECTION: where one stands; NEAREST, WITHIN, FREE_FLOOR: the anchor; ON, UNDER: the support);
    third: BETWEEN: the second anchor; DIRECTION: what one faces. category: names what is counted or
    looked for among objects, "" = all. k: of NEAREST; radius_m: of WITHIN and COUNT, NaN = all.
    centers: distances between centres, else between surfaces. attribute: what of the found object
    the answer is ("" = its name, "color", "category", "count", "yes_no"); of DIRECTION "yes_no"
    asks for the side that category names, "left_right" for one of the two, or for category's.
    """

    kind: MeasureKind
    of: Reference | None = None
    to: Reference | None = None
    third: Reference | None = None
    category: str = ""
    k: int = 1
    radius_m: float = NAN
    centers: bool = False
    attribute: str = ""
    unit: str = "m"  # that the asker wants the value in: m, cm, mm, ft, in


@dataclass(frozen=True, slots=True)
class Measurement:
    """The result of a request.

    values: numbers in `unit` (metres, or a count), () where the result is a word; uncertainty: per
    value, the half width of the interval that holds the true value in 90 % of cases; word: yes, no,
    left, right, behind, in front, or a name; sentence: the whole answer for a person; boxes: what
    it rests on, in the order of the request, then what was found; assumptions: sentences.
    """

    kind: MeasureKind
    values: tuple[float, ...] = ()
    unit: str = ""
    uncertainty: tuple[float, ...] = ()
    word: str = ""
    sentence: str = ""
    boxes: tuple[Box3D, ...] = ()
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class SceneObject:
    """One object that is kept with the scene.

    id: stable within a scene epoch ("7"); label: "red chair"; alternatives: other labels that were
    found at its place, best first; box: with score, support points and evidence stamps of the
    keyframes that see it. Stamps in ns: first and last keyframe that shows it; gone_ns: the
    keyframe at which two keyframes had looked at its place and through it, -1 while it is there.
    """

    id: str
    label: str
    box: Box3D
    alternatives: tuple[str, ...] = ()
    first_seen_ns: int = -1
    last_seen_ns: int = -1
    gone_ns: int = -1

    @property
    def is_gone(self) -> bool:
        return self.gone_ns >= 0

    @property
    def center_m(self) -> npt.NDArray[np.float64]:
        return self.box.center_m


@dataclass(frozen=True, eq=False, slots=True)
class ObjectsSnapshot:
    """The objects kept with the scene at one moment; replaced, never changed.

    objects: by id, those that are gone among them. scene_version: of the scene that they were
    looked for in, stamp_ns its newest image; complete: False while that is still going on, or
    where the scene changed meanwhile. frame_id: world frame of the boxes. why_not: a sentence where
    no objects are kept, "" where they are; is_fault: something is wrong then, nobody chose it.
    """

    objects: tuple[SceneObject, ...] = ()
    scene_epoch: int = 0
    scene_version: int = 0
    complete: bool = False
    stamp_ns: int = -1
    frame_id: str = ""
    why_not: str = ""
    is_fault: bool = False

    @property
    def present(self) -> tuple[SceneObject, ...]:
        """Those that are not gone."""
        return tuple(thing for thing in self.objects if not thing.is_gone)
