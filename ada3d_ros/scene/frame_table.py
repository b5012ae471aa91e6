"""The spatial tokens of a scene frame by frame, nothing merged across views: Video-3D-LLM's form.

Tokens stand in the order of the frames' names, which rise with time. So a prefix is exact when a
newer frame is appended to it, and a frame that goes can be cut out of it: what came after has seen
it, and is stale. A frame that comes back behind newer ones (a scene that was restored) stands
where no prefix made anew would have it: stale, and so are those.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True, eq=False, slots=True)
class FrameTokens:
    """The tokens of one frame: features (n, D); xyz_m (n, 3) float32 in the model's world, on the
    CPU or beside the features; num_patches (n,) int64, 0 for a token without a place (xyz_m NaN).
    """

    features: torch.Tensor
    xyz_m: torch.Tensor
    num_patches: torch.Tensor

    def __len__(self) -> int:
        return self.features.shape[0]


@dataclass(frozen=True, slots=True)
class HeldFrames:
    """The frames of a prefix: names in its order, the tokens of each, and whether each stands
    otherwise than in a prefix made anew: behind a frame that is gone, or out of order.
    """

    names: tuple[int, ...]
    sizes: tuple[int, ...]
    stale: tuple[bool, ...]

    @property
    def in_order(self) -> bool:
        return not any(self.stale)

    def __len__(self) -> int:
        return len(self.names)

    def plus(self, names: Sequence[int], sizes: Sequence[int]) -> HeldFrames:
        """With more frames at its end; stale where one before them is, and from the first on that
        is not where its name belongs.
        """
        joined, known = (*self.names, *names), (*self.stale, *[any(self.stale)] * len(names))
        moved = list(map(operator.ne, joined, sorted(joined)))
        stale = map(operator.or_, known, itertools.accumulate(moved, operator.or_))
        return HeldFrames(joined, (*self.sizes, *sizes), tuple(stale))


class FrameTable:
    """The frames that are in. `revision` grows with every change."""

    def __init__(self) -> None:
        self._frames: dict[int, FrameTokens] = {}
        self.revision = 0

    @property
    def views(self) -> tuple[int, ...]:
        return tuple(self._frames)

    @property
    def frames(self) -> tuple[FrameTokens, ...]:
        """The frames that are in, by their names."""
        return tuple(self._frames.values())

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self._frames.values()))

    def add(self, name: int, view: FrameTokens) -> None:
        assert name not in self._frames, f"frame {name} is in already"
        self._frames = dict(sorted((self._frames | {name: view}).items()))
        self.revision += 1

    def remove(self, name: int) -> None:
        self._frames = {other: view for other, view in self._frames.items() if other != name}
        self.revision += 1

    def of_views(self, names: Sequence[int]) -> FrameTable:
        table = FrameTable()
        for name in names:
            table.add(name, self._frames[name])
        return table

    def tokens(self, names: Sequence[int] | None = None) -> FrameTokens:
        """Of all frames, or of those named, one after the other. Raises LookupError where no frame
        is named.
        """
        frames = [self._frames[name] for name in (self.views if names is None else names)]
        if not frames:
            raise LookupError("no frame is in the table")
        return FrameTokens(
            torch.cat([frame.features for frame in frames]),
            torch.cat([frame.xyz_m for frame in frames]),
            torch.cat([frame.num_patches for frame in frames]),
        )

    def hold(self) -> HeldFrames:
        sizes = tuple(map(len, self._frames.values()))
        return HeldFrames(self.views, sizes, (False,) * len(sizes))

    def new_frames(self, held: HeldFrames) -> tuple[tuple[int, ...], HeldFrames]:
        """The frames that are in and not held, in order, and what is held with them."""
        known = set(held.names)
        new = tuple(name for name in self.views if name not in known)
        return new, held.plus(new, [len(self._frames[name]) for name in new])

    def stale_share(self, held: HeldFrames) -> float:
        """Share of the tokens, held or in now, that are not held as a prefix made now would have
        them: frames that are gone, those that came after them, and those that are new, with those
        that come after these.
        """
        new, _ = self.new_frames(held)
        total = stale = sum(len(self._frames[name]) for name in new)
        seen_gone = False
        for name, size, is_stale in zip(held.names, held.sizes, held.stale, strict=True):
            seen_gone = seen_gone or name not in self._frames
            total += size
            stale += size if seen_gone or is_stale or (new and name > new[0]) else 0
        return stale / max(total, 1)

    def without_gone(self, held: HeldFrames) -> tuple[torch.Tensor, HeldFrames] | None:
        if all(name in self._frames for name in held.names):
            return None
        kept, names, sizes, stale = [], [], [], []
        start, seen_gone = 0, False
        for name, size, was_stale in zip(held.names, held.sizes, held.stale, strict=True):
            if name in self._frames:
                kept.append(torch.arange(start, start + size))
                names.append(name)
                sizes.append(size)
                stale.append(was_stale or seen_gone)
            else:
                seen_gone = True
            start += size
        index = torch.cat(kept) if kept else torch.zeros(0, dtype=torch.int64)
        return index, replace(held, names=tuple(names), sizes=tuple(sizes), stale=tuple(stale))
