"""Candidates of many keyframes become objects: one thing is one, whatever it was called."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from ada3d_ros.perception.lifting import Candidate, lift_all
from ada3d_ros.perception.object_map import MAX_VIEWS, ObjectMap
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.scene.objects import FoundObject, ObjectMemory
from ada3d_ros.types import Box3D, GroundingMethod, Keyframe, SceneState
from test.support.flat_things import Flat, frame_of, keyframe_of

CHAIR = Flat(2.0, 0.4, 0.0)
SOFA = Flat(2.5, -0.5, 0.0, 1.2, 0.6, (40, 80, 190), "couch")
MIN_SCORE = 0.45


def seen(map_: ObjectMap, index: int, *things: Flat, there: tuple[Flat, ...] = ()) -> Keyframe:
    """One more keyframe in which a detector saw `things`; what is there, if that is more."""
    keyframe = keyframe_of(frame_of(there or things, index), index)
    detections = [thing.detection() for thing in things]
    map_.add(keyframe.frame, lift_all(keyframe.frame, detections).candidates)
    return keyframe


def map_of(*keyframes: tuple[Flat, ...], min_views: int = 3) -> ObjectMap:
    map_ = ObjectMap(min_views, MIN_SCORE)
    for index, things in enumerate(keyframes):
        seen(map_, index, *things)
    return map_


def told(map_: ObjectMap) -> list[tuple[str, float]]:
    return [(o.detection.label, round(o.detection.box.score, 3)) for o in map_.found()]


def made(label: str, low: object, high: object, score: float = 0.8, cut: bool = False) -> Candidate:
    """A candidate whose points fill a box."""
    low, high = np.array(low, float), np.array(high, float)
    grid = np.stack(np.meshgrid(*[np.linspace(a, b, 6) for a, b in zip(low, high, strict=True)]))
    box = Box3D((low + high) / 2, high - low, label=label, score=score, support_points=10)
    return Candidate(box, grid.reshape(3, -1).T.copy(), np.array([50.0, 0, 0]), cut, 1)


def boxes_of(*views: list[Candidate], min_views: int = 3) -> list[FoundObject]:
    """The objects of views of a place that no camera sees."""
    map_ = ObjectMap(min_views, MIN_SCORE)
    for index, candidates in enumerate(views):
        map_.add(frame_of([], index), candidates)
    return map_.found()


# -- what is an object


def test_what_keyframes_agree_on_is_an_object() -> None:
    map_ = map_of((CHAIR, SOFA), (CHAIR, SOFA), (CHAIR, SOFA))
    assert told(map_) == [("red chair", 0.8), ("blue couch", 0.8)]
    chair, sofa = map_.found()
    assert chair.detection.box.center_m == pytest.approx(CHAIR.center_m, abs=0.03)
    assert sofa.detection.box.size_m[1:] == pytest.approx([1.2, 0.6], abs=0.06)
    assert sofa.detection.box.method is GroundingMethod.DETECTOR
    assert sorted(sofa.detection.box.evidence_stamps_ns) == [100, 200, 300]
    # 75 x 37 px a keyframe, on every second row and column.
    assert sofa.detection.box.support_points == pytest.approx(3 * 75 * 37 / 4, rel=0.15)
    assert chair.key != sofa.key


@pytest.mark.parametrize(
    ("scores", "is_object"),
    [
        ((0.9,), False),  # one keyframe never is enough
        ((0.46, 0.46), False),
        ((0.46, 0.46, 0.46), True),  # min_views that are just sure enough
        ((0.7, 0.7), True),  # two that are surer
        ((0.36, 0.55, 0.5), True),  # a faint one supports the others
        ((0.36,) * 10, False),  # faint ones alone never do
        ((0.36, 0.36, 0.36, 0.5), False),
    ],
)
def test_surer_boxes_weigh_more(scores: tuple[float, ...], is_object: bool) -> None:
    map_ = map_of(*[(replace(CHAIR, score=score),) for score in scores])
    assert bool(told(map_)) is is_object


def test_the_score_is_the_mean_of_the_best_views() -> None:
    scores = (0.5, 0.9, 0.4, 0.7, 0.8)
    map_ = map_of(*[(replace(CHAIR, score=score),) for score in scores])
    assert told(map_) == [("red chair", 0.8)]
    map_.min_score = 0.81
    assert told(map_) == []


def test_one_view_is_enough_where_that_is_asked_for() -> None:
    assert told(map_of((CHAIR,), min_views=1)) == [("red chair", 0.8)]


def test_nothing_is_kept_after_a_reset() -> None:
    map_ = map_of((CHAIR,), (CHAIR,))
    map_.reset()
    seen(map_, 2, CHAIR)
    assert told(map_) == []


def test_a_person_has_no_color() -> None:
    person = replace(CHAIR, label="person")
    assert told(map_of((person,), (person,))) == [("person", 0.8)]


# -- one thing, one object


def test_two_things_of_a_kind_are_two() -> None:
    left, right = replace(CHAIR, y=0.3), replace(CHAIR, y=-0.35)
    map_ = map_of(*[(left, right)] * 3)
    assert sorted(round(o.detection.box.center_m[1], 2) for o in map_.found()) == pytest.approx(
        [-0.35, 0.3], abs=0.03
    )


def test_two_boxes_of_one_thing_in_one_picture_are_one() -> None:
    part = replace(SOFA, y=SOFA.y + 0.2, width_m=0.7, score=0.6)
    map_ = ObjectMap(3, MIN_SCORE)
    for index in range(3):
        seen(map_, index, SOFA, part, there=(SOFA,))
    assert told(map_) == [("blue couch", 0.8)]


def test_one_thing_under_two_names_is_one_with_an_alternative() -> None:
    also = replace(SOFA, label="chair", score=0.6)
    map_ = ObjectMap(3, MIN_SCORE)
    for index, names in enumerate([(SOFA, also), (also,), (SOFA,), (SOFA,)]):
        seen(map_, index, *names, there=(SOFA,))
    (found,) = map_.found()
    assert (found.detection.label, found.detection.alternatives) == ("blue couch", ("chair",))


def test_a_name_that_came_once_among_many_is_no_alternative() -> None:
    also = replace(SOFA, label="bed", score=0.5)
    map_ = map_of(*[(SOFA,)] * 5, (also,))
    assert [o.detection.alternatives for o in map_.found()] == [()]


def test_what_lies_on_a_thing_stays_its_own() -> None:
    bag = Flat(2.4, -0.4, 0.1, 0.35, 0.35, (200, 175, 50), "backpack")
    found = {o.detection.label: o.detection.box for o in map_of(*[(SOFA, bag)] * 3).found()}
    assert set(found) == {"blue couch", "yellow backpack"}
    assert found["yellow backpack"].size_m[1:] == pytest.approx([0.35, 0.35], abs=0.05)
    assert found["blue couch"].size_m[1:] == pytest.approx([1.2, 0.6], abs=0.06)


def test_a_cup_in_the_box_of_a_table_is_not_the_table() -> None:
    table = made("dining table", (0, 0, 0.6), (1.5, 1, 0.9))
    cup = made("cup", (0.5, 0.5, 0.75), (0.58, 0.58, 0.85))
    assert [o.detection.label for o in boxes_of(*[[table, cup]] * 3)] == [
        "gray cup",
        "gray dining table",
    ]


def test_the_back_and_the_front_of_a_thing_are_one() -> None:
    """From behind only its back is seen: a thin part of the box it has from the front."""
    front, back = made("couch", (0, 0, 0), (0.8, 2, 0.8)), made("couch", (0, 0, 0.1), (0.2, 2, 0.8))
    (found,) = boxes_of([back], [back], [front], [front], [back])
    assert found.detection.box.size_m == pytest.approx([0.8, 2, 0.8], abs=0.05)


def test_halves_cut_by_the_picture_become_one_with_the_views_that_join_them() -> None:
    left, right = (
        made("couch", (0, 0, 0), (0.8, 1, 0.8), cut=True),
        made("couch", (0, 1.3, 0), (0.8, 2.2, 0.8), cut=True),
    )
    views = [[left], [left], [left], [right], [right], [right]]
    assert len(boxes_of(*views)) == 2
    whole = made("couch", (0, 0.1, 0), (0.8, 2.1, 0.8))
    (found,) = boxes_of(*views, [whole], [whole])
    box = found.detection.box
    assert box.size_m == pytest.approx([0.8, 2.2, 0.8], abs=0.1)


@pytest.mark.parametrize("order", list(permutations(range(4)))[::5])
def test_the_order_of_the_views_does_not_matter(order: tuple[int, ...]) -> None:
    views = [
        [made("couch", (0, 0, 0), (0.8, 2, 0.8)), made("cup", (-2, 0, 0), (-1.9, 0.1, 0.1))],
        [made("couch", (0, 0, 0.1), (0.3, 2, 0.8), 0.7)],
        [made("chair", (0, 0, 0), (0.8, 2, 0.8), 0.5), made("cup", (-2, 0, 0), (-1.9, 0.1, 0.1))],
        [made("couch", (0, 0.8, 0), (0.8, 2, 0.8), 0.6, cut=True)],
    ]
    reference, found = boxes_of(*views), boxes_of(*[views[i] for i in order])
    assert [o.detection.label for o in found] == [o.detection.label for o in reference]
    for one, other in zip(found, reference, strict=True):
        assert one.detection.alternatives == other.detection.alternatives
        assert one.detection.box.score == pytest.approx(other.detection.box.score)
        assert one.detection.box.center_m == pytest.approx(other.detection.box.center_m, abs=1e-9)
        assert one.detection.box.size_m == pytest.approx(other.detection.box.size_m, abs=1e-9)


def test_the_order_of_a_picture_s_boxes_does_not_matter() -> None:
    things = [CHAIR, SOFA, replace(SOFA, y=SOFA.y + 0.2, width_m=0.7, score=0.6)]
    told_of = []
    for order in permutations(things):
        map_ = ObjectMap(3, MIN_SCORE)
        for index in range(3):
            seen(map_, index, *order, there=(CHAIR, SOFA))
        told_of.append(told(map_))
    assert told_of == [told_of[0]] * 6


# -- extents


def test_cut_views_extend_and_never_shrink() -> None:
    whole = made("couch", (0, 0, 0), (0.8, 2, 0.8))
    half = made("couch", (0, 0, 0), (0.8, 1, 0.8), cut=True)
    for views in ([[whole]] * 2 + [[half]] * 6, [[half]] * 6 + [[whole]] * 2):
        (found,) = boxes_of(*views)
        assert found.detection.box.size_m == pytest.approx([0.8, 2, 0.8], abs=0.06)


def test_what_one_view_took_for_the_thing_is_left_out() -> None:
    thing = made("chair", (0, 0, 0), (0.5, 0.5, 1))
    with_wall = made("chair", (0, 0, 0), (0.5, 0.9, 1))
    (found,) = boxes_of([thing], [with_wall], [thing], [thing])
    assert found.detection.box.size_m == pytest.approx([0.5, 0.5, 1], abs=0.12)


def test_the_views_kept_of_a_thing_are_bounded() -> None:
    """A thing that is seen again and again keeps its place and its first keyframes' score."""
    map_ = map_of(*[(replace(CHAIR, score=0.9 if i < 3 else 0.5),) for i in range(MAX_VIEWS + 5)])
    assert told(map_) == [("red chair", 0.9)]
    assert len(map_.found()[0].xyz_m) <= 160


