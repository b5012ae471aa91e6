"""Names among a detector's objects: what is found, what is denied, and what cannot be told."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ada3d_ros.asking.detected_request import detected_request
from ada3d_ros.asking.grammar import read_question
from ada3d_ros.asking.kinds import KindNames
from ada3d_ros.asking.references import parse_reference
from ada3d_ros.asking.resolve_detected import DetectedResolver
from ada3d_ros.asking.sentence import put_in_words
from ada3d_ros.errors import AmbiguousError, NotGroundedError, NotMeasurableError
from ada3d_ros.geometry.measure import MeasuredScene, measure
from ada3d_ros.geometry.measure.uncertainty import box_scale_m
from ada3d_ros.measures import Measurement, ObjectsSnapshot, SceneObject
from ada3d_ros.perception.class_names import COCO_NAMES
from ada3d_ros.types import Box3D, GroundingMethod

# An office: x, y, z of the centre and the sides, in metres.
OFFICE = {
    "black tv": ((0.0, 0.0, 1.0), (0.1, 0.5, 0.4)),
    "keyboard": ((0.4, 0.0, 0.76), (0.2, 0.4, 0.04)),
    "white cup": ((0.4, 0.5, 0.8), (0.08, 0.08, 0.1)),
    "brown dining table": ((0.3, 0.1, 0.37), (0.8, 1.4, 0.74)),
    "blue chair": ((1.5, 0.0, 0.5), (0.5, 0.5, 1.0)),
    "red chair": ((1.5, 2.0, 0.5), (0.6, 0.6, 1.0)),
    "chair": ((3.0, 2.0, 0.4), (0.4, 0.4, 0.8)),
    "orange": ((0.4, -0.4, 0.78), (0.07, 0.07, 0.07)),
}


class Phrases:
    """A detector that takes phrases and knows one."""

    words = frozenset[str]()
    listed_score = 0.3

    def __init__(self) -> None:
        self.asked: list[str] = []

    def find(
        self, phrases: Sequence[str], max_boxes: int, min_score: float
    ) -> list[tuple[Box3D, ...]]:
        self.asked += phrases
        lamp = box("lamp", (2.0, 0.0, 0.9), (0.3, 0.3, 1.8))
        return [(lamp,) if "lamp" in phrase else () for phrase in phrases]


def box(label: str, center: Sequence[float], size: Sequence[float]) -> Box3D:
    return Box3D(
        np.array(center),
        np.array(size),
        label=label,
        score=0.8,
        support_points=500,
        method=GroundingMethod.DETECTOR,
    )


def objects(things: dict[str, Any] = OFFICE, **fields: Any) -> ObjectsSnapshot:
    kept = [
        SceneObject(str(i), label, box(label, *place))
        for i, (label, place) in enumerate(things.items())
    ]
    return ObjectsSnapshot(tuple(kept), **{"complete": True, **fields})


def resolver(
    snapshot: ObjectsSnapshot | None = None,
    kinds: tuple[str, ...] = COCO_NAMES,
    finder: Phrases | None = None,
) -> DetectedResolver:
    pose = np.eye(4)
    pose[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    pose[:3, 3] = (-2.0, 0.0, 1.2)
    keyframe = SimpleNamespace(frame=SimpleNamespace(T_world_cam=pose))
    query: Any = SimpleNamespace(
        config=SimpleNamespace(question=SimpleNamespace(named_score=0.2)),
        scene=SimpleNamespace(keyframes=(keyframe,)),
    )
    snapshot = snapshot or objects()
    names = KindNames(kinds, [thing.label for thing in snapshot.objects])
    return DetectedResolver(query, snapshot, finder, kinds=names)


def ask(text: str, by: DetectedResolver | None = None) -> Measurement:
    """The measured answer to a question, as the pipeline makes it."""
    by = by or resolver()
    read = read_question(text)
    assert read is not None
    request = detected_request(read)
    assert request is not None
    things = by.resolve(request)
    result = measure(request, things, MeasuredScene((), 0.0, by.robot()))
    return by.qualified(request, put_in_words(request, result))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        *(("Is there a monitor?", "yes"), ("Do you see a sofa?", "no"), ("Any chairs?", "yes")),
        *(("Is there a red chair?", "yes"), ("Is there a green monitor?", "no")),
        *(("How many chairs are there?", "three"), ("How many screens do you see?", "one")),
        *(("How many fridges are there?", "zero"), ("Are there oranges?", "yes")),
        *(("What color is the cup?", "white"), ("What colour is the orange?", "orange")),
        *(("What color is the screen?", "black"), ("What color is the desk?", "brown")),
        *(
            ("What is nearest to the cup?", "dining table"),
            ("Which chair is nearest to you?", "chair"),
        ),
        *(("What is on the desk?", "tv"), ("Is the cup on the table?", "yes")),
        *(("What is the largest object?", "dining table"), ("Which chair is largest?", "chair")),
        *(("What is the blue object?", "chair"), ("What do you see?", "eight")),
        *(("List the chairs.", "three"), ("What color is the largest chair?", "red")),
    ],
)
def test_questions_about_what_is_kept(text: str, word: str) -> None:
    assert ask(text).word == word


def test_a_thing_is_called_as_it_was_asked_for() -> None:
    counted = ask("How many monitors are there?")
    assert counted.values == (1.0,)
    assert counted.sentence == "There is 1: the black monitor."
    assert "The detector's word for monitor is 'tv'." in counted.assumptions
    assert counted.boxes[0].label == "black tv"
    far = ask("How far is the keyboard from the screen?")
    assert far.sentence.startswith("The keyboard is 0.25 m")
    assert "from the screen" in far.sentence
    assert ask("Is there a tv?").assumptions == ("Of what has been seen so far.",)
    assert ask("What colour is the monitor?").sentence == "The monitor is black."


def test_a_list_names_each_kind_with_its_number() -> None:
    things = {f"chair {i}": ((i, 0.0, 0.5), (0.5, 0.5, 1.0)) for i in range(3)}
    kept = [SceneObject(str(i), "chair", box("chair", *p)) for i, p in enumerate(things.values())]
    kept.append(SceneObject("9", "orange tie", box("orange tie", (5, 0, 1), (0.1, 0.1, 0.5))))
    listed = ask("What do you see?", resolver(ObjectsSnapshot(tuple(kept), complete=True)))
    assert listed.sentence == "There are 4: three chairs and an orange tie."
    assert "Of the 80 kinds that the detector knows." in listed.assumptions
    assert ask("List the sofas.").sentence == "There are no sofas."


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Is there a piano?", "'piano' is no kind .* knows 80 kinds"),
        ("How many lamps are there?", "'lamp' is no kind"),
        ("Is there a light?", "nearest to it 'traffic light'"),
        ("How far is the whiteboard from the cup?", "'whiteboard' is no kind"),
        ("What colour is the door?", "'door' is no kind"),
        ("Is there a bag?", "knows 'backpack', 'handbag' or 'suitcase' alone"),
        ("How many computers are there?", "'laptop' alone"),
        ("Is there a mug?", "whether there is a mug .* 'cup', and does not tell its sorts apart"),
        ("How many office chairs are there?", "does not tell its sorts apart.* blue chair at"),
    ],
)
def test_what_the_detector_cannot_know_is_not_denied(text: str, says: str) -> None:
    with pytest.raises(NotMeasurableError, match=says):
        ask(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Where is the sofa?", "no sofa has been seen"),
        ("How far is the cup from the fridge?", "no fridge has been seen"),
        ("What color is the sofa?", "no sofa has been seen"),
        ("What color is the keyboard?", "the colour of the keyboard is not known"),
        ("Is there a green chair?", "whether there is a green chair .* no colour is sure of chair"),
        ("How many white chairs are there?", "no colour is sure"),
    ],
)
def test_what_was_not_seen_is_said_so(text: str, says: str) -> None:
    with pytest.raises(NotGroundedError, match=says):
        ask(text)


def test_what_something_stands_on_is_not_nothing() -> None:
    alone = {"cup": OFFICE["white cup"]}
    with pytest.raises(NotGroundedError, match="of no kind"):
        ask("What is under the cup?", resolver(objects(alone)))
    assert ask("What is under the cup?").word == "dining table"
    on = ask("What is on the red chair?")
    assert on.word == "nothing"
    assert on.sentence == "On the red chair is nothing that is known."


def test_a_thing_on_a_seat_is_on_it() -> None:
    """The lowest part of a sofa is seen by no camera: the middle of its box is above the seat."""
    sofa = {
        "couch": ((0.0, 0.0, 0.5), (0.9, 1.8, 0.7)),
        "backpack": ((0.1, 0, 0.6), (0.3, 0.3, 0.4)),
    }
    sofa["cup"] = (2.0, 0.0, 0.05), (0.1, 0.1, 0.1)
    assert ask("Is the backpack on the sofa?", resolver(objects(sofa))).word == "yes"
    assert ask("What is on the couch?", resolver(objects(sofa))).word == "backpack"
    assert ask("Is the cup on the sofa?", resolver(objects(sofa))).word == "no"


def test_one_of_a_sort_that_is_not_told_apart_may_be_meant() -> None:
    """Who speaks of the mug takes it to be there: a cup may be it."""
    found = ask("Where is the mug?")
    assert found.values == pytest.approx((0.4, 0.5, 0.8))
    assert "The detector does not tell mug from any other 'cup'." in found.assumptions
    assert ask("Is there a bag?", resolver(objects({"handbag": OFFICE["white cup"]}))).word == "yes"
    assert (
        ask("Is there an armchair?", resolver(objects({"cup": OFFICE["white cup"]}))).word == "no"
    )


def test_a_name_of_several_is_asked_back() -> None:
    with pytest.raises(
        AmbiguousError, match=r"fits 3 objects: .*blue chair at \[1\.5, 0\.0, 0\.5\]"
    ):
        ask("Where is the chair?")
    assert ask("How far is a chair from the cup?").values[0] > 0
    assert ask("Where is the red chair?").boxes[0].label == "red chair"
    # Two of one kind are two, however near.
    books = {"white book": ((0, 0, 1), (0.2, 0.2, 0.1)), "book": ((0.25, 0, 1), (0.2, 0.2, 0.1))}
    with pytest.raises(AmbiguousError, match="fits 2 objects"):
        ask("Where is the book?", resolver(objects(books)))


def test_colours_that_are_not_sure_are_counted() -> None:
    counted = ask("How many red chairs are there?")
    assert counted.values == (1.0,)
    assert "The colour of 1 more is not sure." in counted.assumptions


def test_a_detector_of_phrases_looks_for_other_names() -> None:
    finder = Phrases()
    by = resolver(finder=finder)
    assert ask("Is there a lamp?", by).word == "yes"
    assert any("Looked for in 1 keyframe:" in sentence for sentence in by.assumptions)
    assert ask("How many pianos are there?", resolver(finder=finder)).word == "zero"
    far = ask("How far is the lamp from the cup?", resolver(finder=finder))
    assert far.values[0] == pytest.approx(np.hypot(1.85 - 0.44, 0.46 - 0.15), abs=1e-6)
    # What the list knows is not looked for in the images.
    asked = len(finder.asked)
    assert ask("Is there a monitor?", resolver(finder=finder)).word == "yes"
    assert ask("Is there a sofa?", resolver(finder=finder)).word == "no"
    assert len(finder.asked) == asked


def test_kinds_that_nobody_listed_are_not_denied() -> None:
    """A topic's detector does not say what it knows: what it has shown is known."""
    by = resolver(objects({"red forklift": OFFICE["blue chair"]}), kinds=())
    assert ask("Is there a forklift?", by).word == "yes"
    with pytest.raises(NotMeasurableError, match="things of 1 kind have been seen so far"):
        ask("Is there a chair?", by)


