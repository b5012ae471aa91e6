"""The tables of pruning: every strategy, paired, recorded room by room, refused and not changed."""

import dataclasses
import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ada3d_ros.config.pruning import IN_LLM, STRATEGIES
from ada3d_ros.errors import ConfigError, SourceError
from ada3d_ros.lab.evaluation import pruning_tables
from ada3d_ros.lab.evaluation.command import main
from ada3d_ros.lab.evaluation.pipelines import load_room, open_pipeline
from ada3d_ros.lab.evaluation.pruning_rows import (
    BLIND,
    BUDGETS,
    MODES,
    SEEDS,
    SHUFFLED,
    Row,
    modes_of,
    passes,
    strategies,
    table,
)
from ada3d_ros.lab.evaluation.pruning_summary import (
    CHOOSE_AT,
    GROUPS,
    KINDS,
    LEAST_ROOMS,
    TELLING,
    asked_of,
    chosen_rows,
    measured_row,
    paired,
    shared_rooms,
)
from ada3d_ros.lab.evaluation.pruning_tables import (
    RECORDS,
    Tables,
    measure_tables,
    questions_asked,
)
from ada3d_ros.lab.evaluation.room_records import (
    COSTS,
    RoomFacts,
    RoomRecord,
    RoomRecordFile,
    record_of,
)
from ada3d_ros.lab.evaluation.selection import RoomSelection, rooms_of
from ada3d_ros.lab.evaluation.synthetic import ask_room
from ada3d_ros.lab.evaluation.tally import Tally
from ada3d_ros.lab.json_lines import line_of, read_rows, write_lines
from ada3d_ros.lab.results import Tree

ROWS = [
    Row("none"),
    Row("random", "before", 0.3, 0),
    Row("random", "before", 0.3, 1),
    Row("voxel_dpp", "before", 32),
    Row("adatoken3d", "build", 0.4),
    Row("adatoken3d", "question", 0.4),
    Row("adatoken3d", "paper", 0.4),
    Row("adatoken3d", "paper", 0.1),
    Row("pdrop", "build", 0.1),
    Row("adatoken3d", "build", 0.1),
    Row("voxel_dpp+adatoken3d", "question", 0.05),
    Row("voxel_dpp+adatoken3d", "paper", 1),
]
SELECTION = RoomSelection("val", seed=3, scenes=1)


@pytest.fixture(autouse=True)
def clean_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning_tables, "tree", lambda: Tree("a" * 40, changed=False))


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any]]:
    """One room, all rows, and the file."""
    file = tmp_path_factory.mktemp("tables") / "tables.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruning_tables, "tree", lambda: Tree("a" * 40, changed=False))
        yield file, measure_tables(Tables(model, {}, SELECTION, ROWS), file)


@pytest.fixture
def results(made: tuple[Path, Any]) -> dict[str, Any]:
    return dict(made[1])


def records_in(file: Path) -> dict[tuple[str, int], dict[str, Any]]:
    path = file.with_name(file.stem + RECORDS)
    return {(line["row"], line["room"]): line for line in read_rows(path) if "row" in line}


def row_of(results: dict[str, Any], strategy: str, mode: str, budget: float) -> dict[str, Any]:
    wanted = (strategy, mode, budget)
    return next(
        row for row in results["rows"] if (row["strategy"], row["mode"], row["budget"]) == wanted
    )


# -- what is asked


def test_one_pipeline_whose_settings_change_answers_as_one_of_each_rows_own(
    made: tuple[Path, Any], model: Path
) -> None:
    (room,) = rooms_of(SELECTION, open_pipeline(model, "none", None).view_side)
    found = records_in(made[0])
    total = made[1]["none"]["tokens"]
    for row in (ROWS[0], *ROWS[2:7], ROWS[10]):
        settings = row.settings(round(total))
        pipeline = open_pipeline(model, str(settings.pop("pruning.strategy")), None, settings)
        load_room(pipeline, room.frames)
        tally = Tally()
        ask_room(pipeline, questions_asked(room), room.boxes, tally)
        own = record_of(row.key, 0, "", tally.outcomes, tally.usages)
        shared = found[row.key, 0]
        assert own.right == shared["right"], row.key
        assert list(own.ious) == shared["ious"], row.key
        assert [own.costs.get(name) for name in COSTS] == shared["costs"], row.key


