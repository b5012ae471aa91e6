"""Objects over time: numbered once, moved, renamed, gone by depth alone; frames written by hand.

A camera at the origin looks along x at a wall 4 m away; things are squares of depth before it.
"""

from dataclasses import replace

import numpy as np
import pytest

from ada3d_ros.geometry.boxes import iou_axis_aligned
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.scene.object_detections import Detection, iou_matrix, suppress
from ada3d_ros.scene.object_evidence import (
    MAX_POINTS,
    Sight,
    sights_of,
    spread_points,
    telling_points,
)
from ada3d_ros.scene.objects import FoundObject, ObjectMemory
from ada3d_ros.types import Box3D, Intrinsics, Keyframe, KeyframeReason, RgbdFrame, SceneState

SIDE, FOCAL_PX = 80, 80.0
CAMERA = Intrinsics(FOCAL_PX, FOCAL_PX, (SIDE - 1) / 2, (SIDE - 1) / 2, SIDE, SIDE)
LOOKING_ALONG_X = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]], float)
AROUND = np.diag([-1.0, -1.0, 1.0, 1.0]) @ LOOKING_ALONG_X
WALL_M, HALF_M = 4.0, 0.25
CHAIR, TABLE = (2.0, 0.4, 0.0), (2.5, -0.6, 0.1)  # centres of the squares, which face the camera


def surface(center):
    """Points (P, 3) of a square that faces the camera."""
    y, z = (np.linspace(-0.9 * HALF_M, 0.9 * HALF_M, 12) + c for c in center[1:])
    grid = np.stack(np.meshgrid([center[0]], y, z, indexing="ij"), axis=-1)
    return grid.reshape(-1, 3)


def depth_of(*centers, wall_m=WALL_M):
    depth = np.full((SIDE, SIDE), wall_m, np.float32)
    for x, y, z in sorted(centers, reverse=True):
        u, v = (FOCAL_PX * -c / x + (SIDE - 1) / 2 for c in (y, z))
        half = FOCAL_PX * HALF_M / x
        rows, columns = (slice(round(c - half), round(c + half) + 1) for c in (v, u))
        depth[rows, columns] = x
    return depth


def keyframe(index, depth, pose=LOOKING_ALONG_X):
    rgb = np.zeros((SIDE, SIDE, 3), np.uint8)
    frame = RgbdFrame(10 * (index + 1), rgb, depth.copy(), CAMERA, pose.copy(), "map")
    return Keyframe(frame, index, KeyframeReason.TRANSLATION)


def scene_of(*keyframes):
    stamps = [k.frame.stamp_ns for k in keyframes]
    return SceneSnapshot(keyframes, SceneState(len(keyframes), 0, 1, min(stamps), max(stamps)))


def found(label, center, score=0.9, others=(), size_m=2 * HALF_M):
    box = Box3D(np.array(center), np.full(3, size_m), label=label, score=score)
    return FoundObject(Detection(box, tuple(others)), surface(center))


def told(memory):
    return [(o.id, o.label, o.first_seen_ns, o.last_seen_ns, o.gone_ns) for o in memory.objects]


BOTH, NO_CHAIR, NOTHING = depth_of(CHAIR, TABLE), depth_of(TABLE), depth_of()
BLIND = np.full((SIDE, SIDE), np.nan, np.float32)
BLOCKED = depth_of(wall_m=1.0)


# -- what one keyframe says


