"""What a measurement says in words: yes and no, and that there is none of what was asked after."""

import pytest

from ada3d_ros.asking.sentence import put_in_words
from ada3d_ros.measures import LEFT_RIGHT, MeasureKind, Measurement, MeasureRequest
from test.support.measured import ask, box

TABLE = box([0, 0, 0.4], [1.2, 0.8, 0.8], "red table")
BALL = box([0.3, 0, 0.95], [0.3, 0.3, 0.3], "blue ball")
CHAIR = box([2.0, 0, 0.45], [0.5, 0.5, 0.9], "green chair")


def said(kind: MeasureKind, category: str, **others: object) -> Measurement:
    request = MeasureRequest(kind, category=category, **others)  # type: ignore[arg-type]
    third = CHAIR if kind is MeasureKind.BETWEEN else None
    among = (BALL,) if category == "balls" and "attribute" in others else ()
    found = ask(kind, to=TABLE, third=third, among=among, category=category, **others)  # type: ignore[arg-type]
    return put_in_words(request, found)


@pytest.mark.parametrize(
    ("kind", "category", "others", "word", "sentence"),
    [
        (
            *(MeasureKind.ON, "green ball", {"attribute": "yes_no"}),
            *("no", "No: on the red table is no green ball."),
        ),
        (MeasureKind.ON, "balls", {}, "nothing", "On the red table is no ball."),
        (
            *(MeasureKind.BETWEEN, "sofa", {"attribute": "yes_no"}),
            *("no", "No: between the red table and the green chair is no sofa."),
        ),
        (
            *(MeasureKind.WITHIN, "lamp", {"attribute": "yes_no", "radius_m": 1.0}),
            *("no", "No: within 1.00 m of the red table there are no lamps."),
        ),
        (
            *(MeasureKind.COUNT, "lamps", {"radius_m": 1.0}),
            *("zero", "Within 1.00 m of the red table there are no lamps."),
        ),
        (
            *(MeasureKind.ON, "balls", {"attribute": "yes_no"}),
            *("yes", "Yes: on the red table is the blue ball."),
        ),
        (
            *(MeasureKind.ON, "", {"attribute": "count"}),
            *("zero", "On the red table is nothing."),
        ),
    ],
)
def test_what_there_is_none_of_is_named(
    kind: MeasureKind, category: str, others: dict[str, object], word: str, sentence: str
) -> None:
    answer = said(kind, category, **others)
    assert (answer.word, answer.sentence) == (word, sentence)


@pytest.mark.parametrize(("side", "word"), [("left", "Yes: "), ("right", "No: ")])
def test_a_side_that_is_named_is_judged(side: str, word: str) -> None:
    request = MeasureRequest(MeasureKind.DIRECTION, category=side, attribute=LEFT_RIGHT)
    found = Measurement(MeasureKind.DIRECTION, word="left", sentence="The ball is on the left.")
    answer = put_in_words(request, found)
    assert answer.word == word.strip(": ").lower()
    assert answer.sentence == f"{word}the ball is on the left."
