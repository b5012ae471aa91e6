"""The names that are looked for: read and cleaned; what is wrong with a file is said."""

from pathlib import Path

import pytest

from ada3d_ros.asking.vocabulary import MAX_NAMES, find_vocabulary, read_vocabulary
from ada3d_ros.lab.world.rooms import CATEGORIES, COLORS
from ada3d_ros.model.startup import embedded_model_path


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "names.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_the_embedded_models_is_every_colour_of_every_category() -> None:
    names = find_vocabulary("", embedded_model_path()).names
    assert set(names) == {f"{color} {category}" for color in COLORS for category in CATEGORIES}
    assert len(names) == len(COLORS) * len(CATEGORIES)


def test_empty_lines_comments_and_repetitions_are_no_names(tmp_path: Path) -> None:
    text = "\ufeffred chair\r\n\n  # furniture\nBlue   table\nRED CHAIR\n\t\nlamp"
    vocabulary = read_vocabulary(written(tmp_path, text))
    assert vocabulary.names == ("red chair", "Blue table", "lamp")
    assert (vocabulary.why_not, vocabulary.notes) == ("", ())


def test_lines_that_cannot_be_asked_for_are_left_out_and_named(tmp_path: Path) -> None:
    lines = [
        "chair",
        "x" * 81,
        "thing at [1, 2, 3]",
        "<image>",
        "y" * 80,
        "half [a bracket",
        "a\x07",
    ]
    vocabulary = read_vocabulary(written(tmp_path, "\n".join(lines)))
    assert vocabulary.names == ("chair", "y" * 80)
    (note,) = vocabulary.notes
    assert "5 lines are no names" in note
    assert f"line 2 ({'x' * 40!r})" in note
    assert "80 characters" in note


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "holds no name"),
        (b"\n \n# all of it\n", "holds no name"),
        (b"\xff\xfe\x00c", "codec can't decode"),
        ("\n".join(f"thing {i}" for i in range(MAX_NAMES + 1)), "20001 names, at most 20000"),
        (b"x" * 4_000_001, "4000001 bytes"),
    ],
    ids=["empty", "blank", "not-text", "too-many", "too-large"],
)
def test_a_file_that_cannot_be_used_says_why(
    tmp_path: Path, content: str | bytes, problem: str
) -> None:
    vocabulary = read_vocabulary(written(tmp_path, content))
    assert vocabulary.names == ()
    assert vocabulary.is_fault
    assert problem in vocabulary.why_not
    assert "names.txt" in vocabulary.why_not


def test_five_thousand_names_are_read(tmp_path: Path) -> None:
    content = "\n".join(f"thing {i}" for i in range(5000))
    assert len(read_vocabulary(written(tmp_path, content)).names) == 5000


def test_a_named_file_that_is_not_there_is_a_fault_none_beside_the_model_is_not(
    tmp_path: Path,
) -> None:
    missing = find_vocabulary(str(tmp_path / "none.txt"), tmp_path)
    assert missing.is_fault
    assert "none.txt" in missing.why_not
    nothing = find_vocabulary("", tmp_path)
    assert not nothing.is_fault
    assert "objects.vocabulary" in nothing.why_not