def test_a_list_that_is_at_fault_says_why() -> None:
    by = resolver(objects({}, why_not="no objects are found: the file is gone."))
    for text in ("Is there a chair?", "Where is the chair?", "What do you see?"):
        with pytest.raises(NotMeasurableError, match="the file is gone"):
            ask(text, by)
    unfinished = resolver(objects(complete=False))
    assert ask("Is there a sofa?", unfinished).word == "no"
    assert any("still being made" in sentence for sentence in unfinished.assumptions)


def test_the_boxes_of_a_name() -> None:
    by = resolver(finder=Phrases())

    def labels(phrase: str) -> list[str]:
        return [each.label for each in by.boxes_of(parse_reference(phrase))]

    assert sorted(labels("the chairs")) == ["blue chair", "chair", "red chair"]
    assert labels("red chair") == ["red chair"]
    assert labels("the monitor") == ["black tv"]
    assert labels("a lamp") == ["lamp"]
    with pytest.raises(NotGroundedError, match="no sofa has been seen"):
        labels("sofa")
    with pytest.raises(NotMeasurableError, match="is no kind"):
        resolver().boxes_of(parse_reference("the whiteboard"))


def test_a_detectors_box_is_as_sure_as_its_outline() -> None:
    """Its score is of what it is, not of where."""
    sure, unsure = (
        box_scale_m(replace(box("cup", (0, 0, 0), (0.1, 0.1, 0.1)), score=score))
        for score in (0.95, 0.5)
    )
    assert sure == unsure
    assert 0.04 < sure < 0.05
    assert ask("Where is the cup?").uncertainty[0] == pytest.approx(5.85 * 0.045, rel=0.1)
