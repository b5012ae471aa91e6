"""JSON lines that are written while something is measured, so that it goes on where it stopped.

A line is whole once its end is written: what follows the last end of line was cut short when the
process was killed, and does not count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ada3d_ros.errors import SourceError


def line_of(row: Mapping[str, Any]) -> str:
    """One line with its end. Raises ValueError for what is no JSON, as NaN."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def whole_bytes(content: bytes) -> int:
    """How many bytes the whole lines take."""
    return content.rfind(b"\n") + 1


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of all whole lines. Raises SourceError that names a damaged one."""
    content = path.read_bytes()
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