@pytest.mark.parametrize(
    ("depth", "pose", "sights"),
    [
        (BOTH, LOOKING_ALONG_X, (Sight.SUPPORTS, Sight.SUPPORTS)),
        (NO_CHAIR, LOOKING_ALONG_X, (Sight.SEES_THROUGH, Sight.SUPPORTS)),
        (NOTHING, LOOKING_ALONG_X, (Sight.SEES_THROUGH, Sight.SEES_THROUGH)),
        (BLOCKED, LOOKING_ALONG_X, (Sight.NOTHING, Sight.NOTHING)),
        (BLIND, LOOKING_ALONG_X, (Sight.NOTHING, Sight.NOTHING)),
        (NOTHING, AROUND, (Sight.NOTHING, Sight.NOTHING)),
    ],
    ids=["there", "taken", "all-taken", "blocked", "no-depth", "out-of-view"],
)
def test_a_keyframe_supports_sees_through_or_says_nothing(depth, pose, sights):
    frame = keyframe(0, depth, pose).frame
    assert tuple(sights_of(frame, [surface(CHAIR), surface(TABLE)])) == sights


def test_a_thing_partly_hidden_is_judged_by_what_is_seen_of_it():
    half_blocked = NO_CHAIR.copy()
    half_blocked[:, : round(SIDE / 2 - FOCAL_PX * 0.4 / 2)] = 1.0  # the chair's left half
    assert sights_of(keyframe(0, half_blocked).frame, [surface(CHAIR)]) == [Sight.SEES_THROUGH]


@pytest.mark.parametrize(
    ("share", "sight"),
    [(0.3, Sight.SUPPORTS), (0.45, Sight.PARTLY_THROUGH), (0.6, Sight.SEES_THROUGH)],
)
def test_a_wall_at_its_back_supports_no_more_once_much_of_it_is_seen_through(share, sight):
    """A share of the points stands free, the rest 5 cm before a wall, where it is taken for it."""
    points, free = surface(CHAIR), round(share * len(surface(CHAIR)))
    points[free:] += np.array([WALL_M - 0.05, 0.4, 0.0]) - CHAIR
    assert sights_of(keyframe(0, NOTHING).frame, [points]) == [sight]


def test_what_of_its_place_is_not_hidden_is_seen_to_be_empty():
    """Points of its left side alone are known, which is hidden."""
    points = surface(CHAIR)
    deep = np.concatenate((points, points + np.array([0.5, 0.0, 0.0])))
    left = deep[deep[:, 1] > CHAIR[1] + 0.05]
    known = np.concatenate((left, deep[deep[:, 1] < CHAIR[1] - 0.2][:2]))
    hidden = NO_CHAIR.copy()
    hidden[:, : round(SIDE / 2 - FOCAL_PX * (CHAIR[1] - 0.05) / CHAIR[0])] = 1.0
    frame = keyframe(0, hidden).frame
    assert sights_of(frame, [known]) == [Sight.PARTLY_THROUGH]
    there = np.where(hidden == 1.0, hidden, BOTH)
    assert sights_of(keyframe(0, there).frame, [known]) != [Sight.PARTLY_THROUGH]
    assert sights_of(keyframe(0, BLOCKED).frame, [known]) == [Sight.NOTHING]


def test_no_objects_and_no_points_say_nothing():
    frame = keyframe(0, BOTH).frame
    assert sights_of(frame, []) == []
    assert sights_of(frame, [np.empty((0, 3)), surface(CHAIR)]) == [Sight.NOTHING, Sight.SUPPORTS]


def test_points_are_spread_over_all_there_are():
    points = np.arange(3000.0).reshape(1000, 3)
    kept = spread_points(points)
    assert len(kept) == MAX_POINTS
    assert kept[0, 0] == 0.0
    assert np.diff(kept[:, 0]).max() <= 3 * np.ceil(1000 / MAX_POINTS)
    assert spread_points(points[:5]) is not points
    assert np.array_equal(spread_points(points[:5]), points[:5])
    assert len(spread_points(points[:0])) == 0


def column(low_m, high_m, count=400):
    """Points of a thing of 0.4 m by 0.4 m that stands at the origin, between two heights."""
    draw = np.random.default_rng(0)
    return draw.uniform((-0.2, -0.2, low_m), (0.2, 0.2, high_m), (count, 3))


