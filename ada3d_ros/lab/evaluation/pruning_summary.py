"""What the records of the pruning tables come to: rows beside the whole scene, room by room.

Every difference is paired: of the questions that both rows were asked about the same rooms. What
draws is asked once for each seed, and a room's value is the mean over the seeds. The best of many
rows looks better than it is on the rooms that chose it: rooms of even number choose, the others
tell what the chosen row is worth (decision 202).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ada3d_ros.lab.evaluation.intervals import (
    DRAWS,
    Floats,
    difference_interval,
    room_draws,
    share_interval,
    standard_error,
)
from ada3d_ros.lab.evaluation.metrics import is_found
from ada3d_ros.lab.evaluation.pruning_rows import ANCHOR, BLIND, SHUFFLED, UNPRUNED, Row
from ada3d_ros.lab.evaluation.room_records import (
    COSTS,
    MISSING,
    RoomFacts,
    RoomRecord,
    RoomRecordFile,
)

TEXT = (
    *("existence", "color", "category", "count", "nearest", "relation", "superlative"),
    *("multihop", "caption"),
)
KINDS = (*TEXT, "grounding", "absent")
SIZES = {"1-3": (0, 3), "4-10": (4, 10), "11+": (11, 10**9)}  # own voxels of a target
DISTANCES_M = {"<1.8m": (0.0, 1.8), "1.8-2.3m": (1.8, 2.3), ">2.3m": (2.3, np.inf)}
NAMED = ("color", "category")  # questions about one object, whose size matters
SEVERAL = ("count", "nearest", "relation", "multihop")  # that rest on several objects


@dataclass(frozen=True, slots=True)
class QuestionOutcome:
    """One question of a room: index among them; iou: of a phrase with a target, else NaN."""

    kind: str
    unique: bool
    voxels: int
    distance_m: float
    right: bool
    iou: float


Where = Callable[[QuestionOutcome], bool]


@dataclass(frozen=True, slots=True)
class Group:
    """Questions that are counted together; percent: the IoU that a phrase needs."""

    kinds: tuple[str, ...]
    percent: int = 25
    where: Where = lambda asked: True

    def value(self, asked: QuestionOutcome) -> float | None:
        """0 or 1; None for a question that is not of the group."""
        if asked.kind not in self.kinds or not self.where(asked):
            return None
        return float(
            is_found(asked.iou, self.percent) if asked.kind == "grounding" else asked.right
        )


def _within(name: str, low: float, high: float) -> Where:
    return lambda asked: low <= getattr(asked, name) <= high


def _groups() -> dict[str, Group]:
    groups = {"qa": Group(TEXT), **{kind: Group((kind,)) for kind in TEXT}}
    groups["one object"] = Group(tuple(kind for kind in TEXT if kind not in SEVERAL))
    groups["several objects"] = Group(SEVERAL)
    for percent in (25, 50):
        groups[f"acc{percent}"] = Group(("grounding",), percent)
        groups[f"unique_acc{percent}"] = Group(("grounding",), percent, lambda asked: asked.unique)
        groups[f"distractor_acc{percent}"] = Group(
            ("grounding",), percent, lambda asked: not asked.unique
        )
    groups["absent"] = Group(("absent",))  # right: no box
    for ranges, name in ((SIZES, "voxels"), (DISTANCES_M, "distance_m")):
        for title, (low, high) in ranges.items():
            where = _within(name, low, high)
            groups[f"named {title}"] = Group(NAMED, 25, where)
            for percent in (25, 50):
                groups[f"acc{percent} {title}"] = Group(("grounding",), percent, where)
    return groups


GROUPS = _groups()
AGAINST = ("qa", "acc25", "acc50")  # what is also compared with other rows of the same budget
REFERENCES = (  # those rows, by name: the first of each that was measured
    ("voxel_dpp", ((ANCHOR, "before"),)),
    ("adatoken3d", (("adatoken3d", "paper"), (f"{ANCHOR}+adatoken3d", "paper"))),
)


CHOOSE_AT = 0.1  # the budget at which a best row is chosen
CHOOSING, TELLING = 0, 1  # a room's number modulo 2
LEAST_ROOMS = 10  # of each half, for a row to be chosen from


def asked_of(facts: RoomFacts, record: RoomRecord) -> list[QuestionOutcome]:
    """The questions of a room that the record has; a blind one has no phrases."""
    ious, found = iter(record.ious), []
    for i, right in enumerate(record.right):
        has_box = facts.kinds[i] == "grounding"
        found.append(
            QuestionOutcome(
                facts.kinds[i],
                facts.unique[i],
                facts.voxels[i],
                facts.distance_m[i],
                right == "1",
                next(ious) if has_box else np.nan,
            )
        )
    return found


@dataclass(frozen=True, eq=False, slots=True)
class Measured:
    """One row over its rooms: right, asked: by group, (R,) each, rooms in ascending order."""

    rooms: tuple[int, ...]
    right: dict[str, Floats]
    asked: dict[str, Floats]
    coherent: tuple[Floats, Floats]
    costs: dict[str, float]

    def of(self, rooms: Sequence[int], name: str) -> tuple[Floats, Floats]:
        """Right and asked of one group, of these rooms."""
        index = np.searchsorted(self.rooms, rooms)
        return self.right[name][index], self.asked[name][index]


def measured_row(records: RoomRecordFile, keys: Sequence[str]) -> Measured | None:
    """A row, of one key a seed, a room's value being the mean over the seeds that were asked about
    it; None without any.
    """
    by_key = [records.of_row(key) for key in keys]
    rooms = sorted({room for found in by_key for room in found} & set(records.facts))
    if not rooms:
        return None
    right = {name: np.zeros(len(rooms)) for name in GROUPS}
    asked = {name: np.zeros(len(rooms)) for name in GROUPS}
    coherent, answered = np.zeros(len(rooms)), np.zeros(len(rooms))
    costs: list[Mapping[str, float]] = []
    for i, room in enumerate(rooms):
        here = [found[room] for found in by_key if room in found]
        for record in here:
            for question in asked_of(records.facts[room], record):
                for name, group in GROUPS.items():
                    if (value := group.value(question)) is not None:
                        right[name][i] += value / len(here)
                        asked[name][i] += 1.0 / len(here)
            coherent[i] += record.coherent.count("1")
            answered[i] += len(record.coherent) - record.coherent.count(MISSING)
            costs.append(record.costs)
    asked = {name: np.round(number, 6) for name, number in asked.items()}
    means = {
        name: float(np.mean(values))
        for name in COSTS
        if (values := [cost[name] for cost in costs if name in cost])
    }
    return Measured(tuple(rooms), right, asked, (coherent, answered), means)


@functools.cache
def _draws(rooms: int) -> Floats:
    return room_draws(rooms)


def shared_rooms(row: Measured, base: Measured, half: int | None = None) -> list[int]:
    """The rooms of both, ascending; half: of CHOOSING or TELLING alone."""
    both = sorted(set(row.rooms) & set(base.rooms))
    return [room for room in both if half is None or room % 2 == half]


def paired(row: Measured, base: Measured, name: str, half: int | None = None) -> dict[str, Any]:
    """One group beside another row's over `shared_rooms`: how many these are, n, and, where there
    is a question, value, points, standard error and interval. Raises ValueError where they were not
    asked the same.
    """
    rooms = shared_rooms(row, base, half)
    (right, asked), (before, asked_before) = row.of(rooms, name), base.of(rooms, name)
    if not np.array_equal(asked, asked_before):
        raise ValueError(f"{name}: not the same questions")
    total = asked.sum()
    if not total:
        return {"rooms": len(rooms), "n": 0}
    low, high = difference_interval(right, before, asked, _draws(len(rooms)))
    return {
        "rooms": len(rooms),
        "n": round(total),
        "value": right.sum() / total,
        "points": 100 * (right - before).sum() / total,
        "standard_error": 100 * standard_error(right, before, asked),
        "interval": (100 * low, 100 * high),
    }


def alone(row: Measured) -> dict[str, Any]:
    """Every group of one row by itself: value, interval of the share, n."""
    return {
        name: {
            "n": round(asked.sum()),
            "value": row.right[name].sum() / asked.sum(),
            "interval": share_interval(row.right[name], asked, _draws(len(row.rooms))),
        }
        for name, asked in row.asked.items()
        if asked.sum()
    }


Name = tuple[str, str, float]  # strategy, mode, budget


@dataclass(frozen=True, eq=False, slots=True)
class Summary:
    """What is known of the rows: what was recorded, why a strategy refused a row, and which row is
    computed as another one is, both by key.
    """

    records: RoomRecordFile
    rows: Sequence[Row]
    refused: Mapping[str, str]
    twins: Mapping[str, str]

    def results(self) -> dict[str, Any]:
        """The whole scene, the controls, and every row beside the whole scene."""
        whole = measured_row(self.records, [UNPRUNED])
        if whole is None:
            return {"rows": []}
        found: dict[str, Any] = {
            "n": {name: round(asked.sum()) for name, asked in whole.asked.items()},
            "intervals": f"95 %, bootstrap over rooms, {DRAWS} draws",
            UNPRUNED: _facts(whole) | {"metrics": alone(whole)},
        }
        for name in (BLIND, SHUFFLED):
            control = measured_row(self.records, [name])
            if control is not None:
                found[name] = {"rooms": len(control.rooms), "metrics": alone(control)}

        # Rows that differ in their seed alone are one.
        keys: dict[Name, list[str]] = {}
        for row in self.rows:
            if row.mode:
                keys.setdefault((row.strategy, row.mode, row.budget), []).append(row.key)
        measured = {name: measured_row(self.records, those) for name, those in keys.items()}
        found["rows"] = [self._row(name, keys[name], measured, whole) for name in keys]
        found["chosen"] = chosen_rows(measured, whole)
        return found

    def _row(
        self,
        name: Name,
        keys: Sequence[str],
        measured: Mapping[Name, Measured | None],
        whole: Measured,
    ) -> dict[str, Any]:
        """One row of the JSON; `metrics` only where something was measured."""
        strategy, mode, budget = name
        row: dict[str, Any] = {"strategy": strategy, "mode": mode, "budget": budget}
        if keys[0] in self.refused:
            return row | {"refused": self.refused[keys[0]]}
        if keys[0] in self.twins:
            return row | {"same_as": self.twins[keys[0]]}
        mine = measured[name]
        if mine is None:
            return row
        row |= _facts(mine) | {"seeds": sum(bool(self.records.of_row(key)) for key in keys)}
        row["metrics"] = {group: paired(mine, whole, group) for group in GROUPS}
        row["against"] = {}
        for title, names in REFERENCES:
            others = [measured.get((*other, budget)) for other in names]
            other = next((each for each in others if each is not None), None)
            if other is not None and other is not mine and set(other.rooms) & set(mine.rooms):
                row["against"][title] = {group: paired(mine, other, group) for group in AGAINST}
        return row


def chosen_rows(measured: Mapping[Name, Measured | None], whole: Measured) -> dict[str, Any]:
    """The best rows at CHOOSE_AT, by the rooms of CHOOSING, as those of TELLING find them.

    "acc25": the least loss of boxes, against the whole scene; "voxel_dpp": the largest gain of text
    over that strategy among those that do not find fewer boxes than it (all, where there is none
    such). Each says from how many rows and by how many rooms it was chosen; absent where no row has
    LEAST_ROOMS in either half.
    """
    rows = {name: row for name, row in measured.items() if row and name[2] == CHOOSE_AT}
    found: dict[str, Any] = {}
    anchor = rows.get((ANCHOR, "before", CHOOSE_AT))
    for title, base, groups in (("acc25", whole, ("acc25",)), (ANCHOR, anchor, ("qa", "acc25"))):
        if base is None:
            continue
        from_these = {}
        for name, row in rows.items():
            halves = [len(shared_rooms(row, base, half)) for half in (CHOOSING, TELLING)]
            if row is not base and min(halves) >= LEAST_ROOMS:
                from_these[name] = {
                    group: paired(row, base, group, CHOOSING).get("points", np.nan)
                    for group in groups
                }
        with_boxes = {n: p for n, p in from_these.items() if p["acc25"] >= 0.0}
        if title == ANCHOR and with_boxes:
            from_these = with_boxes
        if not from_these:
            continue
        best = max(from_these, key=lambda name: (from_these[name][groups[0]], name))
        row = rows[best]
        found[title] = {
            "strategy": best[0],
            "mode": best[1],
            "budget": best[2],
            "rows": len(from_these),
            "chosen_by": len(shared_rooms(row, base, CHOOSING)),
            "metrics": {group: paired(row, base, group, TELLING) for group in groups},
        }
    return found


def _facts(row: Measured) -> dict[str, Any]:
    """Rooms, coherence, and what a question took and the scene holds."""
    coherent, answered = row.coherent
    cost = row.costs
    facts: dict[str, Any] = {
        "rooms": len(row.rooms),
        "coherence": coherent.sum() / answered.sum() if answered.sum() else np.nan,
        "tokens": cost["spatial_total"] * cost["keep_ratio_achieved"],
        "keep_ratio": cost["keep_ratio_achieved"],
        "kv_bytes": cost["held_kv_bytes"],
        "kv_share": cost["held_kv_bytes"] / cost["unpruned_kv_bytes"],
        "question_flops": cost["prefill_flops"] + cost["rank_flops"],
    }
    facts["question_share"] = facts["question_flops"] / cost["unpruned_prefill_flops"]
    if "build_flops" in cost:
        facts["build_flops"] = cost["build_flops"]
        facts["build_share"] = cost["build_flops"] / cost["unpruned_build_flops"]
    return facts
