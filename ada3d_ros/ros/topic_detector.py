"""Detections of other nodes as a Detector: arrays kept by stamp, and found again for a keyframe.

Knows messages by their fields only (vision_msgs/Detection2DArray of every release since Foxy), and
imports no ROS. Messages come on one thread, keyframes are asked for on another.
"""

from __future__ import annotations

import bisect
import math
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ada3d_ros.config.objects import TOPIC, DetectorConfig
from ada3d_ros.errors import DetectorError, FrameError
from ada3d_ros.geometry.camera import undistort_points
from ada3d_ros.perception.class_names import COCO_NAMES, read_names
from ada3d_ros.perception.detector import DetectorInfo, FrameDetections
from ada3d_ros.perception.select_boxes import select_boxes
from ada3d_ros.ros.detector_health import NO_LENS, NO_NAME, NO_SUCH_NUMBER
from ada3d_ros.ros.health_state import MatchReport
from ada3d_ros.sources.camera_info import camera_of
from ada3d_ros.sources.messages import frame_name, stamp_of
from ada3d_ros.types import RgbdFrame

KEPT = 600  # arrays, and camera_infos: 20 s at 30 Hz
MIN_SCORE = 0.45  # where detector.min_score is 0; a publisher has a threshold of its own
ENOUGH = 5  # arrays that came since a keyframe was first asked for: its own would have, too
EDGE_POINTS = 8  # of each side of a box that is undistorted
MAX_MISSED = 200  # keyframes remembered that have no array yet

Box = tuple[float, float, float, float]


class TopicDetector:
    """A Detector whose boxes somebody else publishes.

    topic: its name, for people. rectified: the images are, so their camera_info has no lens. An
    array belongs to the image of exactly its stamp, else to the nearest within `slop_ns`.
    """

    def __init__(
        self, topic: str, config: DetectorConfig, slop_s: float, rectified: bool = False
    ) -> None:
        """Raises DetectorError for a file of names that cannot be read."""
        self._topic, self._rectified, self.slop_ns = topic, rectified, round(slop_s * 1e9)
        self._min_score = config.min_score or MIN_SCORE
        self._names = read_names(Path(config.names)) if config.names else ()
        self._numbered = False  # classes come as numbers
        self._lock = threading.Lock()
        self._arrays: dict[int, Any] = {}  # by stamp, in order of arrival
        self._stamps: list[int] = []  # the same, sorted
        self._infos: dict[int, Any] = {}  # camera_info by the stamp of its image
        self._asked: dict[int, int] = {}  # keyframe without an array -> `received` at first
        self._received = self._matched = self._unset = 0
        self._newest_ns = self._matched_ns = -1
        self._other_frame = ""

    @property
    def info(self) -> DetectorInfo:
        """kinds: of detector.names; of COCO where classes come as numbers; else not known."""
        kinds = self._names or (COCO_NAMES if self._numbered else ())
        return DetectorInfo(self._topic, TOPIC, kinds, self._min_score)

    # -- messages

    def add(self, message: Any) -> None:
        """Keep a Detection2DArray; one without a stamp is counted. Pictures that early releases
        bring with each box are not kept.
        """
        stamp_ns = stamp_of(message)
        for detection in message.detections:
            if hasattr(detection, "source_img"):
                detection.source_img = type(detection.source_img)()
        with self._lock:
            self._received += 1
            if stamp_ns <= 0:
                self._unset += 1
                return
            self._newest_ns = stamp_ns
            if stamp_ns not in self._arrays:
                bisect.insort(self._stamps, stamp_ns)
            self._arrays[stamp_ns] = message
            if len(self._arrays) > KEPT:
                oldest = next(iter(self._arrays))
                del self._arrays[oldest]
                self._stamps.remove(oldest)

    def note_camera(self, stamp_ns: int, info: Any) -> None:
        """Keep the camera_info of an image: boxes are in the image as it was taken."""
        with self._lock:
            self._infos[stamp_ns] = info
            if len(self._infos) > KEPT:
                del self._infos[next(iter(self._infos))]

    def clear(self) -> None:
        """Time starts anew: what is kept is of before."""
        with self._lock:
            for kept in (self._arrays, self._stamps, self._infos, self._asked):
                kept.clear()
            self._newest_ns = self._matched_ns = -1

    # -- keyframes

    def detect(self, frame: RgbdFrame) -> FrameDetections | None:
        """The boxes of the array that belongs to a frame; None while none has come."""
        with self._lock:
            message = self._match(frame)
            if message is None:
                self._ask_again(frame.stamp_ns)
                return None
            self._matched += 1
            self._matched_ns = frame.stamp_ns
            self._other_frame = ""
            info = self._infos.get(frame.stamp_ns)
        return self._detections(message, frame, info)

    def set_min_score(self, min_score: float) -> None:
        self._min_score = min_score or MIN_SCORE

    def find(self, frame: RgbdFrame, phrases: Sequence[str]) -> FrameDetections:
        raise DetectorError(f"the detector behind {self._topic} takes no phrases.")

    def matches(self) -> MatchReport:
        """How arrays and keyframes find each other so far."""
        with self._lock:
            missed = [ns for ns, count in self._asked.items() if self._is_missed(ns, count)]
            pairs = [(abs(at - ns), ns, at) for ns in missed for at in self._beside(ns)]
            _, missed_ns, nearest_ns = min(pairs, default=(0, -1, -1))
            return MatchReport(
                received=self._received,
                matched=self._matched,
                missed=len(missed),
                missed_ns=missed_ns,
                nearest_ns=nearest_ns,
                other_frame=self._other_frame,
                unset_stamps=self._unset,
            )

    def _ask_again(self, stamp_ns: int) -> None:
        """Remember a keyframe whose array has not come."""
        self._asked.setdefault(stamp_ns, self._received)
        if len(self._asked) > MAX_MISSED:
            del self._asked[next(iter(self._asked))]

    def _is_missed(self, stamp_ns: int, received: int) -> bool:
        """Whether the array of a keyframe, one after the last that got its own, seems lost."""
        if stamp_ns <= self._matched_ns:
            return False
        return self._newest_ns > stamp_ns + self.slop_ns or self._received - received >= ENOUGH

    def _beside(self, stamp_ns: int) -> list[int]:
        """The stamps next to one, on either side."""
        at = bisect.bisect_left(self._stamps, stamp_ns)
        return self._stamps[max(at - 1, 0) : at + 1]

    def _match(self, frame: RgbdFrame) -> Any:
        """The array of a frame, None where it has not come; one of another camera is none."""
        stamp_ns = frame.stamp_ns
        message = self._arrays.get(stamp_ns)
        # A near one holds once a later one shows that the exact one does not come.
        if message is None and self._newest_ns > stamp_ns:
            near_ns = min(self._beside(stamp_ns), key=lambda ns: abs(ns - stamp_ns), default=-1)
            if near_ns >= 0 and abs(near_ns - stamp_ns) <= self.slop_ns:
                message = self._arrays[near_ns]
        if message is None:
            return None
        named, camera = frame_name(message.header.frame_id), frame.camera_frame_id
        if named and camera and named != camera:
            self._other_frame = named
            return None
        return message

    # -- boxes

    def _detections(self, message: Any, frame: RgbdFrame, info: Any) -> FrameDetections:
        """An array's boxes in the frame's undistorted image."""
        refused: Counter[str] = Counter()
        # Class, score and corners of each, as they were published.
        labels: list[str] = []
        scores: list[float] = []
        boxes: list[Box] = []
        for detection in message.detections:
            class_id, score = _best(detection)
            label = self._label(class_id)
            if label in (NO_NAME, NO_SUCH_NUMBER):
                refused[label] += 1
                continue
            labels.append(label)
            scores.append(score)
            boxes.append(_hull(detection.bbox))

        # Where they lie without the lens.
        size = frame.intrinsics.width, frame.intrinsics.height
        corners = np.array(boxes, np.float64).reshape(-1, 4)
        if info is not None and not self._rectified:
            corners = _undistorted(corners, info, size)
            lost = np.isinf(corners).any(axis=1)
            refused[NO_LENS] += int(lost.sum())
            kept = np.flatnonzero(~lost)
            corners, scores = corners[kept], [scores[i] for i in kept]
            labels = [labels[i] for i in kept]

        found = select_boxes(corners, scores, labels, size, self._min_score)
        refused.update(found.refused)
        return FrameDetections(found.detections, {why: n for why, n in refused.items() if n})

    def _label(self, class_id: str) -> str:
        """The kind that a class is, a name or a number; else NO_NAME or NO_SUCH_NUMBER."""
        text = " ".join(class_id.lower().split())
        if not text.isdecimal():
            return text or NO_NAME
        self._numbered = True
        names = self._names or COCO_NAMES
        return names[int(text)] if len(text) < 6 and int(text) < len(names) else NO_SUCH_NUMBER