@pytest.mark.parametrize(
    ("height_m", "from_m"),
    [(1.0, 0.3), (0.2, 0.1), (0.05, 0.015)],
    ids=["its-upper-part", "above-what-it-stands-on", "what-there-is"],
)
def test_points_near_the_foot_tell_little(height_m, from_m):
    box = Box3D(np.array([0, 0, height_m / 2]), np.array([0.4, 0.4, height_m]))
    heights = telling_points(column(0.0, height_m), box, [])[:, 2]
    assert from_m <= heights.min() < from_m + 0.1 * height_m


def test_points_of_others_and_of_a_wall_that_goes_on_tell_nothing():
    thing = column(0.0, 1.0)
    beside = np.array([0.2, 0.0, 0.0]) + column(0.0, 1.0) * (0.2, 1.0, 1.0)  # reaches into the box
    other = Box3D(np.array([0.2, 0.0, 0.5]), np.array([0.08, 0.4, 1.0]))
    draw = np.random.default_rng(1)
    wall = draw.uniform((-0.8, 0.19, 0.0), (0.8, 0.19, 1.0), (600, 3))
    box = Box3D(np.array([0, 0, 0.5]), np.array([0.4, 0.4, 1.0]))
    own = telling_points(np.concatenate((thing, beside, wall)), box, [other])
    assert 100 < len(own) <= MAX_POINTS
    assert own[:, 0].max() < 0.16
    assert own[:, 1].max() < 0.19 - 0.02
    # Where nothing else is left, they are what there is.
    alone = telling_points(wall, box, [])
    assert len(alone) > 50


# -- one detection an object


def test_the_best_label_of_a_place_stays_and_the_others_are_its_alternatives():
    near, apart = np.array([1.0, 0.0, 0.5]), np.array([3.0, 0.0, 0.5])
    boxes = [
        Box3D(near + np.array([0.05, 0, 0]), np.ones(3), label="purple chair", score=0.6),
        Box3D(apart, np.ones(3), label="red chair", score=0.7),
        Box3D(near, np.ones(3), label="blue chair", score=0.9),
        Box3D(near + np.array([0, 0.1, 0]), np.ones(3), label="blue chair", score=0.5),
        Box3D(near + np.array([0, 0, 0.1]), np.ones(3), label="blue crate", score=0.4),
    ]
    kept = suppress(boxes)
    assert [(d.label, d.box.score, d.alternatives) for d in kept] == [
        ("blue chair", 0.9, ("purple chair", "blue crate")),
        ("red chair", 0.7, ()),
    ]
    again = suppress(boxes[::-1])
    assert [(d.label, d.alternatives) for d in again] == [(d.label, d.alternatives) for d in kept]
    assert suppress([]) == []


def test_overlaps_are_those_of_single_boxes():
    draw = np.random.default_rng(3)
    boxes = [Box3D(draw.uniform(-1, 1, 3), draw.uniform(0.2, 1.5, 3)) for _ in range(12)]
    expected = [[iou_axis_aligned(a, b) for b in boxes[:5]] for a in boxes]
    assert np.allclose(iou_matrix(boxes, boxes[:5]), expected, atol=1e-12)
    assert iou_matrix(boxes, []).shape == (12, 0)


# -- over time


def test_an_object_keeps_its_number_while_it_moves_and_is_renamed():
    memory = ObjectMemory(10)
    first = scene_of(keyframe(0, BOTH))
    memory.update([found("red chair", CHAIR), found("blue table", TABLE)], first)
    assert told(memory) == [("1", "red chair", 10, 10, -1), ("2", "blue table", 10, 10, -1)]

    # In another order, a little elsewhere, one under another colour; and a third thing.
    more = scene_of(keyframe(0, BOTH), keyframe(1, BOTH))
    moved = (TABLE[0], TABLE[1] + 0.05, TABLE[2])
    third = found("lamp", (3.0, 1.2, 0.3))
    memory.update(
        [found("purple table", moved, others=("blue table",)), found("red chair", CHAIR), third],
        more,
    )
    assert [(o.id, o.label) for o in memory.objects] == [
        ("1", "red chair"),
        ("2", "purple table"),
        ("3", "lamp"),
    ]
    assert memory.objects[1].alternatives == ("blue table",)
    assert memory.objects[1].box.center_m.tolist() == list(moved)
    assert [o.last_seen_ns for o in memory.objects[:2]] == [20, 20]
    assert memory.objects[0].first_seen_ns == 10


