"""Values by their stamps, and which two of them lie around another stamp.

Knows no clock: every stamp comes from the caller.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Generic, TypeVar

Value = TypeVar("Value")


class PoseStatus(Enum):
    """What a lookup came to."""

    FOUND = "found"
    NOT_YET = "not_yet"  # what is asked for may still come: wait
    NEVER = "never"  # older than every value kept, or in a gap that is too wide: drop the frame


class PoseReason(StrEnum):
    """Why nothing is known of a stamp: the counter names in diagnostics (`no_pose.<reason>`)."""

    AFTER = "after"  # the stamp lies after the newest pose
    BEFORE = "before"  # it lies before the oldest
    GAP = "gap"  # its neighbours are more than pose.max_gap_sec apart
    UNKNOWN_FRAME = "unknown_frame"  # TF has never named this frame
    NOT_CONNECTED = "not_connected"  # TF has no chain between the two frames
    LOOP = "loop"  # the chain comes back to where it was
    TWO_PARENTS = "two_parents"  # a frame is placed in two frames at once


@dataclass(frozen=True, eq=False, slots=True)
class Bracket(Generic[Value]):
    """The neighbours of a stamp, `fraction` 0..1 of the way from the first to the second.

    Without them the reason, and by how many seconds the stamp misses the nearest value (or how far
    apart the neighbours are).
    """

    neighbours: tuple[Value, Value] | None = None
    fraction: float = 0.0
    reason: PoseReason | None = None
    seconds: float = 0.0

    @property
    def status(self) -> PoseStatus:
        if self.reason is None:
            return PoseStatus.FOUND
        is_late = self.reason is PoseReason.AFTER
        return PoseStatus.NOT_YET if is_late else PoseStatus.NEVER

    def why(self, kind: str, name: str, max_gap_s: float) -> str:
        """A sentence on the reason; of which values: "pose", and a name where they have one."""
        what = f"{kind} {name}".rstrip()
        if self.reason is PoseReason.AFTER:
            return f"the newest {what} is {self.seconds:.3f} s older than the image."
        if self.reason is PoseReason.BEFORE:
            return f"the image is {self.seconds:.3f} s older than the oldest {what} kept."
        around = f"the {kind}s {name}".rstrip() + " around the image"
        allowed = f"allowed {max_gap_s} s (pose.max_gap_sec)"
        return f"{around} are {self.seconds:.3f} s apart, {allowed}."


class StampedValues(Generic[Value]):
    """Takes values in any order; a second of the same stamp replaces the first.

    Holds `max_values` and forgets the one that ARRIVED first, not the oldest stamp: after a bag
    loop the new values carry older stamps and must stay.
    """

    def __init__(self, max_values: int = 2000) -> None:
        if max_values < 2:
            raise ValueError(f"max_values = {max_values}, at least 2 are needed to interpolate.")
        self._max_values = max_values
        self._values: dict[int, Value] = {}  # in order of arrival
        self._stamps: list[int] = []  # ascending
        self.last_ns = -1  # stamp of the one that arrived last

    def __len__(self) -> int:
        return len(self._stamps)

    def add(self, stamp_ns: int, value: Value) -> None:
        # The newest of its stamp.
        if self._values.pop(stamp_ns, None) is None:
            bisect.insort(self._stamps, stamp_ns)
        self._values[stamp_ns] = value
        self.last_ns = stamp_ns

        # When full, the one that arrived first goes.
        if len(self._values) > self._max_values:
            first = next(iter(self._values))
            del self._values[first]
            del self._stamps[bisect.bisect_left(self._stamps, first)]

    def bracket(self, stamp_ns: int, max_gap_s: float) -> Bracket[Value]:
        """The value of this stamp twice, or its two neighbours at most max_gap_s apart."""
        # Exactly this stamp.
        exact = self._values.get(stamp_ns)
        if exact is not None:
            return Bracket((exact, exact))

        # Only older values, or only newer ones.
        after = bisect.bisect_left(self._stamps, stamp_ns)
        if after == len(self._stamps):
            late_s = (stamp_ns - self._stamps[-1]) * 1e-9 if self._stamps else float("inf")
            return Bracket(reason=PoseReason.AFTER, seconds=late_s)
        if after == 0:
            return Bracket(reason=PoseReason.BEFORE, seconds=(self._stamps[0] - stamp_ns) * 1e-9)

        # Between its two neighbours.
        start, stop = self._stamps[after - 1], self._stamps[after]
        if stop - start > round(max_gap_s * 1e9):
            return Bracket(reason=PoseReason.GAP, seconds=(stop - start) * 1e-9)
        fraction = (stamp_ns - start) / (stop - start)
        return Bracket((self._values[start], self._values[stop]), fraction)

    def clear(self) -> None:
        """Forgets every value (clock jumped back, scene reset)."""
        self._values.clear()
        self._stamps.clear()
        self.last_ns = -1
