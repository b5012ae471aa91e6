"""JSON lines that grow: whole ones count, damaged ones are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.json_lines import line_of, read_rows, whole_bytes

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


def test_what_is_no_json_is_not_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        line_of({"value": float("nan")})