def test_two_things_of_one_name_are_not_confused():
    memory, scene = ObjectMemory(10), scene_of(keyframe(0, BOTH))
    left, right = (2.0, 0.4, 0.0), (2.0, -0.4, 0.0)
    memory.update([found("chair", left), found("chair", right)], scene)
    by_id = {o.id: o.box.center_m[1] for o in memory.objects}
    memory.update([found("chair", right), found("chair", (2.0, 0.3, 0.0))], scene)
    assert {o.id: o.box.center_m[1] for o in memory.objects} == {"1": 0.3, "2": by_id["2"]}


def test_the_part_that_was_seen_first_is_the_whole_thing_later():
    """Its box grows by so much that both overlap little, and their centres lie far apart."""
    memory, scene = ObjectMemory(10), scene_of(keyframe(0, BOTH))
    end = np.add(CHAIR, (0.0, 0.0, 0.9))
    memory.update([found("chair", end, size_m=0.2), found("table", TABLE)], scene)
    memory.update([found("chair", CHAIR, size_m=2.0), found("table", TABLE)], scene)
    assert [(o.id, o.label) for o in memory.objects] == [("1", "chair"), ("2", "table")]
    assert memory.objects[0].center_m.tolist() == list(CHAIR)
    # Of another name it is another thing.
    memory.update([found("lamp", end, size_m=0.2), found("chair", CHAIR, size_m=2.0)], scene)
    assert [o.label for o in memory.objects] == ["chair", "table", "lamp"]


@pytest.mark.parametrize(("share", "is_part"), [(0.6, True), (0.4, False)])
def test_what_is_not_found_again_and_was_seen_of_another_is_part_of_that(share, is_part):
    """A chair that was boxed beside its place: most of its points are where the chair is found."""
    memory, scene = ObjectMemory(10), scene_of(keyframe(0, BOTH))
    beside = np.add(CHAIR, (0.0, 2.0, 0.0))
    wrong, points = found("chair", beside), surface(CHAIR)
    far = np.add(points, (0.0, 2.0, 0.0))
    inside = round(share * len(points))
    wrong = replace(wrong, xyz_m=np.concatenate((points[:inside], far[inside:])))
    memory.update([wrong, found("chair", CHAIR)], scene)
    assert len(memory.objects) == 2
    memory.update([found("chair", CHAIR)], scene)
    assert [o.center_m.tolist() for o in memory.objects] == (
        [list(CHAIR)] if is_part else [beside.tolist(), list(CHAIR)]
    )
    # What is found again stays a thing of its own.
    memory.update([replace(wrong, xyz_m=points), found("chair", CHAIR)], scene)
    memory.update([replace(wrong, xyz_m=points), found("chair", CHAIR)], scene)
    assert len(memory.objects) == 2


@pytest.mark.parametrize(("apart_m", "labels"), [(0.9, ["chair"]), (1.1, ["chair", "chair"])])
def test_what_is_not_found_again_and_reaches_into_one_of_its_name_was_that(apart_m, labels):
    """Boxes of one metre, the second of a scene that was not yet known as well as it is later; a
    part of its points shows the chair.
    """
    memory, scene = ObjectMemory(10), scene_of(keyframe(0, BOTH))
    beside, points = np.add(CHAIR, (0.0, apart_m, 0.0)), surface(CHAIR)
    far, inside = np.add(points, (0.0, 2.0, 0.0)), round(0.4 * len(points))
    wrong = found("chair", beside, size_m=1.0)
    wrong = replace(wrong, xyz_m=np.concatenate((points[:inside], far[inside:])))
    memory.update([found("chair", CHAIR, size_m=1.0), wrong], scene)
    assert len(memory.objects) == 2
    memory.update([found("chair", CHAIR, size_m=1.0)], scene)
    assert [o.label for o in memory.objects] == labels
    assert memory.objects[0].center_m.tolist() == list(CHAIR)


