"""MMBench: the TSV, options rotated, which option an answer names, circular accuracy by hand."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.evaluation.field.benchmark import Item, Record, Scoring
from ada3d_ros.lab.evaluation.field.images import LETTER_PROMPT
from ada3d_ros.lab.evaluation.field.mmbench import MM_BENCH, chosen_option
from ada3d_ros.lab.evaluation.field.results import results_of
from ada3d_ros.lab.evaluation.field.results import table as show
from ada3d_ros.lab.evaluation.field.tables import read_table

COLUMNS = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "l2-category")
COLUMNS = (*COLUMNS, "image")
PICTURE = base64.b64encode(b"x" * 200_000).decode()  # beyond csv's usual limit
THREE = ("2", "Which?", "Look.", "one", "two", "three", "nan", "C", "counting", "fine", PICTURE)
TWO = ("7", 'Is it "red"?', "", "yes", "no", "", "", "A", "color", "coarse", PICTURE)


def table(path: Path, *rows: tuple[str, ...], columns: tuple[str, ...] = COLUMNS) -> Path:
    lines = ["\t".join(columns)]
    for row in rows:
        lines.append(
            "\t".join(f'"{c}"'.replace('"red"', '""red""') if '"' in c else c for c in row)
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def changed(row: tuple[str, ...], **cells: str) -> tuple[str, ...]:
    return tuple(
        cells.get(name.replace("-", "_"), cell) for name, cell in zip(COLUMNS, row, strict=True)
    )


def read(path: Path) -> dict[str, Item]:
    return {item.id: item for item in MM_BENCH.read({"questions": path})}


OPTIONS = {"A": "red chair", "B": "blue table", "C": "chair"}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(C) chair", "C"),
        ("The answer is A", "A"),
        ("A or B", ""),  # two letters, and no option's text
        ("blue table", "B"),
        ("It is the Blue Table.", "B"),
        ("a red chair", ""),  # both "red chair" and "chair"
        ("b", ""),
        ("Z", "Z"),
        ("Cannot determine the answer", "Z"),
        ("", ""),
        ("the blue table " * 10, ""),  # more than twice as long as all options
        ("A chair", "A"),  # an article is taken for a letter; theirs
    ],
)
def test_which_option_is_named(answer: str, letter: str) -> None:
    assert chosen_option(answer, OPTIONS) == letter


def test_rotations_are_made(tmp_path: Path) -> None:
    items = read(table(tmp_path / "a.tsv", THREE, TWO))
    assert list(items) == ["2", "1000002", "2000002", "7", "1000007"]
    assert items["2"].text == "Look.\nWhich?\nA. one\nB. two\nC. three"
    assert MM_BENCH.question(items["2"]).text.endswith(f"C. three\n{LETTER_PROMPT}")
    assert items["1000002"].text == "Look.\nWhich?\nA. two\nB. three\nC. one"
    assert [items[name].references for name in ("2", "1000002", "2000002")] == [
        ("C",),
        ("B",),
        ("A",),
    ]
    assert items["7"].text == 'Is it "red"?\nA. yes\nB. no'
    assert items["1000007"].references == ("B",)
    assert items["7"].extra["image"] == PICTURE
    assert items["7"].source == items["1000007"].source != items["2"].source


def test_rotations_of_the_file_are_taken(tmp_path: Path) -> None:
    """An image that another row has is named by its index."""
    turned = changed(TWO, index="1000007", A="no", B="yes", answer="B", image="7")
    items = read(table(tmp_path / "a.tsv", TWO, turned))
    assert list(items) == ["7", "1000007"]
    assert items["1000007"].text == 'Is it "red"?\nA. no\nB. yes'
    assert items["1000007"].extra["image"] == PICTURE
    assert items["1000007"].source == "image of 7"


def said(**texts: str) -> dict[str, Record]:
    return {name.removeprefix("i"): {"text": text} for name, text in texts.items()}


def score(path: Path, records: dict[str, Record]) -> dict[str, float]:
    return MM_BENCH.score([(i, records[n]) for n, i in read(path).items()], Scoring())


def test_circular_accuracy_by_hand(tmp_path: Path) -> None:
    path = table(tmp_path / "a.tsv", THREE, TWO)
    records = said(i2="C", i1000002="B. three", i2000002="three", i7="A", i1000007="A")
    assert score(path, records) == {
        "accuracy": 50.0,  # the second question is wrong once rotated
        "accuracy_one_round": 100.0,
        "unread": 0.0,
        "category: color": 0.0,
        "category: counting": 100.0,
        "l2-category: coarse": 0.0,
        "l2-category: fine": 100.0,
    }
    records |= {"2": {"text": "C", "error": "TIMEOUT"}} | said(i7="perhaps")
    found = score(path, records)
    assert (found["accuracy"], found["accuracy_one_round"]) == (0.0, 0.0)
    assert found["unread"] == pytest.approx(20.0)


def test_a_question_counts_only_where_all_its_rotations_were_asked(tmp_path: Path) -> None:
    """As --limit and --partial leave them: right as far as it was asked is not right."""
    items = read(table(tmp_path / "a.tsv", THREE, TWO))
    records = said(i2="C", i1000002="B", i7="A", i1000007="A")
    scored = [(items[name], record) for name, record in records.items()]
    found = MM_BENCH.score(scored, Scoring())
    assert found == {
        "accuracy": 0.0,  # of the second question alone
        "accuracy_one_round": 100.0,
        "unread": 0.0,
        "category: color": 0.0,
        "l2-category: coarse": 0.0,
    }
    (told,) = MM_BENCH.remarks(scored, Scoring())
    assert told == "accuracy is of 1 questions; 1 were not asked in all their rotations: '2'"
    whole = [(item, {"text": "A"}) for item in items.values()]
    assert MM_BENCH.remarks(whole, Scoring()) == []

    # The first rows of an official file are no rotations: there is no circular accuracy.
    rotations = [changed(TWO, index="1000007", A="no", B="yes", answer="B")]
    rows = read(table(tmp_path / "b.tsv", TWO, changed(TWO, index="8"), *rotations))
    first = [(rows["7"], {"text": "A"}), (rows["8"], {"text": "A"})]
    found = MM_BENCH.score(first, Scoring())
    assert found["accuracy"] == 100.0  # question 8 has no rotation in this file
    assert MM_BENCH.score(first[:1], Scoring()) == {"accuracy_one_round": 100.0, "unread": 0.0}
    results = results_of(MM_BENCH, first[:1], Scoring())
    assert "accuracy is of 0 questions; 1 were not asked" in show(results)


@pytest.mark.parametrize("cell", ["NA", "N/A", "null", "#N/A", "None", "nan", "NONE", "NaN"])
def test_what_pandas_takes_for_empty_is_no_option(cell: str, tmp_path: Path) -> None:
    row = changed(THREE, C="three", D=cell, hint=cell)
    assert read(table(tmp_path / "a.tsv", row))["2"].text == ("Which?\nA. one\nB. two\nC. three")
    kept = changed(THREE, D=f"{cell}!", hint="na")  # another text, and no name of pandas'
    assert read(table(tmp_path / "b.tsv", kept))["2"].text.endswith(f"C. three\nD. {cell}!")
    assert read(table(tmp_path / "b.tsv", kept))["2"].text.startswith("na\n")


def test_a_letter_that_a_large_model_found(tmp_path: Path) -> None:
    path, judged = table(tmp_path / "a.tsv", TWO), tmp_path / "judged.json"
    judged.write_text('{"7": "A", "1000007": "A"}')
    items = MM_BENCH.read({"questions": path, "judgements": judged})
    values = [MM_BENCH.item_score(item, {"text": "sure thing"}) for item in items]
    assert values == [1.0, 0.0]
    assert MM_BENCH.item_score(items[1], {"text": "B"}) == 1.0  # the answer itself says it
    judged.write_text('{"7": "E"}')
    with pytest.raises(SourceError, match="'7': 'E' is no option; a letter A to D"):
        MM_BENCH.read({"questions": path, "judgements": judged})


def test_answers_of_all_forms(tmp_path: Path) -> None:
    tsv = tmp_path / "answers.tsv"
    tsv.write_text("index\tprediction\n7\tA\n1000007.0\t\n")
    assert MM_BENCH.read_answers(tsv) == said(i7="A", i1000007="")
    rows = [{"question_id": 7, "round_id": turn, "text": text} for turn, text in enumerate("AB")]
    lines = tmp_path / "llava.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert MM_BENCH.read_answers(lines) == said(i7="A", i1000007="B")
    lines.write_text("".join(json.dumps(row) + "\n" for row in [rows[0], rows[0]]))
    with pytest.raises(SourceError, match="rotation 0 of 7 again"):
        MM_BENCH.read_answers(lines)
    ours = tmp_path / "records.jsonl"
    ours.write_text('{"settings": {}}\n{"id": "7", "text": "A"}\n')
    assert MM_BENCH.read_answers(ours)["7"]["text"] == "A"


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([changed(TWO, answer="C")], "entry 1: the answer 'C' is none of its options A, B"),
        ([changed(TWO, B="")], "fewer than two options"),
        ([changed(TWO, index="x")], "index is 'x'; a whole number"),
        ([TWO, TWO], "'7' is there twice"),
        ([changed(TWO, index="1000007")], "1000007 is a rotation of 7, which is not there"),
        ([changed(TWO, image="")], "has no 'image'"),
        ([changed(TWO, image="7")], "its image is that of row 7, which has none of its own"),
        ([TWO[:-1]], "row 1 has 10 cells, the table 11 columns"),
        ([], "no row below its names"),
    ],
)
def test_bad_rows(rows: list[tuple[str, ...]], match: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=match):
        read(table(tmp_path / "a.tsv", *rows))


def test_bad_tables(tmp_path: Path) -> None:
    columns = tuple(name for name in COLUMNS if name != "answer")
    with pytest.raises(SourceError, match="no column 'answer', only index, question"):
        read(table(tmp_path / "a.tsv", columns=columns))
    with pytest.raises(SourceError, match="is not there"):
        read(tmp_path / "none.tsv")
    (tmp_path / "b.tsv").write_bytes(b"index\xff\n")
    with pytest.raises(SourceError, match="cannot be read as a table"):
        read_table(tmp_path / "b.tsv", ())
    (tmp_path / "c.tsv").write_text("")
    with pytest.raises(SourceError, match="no column 'index', only nothing"):
        read_table(tmp_path / "c.tsv", ("index",))
