"""JSON lines that grow: whole ones count, damaged ones are named."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.json_lines import add_line, line_of, read_rows, whole_bytes, write_lines

ROWS = [{"settings": {"views": 20}}, {"id": "a", "text": "ç\u2028d"}]  # an end of line to some


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "records.jsonl"
    made.write_bytes("".join(map(line_of, ROWS)).encode())
    return made


def test_what_is_written_is_read(path: Path) -> None:
    assert line_of(ROWS[1]) == '{"id":"a","text":"ç\u2028d"}\n'
    assert read_rows(path) == ROWS


def test_what_has_no_end_does_not_count(path: Path) -> None:
    content = path.read_bytes()
    for tail in (b"{", b'{"id":"b"}'):  # a whole object without its end may be half of a longer one
        path.write_bytes(content + tail)
        assert read_rows(path) == ROWS
        assert whole_bytes(content + tail) == len(content)
    path.write_bytes(b"")
    assert read_rows(path) == []


@pytest.mark.parametrize("line", ["[1", "[1]", "", '{"id": NaN'])
def test_a_damaged_line_is_named(path: Path, line: str) -> None:
    path.write_text(line_of(ROWS[0]) + line + "\n" + line_of(ROWS[1]), encoding="utf-8")
    with pytest.raises(SourceError, match=r"records.jsonl line 2 is damaged: take that line out"):
        read_rows(path)


def test_packed_lines_are_read_member_by_member(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "records.jsonl.gz"
    write_lines(path, [line_of(ROWS[0])])
    add_line(path, line_of(ROWS[1]))
    assert read_rows(path) == ROWS
    grown = path.read_bytes()
    path.write_bytes(grown + gzip.compress(line_of(ROWS[1]).encode())[:-14])  # cut short
    assert read_rows(path) == ROWS
    write_lines(path, map(line_of, ROWS))
    assert read_rows(path) == ROWS
    assert len(path.read_bytes()) < len(grown)
    assert [file.name for file in path.parent.iterdir()] == ["records.jsonl.gz"]


def test_a_damaged_packed_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl.gz"
    write_lines(path, map(line_of, ROWS))
    path.write_bytes(path.read_bytes() + b"no gzip")
    with pytest.raises(SourceError, match=r"records.jsonl.gz is damaged .*move it away"):
        read_rows(path)


def test_what_is_no_json_is_not_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        line_of({"value": float("nan")})
