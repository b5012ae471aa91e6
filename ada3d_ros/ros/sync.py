"""Nearest-stamp synchronisation: colour and depth of one moment.

The stock Python ApproximateTimeSynchronizer locks up after a callback exception, never recovers
from a bag loop and pairs greedily; this one does none of that. `NearestStampMatcher` is the policy
(no ROS, no clock, no threads); `NearestStampSynchronizer` is the message filter around it.

A ROS distribution provides message_filters; the wheels do not. `SimpleFilter` and `Subscriber` are
the distribution's, or a stand-in with the part of their surface that is needed here.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ada3d_ros.errors import FrameReason
from ada3d_ros.sources.messages import stamp_of

try:
    from message_filters import SimpleFilter, Subscriber
except ImportError:

    class SimpleFilter:  # type: ignore[no-redef]
        """A source of messages that calls every registered callback in order."""

        def __init__(self) -> None:
            self.callbacks: dict[int, tuple[Callable[..., Any], tuple[Any, ...]]] = {}

        def registerCallback(self, cb: Callable[..., Any], *args: Any) -> int:
            """Call `cb(*messages, *args)` for each output; returns a connection number."""
            connection = len(self.callbacks)
            self.callbacks[connection] = (cb, args)
            return connection

        def signalMessage(self, *msg: Any) -> None:
            """Send one output to every callback."""
            for callback, args in self.callbacks.values():
                callback(*(msg + args))

    class Subscriber(SimpleFilter):  # type: ignore[no-redef]
        """A subscription as a filter: (node, type, topic, **create_subscription options)."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__()
            self.node, message_type, self.topic = args[:3]
            kwargs.setdefault("qos_profile", 10)
            self.sub = self.node.create_subscription(
                message_type, self.topic, self.signalMessage, **kwargs
            )


MIN_JUMP_NS = 500_000_000  # stamps that differ by less are never taken for a jump in time
SAME_TIME_NS = 100_000_000  # inputs whose stamps differ by less stand at the same time


