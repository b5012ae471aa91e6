"""Official files and files of answers as entries whose errors name file, entry and way out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.evaluation.field.benchmark import Item, Record

ID_KEYS = ("id", "question_id", "sample_id")  # ours and LLaVA-3D's question lists; Scan2Cap's
TEXT_KEYS = ("text", "answer", "pred", "caption")
MAX_SHOWN = 5  # ids that an error names


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a JSON file, and which it is, from 1."""

    path: Path
    number: int
    data: Mapping[str, Any]

    def error(self, why: str) -> SourceError:
        return SourceError(f"{self.path} entry {self.number}: {why}")

    def has(self, key: str) -> bool:
        return self.data.get(key) is not None

    def value(self, *keys: str) -> Any:
        """Of the first of the keys that is there. Raises SourceError for none."""
        for key in keys:
            if self.has(key):
                return self.data[key]
        known = ", ".join(map(str, self.data)) or "nothing"
        raise self.error(f"has no {_or(keys)}, only {known}. Is it the right file?")

    def text(self, *keys: str) -> str:
        """A string, or a number as one. Raises SourceError."""
        value = self.value(*keys)
        if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
            return str(value)
        raise self.error(f"{_or(keys)} is {_shown(value)}; a string is expected.")

    def texts(self, *keys: str) -> tuple[str, ...]:
        """A list of strings, or one string. Raises SourceError."""
        value = self.value(*keys)
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
            return tuple(value)
        raise self.error(f"{_or(keys)} is {_shown(value)}; a list of strings is expected.")

    def numbers(self, value: object, count: int) -> list[float]:
        """The value as that many finite numbers. Raises SourceError."""
        if (
            isinstance(value, list)
            and len(value) == count
            and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
            and all(map(math.isfinite, value))
        ):
            return [float(v) for v in value]
        raise self.error(f"{_shown(value)} should be a list of {count} finite numbers.")


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises SourceError where there is none or it is not JSON."""
    text = _text_of(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if text.startswith("version https://git-lfs"):
            raise SourceError(
                f"{path} is a pointer of git-lfs: run `git lfs pull` there."
            ) from None
        raise SourceError(
            f"{path} line {error.lineno} is not JSON ({error.msg}). Is it whole, and the right"
            " file?"
        ) from None


def read_entries(path: Path, key: str = "") -> list[Entry]:
    """The objects of a JSON list or of JSON lines (whatever the file is called); under `key` where
    the file is an object that has it. An object of objects gives its keys as "id".

    Raises SourceError: not JSON, entries that are no objects, none at all.
    """
    lines = _json_lines(path)
    found = read_json(path) if lines is None else lines
    if isinstance(found, dict):
        if key and isinstance(found.get(key), list):
            found = found[key]
        elif found and all(isinstance(value, dict) for value in found.values()):
            found = [{"id": name} | value for name, value in found.items()]
        else:
            found = [found]
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise SourceError(f"{path} is no list of objects; a JSON list or JSON lines is expected.")
    if not found:
        raise SourceError(f"{path} has no entry: nothing can be asked or scored.")
    return [Entry(path, number, data) for number, data in enumerate(found, 1)]


def _json_lines(path: Path) -> list[Any] | None:
    """One value a line; None where the file is one JSON value. A last line without an end is left
    out where it is cut short, as a process that was killed leaves it.
    """
    text = _text_of(path)
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2 or not lines[0].lstrip().startswith("{"):
        return None  # one line may be a whole file, as VQAv2's are
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if number == 1:
                return None  # an object over several lines
            if number == len(lines) and not text.endswith("\n"):
                break
            raise SourceError(f"{path} line {number} is not JSON. Is the file whole?") from None
    return rows


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SourceError(f"{path} is not there; name the official file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read as text ({error}).") from None


# -- items and answers


def checked_items(items: Sequence[Item], path: Path) -> list[Item]:
    """The items. Raises SourceError for ids that are there twice, and for none at all."""
    if not items:
        raise SourceError(f"{path} has no entry that can be asked.")
    seen: set[str] = set()
    for number, item in enumerate(items, 1):
        if item.id in seen:
            raise SourceError(
                f"{path} entry {number}: id {item.id!r} is there twice; leave one of them."
            )
        seen.add(item.id)
    return list(items)


def by_id(entries: Iterable[Entry], *keys: str) -> dict[str, Entry]:
    """Entries by their id, the first of the keys. Raises SourceError for one there twice."""
    found: dict[str, Entry] = {}
    for entry in entries:
        name = entry.text(*(keys or ID_KEYS))
        if name in found:
            raise entry.error(
                f"id {name!r} is there twice (entry {found[name].number} before); leave one."
            )
        found[name] = entry
    return found


def text_record(entry: Entry) -> Record:
    """The usual answer: a row of ours with all it has, else its text alone."""
    if "text" in entry.data and "id" in entry.data:
        return dict(entry.data)
    value = entry.value(*TEXT_KEYS)
    if isinstance(value, list) and len(value) == 1:  # MMScan's "pred"
        value = value[0]
    if not isinstance(value, str):
        raise entry.error(f"{_or(TEXT_KEYS)} is {_shown(value)}; a string is expected.")
    return {"text": value}


def read_text_answers(
    path: Path, record: Callable[[Entry], Record] = text_record
) -> dict[str, Record]:
    """Answers by item id: our JSON lines, or LLaVA-3D's files of answers (question_id or sample_id
    with text, JSON lines or a list). Raises SourceError.
    """
    entries = [entry for entry in read_entries(path) if "settings" not in entry.data]
    return {name: record(entry) for name, entry in by_id(entries).items()}


def name_some(ids: Iterable[str]) -> str:
    """The first of the ids, and how many more."""
    listed = list(ids)
    more = f" and {len(listed) - MAX_SHOWN} more" if len(listed) > MAX_SHOWN else ""
    return ", ".join(map(repr, listed[:MAX_SHOWN])) + more


def _or(keys: Sequence[str]) -> str:
    return " or ".join(map(repr, keys))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
