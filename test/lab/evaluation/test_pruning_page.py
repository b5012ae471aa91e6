"""The page of the pruning tables: what its sentences say of made-up results."""

import json
from pathlib import Path
from typing import Any

import pytest

from ada3d_ros.config.pruning import STRATEGIES
from test.support.sources import ROOT, load

PAGE = load(ROOT / "tools" / "write_pruning_tables_page.py")
FOUND = load(ROOT / "tools" / "pruning_findings.py")
PLOT = load(ROOT / "tools" / "plot_pruning_tables.py")
PARTS = load(ROOT / "tools" / "table_parts.py")
SEEDS = load(ROOT / "tools" / "training_seed_parts.py")
GROUPS = ("qa", *PAGE.POOLS, *PAGE.KINDS, *PAGE.BOXES, "acc25", "acc50")


def metric(points: float, low: float, high: float, n: int = 40, rooms: int = 30) -> dict[str, Any]:
    values = {"points": points, "standard_error": 1.0, "interval": [low, high]}
    return {"rooms": rooms, "n": n, "value": 0.5, **values}


def row(strategy: str, mode: str, budget: float, qa: Any, acc25: Any, **others: Any) -> Any:
    metrics = dict.fromkeys((group for group, _ in PAGE.HURT), metric(0.0, -1.0, 1.0))
    metrics |= {"qa": qa, "acc25": acc25, "acc50": acc25}
    found = {"strategy": strategy, "mode": mode, "budget": budget, "metrics": metrics, "rooms": 30}
    costs = {"coherence": 0.9, "tokens": 80.0, "kv_share": 0.2, "question_share": 0.1}
    return found | costs | {"against": {}} | others


EVEN = metric(0.0, -2.0, 2.0)
WON = {"adatoken3d": {"qa": metric(3.0, 0.5, 6.0), "acc25": EVEN}}
LOST = {"adatoken3d": {"qa": EVEN, "acc25": metric(-30.0, -40.0, -20.0)}}


@pytest.fixture
def data() -> dict[str, Any]:
    whole = {name: {"value": 0.9, "n": 40} for name in (*GROUPS, *dict(PAGE.HURT))}
    rows = [
        row("random", "before", 0.4, metric(-9.0, -12.0, -6.0), EVEN, against=LOST),
        row("geo_fps", "before", 0.4, EVEN, EVEN, against=WON),
        row("adatoken3d", "paper", 0.4, metric(-0.5, -0.9, 0.1), metric(-3.0, -3.5, -2.5)),
        row("adatoken3d", "build", 0.4, metric(-0.5, -1.5, 0.5), metric(0.0, 0.0, 0.0)),
        {"strategy": "fastv", "mode": "paper", "budget": 0.4, "refused": "allowed: 0.5 to 1 (x)"},
        {"strategy": "pdrop", "mode": "build", "budget": 0.4, "same_as": "adatoken3d build 0.4"},
        {"strategy": "uniform", "mode": "before", "budget": 0.4},
    ]
    costs = {"coherence": 0.9, "tokens": 200.0, "rooms": 30}
    return {"none": {"metrics": whole, **costs}, "rows": rows, "level": 1, "commits": ["a" * 40]}


def test_who_beats_adatoken3d_stands_first(data: dict[str, Any]) -> None:
    words, *tables = FOUND.winners(data).split("\n\n")
    assert words == "- at 0.4 in QA: geo_fps. In Acc@.25: none."
    qa, boxes = tables[1::2]
    assert "| random | +0.0+-1.0 |" in qa
    assert "| geo_fps | **+3.0+-1.0** |" in qa
    assert "| random | **-30.0+-1.0** |" in boxes


def test_rows_are_compared_over_the_rooms_that_they_share(data: dict[str, Any]) -> None:
    """Thirty rooms each, and fewer in common."""
    few = FOUND.LEAST_ROOMS - 1
    for row in data["rows"][:2]:
        row["against"] = {
            "adatoken3d": {
                group: dict(metric, rooms=few)
                for group, metric in row["against"]["adatoken3d"].items()
            }
        }
    assert FOUND.winners(data) == ""
    for group in data["rows"][0]["against"]["adatoken3d"].values():
        group["rooms"] = 12
    said = FOUND.winners(data)
    assert "| random | **-30.0+-1.0** |" in said
    assert "geo_fps" not in said

    # Against the whole scene, too: rooms that it was not asked about do not count.
    shown = data["rows"][1]["metrics"]
    for name in ("qa", *PAGE.POOLS, "acc25", "acc50"):
        shown[name] = dict(metric(-5.0, -8.0, -2.0), rooms=few)
    table = PAGE.main_table(data, 0.4)
    assert "| geo_fps | any | -5.0 | -5.0 | -5.0 | -5.0 | -5.0 |" in table
    assert "| geo_fps" in table
    assert f"| {few} |" in table
    assert "geo_fps" not in PAGE.kinds_table(data)
    assert FOUND.verdict(shown["qa"], 1.0) == "open: too few rooms"