def stamps_between(first_ns: int, last_ns: int, count: int) -> list[int]:
    """Stamps that `count` messages between two others should have had; evenly spaced.

    All are `last_ns` where the first is not set (-1) or not before the last.
    """
    gap_ns = last_ns - first_ns if 0 <= first_ns < last_ns else 0
    return [last_ns - gap_ns * i // (count + 1) for i in range(count, 0, -1)]


@dataclass(slots=True)
class _Input:
    """Messages of one input in stamp order; stamps are unique."""

    stamps: list[int] = field(default_factory=list)
    messages: list[Any] = field(default_factory=list)
    last_ns: int = -1  # stamp of the message taken last: where the input stands
    held: list[tuple[int, Any]] = field(default_factory=list)  # stamp, message as they arrived
    contradicted: bool = False  # another input went on as before while messages were held
    confirmed: bool = False  # an input agreed with its last jump, or a set was made since

    @property
    def num_kept(self) -> int:
        return len(self.stamps) + len(self.held)

    def insert(self, stamp_ns: int, message: Any) -> None:
        position = bisect.bisect_left(self.stamps, stamp_ns)
        self.stamps.insert(position, stamp_ns)
        self.messages.insert(position, message)

    def pop(self, position: int) -> Any:
        self.stamps.pop(position)
        return self.messages.pop(position)

    def distance_ns(self, stamp_ns: int) -> int:
        """How far a stamp lies outside of what is queued and was taken last."""
        taken = (self.last_ns, *self.stamps[:1], *self.stamps[-1:])
        return max(min(taken) - stamp_ns, stamp_ns - max(taken), 0)

    def holds(self, stamp_ns: int, within_ns: int) -> bool:
        return any(abs(held_ns - stamp_ns) <= within_ns for held_ns, _ in self.held)


class NearestStampMatcher:
    """Pairs each message of input 0 (the anchor) with the nearest message of every other input.

    An anchor is decided once every other input has shown a stamp at or after it (so no better
    partner can come), and matches where all partners lie within `slop_ns`, inclusive. A partner is
    used once: it goes to the anchor that is nearest to it among those waiting. Undecided anchors
    beyond `queue_size` are dropped, oldest first.

    One wrong stamp decides nothing. A message far from its input's last stamp (ahead by more than
    0.5 s and `slop_ns`, behind by more than 0.5 s and `slop_ns * queue_size`) is held until more of
    the other inputs stand at its stamp than at that last one: then time has jumped, or the last one
    was wrong, and the input goes on from there. Where the input goes on as before instead, what it
    held is dropped (FUTURE_STAMP, BACKWARD_STAMP). An input keeps at most `queue_size` messages.

    `on_drop(reason)` is called for each message given up; `on_jump(old_ns, new_ns)` before the
    first set that is older than the set before it, when all inputs have fallen back in time.
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
            raise ValueError(f"{num_inputs} inputs, {len(missing)} reasons for a missing partner.")
        self.slop_ns = slop_ns
        self.queue_size = queue_size
        self._missing = tuple(missing)
        self._on_drop = on_drop
        self._on_jump = on_jump
        # input of the last message dropped as FUTURE_STAMP, and how far ahead it was, ns
        self.last_ahead = (0, 0)
        self._inputs = [_Input() for _ in range(num_inputs)]
        self.clear()

    def clear(self) -> None:
        """Forget everything, as after a time jump."""
        self._inputs = [_Input() for _ in self._inputs]
        self._decided_ns = -1  # stamp of the last decided anchor
        self._matched_ns = -1  # stamp of the last set
        # by input: how far its nearest free messages were from the anchors they did not fit
        self.misses_ns = [deque[int](maxlen=20) for _ in self._inputs]

    @property
    def newest_ns(self) -> int:
        """The newest stamp of all inputs, -1 before the first; held messages do not count."""
        return max(source.last_ns for source in self._inputs)

    @property
    def num_queued(self) -> list[int]:
        """How many messages of each input are queued or held, at most `queue_size`."""
        return [source.num_kept for source in self._inputs]

    def add(self, input_index: int, stamp_ns: int, message: Any) -> list[tuple[Any, ...]]:
        """Take one message; returns the sets it completes, oldest first."""
        source = self._inputs[input_index]
        if self._continues(source, stamp_ns):
            # the input goes on as before: what it held was stamped wrongly
            expected = stamps_between(source.last_ns, stamp_ns, len(source.held))
            for (held_ns, _), expected_ns in zip(source.held, expected, strict=True):
                self._drop_stray(input_index, held_ns, expected_ns)
            source.held.clear()
            source.contradicted = False
            last_ns = source.last_ns
            self._take(input_index, stamp_ns, message)
            if stamp_ns >= last_ns - self._same_ns:  # out of order, but time has not gone back
                source.last_ns = max(last_ns, stamp_ns)
            for other in self._inputs:
                other.contradicted |= bool(other.held)
        else:
            source.held.append((stamp_ns, message))
        self._settle(input_index)
        return self._decide()

    # -- which stamps are of this time

    @property
    def _ahead_ns(self) -> int:
        return max(self.slop_ns, MIN_JUMP_NS)

    @property
    def _same_ns(self) -> int:
        return max(self.slop_ns, SAME_TIME_NS)

    @property
    def _behind_ns(self) -> int:
        return max(self.slop_ns * self.queue_size, MIN_JUMP_NS)

    def _continues(self, source: _Input, stamp_ns: int) -> bool:
        if source.last_ns < 0:  # its first: the others tell where time stands, if anyone does
            return self.newest_ns < 0 or stamp_ns <= self.newest_ns + self._ahead_ns
        oldest_ns, newest_ns = source.last_ns - self._behind_ns, source.last_ns + self._ahead_ns
        return oldest_ns <= stamp_ns <= newest_ns

    def _settle(self, input_index: int) -> None:
        """Let inputs follow the messages they hold, until none has a reason to."""
        while any(self._follow(index) for index in range(len(self._inputs))):
            pass

        # nobody confirmed them and nobody speaks against them: the input has moved on alone
        source = self._inputs[input_index]
        if source.held and source.num_kept > self.queue_size:
            if source.contradicted and source.last_ns >= 0:
                self._drop_stray(input_index, source.held.pop(0)[0], self.newest_ns)
            else:
                self._move(input_index, len(source.held) - 1)
                source.confirmed = False

    def _follow(self, index: int) -> bool:
        """Let one input go on from a message it holds, if the others agree; whether it did."""
        held = self._inputs[index].held
        for position in reversed(range(len(held))):
            if self._others_agree(index, held[position][0]):
                self._move(index, position)
                return True
        return False

    def _others_agree(self, index: int, stamp_ns: int) -> bool:
        """Whether more of the other inputs stand at `stamp_ns` than at this input's last stamp."""
        last_ns = self._inputs[index].last_ns
        within_ns = self._same_ns
        at_stamp = at_last = 0
        for other in self._inputs:
            if other.last_ns < 0 or other is self._inputs[index]:
                continue
            distance_ns = other.distance_ns(stamp_ns)
            if distance_ns <= within_ns or other.holds(stamp_ns, within_ns):
                at_stamp += 1
            elif last_ns < 0 or other.distance_ns(last_ns) <= distance_ns + self._ahead_ns:
                at_last += 1
        return at_stamp > at_last or at_last == 0

    def _move(self, index: int, position: int) -> None:
        """Let one input go on from the message at `position` of those it holds."""
        source = self._inputs[index]
        earlier, later = source.held[:position], source.held[position:]
        stamp_ns, old_ns = later[0][0], source.last_ns
        source.held, source.contradicted = [], False
        limit_ns = stamp_ns + self._same_ns

        # what is queued ahead is of before the jump; if nobody confirmed it, it was stamped wrongly
        if stamp_ns < old_ns:
            while source.stamps and source.stamps[-1] > limit_ns:
                if not source.confirmed:
                    self._drop_stray(index, source.stamps[-1], stamp_ns)
                source.pop(-1)
            if index == 0:
                self._decided_ns = -1
        source.confirmed = True

        expected = stamps_between(old_ns, stamp_ns, len(earlier))
        for (held_ns, message), expected_ns in zip(earlier, expected, strict=True):
            if held_ns > limit_ns or held_ns < old_ns < stamp_ns:
                self._drop_stray(index, held_ns, expected_ns)
            else:
                self._take(index, held_ns, message)
        self._take(index, *later[0])
        for held_ns, message in later[1:]:
            if self._continues(source, held_ns):
                self._take(index, held_ns, message)
            else:
                source.held.append((held_ns, message))

    def _drop_stray(self, index: int, stamp_ns: int, expected_ns: int) -> None:
        """Give up a message that was to be stamped about `expected_ns`."""
        if stamp_ns > expected_ns:
            self.last_ahead = index, stamp_ns - expected_ns
            self._on_drop(FrameReason.FUTURE_STAMP)
        else:
            self._on_drop(FrameReason.BACKWARD_STAMP)

    # -- which messages belong together

    def _take(self, index: int, stamp_ns: int, message: Any) -> None:
        """Queue one message."""
        source = self._inputs[index]
        source.last_ns = stamp_ns
        if stamp_ns in source.stamps:  # the later one is the one that was stamped in order
            source.messages[source.stamps.index(stamp_ns)] = message
            self._on_drop(FrameReason.BACKWARD_STAMP)
            return
        if index == 0 and stamp_ns <= self._decided_ns:
            self._on_drop(FrameReason.LATE)
            return
        source.insert(stamp_ns, message)
        if len(source.stamps) > self.queue_size:
            self._overflow(index)

    def _overflow(self, index: int) -> None:
        source = self._inputs[index]
        stamp = source.stamps[0]
        source.pop(0)
        if index == 0:
            behind = (i for i, other in enumerate(self._inputs[1:]) if other.last_ns < stamp)
            self._on_drop(self._missing[next(behind, 0)])
            self._decided_ns = max(self._decided_ns, stamp)

    def _decide(self) -> list[tuple[Any, ...]]:
        anchors, *partners = self._inputs
        matches = []
        while anchors.stamps and all(p.last_ns >= anchors.stamps[0] for p in partners):
            match = self._match_oldest()
            if match is not None:
                matches.append(match)
        return matches

    def _match_oldest(self) -> tuple[Any, ...] | None:
        """Decide the oldest anchor: its set, or None where a partner is missing."""
        anchors, *partners = self._inputs
        stamp = anchors.stamps[0]
        found = [self._nearest_free(index, stamp) for index in range(1, len(self._inputs))]
        positions = [position for position in found if position is not None]
        if None in found:
            self._on_drop(self._missing[found.index(None)])

        # the set is taken out of the queues
        match = None
        anchor = anchors.pop(0)
        self._decided_ns = stamp
        if len(positions) == len(partners):
            match = (anchor, *(p.pop(at) for p, at in zip(partners, positions, strict=True)))
            if stamp < self._matched_ns - self._behind_ns:
                self._on_jump(self._matched_ns, stamp)
            self._matched_ns = stamp
            for source in self._inputs:
                source.confirmed = True

        # partners older than any later anchor could use
        for partner in partners:
            while partner.stamps and partner.stamps[0] < stamp - self.slop_ns:
                partner.pop(0)
        return match

    def _nearest_free(self, index: int, stamp: int) -> int | None:
        """Position of the nearest message within slop that no waiting anchor is nearer to."""
        waiting, partner = self._inputs[0].stamps[1:], self._inputs[index]
        free = [
            (abs(candidate - stamp), position)
            for position, candidate in enumerate(partner.stamps)
            if all(abs(candidate - other) >= abs(candidate - stamp) for other in waiting)
        ]
        if not free:
            return None
        gap, position = min(free)
        if gap <= self.slop_ns:
            return position
        self.misses_ns[index].append(partner.stamps[position] - stamp)
        return None


class NearestStampSynchronizer(SimpleFilter):
    """A message filter that sends (colour, depth) sets of one moment.

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
