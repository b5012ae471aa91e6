"""Tables with tabs between columns (TSV), as MMBench has them: images in them as base64 text."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.evaluation.field.json_files import Entry


def read_table(path: Path, needed: Sequence[str]) -> list[Entry]:
    """The rows by the names of the columns in the first line, strings all; an empty cell is absent.

    Raises SourceError: no such file, no text, a column that is needed and not there, a row of
    another length, none at all.
    """
    limit = csv.field_size_limit(sys.maxsize)  # else 128 KB: less than an image
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t"))
    except FileNotFoundError:
        raise SourceError(f"{path} is not there; name the official file.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path} cannot be read as a table ({error}).") from None
    finally:
        csv.field_size_limit(limit)

    names = [name.strip() for name in rows[0]] if rows else []
    missing = [name for name in needed if name not in names]
    if missing:
        there = ", ".join(names)[:200] or "nothing"
        raise SourceError(
            f"{path} has no column {missing[0]!r}, only {there}. Is it the official TSV, with tabs"
            " between its columns?"
        )
    if len(rows) == 1:
        raise SourceError(f"{path} has no row below its names of columns.")
    entries = []
    for number, row in enumerate(rows[1:], 1):
        if len(row) != len(names):
            raise SourceError(
                f"{path} row {number} has {len(row)} cells, the table {len(names)} columns: is the"
                " file whole?"
            )
        cells = {name: cell for name, cell in zip(names, row, strict=True) if cell.strip()}
        entries.append(Entry(path, number, cells))
    return entries
