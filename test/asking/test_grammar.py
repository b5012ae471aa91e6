"""The grammar: paraphrases (200 were written before it), questions outside all kinds, bad input."""

import random
import re

import pytest
import torch
import yaml

from ada3d_ros.asking import grammar
from ada3d_ros.asking.grammar import read_question
from ada3d_ros.asking.phrasing import Phrasing, phrase
from ada3d_ros.errors import InvalidRequestError, RequestError
from ada3d_ros.lab.world.graph import graphs
from ada3d_ros.lab.world.questions import KINDS, make_questions
from ada3d_ros.lab.world.rooms import make_rooms
from ada3d_ros.lab.world.wordings import reword
from test.support.wordings import FOLDER, expected, without_labels

PARAPHRASES: dict[str, dict[str, str]] = yaml.safe_load((FOLDER / "paraphrases.yaml").read_text())
MORE: dict[str, dict[str, str]] = yaml.safe_load((FOLDER / "free_wordings.yaml").read_text())
OUTSIDE: list[str] = yaml.safe_load((FOLDER / "outside.yaml").read_text())
ONLY_NAMES = ("grounding", "absent")  # kinds whose questions are a phrase alone


ALL = [
    (kind, text, want)
    for listed in (PARAPHRASES, MORE)
    for kind, lines in listed.items()
    for text, want in lines.items()
]


@pytest.mark.parametrize(("kind", "text", "want"), ALL, ids=[text for _, text, _ in ALL])
def test_a_paraphrase_is_read(kind: str, text: str, want: str) -> None:
    assert len(ALL) >= 400
    assert without_labels(read_question(text)) == without_labels(expected(kind, want))


@pytest.mark.parametrize("word", ["please", "pls", "plz", "thanks", "thx", "thank you very much"])
def test_courtesy_is_no_name(word: str) -> None:
    plain = read_question("What is the distance from the lamp to the sofa?")
    assert plain is not None
    courteous = read_question(f"distance from the lamp to the sofa {word}")
    assert courteous is not None
    assert without_labels(courteous) == without_labels(plain)


@pytest.mark.parametrize("text", OUTSIDE)
def test_a_question_outside_all_kinds_is_not_read(text: str) -> None:
    assert len(OUTSIDE) >= 120
    assert read_question(text) is None


def test_what_models_are_taught_is_read() -> None:
    """In 99 % of their own wordings, with politeness, synonyms and typos: 14 kinds, 20 rooms."""
    kinds = tuple(kind for kind in KINDS if kind not in ONLY_NAMES)
    asked = []
    for i, graph in enumerate(graphs(make_rooms("val", torch.arange(900, 920)))):
        draw = random.Random(i)
        asked += [reword(question, draw) for question in make_questions(graph, i, kinds, 42)]
    wrong = []
    for question in asked:
        try:
            read = read_question(question.text)
        except RequestError as error:
            wrong.append((question.text, str(error)))
            continue
        # "Is the crate under the ball?" is one wording of what is on what.
        same = {question.kind, "under"} if question.kind == "on" else {question.kind}
        if read is None or read.kind not in same:
            wrong.append((question.text, "" if read is None else read.kind))
    assert len(asked) > 600
    assert len(wrong) <= 0.01 * len(asked), wrong


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("How many chairs are there and what colour is the table?", "one at a time"),
        ("Is there a lamp? Where is the sofa?", "one at a time"),
        ("Is there a lamp? Is there a bed? And what is next to the sofa?", "one at a time"),
        ("Where are the chair and the table?", "several things"),
        ("How many chairs and tables are there?", "several things"),
        ("How far is the chair from there?", "which place"),
        ("What is next to it?", "which thing"),
        ("What is within 0 m of the table?", "a radius of 0 m"),
        ("How many chairs are within 1 km of the table?", "a radius of 1000 m"),
        ("What are the 500 objects nearest to the table?", "1 to 100"),
        ("What is nearest to [1, 2]?", "write [x, y, z]"),
    ],
)
def test_what_cannot_be_answered_says_why(text: str, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=re.escape(says)):
        read_question(text)


@pytest.mark.parametrize(
    "text",
    [
        "At the chair facing the bed, on which side would be the lamp?",
        "Standing at the chair and facing the bed, on what side is the lamp?",
    ],
)
def test_the_side_may_be_asked_in_any_order(text: str) -> None:
    read = read_question(text)
    assert read is not None
    assert read.request is not None
    assert [t.phrase for t in read.things] == ["lamp", "chair", "bed"]


def test_a_long_list_of_words_is_read_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The readings grow with the square of the joints, and there are none of very many."""
    read: list[str] = []

    def counted(text: str) -> Phrasing:
        read.append(text)
        return phrase(text)

    monkeypatch.setattr(grammar, "phrase", counted)
    assert read_question("what is it, " + ", ".join("abcdefg")) is None
    assert len(read) <= 60
    read.clear()
    assert read_question(", ".join(["is the sofa nicer"] * 100)) is None
    assert len(read) == 1


@pytest.mark.parametrize(
    ("text", "radius_m", "unit"),
    [
        ("What is within 2 m of the bed?", 2.0, "m"),
        ("What is within two and a half metres of the bed?", 2.5, "m"),
        ("What is within 80cm of the bed?", 0.8, "cm"),
        ("What is within 3 feet of the bed?", 0.9144, "ft"),
        ("What is within ten inches of the bed?", 0.254, "in"),
        ("What is within 1,5 m of the bed?", 1.5, "m"),
    ],
)
def test_lengths_are_read_in_every_unit(text: str, radius_m: float, unit: str) -> None:
    read = read_question(text)
    assert read is not None
    assert read.request is not None
    assert read.request.radius_m == pytest.approx(radius_m)
    assert read.request.unit == unit


def test_a_word_is_mended_only_where_no_other_is_meant() -> None:
    mended = read_question("How mayn chiars are there?")
    assert mended is not None
    assert mended.request is not None
    assert mended.request.category == "chair"
    # A cable is no table and a choir no chair, though one letter away.
    for noun in ("cable", "choir", "chain", "coach", "lamb"):
        read = read_question(f"Is there a {noun}?")
        assert read is not None
        assert read.request is not None
        assert read.request.category == noun


@pytest.mark.parametrize(
    "text",
    [
        "Is the chair behind the sofa?",  # depends on where one stands
        "What is farthest from the lamp?",
        "What is the tallest object that is not red?",
        "How far is the table with the red legs from the sofa?",
        "Which objects are not on the table?",
    ],
)
def test_what_no_frame_has_a_place_for_leaves_a_question_unread(text: str) -> None:
    assert read_question(text) is None