def _best(detection: Any) -> tuple[str, float]:
    """Class and score of a detection's best hypothesis; "" and NaN without one."""
    found = [getattr(result, "hypothesis", result) for result in detection.results]
    best = max(found, key=lambda one: -1.0 if math.isnan(one.score) else one.score, default=None)
    if best is None:
        return "", math.nan
    return str(best.class_id if hasattr(best, "class_id") else best.id), float(best.score)


def _hull(box: Any) -> Box:
    """Corners of what a BoundingBox2D covers, upright: one that is turned reaches further."""
    at = getattr(box.center, "position", box.center)
    theta = box.center.theta if math.isfinite(box.center.theta) else math.nan
    cos, sin = abs(math.cos(theta)), abs(math.sin(theta))
    width = box.size_x * cos + box.size_y * sin
    height = box.size_x * sin + box.size_y * cos
    return at.x - width / 2, at.y - height / 2, at.x + width / 2, at.y + height / 2


def _undistorted(
    boxes: npt.NDArray[np.float64], info: Any, size: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """What boxes (N, 4) of the image as taken cover in the undistorted one, (N, 4); inf where the
    lens model has no answer. Boxes outside the picture, or not finite, stay as they are.
    """
    # Only what the picture shows of a box: the lens is not known beyond.
    try:
        camera = camera_of(info, size)
    except FrameError:
        return boxes  # of an image that was refused itself
    shown = np.clip(boxes, 0, [*size, *size])
    result = boxes.copy()
    for index, (x0, y0, x1, y1) in enumerate(shown):
        if not (x1 > x0 and y1 > y0):  # also NaN
            continue

        # The hull of its edge; pixel centres lie at integers, a box's corners between them.
        along = np.linspace(0.0, 1.0, EDGE_POINTS)
        xs, ys = x0 + along * (x1 - x0), y0 + along * (y1 - y0)
        edge = np.vstack(
            [
                *(np.column_stack([xs, np.full_like(xs, y)]) for y in (y0, y1)),
                *(np.column_stack([np.full_like(ys, x), ys]) for x in (x0, x1)),
            ]
        )
        points = undistort_points(edge - 0.5, camera.intrinsics, camera.model, camera.D) + 0.5
        solved = points[np.isfinite(points).all(axis=1)]
        result[index] = (*solved.min(axis=0), *solved.max(axis=0)) if len(solved) else np.inf
    return result
