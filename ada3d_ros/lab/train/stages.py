"""The curriculum: what each stage shows, for how long, and which weights it moves.

From the study of what learns (docs/log.md): answers start from a few true points per room, never
from images; perception is taught apart, on patches; pictures come last. `vision` may run beside the
other stages in a process of its own: its features mean the same as the oracle's, so `features`
takes over a tower that has got better meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of training.

    shows: symbolic, oracle, patches, features (images through a tower that stays as it is) or
    images; rooms: passes over a room until it is done; batch: rooms a step; questions: a room; lr:
    peak of AdamW and Muon; per_object, background: points of symbolic rooms; decay: share of the
    stage's end over which the rate falls to a tenth.
    """

    name: str
    shows: str
    rooms: int
    batch: int
    questions: int
    lr: float
    per_object: int = 0
    background: int = 0
    decay: float = 0.0


STAGES = (
    Stage("symbolic", "symbolic", 6_000, 8, 22, 2e-3, per_object=1, background=3),
    Stage("points", "symbolic", 1_600, 8, 22, 1.5e-3, per_object=5, background=16),
    Stage("oracle", "oracle", 1_000, 4, 24, 1e-3),
    Stage("vision", "patches", 24_000, 4, 0, 1.5e-3, decay=0.5),
    Stage("features", "features", 12_000, 4, 24, 1e-3, decay=0.4),
    Stage("images", "images", 12_000, 4, 24, 6e-4, decay=0.7),
)
# Less than an hour of one core: a form of the model against another, on the same passes. Tower and
# decoder begin as another model's (--tower, --decoder), what lies between is new.
HOUR = (
    Stage("vision", "patches", 900, 4, 0, 1e-3, decay=0.5),
    Stage("symbolic", "symbolic", 4_800, 8, 22, 2e-3, per_object=1, background=3),
    Stage("points", "symbolic", 1_200, 8, 22, 1.5e-3, per_object=5, background=16),
    Stage("features", "features", 2_400, 4, 24, 1.5e-3, decay=0.6),
)
CURRICULA: Mapping[str, tuple[Stage, ...]] = MappingProxyType({"full": STAGES, "hour": HOUR})
# How often each kind of question is asked; one round is 34. Those that take several steps of
# thought come often: they are learned last.
TIMES = {
    "existence": 2,
    "color": 2,
    "category": 2,
    "grounding": 3,
    "absent": 2,
    "count": 4,
    "nearest": 3,
    "relation": 3,
    "superlative": 3,
    "multihop": 3,
    "caption": 1,
    "side": 1,
    "within": 2,
    "on": 1,
    "under": 1,
    "between": 2,
}
MIX = tuple(kind for kind, times in TIMES.items() for _ in range(times))
