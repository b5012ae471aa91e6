"""When the messages of a bag are played, and which stamps they get. No ROS; for the player.

Messages whose bag times lie far apart are not waited for. A few that stand apart from all others (a
recorder in simulated time writes its first ones at time 0) say nothing about the time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from ada3d_ros.sources.bag_reader import Message

GAP_NS = 60_000_000_000  # a longer pause of the recording is cut
DAY_NS = 86_400_000_000_000  # farther apart, bag times are of different clocks
FEW, VERY_FEW = 20, 3  # messages that may stand apart: by more than a day, by more than a gap
LOOK_AHEAD = 2 * FEW + 2  # messages held at the start, and behind a gap
SAME_CLOCK_NS = 400_000_000  # stamps that lead the bag time alike within this are of one clock
MAX_CLOCKS = 16  # of the stamps in one bag


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the bag, and when it is played.

    apart: among few, far from a part with more messages; it is sent at once, and the clock does not
    follow it. gap_ns: how far it is from the message before, on topic `after`, where that is more
    than a minute. pause_ns: the part of the recording's time that is to be cut before it.
    """

    message: Message
    apart: bool = False
    gap_ns: int = 0
    after: str = ""
    pause_ns: int = 0


class Turns:
    """The messages of one pass through a bag as turns; iterate once.

    first_ns, last_ns: bag time of what has been played, without what stands apart; None before the
    first. clock_first_ns: the first since bag times went on with another clock.
    """

    def __init__(self, messages: Iterator[Message]) -> None:
        self._messages = messages
        self.first_ns: int | None = None
        self.clock_first_ns = self.last_ns = 0

    def __iter__(self) -> Iterator[Turn]:
        topic, time_ns = "", None
        for message, apart in mark_apart(self._messages):
            # Its distance from the message before, and from the recording's last.
            bag_ns = message[1]
            distance_ns = 0 if time_ns is None else abs(bag_ns - time_ns)
            since_ns = 0 if self.first_ns is None else bag_ns - self.last_ns
            goes_on = not apart and self.first_ns is not None and abs(since_ns) <= GAP_NS
            turn = Turn(
                message,
                apart,
                gap_ns=0 if goes_on or distance_ns <= GAP_NS else distance_ns,
                after=topic,
                pause_ns=0 if apart or since_ns <= GAP_NS else since_ns,
            )
            topic, time_ns = message[0].topic, bag_ns

            # Where the recording stands.
            if not apart:
                if self.first_ns is None:
                    self.first_ns = self.clock_first_ns = bag_ns
                elif since_ns > DAY_NS:
                    self.clock_first_ns = bag_ns
                self.last_ns = bag_ns
            yield turn


def mark_apart(messages: Iterator[Message]) -> Iterator[tuple[Message, bool]]:
    """Each message, and whether it stands apart: among few, far from the recording so far and from
    the part behind it, one of which has more messages.
    """
    ahead: deque[Message] = deque()
    num_before, last_ns = 0, 0  # of the recording so far
    while True:
        # The part that comes next, as far as can be seen.
        ahead.extend(islice(messages, LOOK_AHEAD - len(ahead)))
        if not ahead:
            return
        seen = list(ahead)
        size = _size_of_part(seen)
        num_behind = _size_of_part(seen[size:])

        # How far it is from its neighbours, and whether these are more.
        distances = [abs(seen[0][1] - last_ns)] if num_before else []
        if num_behind:
            distances.append(abs(seen[size][1] - seen[size - 1][1]))
        distance_ns = min(distances, default=0)
        few = FEW if distance_ns > DAY_NS else VERY_FEW
        if distance_ns > GAP_NS and size <= few and size < max(num_before, num_behind):
            for _ in range(size):
                yield ahead.popleft(), True
            continue

        # Else the recording goes on with it, up to the next gap.
        last_ns = seen[0][1]
        while ahead and abs(ahead[0][1] - last_ns) <= GAP_NS:
            last_ns = ahead[0][1]
            num_before += 1
            yield ahead.popleft(), False
            if not ahead:
                ahead.extend(islice(messages, 1))


def _size_of_part(messages: Sequence[Message]) -> int:
    """How many messages come before the first gap."""
    for index in range(1, len(messages)):
        if abs(messages[index][1] - messages[index - 1][1]) > GAP_NS:
            return index
    return len(messages)


class Pace:
    """Maps bag time to time.monotonic() at a rate; `hold` freezes it, `skip` jumps ahead."""

    def __init__(self, start_ns: int, rate: float) -> None:
        self._start_ns, self._rate = start_ns, rate
        self._begin = self._now = time.monotonic()
        self._wall_begin_ns = time.time_ns()

    def hold(self) -> None:
        now = time.monotonic()
        self._begin += now - self._now
        self._wall_begin_ns += int((now - self._now) * 1e9)
        self._now = now

    def skip(self, gap_ns: int) -> None:
        """Bag time jumps ahead by `gap_ns` now."""
        self._start_ns += gap_ns

    def wall_ns(self, bag_ns: int) -> int:
        """The wall time at which bag time `bag_ns` is played."""
        return self._wall_begin_ns + int((bag_ns - self._start_ns) / self._rate)

    def now_ns(self) -> int:
        self._now = time.monotonic()
        return self._start_ns + int((self._now - self._begin) * self._rate * 1e9)

    def seconds_until(self, bag_ns: int) -> float:
        return (bag_ns - self.now_ns()) / 1e9 / self._rate


class StampClocks:
    """The clocks of the stamps in a bag, by how far they lead its bag time.

    Stamps of one clock keep their distances. A stamp that fits no clock known so far is the first
    of another.
    """

    def __init__(self) -> None:
        self._leads_ns: list[int] = []

    def __len__(self) -> int:
        """Clocks known."""
        return len(self._leads_ns)

    def bag_time_of(self, stamp_ns: int, bag_ns: int) -> int:
        """The bag time of a stamp that was recorded at `bag_ns`; 0.4 s from there at most."""
        lead_ns = stamp_ns - bag_ns
        known = self._leads_ns
        fitting = (k for k in known if abs(lead_ns - k) <= SAME_CLOCK_NS)
        fit_ns = next(fitting, None)
        if fit_ns is None:
            del known[MAX_CLOCKS - 1 :]  # wrong stamps must not use up memory
            known.append(lead_ns)
            fit_ns = lead_ns
        return stamp_ns - fit_ns