# -- over time, with the memory of the scene


def scene_of(*keyframes: Keyframe) -> SceneSnapshot:
    stamps = [keyframe.frame.stamp_ns for keyframe in keyframes]
    return SceneSnapshot(keyframes, SceneState(len(keyframes), 0, 1, min(stamps), max(stamps)))


def test_what_keyframes_see_through_is_gone_and_does_not_come_back() -> None:
    map_, memory, keyframes = ObjectMap(2, MIN_SCORE), ObjectMemory(10), []
    for index in range(5):
        things = (CHAIR, SOFA) if index < 2 else (SOFA,)
        keyframes.append(seen(map_, index, *things))
        memory.update(map_.found(), scene_of(*keyframes))
    assert told(map_) == [("blue couch", 0.8)]
    gone = {o.label: o.gone_ns for o in memory.objects}
    assert gone == {"red chair": 400, "blue couch": -1}

    # Neither where the buffer has forgotten who saw it.
    memory.update(map_.found(), scene_of(*keyframes[3:]))
    assert {o.label: o.gone_ns for o in memory.objects} == gone


def test_an_object_keeps_its_id_while_name_and_box_change() -> None:
    map_, memory, keyframes = ObjectMap(2, MIN_SCORE), ObjectMemory(10), []
    for index, label in enumerate(["chair", "chair", "couch", "couch", "couch"]):
        keyframes.append(seen(map_, index, replace(SOFA, label=label), there=(SOFA,)))
        memory.update(map_.found(), scene_of(*keyframes))
    assert [(o.id, o.label, o.alternatives) for o in memory.objects] == [
        ("1", "blue couch", ("chair",))
    ]


def test_things_that_turn_out_to_be_one_leave_one_object() -> None:
    left, right, whole = (
        made("couch", (9, a, 0), (9.8, b, 0.8)) for a, b in ((0, 1), (1.3, 2.2), (0.1, 2.1))
    )
    map_, memory, keyframes = ObjectMap(2, MIN_SCORE), ObjectMemory(10), []
    for index, view in enumerate([left, left, right, right, whole, whole]):
        keyframes.append(keyframe_of(frame_of([], index), index))
        map_.add(keyframes[-1].frame, [view])
        memory.update(map_.found(), scene_of(*keyframes))
        expected = [[], ["1"], ["1"], ["1", "2"], ["1", "2"], ["1"]][index]
        assert [o.id for o in memory.objects] == expected
