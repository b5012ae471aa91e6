"""What `health.judge` takes and gives: the states of the inputs, and what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from ada3d_ros.errors import FrameReason
from ada3d_ros.perception.detector import DetectorReport

# tasks of /diagnostics
INPUTS, SYNCHRONIZATION, SCENE, MODEL = "Inputs", "Synchronization", "Scene", "Model and GPU"
DETECTOR = "Detector"


class Severity(IntEnum):
    """How bad it is; a NOTE says what is waited for, there is nothing to mend yet."""

    NOTE = 0
    WARN = 1  # it serves, from what it has
    ERROR = 2  # no frame can enter the scene


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. task: of /diagnostics; key: which kind, the same while it lasts."""

    severity: Severity
    sentence: str
    cure: str
    task: str
    key: str

    def __str__(self) -> str:
        return ": ".join(part.rstrip(".") for part in (self.sentence, self.cure) if part) + "."


@dataclass(frozen=True, slots=True)
class Offer:
    """A publisher of an input's topic: message type (`Image`), reliability (`best_effort`)."""

    type_name: str
    reliability: str


@dataclass(frozen=True, slots=True)
class InputState:
    """One input. Times in s, stamps in ns (-1: none); counts since it was subscribed."""

    name: str  # rgb, depth, camera_info or pose
    topic: str  # as remapped
    interface: str  # the topic's name in the node, which a remap rule names
    type_name: str
    reliability: str = "reliable"
    in_set: bool = True  # matched by its stamp with the others
    kept: bool = False  # the last message stays in force: silence is no fault
    received: int = 0
    silent_s: float = 0.0  # since the last message, or since it was subscribed
    last_stamp_ns: int = -1
    unset_stamps: int = 0  # stamps of zero, in a row
    since_set: int = 0  # messages since the last set
    gaps_ns: Sequence[int] = ()  # to the nearest colour image, of those that fitted none (last few)
    lost: int = 0  # by the middleware, in the last seconds
    arrived: int = 0  # in the same seconds
    offers: Sequence[Offer] = ()  # who publishes it
    instead: tuple[str, str] | None = None  # published topic, and the setting that takes it
    elsewhere: Sequence[str] = ()  # other topics of this type that are published


@dataclass(frozen=True, slots=True)
class MatchReport:
    """How arrays and keyframes find each other, for people.

    Counts since the start: received arrays, matched keyframes. missed: keyframes since the last
    matched one whose array never came; missed_ns, nearest_ns: the stamps of the one of them that
    came nearest to an array, and of that array. other_frame: of an array that fitted in time.
    """

    received: int = 0
    matched: int = 0
    missed: int = 0
    missed_ns: int = -1
    nearest_ns: int = -1
    other_frame: str = ""
    unset_stamps: int = 0


@dataclass(frozen=True, slots=True)
class DetectorState:
    """The detector that finds the objects. topic, matches: of one that other nodes publish."""

    report: DetectorReport
    topic: InputState | None = None
    matches: MatchReport = MatchReport()


@dataclass(frozen=True, slots=True)
class HealthState:
    """All that is judged. Empty `inputs`: the node is not active."""

    inputs: Sequence[InputState] = ()
    keyframes: int = 0
    slop_s: float = 0.02
    refusals: Mapping[FrameReason, tuple[int, str]] = field(default_factory=dict)
    """Frames refused since the last one used: how many, and why the last was."""

    # the clock
    use_sim_time: bool = False
    clock_publishers: int = 0
    now_ns: int = 0  # of the node's clock
    running_s: float = math.inf  # since the node started

    detector: DetectorState | None = None

    # sentences of those who watch one thing; empty: nothing is wrong
    namesake_warning: str = ""  # another node of this name
    store_warning: str = ""  # a scene that is not saved, or not loaded
    remote_warning: str = ""  # a server that does not answer, and who does in its place
    objects_warning: str = ""  # a vocabulary that cannot be read
    static_tf_warning: str = ""  # a frame with two static places
    camera_axes_warning: str = ""  # K of another size, D applied twice, poses of other axes

    # the middleware, and what keeps large images from being lost
    middleware: str = "the middleware"
    large_images_cure: str = "let the publisher send smaller or fewer images"
