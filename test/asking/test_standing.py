"""Standing questions: what is due, what counts as a change, what happened to a watched object."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from ada3d_ros.asking.standing import (
    EventKind,
    StandingQuestion,
    WatchKind,
    from_json,
    has_changed,
    object_events,
    to_json,
    watch_objects,
)
from ada3d_ros.measures import ObjectsSnapshot, SceneObject
from ada3d_ros.types import Box3D

MOVED_M = 0.25
S = 10**9


def thing(name: str, x_m: float, number: int = 1, gone: bool = False) -> SceneObject:
    box = Box3D(np.array([x_m, 0.0, 0.5]), np.array([0.5, 0.5, 1.0]), label=name)
    return SceneObject(str(number), name, box, gone_ns=5 if gone else -1)


def listed(*things: SceneObject, epoch: int = 0) -> ObjectsSnapshot:
    return ObjectsSnapshot(things, scene_epoch=epoch, complete=True, stamp_ns=9, frame_id="map")


def same(name: str, label: str) -> bool:
    return name == label


def watch(*things: SceneObject, of: str = "chair") -> StandingQuestion:
    question = StandingQuestion("w1", WatchKind.OBJECT, of, 5.0)
    watch_objects(question, [t for t in things if t.label == of], listed(*things))
    return question


@pytest.mark.parametrize(
    ("seen", "asked_s", "now_s", "due"),
    [
        (None, -1, 0, True),  # never asked
        ((0, 1), 10, 100, False),  # nothing new
        ((0, 0), 10, 14.9, False),  # too soon
        ((0, 0), 10, 15, True),
        ((1, 7), 10, 15, True),  # another epoch
        ((0, 0), 10, 3, True),  # the clock went back
    ],
)
def test_what_is_due(seen: tuple[int, int] | None, asked_s: float, now_s: float, due: bool) -> None:
    question = StandingQuestion("w1", WatchKind.ASK, "Is it?", 5.0)
    question.seen = seen
    question.last_asked_ns = int(asked_s * S) if asked_s >= 0 else -1
    assert question.is_due((0, 1), int(now_s * S)) is due


def test_one_that_runs_into_its_time_is_tried_less_and_less_often() -> None:
    question = StandingQuestion("w1", WatchKind.ASK, "Is it?", 5.0, last_asked_ns=10 * S)
    waits = []
    for timeouts in (0, 1, 3, 50):
        question.timeouts = timeouts
        waits.append(next(s for s in range(700) if question.is_due((0, 1), (10 + s) * S)))
    assert waits == [5, 10, 40, 640]


A, B = (0.0, 0.0, 0.0), (3.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "centers", "changed"),
    [
        ("yes", [A, B], False),
        ("yes", [B, A], False),  # the order is no news
        ("no", [A, B], True),
        ("yes", [A], True),
        ("yes", [A, B, B], True),
        ("yes", [(0.24, 0.0, 0.0), B], False),
        ("yes", [(0.25, 0.0, 0.0), B], True),
        ("yes", [A, A], True),
    ],
)
def test_what_is_a_change(
    text: str, centers: list[tuple[float, float, float]], changed: bool
) -> None:
    assert has_changed(("yes", (A, B)), text, centers, MOVED_M) is changed


def test_an_object_that_stays_is_no_event_and_one_that_creeps_is_told_once() -> None:
    question = watch(thing("chair", 0.0))
    told = [
        (x, event.kind, round(event.moved_m, 3))
        for x in (0.1, 0.2, 0.3, 0.4)
        for event in object_events(question, listed(thing("chair", x)), same, MOVED_M)
    ]
    assert told == [(0.3, EventKind.OBJECT_MOVED, 0.3)]


def test_gone_told_once_and_back_where_it_was() -> None:
    question = watch(thing("chair", 0.0), thing("sofa", 4.0, 2))
    gone = listed(thing("chair", 0.0, gone=True), thing("sofa", 4.0, 2))
    (event,) = object_events(question, gone, same, MOVED_M)
    assert event.kind is EventKind.OBJECT_GONE
    assert event.sentence == "the chair is gone from where it was at [0.00, 0.00, 0.50]"
    assert object_events(question, gone, same, MOVED_M) == []
    (event,) = object_events(question, listed(thing("chair", 0.1)), same, MOVED_M)
    assert (event.kind, event.sentence) == (
        EventKind.OBJECT_BACK,
        "the chair is back where it was",
    )


def test_one_that_stands_elsewhere_under_a_new_id_has_moved() -> None:
    question = watch(thing("chair", 0.0))
    after = listed(thing("chair", 0.0, gone=True), thing("chair", 3.0, 2))
    (event,) = object_events(question, after, same, MOVED_M)
    assert event.kind is EventKind.OBJECT_MOVED
    assert event.moved_m == pytest.approx(3.0)
    assert event.sentence == "the chair moved by 3.00 m at [3.00, 0.00, 0.50]"
    assert event.before.center_m[0] == 0.0
    assert event.thing.id == "2"
    # It is followed under its new id.
    (event,) = object_events(question, listed(thing("chair", 3.0, 2, gone=True)), same, MOVED_M)
    assert event.kind is EventKind.OBJECT_GONE


def test_another_chair_that_was_there_all_along_is_not_taken_for_it() -> None:
    question = watch(thing("chair", 0.0), thing("chair", 3.0, 2))
    assert len(question.watched) == 2
    after = listed(thing("chair", 0.0, gone=True), thing("chair", 3.0, 2))
    (event,) = object_events(question, after, same, MOVED_M)
    assert (event.kind, event.thing.id) == (EventKind.OBJECT_GONE, "1")


def test_two_that_moved_do_not_take_the_same_place() -> None:
    question = watch(thing("chair", 0.0), thing("chair", 3.0, 2))
    after = listed(
        thing("chair", 0.0, gone=True),
        thing("chair", 3.0, 2, gone=True),
        thing("chair", 6.0, 3),
        thing("chair", -2.0, 4),
    )
    events = object_events(question, after, same, MOVED_M)
    assert [(e.kind, e.thing.id) for e in events] == [
        (EventKind.OBJECT_MOVED, "4"),
        (EventKind.OBJECT_MOVED, "3"),
    ]


def test_a_new_epoch_gives_ids_anew_and_is_no_event() -> None:
    question = watch(thing("chair", 0.0))
    # Not seen yet in the new scene; the id 1 is a sofa there.
    assert object_events(question, listed(thing("sofa", 0.0), epoch=1), same, MOVED_M) == []
    again = listed(thing("sofa", 0.0), thing("chair", 0.4, 2), epoch=1)
    assert object_events(question, again, same, MOVED_M) == []
    gone = listed(thing("sofa", 0.0), thing("chair", 0.4, 2, gone=True), epoch=1)
    (event,) = object_events(question, gone, same, MOVED_M)
    assert (event.kind, event.thing.id) == (EventKind.OBJECT_GONE, "2")


def test_one_that_leaves_the_list_is_told_or_followed_to_what_it_became() -> None:
    question = watch(thing("chair", 0.0), thing("sofa", 5.0, 2))
    (event,) = object_events(question, listed(thing("sofa", 5.0, 2)), same, MOVED_M)
    assert (event.kind, event.thing.id) == (EventKind.OBJECT_GONE, "1")
    assert event.sentence.startswith("the chair is no longer among the known objects; it was at [0")
    assert object_events(question, listed(thing("sofa", 5.0, 2)), same, MOVED_M) == []
    # Two lists of one thing become one: no news.
    merged = watch(thing("chair", 0.0), thing("chair", 0.2, 2))
    merged.watched = merged.watched[:1]
    assert object_events(merged, listed(thing("chair", 0.2, 2)), same, MOVED_M) == []
    (event,) = object_events(merged, listed(thing("chair", 0.2, 2, gone=True)), same, MOVED_M)
    assert (event.kind, event.thing.id) == (EventKind.OBJECT_GONE, "2")


def test_one_that_the_robot_found_beside_it_is_not_what_it_moved_to() -> None:
    question = watch(thing("chair", 0.0))
    found_later = thing("chair", 7.0, 2)
    assert object_events(question, listed(thing("chair", 0.0), found_later), same, MOVED_M) == []
    gone = listed(thing("chair", 0.0, gone=True), found_later)
    (event,) = object_events(question, gone, same, MOVED_M)
    assert (event.kind, event.thing.id) == (EventKind.OBJECT_GONE, "1")


def test_an_id_that_names_another_thing_now_is_not_it() -> None:
    question = watch(thing("chair", 0.0))
    (event,) = object_events(question, listed(thing("lamp", 9.0)), same, MOVED_M)
    assert (event.kind, event.thing.label) == (EventKind.OBJECT_GONE, "chair")


def test_after_a_new_epoch_those_that_are_there_are_watched() -> None:
    question = watch(thing("chair", 0.0), thing("chair", 3.0, 2))
    assert object_events(question, listed(thing("chair", 3.0, 7), epoch=1), same, MOVED_M) == []
    both = listed(thing("chair", 3.0, 7, gone=True), thing("chair", 0.0, 8), epoch=1)
    assert [(e.kind, e.thing.id) for e in object_events(question, both, same, MOVED_M)] in (
        [(EventKind.OBJECT_GONE, "7")],
        [(EventKind.OBJECT_MOVED, "8")],
    )


def test_questions_survive_as_json() -> None:
    asked = StandingQuestion("w7", WatchKind.GROUND, 'the "red" chair', 2.5, 4, 3, "here it is")
    asked.told, asked.seen = ("here it is", (A, B)), (1, 2)
    objects = watch(thing("chair", 1.5))
    questions, last = from_json(to_json([asked, objects], 9))
    assert last == 9
    assert questions[0].kind is WatchKind.GROUND
    assert questions[0].told == asked.told
    assert questions[0].seen is None  # asked again: the scene may have grown meanwhile
    assert questions[1].watched == objects.watched
    (event,) = object_events(questions[1], listed(thing("chair", 2.0)), same, MOVED_M)
    assert math.isclose(event.moved_m, 0.5)
    assert from_json("") == ([], 0)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format": 2}', '{"format": 1, "questions": [{}], "last_number": 1}']
)
def test_json_of_another_kind_is_an_error_with_a_reason(text: str) -> None:
    with pytest.raises(ValueError, match=r"standing questions|format"):
        from_json(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_period_s", "5"),
        ("min_period_s", float("nan")),
        ("min_period_s", 1e400),
        ("min_period_s", 0),
        ("min_period_s", 86401),
        ("kind", 7),
        ("question", None),
        ("question", " "),
        ("watch_id", 3),
        ("watch_id", ""),
        ("last_asked_ns", 2**63),
        ("last_asked_ns", 1.5),
        ("last_changed_ns", -2),
        ("error_code", 65536),
        ("told", ["yes", [[0.0, 1.0]]]),
        ("told", "yes"),
        ("watched", [{}]),
        ("watched", {"0": 1}),
        ("of_a_later_version", 1),
    ],
)
def test_a_damaged_question_is_an_error_and_no_question(field: str, value: object) -> None:
    asked = StandingQuestion("w7", WatchKind.GROUND, "the red chair", 2.5)
    data = json.loads(to_json([asked], 9))
    data["questions"][0][field] = value
    with pytest.raises(ValueError, match="its standing questions cannot be read: "):
        from_json(json.dumps(data))


@pytest.mark.parametrize("center", [[float("nan"), 0.0, 0.0], [0.0, 0.0], "here"])
def test_a_damaged_place_is_an_error(center: object) -> None:
    data = json.loads(to_json([watch(thing("chair", 1.5))], 9))
    data["questions"][0]["watched"][0]["center_m"] = center
    with pytest.raises(ValueError, match="standing questions cannot be read: "):
        from_json(json.dumps(data))


@pytest.mark.parametrize("last_number", [None, float("inf"), "many"])
def test_a_damaged_count_is_an_error(last_number: object) -> None:
    data = json.loads(to_json([], 9)) | {"last_number": last_number}
    with pytest.raises(ValueError, match="standing questions cannot be read: "):
        from_json(json.dumps(data))


def test_two_of_one_id_are_an_error() -> None:
    twice = [StandingQuestion("w7", WatchKind.ASK, "Is it?", 2.5)] * 2
    with pytest.raises(ValueError, match="two have one id"):
        from_json(to_json(twice, 9))
