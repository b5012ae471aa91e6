"""Questions in free word order: those of others, and how words, names and kinds are told."""

import re
from collections import Counter

import pytest
import yaml

from ada3d_ros.asking.free_order.clause import clause_of, clause_without_preamble
from ada3d_ros.asking.free_order.kinds import KINDS, read_in_free_order
from ada3d_ros.asking.free_order.phrases import PHRASES
from ada3d_ros.asking.free_order.words import PLAIN, WORDS
from ada3d_ros.asking.grammar import ReadQuestion, read_question
from ada3d_ros.errors import InvalidRequestError
from test.support.wordings import FOLDER, expected, without_labels

TEXT = (FOLDER / "wordings_of_others.txt").read_text(encoding="utf-8")
# A question, which may go on in lines that are indented by two, and its reading, indented by four.
OTHERS = re.findall(r"^(\S.*(?:\n  \S.*)*)\n {4}(\S.*)$", TEXT, re.MULTILINE)
OUTSIDE: list[str] = yaml.safe_load((FOLDER / "outside_of_others.yaml").read_text())
MAX_UNREAD = 0.03  # of all
MAX_UNREAD_OF_KIND = 0.12
# Kinds of questions whose name in a model's list differs from the request's.
NAMES = {"EXISTS": "existence", "LARGEST": "superlative", "TALLEST": "superlative"}
NAMES |= {"WHERE": "grounding", "DIRECTION": "relation"}


def meant(text: str) -> ReadQuestion:
    """What a line of `wordings_of_others.txt` says; a model's name for a kind may be left out."""
    head = text.split()[0]
    return expected(NAMES.get(head, head.lower()), text)


def read(text: str) -> ReadQuestion | None:
    """As a question is read; None where it is refused."""
    try:
        return read_question(text)
    except InvalidRequestError:
        return None


def test_wordings_of_others_are_read_as_they_are_meant() -> None:
    """5,300 questions that others wrote who knew the kinds alone; the grammar was mended for them
    afterwards, but for those that are left unread.
    """
    asked, unread = Counter[str](), Counter[str]()
    wrong = []
    for lines, want in OTHERS:
        kind, text = want.split()[0], " ".join(lines.split())
        asked[kind] += 1
        found = read(text)
        if found is None:
            unread[kind] += 1
        elif without_labels(found) != without_labels(meant(want)):
            wrong.append((text, want))
    assert sum(asked.values()) == 5319
    assert not wrong
    assert sum(unread.values()) <= MAX_UNREAD * sum(asked.values())
    assert all(unread[kind] <= MAX_UNREAD_OF_KIND * asked[kind] + 1 for kind in asked), unread


def test_questions_of_others_outside_all_kinds_are_not_read() -> None:
    assert len(OUTSIDE) > 1200
    assert [text for text in OUTSIDE if read(text) is not None] == []


# -- words


@pytest.mark.parametrize(
    "text",
    [
        "How far is the frobnicated chair from the table?",  # a word of no class
        "Is the largest chair an orange?",  # a thing, no colour
        "Which chair is farthest from the table?",
        "Is there only one chair?",
    ],
)
def test_a_word_that_is_not_known_leaves_a_question_unread(text: str) -> None:
    assert read_in_free_order(text) is None


def test_every_class_is_of_use() -> None:
    """A class that no kind names, and no turn of phrase writes, would forbid its words silently."""
    named = {name for kind in KINDS for name in kind.needs.replace("|", " ").split()}
    named |= {name for kind in KINDS for name in kind.may.split()}
    named |= {"HOW", "WHAT", "AUX", "IF", "HERE", "YN", "FARNOUN", "THERE"}
    assert set(WORDS) <= named
    known = PLAIN.union(*WORDS.values())
    assert not known & {"not", "no", "without", "except", "than", "other", "farthest", "smallest"}
    written = {word for _, text in PHRASES for word in text.split() if re.fullmatch("[A-Z]+", word)}
    assert written - named <= {"ONLY"}


def test_things_go_with_their_colours_numbers_and_articles() -> None:
    clause = clause_of("Which of the three red chairs is nearest to a table, and to [1, 2, 0.5]?")
    assert clause is not None
    chairs, table, place = clause.named
    assert (chairs.thing.words, chairs.thing.number, chairs.thing.is_plural) == (
        "red chair",
        3,
        True,
    )
    assert (table.thing.words, table.thing.article, table.is_group) == ("table", "a", True)
    assert place.thing.point_m == (1.0, 2.0, 0.5)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("gap crate to shelf, give mm", "mm"),
        ("How many yards is it from the crate to the shelf?", "yd"),
        ("The crate's height in inches?", "in"),
        ("How far is the crate from the shelf?", ""),
    ],
)
def test_the_unit_that_is_asked_for(text: str, unit: str) -> None:
    clause = clause_of(text)
    assert clause is not None
    assert clause.measured.unit == unit


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Where is teh purpel lamp loacted?", "WHERE of=purple lamp"),
        ("Describtion of the sofa?", None),  # too far off
        ("What is the smalest thing?", None),  # mended, and of no kind
        ("Is there emtpy floor beside the sofa?", "FREE_FLOOR to=sofa"),
    ],
)
def test_a_slip_of_the_fingers_is_mended(text: str, wanted: str | None) -> None:
    found = read(text)
    assert without_labels(found) == (None if wanted is None else without_labels(meant(wanted)))


