"""Scenes of robots, small enough to be sent and asked about many times, and the host's settings."""

from __future__ import annotations

from typing import Any

from ada3d_ros.config import AgentConfig, from_flat
from ada3d_ros.scene.keyframes import KeyframeBuffer, SceneSnapshot
from ada3d_ros.types import Question
from test.support.box_room import build_box_room

VIEWS = 3
MODEL = {"model.path": "embedded", "keyframe.max_views": VIEWS, "objects.enabled": False}
ASK = Question("What color is the table?", max_new_tokens=6, routed=False)


def config(**settings: Any) -> AgentConfig:
    return from_flat({**MODEL, **settings})


def scene_of(seed: int) -> SceneSnapshot:
    """A robot's scene."""
    buffer = KeyframeBuffer(config().keyframe)
    for frame in build_box_room(seed=seed, num_views=VIEWS, width=96, height=72).frames:
        buffer.offer(frame)
    return buffer.snapshot()
