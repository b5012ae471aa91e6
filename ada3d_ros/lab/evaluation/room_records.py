"""What variants came to about generated rooms, question by question: packed JSON lines.

A line is written as soon as a variant has answered about a room, so that a run that is killed loses
that room of that variant alone. A record of other code is taken over only where the present code,
asked about the same first room, comes to the same (`pruning_tables`); those of the field's
benchmarks (`field/records`) are of one code and of one setting.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.evaluation.tally import Outcome
from ada3d_ros.lab.json_lines import add_line, line_of, read_rows, write_lines
from ada3d_ros.lab.results import CHANGED
from ada3d_ros.usage import TokenUsage

MISSING = "-"  # in the place of a digit: says nothing
COMMIT_DIGITS = 12  # of a commit's name in a record
FLOPS = ("prefill_flops", "rank_flops", "unpruned_prefill_flops", "full_prefill_flops")
COSTS = (
    *("keep_ratio_achieved", "spatial_total", "held_kv_bytes", "unpruned_kv_bytes"),
    *("full_kv_bytes", *FLOPS, "build_flops", "unpruned_build_flops"),
)


@dataclass(frozen=True, slots=True)
class RoomFacts:
    """A room's questions, in the order in which their outcomes are recorded, and of each what it
    asks about.

    kinds, unique: of each question, the latter of phrases; voxels: spatial tokens that hold a patch
    of its one object, -1 where it is about none or several; distance_m: from that object's middle
    to the nearest camera, -1 alike; tokens: spatial ones of the scene.
    """

    room: int
    tokens: int
    kinds: tuple[str, ...]
    unique: tuple[bool, ...]
    voxels: tuple[int, ...]
    distance_m: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RoomRecord:
    """One variant about one room.

    commit: `short_commit` of the code that asked; right, coherent: a digit a question, MISSING
    where it was not asked or says nothing; ious: of the phrases with a target, in that order;
    costs: means over the answers, by name of COSTS.
    """

    row: str
    room: int
    commit: str
    right: str
    coherent: str = ""
    ious: tuple[float, ...] = ()
    costs: Mapping[str, float] = field(default_factory=dict)

    def same_answers(self, other: RoomRecord) -> bool:
        """Whether both came to the same, question by question."""
        mine, yours = (
            (record.right, record.coherent, [round(iou, 3) for iou in record.ious])
            for record in (self, other)
        )
        return mine == yours


def short_commit(name: str) -> str:
    """The first digits of a commit's name, with the mark of a tree that was changed."""
    changed = CHANGED if name.endswith(CHANGED) else ""
    return name.removesuffix(CHANGED)[:COMMIT_DIGITS] + changed


def record_of(
    row: str, room: int, commit: str, outcomes: Sequence[Outcome], usages: Sequence[TokenUsage]
) -> RoomRecord:
    """The outcomes of all questions about a room, in the order of its facts."""
    coherent = [MISSING if each.coherent is None else str(int(each.coherent)) for each in outcomes]
    return RoomRecord(
        row,
        room,
        short_commit(commit),
        "".join(str(int(each.right)) for each in outcomes),
        "".join(coherent),
        # Rounded down, so that what misses a threshold goes on missing it.
        tuple(np.floor(each.iou * 1e4) / 1e4 for each in outcomes if not np.isnan(each.iou)),
        mean_costs(usages),
    )


def mean_costs(usages: Sequence[TokenUsage]) -> dict[str, float]:
    """Means over the answers, six digits; of what was counted alone."""
    means = {}
    for name in COSTS:
        values = np.array([getattr(usage, name) for usage in usages], dtype=np.float64)
        counted = values[np.isfinite(values)]
        if len(counted):
            means[name] = float(f"{counted.mean():.6g}")
    return means


class RoomRecordFile:
    """The records of one selection of rooms, by row and room, in a file that grows; None: kept in
    memory alone.

    head: what all records have in common, as the weights and the split: where the file's is
    another, none of its records counts.
    """

    def __init__(self, path: Path | None, head: Mapping[str, Any]) -> None:
        self.path, self.head = path, dict(head)
        self.facts: dict[int, RoomFacts] = {}
        self.records: dict[tuple[str, int], RoomRecord] = {}
        if path is not None and path.is_file():
            self._read(path)
        self.pack()

    def of_row(self, row: str) -> dict[int, RoomRecord]:
        """By room."""
        return {room: record for (name, room), record in self.records.items() if name == row}

    def add(self, item: RoomRecord | RoomFacts) -> None:
        """Keep it, and write its line at once."""
        self._keep(item)
        if self.path is not None:
            add_line(self.path, _line(item))

    def drop(self, keys: Iterable[tuple[str, int]]) -> None:
        """Forget these records, of row and room, in the file too."""
        for key in list(keys):
            self.records.pop(key, None)
        self.pack()

    def pack(self) -> None:
        """Write the file anew, in order and as small as it gets."""
        if self.path is None:
            return
        items: list[RoomRecord | RoomFacts] = [self.facts[room] for room in sorted(self.facts)]
        items += [self.records[key] for key in sorted(self.records)]
        write_lines(self.path, [line_of(self.head), *map(_line, items)])

    def _keep(self, item: RoomRecord | RoomFacts) -> None:
        if isinstance(item, RoomFacts):
            self.facts[item.room] = item
        else:
            self.records[item.row, item.room] = item

    def _read(self, path: Path) -> None:
        """Raises ConfigError for other records, and for a file that holds none; SourceError for a
        damaged line.
        """
        rows = read_rows(path)
        if rows and rows[0] != self.head:
            raise ConfigError(
                f"{path} holds records of other rooms, weights or questions: name another file, or"
                " move it away."
            )
        try:
            items = [_item(row) for row in rows[1:]]
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{path} is no file of records ({error}): move it away.") from None
        for item in items:
            # Of changes that no commit names, nobody knows what was measured.
            if isinstance(item, RoomFacts) or not item.commit.endswith(CHANGED):
                self._keep(item)


def _line(item: RoomRecord | RoomFacts) -> str:
    """Costs in the order of COSTS, without their names: they were two thirds of a file. Whole
    numbers have no point.
    """
    data = asdict(item)
    if isinstance(item, RoomRecord):
        costs = [item.costs.get(name) for name in COSTS]
        data["costs"] = [int(c) if c is not None and c == int(c) else c for c in costs]
    return line_of(data)


def _item(data: dict[str, Any]) -> RoomRecord | RoomFacts:
    if "row" in data:
        costs = zip(COSTS, data["costs"], strict=True)
        data["costs"] = {name: cost for name, cost in costs if cost is not None}
        record = RoomRecord(**data)
        return replace(record, ious=tuple(record.ious), commit=short_commit(record.commit))
    lists: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    return RoomFacts(**lists)
