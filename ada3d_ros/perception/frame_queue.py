"""Frames that wait for a detector: denser than keyframes, few, and the oldest goes under load."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ada3d_ros.config import KeyframeConfig
from ada3d_ros.geometry.pose import Matrix, rotation_angle_rad
from ada3d_ros.types import RgbdFrame

MAX_WAITING = 8
SHARE = 0.25  # of what a keyframe must have moved
RECENT_S = 60.0  # in which frames that went unseen tell that a detector is slow


@dataclass(eq=False, slots=True)
class WaitingFrame:
    """epoch: of its scene; number: in the order in which frames came, whatever their stamps. asked:
    the detector was, and knew nothing of it; put_off: in this round of steps.
    """

    frame: RgbdFrame
    is_keyframe: bool
    epoch: int
    number: int
    asked: bool = False
    put_off: bool = False


class FrameQueue:
    """The frames that are taken and were not looked at, oldest first. Any thread.

    A frame is taken that is a keyframe, or moved by SHARE of keyframe.min_translation_m or
    min_rotation_deg against the last one that was. dropped, unmatched: how many went unseen;
    unmatched: of those that the detector had been asked about. now: in s.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._lock, self._now = threading.Lock(), now
        self._waiting: list[WaitingFrame] = []
        self._last: RgbdFrame | None = None  # that was taken
        self._first_ns: int | None = None  # stamp of the first that was offered
        self._next = self._earliest = 0  # numbers: of the next frame, of the first
        self._ends: deque[tuple[float, bool]] = deque()  # when each left, and whether unseen
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
            if last is frame:  # a step saw it in the scene first
                return False
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
                self._note_end(unseen=True)
            self._waiting.append(WaitingFrame(frame, is_keyframe, epoch, self._next))
            self._next += 1
            return True

    def add_earlier(self, keyframes: Sequence[RgbdFrame], epoch: int) -> None:
        """Put keyframes of before the first offered frame in front. The newest of them may be
        offered yet: a frame is in the scene before it is offered here.
        """
        with self._lock:
            first_ns = self._first_ns
            earlier = [f for f in keyframes if first_ns is None or f.stamp_ns < first_ns]
            self._earliest -= len(earlier)
            self._waiting[:0] = [
                WaitingFrame(frame, True, epoch, number)
                for number, frame in enumerate(earlier, start=self._earliest)
            ]
            if earlier:
                self._first_ns = earlier[0].stamp_ns
                self._last = self._last or earlier[-1]

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
            later = [each.number > taken.number for each in self._waiting]
            self._waiting.insert(later.index(True) if True in later else len(later), taken)

    def note_seen(self) -> None:
        """A frame that was taken has been looked at."""
        with self._lock:
            self._note_end(unseen=False)

    def recent(self) -> tuple[int, int]:
        """Of the last RECENT_S: how many frames were looked at or went unseen, and the latter."""
        with self._lock:
            self._forget_ends()
            return len(self._ends), sum(unseen for _, unseen in self._ends)

    def begin_round(self) -> None:
        """Those that were put off count again."""
        for each in self.waiting:
            each.put_off = False

    def clear(self) -> None:
        """Another scene, or none."""
        with self._lock:
            self._waiting, self._last, self._first_ns = [], None, None

    def _note_end(self, unseen: bool) -> None:
        self._ends.append((self._now(), unseen))
        self._forget_ends()

    def _forget_ends(self) -> None:
        while self._ends and self._ends[0][0] <= self._now() - RECENT_S:
            self._ends.popleft()


def has_moved(last: Matrix, pose: Matrix, config: KeyframeConfig) -> bool:
    """Whether a camera has moved from one pose (4, 4) to another by SHARE of what makes a keyframe:
    what it sees then adds to what a detector knows.
    """
    far_m = float(np.linalg.norm(pose[:3, 3] - last[:3, 3]))
    turned_deg = float(np.rad2deg(rotation_angle_rad(last, pose)))
    return (
        far_m >= SHARE * config.min_translation_m or turned_deg >= SHARE * config.min_rotation_deg
    )