def test_gone_at_the_second_keyframe_that_sees_through_it():
    memory, views = ObjectMemory(10), [keyframe(0, BOTH)]
    memory.update([found("chair", CHAIR), found("table", TABLE)], scene_of(*views))
    views.append(keyframe(1, NO_CHAIR))
    assert memory.observe(scene_of(*views))
    assert [o.gone_ns for o in memory.objects] == [-1, -1]
    views += [keyframe(2, BLOCKED), keyframe(3, BLIND), keyframe(4, NOTHING, AROUND)]
    memory.observe(scene_of(*views))
    assert [o.gone_ns for o in memory.objects] == [-1, -1]
    views.append(keyframe(5, NO_CHAIR))
    memory.observe(scene_of(*views))
    assert told(memory) == [("1", "chair", 10, 10, 60), ("2", "table", 10, 60, -1)]
    assert not memory.observe(scene_of(*views))  # nothing new


HALF_NO_CHAIR = np.where(np.arange(SIDE) < SIDE / 2 - FOCAL_PX * 0.2, NO_CHAIR, BOTH)  # of it


@pytest.mark.parametrize(
    ("depths", "gone_ns"),
    [
        ((HALF_NO_CHAIR, NO_CHAIR), 30),
        ((NO_CHAIR, HALF_NO_CHAIR), 30),
        ((HALF_NO_CHAIR, HALF_NO_CHAIR, HALF_NO_CHAIR), -1),
        ((HALF_NO_CHAIR, HALF_NO_CHAIR, HALF_NO_CHAIR, NO_CHAIR), 50),
        ((HALF_NO_CHAIR, BOTH, NO_CHAIR), -1),
    ],
)
def test_one_that_sees_through_half_of_it_counts_beside_one_that_sees_through_most(depths, gone_ns):
    assert sights_of(keyframe(0, HALF_NO_CHAIR).frame, [surface(CHAIR)]) == [Sight.PARTLY_THROUGH]
    memory, views = ObjectMemory(10), [keyframe(0, BOTH)]
    memory.update([found("chair", CHAIR)], scene_of(*views))
    views += [keyframe(index, depth) for index, depth in enumerate(depths, start=1)]
    memory.observe(scene_of(*views))
    assert [each.gone_ns for each in memory.objects] == [gone_ns]


def test_seen_again_in_between_it_is_not_gone():
    memory, views = ObjectMemory(10), [keyframe(0, BOTH)]
    memory.update([found("chair", CHAIR)], scene_of(*views))
    for index, depth in enumerate((NO_CHAIR, BOTH, NO_CHAIR), start=1):
        views.append(keyframe(index, depth))
        memory.observe(scene_of(*views))
    assert told(memory) == [("1", "chair", 10, 30, -1)]


def test_keyframes_that_leave_the_scene_take_no_object_with_them():
    memory = ObjectMemory(10)
    memory.update([found("chair", CHAIR), found("table", TABLE)], scene_of(keyframe(0, BOTH)))
    for index in range(1, 6):  # a scene of one keyframe that is elsewhere
        memory.observe(scene_of(keyframe(index, NOTHING, AROUND)))
        memory.update([], scene_of(keyframe(index, NOTHING, AROUND)))
    assert told(memory) == [("1", "chair", 10, 10, -1), ("2", "table", 10, 10, -1)]


