"""What holds the views of a scene in a model's form, whatever the model: views come and go alone.

LLaVA-3D merges the patches of all views per voxel (voxel_table.py); Video-3D-LLM keeps the rows of
each frame (frame_table.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self

import torch


class HeldScene(Protocol):
    """What a cached prefix was made of, as its table remembers it. in_order: its tokens stand in
    the order in which a prefix made anew would have them.
    """

    @property
    def in_order(self) -> bool: ...

    def __len__(self) -> int:
        """Entries held: voxels, or frames."""
        ...


class SceneTable(Protocol):
    """The views that are in, by name. `revision` grows with every change."""

    @property
    def views(self) -> tuple[int, ...]:
        """The names of the views that are in."""
        ...

    @property
    def revision(self) -> int: ...

    @property
    def num_tokens(self) -> int:
        """Spatial tokens of all views, before any cap."""
        ...

    def add(self, name: int, view: Any) -> None:
        """Put a view in, in the form that the model gave it; names rise with time."""
        ...

    def remove(self, name: int) -> None: ...

    def of_views(self, names: Sequence[int]) -> Self:
        """A table of some of the views alone."""
        ...

    def hold(self) -> HeldScene:
        """What is in now, for a prefix that is made of all of it."""
        ...

    def stale_share(self, held: Any) -> float:
        """Share of what is held or in now that is not held as it is now."""
        ...

    def without_gone(self, held: Any) -> tuple[torch.Tensor, HeldScene] | None:
        """Of the tokens held, (n,) int64 those whose view is still in, and what is held without
        the others; None where a view that went cannot be cut out of a prefix, or none went.
        """
        ...
