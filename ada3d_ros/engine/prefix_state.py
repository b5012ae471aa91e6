"""The states of the prefix cache, and what moves it from one to another."""

from __future__ import annotations

from enum import Enum


class PrefixState(Enum):
    """Whether questions can be answered from the cache, and how true it is to the scene.

    | state    | event           | next     |
    |----------|-----------------|----------|
    | ABSENT   | BUILD_STARTED   | BUILDING |
    | ABSENT   | SCENE_CHANGED   | ABSENT   |
    | ABSENT   | FORGOTTEN       | ABSENT   |
    | BUILDING | BUILD_FINISHED  | READY    |
    | BUILDING | BUILD_ABANDONED | ABSENT   |
    | BUILDING | SCENE_CHANGED   | BUILDING |
    | BUILDING | FORGOTTEN       | ABSENT   |
    | READY    | SCENE_CHANGED   | STALE    |
    | READY    | FORGOTTEN       | ABSENT   |
    | STALE    | BUILD_STARTED   | STALE    |
    | STALE    | BUILD_FINISHED  | READY    |
    | STALE    | BUILD_ABANDONED | STALE    |
    | STALE    | SCENE_CHANGED   | STALE    |
    | STALE    | CAUGHT_UP       | READY    |
    | STALE    | FORGOTTEN       | ABSENT   |

    A build that finishes for a scene that has changed meanwhile goes through READY to STALE at
    once. Any other pair is a programming error and raises.
    """

    ABSENT = "absent"  # nothing answers questions, nothing is being built
    BUILDING = "building"  # the first prefix is being built
    READY = "ready"  # the active prefix is the scene as it is, in voxel order
    STALE = "stale"  # the active prefix answers, but the scene has changed since


class PrefixEvent(Enum):
    """What moves the cache from one state to another."""

    BUILD_STARTED = "build started"
    BUILD_FINISHED = "build finished"
    BUILD_ABANDONED = "build abandoned"
    SCENE_CHANGED = "scene changed"
    CAUGHT_UP = "caught up"
    FORGOTTEN = "forgotten"


TRANSITIONS = {
    (PrefixState.ABSENT, PrefixEvent.BUILD_STARTED): PrefixState.BUILDING,
    (PrefixState.ABSENT, PrefixEvent.SCENE_CHANGED): PrefixState.ABSENT,
    (PrefixState.ABSENT, PrefixEvent.FORGOTTEN): PrefixState.ABSENT,
    (PrefixState.BUILDING, PrefixEvent.BUILD_FINISHED): PrefixState.READY,
    (PrefixState.BUILDING, PrefixEvent.BUILD_ABANDONED): PrefixState.ABSENT,
    (PrefixState.BUILDING, PrefixEvent.SCENE_CHANGED): PrefixState.BUILDING,
    (PrefixState.BUILDING, PrefixEvent.FORGOTTEN): PrefixState.ABSENT,
    (PrefixState.READY, PrefixEvent.SCENE_CHANGED): PrefixState.STALE,
    (PrefixState.READY, PrefixEvent.FORGOTTEN): PrefixState.ABSENT,
    (PrefixState.STALE, PrefixEvent.BUILD_STARTED): PrefixState.STALE,
    (PrefixState.STALE, PrefixEvent.BUILD_FINISHED): PrefixState.READY,
    (PrefixState.STALE, PrefixEvent.BUILD_ABANDONED): PrefixState.STALE,
    (PrefixState.STALE, PrefixEvent.SCENE_CHANGED): PrefixState.STALE,
    (PrefixState.STALE, PrefixEvent.CAUGHT_UP): PrefixState.READY,
    (PrefixState.STALE, PrefixEvent.FORGOTTEN): PrefixState.ABSENT,
}