# -- what is said before a question


def test_why_somebody_asks_is_left_out() -> None:
    clause = clause_without_preamble("I need somewhere for my bag. Which table is nearest to me?")
    assert clause is not None
    assert [one.thing.words for one in clause.named] == ["table"]
    want = "SIZE of=gray table unit=cm"
    text = "I want to order a cover for the gray table. What are its dimensions in centimetres?"
    assert without_labels(read(text)) == without_labels(meant(want))


@pytest.mark.parametrize(
    "text",
    [
        "I sit on the sofa. What is behind me?",
        "The leg of the table is broken. How long is it?",
        "The second chair is red. How tall is it?",
        "There are two chairs. How far are they apart?",
        "I have got no table. How tall is it?",
        "If I moved the lamp, what would be nearest to the table?",
        "I moved the chair next to the sofa. Where is the lamp?",
        "Suppose the chair were red. What color is it?",
    ],
)
def test_what_changes_the_question_is_not_left_out(text: str) -> None:
    assert read(text) is None


# -- kinds


def test_words_of_two_kinds_are_of_none() -> None:
    for text in (
        "How far and how tall is the chair?",
        "What color is the chair left of the table?",
        "How many chairs are on the left of the table?",
    ):
        assert read_in_free_order(text) is None


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("lamp to the left of the bed, as you see it?", "left_right category=left"),
        ("The lamp is to the left of the bed.", None),  # said, not asked
        ("Put the ball on the shelf, would you?", None),
    ],
)
def test_what_is_said_or_ordered_is_not_asked(text: str, want: str | None) -> None:
    found = read_in_free_order(text)
    if want is None:
        assert found is None
    else:
        named = f"DIRECTION of=lamp to=@robot third=bed attribute={want} model=side"
        assert without_labels(found) == without_labels(meant(named))


def test_a_radius_out_of_its_range_is_told() -> None:
    with pytest.raises(InvalidRequestError, match="a radius of 2000 m is asked for; it must be"):
        read_in_free_order("What all is in a 2 km circle round the lamp?")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("the ball closest to green bed = ?", "NEAREST category=ball to=green bed model=nearest"),
        ("To the green bed, which lamp is nearest?", "NEAREST category=lamp to=green bed"),
        ("Of the crates, which is closest to you?", "NEAREST category=crate to=@robot"),
        ("purple table - its nearest neighbour?", "NEAREST to=purple table"),
        ("The three things nearest the lamp: what are they?", "NEAREST to=lamp k=3"),
    ],
)
def test_what_something_is_nearest_to(text: str, want: str) -> None:
    assert without_labels(read_in_free_order(text)) == without_labels(meant(want))


@pytest.mark.parametrize(
    "text",
    [
        "at the chair, facing the table: lamp which side?",
        "Which side is the lamp on for someone at the chair who looks towards the table?",
        "With the table straight ahead of me, where is the lamp if I stand at the chair?",
        "Looking from the chair to the table, is the lamp left, right or behind?",
        "My position is the chair, my gaze goes to the table. In which direction is the lamp?",
        "Take the chair as my place and the table as what I look at: where is the lamp?",
    ],
)
def test_who_stands_where_and_faces_what(text: str) -> None:
    want = meant("DIRECTION of=lamp to=chair third=table")
    assert without_labels(read_in_free_order(text)) == without_labels(want)


@pytest.mark.parametrize(
    "text",
    [
        "How many things are in the cabinet?",
        "How many things do you see from the yellow sofa?",
        "How big is the thing at the table?",
        "How far is the object near the table from the lamp?",
        "Describe the thing next to the table.",
        "Is there anything in a crate?",
        "How much is the table?",
        "Are all the balls on the table?",
        "Is every chair within 2 m of the sofa?",
        "Are both chairs red?",
        "What is nearest to the table or the chair?",
        "How many red and blue chairs are there?",
        "Which object is closest in colour to the sofa?",
        "What can the table support?",
        "Standing at the chair and facing the table, I turn around. Is the lamp left or right?",
        "Can you paint the chair red?",
        "Where do I put the chair?",
        "How many chairs do I need?",
        "How long has the sofa been in this room?",
        "What could be on the table?",
        "Is the largest object a table?",
        "I have a chair.",
        "How many big chairs are there?",
        "How far is the big table from the lamp?",
        "Is it light here?",
        "How far is it from me to you?",
        "What is at PLACE0?",
        "Is there a lamp? Is it on the table?",
    ],
)
def test_what_means_something_else_is_not_read(text: str) -> None:
    assert read(text) is None


@pytest.mark.parametrize(
    "text", ["", "?", "9" * 5000, "PLACE0 LEN0 UNIT0 T", "red " * 400, "[", "x" * 99_999]
)
def test_odd_text_is_no_question(text: str) -> None:
    assert read(text) is None
