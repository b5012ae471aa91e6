"""The paper's tables: every pruning strategy at every budget, asked the same questions.

Rooms are the outer loop, rows the inner one: one pipeline changes its settings, so that a room is
rendered, passes the vision tower and is pooled into voxels once for all rows. Each room of each row
is recorded at once (`*.rooms.jsonl.gz` beside --json): the same command goes on where it stopped,
also with more rooms or rows, and --minutes ends it in time. Differences are in points, question by
question against the whole scene, 95 % intervals by bootstrap over rooms. A row that the strategy
cannot meet is refused, none is changed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ada3d_ros.config import AgentConfig, from_flat
from ada3d_ros.engine.query_context import encode_scene
from ada3d_ros.engine.scene_pruning import ScenePruning
from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.analysis.object_voxels import object_voxels
from ada3d_ros.lab.benchmarks.bench import device_name
from ada3d_ros.lab.benchmarks.spread import plain
from ada3d_ros.lab.evaluation.blind import answer_blindly
from ada3d_ros.lab.evaluation.pipelines import load_room, open_pipeline
from ada3d_ros.lab.evaluation.pruning_rows import BLIND, SHUFFLED, Row, passes
from ada3d_ros.lab.evaluation.pruning_summary import KINDS, Summary
from ada3d_ros.lab.evaluation.room_records import (
    RoomFacts,
    RoomRecordFile,
    record_of,
    short_commit,
)
from ada3d_ros.lab.evaluation.scene_pruning import points
from ada3d_ros.lab.evaluation.selection import Room, RoomSelection, rooms_of
from ada3d_ros.lab.evaluation.synthetic import MAX_NEW_TOKENS, ask_room, count_text
from ada3d_ros.lab.evaluation.tally import Outcome, Tally
from ada3d_ros.lab.results import ResultFile, tree
from ada3d_ros.lab.world.room_question import RoomQuestion
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.pruning.policy import NOMINAL_SPATIAL, Policy
from ada3d_ros.types import AskHooks, Question

RECORDS = ".rooms.jsonl.gz"  # in the place of .json


@dataclass(frozen=True, slots=True)
class Tables:
    """Which model on which rooms, and which rows; minutes: when to stop, from now on."""

    model: Path
    settings: Mapping[str, object]
    selection: RoomSelection
    rows: Sequence[Row]
    minutes: float = math.inf


def measure_tables(tables: Tables, file: Path | None = None) -> dict[str, Any]:
    """Ask what `file` does not hold yet; all results, written into it. Raises Ada3DError."""
    started = time.monotonic()
    pipeline = open_pipeline(tables.model, "none", None, tables.settings, scenes=True)
    out = file and ResultFile(file, device_name(pipeline.model.model.device), tables.selection.seed)
    records = RoomRecordFile(file and file.with_name(file.stem + RECORDS), _head(tables, pipeline))
    run = _Run(tables, pipeline, records, started + 60.0 * tables.minutes)
    try:
        run.drop_what_other_code_answers_otherwise()
        for number, part in enumerate(passes([row for row in tables.rows if run.is_own(row)])):
            run.ask_all(part)
            if number == 0:
                run.ask_controls()
    finally:
        records.pack()
        results = _results(run)
        if out:
            out.write(results, complete=run.missing() == 0)
    return results


def _head(tables: Tables, pipeline: Ada3DPipeline) -> dict[str, Any]:
    """What all records have in common."""
    info, selection = pipeline.info, tables.selection
    assert info is not None
    return {
        "model": info.name,
        "sha256": info.sha256.split()[0],
        "random_weights": info.random_weights,
        "split": selection.split,
        "seed": selection.seed,
        "level": selection.level,
        "kinds": list(KINDS),
    }


def _results(run: _Run) -> dict[str, Any]:
    """The JSON: the rows beside the whole scene, of what is recorded so far."""
    commits = sorted({record.commit for record in run.records.records.values()})
    return plain(
        run.records.head
        | {"scenes": run.tables.selection.scenes, "missing": run.missing(), "commits": commits}
        | Summary(run.records, run.tables.rows, run.refused, run.twins).results()
    )


def questions_asked(room: Room) -> list[RoomQuestion]:
    """Of the kinds of the tables, in the order in which `ask_room` asks them."""
    asked = [question for question in room.questions if question.kind in KINDS]
    return sorted(asked, key=lambda question: bool(question.phrase))


@dataclass
class _Run:
    """One go of measuring. refused: sentences by row; twins: rows that are computed as another is,
    by key; until: of time.monotonic.
    """

    tables: Tables
    pipeline: Ada3DPipeline
    records: RoomRecordFile
    until: float
    refused: dict[str, str] = field(default_factory=dict)
    twins: dict[str, str] = field(default_factory=dict)
    configs: dict[tuple[str, int], AgentConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.base = self.pipeline.config
        self.commit = short_commit(str(tree()))
        self._look_at_rows()

    def _look_at_rows(self) -> None:
        """Which rows the strategies refuse, and which are computed alike: a scene that is pruned
        while it is built is pruned by the allocation alone, whatever curve a strategy has.
        """
        pruning = ScenePruning.from_config(
            self.base.model, self.pipeline.model.model.config.decoder
        )
        first: dict[object, str] = {}
        for row in self.tables.rows:
            try:
                config = self._config(row, NOMINAL_SPATIAL)
                self.pipeline.check_settings(config)
            except ConfigError as error:
                self.refused[row.key] = str(error)
                continue
            if row.mode == "build":
                policy = Policy.from_config(config.pruning)
                key = policy.pre_llm, row.budget, row.seed, pruning.allocation(config, policy)
                if first.setdefault(key, row.key) != row.key:
                    self.twins[row.key] = first[key]

    def is_own(self, row: Row) -> bool:
        """Whether there is something to ask."""
        return row.key not in self.refused and row.key not in self.twins

    def _config(self, row: Row, total: int) -> AgentConfig:
        key = row.key, total if row.budget >= 1.0 else 0
        if key not in self.configs:
            self.configs[key] = from_flat(row.settings(total), self.base)
        return self.configs[key]

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.until

    def missing(self) -> int:
        """Rooms of rows that were not asked yet."""
        scenes = range(self.tables.selection.scenes)
        keys = [row.key for row in self.tables.rows if self.is_own(row)] + [BLIND, SHUFFLED]
        return sum((key, i) not in self.records.records for key in keys for i in scenes)

    def _rooms(self, wanted: Sequence[int], side: int | None) -> Iterator[tuple[int, Room]]:
        """Those rooms, until the time is over."""
        rooms = rooms_of(self.tables.selection, side, wanted)
        shown = tqdm(zip(wanted, rooms, strict=True), total=len(wanted), mininterval=10)
        for index, room in shown:
            if self.is_over:
                return
            yield index, room

    # -- what is asked

    def ask_all(self, rows: Sequence[Row]) -> None:
        """Every room that one of the rows lacks."""
        known = self.records.records
        scenes = range(self.tables.selection.scenes)
        wanted = [i for i in scenes if any((row.key, i) not in known for row in rows)]
        for index, room in self._rooms(wanted, self.pipeline.view_side):
            self._show(room)
            total = self._note_facts(index, room)
            for row in rows:
                if self.is_own(row) and (row.key, index) not in known and not self.is_over:
                    self._ask(row, index, room, total)

    def _show(self, room: Room) -> None:
        self.pipeline.set_config(self.base)
        load_room(self.pipeline, room.frames)

    def _ask(self, row: Row, index: int, room: Room, total: int) -> None:
        tally = Tally()
        try:
            self.pipeline.set_config(self._config(row, total))
            ask_room(self.pipeline, questions_asked(room), room.boxes, tally)
        except ConfigError as error:  # of this scene's size
            self.refused[row.key] = str(error)
            return
        self._record(row.key, index, tally)

    def _record(self, key: str, index: int, tally: Tally) -> None:
        self.records.add(record_of(key, index, self.commit, tally.outcomes, tally.usages))

    def _note_facts(self, index: int, room: Room) -> int:
        """Spatial tokens of the room that is shown; its facts into the records."""
        query, cache = self.pipeline.open_query(Question("objects"), AskHooks())
        tokens = encode_scene(query, cache.encoder)
        total = len(tokens.features)
        if index not in self.records.facts:
            self.records.add(facts_of(self.pipeline, index, room, tokens.xyz_m))
        return total

    def ask_controls(self) -> None:
        """The questions without a scene, and about the views of the next room."""
        known, scenes = self.records.records, range(self.tables.selection.scenes)
        wanted = [i for i in scenes if (BLIND, i) not in known]
        for index, room in self._rooms(wanted, None):
            tally = Tally()
            tally.next_room()
            for question in questions_asked(room):
                if not question.phrase:
                    text = answer_blindly(self.pipeline.model, question.text, MAX_NEW_TOKENS)
                    right = count_text(question, text, tally)
                    tally.outcomes.append(Outcome(question, right))
            self._record(BLIND, index, tally)
        wanted = [i for i in scenes if (SHUFFLED, i) not in known]
        next_rooms = rooms_of(
            self.tables.selection, self.pipeline.view_side, [i + 1 for i in wanted]
        )
        for (index, room), shown in zip(self._rooms(wanted, None), next_rooms, strict=False):
            tally = Tally()
            self._show(shown)
            ask_room(self.pipeline, questions_asked(room), room.boxes, tally)
            self._record(SHUFFLED, index, tally)

    # -- what was asked by other code

    def drop_what_other_code_answers_otherwise(self) -> None:
        """Ask what other commits recorded of the first room once more: a row that comes to
        something else loses all that they recorded of it.
        """
        if self.is_over:  # nothing is asked, nothing dropped
            return
        known = dict(self.records.records)
        others = {key for (key, _), record in known.items() if record.commit != self.commit}
        others -= {BLIND, SHUFFLED}
        rows = [row for row in self.tables.rows if row.key in others and (row.key, 0) in known]
        dropped = {row.key for row in self.tables.rows} & (others - {row.key for row in rows})
        if rows:
            dropped |= self._answered_otherwise(rows)
        if dropped:
            print(f"other code answered otherwise, asked anew: {', '.join(sorted(dropped))}")
            self.records.drop(
                place
                for place, record in known.items()
                if place[0] in dropped and record.commit != self.commit
            )

    def _answered_otherwise(self, rows: Sequence[Row]) -> set[str]:
        room = next(rooms_of(self.tables.selection, self.pipeline.view_side, [0]))
        self._show(room)
        total, found = self._note_facts(0, room), set()
        for row in rows:
            if not self.is_own(row):
                continue
            tally = Tally()
            self.pipeline.set_config(self._config(row, total))
            ask_room(self.pipeline, questions_asked(room), room.boxes, tally)
            again = record_of(row.key, 0, self.commit, tally.outcomes, tally.usages)
            if not again.same_answers(self.records.records[row.key, 0]):
                found.add(row.key)
        return found


def facts_of(pipeline: Ada3DPipeline, index: int, room: Room, xyz_m: Any) -> RoomFacts:
    """What the questions about the room that is shown are about; xyz_m (N, 3): of its tokens."""
    numbers = sorted(room.boxes)
    patches = object_voxels(pipeline, [room.boxes[number] for number in numbers], xyz_m).patches
    own = dict(zip(numbers, (patches > 0).sum(axis=1).tolist(), strict=True))
    cameras = np.array([frame.T_world_cam[:3, 3] for frame in room.frames])
    asked = questions_asked(room)
    objects = [_object_of(question) for question in asked]
    near = {
        number: float(np.linalg.norm(cameras - room.boxes[number].center_m, axis=1).min())
        for number in numbers
    }
    return RoomFacts(
        index,
        len(xyz_m),
        tuple(question.kind for question in asked),
        tuple(question.unique for question in asked),
        tuple(-1 if number is None else own[number] for number in objects),
        tuple(-1.0 if number is None else round(near[number], 3) for number in objects),
    )


def _object_of(question: RoomQuestion) -> int | None:
    """The one object that a question is about; None where there are several, or none."""
    if question.phrase:
        return question.target
    return question.evidence[0] if len(question.evidence) == 1 else None


def shown(results: Mapping[str, Any]) -> str:
    """A line a row: points against the whole scene, +- one standard error."""
    lines = [
        f"{'strategy':<24}{'mode':<10}{'budget':>7}{'rooms':>6}  {'QA':<14}{'Acc@.25':<14}Acc@.5"
    ]
    for row in results["rows"]:
        head = f"{row['strategy']:<24}{row['mode']:<10}{row['budget']:>7g}"
        if "metrics" not in row:
            lines.append(f"{head}  {row.get('refused') or row.get('same_as') or 'not measured'}")
            continue
        cells = [points(row["metrics"][name]) for name in ("qa", "acc25", "acc50")]
        lines.append(f"{head}{row['rooms']:>6}  " + "".join(f"{cell:<14}" for cell in cells))
    return "\n".join(line.rstrip() for line in lines)
