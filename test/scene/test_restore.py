"""A scene that was kept elsewhere: exactly its keyframes, whatever the thresholds say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ada3d_ros.config import KeyframeConfig
from ada3d_ros.errors import InvalidRequestError
from ada3d_ros.scene.floor import Floor
from ada3d_ros.scene.keyframes import KeyframeBuffer, SceneSnapshot
from test.support.box_room import build_box_room

FRAMES = build_box_room(seed=2, num_views=12, width=80, height=60).frames
EAGER = KeyframeConfig(max_views=5, min_translation_m=0.01, min_rotation_deg=1.0)


def robots_scene(count: int = 9) -> KeyframeBuffer:
    """Of a robot that kept 5 of 9 frames."""
    buffer = KeyframeBuffer(EAGER)
    buffer.reset()  # epoch 1
    for frame in FRAMES[:count]:
        buffer.offer(frame)
    return buffer


def test_the_scene_comes_back_with_ids_epoch_floor_and_anchor() -> None:
    robot, server = robots_scene(), KeyframeBuffer(KeyframeConfig(max_views=2))
    scene = replace_floor(robot.snapshot(), Floor(0.25, "estimated", 5))
    assert server.restore(scene)
    ours = server.snapshot()
    assert [k.index for k in ours.keyframes] == [k.index for k in scene.keyframes]
    assert len(ours.keyframes) == 5  # the robot decides how many
    assert ours.state == scene.state
    assert (ours.floor, ours.anchor_xy_m) == (scene.floor, scene.anchor_xy_m)


def replace_floor(scene: SceneSnapshot, floor: Floor) -> SceneSnapshot:
    return SceneSnapshot(scene.keyframes, scene.state, floor, scene.anchor_xy_m)


def test_the_same_again_changes_nothing() -> None:
    robot, server = robots_scene(), KeyframeBuffer(KeyframeConfig())
    assert server.restore(robot.snapshot())
    before = server.snapshot()
    assert not server.restore(robot.snapshot())
    assert server.snapshot().keyframes == before.keyframes


def test_keyframes_that_are_held_stay_and_others_go() -> None:
    robot, server = robots_scene(9), KeyframeBuffer(KeyframeConfig())
    server.restore(robot.snapshot())
    first = {k.index: k for k in server.keyframes}
    for frame in FRAMES[9:]:
        robot.offer(frame)
    server.restore(robot.snapshot())
    now = {k.index: k for k in server.keyframes}
    assert sorted(now) == sorted(k.index for k in robot.keyframes)
    assert all(now[index] is first[index] for index in now.keys() & first.keys())
    assert now.keys() - first.keys()


def test_a_restored_scene_goes_on_as_the_one_it_came_from() -> None:
    robot, other = robots_scene(9), KeyframeBuffer(EAGER)
    other.restore(robot.snapshot())
    for frame in FRAMES[9:]:
        robot.offer(frame)
        other.offer(frame)
    ours, theirs = other.snapshot(), robot.snapshot()
    assert [k.index for k in ours.keyframes] == [k.index for k in theirs.keyframes]
    assert ours.state == theirs.state


def test_an_empty_scene_can_be_restored() -> None:
    server = KeyframeBuffer(KeyframeConfig())
    server.restore(robots_scene().snapshot())
    empty = KeyframeBuffer(KeyframeConfig())
    empty.reset()
    empty.reset()
    assert server.restore(empty.snapshot())
    assert len(server) == 0
    assert server.epoch == 2


def test_another_keyframe_under_a_known_index_is_refused_and_changes_nothing() -> None:
    robot, server = robots_scene(), KeyframeBuffer(KeyframeConfig())
    server.restore(robot.snapshot())
    before, scene = server.snapshot(), robot.snapshot()
    last = scene.keyframes[-1]
    later = replace(last, frame=replace(last.frame, stamp_ns=last.frame.stamp_ns + 1))
    lie = SceneSnapshot((*scene.keyframes[:-1], later), scene.state, scene.floor)
    with pytest.raises(InvalidRequestError, match="an index names one keyframe of an epoch"):
        server.restore(lie)
    assert server.snapshot().keyframes == before.keyframes


def test_keyframes_out_of_order_are_refused() -> None:
    scene = robots_scene().snapshot()
    turned = SceneSnapshot(scene.keyframes[::-1], scene.state, scene.floor)
    with pytest.raises(InvalidRequestError, match="must rise"):
        KeyframeBuffer(KeyframeConfig()).restore(turned)
    twice = SceneSnapshot((scene.keyframes[0],) * 2, scene.state, scene.floor)
    with pytest.raises(InvalidRequestError, match="must rise"):
        KeyframeBuffer(KeyframeConfig()).restore(twice)


def test_keyframes_of_two_world_frames_are_refused() -> None:
    scene = robots_scene().snapshot()
    last = scene.keyframes[-1]
    odom = replace(last, frame=replace(last.frame, frame_id="odom"))
    mixed = SceneSnapshot((*scene.keyframes[:-1], odom), scene.state, scene.floor)
    with pytest.raises(InvalidRequestError, match="odom"):
        KeyframeBuffer(KeyframeConfig()).restore(mixed)
