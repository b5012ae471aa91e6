"""Synonyms, plurals, and which names fit which labels."""

import pytest

from ada3d_ros.asking.words import canonical, fits, plural, singular


@pytest.mark.parametrize(
    ("one", "several"),
    [
        ("chair", "chairs"),
        ("shelf", "shelves"),
        ("box", "boxes"),
        ("couch", "couches"),
        ("sofa", "sofas"),
        ("bookshelf", "bookshelves"),
    ],
)
def test_plurals_go_both_ways(one: str, several: str) -> None:
    assert plural(one) == several
    assert singular(several) == one
    assert singular(one) == one


@pytest.mark.parametrize("noun", ["glass", "bus", "canvas", "tennis"])
def test_what_ends_in_s_is_no_plural(noun: str) -> None:
    assert singular(noun) == noun


@pytest.mark.parametrize(
    ("name", "label", "is_one"),
    [
        ("chairs", "red chair", True),
        ("red chair", "red chair", True),
        ("the red seat", "red chair", True),
        ("couches", "blue sofa", True),
        ("violet things", "purple ball", True),
        ("", "blue sofa", True),
        ("objects", "blue sofa", True),
        ("blue chair", "red chair", False),
        ("chair", "red table", False),
        ("red chair", "chair", False),
    ],
)
def test_a_name_fits_a_label(name: str, label: str, is_one: bool) -> None:
    assert fits(name, label) is is_one


def test_names_are_said_in_the_words_of_a_small_vocabulary() -> None:
    assert canonical("the violet couches") == "purple sofa"
    assert canonical("things") == ""
