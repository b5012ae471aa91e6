"""The records of a run on disk: appended one by one, so that a run goes on where it was stopped.

Each process writes its own file of JSON lines; the first line holds the settings, every other one a
record with its item's "id". What is read is the union, so a run may go on with other numbers of
processes. Records of other settings are refused (those of rooms, `room_records`, may be taken over
from other code).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ada3d_ros.errors import ConfigError, SourceError
from ada3d_ros.lab.evaluation.field.benchmark import Record
from ada3d_ros.lab.json_lines import line_of, read_rows, whole_bytes

PATTERN = "records*.jsonl"
SETTINGS = "settings"


class ItemRecordFile:
    """What one process appends, item by item. Use as a context manager.

    Raises ConfigError where another process writes to it.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], rank: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"records{rank or ''}.jsonl"
        self._file = self.path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise ConfigError(
                f"{self.path} is being written by another process: let it end, or name another"
                " folder with --out."
            ) from None

        # Behind the last whole line.
        self._file.seek(0)
        content = self._file.read()
        whole = whole_bytes(content)
        if whole < len(content):
            self._file.truncate(whole)
        if not whole:
            self._write({SETTINGS: dict(settings)})

    def append(self, item_id: str, record: Record) -> None:
        """On disk when it returns."""
        self._write({"id": item_id} | record)

    def _write(self, row: Mapping[str, Any]) -> None:
        self._file.write(line_of(row).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def read_records(folder: Path, settings: Mapping[str, Any]) -> dict[str, Record]:
    """Records by item id of all processes that wrote to the folder; none where none did.

    Raises ConfigError where they were made with other settings, SourceError for a damaged file.
    """
    records: dict[str, Record] = {}
    for path in sorted(folder.glob(PATTERN)):
        for number, row in enumerate(read_rows(path), 1):
            if number == 1:
                _check_settings(path, row.get(SETTINGS), settings)
            elif isinstance(row.get("id"), str):
                records[row["id"]] = row
            else:
                raise SourceError(f"{path} line {number} is no record; it has no id.")
    return records


def write_answers(path: Path, records: Iterable[Record]) -> Path:
    """All records in their items' order, whoever wrote them: what --answers reads; the path."""
    lines = [json.dumps(record, ensure_ascii=False, sort_keys=True) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _check_settings(path: Path, found: object, wanted: Mapping[str, Any]) -> None:
    if not isinstance(found, dict):
        raise SourceError(f"{path} line 1 does not hold the settings: is it a file of records?")
    wanted = json.loads(json.dumps(dict(wanted)))
    names = [name for name in (*found, *wanted) if found.get(name) != wanted.get(name)]
    if names:
        changed = "; ".join(
            f"{name} was {_short(found.get(name))}, now {_short(wanted.get(name))}"
            for name in dict.fromkeys(names)
        )
        raise ConfigError(
            f"{path.parent} was begun with other settings ({changed}): its answers cannot be mixed"
            " with new ones. Give the same settings to go on, or name another folder with --out;"
            f" --answers {path} scores what is there."
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 20 else text[:12] + "..."
