"""Files of judgements: what a large model, or a person, said of each answer. None is made here.

An official evaluator asks a large model, writes what it said, and averages; a benchmark here reads
that file (`--judgements FILE`) and averages the same way.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.evaluation.field.benchmark import (
    NO_ANSWER,
    Files,
    Item,
    OfficialFile,
    Record,
)
from ada3d_ros.lab.evaluation.field.json_files import name_some, read_json

JUDGEMENTS = "judgements"
JUDGED = "judged"  # in Item.extra: what was read of the item's judgement; absent without one


def judgements_file(help: str) -> OfficialFile:
    """The option `--judgements FILE`."""
    return OfficialFile(JUDGEMENTS, help, required=False)


def read_judgements(
    files: Files,
    ids: Iterable[str],
    judged: Callable[[Any], Any],
    expected: str,
    partial: bool = False,
) -> dict[str, dict[str, Any]]:
    """What goes into Item.extra, by item id: {JUDGED: ...} of each; {} without the file.

    judged: of one value of the file, an object by item id; raises ValueError that says what is
    wrong. expected: a value in words; partial: whether questions may be without a judgement.

    Raises SourceError for another file, an id that is there twice or is none of the questions', a
    value that is no judgement, a question without one.
    """
    if JUDGEMENTS not in files:
        return {}
    path = files[JUDGEMENTS]
    found, wanted = _object(path), list(ids)
    unknown = set(found) - set(wanted)
    if unknown:
        raise SourceError(
            f"{path} judges {name_some(sorted(unknown))}, which no question is called: name the"
            " judgements of these questions."
        )
    missing = [name for name in wanted if name not in found]
    if missing and not partial:
        raise SourceError(
            f"{path} has no judgement of {len(missing)} of {len(wanted)} questions:"
            f" {name_some(missing)}. An unjudged answer is not a wrong one: judge it first."
        )
    read: dict[str, dict[str, Any]] = {}
    for name, value in found.items():
        try:
            read[name] = {JUDGED: judged(value)}
        except ValueError as error:
            raise SourceError(f"{path}, {name!r}: {error}; {expected} is expected.") from None
    return read


def judgement_of(item: Item, record: Record, wrong: Any) -> Any:
    """The item's judgement; `wrong` where no answer came; None where nothing was judged."""
    if JUDGED not in item.extra:
        return None
    return wrong if NO_ANSWER in record else item.extra[JUDGED]


def number_within(value: object, low: float, high: float) -> float:
    """The value as a number from low to high. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no number")
    if not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{value:g} is not within {low:g} to {high:g}")
    return float(value)


def _object(path: Path) -> Mapping[str, Any]:
    """The file's object. Raises SourceError for another file, and an id that is there twice."""
    found = read_json(path)
    if not isinstance(found, dict) or not found:
        raise SourceError(
            f"{path} should be one JSON object, a judgement by the id of each question."
        )
    try:
        json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_each_once)
    except ValueError as error:
        raise SourceError(f"{path}: {error}; leave one.") from None
    return found


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's members. Raises ValueError for a name that is there twice."""
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"{name!r} is there twice")
        members[name] = value
    return members
