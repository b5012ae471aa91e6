"""The camera_info of a stream: each holds from its stamp on, until another comes.

Knows no ROS; stamps come from the caller, the time of arrival from time.monotonic().
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from ada3d_ros.ros.sync import MIN_JUMP_NS, stamps_between
from ada3d_ros.sources.camera_info import info_in_force

KEPT = 50  # messages; of what came before them no image is waited for any more
STOPPED_S = 1.0  # without a message for so long (and 3 periods) none is waited for
MAX_IN_VAIN = 3
MAX_STRAYS = 5  # in a row; more are a clock of its own
DUE = 0.75  # of a period after the last message the next one is due


class CameraInfos:
    """The last messages, and which of them holds for an image.

    One that comes once holds for good, also after a reset. Where they come regularly, an image
    waits for its own (`is_due`), so that a change of K meets the right image.
    """

    def __init__(self) -> None:
        self._kept: dict[int, Any] = {}  # by stamp, in order of arrival; 0: stamp not set
        self._gaps_ns: deque[int] = deque(maxlen=5)
        self._last_ns = -1  # stamp of the last one that was not ahead of the images
        self._ahead_ns: deque[int] = deque(maxlen=KEPT)  # stamps ahead of all images so far
        self._arrived_s = 0.0
        self._in_vain = 0  # images in a row that waited for their own and got none
        # image's stamp minus that of the camera_info it was given, s; NaN before the first
        self.lag_s = float("nan")

    def clear(self, until_ns: int = 0) -> None:
        """Time starts anew at `until_ns`: what is stamped later is of before. The last message
        stays in force.
        """
        last = list(self._kept.values())[-1:]
        self._kept = {ns: m for ns, m in self._kept.items() if ns <= until_ns}
        for message in last if not self._kept else ():
            self._kept[0] = message
        self._last_ns = max(self._kept, default=0) or -1
        self._ahead_ns.clear()

    def __len__(self) -> int:
        """Messages kept."""
        return len(self._kept)

    def add(self, stamp_ns: int, message: Any, images_ns: int) -> list[int]:
        """Take one message; images_ns: the newest stamp of the images, -1 before the first.

        Returns for each earlier one that turned out to be stamped ahead how far it was, ns.
        """
        # Without a stamp it only holds where no other does.
        if stamp_ns <= 0:
            self._keep(0, message)
            return []

        # What the images have reached meanwhile was right.
        self._ahead_ns = deque((ahead for ahead in self._ahead_ns if ahead > images_ns), KEPT)

        # Ahead of its own stream and of the images: held against it until one or the other is
        # there. Where it goes on as before, those ahead were stamped wrongly.
        leads_ns: list[int] = []
        late_ns = min(self._last_ns, images_ns)
        is_alone = len(self._ahead_ns) >= MAX_STRAYS and stamp_ns >= self._ahead_ns[-1]
        if late_ns >= 0 and max(self._last_ns, images_ns) < stamp_ns - MIN_JUMP_NS and not is_alone:
            self._ahead_ns.append(stamp_ns)
        else:
            if self._ahead_ns and self._last_ns <= stamp_ns < self._ahead_ns[0]:
                expected = stamps_between(self._last_ns, stamp_ns, len(self._ahead_ns))
                for ahead_ns, expected_ns in zip(self._ahead_ns, expected, strict=True):
                    leads_ns.append(ahead_ns - expected_ns)
                    self._kept.pop(ahead_ns, None)
            self._ahead_ns.clear()
            if stamp_ns > self._last_ns >= 0:
                self._gaps_ns.append(stamp_ns - self._last_ns)
            self._last_ns = stamp_ns

        self._keep(stamp_ns, message)
        self._arrived_s = time.monotonic()
        return leads_ns

    def _keep(self, stamp_ns: int, message: Any) -> None:
        """The newest of its stamp; the first to arrive goes."""
        self._kept.pop(stamp_ns, None)
        self._kept[stamp_ns] = message
        if len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]

    def is_due(self, stamp_ns: int, slop_ns: int) -> bool:
        """Whether the camera_info of an image has not come, and will probably come."""
        if not self._kept:
            return True
        if self._has_own(stamp_ns, slop_ns) or self._in_vain >= MAX_IN_VAIN or not self._gaps_ns:
            return False
        is_time = stamp_ns - max(self._last_ns, 0) >= DUE * min(self._gaps_ns)
        return is_time and not self._has_stopped

    @property
    def _has_stopped(self) -> bool:
        silent_s = time.monotonic() - self._arrived_s
        return not self._gaps_ns or silent_s > max(STOPPED_S, 3e-9 * min(self._gaps_ns))

    def for_image(self, stamp_ns: int, slop_ns: int) -> Any:
        """The message that holds for an image, None before the first."""
        if self._has_own(stamp_ns, slop_ns):
            self._in_vain = 0
        else:
            self._in_vain += self.is_due(stamp_ns, slop_ns)
        kept = sorted(self._kept.items(), key=lambda item: item[0])
        message = info_in_force(kept, stamp_ns, slop_ns)
        if message is None:
            return None
        used_ns = next(kept_ns for kept_ns, other in kept if other is message)
        if used_ns > stamp_ns + MIN_JUMP_NS:  # of another clock: the last to arrive
            used_ns, message = list(self._kept.items())[-1]
        self.lag_s = (stamp_ns - used_ns) / 1e9 if used_ns else float("nan")
        return message

    def _has_own(self, stamp_ns: int, slop_ns: int) -> bool:
        return any(abs(kept_ns - stamp_ns) <= slop_ns for kept_ns in self._kept)