def test_what_is_still_in_old_images_alone_does_not_come_back():
    memory, views = ObjectMemory(10), [keyframe(0, BOTH)]
    memory.update([found("chair", CHAIR)], scene_of(*views))
    views += [keyframe(1, NO_CHAIR), keyframe(2, NO_CHAIR)]
    # The model finds it still, under its own name and others, since keyframe 0 is in the scene.
    for label in ("chair", "crate"):
        memory.update([found(label, CHAIR)], scene_of(*views))
        assert told(memory) == [("1", "chair", 10, 10, 30)]
    fresh = ObjectMemory(10)
    fresh.update([found("chair", CHAIR)], scene_of(*views))
    assert fresh.objects == ()


def test_an_object_that_was_put_back_has_its_number_again():
    memory, views = ObjectMemory(10), [keyframe(0, BOTH), keyframe(1, NO_CHAIR)]
    memory.update([found("chair", CHAIR)], scene_of(*views[:1]))
    views += [keyframe(2, NO_CHAIR)]
    memory.observe(scene_of(*views))
    assert memory.objects[0].is_gone
    views += [keyframe(3, BOTH)]
    memory.update([found("chair", CHAIR)], scene_of(*views))
    assert told(memory) == [("1", "chair", 10, 40, -1)]


def test_not_found_again_it_stays_unless_another_is_found_in_its_place():
    memory, scene = ObjectMemory(10), scene_of(keyframe(0, BOTH))
    memory.update([found("chair", CHAIR), found("table", TABLE)], scene)
    memory.update([found("table", TABLE)], scene)
    assert [o.label for o in memory.objects] == ["chair", "table"]
    # Two detections on it: one is the chair, and there is no second object.
    small = found("crate", CHAIR, size_m=1.8 * HALF_M)
    memory.update([small], scene)
    assert [(o.id, o.label) for o in memory.objects] == [("1", "crate"), ("2", "table")]


def test_the_best_are_kept_where_there_are_too_many():
    memory, scene = ObjectMemory(2), scene_of(keyframe(0, BOTH))
    things = [found(f"thing {i}", (3.0, i - 2.0, 0.5), 0.5 + 0.1 * i) for i in range(4)]
    memory.update(things, scene)
    assert [(o.id, o.label) for o in memory.objects] == [("3", "thing 2"), ("4", "thing 3")]
    memory.update(things, scene)  # the numbers of those that went are not given again
    assert {o.id for o in memory.objects} == {"3", "4"}


def test_a_copy_goes_its_own_way():
    memory, views = ObjectMemory(10), [keyframe(0, BOTH)]
    memory.update([found("chair", CHAIR)], scene_of(*views))
    other = memory.copied()
    other.observe(scene_of(*views, keyframe(1, NO_CHAIR), keyframe(2, NO_CHAIR)))
    assert other.objects[0].is_gone
    assert not memory.objects[0].is_gone


def test_a_guess_that_better_known_scenes_do_not_confirm_is_forgotten():
    """At a low score, after two surveys of scenes that show its place; found again it begins anew;
    a sure one stays, and so does one whose keyframes have left the scene.
    """
    memory, frames = ObjectMemory(9), [keyframe(i, BOTH) for i in range(5)]
    memory.update([found("red chair", CHAIR, 0.4), found("table", TABLE)], scene_of(frames[0]))
    memory.update([], scene_of(*frames[:2]))
    assert [o.label for o in memory.objects] == ["red chair", "table"]
    memory.update([found("red chair", CHAIR, 0.4)], scene_of(*frames[:3]))
    memory.update([], scene_of(*frames[:4]))
    assert [o.id for o in memory.objects] == ["1", "2"]
    memory.update([], scene_of(*frames))
    assert [o.label for o in memory.objects] == ["table"]

    elsewhere = [keyframe(i, BOTH, AROUND) for i in range(1, 5)]
    left = ObjectMemory(9)
    left.update([found("red chair", CHAIR, 0.4)], scene_of(frames[0]))
    for i in range(1, 5):
        left.update([], scene_of(*elsewhere[:i]))
    assert [o.label for o in left.objects] == ["red chair"]