def test_a_width_of_nothing_is_no_certainty() -> None:
    assert FOUND.interval(metric(0.0, 0.0, 0.0)) == "+0.0 (none differed)"


@pytest.mark.parametrize(
    ("points", "low", "high", "said"),
    [
        (-0.5, -0.9, 0.1, "met"),
        (2.0, 0.5, 4.0, "met"),
        (-3.0, -4.0, -1.5, "not met"),
        (-0.5, -1.5, 0.5, "open: the interval spans it"),
        (0.0, 0.0, 0.0, "open: no question differed"),
    ],
)
def test_a_target_is_met_as_far_as_the_interval_says(
    points: float, low: float, high: float, said: str
) -> None:
    assert FOUND.verdict(metric(points, low, high), 1.0) == said
    assert FOUND.verdict(None, 1.0) == "not measured"


def test_targets_of_each_way_of_serving(data: dict[str, Any]) -> None:
    lines = FOUND.targets(data).splitlines()[2:]
    verdicts = [line.rpartition(" | ")[2].strip(" |") for line in lines]
    assert verdicts == [
        *("met", "not met"),  # paper
        *("not measured", "not measured"),  # question
        *("open: the interval spans it", "open: no question differed"),  # build
        *("not measured", "not measured"),  # the best at .1
        *("not measured", "not measured"),  # adatoken3d_plus
    ]


def test_the_best_at_a_tenth_is_told_by_rooms_that_did_not_choose_it(data: dict[str, Any]) -> None:
    name = {"strategy": "kitoke", "mode": "before", "budget": 0.1, "rows": 7, "chosen_by": 25}
    data["chosen"] = {
        "acc25": name | {"metrics": {"acc25": metric(-1.0, -2.5, 0.5, rooms=24)}},
        "voxel_dpp": name
        | {"metrics": {"qa": metric(1.0, 0.2, 2.0, rooms=24), "acc25": metric(0.5, -1.0, 2.0)}},
    }
    boxes, text = FOUND.targets(data).splitlines()[-4:-2]
    assert boxes == (
        "| the best at .1 loses at most 3 of Acc@.25 | kitoke, of 7 rows by 25 rooms; in the other"
        " 24: -1.0 (-2.5 to +0.5) | met |"
    )
    assert text.endswith("QA +1.0 (+0.2 to +2.0), Acc@.25 +0.5 (-1.0 to +2.0) | met |")
    data["chosen"]["voxel_dpp"]["metrics"]["qa"] = metric(1.0, 0.0, 2.0)
    assert FOUND.targets(data).splitlines()[-3].endswith("| not met |")


@pytest.mark.parametrize(
    ("qa", "boxes", "met"),
    [
        ((1.0, 0.4, 1.6), 0.5, "met"),
        ((1.0, -0.1, 1.6), 0.5, "not met"),
        ((1, 0.4, 2), -0.1, "not met"),
    ],
)
def test_ours_at_a_tenth_was_chosen_elsewhere(
    data: dict[str, Any], qa: tuple[float, float, float], boxes: float, met: str
) -> None:
    beside = {"voxel_dpp": {"qa": metric(*qa), "acc25": metric(boxes, -1.0, 2.0)}}
    lost = metric(-0.3, -1.1, 0.5)
    data["rows"].append(row("adatoken3d_plus", "build", 0.1, EVEN, lost, against=beside))
    loses, better = FOUND.targets(data).splitlines()[-2:]
    assert loses.endswith("| -0.3 (-1.1 to +0.5) | met |")
    assert better.endswith(f"| {met} |")


def test_what_is_hurt_is_named_where_the_loss_is_clear(data: dict[str, Any]) -> None:
    metrics = data["rows"][0]["metrics"]
    metrics["count"] = metric(-25.0, -40.0, -10.0)
    metrics["several objects"] = metric(-20.0, -30.0, -8.0)
    metrics["nearest"] = metric(-50.0, -90.0, -10.0, n=PAGE.LEAST_N - 1)  # too few
    metrics["color"] = metric(-30.0, -70.0, 5.0)  # not clear
    said = PAGE.hurt_first(data, "random", "before", 0.4)
    assert said == "- random at 0.4: count -25 (n 40); about several objects -20 (n 40)."
    assert PAGE.hurt_first(data, "geo_fps", "before", 0.4).endswith("nothing that is clear of 0.")
    assert PAGE.hurt_first(data, "voxel_dpp", "before", 0.4) == ""