def test_every_row_keeps_the_budget_that_it_is_listed_under(results: dict[str, Any]) -> None:
    total = results["none"]["tokens"]
    assert row_of(results, "voxel_dpp", "before", 32)["tokens"] == pytest.approx(32, abs=1e-3)
    for strategy, mode, budget in (
        ("random", "before", 0.3),
        ("adatoken3d", "build", 0.4),
        ("adatoken3d", "question", 0.4),
        ("adatoken3d", "paper", 0.4),
        ("pdrop", "build", 0.1),
        ("voxel_dpp+adatoken3d", "question", 0.05),
    ):
        row = row_of(results, strategy, mode, budget)
        assert row["tokens"] == pytest.approx(budget * total, abs=1.0), (strategy, mode)
        assert row["keep_ratio"] == pytest.approx(budget, abs=1.5 / total)


def test_one_token_of_a_scene_is_kept_where_two_enter(results: dict[str, Any]) -> None:
    """Two in the first layer, one in the others: the least of a schedule."""
    layers = 4
    row = row_of(results, "voxel_dpp+adatoken3d", "paper", 1)
    assert row["tokens"] == pytest.approx((2 + 3 * 1) / layers, abs=1e-3)


def test_a_budget_out_of_reach_is_refused_and_met_behind_a_choice(results: dict[str, Any]) -> None:
    refused = row_of(results, "adatoken3d", "paper", 0.1)
    assert "allowed: 0.25 to 1" in refused["refused"]
    assert "metrics" not in refused
    for mode, budget in (("question", 0.05), ("paper", 1)):
        assert "metrics" in row_of(results, "voxel_dpp+adatoken3d", mode, budget)


def test_what_is_computed_alike_is_asked_once(made: tuple[Path, Any], model: Path) -> None:
    """On four layers a scene pruned while it is built gets even shares, whatever the curve."""
    file, results = made
    assert row_of(results, "adatoken3d", "build", 0.1) == {
        "strategy": "adatoken3d",
        "mode": "build",
        "budget": 0.1,
        "same_as": "pdrop build 0.1",  # which stands first
    }
    assert ("adatoken3d build 0.1", 0) not in records_in(file)
    alone = measure_tables(Tables(model, {}, SELECTION, [Row("none"), ROWS[9]]))
    mine, other = alone["rows"][0], row_of(results, "pdrop", "build", 0.1)
    assert mine["metrics"] == other["metrics"]


def test_costs_stand_beside(results: dict[str, Any]) -> None:
    whole, paper = results["none"], row_of(results, "adatoken3d", "paper", 0.4)
    assert (whole["kv_share"], whole["build_share"], whole["question_share"]) == (1.0, 1.0, 1.0)
    assert "build_share" not in paper
    assert 0.4 < paper["kv_share"] < 0.5
    assert 0.3 < paper["question_share"] < 0.6
    chosen = row_of(results, "voxel_dpp", "before", 32)
    assert chosen["build_share"] < 0.15
    selected = row_of(results, "adatoken3d", "question", 0.4)
    assert selected["build_share"] == 1.0
    assert selected["kv_share"] > 1.0  # a copy beside the whole scene


def test_seeds_of_what_draws_are_one_row(results: dict[str, Any]) -> None:
    row = row_of(results, "random", "before", 0.3)
    assert row["seeds"] == 2
    assert sum(each["strategy"] == "random" for each in results["rows"]) == 1


def test_controls_are_asked_too(made: tuple[Path, Any]) -> None:
    file, results = made
    assert set(results[BLIND]["metrics"]) <= set(GROUPS) - {"acc25"}
    assert results[SHUFFLED]["metrics"]["qa"]["n"] == results["none"]["metrics"]["qa"]["n"]
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["complete"]
    assert written["missing"] == 0
    assert written["commits"] == ["a" * 12]


# -- going on


