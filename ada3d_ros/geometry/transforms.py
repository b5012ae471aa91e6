"""TF where tf2 is not: frames placed in their parents, chained and interpolated at a stamp.

As in tf2 static transforms hold at every time, others between their samples, never beyond them.
Unlike tf2 it refuses to interpolate over more than `max_gap_s`, and two parents at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ada3d_ros.geometry.pose import Matrix, PoseLookup, Transform, interpolate_pose, invert_pose
from ada3d_ros.geometry.stamped import Bracket, PoseReason, PoseStatus, StampedValues

MAX_NAMED = 8  # frames in a sentence
JUMP_NS = 500_000_000  # stamps of one transform that fall back by more are of another run


@dataclass(frozen=True, slots=True)
class _Step:
    """A frame in its parent at the stamp that was asked for."""

    parent: str
    found: Bracket[Transform]

    def matrix(self) -> Matrix:
        assert self.found.neighbours is not None  # only steps that were found are made
        start, stop = self.found.neighbours
        if start is stop:
            return start.matrix()
        return interpolate_pose(start.matrix(), stop.matrix(), self.found.fraction)


class _Track:
    """One frame in one parent: static, or a sample for each stamp."""

    def __init__(self, max_samples: int) -> None:
        self.static: Transform | None = None
        self.samples = StampedValues[Transform](max_samples)

    def bracket(self, stamp_ns: int, max_gap_s: float) -> Bracket[Transform]:
        if self.static is not None:
            return Bracket((self.static, self.static))
        return self.samples.bracket(stamp_ns, max_gap_s)


class TransformBuffer:
    """Transforms of all frames. jump_ns: a stamp that falls back by more begins another run."""

    def __init__(self, max_samples: int = 500, jump_ns: int | None = JUMP_NS) -> None:
        self._max_samples, self._jump_ns = max_samples, jump_ns
        self._tracks: dict[str, dict[str, _Track]] = {}  # by frame, then by parent
        self._frames: set[str] = set()

    def add(self, parent: str, child: str, stamp_ns: int, where: Transform, static: bool) -> float:
        """Keep one transform; returns by how many seconds its time has fallen back, else 0."""
        self._frames |= {parent, child}
        track = self._tracks.setdefault(child, {}).setdefault(parent, _Track(self._max_samples))
        track.static = where if static else None
        if static:
            track.samples.clear()
            return 0.0
        back_ns = track.samples.last_ns - stamp_ns
        jumped = self._jump_ns is not None and back_ns > self._jump_ns
        if jumped:  # those of before belong to another run
            track.samples.clear()
        track.samples.add(stamp_ns, where)
        return back_ns / 1e9 if jumped else 0.0

    def lookup(self, target: str, source: str, stamp_ns: int, max_gap_s: float) -> PoseLookup:
        """T_target_source (4, 4) at a stamp; else why not: NEVER, or NOT_YET if it may come."""
        unknown = [f"{f!r}" for f in (target, source) if f not in self._frames]
        if unknown:
            known = ", ".join(map(repr, sorted(self._frames)[:MAX_NAMED])) or "none yet"
            why = f"TF has no frame {' and no frame '.join(unknown)}; it has {known}."
            if target not in self._frames and self._frames:
                why += " Set world_frame to that of the map among them."
            return PoseLookup(PoseStatus.NOT_YET, reason=PoseReason.UNKNOWN_FRAME, why=why)

        # From the source to its root, and from the target to where it meets that way.
        ups, top, fault = self._climb(source, set(), stamp_ns, max_gap_s)
        reached = {*ups, top}
        downs, meet, other = self._climb(target, reached, stamp_ns, max_gap_s)
        faults = [f for f in (fault, other) if f is not None]
        faults.sort(key=lambda f: f.reason is not PoseReason.LOOP)
        if meet in reached and not (faults and faults[0].reason is PoseReason.LOOP):
            pose = invert_pose(_chained(downs, meet)) @ _chained(ups, meet)
            return PoseLookup(PoseStatus.FOUND, pose)
        if faults:
            return faults[0]
        why = f"TF does not connect {source!r} (below {top!r}) with {target!r} (below {meet!r})."
        return PoseLookup(PoseStatus.NOT_YET, reason=PoseReason.NOT_CONNECTED, why=why)

    def clear(self) -> None:
        """Forget all but static transforms (time fell back, scene reset)."""
        for tracks in self._tracks.values():
            for track in tracks.values():
                track.samples.clear()

    def _climb(
        self, frame: str, stops: set[str], stamp_ns: int, max_gap_s: float
    ) -> tuple[dict[str, _Step], str, PoseLookup | None]:
        """Steps from a frame to one of `stops` or its root: by frame, the last, and what is wrong
        there.
        """
        steps: dict[str, _Step] = {}
        while frame not in stops and frame in self._tracks:
            if frame in steps:
                loop = " -> ".join(map(repr, [*list(steps)[list(steps).index(frame) :], frame]))
                why = f"the frames of TF form a loop: {loop}; each may have one parent."
                return steps, frame, PoseLookup(PoseStatus.NOT_YET, None, PoseReason.LOOP, why)
            step = self._step(frame, stamp_ns, max_gap_s)
            if isinstance(step, PoseLookup):
                return steps, frame, step
            steps[frame] = step
            frame = step.parent
        return steps, frame, None

    def _step(self, frame: str, stamp_ns: int, max_gap_s: float) -> _Step | PoseLookup:
        """A frame in the one parent that it has at a stamp."""
        steps = [_Step(p, t.bracket(stamp_ns, max_gap_s)) for p, t in self._tracks[frame].items()]
        found = [step for step in steps if step.found.neighbours is not None]
        if len(found) == 1:
            return found[0]
        if found:
            why = two_parents_text(frame, [step.parent for step in found])
            return PoseLookup(PoseStatus.NOT_YET, reason=PoseReason.TWO_PARENTS, why=why)
        nearest = min(steps, key=lambda step: step.found.seconds)
        link, found_none = f"{nearest.parent!r} -> {frame!r}", math.isinf(nearest.found.seconds)
        why = nearest.found.why("transform", link, max_gap_s)
        why = f"no transform {link} since time fell back." if found_none else why
        return PoseLookup(nearest.found.status, reason=nearest.found.reason, why=why)


def two_parents_text(frame: str, parents: list[str]) -> str:
    """A sentence, with what to do."""
    text = f"TF places {frame!r} in {' and '.join(map(repr, parents))} at once"
    return f"{text}: end one publisher, then activate the node anew."


def _chained(steps: dict[str, _Step], until: str) -> Matrix:
    """T_until_first (4, 4) of the steps from their first frame to `until`."""
    T: Matrix = np.eye(4)
    for frame, step in steps.items():
        if frame == until:
            break
        T = step.matrix() @ T
    return T
