"""Nearest-stamp synchronisation: colour, depth and camera_info of one moment.

The stock Python ApproximateTimeSynchronizer locks up after a callback exception, never recovers
from a bag loop and pairs greedily; this one does none of that. `NearestStampMatcher` is the policy
(no ROS, no clock, no threads); `NearestStampSynchronizer` is the message filter around it.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ada3d_ros.errors import FrameReason
from ada3d_ros.ros.filters import SimpleFilter
from ada3d_ros.sources.messages import stamp_of

MIN_JUMP_NS = 500_000_000  # a stamp must fall back by at least this to count as a time jump


@dataclass(slots=True)
class _Queue:
    """Messages of one input in stamp order; stamps are unique."""

    stamps: list[int] = field(default_factory=list)
    messages: list[Any] = field(default_factory=list)
    newest_ns: int = -1  # newest stamp ever seen in this era
    after_jump: list[tuple[int, Any]] = field(
        default_factory=list
    )  # arrived with a stamp far in the past

    def insert(self, stamp_ns: int, message: Any) -> None:
        position = bisect.bisect_left(self.stamps, stamp_ns)
        self.stamps.insert(position, stamp_ns)
        self.messages.insert(position, message)
        self.newest_ns = max(self.newest_ns, stamp_ns)

    def pop(self, position: int) -> Any:
        self.stamps.pop(position)
        return self.messages.pop(position)


class NearestStampMatcher:
    """Pairs each message of input 0 (the anchor) with the nearest message of every other input.

    An anchor is decided once every other input has shown a stamp at or after it (so no better
    partner can come), and matches where all partners lie within `slop_ns`, inclusive. A partner is
    used once: it goes to the anchor that is nearest to it among those waiting. Undecided anchors
    beyond `queue_size` are dropped, oldest first.

    `on_drop(reason)` is called for each message given up; `on_jump(old_ns, new_ns)` when all inputs
    fell back in time.
    """

    def __init__(
        self,
        num_inputs: int,
        slop_ns: int,
        queue_size: int,
        missing: Sequence[FrameReason],
        on_drop: Callable[[FrameReason], None] = lambda reason: None,
        on_jump: Callable[[int, int], None] = lambda old_ns, new_ns: None,
    ) -> None:
        if num_inputs < 2 or len(missing) != num_inputs - 1:
            raise ValueError(
                f"{num_inputs} inputs need {num_inputs - 1} reasons for a missing partner, got"
                f" {len(missing)}."
            )
        self.slop_ns = slop_ns
        self.queue_size = queue_size
        self._missing = tuple(missing)
        self._on_drop = on_drop
        self._on_jump = on_jump
        self._queues = [_Queue() for _ in range(num_inputs)]
        self._decided_ns = -1  # stamp of the last decided anchor
        self.smallest_miss_ns: int | None = (
            None  # nearest partner that was out of slop: the slop that would have worked
        )

    def clear(self) -> None:
        """Forget everything, as after a time jump."""
        self._queues = [_Queue() for _ in self._queues]
        self._decided_ns = -1
        self.smallest_miss_ns = None

    def add(self, input_index: int, stamp_ns: int, message: Any) -> list[tuple[Any, ...]]:
        """Take one message; returns the sets it completes, oldest first."""
        queue = self._queues[input_index]
        if stamp_ns < queue.newest_ns - self._jump_ns:
            return self._add_after_jump(queue, stamp_ns, message)
        for _ in queue.after_jump:  # it was a glitch, this input goes on as before
            self._on_drop(FrameReason.BACKWARD_STAMP)
        queue.after_jump.clear()
        if stamp_ns in queue.stamps:
            self._on_drop(FrameReason.BACKWARD_STAMP)
            return []
        if input_index == 0 and stamp_ns <= self._decided_ns:
            self._on_drop(FrameReason.LATE)
            return []
        queue.insert(stamp_ns, message)
        if len(queue.stamps) > self.queue_size:
            self._overflow(input_index)
        return self._decide()

    @property
    def waiting(self) -> tuple[int, ...]:
        """Messages held of each input."""
        return tuple(len(queue.stamps) for queue in self._queues)

    @property
    def _jump_ns(self) -> int:
        return max(self.slop_ns * self.queue_size, MIN_JUMP_NS)

    def _overflow(self, input_index: int) -> None:
        queue = self._queues[input_index]
        stamp = queue.stamps[0]
        queue.pop(0)
        if input_index == 0:
            lacking = next(
                (i for i, other in enumerate(self._queues[1:]) if other.newest_ns < stamp), 0
            )
            self._on_drop(self._missing[lacking])
            self._decided_ns = max(self._decided_ns, stamp)

    def _add_after_jump(self, queue: _Queue, stamp_ns: int, message: Any) -> list[tuple[Any, ...]]:
        queue.after_jump.append((stamp_ns, message))
        if len(queue.after_jump) > self.queue_size:
            queue.after_jump.pop(0)
            self._on_drop(FrameReason.BACKWARD_STAMP)
        if not all(q.after_jump or (not q.stamps and q.newest_ns < 0) for q in self._queues):
            return []
        old_ns = max(q.newest_ns for q in self._queues)
        kept = [q.after_jump for q in self._queues]
        self.clear()
        self._on_jump(old_ns, stamp_ns)
        return [
            match
            for i, messages in enumerate(kept)
            for stamp, m in messages
            for match in self.add(i, stamp, m)
        ]

    def _decide(self) -> list[tuple[Any, ...]]:
        matches = []
        anchors = self._queues[0]
        while anchors.stamps and all(q.newest_ns >= anchors.stamps[0] for q in self._queues[1:]):
            match = self._match_oldest()
            if match is not None:
                matches.append(match)
        return matches

    def _match_oldest(self) -> tuple[Any, ...] | None:
        anchors = self._queues[0]
        stamp = anchors.stamps[0]
        positions = []
        for index, queue in enumerate(self._queues[1:]):
            position = self._nearest_free(queue, stamp)
            if position is None:
                self._on_drop(self._missing[index])
                break
            positions.append(position)
        anchor = anchors.pop(0)
        self._decided_ns = stamp
        if len(positions) < len(self._queues) - 1:
            self._discard_unreachable()
            return None
        match = (anchor, *(q.pop(p) for q, p in zip(self._queues[1:], positions, strict=True)))
        self._discard_unreachable()
        return match

    def _nearest_free(self, queue: _Queue, stamp: int) -> int | None:
        """Position of the nearest partner within slop that no waiting anchor is nearer to."""
        waiting = self._queues[0].stamps[1:]
        best: int | None = None
        for position, candidate in enumerate(queue.stamps):
            gap = abs(candidate - stamp)
            if best is not None and gap >= abs(queue.stamps[best] - stamp):
                continue
            if any(abs(candidate - other) < gap for other in waiting):
                continue
            best = position
        if best is None:
            return None
        gap = abs(queue.stamps[best] - stamp)
        if gap > self.slop_ns:
            self.smallest_miss_ns = (
                gap if self.smallest_miss_ns is None else min(self.smallest_miss_ns, gap)
            )
            return None
        return best

    def _discard_unreachable(self) -> None:
        """Partners older than any future anchor could use."""
        for queue in self._queues[1:]:
            while queue.stamps and queue.stamps[0] < self._decided_ns - self.slop_ns:
                queue.pop(0)


class NearestStampSynchronizer(SimpleFilter):
    """A message filter that sends (colour, depth, camera_info) sets of one moment.

    `inputs` are message filters in that order. Messages need a `header.stamp`; one with a zero
    stamp is dropped and counted. A callback that raises does not stop the filter: the error leaves
    through the caller, the next message is handled as usual.
    """

    def __init__(
        self,
        inputs: Sequence[Any],
        matcher: NearestStampMatcher,
        on_drop: Callable[[FrameReason], None],
    ) -> None:
        super().__init__()
        self.matcher = matcher
        self._on_drop = on_drop
        for index, source in enumerate(inputs):
            source.registerCallback(self._receive, index)

    def _receive(self, message: Any, index: int) -> None:
        stamp_ns = stamp_of(message)
        if stamp_ns <= 0:  # the field is signed; a negative stamp is as good as none
            self._on_drop(FrameReason.ZERO_STAMP)
            return
        for match in self.matcher.add(index, stamp_ns, message):
            self.signalMessage(*match)
