"""The curriculum: what each stage shows, for how long, and which weights it moves.

From the study of what learns (docs/log.md): answers start from a few true points per room, never from images; perception is taught apart, on
patches; pictures come last. `vision` may run beside the other stages in a process of its own: its features mean the same as the oracle's, so
`features` takes over a tower that has got better meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage. rooms: passes over a room until it is done; batch: rooms a step; questions: a room; lr: peak of AdamW and Muon;
    per_object, background: points of symbolic rooms; decay: share of the stage's end over which the rate falls to a tenth."""

    name: str
    shows: str  # symbolic, oracle, patches, features (images through a tower that stays as it is), images
    rooms: int
    batch: int
    questions: int
    lr: float
    per_object: int = 0
    background: int = 0
    decay: float = 0.0


STAGES = (
    Stage("symbolic", "symbolic", 60_000, 8, 17, 2e-3, per_object=1, background=3),
    Stage("points", "symbolic", 24_000, 8, 17, 1.5e-3, per_object=5, background=16),
    Stage("oracle", "oracle", 16_000, 4, 24, 1e-3),
    Stage("vision", "patches", 40_000, 4, 0, 2e-3, decay=0.3),
    Stage("features", "features", 16_000, 4, 24, 1e-3, decay=0.4),
    Stage("images", "images", 8_000, 4, 24, 3e-4, decay=0.6),
)
# How often each kind of question is asked; one round is 17.
MIX = (
    "existence", "existence", "color", "color", "category", "category", "category", "grounding", "grounding", "grounding",
    "absent", "count", "nearest", "relation", "superlative", "multihop", "caption",
)  # fmt: skip
