"""What a detector is: an image in, boxes in pixels with label and score out.

Numpy only. Who implements it loads its library where it is opened, not where it is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ada3d_ros.types import NAN, RgbdFrame

FAINT_SHARE = 0.75  # of a detector's min_score


@dataclass(frozen=True, eq=False, slots=True)
class Detection2D:
    """One box in a frame's image.

    box_px: (x0, y0, x1, y1) in pixels of the frame's undistorted image, x right, y down, the
    picture being (0, 0, W, H); label: a kind of the detector, in lower case; score 0..1; mask
    (H, W) bool where the detector gives one.
    """

    box_px: tuple[float, float, float, float]
    label: str
    score: float
    mask: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False, slots=True)
class FrameDetections:
    """What a detector says about one frame: boxes inside the picture, best first, suppressed, of at
    least `DetectorInfo.faint_score`.

    refused: how many boxes were left out, by reason in words ("a score that is NaN", "a box
    outside the picture"); seconds: what it took, NaN where it ran elsewhere.
    """

    detections: tuple[Detection2D, ...] = ()
    refused: Mapping[str, int] = field(default_factory=dict)
    seconds: float = NAN


@dataclass(frozen=True, slots=True)
class DetectorInfo:
    """What a detector is, for people and for answers.

    name: of the file, folder or topic; format: picodet, nanodet, yolox, yolo, detr, mmdet,
    transformers, zero-shot, topic; kinds: the names it can give, in lower case, () where they are
    not known or any can be asked for; min_score: that it is used with; takes_phrases: `find` works;
    sha256: of its file or files, "" where it has none; input_size: what images are scaled to, in
    words, as "416 x 416", "" where it is not known.
    """

    name: str
    format: str
    kinds: tuple[str, ...] = ()
    min_score: float = 0.45
    takes_phrases: bool = False
    sha256: str = ""
    input_size: str = ""

    @property
    def faint_score(self) -> float:
        """Boxes down to this score are given too: over several views of one place they tell
        something (perception/object_map.py), one alone tells nothing.
        """
        return FAINT_SHARE * self.min_score


@dataclass(frozen=True, slots=True)
class DetectorReport:
    """What a detector has done for the scene, in numbers, for people; replaced, never changed.

    info: None while it is being opened. Frames that were taken (keyframes, and some between them):
    looked_at; dropped: the queue was full, they went unseen; unmatched: the same, but the detector
    had been asked and knew nothing of them; waiting: in the queue; recent, recent_unseen: of the
    last minute, those that were looked at or went unseen, and the latter. found: boxes taken.
    refused: boxes left out by reason in words, those that could not be lifted included. seconds:
    that the detector took for a frame, the median of the last ones, NaN before the first and where
    it runs elsewhere. failed: frames at which something raised, failed_in_a_row: the last of them,
    last_error: what it said; lifting_failed: at the last of them the boxes were there, and could
    not be lifted into the map.
    """

    info: DetectorInfo | None = None
    looked_at: int = 0
    dropped: int = 0
    unmatched: int = 0
    waiting: int = 0
    recent: int = 0
    recent_unseen: int = 0
    found: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    seconds: float = NAN
    failed: int = 0
    failed_in_a_row: int = 0
    last_error: str = ""
    lifting_failed: bool = False


class Detector(Protocol):
    """Used by one thread."""

    @property
    def info(self) -> DetectorInfo: ...

    def detect(self, frame: RgbdFrame) -> FrameDetections | None:
        """The boxes in a frame; None where nothing is known of it (yet): ask again later.

        Raises DetectorError where the detector itself is at fault.
        """
        ...

    def set_min_score(self, min_score: float) -> None:
        """The score of a box at least, from the next frame on; 0: what suits the detector."""
        ...

    def find(self, frame: RgbdFrame, phrases: Sequence[str]) -> FrameDetections:
        """The boxes of phrases, each labelled with its phrase. Raises DetectorError where
        `info.takes_phrases` is false.
        """
        ...
