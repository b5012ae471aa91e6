"""JSON lines that are written while something is measured, so that it goes on where it stopped.

A line is whole once its end is written: what follows the last end of line was cut short when the
process was killed, and does not count. Files whose names end in .gz are packed: each line that was
added is a gzip member of its own, until `write_lines` packs all of them into one.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ada3d_ros.errors import SourceError


def line_of(row: Mapping[str, Any]) -> str:
    """One line with its end. Raises ValueError for what is no JSON, as NaN."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def whole_bytes(content: bytes) -> int:
    """How many bytes the whole lines take."""
    return content.rfind(b"\n") + 1


def add_line(path: Path, line: str) -> None:
    """Write it behind the others, at once."""
    data = line.encode()
    with path.open("ab") as file:
        file.write(gzip.compress(data, mtime=0) if _is_packed(path) else data)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Put these lines in the place of the whole file: the old one stays until all are written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(lines).encode()
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(gzip.compress(data, mtime=0) if _is_packed(path) else data)
    part.replace(path)


def _is_packed(path: Path) -> bool:
    return path.suffix == ".gz"


def _content(path: Path) -> bytes:
    """What the file holds, unpacked; of a member that was cut short what is there."""
    if not _is_packed(path):
        return path.read_bytes()
    parts = []
    try:
        with gzip.open(path) as file, suppress(EOFError):
            while part := file.read1(1 << 20):
                parts.append(part)
    except (gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(
            f"{path} is damaged ({error}): move it away to have what it holds asked again, or name"
            " another place."
        ) from None
    return b"".join(parts)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of all whole lines. Raises SourceError that names a damaged one."""
    content = _content(path)
    rows = []
    for number, line in enumerate(content[: whole_bytes(content)].split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise SourceError(
                f"{path} line {number} is damaged: take that line out to have what it holds asked"
                " again, or name another place."
            )
        rows.append(row)
    return rows
