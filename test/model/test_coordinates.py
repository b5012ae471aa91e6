"""Places in questions: one click whatever the brackets, or a refusal; ordinary text stays."""

from __future__ import annotations

import pytest

from ada3d_ros.errors import ErrorCode, InvalidRequestError
from ada3d_ros.model.coordinates import CLOSING, OPENING
from ada3d_ros.model.prompt import parse_coordinates

ASKED = "What is at {}?"
POINT = (1.2, -0.35, 0.8)


def clicks_of(written: str) -> tuple[str, tuple[tuple[float, float, float], ...]]:
    return parse_coordinates(ASKED.format(written))


def refusal_of(written: str) -> str:
    with pytest.raises(InvalidRequestError, match=r"write \[x, y, z\]") as caught:
        clicks_of(written)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    return str(caught.value)


@pytest.mark.parametrize("brackets", list(zip(OPENING, CLOSING, strict=True)))
@pytest.mark.parametrize(
    "inside",
    [
        "1.20, -0.35, 0.80",
        " 1.2,-.35 ,8e-1 ",
        "+1.2, −0.35, 0.8",
        "1.2, – 0.35, 0.8",
        "１．２０，－０．３５、０．８",
        "1.2 m, -0.35 m, 0.8 m",
        "1.2, -0.35, 0.8 m",
        "120 cm, -350mm, 0.8 m",
        "1.2, -0.35, 0.8, 0.5, 0.5, 0.5",
        "1.2, -0.35, 0.8, 0.5, 0.5, 0.5, 1.571",
        "1.2, -0.35, 0.8, 0.5, 0.5, 0.5, 0, 0, 1.571",
    ],
)
def test_every_kind_of_brackets_and_numbers_is_the_same_click(
    brackets: tuple[str, str], inside: str
) -> None:
    assert clicks_of(inside.join(brackets)) == ("What is at <boxes>?", (POINT,))


@pytest.mark.parametrize("opening", OPENING)
@pytest.mark.parametrize("closing", CLOSING)
def test_brackets_of_two_kinds_are_refused(opening: str, closing: str) -> None:
    if OPENING.index(opening) != CLOSING.index(closing):
        assert "two kinds of brackets" in refusal_of(f"{opening}1, 2, 3{closing}")


@pytest.mark.parametrize(
    "written",
    [
        "[120, -35, 80] cm",
        "(120, -35, 80) cm",
        "(120, -35, 80)cm",
        "[1200, -350, 800] (mm)",
        "[1200, -350, 800] in millimetres",
        "[12, -3.5, 8] dm",
        "[0.0012, -0.00035, 0.0008] kilometers",
        "[1.2, -0.35, 0.8] m",
        "(1.2, -0.35, 0.8) meters",
        "[120, -35, 80, 50, 50, 50] CM",
    ],
)
def test_a_unit_behind_the_brackets_counts_and_goes_with_them(written: str) -> None:
    assert clicks_of(written) == ("What is at <boxes>?", (POINT,))


def test_units_that_are_none() -> None:
    assert clicks_of("cm [120, -35, 80]") == ("What is at cm <boxes>?", (POINT,))
    assert clicks_of("20 cm [1.2, -0.35, 0.8]") == ("What is at 20 cm <boxes>?", (POINT,))
    for behind in (" in the room", " m/s", "mm2", " cmyk"):
        assert clicks_of("[1.2, -0.35, 0.8]" + behind)[1] == (POINT,)
        assert behind in clicks_of("[1.2, -0.35, 0.8]" + behind)[0]
    for refused in ("[4, -1, 3] ft", "(4, -1, 3) in feet", "[4, -1, 3] inches"):
        assert "not in metres" in refusal_of(refused)
    assert "some of the numbers only" in refusal_of("(120, -35, 80 cm)")


@pytest.mark.parametrize("brackets", ["[]", "()", "［］", "{}"])
@pytest.mark.parametrize(
    ("inside", "why"),
    [
        ("1,5, 2,0, 3,1", "decimal commas"),
        ("-1,5, 2,0, 3,1, 0,5, 0,5, 0,5", "decimal commas"),
        ("1,5; 2,0; 3,1", "decimal commas"),
        ("1,5 2,0 3,1", "decimal commas"),
        ("1,000, 2,000, 3,000", "decimal commas"),
        ("1_0, 2, 3", ""),
        ("0x10, 2, 3", ""),
        ("1/2, 2, 3", ""),
        ("1'000, 2, 3", ""),
        ("1.2.3, 2, 3", ""),
        ("nan, 2, 3", ""),
        ("1, -inf, 3", ""),
        ("1e400, 2, 3", "too far away"),
        ("1, 2, 1e7", "too far away"),
        ("1.2 -0.35 0.8", ""),
        ("1.2; -0.35; 0.8", ""),
        ("x=1.2, y=-0.35, z=0.8", ""),
        ("1.2, -0.35", ""),
        ("1.2, -0.35, 0.8, 0.5", ""),
        ("1.2, -0.35, 0.8,", ""),
    ],
)
def test_numbers_that_can_be_misread_are_refused(brackets: str, inside: str, why: str) -> None:
    said = refusal_of(inside.join(brackets))
    assert why in said
    assert inside.join(brackets) in said
    assert "a decimal point" in said
    assert "in metres" in said


@pytest.mark.parametrize(
    "written",
    [
        "the chair (2, left of the desk)",
        "the chair (about 3, 4 or 5 of them)",
        "the door (2nd, 3rd, 4th)",
        "the door (1, 2)",
        "drawers (1, 2, 3, 4)",
        "the desk (2.5 m)",
        "the desk (5%, 6%, 7%)",
        "the clock (10:30, 11:45, 12:00)",
        "the lamp ()",
        "a < b, c > d",
        "(1, 2, 3",
        "1.2, -0.35, 0.8",
    ],
)
def test_what_is_no_place_stays_as_it_is(written: str) -> None:
    assert clicks_of(written) == (ASKED.format(written), ())


def test_a_box_as_this_node_prints_it_is_one_click() -> None:
    printed = (
        "box 1 'chair': centre (1.200, -0.350, 0.800) m, size (0.500, 0.400, 0.300) m, yaw 9.0 deg"
    )
    text, clicks = clicks_of(printed)
    assert clicks == (POINT,)
    assert "size (0.500, 0.400, 0.300) m" in text


def test_several_places_in_several_brackets() -> None:
    text, clicks = parse_coordinates("from (1, 2, 3) m to [400, 500, 600] cm, past the lamp (red)?")
    assert text == "from <boxes> to <boxes>, past the lamp (red)?"
    assert clicks == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))


def test_square_brackets_with_brackets_inside_are_refused() -> None:
    for written in ("[(1, 2, 3)]", "[[1, 2, 3]]", "[the (red) chair]"):
        with pytest.raises(InvalidRequestError, match="square bracket"):
            clicks_of(written)


def test_long_questions_are_parsed_in_no_time() -> None:
    """Quadratic patterns took seconds for each of these."""
    for piece in ("(", "1", " ", "1 ", "cm ", "1,", "- ", "[1,2,3] ", "(1 "):
        long = piece * (20_000 // len(piece))
        for text in (long, f"({long})", f"({long}", f"[1, 2, 3]{long}"):
            try:
                parse_coordinates(text)
            except InvalidRequestError:
                continue