def test_a_run_that_was_killed_goes_on_behind_its_last_room(
    made: tuple[Path, Any], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, asked = tmp_path / "again.json", 0
    real = pruning_tables.ask_room

    def counted(*arguments: Any) -> None:
        nonlocal asked
        asked += 1
        if asked == 4:
            raise KeyboardInterrupt
        real(*arguments)

    tables = Tables(model, {}, SELECTION, ROWS)
    monkeypatch.setattr(pruning_tables, "ask_room", counted)
    with pytest.raises(KeyboardInterrupt):
        measure_tables(tables, file)
    assert len(records_in(file)) == 3
    assert not json.loads(file.read_text(encoding="utf-8"))["complete"]
    with file.with_name("again.rooms.jsonl.gz").open("ab") as cut:
        cut.write(gzip.compress(b'{"row":"none","room":7,')[:-12])  # cut off
    asked = 10
    results = measure_tables(tables, file)
    own = len(records_in(made[0])) - 1  # all but the blind row
    assert asked == 10 + own - 3
    assert results["rows"] == made[1]["rows"]


def test_time_that_is_over_leaves_places_empty(model: Path, tmp_path: Path) -> None:
    results = measure_tables(Tables(model, {}, SELECTION, ROWS, minutes=0.0), tmp_path / "t.json")
    assert results["rows"] == []
    assert results["missing"] == 12  # rows that are neither refused nor alike, and the controls


def test_records_of_other_code_count_where_it_answers_the_same(
    made: tuple[Path, Any], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of them was changed: that row is asked anew, the others stay."""
    file = tmp_path / "tables.json"
    changed = []
    for data in read_rows(made[0].with_name(f"tables{RECORDS}")):
        if "commit" in data:
            data["commit"] = "b" * 40
        if data.get("row") == "adatoken3d paper 0.4":
            data["right"] = data["right"].translate(str.maketrans("01", "10"))
        changed.append(line_of(data))
    write_lines(file.with_name(f"tables{RECORDS}"), changed)
    results = measure_tables(Tables(model, {}, SELECTION, ROWS), file)
    assert "adatoken3d paper 0.4" in capsys.readouterr().out
    commits = {key: record["commit"][0] for key, record in records_in(file).items()}
    assert {key[0] for key, commit in commits.items() if commit == "a"} == {"adatoken3d paper 0.4"}
    assert results["rows"] == made[1]["rows"]


def test_records_of_a_tree_with_changes_do_not_count(tmp_path: Path) -> None:
    path, head = tmp_path / "x.rooms.jsonl.gz", {"seed": 1}
    file = RoomRecordFile(path, head)
    file.add(RoomRecord("none", 0, "a" * 40, "1"))
    file.add(RoomRecord("none", 1, "a" * 40 + "+changes", "1"))
    assert set(RoomRecordFile(path, head).records) == {("none", 0)}
    with pytest.raises(ConfigError, match="other rooms"):
        RoomRecordFile(path, {"seed": 2})
    write_lines(path, [line_of(head), "{}\n"])
    with pytest.raises(ConfigError, match="no file of records"):
        RoomRecordFile(path, head)
    write_lines(path, [line_of(head), "[1\n", "{}\n"])
    with pytest.raises(SourceError, match="line 2 is damaged"):
        RoomRecordFile(path, head)


# -- differences


def facts(room: int) -> RoomFacts:
    kinds = ("color", "count", "grounding", "absent")
    return RoomFacts(
        room, 100, kinds, (False, False, True, False), (3, -1, 12, -1), (1.0, -1.0, 3.0, -1.0)
    )


def test_differences_by_hand() -> None:
    """Two rooms: colour lost in the first, the box worse in both, below .5 in the second alone."""
    file = RoomRecordFile(None, {})
    costs = dict.fromkeys(("keep_ratio_achieved", "spatial_total"), 1.0)
    for room in (0, 1):
        file.add(facts(room))
        file.add(RoomRecord("none", room, "a", "1111", "1---", (0.9,), costs))
    file.add(RoomRecord("p", 0, "a", "0111", "----", (0.6,), costs))
    file.add(RoomRecord("p", 1, "a", "1110", "0---", (0.3,), costs))
    whole, row = measured_row(file, ["none"]), measured_row(file, ["p"])
    assert whole is not None
    assert row is not None
    found = {name: paired(row, whole, name).get("points") for name in GROUPS}
    assert found["color"] == found["named 1-3"] == found["named <1.8m"] == -50.0
    assert found["named 4-10"] is None
    assert found["qa"] == -25.0
    assert (found["one object"], found["several objects"]) == (-50.0, 0.0)
    assert found["count"] == found["acc25"] == found["acc25 11+"] == 0.0
    assert found["acc50"] == found["unique_acc50"] == found["acc50 >2.3m"] == -50.0
    assert found["absent"] == -50.0
    assert found["distractor_acc25"] is None
    qa = paired(row, whole, "qa")
    assert (qa["n"], qa["value"]) == (4, 0.75)
    assert qa["standard_error"] == pytest.approx(25.0)  # -50 and 0 points in two rooms
    assert qa["interval"] == pytest.approx((-50.0, 0.0))
    assert row.coherent[0].tolist() == [0.0, 0.0]
    assert row.coherent[1].tolist() == [0.0, 1.0]


def filled(**rights: dict[int, str]) -> RoomRecordFile:
    """Records of rows: by room, what was right of colour, count, a phrase and an absent thing."""
    file = RoomRecordFile(None, {})
    costs = dict.fromkeys(COSTS, 1.0)
    for row, rooms in rights.items():
        for room, right in rooms.items():
            if room not in file.facts:
                file.add(facts(room))
            iou = 0.9 if right[2] == "1" else 0.1
            file.add(RoomRecord(row, room, "a", right, "----", (iou,), costs))
    return file


def test_rows_are_paired_over_the_rooms_that_both_have() -> None:
    """Room 0 alone is shared; what the row lost in room 1 its rival was not asked."""
    file = filled(p={0: "1111", 1: "0011"}, q={0: "0111", 2: "1111"})
    p, q = measured_row(file, ["p"]), measured_row(file, ["q"])
    assert p is not None
    assert q is not None
    found = paired(p, q, "qa")
    assert (found["rooms"], found["n"], found["value"], found["points"]) == (1, 2, 1.0, 50.0)
    assert shared_rooms(p, q, TELLING) == []
    assert paired(p, q, "qa", TELLING) == {"rooms": 0, "n": 0}


def test_even_rooms_choose_a_row_and_odd_ones_tell() -> None:
    """`lucky` is best in even rooms and poor in odd ones; `steady` is the reverse; `few` was asked
    about too few rooms to be chosen from.
    """
    rooms = range(2 * LEAST_ROOMS)
    lost, kept = "1101", "1111"  # the box
    rights = {
        "none": dict.fromkeys(rooms, kept),
        "voxel_dpp": {i: "0101" if i < 4 else "0111" for i in rooms},
        "lucky": {i: kept if i % 2 == 0 else lost for i in rooms},
        "steady": {i: kept if i != 0 else lost for i in rooms},
        "few": dict.fromkeys(range(2 * LEAST_ROOMS - 2), kept),
    }
    file = filled(**rights)
    rows = {(name, "before", CHOOSE_AT): measured_row(file, [name]) for name in rights}
    whole = rows.pop(("none", "before", CHOOSE_AT))
    assert whole is not None
    found = chosen_rows(rows, whole)
    boxes = found["acc25"]
    assert (boxes["strategy"], boxes["rows"], boxes["chosen_by"]) == ("lucky", 3, LEAST_ROOMS)
    assert boxes["metrics"]["acc25"]["points"] == -100.0
    assert boxes["metrics"]["acc25"]["rooms"] == LEAST_ROOMS

    # Against voxel_dpp both gain the colour, and find no fewer boxes in even rooms.
    text = found["voxel_dpp"]
    assert (text["strategy"], text["rows"]) == ("steady", 2)  # the later name of equals
    assert text["metrics"]["qa"]["points"] == 50.0
    assert text["metrics"]["acc25"]["points"] == 20.0  # of rooms 1 and 3
    assert chosen_rows({}, whole) == {}


def test_seeds_are_averaged_in_the_rooms_that_they_share() -> None:
    file = RoomRecordFile(None, {})
    for room in (0, 1):
        file.add(facts(room))
    file.add(RoomRecord("r 0", 0, "a", "1111", "", (0.9,)))
    file.add(RoomRecord("r 1", 0, "a", "0111", "", (0.9,)))
    file.add(RoomRecord("r 0", 1, "a", "0111", "", (0.9,)))
    row = measured_row(file, ["r 0", "r 1"])
    assert row is not None
    assert row.right["color"].tolist() == [0.5, 0.0]
    assert row.asked["color"].tolist() == [1.0, 1.0]


def test_a_blind_record_has_no_phrases() -> None:
    asked = asked_of(facts(0), RoomRecord(BLIND, 0, "a", "10"))
    assert [each.kind for each in asked] == ["color", "count"]
    assert all(math.isnan(each.iou) for each in asked)


# -- the rows


def test_every_registered_strategy_has_its_rows() -> None:
    rows = table()
    assert len({row.key for row in rows}) == len(rows)
    for strategy in set(STRATEGIES) - {"none"}:
        assert {row.budget for row in rows if row.strategy == strategy} == set(BUDGETS), strategy
    inside = {*IN_LLM, "fastv k=1"} - {"fastv"}  # whose published k cannot halve on four layers
    joined = {row.strategy for row in rows if "+" in row.strategy}
    assert joined == {f"voxel_dpp+{name}" for name in inside}
    assert {row.seed for row in rows if row.strategy == "random"} == set(SEEDS)
    assert sorted(row.key for part in passes(rows) for row in part) == sorted(r.key for r in rows)


def test_ways_of_serving_follow_from_what_a_strategy_does() -> None:
    assert modes_of("voxel_dpp") == ("before",)  # the same for all ways
    assert modes_of("cond_dpp") == ("paper",)  # asks the question: nothing is cached
    assert modes_of("adatoken3d") == modes_of("voxel_dpp+adatoken3d") == MODES[1:]
    assert modes_of("logistic") == ("question", "paper")


def test_settings_of_a_row() -> None:
    joined = Row("voxel_dpp+fastv k=1", "question", 0.05).settings(1000)
    assert joined == {
        "pruning.strategy": "voxel_dpp+fastv",
        "pruning.keep_ratio": 0.05,
        "pruning.seed": 0,
        "pruning.pre_keep_ratio": 0.1,
        "cache.prune": "question",
        "pruning.fastv.k": 1,
    }
    tokens = Row("random", "before", 3, 2).settings(600)
    assert tokens["pruning.keep_ratio"] == 0.005
    assert tokens["pruning.n_min"] == 3
    assert Row("random", "before", 900, 2).settings(600)["pruning.keep_ratio"] == 1.0
    assert (SELECTION.scenes, len(strategies())) == (1, len(set(strategies())))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "adatokens"], "not among"),
        (["--modes", "later"], "--modes"),
        (["--budgets", "1.5"], "whole number"),
        (["--budgets", "0"], "--budgets 0"),
        (["--budgets", "much"], "--budgets"),
        (["--scenes", "0"], "at least 1"),
    ],
)
def test_what_is_no_table_is_one_sentence(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pruning-tables", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ada3d eval: ")
    assert words in error


def test_rooms_can_be_taken_one_by_one() -> None:
    selection = dataclasses.replace(SELECTION, scenes=3)
    every = list(rooms_of(selection, None))
    (last,) = rooms_of(selection, None, [2])
    assert list(rooms_of(selection, 128, [])) == []
    assert last.questions == every[2].questions
    assert np.array_equal(last.boxes[0].center_m, every[2].boxes[0].center_m)
    assert {question.kind for question in questions_asked(last)} <= set(KINDS)


def test_a_line_is_short_and_says_the_same(tmp_path: Path) -> None:
    path, head = tmp_path / "x.rooms.jsonl.gz", {"seed": 1}
    file = RoomRecordFile(path, head)
    costs = {"keep_ratio_achieved": 0.25, "spatial_total": 843.0, "held_kv_bytes": 2381180.0}
    file.add(RoomRecord("none", 0, "c" * 40, "01", ious=(0.5, 0.25), costs=costs))
    line = gzip.decompress(path.read_bytes()).decode().splitlines()[1]
    assert '"costs":[0.25,843,2381180,null' in line
    kept = RoomRecordFile(path, head).records["none", 0]
    assert kept == RoomRecord("none", 0, "c" * 12, "01", ious=(0.5, 0.25), costs=costs)
