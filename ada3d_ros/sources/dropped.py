"""What a source could not use: a count per reason, and the first sentence of each."""

from __future__ import annotations

from collections import Counter

from ada3d_ros.errors import FrameError, FrameReason, PoseError


class Dropped(Counter[FrameReason]):
    """Counts per reason; `note` counts an error and keeps the first one's text."""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[FrameReason, str] = {}

    def note(self, error: FrameError | PoseError) -> None:
        reason = FrameReason.BAD_POSE if isinstance(error, PoseError) else error.reason
        self[reason] += 1
        self.first.setdefault(reason, str(error))

    def drop_zeros(self) -> None:
        for reason in [reason for reason, count in self.items() if not count]:
            del self[reason]

    def lines(self) -> list[str]:
        """`bad_size 6, first: 0.png ...`, the most frequent reason first."""
        return [
            f"{reason} {count}" + (f", first: {self.first[reason]}" if reason in self.first else "")
            for reason, count in self.most_common()
            if count
        ]
