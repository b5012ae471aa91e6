"""What a report shows, as plain values: no ROS, no model, no pixels yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ada3d_ros.perception.detector import Detection2D
from ada3d_ros.types import NAN, Box3D, RgbdFrame

Points = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class Evidence:
    """What an answer rests on, to be drawn.

    boxes: found or measured; places: what the model pointed at before it spoke, in that order;
    joins: pairs of numbers of `boxes` between which a line is drawn; join_label: its value, as
    "1.23 m". from_above: drawn on the map, because directions show there.
    """

    boxes: tuple[Box3D, ...] = ()
    places: tuple[Box3D, ...] = ()
    joins: tuple[tuple[int, int], ...] = ()
    join_label: str = ""
    from_above: bool = False

    @property
    def shown(self) -> tuple[Box3D, ...]:
        """All boxes, those that were pointed at first."""
        return (*self.places, *self.boxes)

    @property
    def names(self) -> list[str]:
        """Of all of them, the places numbered."""
        numbered = [f"{i + 1} {place.label}".strip() for i, place in enumerate(self.places)]
        return numbered + [box.label for box in self.boxes]


@dataclass(frozen=True, eq=False, slots=True)
class GivenAnswer:
    """One answer to one question.

    error: why there is none, "" else; method: how it came about, in a word or two. right: whether
    it agrees with the truth, None where nobody can say; note: by how much, as "IoU 0.64".
    details: sentences that are folded away, what was assumed and what it took.
    latency_ms: stage -> milliseconds, `total` among them; stages that did not run are absent.
    """

    text: str
    error: str = ""
    method: str = ""
    right: bool | None = None
    note: str = ""
    details: Sequence[str] = ()
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    evidence: Evidence = Evidence()


@dataclass(frozen=True, eq=False, slots=True)
class AskedQuestion:
    """A question, the true answer, and what was answered in each round, in their order."""

    kind: str
    question: str
    truth: str
    answers: tuple[GivenAnswer, ...]


@dataclass(frozen=True, slots=True)
class Round:
    """One setting under which all questions were asked.

    kept of total spatial tokens in the last layer; held_mib: keys and values of scene and question;
    build_gflop: what building the cached scene took; NaN = not known.
    """

    name: str
    kept: int = 0
    total: int = 0
    held_mib: float = NAN
    build_gflop: float = NAN


@dataclass(frozen=True, eq=False, slots=True)
class KeptTokens:
    """Where the scene's tokens lie, world x and y in metres: all (N, 2), and per layer those that
    it holds (k, 2). xyz_m (K, 3): of the last layer, to be drawn into the views.
    """

    all_xy_m: Points = field(default_factory=lambda: np.empty((0, 2)))
    layers: tuple[Points, ...] = ()
    xyz_m: Points = field(default_factory=lambda: np.empty((0, 3)))


@dataclass(frozen=True, slots=True)
class FoundObject:
    """One object of the inventory beside the true one it lies on.

    true_label: "" where there is none; iou: NaN where one of the two is missing.
    """

    label: str
    box: Box3D | None
    true_label: str = ""
    iou: float = NAN

    @property
    def right(self) -> bool:
        return self.label == self.true_label


@dataclass(frozen=True, eq=False, slots=True)
class ListedObject:
    """One object of a place whose truth nobody knows.

    distance_m: from the camera's last place to the box's surface; views: how many see it, in words;
    others: other names that were found there, best first.
    """

    box: Box3D
    distance_m: float
    views: str
    others: Sequence[str] = ()


@dataclass(frozen=True, eq=False, slots=True)
class DetectedView:
    """A view and what a detector sees in it: boxes in its pixels."""

    frame: RgbdFrame
    detections: Sequence[Detection2D]


@dataclass(frozen=True, eq=False, slots=True)
class RunReport:
    """What a report shows.

    lead: one sentence under the title; warning: shown first, "" for none. walls_m: lengths along x
    and y of a room with its middle at the origin, None where unknown. found: boxes that were found
    in the room, with names; objects: the inventory against the truth, None where there is none.
    facts: heading -> name -> value, shown last; busy: what to know of the times, "" for nothing.
    listed: the objects where nobody knows the truth; detected: what a detector sees in single
    views; tiles: number -> what it counts, under the title; note: of whose picture it is.
    """

    title: str
    lead: str
    warning: str
    frames: Sequence[RgbdFrame]
    walls_m: tuple[float, float] | None
    true_boxes: Sequence[Box3D]
    found: Sequence[Box3D]
    rounds: Sequence[Round]
    questions: Sequence[AskedQuestion]
    facts: Mapping[str, Mapping[str, str]]
    objects: Sequence[FoundObject] | None = None
    tokens: KeptTokens = KeptTokens()
    busy: str = ""
    listed: Sequence[ListedObject] = ()
    detected: Sequence[DetectedView] = ()
    tiles: Sequence[tuple[str, str]] = ()
    note: str = ""
