"""Which frames are worth decoding: so many a second, more while a detector looks and the camera
moves.
"""

from __future__ import annotations

from ada3d_ros.config import AgentConfig
from ada3d_ros.geometry.pose import Matrix
from ada3d_ros.perception.frame_queue import has_moved

MOVING = 3  # times input.max_rate_hz, while the camera moves and a detector looks
SLACK = 0.9  # of the time between frames: cameras are not punctual


class FrameRate:
    """input.max_rate_hz, by the stamps of the frames and where they were taken."""

    def __init__(self) -> None:
        self._due_ns = -1  # stamp of the last frame that was due or taken
        self._taken: tuple[int, Matrix] | None = None  # the last one, and its pose

    def clear(self) -> None:
        """What comes next is the first frame."""
        self._due_ns, self._taken = -1, None

    def take_due(self, stamp_ns: int, config: AgentConfig) -> bool:
        """Whether a frame is due wherever the camera is; the next is due so much later. Also where
        stamps fall back.
        """
        ahead_ns = stamp_ns - self._due_ns
        if self._due_ns >= 0 and 0 <= ahead_ns < 1e9 * SLACK / config.input.max_rate_hz:
            return False
        self._due_ns = stamp_ns
        return True

    def may_be_taken(self, config: AgentConfig) -> bool:
        """Whether a frame that is not due is taken where the camera has moved."""
        return bool(config.detector.path) and config.objects.enabled

    def is_worth(self, stamp_ns: int, pose: Matrix | None, config: AgentConfig) -> bool:
        """Whether a frame that was not due is taken, now that its pose (4, 4) is known."""
        if self._taken is None or pose is None:
            return False
        taken_ns, last = self._taken
        is_early = stamp_ns - taken_ns < 1e9 * SLACK / MOVING / config.input.max_rate_hz
        return not is_early and has_moved(last, pose, config.keyframe)

    def note_taken(self, stamp_ns: int, pose: Matrix) -> None:
        """A frame went on, with its pose (4, 4)."""
        self._taken = stamp_ns, pose
        self._due_ns = max(self._due_ns, stamp_ns)