def test_rows_without_numbers_say_why(data: dict[str, Any]) -> None:
    assert PAGE.others(data, 0.4) == (
        "Refused: fastv, paper. Computed alike: pdrop, build as adatoken3d build 0.4. Not measured"
        " yet: uniform."
    )
    assert PAGE.refusals(data).startswith("Refused below what the first layers")
    assert "`fastv` reaches 0.5 to 1" in PAGE.refusals(data)
    shown = PAGE.main_table(data, 0.4).splitlines()
    assert len([line for line in shown if line.startswith("|")]) == 2 + 1 + 4
    assert shown[2].startswith("| *the whole scene* |  | 0.900 |")


@pytest.fixture
def two_levels(data: dict[str, Any], tmp_path: Path) -> Path:
    """Results of both levels; level 2 has other strategies, of 8 rooms less."""
    data |= {"scenes": 50, "missing": 3, "shuffled": data["none"], "blind": data["none"]}
    for number in (1, 2):
        rows = [r for r in data["rows"] if number == 1 or r["strategy"] == "adatoken3d"]
        text = json.dumps(data | {"level": number, "rows": rows})
        (tmp_path / f"pruning_tables_level{number}.json").write_text(text, encoding="utf-8")
    return tmp_path


def test_level_2_has_a_section_of_its_own(two_levels: Path) -> None:
    first, second = PAGE.render(two_levels).split("## Level 2")
    assert "## Level 1" in first
    assert "for they were added after the measurement: `" in first
    assert "| geo_fps | any |" in first
    assert "| geo_fps | any |" not in second
    said = " ".join(second.split())
    assert "Not among these rows, for the table of level 1 has them: `" in said
    (two_levels / "pruning_tables_level2.json").unlink()
    assert "Level 2" not in PAGE.render(two_levels)


def test_level_2_has_panels_of_its_own(two_levels: Path) -> None:
    titles = [axes.get_title() for axes in PLOT.figure_of(two_levels).axes]
    assert titles == [f"level {n}: {title}" for n in (1, 2) for _, title in PLOT.PANELS]
    (two_levels / "pruning_tables_level2.json").unlink()
    assert len(PLOT.figure_of(two_levels).axes) == len(PLOT.PANELS)


def test_results_of_before_share_the_rooms_of_the_row_that_has_fewer(
    data: dict[str, Any], tmp_path: Path
) -> None:
    rooms = {"adatoken3d": 12}
    for row in data["rows"]:
        row["rooms"] = rooms.get(row["strategy"], 30)
        for each in (row.get("metrics", {}), *row.get("against", {}).values()):
            for group in each:
                each[group] = {k: v for k, v in each[group].items() if k != "rooms"}
    file = tmp_path / "pruning_tables_level1.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    found = FOUND.loaded(file)
    geo_fps = found["rows"][1]
    assert geo_fps["metrics"]["qa"]["rooms"] == 30
    assert geo_fps["against"]["adatoken3d"]["qa"]["rooms"] == 12


def test_long_lines_of_a_list_go_on_indented() -> None:
    first, second = PAGE.prose("- " + "word " * 30).splitlines()
    assert len(first) <= PAGE.COLUMNS
    assert second.startswith("  word")
    assert PAGE.prose("| " + "cell | " * 60).count("\n") == 0


def test_strategies_that_no_row_has_are_named(data: dict[str, Any]) -> None:
    data["rows"] = [{"strategy": name} for name in STRATEGIES if name != "kitoke"]
    data["rows"].append({"strategy": "voxel_dpp+fastv k=1"})
    assert PAGE.never_asked(data).endswith("added after the measurement: `kitoke`.")
    data["rows"].append({"strategy": "kitoke"})
    assert PAGE.never_asked(data) == ""


def test_three_trainings_stand_beside_each_other(tmp_path: Path, data: dict[str, Any]) -> None:
    assert SEEDS.training_seeds(tmp_path) == ""
    for seed, points in enumerate((-3.0, 1.0, 0.5)):
        random = data["rows"][0]
        random["metrics"]["qa"] = metric(points, points - 1.0, points + 1.0)
        rows = data["rows"] if seed else data["rows"][:4]  # what one seed has not is left out
        text = json.dumps(data | {"rows": rows})
        (tmp_path / f"training_seed{seed}.json").write_text(text)
    page = SEEDS.training_seeds(tmp_path)
    assert "the same 30 test rooms" in page
    assert "| 2 | 0.900 | 0.900 |" in page
    assert (
        "| random | any | 0.4 | -3.0 (-4.0 to -2.0) | +1.0 (+0.0 to +2.0) | +0.5 (-0.5 to +1.5)"
        " | -0.5 (-3.0 to +1.0) |" in page
    )
    assert PAGE.prose(page) in PAGE.render(tmp_path)
