"""Frames that wait for a detector: denser than keyframes, few, and the oldest goes under load."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ada3d_ros.config import KeyframeConfig
from ada3d_ros.geometry.pose import Matrix, rotation_angle_rad
from ada3d_ros.types import RgbdFrame

MAX_WAITING = 8
SHARE = 0.25  # of what a keyframe must have moved


@dataclass(eq=False, slots=True)
class WaitingFrame:
    """epoch: of its scene. asked: the detector was, and knew nothing of it; put_off: in this round
    of steps.
    """

    frame: RgbdFrame
    is_keyframe: bool
    epoch: int
    asked: bool = False
    put_off: bool = False


class FrameQueue:
    """The frames that are taken and were not looked at, oldest first. Any thread.

    A frame is taken that is a keyframe, or moved by SHARE of keyframe.min_translation_m or
    min_rotation_deg against the last one that was. dropped, unmatched: how many went unseen;
    unmatched: of those that the detector had been asked about.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[WaitingFrame] = []
        self._last: RgbdFrame | None = None  # that was taken
        self._first_ns: int | None = None  # stamp of the first that was offered
        self.dropped = self.unmatched = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        return len(self._waiting) >= MAX_WAITING

    @property
    def waiting(self) -> tuple[WaitingFrame, ...]:
        with self._lock:
            return tuple(self._waiting)

    def offer(
        self, frame: RgbdFrame, is_keyframe: bool, epoch: int, config: KeyframeConfig
    ) -> bool:
        """Whether the frame was taken; where that is one too many, the oldest goes."""
        with self._lock:
            if self._first_ns is None:
                self._first_ns = frame.stamp_ns
            last = self._last
            if (
                not is_keyframe
                and last is not None
                and not has_moved(last.T_world_cam, frame.T_world_cam, config)
            ):
                return False
            self._last = frame
            if self.is_full:
                oldest = self._waiting.pop(0)
                self.unmatched += oldest.asked
                self.dropped += not oldest.asked
            self._waiting.append(WaitingFrame(frame, is_keyframe, epoch))
            return True

    def add_earlier(self, keyframes: Sequence[RgbdFrame], epoch: int) -> None:
        """Put keyframes of before the first offered frame in front."""
        with self._lock:
            first_ns = self._first_ns
            earlier = [f for f in keyframes if first_ns is None or f.stamp_ns < first_ns]
            self._waiting[:0] = [WaitingFrame(frame, True, epoch) for frame in earlier]
            if earlier:
                self._first_ns = earlier[0].stamp_ns

    def take(self, epoch: int) -> WaitingFrame | None:
        """The oldest frame of this scene that was not put off. Those of earlier scenes go."""
        with self._lock:
            self._waiting = [each for each in self._waiting if each.epoch >= epoch]
            for i, each in enumerate(self._waiting):
                if each.epoch == epoch and not each.put_off:
                    return self._waiting.pop(i)
            return None

    def put_off(self, taken: WaitingFrame) -> None:
        """Nothing is known of it yet: it is asked for again in the next round."""
        taken.asked = taken.put_off = True
        with self._lock:
            later = [each.frame.stamp_ns > taken.frame.stamp_ns for each in self._waiting]
            self._waiting.insert(later.index(True) if True in later else len(later), taken)

    def begin_round(self) -> None:
        """Those that were put off count again."""
        for each in self.waiting:
            each.put_off = False

    def clear(self) -> None:
        """Another scene, or none."""
        with self._lock:
            self._waiting, self._last, self._first_ns = [], None, None


def has_moved(last: Matrix, pose: Matrix, config: KeyframeConfig) -> bool:
    """Whether a camera has moved from one pose (4, 4) to another by SHARE of what makes a keyframe:
    what it sees then adds to what a detector knows.
    """
    far_m = float(np.linalg.norm(pose[:3, 3] - last[:3, 3]))
    turned_deg = float(np.rad2deg(rotation_angle_rad(last, pose)))
    return (
        far_m >= SHARE * config.min_translation_m or turned_deg >= SHARE * config.min_rotation_deg
    )
