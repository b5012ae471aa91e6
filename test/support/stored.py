"""Scenes in a store, made of small rooms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ada3d_ros.config import KeyframeConfig
from ada3d_ros.scene.keyframes import KeyframeBuffer, SceneSnapshot
from ada3d_ros.store.keyframe_bytes import decode_color, encode_jpeg
from ada3d_ros.store.named_scenes import NamedScenes
from ada3d_ros.store.writer import SceneWriter
from ada3d_ros.types import Keyframe, RgbdFrame
from test.support.box_room import build_box_room

FRAMES = build_box_room(seed=2, num_views=12, width=80, height=60).frames
EAGER = KeyframeConfig(max_views=5, min_translation_m=0.01, min_rotation_deg=1.0)
WORLD = FRAMES[0].frame_id


def scenes_of(frames: Sequence[RgbdFrame] = FRAMES) -> list[SceneSnapshot]:
    """The scene after each frame: of 12 keyframes 5 are kept."""
    buffer, scenes = KeyframeBuffer(EAGER), []
    for frame in frames:
        assert buffer.offer(frame) is not None
        scenes.append(buffer.snapshot())
    return scenes


def save_scene(store: Path, name: str = "kitchen", lossless: bool = True) -> SceneSnapshot:
    """What was saved under the name: all twelve keyframes, the last scene."""
    writer = SceneWriter(NamedScenes(store).open(name, WORLD), lossless)
    scenes = scenes_of()
    for scene in scenes:
        writer.note_scene(scene)
    assert writer.close(60.0)
    return scenes[-1]


def assert_same_keyframe(ours: Keyframe, theirs: Keyframe, lossless: bool = True) -> None:
    """Told by all that it has; without lossless colour is its JPEG, depth near."""
    assert (ours.index, ours.reason) == (theirs.index, theirs.reason)
    a, b = ours.frame, theirs.frame
    assert (a.stamp_ns, a.depth_stamp_ns) == (b.stamp_ns, b.depth_stamp_ns)
    assert (a.frame_id, a.camera_frame_id) == (b.frame_id, b.camera_frame_id)
    assert a.intrinsics == b.intrinsics
    assert (a.T_world_cam == b.T_world_cam).all()
    assert (np.isnan(a.depth_m) == np.isnan(b.depth_m)).all()
    if lossless:
        assert (a.rgb == b.rgb).all()
        assert np.array_equal(a.depth_m, b.depth_m, equal_nan=True)
    else:
        assert np.nanmax(np.abs(a.depth_m - b.depth_m)) <= 0.00051
        height, width = b.depth_m.shape
        assert (a.rgb == decode_color(encode_jpeg(b.rgb), "JPEG", (height, width))).all()
