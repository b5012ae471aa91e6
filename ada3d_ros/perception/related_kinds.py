"""Which kinds detectors take for each other, as data."""

from __future__ import annotations

from functools import lru_cache

# Kinds that one thing is called by, now the one and now the other.
LOOKALIKE = (
    "chair couch bench bed sofa armchair stool ottoman loveseat",
    "backpack handbag suitcase bag luggage",
    "cup bowl bottle vase mug|wine glass",
    "tv laptop monitor screen|computer monitor",
    "table desk bench|dining table|coffee table",
    "remote mouse|cell phone",
    "car truck bus van",
    "cat dog|teddy bear",
)
# Kinds so large that what lies on the surface of one is no other one, but a part of it.
FURNITURE = (
    "chair couch bench bed sofa armchair stool ottoman table desk toilet refrigerator oven sink"
    "|dining table|coffee table"
)


@lru_cache(maxsize=4096)
def look_alike(kind: str, other: str) -> bool:
    """Whether a detector may call one thing by both names."""
    return kind == other or any({kind, other} <= group for group in _GROUPS)


def are_furniture(kind: str, other: str) -> bool:
    """Whether one cannot lie on the surface of the other."""
    return {kind, other} <= _FURNITURE


def _named(names: str) -> frozenset[str]:
    single, *compound = names.split("|")
    return frozenset((*single.split(), *compound))


_GROUPS = tuple(_named(names) for names in LOOKALIKE)
_FURNITURE = _named(FURNITURE)
